import type { Child } from './child.ts';

/**
 * Calls `silent` once when a process has said nothing for longer than `bound_ms`: its event loop stands still, which a
 * call to a token does to it that is made synchronously and never returns, or all its threads hang in such calls.
 *
 * Time is counted in ticks of this process, of which a pause makes one at most, however long it was. So a machine
 * that was suspended, and a supervisor that was stopped, find nobody guilty: whoever was silent has the whole time
 * again. A process that has not said its first word is still being loaded, and has `start_ms` at least for that.
 */
export function watch(
  child: Pick<Child, 'heard' | 'exited'>,
  bound_ms: number,
  silent: () => void,
  start_ms = 30_000,
): void {
  const tick_ms = bound_ms / ticks_max;
  const firstTicks_max = Math.max(ticks_max, start_ms / tick_ms);
  let heard = child.heard;
  let ticks = 0;
  const timer = setInterval(() => {
    ticks = child.heard === heard ? ticks + 1 : 0;
    heard = child.heard;
    if (ticks <= (heard === 0 ? firstTicks_max : ticks_max)) return;
    clearInterval(timer);
    silent();
  }, tick_ms).unref();
  child.exited.then(() => clearInterval(timer));
}

const ticks_max = 8;

import type { Figure, Scenario } from './figure.ts';

/** What scenarios found, and which of them came to no end, with the reason. */
export interface Found {
  readonly figures: Figure[];
  readonly broken: Record<string, string>;
  readonly notes: string[];
}

/** One after the other. After a signal none is begun any more, and the one that runs is given up. */
export async function runAll(
  scenarios: readonly Scenario[],
  short: boolean,
  limit_s: number,
): Promise<Found> {
  const found: Found = { figures: [], broken: {}, notes: [] };
  for (const scenario of scenarios) {
    if (interrupted.signal.aborted) found.broken[scenario.name] = interruption();
    else await runOne(scenario, short, limit_s, found);
  }
  progress('');
  return found;
}

/** Whatever the scenario started has ended when this returns. */
async function runOne(
  { name, run }: Scenario,
  short: boolean,
  limit_s: number,
  { figures, broken, notes }: Found,
): Promise<void> {
  const say = (text: string) => progress(`${name}: ${text}`);
  const stack = new AsyncDisposableStack();
  const stopped = Promise.withResolvers<never>();
  stopped.promise.catch(() => undefined); // told to whoever waits; nobody may
  const stop = () => stopped.reject(new Error(interruption()));
  const late = setTimeout(
    () => stopped.reject(new Error(`It took more than ${limit_s} s.`)),
    limit_s * 1_000,
  );
  interrupted.signal.addEventListener('abort', stop);
  strayed = stopped.reject;
  try {
    say('starting');
    const running = run({ short, stack, progress: say, note: text => notes.push(`${name}: ${text}`) });
    running.catch(() => undefined); // one that was interrupted fails when its appliance is taken away
    figures.push(...(await Promise.race([running, stopped.promise])));
  } catch (thrown) {
    broken[name] = thrown instanceof Error ? thrown.message : String(thrown);
    if (!interrupted.signal.aborted) console.error(thrown);
  } finally {
    clearTimeout(late);
    interrupted.signal.removeEventListener('abort', stop);
    say('stopping');
    await stack.disposeAsync();
  }
}

/** What is going on now, for somebody who watches; nothing in a pipe. */
function progress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

/** A failure that nobody waits for ends its scenario, and not this process: it has an appliance to stop. */
let strayed: (thrown: unknown) => void = () => undefined;
process.on('unhandledRejection', thrown => strayed(thrown));

const interrupted = new AbortController();
const interruption = () => `Interrupted by ${String(interrupted.signal.reason)}.`;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => interrupted.abort(signal));
}

import type { QueueState } from '../custody/engine.ts';
import type { Clock } from '../foundation/clock.ts';

/**
 * Whether more is asked of a slot than it can do, so that waiting makes nobody faster. Many at once are no such
 * crowd: they are let in as long as all of them together take a second. One that lasts is: from then on nobody is let
 * in who would wait for more than 75 ms, or half of what the slot's work takes, until it has been quiet for a while.
 */
export class Crowd {
  readonly #clock: Clock;
  #since_ms: number | undefined;
  #strictUntil_ms = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** How long one more request would wait, in milliseconds, where that is too long. `requests`: those let in. */
  tooLong(requests: number, { places, work_ms }: QueueState): number | undefined {
    const wait_ms = (Math.max(0, requests - places) * work_ms) / places;
    if (wait_ms <= Math.max(bearable_ms, work_ms / 2)) {
      this.#since_ms = undefined;
      return undefined;
    }
    const now_ms = this.#clock.monotonic_ms();
    this.#since_ms ??= now_ms;
    const lasting = now_ms - this.#since_ms >= lasting_ms || now_ms < this.#strictUntil_ms;
    if (!lasting && wait_ms <= burst_ms) return undefined;
    this.#strictUntil_ms = now_ms + quiet_ms;
    return wait_ms;
  }
}

const bearable_ms = 75;
const burst_ms = 1_000;
const lasting_ms = 500;
const quiet_ms = 5_000;

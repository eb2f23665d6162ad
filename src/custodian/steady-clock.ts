import type { Clock } from '../foundation/clock.ts';
import type { Log } from '../foundation/log.ts';

/**
 * The wall clock as limits and time windows may believe it. It is read once and then carried on by the
 * monotonic clock; small corrections (as NTP makes them) are followed, a step is not: whoever sets the machine's
 * clock a day forward neither empties a limit nor opens a time window. A step is said in the log, once, and the
 * appliance goes on by its own time until it is started again.
 */
export class SteadyClock implements Clock {
  readonly #clock: Clock;
  readonly #log: Log;
  #utc_ms: number;
  #monotonic_ms: number;
  #stepped = false;

  constructor(clock: Clock, log: Log) {
    this.#clock = clock;
    this.#log = log;
    this.#utc_ms = clock.utc().getTime();
    this.#monotonic_ms = clock.monotonic_ms();
  }

  monotonic_ms(): number {
    return this.#clock.monotonic_ms();
  }

  utc(): Date {
    const monotonic_ms = this.#clock.monotonic_ms();
    const expected_ms = this.#utc_ms + (monotonic_ms - this.#monotonic_ms);
    const off_ms = this.#clock.utc().getTime() - expected_ms;
    const step = Math.abs(off_ms) > step_ms;
    if (step && !this.#stepped) this.#say(off_ms);
    this.#stepped = step;
    if (step) return new Date(expected_ms);
    // Time never goes backwards: a clock that is ahead is waited for.
    this.#utc_ms = Math.max(expected_ms, this.#utc_ms, expected_ms + off_ms);
    this.#monotonic_ms = monotonic_ms;
    return new Date(this.#utc_ms);
  }

  /** Whether the machine's clock stands somewhere else than this one. */
  get stepped(): boolean {
    return this.#stepped;
  }

  #say(off_ms: number): void {
    this.#log.error(
      { off_s: Math.round(off_ms / 1000) },
      'the clock of the machine was set; it is not followed',
    );
  }
}

const step_ms = 30_000;

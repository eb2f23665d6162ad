import type { Clock } from '../foundation/clock.ts';
import type { ErrorCode } from '../foundation/errors.ts';

/**
 * Whether a slot of a group is asked at all: `closed` as often as its weight says, `open` not before a pause is over,
 * then `half-open`, once, to see. A pause that ends in another failure is followed by one twice as long.
 */
export class Circuit {
  readonly #clock: Clock;
  #since: Date;
  #failures = 0;
  #opened: { readonly until_ms: number; readonly pause_ms: number; readonly barred: boolean } | undefined;
  #trial = false;
  #lastError: ErrorCode | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#since = clock.utc();
  }

  get state(): 'closed' | 'open' | 'half-open' {
    if (!this.#opened) return 'closed';
    return this.#clock.monotonic_ms() < this.#opened.until_ms ? 'open' : 'half-open';
  }

  /** When it was opened or closed for the last time. */
  get since(): Date {
    return this.#since;
  }

  get lastError(): ErrorCode | undefined {
    return this.#lastError;
  }

  /** Whether somebody may be sent there now, others being there as well. */
  get admits(): boolean {
    const { state } = this;
    return state === 'closed' || (state === 'half-open' && !this.#trial);
  }

  /** Whether nobody may be sent there even if there is no other: what it made did not verify. */
  get barred(): boolean {
    return this.#opened?.barred === true && !this.admits;
  }

  /** Somebody is sent there; true for the one who finds out, which is told to `succeeded`, `failed` or `left`. */
  begin(): boolean {
    if (this.state !== 'half-open' || this.#trial) return false;
    this.#trial = true;
    return true;
  }

  succeeded(trial: boolean): void {
    this.left(trial);
    if (trial) this.#close();
    else if (!this.#opened) this.#failures = 0;
  }

  failed(code: ErrorCode, trial: boolean): void {
    this.left(trial);
    this.#lastError = code;
    this.#failures += 1;
    if (trial) this.#open({ pause_ms: (this.#opened?.pause_ms ?? 0) * 2, barred: this.#opened?.barred });
    else if (!this.#opened && this.#failures >= failures_max) this.#open({});
  }

  /** It ended without saying anything about the slot. */
  left(trial: boolean): void {
    if (trial) this.#trial = false;
  }

  /** Opened at once: until there is `hope`, or, for a signature that did not verify, for a pause. */
  trip(code: ErrorCode, why: 'gone' | 'unverified'): void {
    this.#lastError = code;
    const { pause_ms = 0, barred = false } = this.#opened ?? {};
    const again = why === 'unverified' && barred;
    this.#open({ pause_ms: again ? pause_ms * 2 : pause_ms, barred: barred || why === 'unverified' });
    if (why === 'gone' && this.#opened)
      this.#opened = { ...this.#opened, until_ms: Number.POSITIVE_INFINITY };
  }

  /** The slot is back: the next one may find out. A signature that did not verify is not forgiven so soon. */
  hope(): void {
    if (!this.#opened) return;
    const now_ms = this.#clock.monotonic_ms();
    const { barred, pause_ms, until_ms } = this.#opened;
    this.#opened = { barred, pause_ms, until_ms: barred ? Math.min(until_ms, now_ms + pause_ms) : now_ms };
  }

  #open({ pause_ms = 0, barred = false }: Opening): void {
    const bounded_ms = Math.min(Math.max(pause_ms, pause_ms_min), pause_ms_max);
    if (!this.#opened) this.#since = this.#clock.utc();
    this.#opened = { until_ms: this.#clock.monotonic_ms() + bounded_ms, pause_ms: bounded_ms, barred };
  }

  #close(): void {
    this.#opened = undefined;
    this.#failures = 0;
    this.#since = this.#clock.utc();
  }
}

interface Opening {
  readonly pause_ms?: number | undefined;
  readonly barred?: boolean | undefined;
}

/** In a row, until a slot is left alone for a while. */
const failures_max = 3;
const pause_ms_min = 1_000;
const pause_ms_max = 30_000;

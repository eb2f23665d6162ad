import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Clock } from '../foundation/clock.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Secret } from '../foundation/secret.ts';

/**
 * Compares PINs that callers present with the one that opened a slot, in memory: the token never hears of
 * them and cannot lose an attempt. After a wrong PIN an identity waits a second, after five in a row five
 * minutes; other identities are not slowed.
 */
export class PinGuard {
  readonly #clock: Clock;
  readonly #failures = new Map<string, { count: number; until_ms: number }>();
  // Of this boot only: what is compared could not be used anywhere else.
  readonly #key = randomBytes(32);

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  digest(pin: Secret): Buffer {
    return pin.use(bytes => createHmac('sha256', this.#key).update(bytes).digest());
  }

  /** PIN_RATE_LIMITED, IDENTITY_LOCKED_OUT. Asked before a PIN is looked at, or shown to a token. */
  admit(identity: string): void {
    const failure = this.#failures.get(identity);
    const wait_ms = (failure?.until_ms ?? 0) - this.#clock.monotonic_ms();
    if (!failure || wait_ms <= 0) return;
    const retryAfter_s = Math.ceil(wait_ms / 1000);
    if (failure.count < failures_max) {
      throw new KeyslotError('PIN_RATE_LIMITED', `${identity} presented a wrong PIN a moment ago.`, {
        retryAfter_s,
      });
    }
    throw new KeyslotError(
      'IDENTITY_LOCKED_OUT',
      `${identity} presented ${failure.count} wrong PINs in a row.`,
      {
        retryAfter_s,
      },
    );
  }

  /** PIN_INCORRECT, after `admit`. Takes the same time for a right and a wrong PIN. */
  compare(identity: string, pin: Secret, expected: Buffer): void {
    this.admit(identity);
    if (timingSafeEqual(this.digest(pin), expected)) {
      this.succeeded(identity);
      return;
    }
    this.failed(identity);
    throw new KeyslotError('PIN_INCORRECT', 'The PIN is not the one that opened the slot.');
  }

  /** A right PIN ends the row of wrong ones. */
  succeeded(identity: string): void {
    this.#failures.delete(identity);
  }

  failed(identity: string): void {
    const count = (this.#failures.get(identity)?.count ?? 0) + 1;
    const wait_ms = count >= failures_max ? lockOut_ms : wait_afterFailure_ms;
    this.#failures.set(identity, { count, until_ms: this.#clock.monotonic_ms() + wait_ms });
  }
}

const failures_max = 5;
const lockOut_ms = 5 * 60_000;
const wait_afterFailure_ms = 1_000;

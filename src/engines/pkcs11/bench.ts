import { setTimeout as sleep } from 'node:timers/promises';
import type { Handle } from 'pkcs11js';
import { CKF_RW_SESSION, CKF_SERIAL_SESSION } from './constants.ts';
import { CkrError, type Cryptoki } from './cryptoki.ts';
import type { Device } from './device.ts';
import type { Work } from './measure.ts';
import type { TokenView } from './module.ts';
import { abortedError } from './pool.ts';
import { ThrowAwayKeys } from './throw-away.ts';

/** What a trial works with: a token, the session that is logged in and owns the throw-away keys, and what it found. */
export class Bench {
  readonly cryptoki: Cryptoki;
  readonly token: TokenView;
  readonly device: Device;
  readonly profile: string;
  readonly session: Handle;
  readonly keys: ThrowAwayKeys;
  readonly reasons: string[] = [];
  readonly #offered: ReadonlySet<number>;
  readonly #watched: Watched;

  /** Opens the session; whoever logs in with it closes it. */
  constructor(
    place: { readonly cryptoki: Cryptoki; readonly token: TokenView; readonly device: Device },
    profile: string,
    watched: Watched,
  ) {
    this.cryptoki = place.cryptoki;
    this.token = place.token;
    this.device = place.device;
    this.profile = profile;
    this.#watched = watched;
    this.#offered = new Set(place.token.mechanisms().map(({ type }) => type));
    this.step('C_OpenSession');
    this.session = this.open(CKF_RW_SESSION);
    this.keys = new ThrowAwayKeys(this.cryptoki, this.device, this.session);
  }

  offers(mechanism: number): boolean {
    return this.#offered.has(mechanism);
  }

  open(flags: number): Handle {
    return this.cryptoki.openSession(this.token.slotHandle, CKF_SERIAL_SESSION | flags);
  }

  close(session: Handle): void {
    try {
      this.cryptoki.closeSession(session);
    } catch (thrown) {
      if (!(thrown instanceof CkrError)) throw thrown; // the token has ended it already
    }
  }

  /** Whether it works on a session of its own; a key that is new may take a moment to be everywhere. */
  async works(what: string, operation: Operation): Promise<boolean> {
    const until = performance.now() + available_ms;
    for (;;) {
      this.goOn();
      const own = this.open(CKF_RW_SESSION);
      try {
        await operation.check(await operation.once(own));
        return true;
      } catch (thrown) {
        const passing = thrown instanceof CkrError && this.device.ckrClass(thrown.ckr) === 'transient';
        if (!passing || performance.now() > until) {
          this.reasons.push(`${what}: ${textOf(thrown)}.`);
          return false;
        }
      } finally {
        this.close(own);
      }
      await sleep(retry_ms);
    }
  }

  /** Says what comes next. REQUEST_ABORTED when the examination was called off. */
  step(text: string): void {
    this.goOn();
    this.#watched.told(text);
  }

  goOn(): void {
    if (this.#watched.signal.aborted) throw abortedError();
  }
}

export type Operation = Pick<Work, 'once' | 'check'>;

interface Watched {
  readonly signal: AbortSignal;
  told(step: string): void;
}

/** The token answered without an error, and wrongly. */
export class UnverifiedError extends Error {
  constructor() {
    super('the token answered something wrong');
    this.name = 'UnverifiedError';
  }
}

/** Anything else is a defect, or the end of the examination, and goes on its way. */
export function textOf(thrown: unknown): string {
  if (thrown instanceof CkrError || thrown instanceof UnverifiedError) return thrown.message;
  throw thrown;
}

const available_ms = 3_000;
const retry_ms = 100;

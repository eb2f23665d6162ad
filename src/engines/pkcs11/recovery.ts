import type { Recovers, SessionFigures, SessionHealth } from '../../custody/engine.ts';
import type { SlotId } from '../../custody/ids.ts';
import { type ErrorCode, KeyslotError, toKeyslotError } from '../../foundation/errors.ts';
import { jittered } from '../../foundation/jitter.ts';
import type { Log } from '../../foundation/log.ts';
import type { CkrClass } from './ckr.ts';
import { abortedError, type SessionPool, untilAborted } from './pool.ts';

/** How patient a slot is with its token. */
export interface Patience {
  /** A call that takes longer has hung. */
  readonly call_ms: number;
  /** How long requests wait for a token that has gone; then they are turned away until it is back. */
  readonly outage_ms: number;
  /** Between two attempts to reach the token; doubled from one to the next, and each time another part of it. */
  readonly pause_ms_min: number;
  readonly pause_ms_max: number;
  /** How long calls that run may take to come back before the module is initialised anew. */
  readonly settle_ms: number;
  /** Between two initialisations of a module that other slots work with. */
  readonly disturb_ms: number;
}

export const ordinaryPatience: Patience = {
  call_ms: 15_000,
  outage_ms: 3_000,
  pause_ms_min: 50,
  pause_ms_max: 10_000,
  settle_ms: 2_000,
  disturb_ms: 30_000,
};

/**
 * The outage of one slot: from the first sign of a lost device to the proof that it is back.
 *
 * There is one at a time, whoever noticed it. As long as it lasts the pool lends nothing; attempts to mend it
 * follow each other with growing pauses and go on in the background until one succeeds, the token refuses the
 * PIN, or the session ends.
 */
export class Recovery implements Recovers {
  readonly #slot: SlotId;
  readonly #pool: SessionPool;
  readonly #patience: Patience;
  readonly #log: Log;
  readonly #mend: (attempt: number) => Promise<void>;
  readonly #beyondHelp: () => boolean;
  readonly #listeners = new Set<(health: SessionHealth) => void>();
  #health: SessionHealth = serving;
  #next = Promise.withResolvers<void>();
  #attempted = Promise.withResolvers<void>();
  #running = false;
  #ended = false;
  #wake: (() => void) | undefined;
  readonly #errors = new Map<string, number>();
  readonly #outages = new Map<string, number>();
  #recovered = 0;
  #unrecovered = 0;

  constructor(options: {
    slot: SlotId;
    pool: SessionPool;
    patience: Patience;
    log: Log;
    /** One attempt; fails with an error of the table as long as the device is not back. */
    mend(attempt: number): Promise<void>;
    /** Whether calls hang, so that nothing in this process can help. */
    beyondHelp(): boolean;
  }) {
    this.#slot = options.slot;
    this.#pool = options.pool;
    this.#patience = options.patience;
    this.#log = options.log;
    this.#mend = options.mend;
    this.#beyondHelp = options.beyondHelp;
  }

  get health(): SessionHealth {
    return this.#health;
  }

  get figures(): Pick<SessionFigures, 'errors' | 'outages' | 'recovered' | 'unrecovered'> {
    return {
      errors: this.#errors,
      outages: this.#outages,
      recovered: this.#recovered,
      unrecovered: this.#unrecovered,
    };
  }

  /** The device has answered with such a code. */
  met(ckr: string): void {
    const known = this.#errors.has(ckr) || this.#errors.size < codes_max;
    count(this.#errors, known ? ckr : 'other');
  }

  onHealth(listener: (health: SessionHealth) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * The device was lost, for the reason that is given and of the class by which that is counted; an outage that is
   * known already stays the one it is.
   */
  begin(error: KeyslotError, kind: CkrClass | 'hung' | 'renewed'): void {
    if (this.#running || this.#ended || this.#health.state === 'refused') return;
    this.#running = true;
    count(this.#outages, kind);
    this.#run(error).catch(thrown => {
      this.#log.error({ slot: this.#slot, err: thrown }, 'the recovery of a slot broke');
      this.#turnAway('lost', toKeyslotError(thrown));
    });
  }

  async lookNow(signal?: AbortSignal): Promise<void> {
    const { promise } = this.#attempted;
    this.wake();
    if (this.#running) await (signal ? untilAborted(promise, signal) : promise);
    if (this.#ended || this.#health.state === 'serving') return;
    throw this.#turnedAway(this.#health.error);
  }

  /** Something has changed: the next attempt is made at once. */
  wake(): void {
    this.#wake?.();
  }

  /** Turns requests away from now on, without waiting for the time of an outage. */
  giveUpWaiting(): void {
    if (this.#health.state === 'recovering') this.#lose(this.#health.error);
  }

  /** Waits as requests do: until the device is back. The error of the outage when that takes too long. */
  async over(signal?: AbortSignal): Promise<void> {
    while (this.#health.state === 'recovering' && !this.#ended) {
      if (signal?.aborted) throw abortedError();
      await (signal ? untilAborted(this.#next.promise, signal) : this.#next.promise);
    }
    if (this.#ended) return; // the session says itself that it has ended
    if (this.#health.state !== 'serving') throw this.#turnedAway(this.#health.error);
  }

  /** No attempt is begun any more. */
  end(): void {
    this.#ended = true;
    this.#wake?.();
    this.#next.resolve();
    this.#attempted.resolve();
  }

  async #run(first: KeyslotError): Promise<void> {
    const resume = this.#pool.pause();
    this.#enter({ state: 'recovering', error: first });
    const losing = setTimeout(() => this.giveUpWaiting(), this.#patience.outage_ms);
    try {
      for (let attempt = 0; !this.#ended; attempt += 1) {
        const over = await this.#mended(attempt);
        this.#attempted.resolve();
        this.#attempted = Promise.withResolvers();
        if (over) return;
        await this.#pause(attempt);
      }
    } finally {
      clearTimeout(losing);
      this.#running = false;
      resume();
    }
  }

  /** True when there is nothing more to try, for better or worse. */
  async #mended(attempt: number): Promise<boolean> {
    try {
      await this.#mend(attempt);
    } catch (thrown) {
      const error = toKeyslotError(thrown);
      if (this.#ended) return true;
      this.#unrecovered += 1;
      if (refusals.has(error.code)) {
        this.#turnAway('refused', error);
        return true;
      }
      this.#log.warn({ slot: this.#slot, attempt, err: error }, 'the token is not back yet');
      if (this.#health.state !== 'recovering') this.#lose(error);
      return false;
    }
    this.#recovered += 1;
    this.#pool.admit();
    this.#enter(serving);
    return true;
  }

  #lose(error: KeyslotError): void {
    this.#turnAway(this.#beyondHelp() ? 'hung' : 'lost', error);
  }

  #turnAway(state: 'lost' | 'refused' | 'hung', error: KeyslotError): void {
    this.#pool.refuse(() => this.#turnedAway(error));
    this.#enter({ state, error });
  }

  /** What the token said, as it concerns others: a refused PIN stays one, all else is a token that is away. */
  #turnedAway(error: KeyslotError): KeyslotError {
    const detail = `Slot ${this.#slot} waits for its token: ${error.message}`;
    if (refusals.has(error.code)) return new KeyslotError(error.code, detail, { cause: error });
    return new KeyslotError('TOKEN_UNAVAILABLE', detail, { cause: error, retryAfter_s: 2 });
  }

  #enter(health: SessionHealth): void {
    const from = this.#health.state;
    this.#health = health;
    if (from === health.state) return;
    const facts = {
      slot: this.#slot,
      from,
      to: health.state,
      ...(health.error ? { err: health.error } : {}),
    };
    this.#log[health.state === 'serving' ? 'info' : 'warn'](facts, 'the token of a slot');
    this.#next.resolve();
    this.#next = Promise.withResolvers();
    for (const listener of [...this.#listeners]) this.#tell(listener, health);
  }

  /** A listener that breaks must not break the recovery. */
  #tell(listener: (health: SessionHealth) => void, health: SessionHealth): void {
    try {
      listener(health);
    } catch (thrown) {
      this.#log.error({ slot: this.#slot, err: thrown }, 'a listener to the health of a slot failed');
    }
  }

  async #pause(attempt: number): Promise<void> {
    if (this.#ended) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const { pause_ms_min, pause_ms_max } = this.#patience;
    const timer = setTimeout(resolve, jittered(Math.min(pause_ms_max, pause_ms_min * 2 ** attempt)));
    this.#wake = resolve;
    await promise;
    this.#wake = undefined;
    clearTimeout(timer);
  }
}

const serving: SessionHealth = { state: 'serving' };

const count = (counts: Map<string, number>, name: string): void => {
  counts.set(name, (counts.get(name) ?? 0) + 1);
};

/** The standard has fewer that a token would answer with; a vendor may have any number. */
const codes_max = 64;

const refusals: ReadonlySet<ErrorCode> = new Set(['PIN_REFUSED', 'PIN_LOCKED', 'PIN_LAST_TRY']);

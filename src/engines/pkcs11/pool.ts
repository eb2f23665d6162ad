import type { Handle } from 'pkcs11js';
import { KeyslotError } from '../../foundation/errors.ts';

/**
 * The sessions of one slot that sign, handed out first come, first served.
 *
 * A session on which an operation failed half-way is thrown away and a fresh one opened in its place: PKCS#11
 * leaves it in an active operation that nothing here could end (v3.1 §5.2). The queue is bounded: SLOT_BUSY.
 */
export class SessionPool {
  readonly #open: () => Handle;
  readonly #discard: (session: Handle) => void;
  readonly #queue_max: number;
  readonly #idle: Handle[] = [];
  readonly #waiting = new Set<Waiter>();
  #missing: number;
  #busy = 0;
  #closed = false;
  #whenIdle: (() => void) | undefined;

  constructor(options: { size: number; queue_max: number; open(): Handle; discard(session: Handle): void }) {
    this.#open = options.open;
    this.#discard = options.discard;
    this.#queue_max = options.queue_max;
    this.#missing = options.size;
  }

  get busy(): number {
    return this.#busy;
  }

  /** Runs the work on a session that nobody else uses meanwhile; any failure of the work ruins the session. */
  async use<T>(work: (session: Handle) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const session = this.#take() ?? (await this.#wait(signal));
    if (signal?.aborted) {
      this.#giveBack(session);
      throw abortedError();
    }
    let result: T;
    try {
      result = await work(session);
    } catch (error) {
      this.#replace(session);
      throw error;
    }
    this.#giveBack(session);
    return result;
  }

  /** Refuses new work and who is waiting, then resolves when no session is in use; false after `bound_ms`. */
  async drain(bound_ms: number): Promise<boolean> {
    this.#closed = true;
    for (const waiter of this.#waiting) waiter.refuse(closedError());
    this.#waiting.clear();
    if (this.#busy === 0) return true;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    this.#whenIdle = () => resolve(true);
    const timer = setTimeout(resolve, bound_ms, false);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
    }
  }

  /** The sessions that were idle at the end, for whoever closes them. */
  takeAll(): Handle[] {
    return this.#idle.splice(0);
  }

  #take(): Handle | undefined {
    if (this.#closed) throw closedError();
    const session = this.#idle.pop() ?? this.#openMissing();
    if (session) this.#busy += 1;
    return session;
  }

  #openMissing(): Handle | undefined {
    if (this.#missing === 0) return undefined;
    const opened = this.#open();
    this.#missing -= 1;
    return opened;
  }

  #wait(signal: AbortSignal | undefined): Promise<Handle> {
    if (this.#waiting.size >= this.#queue_max) {
      throw new KeyslotError('SLOT_BUSY', `${this.#waiting.size} requests are waiting for a session.`, {
        retryAfter_s: 1,
      });
    }
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#waiting.delete(waiter);
        reject(abortedError());
      };
      const waiter: Waiter = {
        serve: session => {
          signal?.removeEventListener('abort', leave);
          resolve(session);
        },
        refuse: error => {
          signal?.removeEventListener('abort', leave);
          reject(error);
        },
      };
      signal?.addEventListener('abort', leave, { once: true });
      this.#waiting.add(waiter);
    });
  }

  #giveBack(session: Handle): void {
    const [next] = this.#waiting;
    if (next) this.#serve(next, session);
    else {
      this.#idle.push(session);
      this.#oneLessBusy();
    }
  }

  /** The session goes from hand to hand and counts as busy all the time, so that a drain waits for it. */
  #serve(waiter: Waiter, session: Handle): void {
    this.#waiting.delete(waiter);
    waiter.serve(session);
  }

  #replace(spoiled: Handle): void {
    this.#missing += 1;
    this.#discard(spoiled);
    this.#oneLessBusy();
    const [next] = this.#waiting;
    if (next === undefined || this.#closed) return; // opened again when it is needed
    try {
      const fresh = this.#take();
      if (fresh) this.#serve(next, fresh);
    } catch (error) {
      // Nobody else would serve them once no session is left.
      for (const waiter of this.#busy === 0 ? [...this.#waiting] : [next]) {
        this.#waiting.delete(waiter);
        waiter.refuse(error);
      }
    }
  }

  #oneLessBusy(): void {
    this.#busy -= 1;
    if (this.#busy === 0) this.#whenIdle?.();
  }
}

interface Waiter {
  serve(session: Handle): void;
  refuse(error: unknown): void;
}

export const closedError = () => new KeyslotError('SESSION_CLOSED', 'The session of this slot was closed.');
export const abortedError = () =>
  new KeyslotError('REQUEST_ABORTED', 'The request was aborted while waiting.');

/** Answers an abort at once; what the token has begun it finishes, on a session that stays taken meanwhile. */
export function untilAborted<T>(
  work: Promise<T>,
  signal: AbortSignal,
  refusal: () => KeyslotError = abortedError,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(refusal());
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

import { KeyslotError } from '../../foundation/errors.ts';

/**
 * Lets a bounded number of calls run at a time, first come, first served. Who waits may leave by its signal:
 * REQUEST_ABORTED. The queue is bounded too: SLOT_BUSY.
 */
export class Gate {
  readonly #atOnce: number;
  readonly #waiting_max: number;
  readonly #waiting = new Set<Waiter>();
  #running = 0;

  constructor(atOnce: number, waiting_max: number) {
    this.#atOnce = atOnce;
    this.#waiting_max = waiting_max;
  }

  async pass<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    if (signal?.aborted) throw abortedError();
    await this.#enter(signal);
    try {
      return await work();
    } finally {
      this.#leave();
    }
  }

  /** Sends everybody away who still waits; what runs goes on. */
  refuseWaiting(error: KeyslotError): void {
    for (const waiter of this.#waiting) waiter.refuse(error);
    this.#waiting.clear();
  }

  async #enter(signal: AbortSignal | undefined): Promise<void> {
    if (this.#running < this.#atOnce) {
      this.#running += 1;
      return;
    }
    if (this.#waiting.size >= this.#waiting_max) {
      throw new KeyslotError('SLOT_BUSY', `${this.#waiting.size} requests are waiting for KMS.`, {
        retryAfter_s: 1,
      });
    }
    await this.#wait(signal);
  }

  #wait(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#waiting.delete(waiter);
        reject(abortedError());
      };
      const waiter: Waiter = {
        admit: () => {
          signal?.removeEventListener('abort', leave);
          resolve();
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

  /** Hands the place to the next in line, or gives it back. */
  #leave(): void {
    const [next] = this.#waiting;
    if (next === undefined) {
      this.#running -= 1;
      return;
    }
    this.#waiting.delete(next);
    next.admit();
  }
}

interface Waiter {
  admit(): void;
  refuse(error: KeyslotError): void;
}

export const abortedError = () => new KeyslotError('REQUEST_ABORTED', 'The request was aborted.');

import { KeyslotError } from '../foundation/errors.ts';
import type { SlotId } from './ids.ts';

/**
 * The life of a session: work is let in until the end is asked for, and the end waits for what was let in.
 * Ending twice is one end.
 */
export class InFlight {
  readonly #slot: SlotId;
  readonly #work = new Set<Promise<unknown>>();
  #ending: Promise<void> | undefined;

  constructor(slot: SlotId) {
    this.#slot = slot;
  }

  /** SESSION_CLOSED once the end was asked for. */
  refuseEnded(): void {
    if (this.#ending) throw new KeyslotError('SESSION_CLOSED', `Slot ${this.#slot} was closed.`);
  }

  /** Has the end wait for this work. SESSION_CLOSED, and then the work is not started. */
  async track<T>(start: () => Promise<T>): Promise<T> {
    this.refuseEnded();
    const work = start();
    this.#work.add(work);
    try {
      return await work;
    } finally {
      this.#work.delete(work);
    }
  }

  /** Lets nothing more in, waits for what is in flight, then does `last`, once. */
  end(last: () => void | Promise<void>): Promise<void> {
    this.#ending ??= this.#settle(last);
    return this.#ending;
  }

  async #settle(last: () => void | Promise<void>): Promise<void> {
    while (this.#work.size > 0) await Promise.allSettled(this.#work);
    await last();
  }
}

import type { Session, Slot, SlotDescription } from '../../custody/engine.ts';
import type { SlotId } from '../../custody/ids.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import type { Secret } from '../../foundation/secret.ts';
import { KeyTable } from './key-table.ts';
import { MemorySession } from './session.ts';

export class MemorySlot implements Slot, AsyncDisposable {
  readonly id: SlotId;
  readonly #keys = new KeyTable();
  #session: MemorySession | undefined;
  #pin: Secret | undefined;
  #ended = false;

  constructor(id: SlotId) {
    this.id = id;
  }

  async describe(): Promise<SlotDescription> {
    return {
      id: this.id,
      engine: 'memory',
      custody: 'memory',
      summary: 'Keys in the memory of this process; they end with it.',
      details: { persistent: false },
    };
  }

  /** One session at a time, as on a PKCS#11 token, so that what works here works there: SLOT_OPEN. */
  async open(pin: Secret, signal?: AbortSignal): Promise<Session> {
    if (this.#ended) throw new KeyslotError('TOKEN_UNAVAILABLE', `The keys of slot ${this.id} were wiped.`);
    if (signal?.aborted) throw new KeyslotError('REQUEST_ABORTED', `Opening slot ${this.id} was aborted.`);
    if (this.#session) throw new KeyslotError('SLOT_OPEN', `Slot ${this.id} is open already.`);
    this.#pin ??= pin.copy();
    if (!this.#pin.equals(pin)) {
      throw new KeyslotError('PIN_REFUSED', `Slot ${this.id} was first opened with another PIN.`);
    }
    this.#session = new MemorySession(this.id, this.#keys, () => {
      this.#session = undefined;
    });
    return this.#session;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    await this.#session?.[Symbol.asyncDispose]();
    this.#keys[Symbol.dispose]();
    this.#pin?.[Symbol.dispose]();
    this.#pin = undefined;
  }
}

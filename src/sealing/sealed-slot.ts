import type { CustodyLabel, EngineName, Session, Slot, SlotDescription } from '../custody/engine.ts';
import type { SlotId } from '../custody/ids.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { Secret } from '../foundation/secret.ts';
import { KeyFolder } from './key-folder.ts';
import type { UnlockedForms } from './page-or-own.ts';
import { SealedSession } from './sealed-session.ts';

/**
 * A slot whose keys are sealed files in one folder. What differs between custodies is how a PIN becomes forms
 * that open and seal those files; everything else about the slot is here. One session at a time, as on a
 * PKCS#11 token, so that what works here works there: SLOT_OPEN.
 */
export class SealedSlot implements Slot, AsyncDisposable {
  readonly id: SlotId;
  readonly #setting: SealedSlotSetting;
  #opening = false;
  #session: SealedSession | undefined;
  #ended = false;

  constructor(setting: SealedSlotSetting) {
    this.id = setting.id;
    this.#setting = setting;
  }

  async describe(): Promise<SlotDescription> {
    const { engine, custody, summary, folder, details } = this.#setting;
    return { id: this.id, engine, custody, summary, details: { folder, ...details } };
  }

  async open(pin: Secret, signal?: AbortSignal): Promise<Session> {
    if (this.#ended) throw new KeyslotError('TOKEN_UNAVAILABLE', `The engine of slot ${this.id} has ended.`);
    if (signal?.aborted) throw aborted(this.id);
    if (this.#opening || this.#session) {
      throw new KeyslotError('SLOT_OPEN', `Slot ${this.id} is open already.`);
    }
    this.#opening = true;
    try {
      return await this.#open(pin, signal);
    } finally {
      this.#opening = false;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    await this.#session?.[Symbol.asyncDispose]();
  }

  async #open(pin: Secret, signal: AbortSignal | undefined): Promise<Session> {
    const { custody, unwrapCache_ms, log } = this.#setting;
    const folder = await KeyFolder.open(this.#setting.folder);
    const unlocked = await this.#setting.unlock(folder, pin, signal);
    if (signal?.aborted || this.#ended) {
      unlocked[Symbol.dispose]();
      throw aborted(this.id);
    }
    const closed = () => {
      unlocked[Symbol.dispose]();
      this.#session = undefined;
    };
    const { forms, writes } = unlocked;
    const setting = { slot: this.id, folder, forms, writes, custody, unwrapCache_ms, log, closed };
    this.#session = new SealedSession(setting);
    return this.#session;
  }
}

export interface SealedSlotSetting {
  readonly id: SlotId;
  readonly engine: EngineName;
  readonly custody: CustodyLabel;
  /** Absolute path; made when it is missing. */
  readonly folder: string;
  readonly summary: string;
  readonly details: SlotDescription['details'];
  readonly unwrapCache_ms: number;
  readonly log: Log;
  /** Turns the PIN into the forms of this slot. The PIN stays the caller's. PIN_REFUSED and its kin. */
  unlock(folder: KeyFolder, pin: Secret, signal?: AbortSignal): Promise<UnlockedForms>;
}

const aborted = (id: SlotId) => new KeyslotError('REQUEST_ABORTED', `Opening slot ${id} was aborted.`);

import type { CustodyLabel, KeyAttributes, KeyInfo } from '../custody/engine.ts';
import {
  type KeyId,
  keyId,
  type PublicKeyBytes,
  publicKeyBytes,
  type SlotId,
  slotId,
} from '../custody/ids.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Row, Store } from './store.ts';

/**
 * Which key lives where: key id → slot and public key. An id is unique in the appliance and names one address
 * for life. Everything is held in memory too, because every signature asks; the file is the truth.
 */
export class KeyRegistry {
  readonly #store: Store;
  readonly #records = new Map<KeyId, KeyRecord>();

  constructor(store: Store) {
    this.#store = store;
    for (const row of store.all('SELECT * FROM keys')) {
      const record = recordOf(row);
      this.#records.set(record.id, record);
    }
  }

  get(id: KeyId): KeyRecord | undefined {
    return this.#records.get(id);
  }

  /** By id, after the cursor, at most `limit`. */
  page(options: {
    which: (record: KeyRecord) => boolean;
    after?: string | undefined;
    limit: number;
  }): KeyRecord[] {
    const { which, after = '', limit } = options;
    return [...this.#records.values()]
      .filter(record => record.id > after && record.state !== 'pending' && which(record))
      .sort((a, b) => (a.id < b.id ? -1 : 1))
      .slice(0, limit);
  }

  ofSlot(slot: SlotId): readonly KeyRecord[] {
    return [...this.#records.values()].filter(record => record.slot === slot);
  }

  /**
   * Writes down that a key is about to be made, before the custody makes it: a crash in between leaves a trace
   * that the next opening of the slot resolves. KEY_EXISTS.
   */
  begin(id: KeyId, slot: SlotId, origin: KeyRecord['origin'], at: Date, tags: readonly string[] = []): void {
    if (this.#records.has(id)) throw new KeyslotError('KEY_EXISTS', `The key ${id} exists.`);
    const record: KeyRecord = { id, slot, origin, state: 'pending', createdAt: at.toISOString(), tags };
    this.#store.run(
      "INSERT INTO keys (id, slot, origin, state, created_at, tags) VALUES (?, ?, ?, 'pending', ?, ?)",
      id,
      slot,
      origin,
      record.createdAt,
      JSON.stringify(tags),
    );
    this.#records.set(id, record);
  }

  /** The custody made the key: from here on it can be used. */
  complete(info: KeyInfo): KeyRecord {
    const begun = this.#records.get(info.id);
    if (begun === undefined) throw new RangeError(`The key ${info.id} was never begun.`);
    this.#store.run(
      "UPDATE keys SET state = 'active', public_key = ?, custody = ?, exportable = ?, attributes = ? WHERE id = ?",
      info.publicKey,
      info.custody,
      info.exportable ? 1 : 0,
      info.attributes ? JSON.stringify(info.attributes) : null,
      info.id,
    );
    const record: KeyRecord = {
      ...begun,
      state: 'active',
      publicKey: info.publicKey,
      custody: info.custody,
      exportable: info.exportable,
      ...(info.attributes ? { attributes: info.attributes } : {}),
    };
    this.#records.set(info.id, record);
    return record;
  }

  /**
   * Binds an active key to another slot, in one transaction with what `also` writes: both are there, or neither.
   * The id and the public key stay what they are; what the new custody says of the key replaces the old words.
   * A key that is not active, or another public key, is a RangeError: whoever moves keys has looked before.
   */
  move(info: KeyInfo, slot: SlotId, also: () => void): KeyRecord {
    const { attributes: _left, ...held } = this.#activeAs(info);
    const { custody, exportable, attributes } = info;
    this.#store.transaction(() => {
      this.#store.run(
        'UPDATE keys SET slot = ?, custody = ?, exportable = ?, attributes = ? WHERE id = ?',
        slot,
        custody,
        exportable ? 1 : 0,
        attributes ? JSON.stringify(attributes) : null,
        info.id,
      );
      also();
    });
    const record: KeyRecord = { ...held, slot, custody, exportable, ...(attributes ? { attributes } : {}) };
    this.#records.set(info.id, record);
    return record;
  }

  /** The tags take the place of those before, pending or not. KEY_UNKNOWN for a key that is not there any more. */
  setTags(id: KeyId, tags: readonly string[]): KeyRecord {
    const held = this.#standing(id);
    this.#store.run('UPDATE keys SET tags = ? WHERE id = ?', JSON.stringify(tags), id);
    const record: KeyRecord = { ...held, tags: [...tags] };
    this.#records.set(id, record);
    return record;
  }

  /**
   * A destroyed key stays written down with its public key for ever, and nothing brings it back: KEY_UNKNOWN, as
   * for a key that was never completed.
   */
  setState(id: KeyId, state: 'active' | 'disabled' | 'destroyed'): KeyRecord {
    const held = this.#standing(id);
    if (held.state === 'pending') throw unknown(id);
    this.#store.run('UPDATE keys SET state = ? WHERE id = ?', state, id);
    const record: KeyRecord = { ...held, state };
    this.#records.set(id, record);
    return record;
  }

  #standing(id: KeyId): KeyRecord {
    const record = this.#records.get(id);
    if (record === undefined || record.state === 'destroyed') throw unknown(id);
    return record;
  }

  #activeAs(info: KeyInfo): KeyRecord {
    const record = this.#records.get(info.id);
    if (record?.state === 'active' && record.publicKey?.every((byte, at) => byte === info.publicKey[at])) {
      return record;
    }
    throw new RangeError(`The key ${info.id} is not active with this public key.`);
  }

  /** The custody did not make the key. A record that is not pending stays as it is. */
  abandon(id: KeyId): void {
    if (this.#records.get(id)?.state !== 'pending') return;
    this.#store.run("DELETE FROM keys WHERE id = ? AND state = 'pending'", id);
    this.#records.delete(id);
  }
}

export interface KeyRecord {
  readonly id: KeyId;
  readonly slot: SlotId;
  readonly origin: 'generated' | 'imported';
  readonly state: KeyState;
  readonly createdAt: string;
  readonly publicKey?: PublicKeyBytes;
  readonly custody?: CustodyLabel;
  readonly exportable?: boolean;
  readonly attributes?: KeyAttributes;
  /** By which policies and grants name it together with others. */
  readonly tags: readonly string[];
}

/** `pending`: written down before the custody was asked, and not yet known to exist. */
export type KeyState = 'pending' | 'active' | 'disabled' | 'pending-deletion' | 'destroyed';

const unknown = (id: KeyId) => new KeyslotError('KEY_UNKNOWN', `There is no key ${id}.`);

// The file is our own and guarded by its schema: a row that does not fit is a broken store, not an input.
function recordOf(row: Row): KeyRecord {
  const publicKey = row.public_key;
  return {
    id: keyId(String(row.id)),
    slot: slotId(String(row.slot)),
    origin: row.origin as KeyRecord['origin'],
    state: row.state as KeyState,
    createdAt: String(row.created_at),
    ...(publicKey instanceof Uint8Array
      ? { publicKey: publicKeyBytes(publicKey), custody: row.custody as CustodyLabel }
      : {}),
    exportable: row.exportable === 1,
    ...(typeof row.attributes === 'string'
      ? { attributes: JSON.parse(row.attributes) as KeyAttributes }
      : {}),
    tags: JSON.parse(String(row.tags)) as readonly string[],
  };
}

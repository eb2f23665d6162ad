import { randomBytes } from 'node:crypto';
import type {
  Destroys,
  Exports,
  Generates,
  Imports,
  KeyInfo,
  Session,
  Signer,
} from '../../custody/engine.ts';
import type { KeyId, SlotId } from '../../custody/ids.ts';
import { InFlight } from '../../custody/in-flight.ts';
import { seed_bytes } from '../../foundation/ed25519.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import { Secret } from '../../foundation/secret.ts';
import type { KeyTable } from './key-table.ts';
import { MemorySigner } from './signer.ts';

export class MemorySession implements Session, Generates, Imports, Exports, Destroys {
  readonly slot: SlotId;
  readonly #keys: KeyTable;
  readonly #ended: () => void;
  readonly #life: InFlight;

  constructor(slot: SlotId, keys: KeyTable, ended: () => void) {
    this.slot = slot;
    this.#keys = keys;
    this.#ended = ended;
    this.#life = new InFlight(slot);
  }

  async *keys(): AsyncIterable<KeyInfo> {
    for (const key of this.#alive().all()) yield key.info;
  }

  async signer(id: KeyId): Promise<Signer> {
    const key = this.#alive().get(id);
    return new MemorySigner(key, {
      stillThere: () => this.#alive().holds(key),
      track: work => this.#life.track(work),
    });
  }

  async generate(id: KeyId): Promise<KeyInfo> {
    return this.#alive().add(id, Secret.fromBytes(randomBytes(seed_bytes), { wipe: true }));
  }

  async import(id: KeyId, seed: Secret): Promise<KeyInfo> {
    const keys = this.#alive();
    if (seed.length !== seed_bytes) {
      throw new KeyslotError('KEY_MATERIAL_INVALID', `A seed has ${seed_bytes} bytes, not ${seed.length}.`);
    }
    return keys.add(id, seed.copy());
  }

  async export(id: KeyId): Promise<Secret> {
    return this.#alive().get(id).seed.copy();
  }

  async destroy(id: KeyId): Promise<void> {
    this.#alive().remove(id);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.end(this.#ended);
  }

  #alive(): KeyTable {
    this.#life.refuseEnded();
    return this.#keys;
  }
}

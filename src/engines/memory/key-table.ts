import type { KeyObject } from 'node:crypto';
import type { KeyInfo } from '../../custody/engine.ts';
import { type KeyId, publicKeyBytes } from '../../custody/ids.ts';
import { privateKeyFromSeed, publicKeyFromSeed } from '../../foundation/ed25519.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import type { Secret } from '../../foundation/secret.ts';

export interface MemoryKey {
  readonly info: KeyInfo;
  readonly seed: Secret;
  /** Parsed once: building it costs as much as a signature. */
  readonly privateKey: KeyObject;
}

/** The keys of one slot. The table owns the seeds. */
export class KeyTable implements Disposable {
  readonly #keys = new Map<KeyId, MemoryKey>();

  /** Takes the seed over, and wipes it when the id is taken. */
  add(id: KeyId, seed: Secret): KeyInfo {
    if (this.#keys.has(id)) {
      seed[Symbol.dispose]();
      throw new KeyslotError('KEY_EXISTS', `There is a key ${id} already.`);
    }
    const publicKey = publicKeyBytes(seed.use(publicKeyFromSeed));
    const info: KeyInfo = { id, publicKey, custody: 'memory', exportable: true };
    this.#keys.set(id, { info, seed, privateKey: seed.use(privateKeyFromSeed) });
    return info;
  }

  get(id: KeyId): MemoryKey {
    const key = this.#keys.get(id);
    if (key === undefined) throw unknownKey(id);
    return key;
  }

  /** Whether the table still holds this very key: an id that was made anew names another. */
  holds(key: MemoryKey): boolean {
    return this.#keys.get(key.info.id) === key;
  }

  all(): readonly MemoryKey[] {
    return [...this.#keys.values()];
  }

  remove(id: KeyId): void {
    this.get(id).seed[Symbol.dispose]();
    this.#keys.delete(id);
  }

  [Symbol.dispose](): void {
    for (const id of [...this.#keys.keys()]) this.remove(id);
  }
}

export const unknownKey = (id: KeyId) => new KeyslotError('KEY_UNKNOWN', `There is no key ${id}.`);

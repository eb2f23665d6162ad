import { type KeyObject, randomBytes } from 'node:crypto';
import type {
  CustodyLabel,
  Destroys,
  Exports,
  Generates,
  Imports,
  KeyInfo,
  Session,
  Signer,
} from '../custody/engine.ts';
import {
  isId,
  type KeyId,
  type PublicKeyBytes,
  publicKeyBytes,
  type Signature,
  type SlotId,
  signature,
} from '../custody/ids.ts';
import { InFlight } from '../custody/in-flight.ts';
import { refuseAborted, refuseUnsignable } from '../custody/signing.ts';
import { privateKeyFromSeed, publicKeyFromSeed, seed_bytes, signMessage } from '../foundation/ed25519.ts';
import { KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import { Secret } from '../foundation/secret.ts';
import type { KeyFolder } from './key-folder.ts';
import type { KeyForm, SealedKey } from './key-form.ts';

/**
 * The open slot of a custody that keeps its keys as sealed files. A seed is unsealed for one signature and
 * wiped behind it, unless `unwrapCache_ms` allows it to stay for that long.
 *
 * A damaged file is left out of `keys()`, said in the log, and fails by its own code when its signer is asked
 * for; all other keys go on working.
 */
export class SealedSession implements Session, Generates, Imports, Exports, Destroys {
  readonly slot: SlotId;
  readonly #setting: SealedSessionSetting;
  readonly #life: InFlight;
  readonly #loaded = new Map<KeyId, Promise<LoadedKey>>();
  readonly #changing = new Set<KeyId>();

  constructor(setting: SealedSessionSetting) {
    this.slot = setting.slot;
    this.#setting = setting;
    this.#life = new InFlight(setting.slot);
  }

  async *keys(): AsyncIterable<KeyInfo> {
    this.#life.refuseEnded();
    const found = [...(await this.#files())];
    await this.#forgetGone(found);
    // A few at a time: forms that derive a key for each file do that on several threads.
    for (let at = 0; at < found.length; at += listedAtOnce) {
      const some = found.slice(at, at + listedAtOnce);
      const infos = await this.#life.track(() => Promise.all(some.map(file => this.#listed(file))));
      for (const info of infos) if (info) yield info;
    }
  }

  async signer(id: KeyId): Promise<Signer> {
    const key = await this.#key(id);
    return new SealedSigner(key, this.#setting.unwrapCache_ms, {
      refuseGone: async () => {
        this.#life.refuseEnded();
        if ((await this.#loaded.get(id)) !== key) throw unknownKey(id);
      },
      track: work => this.#life.track(work),
    });
  }

  async generate(id: KeyId): Promise<KeyInfo> {
    using seed = Secret.fromBytes(randomBytes(seed_bytes), { wipe: true });
    return await this.#make(id, seed);
  }

  async import(id: KeyId, seed: Secret): Promise<KeyInfo> {
    if (seed.length !== seed_bytes) {
      throw new KeyslotError('KEY_MATERIAL_INVALID', `A seed has ${seed_bytes} bytes, not ${seed.length}.`);
    }
    using own = seed.copy();
    return await this.#make(id, own);
  }

  async export(id: KeyId): Promise<Secret> {
    const key = await this.#key(id);
    return await this.#life.track(() => key.unseal());
  }

  /** Removes the file in every form that is there, so that no older one comes back to life. */
  async destroy(id: KeyId): Promise<void> {
    refuseInvalid(id);
    this.#life.refuseEnded();
    if (this.#changing.has(id)) throw unknownKey(id);
    await this.#change(id, async () => {
      const files = await this.#filesOf(id);
      if (files.length === 0) throw unknownKey(id);
      try {
        for (const { name } of files) await this.#setting.folder.remove(name);
      } finally {
        // Afterwards: whoever began to load it before has the key by now, and shall lose it.
        const loaded = this.#loaded.get(id);
        this.#loaded.delete(id);
        (await loaded?.catch(() => undefined))?.forget();
      }
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.end(async () => {
      for (const loading of this.#loaded.values()) (await loading.catch(() => undefined))?.forget();
      this.#loaded.clear();
      await this.#setting.closed();
    });
  }

  /** A key whose file somebody has taken away is no key any more, for those who hold its signer neither. */
  async #forgetGone(found: readonly KeyFile[]): Promise<void> {
    const present = new Set(found.map(({ id }) => id));
    for (const [id, loading] of this.#loaded) {
      if (present.has(id) || this.#changing.has(id)) continue;
      const loaded = await loading.catch(() => undefined);
      if (this.#loaded.get(id) !== loading || (await this.#filesOf(id)).length > 0) continue;
      this.#loaded.delete(id);
      loaded?.forget();
    }
  }

  async #make(id: KeyId, seed: Secret): Promise<KeyInfo> {
    refuseInvalid(id);
    this.#life.refuseEnded();
    if (this.#changing.has(id)) throw existing(id);
    return await this.#change(id, () => this.#made(id, seed));
  }

  /** While a key is being made or destroyed it is not there for anybody else. */
  async #change<T>(id: KeyId, work: () => Promise<T>): Promise<T> {
    this.#changing.add(id);
    try {
      return await this.#life.track(work);
    } finally {
      this.#changing.delete(id);
    }
  }

  /** Written, read back and opened again, before anybody is told that the key exists. */
  async #made(id: KeyId, seed: Secret): Promise<KeyInfo> {
    const { folder, writes } = this.#setting;
    if ((await this.#filesOf(id)).length > 0) throw existing(id);
    const publicKey = publicKeyBytes(seed.use(publicKeyFromSeed));
    const name = `${id}${writes.suffix}`;
    await folder.create(name, await writes.seal(id, publicKey, seed));
    try {
      const key = await this.#load({ id, name, form: writes });
      if (Buffer.compare(key.info.publicKey, publicKey) === 0) {
        this.#loaded.set(id, Promise.resolve(key));
        return key.info;
      }
      throw new KeyslotError('KEY_UNVERIFIED', `The key ${id} reads back as another one.`);
    } catch (error) {
      await folder.remove(name);
      throw error;
    }
  }

  /** The key of this id, read and opened once; a failure is not remembered. */
  async #key(id: KeyId): Promise<LoadedKey> {
    refuseInvalid(id);
    this.#life.refuseEnded();
    const known = this.#loaded.get(id);
    if (known) return known;
    const loading = this.#life.track(async () => {
      const [file] = await this.#filesOf(id);
      if (!file || this.#changing.has(id)) throw unknownKey(id);
      return await this.#load(file);
    });
    this.#loaded.set(id, loading);
    loading.catch(() => {
      if (this.#loaded.get(id) === loading) this.#loaded.delete(id);
    });
    return loading;
  }

  /** Opens the file and holds the public key that it states against the one of the seed inside. */
  async #load({ id, name, form }: KeyFile): Promise<LoadedKey> {
    const sealed = await this.#read({ id, name, form });
    using seed = await sealed.unseal();
    const publicKey = publicKeyBytes(seed.use(publicKeyFromSeed));
    if (sealed.publicKey && Buffer.compare(sealed.publicKey, publicKey) !== 0) {
      throw new KeyslotError('KEY_FILE_FOREIGN', `${name} states another public key than it holds.`);
    }
    return new LoadedKey(this.#infoOf(id, publicKey), sealed);
  }

  async #listed(file: KeyFile): Promise<KeyInfo | undefined> {
    try {
      const known = this.#loaded.get(file.id);
      if (known) return (await known).info;
      const sealed = await this.#read(file);
      if (sealed.publicKey) return this.#infoOf(file.id, sealed.publicKey);
      return (await this.#key(file.id)).info;
    } catch (thrown) {
      const { code, entry, message } = toKeyslotError(thrown);
      if (code === 'KEY_UNKNOWN') return undefined; // it went while the folder was being read
      if (code === 'SESSION_CLOSED' || entry.retryable) throw thrown; // says nothing of the file
      this.#setting.log.warn(
        { slot: this.slot, key: file.id, code, detail: message },
        'a key file is damaged',
      );
      return undefined;
    }
  }

  async #read({ id, name, form }: KeyFile): Promise<SealedKey> {
    const content = await this.#setting.folder.read(name);
    if (!content) throw unknownKey(id);
    return form.read(id, content);
  }

  /** One file a key: of several forms, the first of the setting counts. */
  async #files(): Promise<Iterable<KeyFile>> {
    const names = await this.#setting.folder.list();
    const files = new Map<KeyId, KeyFile>();
    for (const form of this.#setting.forms) {
      for (const name of names.filter(each => each.endsWith(form.suffix))) {
        const id = name.slice(0, -form.suffix.length) as KeyId;
        if (isId(id) && !files.has(id) && !this.#changing.has(id)) files.set(id, { id, name, form });
      }
    }
    return files.values();
  }

  async #filesOf(id: KeyId): Promise<readonly KeyFile[]> {
    const files: KeyFile[] = [];
    for (const form of this.#setting.forms) {
      const name = `${id}${form.suffix}`;
      if (await this.#setting.folder.has(name)) files.push({ id, name, form });
    }
    return files;
  }

  #infoOf(id: KeyId, publicKey: PublicKeyBytes): KeyInfo {
    return { id, publicKey, custody: this.#setting.custody, exportable: true };
  }
}

export interface SealedSessionSetting {
  readonly slot: SlotId;
  readonly folder: KeyFolder;
  /** What is read; where a key has files of several forms, the first one here is the key. */
  readonly forms: readonly KeyForm[];
  /** What is written; one of `forms`. */
  readonly writes: KeyForm;
  readonly custody: CustodyLabel;
  /** How long an unsealed key may stay in memory; 0: for the one signature that asked for it. */
  readonly unwrapCache_ms: number;
  readonly log: Log;
  /** The session has ended: the place to wipe what the forms hold. */
  closed(): void | Promise<void>;
}

interface KeyFile {
  readonly id: KeyId;
  readonly name: string;
  readonly form: KeyForm;
}

const listedAtOnce = 4;

/** A key whose file has proven itself; what stays in memory is the sealed text. */
class LoadedKey {
  readonly info: KeyInfo;
  readonly #sealed: SealedKey;
  #kept: { key: Promise<KeyObject>; until: NodeJS.Timeout } | undefined;

  constructor(info: KeyInfo, sealed: SealedKey) {
    this.info = info;
    this.#sealed = sealed;
  }

  unseal(signal?: AbortSignal): Promise<Secret> {
    return this.#sealed.unseal(signal);
  }

  privateKey(keep_ms: number, signal?: AbortSignal): Promise<KeyObject> {
    if (keep_ms === 0) return this.#unsealed(signal);
    // Without the signal: one caller's abort must not fail the others who wait for the same key.
    this.#kept ??= this.#keep(this.#unsealed(), keep_ms);
    return this.#kept.key;
  }

  forget(): void {
    clearTimeout(this.#kept?.until);
    this.#kept = undefined;
  }

  #keep(key: Promise<KeyObject>, keep_ms: number) {
    key.catch(() => this.forget());
    return { key, until: setTimeout(() => this.forget(), keep_ms).unref() };
  }

  async #unsealed(signal?: AbortSignal): Promise<KeyObject> {
    using seed = await this.#sealed.unseal(signal);
    return seed.use(privateKeyFromSeed);
  }
}

/** What a signer asks of the session that gave it out. */
interface SignerHome {
  /** SESSION_CLOSED, KEY_UNKNOWN. */
  refuseGone(): Promise<void>;
  track<T>(work: () => Promise<T>): Promise<T>;
}

class SealedSigner implements Signer {
  readonly key: KeyInfo;
  readonly #key: LoadedKey;
  readonly #keep_ms: number;
  readonly #home: SignerHome;

  constructor(key: LoadedKey, keep_ms: number, home: SignerHome) {
    this.key = key.info;
    this.#key = key;
    this.#keep_ms = keep_ms;
    this.#home = home;
  }

  async sign(message: Uint8Array, signal?: AbortSignal): Promise<Signature> {
    refuseUnsignable(message);
    refuseAborted(signal);
    // A copy of its own, before the first await. Not slice(): on a Buffer that is a view of the same bytes.
    const copy = Uint8Array.from(message);
    await this.#home.refuseGone();
    const signed = await this.#home.track(async () => {
      const key = await this.#key.privateKey(this.#keep_ms, signal);
      refuseAborted(signal);
      return await signMessage(key, copy);
    });
    refuseAborted(signal);
    return signature(signed);
  }
}

function refuseInvalid(id: KeyId): void {
  if (!isId(id)) throw new KeyslotError('KEY_ID_INVALID', 'This is not a key id.');
}

const unknownKey = (id: KeyId) => new KeyslotError('KEY_UNKNOWN', `There is no key ${id}.`);
const existing = (id: KeyId) => new KeyslotError('KEY_EXISTS', `There is a key ${id} already.`);

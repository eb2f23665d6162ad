import { randomBytes } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Handle } from 'pkcs11js';
import type {
  Destroys,
  Generates,
  Imports,
  KeyAttributes,
  KeyInfo,
  Measures,
  QueueState,
  Queues,
  Recovers,
  Session,
  SessionFigures,
  SessionHealth,
  Signer,
} from '../../custody/engine.ts';
import { isId, type KeyId, type PublicKeyBytes, type SlotId } from '../../custody/ids.ts';
import { createVerifier, publicKeyFromSeed, seed_bytes } from '../../foundation/ed25519.ts';
import { isKeyslotError, KeyslotError } from '../../foundation/errors.ts';
import type { Secret } from '../../foundation/secret.ts';
import {
  CKA_ALWAYS_SENSITIVE,
  CKA_CLASS,
  CKA_EC_PARAMS,
  CKA_EC_POINT,
  CKA_EXTRACTABLE,
  CKA_ID,
  CKA_KEY_TYPE,
  CKA_LOCAL,
  CKA_NEVER_EXTRACTABLE,
  CKA_PRIVATE,
  CKA_SENSITIVE,
  CKA_TOKEN,
  CKA_VALUE,
  CKK_EC_EDWARDS,
  CKO_PRIVATE_KEY,
  CKO_PUBLIC_KEY,
} from './constants.ts';
import { CkrError, template } from './cryptoki.ts';
import type { Attributes, Device } from './device.ts';
import { ecPointOf, edwards25519Params, publicKeyOfEcPoint } from './ec.ts';
import { HeldKey } from './held-key.ts';
import type { TokenLogin } from './login.ts';
import { Pkcs11Signer } from './signer.ts';

/**
 * The keys inside a token that is logged in. CKA_LABEL holds the key id, and so does CKA_ID where the device
 * takes text there; they are found by CKA_ID then, by CKA_LABEL elsewhere. Exactly one private key may match.
 */
export class Pkcs11Session implements Session, Generates, Destroys, Measures, Queues, Recovers {
  readonly slot: SlotId;
  /** Not there, nor declared as a field, on a device that takes no private keys from outside. */
  declare readonly import?: Imports['import'];
  readonly #login: TokenLogin;
  readonly #device: Device;
  readonly #held = new Map<KeyId, HeldKey>();
  /** Public keys that were destroyed here: another key under their id is not a swapped one. */
  readonly #destroyed = new Set<string>();

  constructor(login: TokenLogin) {
    this.slot = login.slot;
    this.#login = login;
    this.#device = login.device;
    login.proveWith(session => this.#prove(session));
    if (login.device.profile.keyPair.import) this.import = (key, seed) => this.#import(key, seed);
  }

  get figures(): SessionFigures {
    return this.#login.figures;
  }

  get queue(): QueueState {
    return this.#login.pool.queue;
  }

  get health(): SessionHealth {
    return this.#login.recovery.health;
  }

  onHealth(listener: (health: SessionHealth) => void): () => void {
    return this.#login.recovery.onHealth(listener);
  }

  lookNow(signal?: AbortSignal): Promise<void> {
    return this.#login.recovery.lookNow(signal);
  }

  async *keys(): AsyncIterable<KeyInfo> {
    const { privates, points, epoch } = await this.#login.steadily(() => {
      this.#login.refuseLoggedOut();
      return {
        privates: this.#edwardsKeys(CKO_PRIVATE_KEY),
        points: this.#publicPoints(),
        epoch: this.#login.epoch,
      };
    });
    for (const [at, handle] of privates.entries()) {
      // Thousands of keys are thousands of blocking reads: let others have their turn in between.
      if (at % 32 === 31) await nextTurn();
      if (epoch !== this.#login.epoch) throw interrupted(this.slot);
      const info = this.#login.work(() => this.#listed(handle, points));
      if (info) yield info;
    }
  }

  async signer(key: KeyId): Promise<Signer> {
    const held = await this.#login.steadily(() => {
      const handle = this.#privateKey(key);
      return new HeldKey(this.#login, this.#describe(key, handle), handle, info => this.#refind(info));
    });
    this.#held.set(key, held);
    return new Pkcs11Signer(held, this.#login);
  }

  /** Makes the pair inside the token: TOKEN, PRIVATE, SENSITIVE, not extractable, all of it read back. */
  async generate(key: KeyId): Promise<KeyInfo> {
    return this.#made(key, () => this.#generatePair(key));
  }

  async destroy(key: KeyId): Promise<void> {
    await this.#login.steadily(() => this.#privateKey(key));
    // Looked up anew before each attempt: what an attempt without an answer has removed is not found again.
    await this.#login.steadily(() => this.#removeAll(key));
    const held = this.#held.get(key);
    if (held) this.#destroyed.add(held.info.publicKey.toString());
    this.#held.delete(key);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#login.close();
  }

  async #import(key: KeyId, seed: Secret): Promise<KeyInfo> {
    if (seed.length !== seed_bytes) {
      throw new KeyslotError('KEY_MATERIAL_INVALID', `A seed has 32 bytes, not ${seed.length}.`);
    }
    using own = seed.copy(); // the caller may wipe theirs while this waits for the token
    const publicKey = own.use(publicKeyFromSeed);
    return await this.#made(key, () => this.#createPair(key, own, publicKey), publicKey);
  }

  #privateKey(key: KeyId): Handle {
    const [handle, second] = this.#login.find(this.#ofClass(CKO_PRIVATE_KEY, key));
    if (handle === undefined) {
      this.#login.refuseLoggedOut();
      throw new KeyslotError('KEY_UNKNOWN', `Slot ${this.slot} holds no key ${key}.`);
    }
    if (second) throw new KeyslotError('KEY_AMBIGUOUS', `Slot ${this.slot} holds several keys ${key}.`);
    return handle;
  }

  #refuseExisting(key: KeyId): void {
    if (this.#login.find(template(this.#device.named(key))).length > 0) {
      throw new KeyslotError('KEY_EXISTS', `Slot ${this.slot} holds an object ${key} already.`);
    }
  }

  /** After a stale handle or a new login: the same key under a new handle. KEY_MISMATCH when it is another one. */
  #refind(info: KeyInfo): Handle {
    const handle = this.#privateKey(info.id);
    if (Buffer.compare(this.#publicKey(info.id, handle), info.publicKey) === 0) return handle;
    if (this.#destroyed.has(info.publicKey.toString())) {
      throw new KeyslotError('KEY_UNKNOWN', `The key ${info.id} of slot ${this.slot} was destroyed.`);
    }
    throw new KeyslotError('KEY_MISMATCH', `Slot ${this.slot} holds another key ${info.id} than before.`);
  }

  /** That the token signs, with one of the keys that are in use. Keys that have gone say so to who uses them. */
  async #prove(session: Handle): Promise<void> {
    for (const key of [...this.#held.values()].slice(0, witnesses_max)) {
      try {
        return await key.prove(session);
      } catch (thrown) {
        if (!isKeyslotError(thrown) || thrown.code === 'TOKEN_ERROR') throw thrown;
      }
    }
  }

  #generatePair(key: KeyId): void {
    const names = this.#names(key);
    this.#firstAccepted(this.#device.generations, ({ mechanism, params }) =>
      this.#login.cryptoki.generateKeyPair(
        this.#login.anchor,
        mechanism,
        template([CKA_EC_PARAMS, params], ...this.#device.publicAttributes, ...names),
        template(...this.#device.privateAttributes, ...names),
      ),
    );
  }

  /** C_CreateObject for both halves; the copy of the seed that the addon reads is wiped behind it. */
  #createPair(key: KeyId, seed: Secret, publicKey: Uint8Array): void {
    const names = this.#names(key);
    const type = [CKA_KEY_TYPE, this.#device.keyTypes[0] ?? CKK_EC_EDWARDS] as const;
    const value = Buffer.alloc(seed_bytes);
    seed.use(bytes => value.set(bytes));
    try {
      this.#firstAccepted(this.#device.curveForms, params =>
        this.#login.cryptoki.createObject(
          this.#login.anchor,
          template(
            [CKA_CLASS, CKO_PRIVATE_KEY],
            type,
            [CKA_EC_PARAMS, params],
            [CKA_VALUE, value],
            ...this.#device.privateAttributes,
            ...names,
          ),
        ),
      );
      this.#firstAccepted(this.#device.curveForms, params =>
        this.#login.cryptoki.createObject(
          this.#login.anchor,
          template(
            [CKA_CLASS, CKO_PUBLIC_KEY],
            type,
            [CKA_EC_PARAMS, params],
            [CKA_EC_POINT, ecPointOf(publicKey)],
            ...this.#device.publicAttributes,
            ...names,
          ),
        ),
      );
    } finally {
      value.fill(0);
    }
  }

  #names(key: KeyId): Attributes {
    return this.#device.names(key, id => this.#login.find(template([CKA_ID, id])).length > 0);
  }

  /** Tokens differ in how they want a pair made and its curve named: the next is tried when one is not known. */
  #firstAccepted<C, T>(candidates: readonly C[], attempt: (candidate: C) => T): T {
    for (const [at, candidate] of candidates.entries()) {
      try {
        return attempt(candidate);
      } catch (thrown) {
        const goOn = thrown instanceof CkrError && refusedForms.has(thrown.ckr) && at < candidates.length - 1;
        if (!goOn) throw thrown;
      }
    }
    throw new RangeError('A profile names at least one form.');
  }

  /** A new key is there whole and proven, or not at all. Looking and making is one turn of the event loop. */
  async #made(key: KeyId, make: () => void, expected?: Uint8Array): Promise<KeyInfo> {
    this.#device.refuseLongId(key);
    await this.#login.ready();
    this.#login.work(() => this.#refuseExisting(key));
    try {
      try {
        this.#login.work(make);
      } catch (error) {
        if (expected || !(await this.#madeNevertheless(key, error))) throw error;
      }
      return await this.#proven(key, expected);
    } catch (error) {
      await this.#removeHalfMade(key, error);
      throw error;
    }
  }

  /** The token may have made the pair, and its answer was lost: nothing is made a second time. */
  async #madeNevertheless(key: KeyId, error: unknown): Promise<boolean> {
    if (!this.#login.isOpen(error)) return false;
    return await this.#login.steadily(() => {
      this.#login.refuseLoggedOut();
      return this.#login.find(this.#ofClass(CKO_PRIVATE_KEY, key)).length > 0;
    });
  }

  async #removeHalfMade(key: KeyId, cause: unknown): Promise<void> {
    this.#held.delete(key);
    if (this.#login.closing) return;
    try {
      await this.#login.steadily(() => this.#removeAll(key));
    } catch (thrown) {
      // What was met first is what is told; the registry resolves what was being made.
      if (!isKeyslotError(thrown) || !isKeyslotError(cause)) throw thrown;
    }
  }

  /** The key shows what it is, read back from the token, and signs for itself. */
  async #proven(key: KeyId, expected: Uint8Array | undefined): Promise<KeyInfo> {
    const signer = await this.signer(key);
    const { attributes, publicKey } = signer.key;
    if (attributes?.extractable || !attributes?.sensitive || !attributes.private || !attributes.token) {
      throw new KeyslotError(
        'TOKEN_UNSUITABLE',
        `The token did not make ${key} sensitive and unextractable.`,
      );
    }
    if (expected && Buffer.compare(publicKey, expected) !== 0) {
      throw new KeyslotError('KEY_UNVERIFIED', `The token made another public key of the seed of ${key}.`);
    }
    const challenge = randomBytes(32);
    const signature = await signer.sign(challenge);
    if (await createVerifier(publicKey).verify(challenge, signature)) return signer.key;
    throw new KeyslotError('KEY_UNVERIFIED', `The signature of the new key ${key} does not verify.`);
  }

  #describe(key: KeyId, handle: Handle, known?: PublicKeyBytes): KeyInfo {
    return {
      id: key,
      publicKey: known ?? this.#publicKey(key, handle),
      custody: 'hsm-native',
      exportable: false,
      attributes: this.#attributes(handle),
    };
  }

  #listed(handle: Handle, points: ReadonlyMap<string, PublicKeyBytes>): KeyInfo | undefined {
    const id = this.#nameOf(handle);
    return isId(id) ? this.#describe(id as KeyId, handle, points.get(id)) : undefined;
  }

  /** All public keys in one search, because a search costs as much as the token has objects. */
  #publicPoints(): ReadonlyMap<string, PublicKeyBytes> {
    const points = new Map<string, PublicKeyBytes>();
    for (const handle of this.#edwardsKeys(CKO_PUBLIC_KEY)) {
      const id = this.#nameOf(handle);
      const point = this.#login.attribute(handle, CKA_EC_POINT);
      if (id && point) points.set(id, publicKeyOfEcPoint(point));
    }
    return points;
  }

  /** Keys of every type that the device gives such keys; under a type of other curves too, those of this one. */
  #edwardsKeys(objectClass: number): readonly Handle[] {
    return this.#device.keyTypes.flatMap(type => {
      const found = this.#login.find(template([CKA_CLASS, objectClass], [CKA_KEY_TYPE, type]));
      return type === CKK_EC_EDWARDS ? found : found.filter(handle => this.#isEdwards(handle));
    });
  }

  #isEdwards(handle: Handle): boolean {
    const params = this.#login.attribute(handle, CKA_EC_PARAMS);
    return params !== undefined && edwards25519Params.some(form => form.equals(params));
  }

  #nameOf(handle: Handle): string {
    return this.#login.attribute(handle, this.#device.nameType)?.toString('latin1') ?? '';
  }

  #ofClass(objectClass: number, key: KeyId) {
    return template([CKA_CLASS, objectClass], this.#device.named(key));
  }

  /** From the public object; some tokens keep none and show the point on the private key instead. */
  #publicKey(key: KeyId, privateHandle: Handle): PublicKeyBytes {
    const [publicHandle] = this.#login.find(this.#ofClass(CKO_PUBLIC_KEY, key));
    const point = this.#login.attribute(publicHandle ?? privateHandle, CKA_EC_POINT);
    if (point) return publicKeyOfEcPoint(point);
    throw new KeyslotError('TOKEN_UNSUITABLE', `Slot ${this.slot} shows no public key for ${key}.`);
  }

  #attributes(handle: Handle): KeyAttributes {
    const flag = (type: number) => this.#login.attribute(handle, type)?.[0] === 1;
    return {
      token: flag(CKA_TOKEN),
      private: flag(CKA_PRIVATE),
      sensitive: flag(CKA_SENSITIVE),
      extractable: flag(CKA_EXTRACTABLE),
      always_sensitive: flag(CKA_ALWAYS_SENSITIVE),
      never_extractable: flag(CKA_NEVER_EXTRACTABLE),
      local: flag(CKA_LOCAL),
    };
  }

  /** Both halves, the private one first: a public object left alone harms nobody. */
  #removeAll(key: KeyId): void {
    for (const objectClass of [CKO_PRIVATE_KEY, CKO_PUBLIC_KEY]) {
      for (const handle of this.#login.find(this.#ofClass(objectClass, key))) {
        this.#login.cryptoki.destroyObject(this.#login.anchor, handle);
      }
    }
  }
}

// CKR_CURVE_NOT_SUPPORTED, CKR_DOMAIN_PARAMS_INVALID, CKR_ATTRIBUTE_VALUE_INVALID, CKR_MECHANISM_INVALID,
// CKR_MECHANISM_PARAM_INVALID
const refusedForms: ReadonlySet<number> = new Set([0x140, 0x130, 0x13, 0x70, 0x71]);

// How many keys are looked for until the token has to be believed without a signature.
const witnesses_max = 3;

const interrupted = (slot: SlotId) =>
  new KeyslotError('TOKEN_UNAVAILABLE', `The token of slot ${slot} was lost while its keys were listed.`, {
    retryAfter_s: 1,
  });

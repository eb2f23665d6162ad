import { randomBytes } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Handle } from 'pkcs11js';
import type {
  Destroys,
  Generates,
  Imports,
  KeyAttributes,
  KeyInfo,
  Session,
  Signer,
} from '../../custody/engine.ts';
import { isId, type KeyId, type PublicKeyBytes, type SlotId } from '../../custody/ids.ts';
import { createVerifier, publicKeyFromSeed, seed_bytes } from '../../foundation/ed25519.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import type { Secret } from '../../foundation/secret.ts';
import {
  CKA_ALWAYS_SENSITIVE,
  CKA_CLASS,
  CKA_EC_PARAMS,
  CKA_EC_POINT,
  CKA_EXTRACTABLE,
  CKA_ID,
  CKA_KEY_TYPE,
  CKA_LABEL,
  CKA_LOCAL,
  CKA_NEVER_EXTRACTABLE,
  CKA_PRIVATE,
  CKA_SENSITIVE,
  CKA_SIGN,
  CKA_TOKEN,
  CKA_VALUE,
  CKA_VERIFY,
  CKK_EC_EDWARDS,
  CKM_EC_EDWARDS_KEY_PAIR_GEN,
  CKO_PRIVATE_KEY,
  CKO_PUBLIC_KEY,
} from './constants.ts';
import { type AttributeValue, CkrError, template } from './cryptoki.ts';
import { ecPointOf, edwards25519Params, publicKeyOfEcPoint } from './ec.ts';
import type { TokenLogin } from './login.ts';
import { Pkcs11Signer } from './signer.ts';

/**
 * The keys inside a token that is logged in. They are found by CKA_ID, which holds the key id as text, as does
 * CKA_LABEL; exactly one private key may match.
 */
export class Pkcs11Session implements Session, Generates, Imports, Destroys {
  readonly slot: SlotId;
  readonly #login: TokenLogin;

  constructor(login: TokenLogin) {
    this.slot = login.slot;
    this.#login = login;
  }

  async *keys(): AsyncIterable<KeyInfo> {
    const privates = this.#login.work(() =>
      this.#login.find(template([CKA_CLASS, CKO_PRIVATE_KEY], edwards)),
    );
    const points = this.#login.work(() => this.#publicPoints());
    for (const [at, handle] of privates.entries()) {
      // Thousands of keys are thousands of blocking reads: let others have their turn in between.
      if (at % 32 === 31) await nextTurn();
      const info = this.#login.work(() => this.#listed(handle, points));
      if (info) yield info;
    }
  }

  async signer(key: KeyId): Promise<Signer> {
    const handle = this.#login.work(() => this.#privateKey(key));
    const info = this.#login.work(() => this.#describe(key, handle));
    return new Pkcs11Signer({
      key: info,
      handle,
      cryptoki: this.#login.cryptoki,
      pool: this.#login.pool,
      refind: () => this.#refind(info),
    });
  }

  /** Makes the pair inside the token: TOKEN, PRIVATE, SENSITIVE, not extractable, all of it read back. */
  async generate(key: KeyId): Promise<KeyInfo> {
    return this.#made(key, () => this.#generatePair(key));
  }

  async import(key: KeyId, seed: Secret): Promise<KeyInfo> {
    if (seed.length !== seed_bytes) {
      throw new KeyslotError('KEY_MATERIAL_INVALID', `A seed has 32 bytes, not ${seed.length}.`);
    }
    const publicKey = seed.use(publicKeyFromSeed);
    return this.#made(key, () => this.#createPair(key, seed, publicKey), publicKey);
  }

  async destroy(key: KeyId): Promise<void> {
    this.#login.work(() => {
      this.#privateKey(key);
      this.#removeAll(key);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#login.close();
  }

  #privateKey(key: KeyId): Handle {
    const [handle, second] = this.#login.find(ofClass(CKO_PRIVATE_KEY, key));
    if (handle === undefined) throw new KeyslotError('KEY_UNKNOWN', `Slot ${this.slot} holds no key ${key}.`);
    if (second) throw new KeyslotError('KEY_AMBIGUOUS', `Slot ${this.slot} holds several keys ${key}.`);
    return handle;
  }

  #refuseExisting(key: KeyId): void {
    if (this.#login.find(template([CKA_ID, Buffer.from(key)])).length > 0) {
      throw new KeyslotError('KEY_EXISTS', `Slot ${this.slot} holds an object ${key} already.`);
    }
  }

  /** After a stale handle: the same key under a new handle, or nothing when it has gone or is another one. */
  #refind(info: KeyInfo): Handle | undefined {
    return this.#login.work(() => {
      const [handle, second] = this.#login.find(ofClass(CKO_PRIVATE_KEY, info.id));
      if (handle === undefined || second) return undefined;
      return Buffer.compare(this.#publicKey(info.id, handle), info.publicKey) === 0 ? handle : undefined;
    });
  }

  #generatePair(key: KeyId): void {
    this.#firstAccepted(params =>
      this.#login.cryptoki.generateKeyPair(
        this.#login.anchor,
        CKM_EC_EDWARDS_KEY_PAIR_GEN,
        template([CKA_EC_PARAMS, params], ...publicAttributes(key)),
        template(...privateAttributes(key)),
      ),
    );
  }

  /** C_CreateObject for both halves; the copy of the seed that the addon reads is wiped behind it. */
  #createPair(key: KeyId, seed: Secret, publicKey: Uint8Array): void {
    const value = Buffer.alloc(seed_bytes);
    seed.use(bytes => value.set(bytes));
    try {
      this.#firstAccepted(params =>
        this.#login.cryptoki.createObject(
          this.#login.anchor,
          template(
            [CKA_CLASS, CKO_PRIVATE_KEY],
            edwards,
            [CKA_EC_PARAMS, params],
            [CKA_VALUE, value],
            ...privateAttributes(key),
          ),
        ),
      );
      this.#firstAccepted(params =>
        this.#login.cryptoki.createObject(
          this.#login.anchor,
          template(
            [CKA_CLASS, CKO_PUBLIC_KEY],
            edwards,
            [CKA_EC_PARAMS, params],
            [CKA_EC_POINT, ecPointOf(publicKey)],
            ...publicAttributes(key),
          ),
        ),
      );
    } finally {
      value.fill(0);
    }
  }

  /** Tokens differ in how they want the curve named: the second form is tried when the first is not known. */
  #firstAccepted<T>(attempt: (params: Buffer) => T): T {
    const [first, second] = edwards25519Params;
    if (first === undefined || second === undefined) throw new RangeError('Two forms of EC_PARAMS exist.');
    try {
      return attempt(first);
    } catch (thrown) {
      if (!(thrown instanceof CkrError) || !curveRefusals.has(thrown.ckr)) throw thrown;
      return attempt(second);
    }
  }

  /** A new key is there whole and proven, or not at all. Looking and making is one turn of the event loop. */
  async #made(key: KeyId, make: () => void, expected?: Uint8Array): Promise<KeyInfo> {
    this.#login.work(() => this.#refuseExisting(key));
    try {
      this.#login.work(make);
      return await this.#proven(key, expected);
    } catch (error) {
      if (!this.#login.closing) this.#login.work(() => this.#removeAll(key));
      throw error;
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
    const id = this.#login.attribute(handle, CKA_ID)?.toString('latin1') ?? '';
    return isId(id) ? this.#describe(id as KeyId, handle, points.get(id)) : undefined;
  }

  /** All public keys in one search, because a search costs as much as the token has objects. */
  #publicPoints(): ReadonlyMap<string, PublicKeyBytes> {
    const points = new Map<string, PublicKeyBytes>();
    for (const handle of this.#login.find(template([CKA_CLASS, CKO_PUBLIC_KEY], edwards))) {
      const id = this.#login.attribute(handle, CKA_ID)?.toString('latin1');
      const point = this.#login.attribute(handle, CKA_EC_POINT);
      if (id && point) points.set(id, publicKeyOfEcPoint(point));
    }
    return points;
  }

  /** From the public object; some tokens keep none and show the point on the private key instead. */
  #publicKey(key: KeyId, privateHandle: Handle): PublicKeyBytes {
    const [publicHandle] = this.#login.find(ofClass(CKO_PUBLIC_KEY, key));
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
      for (const handle of this.#login.find(ofClass(objectClass, key))) {
        this.#login.cryptoki.destroyObject(this.#login.anchor, handle);
      }
    }
  }
}

const edwards = [CKA_KEY_TYPE, CKK_EC_EDWARDS] as const;

// CKR_CURVE_NOT_SUPPORTED, CKR_DOMAIN_PARAMS_INVALID, CKR_ATTRIBUTE_VALUE_INVALID
const curveRefusals: ReadonlySet<number> = new Set([0x140, 0x130, 0x13]);

const ofClass = (objectClass: number, key: KeyId) =>
  template([CKA_CLASS, objectClass], [CKA_ID, Buffer.from(key)]);

// The smallest templates that all known tokens take: a YubiHSM refuses every attribute beyond these.
type Attributes = readonly (readonly [number, AttributeValue])[];

const named = (key: KeyId): Attributes => [
  [CKA_ID, Buffer.from(key)],
  [CKA_LABEL, Buffer.from(key)],
];

const publicAttributes = (key: KeyId): Attributes => [[CKA_TOKEN, true], [CKA_VERIFY, true], ...named(key)];

const privateAttributes = (key: KeyId): Attributes => [
  [CKA_TOKEN, true],
  [CKA_PRIVATE, true],
  [CKA_SENSITIVE, true],
  [CKA_EXTRACTABLE, false],
  [CKA_SIGN, true],
  ...named(key),
];

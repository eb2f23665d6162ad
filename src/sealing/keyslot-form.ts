import { createCipheriv, createDecipheriv, hkdfSync, randomBytes, timingSafeEqual } from 'node:crypto';
import { isId, type KeyId, type PublicKeyBytes, publicKeyBytes } from '../custody/ids.ts';
import { decodeBase58, encodeBase58 } from '../foundation/base58.ts';
import { encodeBase64 } from '../foundation/base64.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { Secret } from '../foundation/secret.ts';
import {
  bytesField,
  fieldsOfFile,
  type JsonFields,
  malformed,
  numberField,
  objectsField,
  textField,
} from './json-fields.ts';
import { type ScryptCost, scryptKey } from './kdf.ts';
import type { KeyFolder } from './key-folder.ts';
import type { KeyForm, SealedKey } from './key-form.ts';

/**
 * Keyslot's own form. A folder has one header, which turns the secret of the slot into a slot key with scrypt,
 * once, when the slot opens, and knows at once whether the secret is right. Every key is one file, sealed with
 * AES-256-GCM under HKDF-SHA-256(slot key, key id); key id, public key, slot, engine and version are its
 * associated data, so a file that is renamed, swapped or edited does not open.
 *
 * A slot may have several secrets, each with a slot key of its own; the seed is then dealt out into as many
 * parts by a `Dealing`.
 */
export class KeyslotForm implements KeyForm, Disposable {
  readonly suffix = keyslotSuffix;
  /** Which of the secrets are not the right ones; those that were not given are not among them. */
  readonly wrongSecrets: readonly number[];
  readonly #place: Place;
  readonly #keys: readonly (Secret | undefined)[];
  readonly #dealing: Dealing;

  private constructor(place: Place, unlocked: Unlocked, dealing: Dealing) {
    this.#place = place;
    this.#keys = unlocked.keys;
    this.wrongSecrets = unlocked.wrong;
    this.#dealing = dealing;
  }

  /**
   * Opens the header with the secrets, or makes it in a folder that has none: then these secrets are the
   * slot's from now on. PIN_REFUSED when fewer than `needed` are right, NODE_SECRET_MISSING when a header is to
   * be made with fewer than all, KEY_FILE_FOREIGN when the folder is another slot's, KEY_FILE_MALFORMED, also
   * when there are key files and no header: a new one would open none of them.
   */
  static async unlock(
    folder: HeaderFolder,
    place: Place,
    lock: { secrets: readonly (Secret | undefined)[]; needed: number; dealing?: Dealing },
    signal?: AbortSignal,
  ): Promise<KeyslotForm> {
    const orphan = (await folder.list()).find(isKeyFile); // looked for first: a header is there before its keys
    const found = await readHeader(folder, place);
    if (!found && orphan) throw malformed(folder.path, `has ${orphan} and lost its ${headerFile}`);
    const header = found ?? (await makeHeader(folder, place, lock.secrets, signal));
    const unlocked = await unlockWith(header, place, lock.secrets, signal);
    const form = new KeyslotForm(place, unlocked, lock.dealing ?? undealt);
    if (unlocked.keys.filter(key => key !== undefined).length >= lock.needed) return form;
    form[Symbol.dispose]();
    throw new KeyslotError('PIN_REFUSED', `The secret is not the one that slot ${place.slot} was made with.`);
  }

  /** Whether the folder was ever used in this form. */
  static async isIn(folder: HeaderFolder): Promise<boolean> {
    return (await folder.has(headerFile)) || (await folder.list()).some(isKeyFile);
  }

  /** Whose folder it is, as its header states it; nothing for one without a header. KEY_FILE_MALFORMED. */
  static async placeIn(folder: HeaderFolder): Promise<Place | undefined> {
    const file = await folder.read(headerFile);
    if (!file) return undefined;
    const fields = fieldsOfFile(file, headerFile);
    refuseOther(fields, 'keyslot-slot', headerFile);
    return { engine: textField(fields, 'engine', headerFile), slot: textField(fields, 'slot', headerFile) };
  }

  read(key: KeyId, file: Uint8Array): SealedKey {
    const what = `${key}${this.suffix}`;
    const fields = fieldsOfFile(file, what);
    refuseOther(fields, 'keyslot-key', what);
    if (textField(fields, 'alg', what) !== algorithm) throw malformed(what, 'names another algorithm');
    const stated = { engine: textField(fields, 'engine', what), slot: textField(fields, 'slot', what) };
    if (
      textField(fields, 'key', what) !== key ||
      stated.slot !== this.#place.slot ||
      stated.engine !== this.#place.engine
    ) {
      throw new KeyslotError('KEY_FILE_FOREIGN', `${what} was sealed for another key or slot.`);
    }
    const publicKey = publicKeyField(textField(fields, 'publicKey', what), what);
    const parts = objectsField(fields, 'parts', what).map(part => ({
      iv: bytesField(part, 'iv', 12, what),
      tag: bytesField(part, 'tag', 16, what),
      data: bytesField(part, 'data', undefined, what),
    }));
    if (parts.length !== this.#keys.length) {
      throw malformed(what, `has ${parts.length} parts`);
    }
    return { publicKey, unseal: async () => this.#unseal(key, publicKey, parts) };
  }

  async seal(key: KeyId, publicKey: PublicKeyBytes, seed: Secret): Promise<Uint8Array> {
    const slotKeys = this.#keys.map(slotKey => {
      if (slotKey) return slotKey;
      throw new KeyslotError(
        'NODE_SECRET_MISSING',
        `Slot ${this.#place.slot} is open without all its secrets.`,
      );
    });
    using dealt = new DisposableStack();
    const parts = this.#dealing.deal(seed).map(part => dealt.use(part));
    const file = {
      format: 'keyslot-key',
      v: 1,
      alg: algorithm,
      ...this.#place,
      key,
      publicKey: encodeBase58(publicKey),
      parts: slotKeys.map((slotKey, at) => {
        const part = parts[at];
        if (!part) throw new RangeError('A seed is dealt into as many parts as there are secrets.');
        return this.#sealPart(slotKey, part, this.#binding(key, publicKey, at));
      }),
      createdAt: new Date().toISOString(),
    };
    return Buffer.from(`${JSON.stringify(file, undefined, 1)}\n`);
  }

  [Symbol.dispose](): void {
    for (const key of this.#keys) key?.[Symbol.dispose]();
  }

  #unseal(key: KeyId, publicKey: PublicKeyBytes, parts: readonly SealedPart[]): Secret {
    using opened = new DisposableStack();
    const held = parts.map((part, at) => {
      const slotKey = this.#keys[at];
      const plain = slotKey && this.#openPart(slotKey, part, this.#binding(key, publicKey, at));
      return plain && opened.use(plain);
    });
    return this.#dealing.gather(held, publicKey, key);
  }

  #sealPart(slotKey: Secret, part: Secret, binding: Binding) {
    const iv = randomBytes(12);
    using key = partKey(slotKey, binding);
    const cipher = key.use(bytes => createCipheriv('aes-256-gcm', bytes, iv));
    cipher.setAAD(binding.associated);
    const data = Buffer.concat([part.use(bytes => cipher.update(bytes)), cipher.final()]);
    return { iv: encodeBase64(iv), tag: encodeBase64(cipher.getAuthTag()), data: encodeBase64(data) };
  }

  /** Nothing when the part does not open: it was changed, or its key is another one. */
  #openPart(slotKey: Secret, { iv, tag, data }: SealedPart, binding: Binding): Secret | undefined {
    using key = partKey(slotKey, binding);
    const decipher = key.use(bytes => createDecipheriv('aes-256-gcm', bytes, iv, { authTagLength: 16 }));
    decipher.setAAD(binding.associated);
    decipher.setAuthTag(tag);
    const plain = Secret.fromBytes(decipher.update(data), { wipe: true });
    try {
      decipher.final();
      return plain;
    } catch {
      // The only thing that final() of GCM can say: the tag does not fit. The caller names what that means.
      plain[Symbol.dispose]();
      return undefined;
    }
  }

  #binding(key: KeyId, publicKey: PublicKeyBytes, part: number): Binding {
    const { engine, slot } = this.#place;
    const bound = ['keyslot-key', 1, algorithm, engine, slot, key, encodeBase58(publicKey)];
    const associated = Buffer.from(JSON.stringify([...bound, part, this.#keys.length]));
    return { key, associated };
  }
}

export const keyslotSuffix = '.keyslot.json';

const isKeyFile = (name: string): boolean =>
  name.endsWith(keyslotSuffix) && isId(name.slice(0, -keyslotSuffix.length));

/** What of a folder a header takes. */
export type HeaderFolder = Pick<KeyFolder, 'path' | 'list' | 'has' | 'read' | 'create'>;

/** Where the files belong; part of everything that is sealed. */
export interface Place {
  readonly engine: string;
  readonly slot: string;
}

/** How a seed becomes one part for each secret, and comes back from those that could be opened. */
export interface Dealing {
  deal(seed: Secret): readonly Secret[];
  /** The parts stay the caller's. KEY_FILE_TAMPERED, SHARES_INSUFFICIENT. */
  gather(parts: readonly (Secret | undefined)[], publicKey: PublicKeyBytes, key: KeyId): Secret;
}

const undealt: Dealing = {
  deal: seed => [seed.copy()],
  gather: ([part], _publicKey, key) => {
    if (part) return part.copy();
    throw new KeyslotError('KEY_FILE_TAMPERED', `The file of ${key} does not open with the key of its slot.`);
  },
};

interface SealedPart {
  readonly iv: Buffer;
  readonly tag: Buffer;
  readonly data: Buffer;
}

interface Binding {
  readonly key: KeyId;
  readonly associated: Buffer;
}

const algorithm = 'HKDF-SHA-256+AES-256-GCM';

const partKey = (slotKey: Secret, { key }: Binding): Secret => derived(slotKey, `keyslot/v1/key/${key}`);

const derived = (key: Secret, purpose: string): Secret =>
  key.use(bytes =>
    Secret.fromBytes(new Uint8Array(hkdfSync('sha256', bytes, '', purpose, 32)), { wipe: true }),
  );

// The header: one lock for each secret, with the salt of its scrypt and a verifier.

/** Not a key id, so no key file ever has this name; and not hidden, so that a copy of the folder has it too. */
export const headerFile = 'KEYSLOT-SLOT.json';

const cost: ScryptCost = { N: 2 ** 17, r: 8, p: 1 };
const cost_N_max = 2 ** 20;

interface Header {
  readonly cost: ScryptCost;
  readonly locks: readonly { readonly salt: Buffer; readonly verifier: Buffer }[];
}

interface Unlocked {
  readonly keys: readonly (Secret | undefined)[];
  readonly wrong: readonly number[];
}

async function readHeader(folder: HeaderFolder, place: Place): Promise<Header | undefined> {
  const file = await folder.read(headerFile);
  if (!file) return undefined;
  const fields = fieldsOfFile(file, headerFile);
  refuseOther(fields, 'keyslot-slot', headerFile);
  const slot = textField(fields, 'slot', headerFile);
  const engine = textField(fields, 'engine', headerFile);
  if (slot !== place.slot || engine !== place.engine) {
    throw new KeyslotError(
      'KEY_FILE_FOREIGN',
      `${folder.path} belongs to the ${engine} slot ${slot}, not to the ${place.engine} slot ${place.slot}.`,
    );
  }
  const N = numberField(fields, 'N', headerFile);
  const rest = { r: numberField(fields, 'r', headerFile), p: numberField(fields, 'p', headerFile) };
  const isKnown = textField(fields, 'kdf', headerFile) === 'scrypt' && rest.r === cost.r && rest.p === cost.p;
  if (!isKnown || !Number.isInteger(Math.log2(N)) || N < cost.N || N > cost_N_max) {
    throw malformed(headerFile, 'asks for a key derivation that is not accepted');
  }
  return {
    cost: { ...cost, N },
    locks: objectsField(fields, 'locks', headerFile).map(lock => ({
      salt: bytesField(lock, 'salt', 32, headerFile),
      verifier: bytesField(lock, 'verifier', 32, headerFile),
    })),
  };
}

async function makeHeader(
  folder: HeaderFolder,
  place: Place,
  secrets: readonly (Secret | undefined)[],
  signal: AbortSignal | undefined,
): Promise<Header> {
  const given = secrets.filter(secret => secret !== undefined);
  if (given.length < secrets.length) {
    throw new KeyslotError('NODE_SECRET_MISSING', `A new slot ${place.slot} takes all its secrets.`);
  }
  const locks = await Promise.all(
    given.map(async (secret, at) => {
      const salt = randomBytes(32);
      using key = await scryptKey(secret, salt, cost, signal);
      using verifier = derived(key, verifierOf(place, at));
      return { salt: encodeBase64(salt), verifier: verifier.use(encodeBase64) };
    }),
  );
  const header = { format: 'keyslot-slot', v: 1, ...place, kdf: 'scrypt', ...cost, locks };
  const content = Buffer.from(`${JSON.stringify(header, undefined, 1)}\n`);
  try {
    await folder.create(headerFile, content);
  } catch (error) {
    if (!(error instanceof KeyslotError) || error.code !== 'KEY_EXISTS') throw error; // else: somebody was faster
  }
  const written = await readHeader(folder, place);
  if (written) return written;
  throw new KeyslotError('KEY_FILE_UNWRITABLE', `${folder.path} lost its header.`);
}

async function unlockWith(
  { cost: asked, locks }: Header,
  place: Place,
  secrets: readonly (Secret | undefined)[],
  signal: AbortSignal | undefined,
): Promise<Unlocked> {
  if (locks.length !== secrets.length) {
    throw malformed(headerFile, `has ${locks.length} locks`);
  }
  const wrong: number[] = [];
  const settled = await Promise.allSettled(
    locks.map(async ({ salt, verifier }, at) => {
      const secret = secrets[at];
      if (!secret) return undefined;
      const key = await scryptKey(secret, salt, asked, signal);
      using found = derived(key, verifierOf(place, at));
      if (found.use(bytes => timingSafeEqual(bytes, verifier))) return key;
      key[Symbol.dispose]();
      wrong.push(at);
      return undefined;
    }),
  );
  const keys = settled.map(each => (each.status === 'fulfilled' ? each.value : undefined));
  const failed = settled.find(each => each.status === 'rejected');
  if (!failed) return { keys, wrong: wrong.toSorted((a, b) => a - b) };
  for (const key of keys) key?.[Symbol.dispose]();
  throw failed.reason;
}

const verifierOf = ({ engine, slot }: Place, at: number): string =>
  `keyslot/v1/verifier/${engine}/${slot}/${at}`;

/** KEY_FILE_MALFORMED for what is not this format in version 1. */
function refuseOther(fields: JsonFields, format: string, what: string): void {
  if (textField(fields, 'format', what) !== format || numberField(fields, 'v', what) !== 1) {
    throw malformed(what, `is not a ${format} of version 1`);
  }
}

function publicKeyField(text: string, what: string): PublicKeyBytes {
  const bytes = decodeBase58(text);
  if (bytes?.length === 32) return publicKeyBytes(bytes);
  throw malformed(what, 'states no public key');
}

import { existsSync, lstatSync } from 'node:fs';
import { join } from 'node:path';
import { isId, type KeyId } from '../custody/ids.ts';
import { encodeBase58 } from '../foundation/base58.ts';
import { publicKeyFromSeed } from '../foundation/ed25519.ts';
import { KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { InspectedFolder } from '../sealing/inspected-folder.ts';
import { fieldsOfFile } from '../sealing/json-fields.ts';
import type { KeyForm } from '../sealing/key-form.ts';
import { headerFile, KeyslotForm } from '../sealing/keyslot-form.ts';
import { formOfFile } from '../sealing/page-envelopes.ts';
import {
  backendOfEngine,
  envelopeNamed,
  type FileBackend,
  type PageCustody,
  pageCustody,
  suffixOf,
} from './page-custody.ts';

/** One key file that was looked at. With a `problem` it holds what could be found out all the same. */
export interface InspectedEnvelope {
  readonly walletId: string;
  readonly backend?: FileBackend;
  readonly form?: 'documented' | 'deployed' | 'keyslot';
  /** In base58; only of a file that opened. */
  readonly publicKey?: string;
  readonly problem?: string;
}

export interface Inspection {
  readonly folder: string;
  /** In the order of their ids. */
  readonly envelopes: readonly InspectedEnvelope[];
  /** How many files others than their owner can read or change. */
  readonly loose: number;
}

/**
 * Opens every key file of a folder, or of its `keys` folder, with the secrets of the environment, and changes
 * nothing. What cannot be opened is a problem of that file alone. HOME_INVALID when the folder cannot be read.
 */
export async function inspectEnvelopes(
  path: string,
  progress: (done: number, of: number) => void,
): Promise<Inspection> {
  const folder = new InspectedFolder(keysIn(path));
  const names = (await folder.list()).filter(name => name !== headerFile && envelopeNamed(name)).toSorted();
  await using examiner = new Examiner(folder);
  const envelopes: InspectedEnvelope[] = [];
  progress(0, names.length);
  for (let at = 0; at < names.length; at += atOnce) {
    const some = names.slice(at, at + atOnce).map(name => examiner.examine(name));
    envelopes.push(...(await Promise.all(some)));
    progress(envelopes.length, names.length);
  }
  return { folder: folder.path, envelopes: envelopes.toSorted(byWallet), loose: folder.loose };
}

/** Opening a file is a key derivation on another thread, and two of them run at a time. */
const atOnce = 4;

const byWallet = (one: InspectedEnvelope, other: InspectedEnvelope): number =>
  one.walletId < other.walletId ? -1 : Number(one.walletId > other.walletId);

/** The data folder of the agentic-wallet program keeps its files in `keys`. */
function keysIn(path: string): string {
  const below = join(path, 'keys');
  return existsSync(below) && lstatSync(below).isDirectory() ? below : path;
}

/** Every backend's secrets are read once, when its first file is met; one that lacks them fails its own files. */
class Examiner implements AsyncDisposable {
  readonly #folder: InspectedFolder;
  readonly #custodies = new Map<FileBackend, Promise<PageCustody>>();
  readonly #oddShares = new Map<string, readonly number[]>();
  #own: Promise<KeyslotForm> | undefined;

  constructor(folder: InspectedFolder) {
    this.#folder = folder;
  }

  async examine(name: string): Promise<InspectedEnvelope> {
    const { id, kind } = envelopeNamed(name) ?? { id: name, kind: 'keyslot' };
    const known: Known = { walletId: id, ...(kind === 'keyslot' ? {} : { backend: kind }) };
    try {
      if (!isId(id)) throw new KeyslotError('KEY_ID_INVALID', `${name} is not named for a key.`);
      const file = await this.#folder.read(name);
      if (!file) throw new KeyslotError('KEY_UNKNOWN', `${name} has gone meanwhile.`);
      const form =
        kind === 'keyslot'
          ? await this.#ownForm(known, file, name)
          : await this.#pageForm(known, file, name, kind);
      known.publicKey = await publicKeyIn(form, id as KeyId, file);
      const odd = this.#oddShares.get(id);
      if (odd)
        known.problem = `share ${odd.join(', ')} is damaged or does not fit; the other two open the key`;
    } catch (thrown) {
      const { code, message } = toKeyslotError(thrown);
      known.problem = `${code}: ${message}`;
    }
    return known;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    (await this.#own?.catch(() => undefined))?.[Symbol.dispose]();
    for (const custody of this.#custodies.values()) {
      (await custody.catch(() => undefined))?.[Symbol.dispose]();
    }
  }

  async #pageForm(known: Known, file: Uint8Array, name: string, backend: FileBackend): Promise<KeyForm> {
    known.form = formOfFile(suffixOf[backend], file, name);
    return (await this.#custody(backend)).page;
  }

  #custody(backend: FileBackend): Promise<PageCustody> {
    const known = this.#custodies.get(backend);
    if (known) return known;
    const made = pageCustody(backend, (key, shares) => this.#oddShares.set(key, shares));
    this.#custodies.set(backend, made);
    return made;
  }

  async #ownForm(known: Known, file: Uint8Array, name: string): Promise<KeyForm> {
    known.form = 'keyslot';
    const { engine, format } = fieldsOfFile(file, name);
    const backend = backendOfSealer[String(engine ?? format)] ?? backendOfEngine(String(engine));
    if (backend) known.backend = backend;
    this.#own ??= this.#unlocked();
    return await this.#own;
  }

  /** The header is there already or nothing opens: none is made. KEY_FILE_MALFORMED, PIN_REFUSED. */
  async #unlocked(): Promise<KeyslotForm> {
    const place = await KeyslotForm.placeIn(this.#folder);
    if (!place) {
      throw new KeyslotError(
        'KEY_FILE_MALFORMED',
        `There is no ${headerFile} beside it: no secret opens it, but maybe the token or the KMS of its slot.`,
      );
    }
    const backend = backendOfEngine(place.engine);
    if (!backend) throw new KeyslotError('KEY_FILE_FOREIGN', `${headerFile} is of another engine's slot.`);
    const { lock } = await this.#custody(backend);
    return await KeyslotForm.unlock(this.#folder, place, lock);
  }
}

type Known = { -readonly [F in keyof InspectedEnvelope]: InspectedEnvelope[F] };

/** Files in Keyslot's form that a token or AWS KMS seals, by the engine or the format that they state. */
const backendOfSealer: Readonly<Record<string, FileBackend>> = {
  pkcs11: 'hsm',
  'keyslot-kms-envelope': 'kms',
  'keyslot-kms-key': 'kms',
};

async function publicKeyIn(form: KeyForm, id: KeyId, file: Uint8Array): Promise<string> {
  const sealed = form.read(id, file);
  using seed = await sealed.unseal();
  const publicKey = seed.use(publicKeyFromSeed);
  if (sealed.publicKey && Buffer.compare(sealed.publicKey, publicKey) !== 0) {
    throw new KeyslotError('KEY_FILE_FOREIGN', `The file of ${id} states another public key than it holds.`);
  }
  return encodeBase58(publicKey);
}

import { isId, type KeyId, type PublicKeyBytes, publicKeyBytes, type SlotId } from '../../custody/ids.ts';
import { decodeBase58, encodeBase58 } from '../../foundation/base58.ts';
import { KeyslotError, toKeyslotError } from '../../foundation/errors.ts';
import type { Log } from '../../foundation/log.ts';
import { fieldsOfFile, malformed, refuseOtherThan, textField } from '../../sealing/json-fields.ts';
import type { KeyFolder } from '../../sealing/key-folder.ts';

/** Which KMS key a key id stands for. */
export interface Binding {
  readonly key: KeyId;
  readonly kmsKey: string;
  readonly publicKey: PublicKeyBytes;
  /** Whether this slot had KMS make the key; only such a key is ever scheduled for deletion. */
  readonly origin: 'generated' | 'adopted';
}

/**
 * The bindings of one slot, each a small file. They hold no secret: what they say is held against KMS when a
 * signer is asked for, and against the registry by whoever keeps one.
 */
export class Bindings {
  readonly #slot: SlotId;
  readonly #folder: KeyFolder;
  readonly #log: Log;
  readonly #known = new Map<KeyId, Binding>();
  #removals = 0;

  constructor(slot: SlotId, folder: KeyFolder, log: Log) {
    this.#slot = slot;
    this.#folder = folder;
    this.#log = log;
  }

  /** Nothing when there is no such key. KEY_FILE_MALFORMED, KEY_FILE_FOREIGN, KEY_FILE_UNSAFE. */
  async find(key: KeyId): Promise<Binding | undefined> {
    if (!isId(key)) return undefined;
    const known = this.#known.get(key);
    if (known) return known;
    const removals = this.#removals;
    const file = await this.#folder.read(nameOf(key));
    if (this.#removals !== removals) return await this.find(key); // what was read may be gone
    if (file === undefined) return undefined;
    const binding = this.#known.get(key) ?? this.#parse(key, file); // one object for all who look
    this.#known.set(key, binding);
    return binding;
  }

  /** A file that cannot be read is left out and said in the log. */
  async all(): Promise<readonly Binding[]> {
    const bindings: Binding[] = [];
    for (const name of await this.#folder.list()) {
      const key = name.slice(0, -suffix.length);
      if (!name.endsWith(suffix) || !isId(key)) continue;
      try {
        const binding = await this.find(key as KeyId);
        if (binding) bindings.push(binding);
      } catch (thrown) {
        const { code, message } = toKeyslotError(thrown);
        this.#log.warn({ slot: this.#slot, key, code, detail: message }, 'a key file is damaged');
      }
    }
    return bindings;
  }

  /** Whether the very same binding still stands: an id that was bound anew names another key. */
  holds(binding: Binding): boolean {
    return this.#known.get(binding.key) === binding;
  }

  /** Durable when this resolves. KEY_EXISTS, KEY_FILE_UNWRITABLE. */
  async add(binding: Binding): Promise<void> {
    const { key, kmsKey, publicKey, origin } = binding;
    const file = {
      format,
      v: version,
      slot: this.#slot,
      key,
      publicKey: encodeBase58(publicKey),
      kmsKey,
      origin,
      createdAt: new Date().toISOString(),
    };
    await this.#folder.create(nameOf(key), Buffer.from(`${JSON.stringify(file, undefined, 1)}\n`));
    if (!this.#known.has(key)) this.#known.set(key, binding); // somebody may have read the file already
  }

  async remove(key: KeyId): Promise<void> {
    await this.#folder.remove(nameOf(key));
    this.#removals += 1;
    this.#known.delete(key);
  }

  #parse(key: KeyId, file: Uint8Array): Binding {
    const what = nameOf(key);
    const fields = fieldsOfFile(file, what);
    if (textField(fields, 'format', what) !== format) throw malformed(what, `is no ${format} file`);
    refuseOtherThan(version, fields, 'v', what);
    if (textField(fields, 'slot', what) !== this.#slot || textField(fields, 'key', what) !== key) {
      throw new KeyslotError('KEY_FILE_FOREIGN', `${what} was written for another key or slot.`);
    }
    const publicKey = decodeBase58(textField(fields, 'publicKey', what));
    if (publicKey?.length !== 32) throw malformed(what, 'states no public key');
    const origin = textField(fields, 'origin', what);
    if (origin !== 'generated' && origin !== 'adopted') throw malformed(what, 'states no known origin');
    return {
      key,
      kmsKey: textField(fields, 'kmsKey', what),
      publicKey: publicKeyBytes(publicKey),
      origin,
    };
  }
}

const format = 'keyslot-kms-key';
const version = 1;
const suffix = '.keyslot.json';

const nameOf = (key: KeyId): string => `${key}${suffix}`;

import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { type KeyId, type PublicKeyBytes, publicKeyBytes, type SlotId } from '../../custody/ids.ts';
import { decodeBase58, encodeBase58 } from '../../foundation/base58.ts';
import { encodeBase64 } from '../../foundation/base64.ts';
import { seed_bytes } from '../../foundation/ed25519.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import { Secret } from '../../foundation/secret.ts';
import {
  bytesField,
  fieldsOfFile,
  malformed,
  refuseOtherThan,
  textField,
} from '../../sealing/json-fields.ts';
import type { KeyForm, SealedKey } from '../../sealing/key-form.ts';
import type { EncryptionContext, KmsClient } from './client.ts';

/**
 * A seed under a data key of its own (AES-256-GCM), and the data key sealed by KMS. What the file says of
 * itself is bound twice: as the associated data of the seed, and, in part, as the encryption context without
 * which KMS does not open the data key. The context is not secret; CloudTrail and key policies see it.
 */
export class KmsEnvelopeForm implements KeyForm {
  readonly suffix = '.keyslot.json';
  readonly #slot: SlotId;
  readonly #kmsKey: string;
  readonly #client: KmsClient;

  /** `kmsKey` is the ARN that new files are sealed under, and the only one that files are opened with. */
  constructor(slot: SlotId, kmsKey: string, client: KmsClient) {
    this.#slot = slot;
    this.#kmsKey = kmsKey;
    this.#client = client;
  }

  read(key: KeyId, file: Uint8Array): SealedKey {
    const what = `${key}${this.suffix}`;
    const fields = fieldsOfFile(file, what);
    if (textField(fields, 'format', what) !== format) throw malformed(what, `is no ${format} file`);
    refuseOtherThan(version, fields, 'v', what);
    if (textField(fields, 'alg', what) !== algorithm) throw malformed(what, `names another alg`);
    this.#refuseForeign(key, {
      slot: textField(fields, 'slot', what),
      key: textField(fields, 'key', what),
      kmsKey: textField(fields, 'kmsKey', what),
    });
    const publicKey = decodeBase58(textField(fields, 'publicKey', what));
    if (publicKey?.length !== 32) throw malformed(what, 'states no public key');
    const sealed: Sealed = {
      publicKey: publicKeyBytes(publicKey),
      dataKey: bytesField(fields, 'dataKey', undefined, what),
      iv: bytesField(fields, 'iv', iv_bytes, what),
      tag: bytesField(fields, 'tag', tag_bytes, what),
      data: bytesField(fields, 'data', seed_bytes, what),
    };
    return { publicKey: sealed.publicKey, unseal: signal => this.#unseal(key, sealed, signal) };
  }

  async seal(key: KeyId, publicKey: PublicKeyBytes, seed: Secret, signal?: AbortSignal): Promise<Uint8Array> {
    const dataKey = await this.#client.generateDataKey(this.#kmsKey, this.#context(key), signal);
    using plain = dataKey.plain;
    const iv = randomBytes(iv_bytes);
    const cipher = plain.use(bytes => createCipheriv('aes-256-gcm', bytes, iv));
    cipher.setAAD(this.#associated(key, publicKey));
    const data = Buffer.concat([seed.use(bytes => cipher.update(bytes)), cipher.final()]);
    const file = {
      format,
      v: version,
      alg: algorithm,
      slot: this.#slot,
      key,
      publicKey: encodeBase58(publicKey),
      kmsKey: this.#kmsKey,
      dataKey: encodeBase64(dataKey.sealed),
      iv: encodeBase64(iv),
      tag: encodeBase64(cipher.getAuthTag()),
      data: encodeBase64(data),
      createdAt: new Date().toISOString(),
    };
    return Buffer.from(`${JSON.stringify(file, undefined, 1)}\n`);
  }

  async #unseal(key: KeyId, sealed: Sealed, signal: AbortSignal | undefined): Promise<Secret> {
    const { publicKey, dataKey, iv, tag, data } = sealed;
    using plain = await this.#client.decryptDataKey(this.#kmsKey, dataKey, this.#context(key), signal);
    const decipher = plain.use(bytes =>
      createDecipheriv('aes-256-gcm', bytes, iv, { authTagLength: tag_bytes }),
    );
    decipher.setAAD(this.#associated(key, publicKey));
    decipher.setAuthTag(tag);
    const seed = decipher.update(data);
    try {
      decipher.final();
    } catch (cause) {
      seed.fill(0);
      const detail = `${key}${this.suffix} does not open with its data key: it was changed.`;
      throw new KeyslotError('KEY_FILE_TAMPERED', detail, { cause });
    }
    return Secret.fromBytes(seed, { wipe: true });
  }

  /**
   * The file's own word for its KMS key is never asked: whoever can write files could name a key of his own,
   * and have a seed of his own opened with it.
   */
  #refuseForeign(key: KeyId, stated: { slot: string; key: string; kmsKey: string }): void {
    const what = `${key}${this.suffix}`;
    if (stated.slot !== this.#slot || stated.key !== key) {
      throw new KeyslotError('KEY_FILE_FOREIGN', `${what} was sealed for another key or slot.`);
    }
    if (stated.kmsKey !== this.#kmsKey) {
      throw new KeyslotError(
        'KEY_FILE_FOREIGN',
        `${what} was sealed under another KMS key than ${this.#kmsKey}.`,
      );
    }
  }

  #context(key: KeyId): EncryptionContext {
    return { app: 'keyslot', slot: this.#slot, key, v: String(version) };
  }

  #associated(key: KeyId, publicKey: PublicKeyBytes): Buffer {
    const bound = [format, version, algorithm, this.#slot, key, encodeBase58(publicKey), this.#kmsKey];
    return Buffer.from(JSON.stringify(bound));
  }
}

interface Sealed {
  readonly publicKey: PublicKeyBytes;
  readonly dataKey: Buffer;
  readonly iv: Buffer;
  readonly tag: Buffer;
  readonly data: Buffer;
}

const format = 'keyslot-kms-envelope';
const version = 1;
const algorithm = 'AWS-KMS+AES-256-GCM';
const iv_bytes = 12; // NIST SP 800-38D §8.2.2: a random IV; each data key seals once
const tag_bytes = 16;

import { type KeyId, type PublicKeyBytes, publicKeyBytes, type SlotId } from '../../custody/ids.ts';
import { decodeBase58, encodeBase58 } from '../../foundation/base58.ts';
import { encodeBase64 } from '../../foundation/base64.ts';
import { publicKey_bytes } from '../../foundation/ed25519.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import type { Secret } from '../../foundation/secret.ts';
import {
  bytesField,
  fieldsOfFile,
  type JsonFields,
  malformed,
  refuseOtherThan,
  textField,
} from '../../sealing/json-fields.ts';
import type { KeyForm, SealedKey } from '../../sealing/key-form.ts';
import { keyslotSuffix } from '../../sealing/keyslot-form.ts';
import { gcmIv_bytes } from './cryptoki.ts';
import { sealedSeed_bytes, type TokenSealer } from './token-sealer.ts';

/**
 * Key files whose seed only the wrapping key of the token opens.
 *
 * Under the seal (AAD) are format, version, algorithm, slot, key id and public key, so a file opens under its
 * own name, in its own slot, as its own address or not at all. The token is bound by its key alone and not by
 * its serial number, which is another one after a restore or on another member of a cluster; the name of the
 * wrapping key and the date are there for people.
 */
export class WrappedForm implements KeyForm {
  readonly suffix = keyslotSuffix;
  readonly #slot: SlotId;
  readonly #sealer: TokenSealer;

  constructor(slot: SlotId, sealer: TokenSealer) {
    this.#slot = slot;
    this.#sealer = sealer;
  }

  read(key: KeyId, file: Uint8Array): SealedKey {
    const what = `${key}${this.suffix}`;
    const fields = fieldsOfFile(file, what);
    refuseOtherForms(fields, what);
    this.#refuseForeign(key, fields, what);
    const publicKey = publicKeyField(fields, what);
    const sealed = {
      iv: bytesField(fields, 'iv', gcmIv_bytes, what),
      data: bytesField(fields, 'data', sealedSeed_bytes, what),
    };
    const aad = this.#aad(key, publicKey);
    return { publicKey, unseal: signal => this.#sealer.unseal(sealed, aad, what, signal) };
  }

  async seal(key: KeyId, publicKey: PublicKeyBytes, seed: Secret, signal?: AbortSignal): Promise<Uint8Array> {
    const { iv, data } = await this.#sealer.seal(seed, this.#aad(key, publicKey), signal);
    const fields = {
      format,
      v: version,
      engine,
      alg,
      slot: this.#slot,
      key,
      publicKey: encodeBase58(publicKey),
      wrappingKey: this.#sealer.keyName,
      iv: encodeBase64(iv),
      data: encodeBase64(data),
      createdAt: new Date().toISOString(),
    };
    return Buffer.from(`${JSON.stringify(fields, undefined, 1)}\n`);
  }

  #refuseForeign(key: KeyId, fields: JsonFields, what: string): void {
    for (const [name, value] of Object.entries({ engine, slot: this.#slot, key })) {
      if (textField(fields, name, what) === value) continue;
      throw new KeyslotError('KEY_FILE_FOREIGN', `${what} was sealed for another ${name} than ${value}.`);
    }
  }

  #aad(key: KeyId, publicKey: PublicKeyBytes): Buffer {
    const bound = [format, version, alg, engine, this.#slot, key, encodeBase58(publicKey)];
    return Buffer.from(JSON.stringify(bound));
  }
}

const format = 'keyslot-key';
const version = 1;
const engine = 'pkcs11';
const alg = 'AES-256-GCM';

function refuseOtherForms(fields: JsonFields, what: string): void {
  refuseOtherThan(version, fields, 'v', what);
  for (const [name, value] of Object.entries({ format, alg })) {
    if (textField(fields, name, what) !== value) throw malformed(what, `has another ${name} than ${value}`);
  }
}

function publicKeyField(fields: JsonFields, what: string): PublicKeyBytes {
  const bytes = decodeBase58(textField(fields, 'publicKey', what));
  if (bytes?.length !== publicKey_bytes) throw malformed(what, 'has no public key');
  return publicKeyBytes(bytes);
}

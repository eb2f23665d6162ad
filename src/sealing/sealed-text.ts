import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';
import { encodeBase64 } from '../foundation/base64.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { Secret } from '../foundation/secret.ts';
import { bytesField, fieldsOfText, type JsonFields, malformed, refuseOtherThan } from './json-fields.ts';
import { scryptKey } from './kdf.ts';

/**
 * A sealed text of the agentic-wallet program: AES-256-GCM over UTF-8 text, itself a JSON text. There are two
 * forms, told apart by their fields. `documented` is what the agentic-wallet page shows: `{iv, encrypted,
 * authTag}` under SHA-256 of the secret. `deployed` is what the program writes: `{v, salt, iv, tag, data}`
 * under scrypt.
 */
export type SealedTextForm = 'documented' | 'deployed';

export interface SealedText {
  readonly form: SealedTextForm;
  /** What it is, as errors name it: the beginning of a sentence. */
  readonly what: string;
  /** Empty in the documented form, which has none. */
  readonly salt: Uint8Array;
  readonly iv: Uint8Array;
  readonly tag: Uint8Array;
  readonly data: Uint8Array;
}

/** Reads without a secret. Exactly the fields of one form, in strict base64 and of their lengths: KEY_FILE_MALFORMED. */
export function parseSealedText(text: string, what: string): SealedText {
  const fields = fieldsOfText(text, what);
  const form = formOf(fields, what);
  const bytes = (name: string, length?: number) => bytesField(fields, name, length, what);
  const { salt, iv, tag, data } = shapes[form];
  return {
    form,
    what,
    salt: salt ? bytes(salt.name, salt.bytes) : new Uint8Array(),
    iv: bytes(iv.name, iv.bytes),
    tag: bytes(tag.name, tag.bytes),
    data: bytes(data.name),
  };
}

/**
 * The text, as bytes; the caller disposes it. The secret is not needed any more once the call has returned its
 * promise. KEY_FILE_TAMPERED for another secret or any change, REQUEST_ABORTED, SLOT_BUSY.
 */
export async function openSealedText(
  sealed: SealedText,
  secret: Secret,
  signal?: AbortSignal,
): Promise<Secret> {
  using key = await keyOf(sealed.form, secret, sealed.salt, signal);
  const { iv, tag, data, what } = sealed;
  const decipher = key.use(bytes => createDecipheriv('aes-256-gcm', bytes, iv, { authTagLength: tag_bytes }));
  decipher.setAuthTag(tag);
  const plain = decipher.update(data);
  try {
    decipher.final();
  } catch (cause) {
    plain.fill(0);
    throw new KeyslotError('KEY_FILE_TAMPERED', `${what} does not open with its secret.`, { cause });
  }
  return Secret.fromBytes(plain, { wipe: true });
}

/** Seals under a fresh IV and salt. The text has to live until the promise settles. REQUEST_ABORTED, SLOT_BUSY. */
export async function sealText(
  plain: Secret,
  secret: Secret,
  form: SealedTextForm,
  signal?: AbortSignal,
): Promise<string> {
  const shape = shapes[form];
  const iv = randomBytes(shape.iv.bytes);
  const salt = randomBytes(shape.salt?.bytes ?? 0);
  using key = await keyOf(form, secret, salt, signal);
  const cipher = key.use(bytes => createCipheriv('aes-256-gcm', bytes, iv, { authTagLength: tag_bytes }));
  const data = plain.use(bytes => Buffer.concat([cipher.update(bytes), cipher.final()]));
  const tag = cipher.getAuthTag();
  switch (form) {
    case 'documented':
      return JSON.stringify({
        iv: encodeBase64(iv),
        encrypted: encodeBase64(data),
        authTag: encodeBase64(tag),
      });
    case 'deployed':
      return JSON.stringify({
        v: 1,
        salt: encodeBase64(salt),
        iv: encodeBase64(iv),
        tag: encodeBase64(tag),
        data: encodeBase64(data),
      });
  }
}

const tag_bytes = 16;
const deployedCost = { N: 16_384, r: 8, p: 1 } as const;

interface Place {
  readonly name: string;
  readonly bytes: number;
}

interface Shape {
  readonly fields: readonly string[];
  readonly salt?: Place;
  readonly iv: Place;
  readonly tag: Place;
  readonly data: { readonly name: string };
}

const shapes: Readonly<Record<SealedTextForm, Shape>> = {
  documented: {
    fields: ['iv', 'encrypted', 'authTag'],
    iv: { name: 'iv', bytes: 16 },
    tag: { name: 'authTag', bytes: tag_bytes },
    data: { name: 'encrypted' },
  },
  deployed: {
    fields: ['v', 'salt', 'iv', 'tag', 'data'],
    salt: { name: 'salt', bytes: 16 },
    iv: { name: 'iv', bytes: 12 },
    tag: { name: 'tag', bytes: tag_bytes },
    data: { name: 'data' },
  },
};

function formOf(fields: JsonFields, what: string): SealedTextForm {
  const names = Object.keys(fields);
  const has = (form: SealedTextForm) =>
    names.length === shapes[form].fields.length && shapes[form].fields.every(name => names.includes(name));
  if (has('documented')) return 'documented';
  if (!has('deployed')) throw malformed(what, 'has the fields of no known form');
  refuseOtherThan(1, fields, 'v', what);
  return 'deployed';
}

async function keyOf(
  form: SealedTextForm,
  secret: Secret,
  salt: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<Secret> {
  refuseAborted(signal);
  if (form === 'documented') return secret.use(digestKey);
  const key = await scryptKey(secret, salt, deployedCost, signal);
  if (signal?.aborted) key[Symbol.dispose]();
  refuseAborted(signal);
  return key;
}

const digestKey = (secret: Uint8Array): Secret =>
  Secret.fromBytes(createHash('sha256').update(secret).digest(), { wipe: true });

function refuseAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new KeyslotError('REQUEST_ABORTED', 'A key file was left by its caller.');
}

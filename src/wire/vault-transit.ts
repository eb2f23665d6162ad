import { z } from 'zod';
import { decodeBase64 } from '../foundation/base64.ts';
import { type ErrorCode, errorTable, KeyslotError } from '../foundation/errors.ts';

/**
 * The bodies of Vault's transit engine, as far as they make sense for Ed25519 over the bytes themselves. What
 * would ask for anything else (a prehash, another algorithm, a derived key) is refused and not passed over, since
 * the caller would get a signature of something that it did not mean. Fields that are null are absent, and
 * numbers and booleans may be texts, because that is how Vault's command line sends them.
 */

const onlyPlain = 'only plain Ed25519 over the bytes of input is supported';
const reference = z.string().max(1_024).nullish();
const context = z.literal('', 'keys are not derived: leave it out').nullish();
const keyVersion = z.literal([0, 1, '0', '1'], 'every key has the version 1 and no other').nullish();

const algorithm = {
  prehashed: z.literal([false, 'false'], `${onlyPlain}: prehashed must be false`).nullish(),
  hash_algorithm: z.literal(['', 'none'], `${onlyPlain}: leave it out`).nullish(),
  /** An older name of the same. */
  algorithm: z.literal(['', 'none'], `${onlyPlain}: leave it out`).nullish(),
  signature_algorithm: z.literal(['', 'ed25519'], `${onlyPlain}: leave it out`).nullish(),
  marshaling_algorithm: z.literal(['', 'asn1'], 'signatures are answered in standard base64').nullish(),
};

const signItem = { input: z.string(), context, reference };
const verifyItem = { ...signItem, signature: z.string() };

export const vaultBodies = {
  sign: z.strictObject({
    ...algorithm,
    input: z.string().nullish(),
    context,
    key_version: keyVersion,
    batch_input: z.array(z.strictObject(signItem)).nullish(),
  }),
  verify: z.strictObject({
    ...algorithm,
    input: z.string().nullish(),
    context,
    signature: z.string().nullish(),
    batch_input: z.array(z.strictObject(verifyItem)).nullish(),
  }),
  login: z.strictObject({ role_id: z.string().min(1).max(128), secret_id: z.string().min(1).max(512) }),
} as const;

/** The last part of a path `sign/:key/:hash`. BODY_INVALID for anything but none. */
export function refuseHash(hash: string | undefined): void {
  if (hash === undefined || hash === 'none') return;
  throw new KeyslotError('BODY_INVALID', `The hash in the path is not valid: ${onlyPlain}.`);
}

/** The bytes of `vault:v1:<base64>`. SIGNATURE_ENCODING_INVALID. */
export function vaultSignature(text: string): Uint8Array {
  const bytes = text.startsWith(signaturePrefix)
    ? decodeBase64(text.slice(signaturePrefix.length))
    : undefined;
  if (bytes) return bytes;
  throw new KeyslotError(
    'SIGNATURE_ENCODING_INVALID',
    'Field signature does not hold vault:v1: and standard base64.',
  );
}

export const signaturePrefix = 'vault:v1:';

/** The status that Vault would answer with: it knows fewer of them. */
export function vaultStatus(code: ErrorCode, method: string): number {
  if (isUnknownKey(code)) return /^(post|put)$/i.test(method) ? 400 : 404;
  const { status } = errorTable[code];
  switch (status) {
    case 401:
      return 403;
    case 403:
    case 404:
    case 405:
    case 413:
    case 415:
    case 429:
    case 500:
      return status;
    case 423: // sealed, in Vault's words
      return 503;
    default:
      return status >= 500 ? 503 : 400;
  }
}

/** A key that cannot exist, one that does not, and one that this identity may not use are the same to it. */
export const isUnknownKey = (code: ErrorCode): boolean => code === 'KEY_UNKNOWN' || code === 'KEY_ID_INVALID';

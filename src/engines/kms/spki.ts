import { type PublicKeyBytes, publicKeyBytes } from '../../custody/ids.ts';
import { decodesOnCurve, publicKey_bytes } from '../../foundation/ed25519.ts';
import { KeyslotError } from '../../foundation/errors.ts';

/** SubjectPublicKeyInfo of Ed25519 up to the key itself (RFC 8410 §4): the one DER form there is, 44 bytes. */
const head = Buffer.from('302a300506032b6570032100', 'hex');

/**
 * The 32 bytes of the public key out of what GetPublicKey answers. KMS_KEY_UNSUITABLE for anything but the one
 * form, and for 32 bytes that are not a point of the curve.
 */
export function publicKeyOfSpki(spki: Uint8Array, kmsKey: string): PublicKeyBytes {
  const framed = spki.length === head.length + publicKey_bytes && head.every((byte, at) => spki[at] === byte);
  if (!framed) {
    throw new KeyslotError(
      'KMS_KEY_UNSUITABLE',
      `The public key of ${kmsKey} is ${spki.length} bytes that are not an Ed25519 SubjectPublicKeyInfo.`,
    );
  }
  const raw = Uint8Array.from(spki.subarray(head.length));
  if (decodesOnCurve(raw)) return publicKeyBytes(raw);
  throw new KeyslotError('KMS_KEY_UNSUITABLE', `The public key of ${kmsKey} is no point of edwards25519.`);
}

import { type PublicKeyBytes, publicKeyBytes } from '../../custody/ids.ts';
import { decodesOnCurve } from '../../foundation/ed25519.ts';
import { KeyslotError } from '../../foundation/errors.ts';

/**
 * The two ways to name the curve in CKA_EC_PARAMS (PKCS#11 v3.1 §6.3.3): the OID 1.3.101.112, which most
 * tokens take, and the PrintableString "edwards25519", which a YubiHSM insists on.
 */
export const edwards25519Forms = {
  oid: Buffer.from('06032b6570', 'hex'),
  'printable-string': Buffer.from('130c656477617264733235353139', 'hex'),
} as const;

export const edwards25519Params: readonly Buffer[] = Object.values(edwards25519Forms);

/** The public point as an OCTET STRING: the form that every token accepts when an object is created. */
export const ecPointOf = (publicKey: Uint8Array): Buffer =>
  Buffer.concat([Buffer.from([0x04, 0x20]), publicKey]);

/**
 * The 32 bytes of the public key out of CKA_EC_POINT. The standard changed its mind (3.0: DER, 3.1: raw), so
 * tokens answer raw bytes, an OCTET STRING or a BIT STRING; some answer a whole SubjectPublicKeyInfo.
 * TOKEN_UNSUITABLE for anything else, and for 32 bytes that are not a point of the curve.
 */
export function publicKeyOfEcPoint(point: Uint8Array): PublicKeyBytes {
  const raw = point.length === 32 ? point : wrappings.find(wraps(point))?.unwrap(point);
  if (raw === undefined) {
    throw new KeyslotError(
      'TOKEN_UNSUITABLE',
      `The token answered an EC_POINT of ${point.length} bytes in an unknown form.`,
    );
  }
  if (!decodesOnCurve(raw)) {
    throw new KeyslotError(
      'TOKEN_UNSUITABLE',
      'The token answered an EC_POINT that is not a point of edwards25519.',
    );
  }
  return publicKeyBytes(Uint8Array.from(raw));
}

const wrapping = (head: string) => {
  const bytes = Buffer.from(head, 'hex');
  return { bytes, unwrap: (point: Uint8Array) => point.subarray(bytes.length) };
};

const wrappings = [
  wrapping('0420'), // OCTET STRING
  wrapping('032100'), // BIT STRING
  wrapping('302a300506032b6570032100'), // SubjectPublicKeyInfo (RFC 8410 §4)
];

const wraps = (point: Uint8Array) => (form: (typeof wrappings)[number]) =>
  point.length === form.bytes.length + 32 && form.bytes.every((byte, at) => point[at] === byte);

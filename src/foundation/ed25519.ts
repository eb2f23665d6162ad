import { createPrivateKey, createPublicKey, type KeyObject, sign, verify } from 'node:crypto';

/** Ed25519 (RFC 8032 §5.1, the pure form) through Node's OpenSSL. */

export const seed_bytes = 32;
export const publicKey_bytes = 32;
export const signature_bytes = 64;

// The fixed DER heads of RFC 8410: what comes behind them is the raw seed or the raw public key.
const pkcs8Head = Buffer.from('302e020100300506032b657004220420', 'hex');
const spkiHead = Buffer.from('302a300506032b6570032100', 'hex');

/** A signing key in process memory. Throws when the seed does not have 32 bytes. */
export function privateKeyFromSeed(seed: Uint8Array): KeyObject {
  if (seed.length !== seed_bytes) throw new RangeError('An Ed25519 seed has 32 bytes.');
  const der = Buffer.concat([pkcs8Head, seed]);
  try {
    return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' });
  } finally {
    der.fill(0);
  }
}

export function publicKeyFromSeed(seed: Uint8Array): Uint8Array {
  const spki = createPublicKey(privateKeyFromSeed(seed)).export({ format: 'der', type: 'spki' });
  return new Uint8Array(spki.subarray(spkiHead.length));
}

/** Signs on the libuv pool, so the event loop is free meanwhile. */
export function signMessage(key: KeyObject, message: Uint8Array): Promise<Uint8Array> {
  return new Promise((resolve, reject) =>
    sign(null, message, key, (error, signature) => (error ? reject(error) : resolve(signature))),
  );
}

/** Checks signatures of one public key; build it once per key, because building costs a third of a check. */
export interface Verifier {
  /** Runs on the libuv pool. False for anything that is not a valid signature of exactly these bytes. */
  verify(message: Uint8Array, signature: Uint8Array): Promise<boolean>;
  /** The same on the spot: about 0.1 ms in which the event loop does nothing else. */
  verifyNow(message: Uint8Array, signature: Uint8Array): boolean;
}

export function createVerifier(publicKey: Uint8Array): Verifier {
  if (publicKey.length !== publicKey_bytes) throw new RangeError('An Ed25519 public key has 32 bytes.');
  const key = createPublicKey({ key: Buffer.concat([spkiHead, publicKey]), format: 'der', type: 'spki' });
  return {
    verify: (message, signature) =>
      new Promise((resolve, reject) =>
        verify(null, message, key, signature, (error, valid) => (error ? reject(error) : resolve(valid))),
      ),
    verifyNow: (message, signature) => verify(null, message, key, signature),
  };
}

// RFC 8032 §5.1: the field prime, the curve constant d, and a square root of -1.
const p = 2n ** 255n - 19n;
const d = 37095705934669439343138083508754565189542113879843219016388785533085940283555n;

/**
 * Whether 32 bytes decode to a point of edwards25519 (RFC 8032 §5.1.3). Costs a modular exponentiation of big
 * integers, about half a millisecond: for keys as they are found, never per signature.
 */
export function decodesOnCurve(publicKey: Uint8Array): boolean {
  const littleEndian = Buffer.from(publicKey).reverse();
  const sign = (littleEndian[0] ?? 0) >> 7;
  littleEndian[0] = (littleEndian[0] ?? 0) & 0x7f;
  const y = BigInt(`0x${littleEndian.toString('hex')}`);
  if (publicKey.length !== publicKey_bytes || y >= p) return false;
  const ySquared = (y * y) % p;
  const u = (ySquared - 1n + p) % p;
  const v = (d * ySquared + 1n) % p;
  // x² = u/v is a square exactly when (u/v)^((p-1)/2) is 1, or u is 0; v is never 0.
  if (u === 0n) return sign === 0;
  return power(u * power(v, p - 2n), (p - 1n) / 2n) === 1n;
}

function power(base: bigint, exponent: bigint): bigint {
  let result = 1n;
  let square = base % p;
  for (let rest = exponent; rest > 0n; rest >>= 1n) {
    if (rest & 1n) result = (result * square) % p;
    square = (square * square) % p;
  }
  return result;
}

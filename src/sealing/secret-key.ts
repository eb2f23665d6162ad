import { timingSafeEqual } from 'node:crypto';
import { publicKeyFromSeed, seed_bytes } from '../foundation/ed25519.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { Secret } from '../foundation/secret.ts';
import { concatenated } from './secret-text.ts';

/** A Solana secret key: the 32-byte seed, then the 32-byte public key, which is how it proves itself. */
export const secretKey_bytes = 64;

/** The caller disposes it. Throws a RangeError when the public key is not the seed's: nothing could open that. */
export function secretKeyOf(seed: Secret, publicKey: Uint8Array): Secret {
  using rest = Secret.fromBytes(publicKey);
  const secretKey = concatenated(seed, rest);
  if (provesItself(secretKey)) return secretKey;
  secretKey[Symbol.dispose]();
  throw new RangeError('The public key is not the one of the seed.');
}

/** The seed of what came out of a key file; the caller disposes it. KEY_FILE_TAMPERED when that is no secret key. */
export function seedOf(secretKey: Secret | undefined, what: string): Secret {
  if (secretKey === undefined || !provesItself(secretKey)) {
    throw new KeyslotError('KEY_FILE_TAMPERED', `${what} opens, but what it holds is not a Solana key.`);
  }
  return secretKey.use(bytes => Secret.fromBytes(bytes.subarray(0, seed_bytes)));
}

/** Whether these are 64 bytes of which the last 32 are the public key of the first 32. */
export function provesItself(secretKey: Secret): boolean {
  if (secretKey.length !== secretKey_bytes) return false;
  return secretKey.use(bytes =>
    timingSafeEqual(publicKeyFromSeed(bytes.subarray(0, seed_bytes)), bytes.subarray(seed_bytes)),
  );
}

import { randomBytes } from 'node:crypto';
import { Secret } from '../foundation/secret.ts';

/**
 * 2-of-3 secret sharing (Shamir 1979) as the agentic-wallet program does it: per byte, f(x) = secret + a·x over
 * the field of AES, GF(2^8) modulo x^8 + x^4 + x^3 + x + 1 (FIPS 197 §4.2), with a random `a`; share i is f(i).
 * One share says nothing of the secret. Any two give it back; two that do not belong together give something
 * else, and nothing here can tell.
 */
export type ShareId = 1 | 2 | 3;

export const shareIds: readonly [ShareId, ShareId, ShareId] = [1, 2, 3];

export interface Share {
  readonly id: ShareId;
  readonly bytes: Secret;
}

/** Shares 1, 2 and 3, each as long as the secret. The caller disposes them. */
export function splitSecret(secret: Secret): readonly [Share, Share, Share] {
  using coefficients = Secret.fromBytes(randomBytes(secret.length), { wipe: true });
  const share = (id: ShareId): Share => ({
    id,
    bytes: combine(secret, coefficients, (byte, a) => byte ^ multiply(a, id)),
  });
  return [share(1), share(2), share(3)];
}

/** f(0) through two shares. Throws a RangeError for one share twice or for two lengths. The caller disposes it. */
export function joinShares(first: Share, second: Share): Secret {
  if (first.id === second.id) throw new RangeError('Two different shares are needed.');
  if (first.bytes.length !== second.bytes.length) throw new RangeError('The shares differ in length.');
  // Lagrange at 0, where minus is plus: f(0) = y1·x2/(x1+x2) + y2·x1/(x1+x2).
  const scale = inverse(first.id ^ second.id);
  const weight1 = multiply(second.id, scale);
  const weight2 = multiply(first.id, scale);
  return combine(first.bytes, second.bytes, (y1, y2) => multiply(y1, weight1) ^ multiply(y2, weight2));
}

/** The product in GF(2^8). The same steps whatever the bytes are: no table and no branch depends on them. */
export function multiply(a: number, b: number): number {
  let product = 0;
  let shifted = a;
  for (let bit = 0; bit < 8; bit += 1) {
    product ^= shifted & -((b >> bit) & 1);
    shifted = ((shifted << 1) ^ (0x11b & -((shifted >> 7) & 1))) & 0xff;
  }
  return product;
}

/** a^254, which is 1/a: the field has 255 elements beside 0. Ids of shares are no secret. */
function inverse(a: number): number {
  let power = 1;
  for (let step = 0; step < 254; step += 1) power = multiply(power, a);
  return power;
}

function combine(left: Secret, right: Secret, byte: (l: number, r: number) => number): Secret {
  const result = Buffer.alloc(left.length);
  left.use(l =>
    right.use(r => {
      for (let at = 0; at < result.length; at += 1) result[at] = byte(l[at] ?? 0, r[at] ?? 0);
    }),
  );
  return Secret.fromBytes(result, { wipe: true });
}

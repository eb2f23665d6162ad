import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Secret } from '../../src/foundation/secret.ts';
import { joinShares, multiply, type Share, splitSecret } from '../../src/sealing/shamir.ts';
import { oldJoin, slowMultiply } from './old-program.ts';

const bytesOf = (secret: Secret) => secret.use(lent => Uint8Array.from(lent));
const byte = fc.integer({ min: 0, max: 255 });
const secretBytes = fc.uint8Array({ maxLength: 100 });

const pairs = [
  [0, 1],
  [0, 2],
  [1, 2],
  [1, 0],
  [2, 0],
  [2, 1],
] as const;

function joined(shares: readonly Share[], [first, second]: readonly [number, number]): Uint8Array {
  const [one, two] = [shares[first], shares[second]];
  if (!one || !two) throw new Error('There are three shares.');
  using secret = joinShares(one, two);
  return bytesOf(secret);
}

describe('the field', () => {
  it.each([
    [0x57, 0x83, 0xc1], // FIPS 197 §4.2
    [0x57, 0x13, 0xfe], // FIPS 197 §4.2.1
    [0x57, 0x02, 0xae],
    [0x57, 0x04, 0x47],
    [0x57, 0x08, 0x8e],
    [0x57, 0x10, 0x07],
    [0x53, 0xca, 0x01], // inverses of each other, as in the S-box of FIPS 197 §5.1.1
  ])('multiplies %i and %i to %i, as FIPS 197 does', (a, b, product) => {
    expect(multiply(a, b)).toBe(product);
    expect(multiply(b, a)).toBe(product);
  });

  it('multiplies all pairs of bytes as polynomials are multiplied on paper', () => {
    const wrong: string[] = [];
    for (let a = 0; a < 256; a += 1) {
      for (let b = 0; b < 256; b += 1) if (multiply(a, b) !== slowMultiply(a, b)) wrong.push(`${a}*${b}`);
    }
    expect(wrong).toEqual([]);
  });

  it('has the laws of a field', () => {
    fc.assert(
      fc.property(byte, byte, byte, (a, b, c) => {
        expect(multiply(a, b ^ c)).toBe(multiply(a, b) ^ multiply(a, c));
        expect(multiply(multiply(a, b), c)).toBe(multiply(a, multiply(b, c)));
        expect(multiply(a, 1)).toBe(a);
      }),
    );
  });
});

describe('a secret that was split', () => {
  it('comes back from every pair of its shares, in either order', () => {
    fc.assert(
      fc.property(secretBytes, bytes => {
        using secret = Secret.fromBytes(bytes);
        const shares = splitSecret(secret);
        for (const pair of pairs) expect(joined(shares, pair)).toEqual(bytes);
      }),
    );
  });

  it('comes back from every pair by an independent search for the line', () => {
    const bytes = randomBytes(64);
    using secret = Secret.fromBytes(bytes);
    const shares = splitSecret(secret).map(share => ({ id: share.id, bytes: bytesOf(share.bytes) }));
    for (const [first, second] of pairs) {
      const [one, two] = [shares[first], shares[second]];
      expect(one && two && oldJoin(one, two)).toEqual(bytes);
    }
  });

  it('is left as it was, and its shares are numbered 1, 2, 3', () => {
    const bytes = randomBytes(64);
    using secret = Secret.fromBytes(bytes);
    expect(splitSecret(secret).map(share => share.id)).toEqual([1, 2, 3]);
    expect(bytesOf(secret)).toEqual(Uint8Array.from(bytes));
  });

  it('is split differently each time', () => {
    using secret = Secret.fromBytes(randomBytes(64));
    const [first] = splitSecret(secret);
    const [again] = splitSecret(secret);
    expect(first.bytes.equals(again.bytes)).toBe(false);
  });

  it('cannot be told from one share: for every share and every secret byte there is exactly one coefficient', () => {
    for (const id of [1, 2, 3]) {
      for (const secretByte of [0, 1, 0x57, 0xff]) {
        const values = new Set(Array.from({ length: 256 }, (_, a) => secretByte ^ multiply(a, id)));
        expect(values.size).toBe(256);
      }
    }
  });

  it('gives shares that are spread evenly, whatever the secret is', () => {
    const length = 256 * 200;
    for (const value of [0x00, 0xff]) {
      using secret = Secret.fromBytes(Buffer.alloc(length, value));
      for (const share of splitSecret(secret)) {
        const counts = new Array<number>(256).fill(0);
        for (const each of bytesOf(share.bytes)) counts[each] = (counts[each] ?? 0) + 1;
        const chiSquare = counts.reduce((sum, count) => sum + (count - 200) ** 2 / 200, 0);
        // 255 degrees of freedom: mean 255, deviation 22.6; ten deviations are never met by chance.
        expect(chiSquare).toBeLessThan(480);
        expect(chiSquare).toBeGreaterThan(100);
      }
    }
  });

  it('comes back changed exactly where a share was changed', () => {
    const change = fc.tuple(fc.integer({ min: 0, max: 63 }), fc.integer({ min: 1, max: 255 }));
    fc.assert(
      fc.property(change, fc.constantFrom(...pairs), ([at, difference], pair) => {
        const bytes = randomBytes(64);
        using secret = Secret.fromBytes(bytes);
        const shares = splitSecret(secret).map((share, place) => {
          if (place !== pair[0]) return share;
          const damaged = bytesOf(share.bytes);
          damaged[at] = (damaged[at] ?? 0) ^ difference;
          return { id: share.id, bytes: Secret.fromBytes(damaged) };
        });
        const result = joined(shares, pair);
        const changed = [...result.keys()].filter(each => result[each] !== bytes[each]);
        expect(changed).toEqual([at]);
      }),
    );
  });
});

describe('joining', () => {
  it('refuses one share twice, and shares of two lengths', () => {
    using secret = Secret.fromBytes(randomBytes(4));
    using short = Secret.fromBytes(randomBytes(3));
    const [first] = splitSecret(secret);
    const [, second] = splitSecret(short);
    expect(() => joinShares(first, first)).toThrow(RangeError);
    expect(() => joinShares(first, second)).toThrow(RangeError);
  });
});

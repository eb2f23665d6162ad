import { getBase58Codec } from '@solana/kit';
import { PublicKey } from '@solana/web3.js';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decodeBase58, encodeBase58 } from '../../src/foundation/base58.ts';

const oracle = getBase58Codec();
const alphabet = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz';

/** 0 to 80 bytes, often with zeros in front, and often with the large values where a carry goes wrong. */
const bytes = fc
  .tuple(
    fc.nat({ max: 16 }),
    fc.uint8Array({ maxLength: 64, size: 'max' }),
    fc.constantFrom('any', 'high', 'low'),
  )
  .map(([zeros, rest, kind]) => {
    if (kind === 'high') rest.fill(0xff);
    if (kind === 'low') rest.fill(0x00, 1);
    return Uint8Array.from([...new Uint8Array(zeros), ...rest]);
  });

describe('base58', () => {
  it('encodes as Kit does, and decodes what it encoded', () => {
    fc.assert(
      fc.property(bytes, given => {
        const text = encodeBase58(given);
        expect(text).toBe(oracle.decode(given));
        expect(decodeBase58(text)).toEqual(given);
      }),
      { numRuns: 2_000 },
    );
  });

  it('encodes every length from 0 to 80 of zeros, of ones and of a mixture', () => {
    for (let length = 0; length <= 80; length += 1) {
      for (const given of [
        new Uint8Array(length),
        new Uint8Array(length).fill(0xff),
        Uint8Array.from({ length }, (_, at) => (at * 151 + 7) & 0xff),
      ]) {
        const text = encodeBase58(given);
        expect(text).toBe(oracle.decode(given));
        expect(decodeBase58(text)).toEqual(given);
      }
    }
  });

  it('writes public keys as web3.js does', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), given => {
        expect(encodeBase58(given)).toBe(new PublicKey(given).toBase58());
      }),
      { numRuns: 500 },
    );
  });

  // The first version divided numbers above 2^53, so that most addresses were wrong in their last letters.
  it('keeps every bit of the largest limb', () => {
    const text = 'z'.repeat(44);
    expect(encodeBase58(Uint8Array.from(oracle.encode(text)))).toBe(text);
  });

  it('decodes as Kit does any text of the alphabet', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...alphabet), maxLength: 128 }), text => {
        expect(decodeBase58(text)).toEqual(Uint8Array.from(oracle.encode(text)));
        expect(encodeBase58(decodeBase58(text) ?? Uint8Array.of(1, 2, 3))).toBe(text);
      }),
      { numRuns: 1_000 },
    );
  });

  it.each(['0', 'O', 'I', 'l', '+', '/', '-', '_', '=', ' ', '\n', '\0', 'é', '１', '😀', '\ud800'])(
    'refuses text with the letter %j, wherever it stands',
    letter => {
      for (const text of [letter, `${letter}abc`, `ab${letter}c`, `abc${letter}`, `111${letter}`]) {
        expect(decodeBase58(text)).toBeUndefined();
      }
    },
  );

  it('refuses any text with a letter that is not of the alphabet', () => {
    const outside = fc.string({ unit: 'binary', minLength: 1, maxLength: 60 });
    fc.assert(
      fc.property(outside, text => {
        fc.pre([...text].some(letter => !alphabet.includes(letter)));
        expect(decodeBase58(text)).toBeUndefined();
      }),
    );
  });

  it('refuses text that is longer than it was told to take', () => {
    expect(decodeBase58('1'.repeat(128))).toEqual(new Uint8Array(128));
    expect(decodeBase58('1'.repeat(129))).toBeUndefined();
    expect(decodeBase58('2'.repeat(1_000_000))).toBeUndefined();
    expect(decodeBase58('abcd', 4)).toBeDefined();
    expect(decodeBase58('abcde', 4)).toBeUndefined();
  });
});

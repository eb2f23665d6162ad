import { createPublicKey, generateKeyPairSync } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { publicKeyOfSpki } from '../../../src/engines/kms/spki.ts';
import { decodesOnCurve, publicKeyFromSeed } from '../../../src/foundation/ed25519.ts';

const head = Buffer.from('302a300506032b6570032100', 'hex');
const unsuitable = expect.objectContaining({ code: 'KMS_KEY_UNSUITABLE' });
const read = (spki: Uint8Array) => Buffer.from(publicKeyOfSpki(spki, 'arn'));

describe('the public key of a KMS key', () => {
  it('is what OpenSSL reads out of the same 44 bytes, for any key', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), seed => {
        const spki = Buffer.concat([head, publicKeyFromSeed(seed)]);
        const { x } = createPublicKey({ key: spki, format: 'der', type: 'spki' }).export({ format: 'jwk' });
        expect(read(spki).toString('base64url')).toBe(x);
      }),
      { numRuns: 50 },
    );
  });

  it('is refused with any byte of its head changed, cut off or followed by more', () => {
    const spki = generateKeyPairSync('ed25519').publicKey.export({ format: 'der', type: 'spki' });
    fc.assert(
      fc.property(fc.nat(head.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const changed = Uint8Array.from(spki);
        changed[at] = (changed[at] ?? 0) ^ flip;
        expect(() => read(changed)).toThrow(unsuitable);
      }),
    );
    for (let length = 0; length < spki.length; length++) {
      expect(() => read(spki.subarray(0, length))).toThrow(unsuitable);
    }
    expect(() => read(Buffer.concat([spki, Buffer.of(0)]))).toThrow(unsuitable);
  });

  it('is refused exactly when its 32 bytes are no point of the curve', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), bytes => {
        const spki = Buffer.concat([head, bytes]);
        if (decodesOnCurve(bytes)) expect(read(spki)).toEqual(Buffer.from(bytes));
        else expect(() => read(spki)).toThrow(unsuitable);
      }),
      { numRuns: 40 },
    );
  });

  it.each([
    ['X25519', generateKeyPairSync('x25519')],
    ['Ed448', generateKeyPairSync('ed448')],
    ['P-256', generateKeyPairSync('ec', { namedCurve: 'P-256' })],
  ])('is refused of the curve %s', (_, { publicKey }) => {
    expect(() => read(publicKey.export({ format: 'der', type: 'spki' }))).toThrow(unsuitable);
  });
});

import { generateKeyPairSync } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ecPointOf, publicKeyOfEcPoint } from '../../../src/engines/pkcs11/ec.ts';
import { decodesOnCurve } from '../../../src/foundation/ed25519.ts';

const spki = () => generateKeyPairSync('ed25519').publicKey.export({ format: 'der', type: 'spki' });
const raw = (der: Buffer) => der.subarray(-32);

describe('the EC_POINT of a token', () => {
  it('is read raw, as OCTET STRING, as BIT STRING and as SubjectPublicKeyInfo', () => {
    const der = spki();
    const point = raw(der);
    const forms = [point, ecPointOf(point), Buffer.concat([Buffer.from('032100', 'hex'), point]), der];
    for (const form of forms) expect(Buffer.from(publicKeyOfEcPoint(form))).toEqual(point);
  });

  it('is refused in any other form or length', () => {
    const point = raw(spki());
    const wrong = [
      Buffer.alloc(0),
      point.subarray(1),
      Buffer.concat([Buffer.from('0421', 'hex'), point]),
      Buffer.alloc(44),
    ];
    for (const form of wrong) {
      expect(() => publicKeyOfEcPoint(form)).toThrow(expect.objectContaining({ code: 'TOKEN_UNSUITABLE' }));
    }
  });

  it('is refused when it is not a point of the curve', () => {
    const notOnCurve = Buffer.alloc(32, 0);
    notOnCurve[0] = 2; // y = 2 has no x
    expect(decodesOnCurve(notOnCurve)).toBe(false);
    expect(() => publicKeyOfEcPoint(notOnCurve)).toThrow(
      expect.objectContaining({ code: 'TOKEN_UNSUITABLE' }),
    );
  });

  it('is a point of the curve for every real key, and for about half of all 32-byte strings', () => {
    for (let i = 0; i < 20; i += 1) expect(decodesOnCurve(raw(spki()))).toBe(true);
    const sample = fc.sample(fc.uint8Array({ minLength: 32, maxLength: 32 }), { numRuns: 200, seed: 1 });
    const on = sample.filter(decodesOnCurve).length;
    expect(on).toBeGreaterThan(50);
    expect(on).toBeLessThan(150);
  });

  it('is not a point when y is not reduced, or when x is 0 with its sign bit set (RFC 8032 §5.1.3)', () => {
    const p = Buffer.from(`${'ed'}${'ff'.repeat(30)}7f`, 'hex');
    const one = Buffer.alloc(32);
    one[0] = 1;
    const oneSigned = Buffer.from(one);
    oneSigned[31] = 0x80;
    expect([p, one, oneSigned].map(decodesOnCurve)).toEqual([false, true, false]);
  });
});

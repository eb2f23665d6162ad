import fc from 'fast-check';
import pkcs11js from 'pkcs11js';
import { describe, expect, it } from 'vitest';
import {
  guardedGcm,
  guardedHandle,
  guardedMechanism,
  guardedTemplate,
  template,
} from '../../../src/engines/pkcs11/cryptoki.ts';

/** What would crash the addon must throw before it. Typed as `never`: the compiler refuses all of it too. */
const hostile = [
  undefined,
  null,
  {},
  [],
  Number.NaN,
  -1,
  1.5,
  2n,
  'x',
  Symbol('x'),
  () => 1,
  2 ** 60,
] as never[];

describe('the guards before the addon', () => {
  it('let no mechanism through that is not an unsigned integer', () => {
    for (const mechanism of hostile) expect(() => guardedMechanism(mechanism)).toThrow(TypeError);
    expect(guardedMechanism(0x1057)).toEqual({ mechanism: 0x1057 });
  });

  it('never give a mechanism parameters: CK_EDDSA_PARAMS would change the signature', () => {
    expect(Object.keys(guardedMechanism(0x1057))).toEqual(['mechanism']);
  });

  it('let no attribute type through that is not an unsigned integer', () => {
    for (const type of hostile) expect(() => guardedTemplate(template([type, true]))).toThrow(TypeError);
  });

  it('let no attribute value through that is not a boolean, an unsigned integer, a text or a Buffer', () => {
    for (const value of hostile.filter(each => typeof each !== 'string')) {
      expect(() => guardedTemplate(template([0x1, value]))).toThrow(TypeError);
    }
    expect(() => guardedTemplate(template([0x1, new Uint8Array(4) as never]))).toThrow(TypeError);
  });

  it('take every sound template as it is', () => {
    const value = fc.oneof(
      fc.boolean(),
      fc.nat(),
      fc.string(),
      fc.uint8Array().map(bytes => Buffer.from(bytes)),
    );
    fc.assert(
      fc.property(fc.uniqueArray(fc.tuple(fc.nat(), value), { selector: ([type]) => type }), attributes => {
        expect(guardedTemplate(template(...attributes))).toEqual(
          attributes.map(([type, each]) => ({ type, value: each })),
        );
      }),
    );
  });

  it('let no handle through that does not have 8 bytes', () => {
    for (const handle of [...hostile, Buffer.alloc(7), Buffer.alloc(9), new Uint8Array(8)] as never[]) {
      expect(() => guardedHandle(handle)).toThrow(TypeError);
    }
    expect(guardedHandle(Buffer.alloc(8))).toHaveLength(8);
  });

  it('let no AES-GCM through without 12 bytes of IV, additional data, and 96 or no bits', () => {
    const sound = { iv: Buffer.alloc(12), ivBits: 96, aad: Buffer.from('aad') };
    for (const iv of [...hostile, Buffer.alloc(11), Buffer.alloc(13), new Uint8Array(12)] as never[]) {
      expect(() => guardedGcm({ ...sound, iv })).toThrow(TypeError);
    }
    for (const aad of [...hostile, Buffer.alloc(0), new Uint8Array(3)] as never[]) {
      expect(() => guardedGcm({ ...sound, aad })).toThrow(TypeError);
    }
    for (const ivBits of [...hostile, 12, 128] as never[]) {
      expect(() => guardedGcm({ ...sound, ivBits })).toThrow(TypeError);
    }
    expect(guardedGcm({ ...sound, ivBits: 0 }).parameter).toMatchObject({ ivBits: 0, tagBits: 128 });
  });

  it('name the GCM parameters of PKCS#11 v2.40 and later by the number that the addon has for them', () => {
    const mechanism = guardedGcm({ iv: Buffer.alloc(12), ivBits: 96, aad: Buffer.from('aad') });
    expect(mechanism.mechanism).toBe(pkcs11js.CKM_AES_GCM);
    expect(mechanism.parameter).toMatchObject({ type: pkcs11js.CK_PARAMS_AES_GCM_v240 });
  });
});

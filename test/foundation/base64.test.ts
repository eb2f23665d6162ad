import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decodeBase64, encodeBase64 } from '../../src/foundation/base64.ts';

const plain = (bytes: Uint8Array | undefined) => bytes && Uint8Array.from(bytes);

describe('base64', () => {
  it('decodes what it encoded', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), bytes => {
        expect(plain(decodeBase64(encodeBase64(bytes)))).toEqual(bytes);
      }),
    );
  });

  it('encodes the part of a buffer that it is shown', () => {
    const whole = Uint8Array.from({ length: 50 }, (_, at) => at);
    expect(encodeBase64(whole.subarray(10, 20))).toBe(Buffer.from(whole.slice(10, 20)).toString('base64'));
  });

  // RFC 4648 §10.
  it.each([
    ['', ''],
    ['f', 'Zg=='],
    ['fo', 'Zm8='],
    ['foo', 'Zm9v'],
    ['foob', 'Zm9vYg=='],
    ['fooba', 'Zm9vYmE='],
    ['foobar', 'Zm9vYmFy'],
  ])('agrees with RFC 4648 on %j', (text, encoded) => {
    expect(encodeBase64(Buffer.from(text))).toBe(encoded);
    expect(decodeBase64(encoded)?.toString()).toBe(text);
  });

  it.each([
    ['padding that is missing', ['Zg', 'Zg=', 'Zm8', 'Zm9vYg']],
    ['padding that is too much', ['Zg===', 'Zm9v=', 'Zm9v====', '====', '=', 'Zm8==']],
    ['padding in the middle', ['Zg==Zg==', 'Z=g=', '=Zg=', 'Zm8=Zm8=']],
    ['the URL alphabet', ['-_-_', '__8=', '--8=', 'ab-d', 'ab_d']],
    ['white space', [' Zm9v', 'Zm9v ', 'Zm 9v', 'Zm9v\n', 'Zm9v\r\n', 'Zm9v\nZm9v', 'Zm9vZm9v\n   ', '    ']],
    ['stray bits behind the last byte', ['Zh==', 'Zi==', 'Z/==', 'Zm9=', 'Zm+=']],
    ['other letters', ['Zm9!', 'Zm9\0', 'Zmé=', 'Ｚm9v', '😀==', 'Zm9,']],
  ])('refuses %s', (_, texts) => {
    for (const text of texts) expect([text, decodeBase64(text)]).toEqual([text, undefined]);
  });

  it('takes exactly one text for a byte string', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'AZaz09+/=-_ \n'), maxLength: 12 }), text => {
        const bytes = decodeBase64(text);
        if (bytes !== undefined) expect(encodeBase64(bytes)).toBe(text);
      }),
      { numRuns: 2_000 },
    );
  });
});

import { describe, expect, it } from 'vitest';
import { refusePinLength } from '../../../src/engines/pkcs11/token-access.ts';
import { Secret } from '../../../src/foundation/secret.ts';

describe('the length of a PIN', () => {
  const refused = (bytes: number, pinLength_min: number, pinLength_max: number): boolean => {
    using pin = Secret.fromText('x'.repeat(bytes));
    try {
      refusePinLength({ pinLength_min, pinLength_max }, pin, 'The token');
      return false;
    } catch (error) {
      expect(error).toMatchObject({ code: 'PIN_REFUSED' });
      return true;
    }
  };

  it.each([
    [3, true],
    [4, false],
    [255, false],
    [256, true],
  ])('of %i bytes is refused by a token that takes 4 to 255: %s', (bytes, expected) => {
    expect(refused(bytes, 4, 255)).toBe(expected);
  });

  it.each([
    [7, true],
    [8, false],
    [1_000, false],
  ])('of %i bytes is refused by a token that takes 8 and names no longest (0): %s', (bytes, expected) => {
    expect(refused(bytes, 8, 0)).toBe(expected);
  });
});

/** Base58 with Bitcoin's alphabet, as Solana writes addresses and signatures. */

const alphabet = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz';
const digitOf = new Map([...alphabet].map((letter, value) => [letter, value]));

// Four digits at a time: 58^4 times 256^3 stays below 2^53, so plain numbers carry the long division exactly.
const limbDigits = 4;
const limb = 58 ** limbDigits;

/** The work grows with the square of the length: meant for keys and signatures, not for messages. */
export function encodeBase58(bytes: Uint8Array): string {
  let zeros = 0;
  while (zeros < bytes.length && bytes[zeros] === 0) zeros += 1;
  const limbs: number[] = [];
  for (let at = zeros; at < bytes.length; at += 3) {
    const width = Math.min(3, bytes.length - at);
    let carry = 0;
    for (let i = 0; i < width; i += 1) carry = carry * 256 + (bytes[at + i] ?? 0);
    const shift = 256 ** width;
    for (let i = 0; i < limbs.length; i += 1) {
      const value = (limbs[i] ?? 0) * shift + carry;
      carry = Math.floor(value / limb);
      limbs[i] = value - carry * limb;
    }
    while (carry > 0) {
      limbs.push(carry % limb);
      carry = Math.floor(carry / limb);
    }
  }
  let digits = '';
  for (const value of limbs) {
    let rest = value;
    for (let i = 0; i < limbDigits; i += 1) {
      digits = alphabet.charAt(rest % 58) + digits;
      rest = Math.floor(rest / 58);
    }
  }
  return '1'.repeat(zeros) + digits.replace(/^1+/, '');
}

/** The bytes, or `undefined` when the text is not base58 or is longer than `length_max` characters. */
export function decodeBase58(text: string, length_max = 128): Uint8Array | undefined {
  if (text.length > length_max) return undefined;
  const bytes: number[] = []; // little endian
  for (const letter of text) {
    let carry = digitOf.get(letter);
    if (carry === undefined) return undefined;
    for (let i = 0; i < bytes.length; i += 1) {
      carry += (bytes[i] ?? 0) * 58;
      bytes[i] = carry & 0xff;
      carry >>= 8;
    }
    while (carry > 0) {
      bytes.push(carry & 0xff);
      carry >>= 8;
    }
  }
  for (let i = 0; i < text.length && text[i] === '1'; i += 1) bytes.push(0);
  return Uint8Array.from(bytes.reverse());
}

/** Base58 with Bitcoin's alphabet, as Solana writes addresses and signatures. */

const alphabet = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz';
const digitOf = new Map([...alphabet].map((letter, value) => [letter, value]));

// Six digits times two bytes: 58^6 times 256^2 stays below 2^53, so plain numbers carry the long division exactly.
const limbDigits = 6;
const limb = 58 ** limbDigits;

/** The work grows with the square of the length: meant for keys and signatures, not for messages. */
export function encodeBase58(bytes: Uint8Array): string {
  let zeros = 0;
  while (zeros < bytes.length && bytes[zeros] === 0) zeros += 1;
  const limbs: number[] = []; // little endian
  const odd = (bytes.length - zeros) % 2;
  if (odd === 1) append(limbs, bytes[zeros] ?? 0, 256);
  for (let at = zeros + odd; at < bytes.length; at += 2) {
    append(limbs, (bytes[at] ?? 0) * 256 + (bytes[at + 1] ?? 0), 65_536);
  }
  return '1'.repeat(zeros) + digitsOf(limbs);
}

/** limbs = limbs * shift + low */
function append(limbs: number[], low: number, shift: number): void {
  let carry = low;
  for (let i = 0; i < limbs.length; i += 1) {
    const value = (limbs[i] ?? 0) * shift + carry;
    carry = Math.floor(value / limb);
    limbs[i] = value - carry * limb;
  }
  if (carry > 0) limbs.push(carry);
}

function digitsOf(limbs: readonly number[]): string {
  const text = Buffer.alloc(limbs.length * limbDigits);
  let at = text.length;
  for (const value of limbs) {
    let rest = value;
    for (let i = 0; i < limbDigits; i += 1) {
      const quotient = Math.floor(rest / 58);
      text[--at] = alphabet.charCodeAt(rest - quotient * 58);
      rest = quotient;
    }
  }
  const first = text.findIndex(letter => letter !== 0x31); // the digit 0 is written "1"
  return text.toString('latin1', first < 0 ? text.length : first);
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

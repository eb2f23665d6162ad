import { Secret } from '../foundation/secret.ts';

/**
 * Secret bytes as text and back, without a JavaScript string on the way: a string cannot be wiped. The text is
 * itself a `Secret` of ASCII bytes. The decoders take the one spelling that the encoders write and answer
 * `undefined` for any other; what they return the caller disposes.
 */

/** Standard base64 with padding (RFC 4648 §4). */
export function toBase64Text(secret: Secret): Secret {
  const text = Buffer.alloc(Math.ceil(secret.length / 3) * 4);
  secret.use(bytes => {
    for (let from = 0, to = 0; from < bytes.length; from += 3, to += 4) {
      const [a, b, c] = [bytes[from] ?? 0, bytes[from + 1] ?? 0, bytes[from + 2] ?? 0];
      text[to] = characterOf(a >> 2);
      text[to + 1] = characterOf(((a & 3) << 4) | (b >> 4));
      text[to + 2] = from + 1 < bytes.length ? characterOf(((b & 15) << 2) | (c >> 6)) : padding;
      text[to + 3] = from + 2 < bytes.length ? characterOf(c & 63) : padding;
    }
  });
  return Secret.fromBytes(text, { wipe: true });
}

export function fromBase64Text(text: Secret): Secret | undefined {
  const decoded = text.use(characters => {
    const padded = Number(characters.at(-1) === padding) + Number(characters.at(-2) === padding);
    const groups = Math.floor(characters.length / 4);
    const bytes = Buffer.alloc(groups * 3);
    for (let from = 0, to = 0; to < bytes.length; from += 4, to += 3) {
      const [a, b, c, d] = [0, 1, 2, 3].map(at => sextetOf(characters[from + at] ?? 0)) as Sextets;
      bytes[to] = (a << 2) | (b >> 4);
      bytes[to + 1] = (b << 4) | (c >> 2);
      bytes[to + 2] = (c << 6) | d;
    }
    const secret = Secret.fromBytes(bytes.subarray(0, Math.max(0, bytes.length - padded)));
    bytes.fill(0);
    return secret;
  });
  return ifSpelledBack(decoded, text, toBase64Text);
}

/** A JSON array of numbers without spaces, such as `[0,17,255]`. */
export function toNumbersText(secret: Secret): Secret {
  const text = Buffer.alloc(secret.length * 4 + 2);
  const length = secret.use(bytes => {
    let to = text.write('[');
    for (const [at, byte] of bytes.entries()) {
      if (at > 0) text[to++] = comma;
      if (byte >= 100) text[to++] = zero + Math.floor(byte / 100);
      if (byte >= 10) text[to++] = zero + (Math.floor(byte / 10) % 10);
      text[to++] = zero + (byte % 10);
    }
    return to + text.write(']', to);
  });
  const numbers = Secret.fromBytes(text.subarray(0, length));
  text.fill(0);
  return numbers;
}

export function fromNumbersText(text: Secret): Secret | undefined {
  const decoded = text.use(characters => {
    const bytes = Buffer.alloc(characters.length);
    let at = 0;
    for (const character of characters.subarray(1, -1)) {
      if (character === comma) at += 1;
      else bytes[at] = (bytes[at] ?? 0) * 10 + character - zero; // what runs over is not spelled back
    }
    const secret = Secret.fromBytes(bytes.subarray(0, characters.length > 2 ? at + 1 : 0));
    bytes.fill(0);
    return secret;
  });
  return ifSpelledBack(decoded, text, toNumbersText);
}

/** One secret behind the other. The caller disposes it. */
export function concatenated(...parts: readonly Secret[]): Secret {
  const bytes = Buffer.alloc(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    part.use(lent => bytes.set(lent, at));
    at += part.length;
  }
  return Secret.fromBytes(bytes, { wipe: true });
}

const padding = 0x3d;
const comma = 0x2c;
const zero = 0x30;

type Sextets = [number, number, number, number];

/** The decoders do not look at what they read; spelling the result again is the check. */
function ifSpelledBack(decoded: Secret, text: Secret, spell: (bytes: Secret) => Secret): Secret | undefined {
  using again = spell(decoded);
  if (again.equals(text)) return decoded;
  decoded[Symbol.dispose]();
  return undefined;
}

// By arithmetic and not by table, so that no memory address depends on a secret.
const characterOf = (sextet: number): number =>
  (between(sextet, 0, 25) & (sextet + 65)) |
  (between(sextet, 26, 51) & (sextet + 71)) |
  (between(sextet, 52, 61) & (sextet - 4)) |
  (between(sextet, 62, 62) & 43) |
  (between(sextet, 63, 63) & 47);

const sextetOf = (character: number): number =>
  (between(character, 65, 90) & (character - 65)) |
  (between(character, 97, 122) & (character - 71)) |
  (between(character, 48, 57) & (character + 4)) |
  (between(character, 43, 43) & 62) |
  (between(character, 47, 47) & 63);

/** All bits set when low <= value <= high, else none. */
const between = (value: number, low: number, high: number): number =>
  ((low - 1 - value) & (value - high - 1)) >> 31;

import { KeyslotError } from '../../foundation/errors.ts';
import { Secret } from '../../foundation/secret.ts';

/** Secrets of the nodes 1, 2 and 3; one may be missing. */
export type NodeSecrets = readonly [Secret | undefined, Secret | undefined, Secret | undefined];

/**
 * Three node secrets as the one PIN that a slot opens with: each as text, NUL between them, an empty one for a
 * node that is missing. The given secrets stay the caller's.
 */
export function joinNodeSecrets(secrets: NodeSecrets): Secret {
  const texts = secrets.map(secret => secret?.use(bytes => Buffer.from(bytes)) ?? Buffer.alloc(0));
  const joined = Buffer.concat(texts.flatMap((text, at) => (at === 0 ? [text] : [separator, text])));
  for (const text of texts) text.fill(0);
  return Secret.fromBytes(joined, { wipe: true });
}

/**
 * The three secrets of a PIN: separated by NUL as `joinNodeSecrets` does, or by commas as an operator types them
 * (`secret1,,secret3` leaves the second out). Fewer than two are no PIN: SLOT_PIN_REQUIRED. The caller disposes
 * them.
 */
export function splitNodeSecrets(pin: Secret): NodeSecrets {
  const [first, second, third, ...more] = pin.use(bytes => {
    const mark = bytes.includes(0) ? 0 : comma;
    const parts: Uint8Array[] = [];
    for (let from = 0; from <= bytes.length; ) {
      const found = bytes.indexOf(mark, from);
      const end = found < 0 ? bytes.length : found;
      parts.push(mark === comma ? trimmed(bytes.subarray(from, end)) : bytes.subarray(from, end));
      from = end + 1;
    }
    return parts.map(part => (part.length > 0 ? Secret.fromBytes(part) : undefined));
  });
  const secrets = [first, second, third] as const;
  if (more.length === 0 && secrets.filter(secret => secret !== undefined).length >= 2) return secrets;
  for (const secret of [...secrets, ...more]) secret?.[Symbol.dispose]();
  throw new KeyslotError(
    'SLOT_PIN_REQUIRED',
    'The PIN of this slot is its three node secrets, separated by commas; one of them may be left out.',
  );
}

const separator = Buffer.from([0]);
const comma = 0x2c;
const space = 0x20;

function trimmed(bytes: Uint8Array): Uint8Array {
  let from = 0;
  let end = bytes.length;
  while (from < end && bytes[from] === space) from += 1;
  while (end > from && bytes[end - 1] === space) end -= 1;
  return bytes.subarray(from, end);
}

import { createHash } from 'node:crypto';
import { decodeBase64, encodeBase64 } from '../foundation/base64.ts';
import { createVerifier, publicKey_bytes, signature_bytes } from '../foundation/ed25519.ts';

/**
 * A checkpoint: what the log says of itself at one size, as a signed note (C2SP signed-note and tlog-checkpoint,
 * Ed25519). Ours have three extension lines: `chain`, `time`, `previous`. A log without an audit key makes the
 * same notes without a signature line.
 */
export interface Checkpoint {
  /** `keyslot/` and the node's name; also the name of its key. */
  readonly origin: string;
  readonly size: number;
  readonly root: Buffer;
  /** SHA-256 of the last line, in hexadecimal. */
  readonly chain: string;
  readonly time: string;
  /** SHA-256 of the checkpoint before, the whole note, in hexadecimal; 64 zeros before the first. */
  readonly previous: string;
}

export interface Note {
  readonly checkpoint: Checkpoint;
  /** What is signed: everything up to the empty line, with its last line feed. */
  readonly text: string;
  readonly signatures: readonly NoteSignature[];
}

export interface NoteSignature {
  readonly name: string;
  readonly keyHash: Buffer;
  readonly signature: Buffer;
}

/** The text is no checkpoint of ours; the message says which line. */
export class NoteError extends Error {}

export const zeroHash: string = '0'.repeat(64);

export const originOf = (node: string): string => `keyslot/${node}`;

export function checkpointText(checkpoint: Checkpoint): string {
  const { origin, size, root, chain, time, previous } = checkpoint;
  return `${origin}\n${size}\n${encodeBase64(root)}\nchain ${chain}\ntime ${time}\nprevious ${previous}\n`;
}

/** The note of a text and the Ed25519 signature of its UTF-8 bytes; without one, the unsigned note. */
export function noteOf(
  text: string,
  signed?: { name: string; publicKey: Uint8Array; signature: Uint8Array },
) {
  if (!signed) return `${text}\n`;
  const line = Buffer.concat([keyHashOf(signed.name, signed.publicKey), signed.signature]);
  return `${text}\n— ${signed.name} ${encodeBase64(line)}\n`;
}

/** Throws a NoteError for anything but exactly the form that `checkpointText` and `noteOf` write. */
export function parseNote(note: string): Note {
  const end = note.indexOf('\n\n');
  if (end < 0) throw new NoteError('The note has no empty line.');
  const text = note.slice(0, end + 1);
  const signatures = note.slice(end + 2);
  if (signatures !== '' && !signatures.endsWith('\n'))
    throw new NoteError('The note ends without a line feed.');
  const checkpoint = parseText(text);
  if (checkpointText(checkpoint) !== text) throw new NoteError('The note is not in its canonical form.');
  return { checkpoint, text, signatures: signatures.split('\n').slice(0, -1).map(parseSignature) };
}

/** What one key says of a note. Lines of other keys are allowed beside it, as the standard has it. */
export type NoteVerdict = 'valid' | 'unsigned' | 'other-key' | 'forged';

/** `unsigned`: no signature at all; `other-key`: none of this key; `forged`: one of this key that is not valid. */
export function verifyNote(note: Note, publicKey: Uint8Array): NoteVerdict {
  if (note.signatures.length === 0) return 'unsigned';
  const { origin } = note.checkpoint;
  const keyHash = keyHashOf(origin, publicKey);
  const ours = note.signatures.filter(({ name, keyHash: hash }) => name === origin && hash.equals(keyHash));
  if (ours.length === 0) return 'other-key';
  const verifier = createVerifier(publicKey);
  const text = Buffer.from(note.text, 'utf8');
  return ours.every(({ signature }) => verifier.verifyNow(text, signature)) ? 'valid' : 'forged';
}

/** What the next checkpoint's `previous` says. */
export const noteHash = (note: string): string => createHash('sha256').update(note, 'utf8').digest('hex');

/** C2SP signed-note: SHA-256(name ‖ LF ‖ 0x01 ‖ public key)[:4], 0x01 for Ed25519. */
export function keyHashOf(name: string, publicKey: Uint8Array): Buffer {
  if (publicKey.length !== publicKey_bytes) throw new RangeError('An Ed25519 public key has 32 bytes.');
  return createHash('sha256').update(`${name}\n\x01`, 'utf8').update(publicKey).digest().subarray(0, 4);
}

function parseText(text: string): Checkpoint {
  const lines = text.split('\n').slice(0, -1);
  const [origin = '', size = '', root = '', ...extensions] = lines;
  if (!/^keyslot\/[^\s+]+$/.test(origin)) throw new NoteError('Line 1 is not the origin of a Keyslot log.');
  if (!/^(0|[1-9][0-9]{0,15})$/.test(size) || !Number.isSafeInteger(Number(size))) {
    throw new NoteError('Line 2 is not a size.');
  }
  const hash = decodeBase64(root);
  if (hash?.length !== 32) throw new NoteError('Line 3 is not a hash in base64.');
  if (extensions.length !== 3) throw new NoteError('The note does not have our three extension lines.');
  return {
    origin,
    size: Number(size),
    root: hash,
    chain: extension(extensions[0], /^chain ([0-9a-f]{64})$/, 4),
    time: extension(extensions[1], /^time (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)$/, 5),
    previous: extension(extensions[2], /^previous ([0-9a-f]{64})$/, 6),
  };
}

function extension(line: string | undefined, form: RegExp, number: number): string {
  const value = form.exec(line ?? '')?.[1];
  if (value === undefined) throw new NoteError(`Line ${number} does not have the form of its extension.`);
  return value;
}

function parseSignature(line: string): NoteSignature {
  const [, name = '', encoded = ''] = /^— ([^\s+]+) (\S+)$/.exec(line) ?? [];
  const bytes = decodeBase64(encoded);
  if (name === '' || bytes?.length !== 4 + signature_bytes)
    throw new NoteError('A signature line is malformed.');
  return { name, keyHash: bytes.subarray(0, 4), signature: bytes.subarray(4) };
}

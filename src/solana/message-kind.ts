import { isUtf8 } from 'node:buffer';
import { publicKey_bytes, signature_bytes } from '../foundation/ed25519.ts';
import { limits } from '../foundation/limits.ts';
import { beginsAsOffchainMessage, type OffchainMessage, parseOffchainMessage } from './offchain-message.ts';
import {
  blockhash_bytes,
  type TransactionVersion,
  v0_prefix,
  v1_prefix,
  version_bit,
} from './wire-layout.ts';

/** What bytes mean that somebody wants signed as a message. */
export type MessageKind =
  | { readonly kind: 'transaction'; readonly version: TransactionVersion }
  | OffchainMessage
  | { readonly kind: 'bytes' };

/**
 * Tells transaction messages and off-chain messages from all other bytes.
 *
 * A signature of a message moves funds if the message is a transaction's, so this errs on the side of
 * `transaction`: it asks only whether the lengths fit, not whether the values make sense, and bytes may
 * follow. Whatever any validator can read is recognised. Ordinary text and 32-byte hashes are `bytes`. Of
 * random bytes, one in a hundred thousand looks like a transaction at 64 bytes, and one in a thousand at a
 * few kilobytes; who has to sign those needs the `raw` right.
 *
 * Throws OFFCHAIN_MESSAGE_INVALID for bytes that begin as an off-chain message and are not one, and nothing
 * else, whatever the bytes.
 */
export function classifyMessage(bytes: Uint8Array): MessageKind {
  if (beginsAsOffchainMessage(bytes)) return parseOffchainMessage(bytes);
  const version = readableVersion(bytes);
  return version === undefined ? { kind: 'bytes' } : { kind: 'transaction', version };
}

/**
 * Whether the bytes are a legacy or v0 transaction as it travels: the number of its signatures, the signatures, and
 * its message. (One of v1 begins with its message, which `classifyMessage` recognises.) A signature over all of them
 * is good for nothing, so whoever asks for one has asked for the wrong thing.
 */
export function isWireTransaction(bytes: Uint8Array): boolean {
  const count = bytes[0] ?? 0;
  if (count === 0 || count >= version_bit) return false;
  return readableVersion(bytes.subarray(1 + count * signature_bytes)) !== undefined;
}

function readableVersion(bytes: Uint8Array): TransactionVersion | undefined {
  const first = bytes[0];
  if (first === undefined) return undefined;
  if (first < version_bit) return isLegacy(bytes) ? 'legacy' : undefined;
  if (first === v0_prefix) return endOfV0(bytes) <= bytes.length ? 'v0' : undefined;
  if (first === v1_prefix) return isV1(bytes) ? 'v1' : undefined;
  return undefined;
}

// Long text with few bytes at the right places can look like thousands of bytes of accounts and instructions.
// No validator reads a legacy message of that size, so there text has the benefit of the doubt; and no key
// can sign it into a transaction, for the 32 bytes of the key itself would have to be text.
function isLegacy(bytes: Uint8Array): boolean {
  const walk = new Walk(bytes, 0);
  walk.message();
  if (walk.at > bytes.length) return false;
  return walk.at <= limits.transaction_bytes_max || !isPlainText(bytes);
}

function isPlainText(bytes: Uint8Array): boolean {
  for (const byte of bytes) {
    if (byte < 0x20 && byte !== 0x09 && byte !== 0x0a && byte !== 0x0d) return false;
  }
  return isUtf8(bytes);
}

function endOfV0(bytes: Uint8Array): number {
  const walk = new Walk(bytes, 1);
  walk.message();
  walk.lookups();
  return walk.at;
}

// SIMD-0385 gives each bit of the mask, which stands at byte 4, a value of four bytes. Validators refuse bits
// that they do not know, some libraries pass over them: both readings count.
function isV1(bytes: Uint8Array): boolean {
  const mask = new Walk(bytes, 4).u32();
  return [bitCount(mask), bitCount(mask & 0x1f)].some(values => endOfV1(bytes, values) <= bytes.length);
}

function endOfV1(bytes: Uint8Array, configValues: number): number {
  const walk = new Walk(bytes, 40); // behind version, header, mask and blockhash
  const instructionCount = walk.u8();
  const accountKeyCount = walk.u8();
  walk.skip(accountKeyCount * publicKey_bytes + configValues * 4);
  let payloads_bytes = 0;
  for (let position = 0; position < instructionCount; position += 1) {
    walk.skip(1);
    // Agave has added the two lengths in sixteen bits, so that a sum beyond them was small to it.
    payloads_bytes += (walk.u8() + walk.u16()) & 0xffff;
  }
  return walk.at + payloads_bytes;
}

function bitCount(mask: number): number {
  let count = 0;
  for (let rest = mask >>> 0; rest !== 0; rest >>>= 1) count += rest & 1;
  return count;
}

/** Walks over lengths and never refuses: behind the end it reads zeros, and `at` tells that it got there. */
class Walk {
  readonly bytes: Uint8Array;
  at: number;

  constructor(bytes: Uint8Array, at: number) {
    this.bytes = bytes;
    this.at = at;
  }

  /** Header, account keys, blockhash, instructions: the part that legacy and v0 share. */
  message(): void {
    this.skip(3);
    this.skip(this.length() * publicKey_bytes + blockhash_bytes);
    for (let rest = this.length(); rest > 0 && this.at <= this.bytes.length; rest -= 1) {
      this.skip(1);
      this.skip(this.length());
      this.skip(this.length());
    }
  }

  lookups(): void {
    for (let rest = this.length(); rest > 0 && this.at <= this.bytes.length; rest -= 1) {
      this.skip(publicKey_bytes);
      this.skip(this.length());
      this.skip(this.length());
    }
  }

  // A method, because `this.at += this.length()` would take the old `at`, from before the length was read.
  skip(length: number): void {
    this.at += length;
  }

  u8(): number {
    const value = this.bytes[this.at] ?? 0;
    this.at += 1;
    return value;
  }

  u16(): number {
    return this.u8() + this.u8() * 2 ** 8;
  }

  u32(): number {
    return this.u16() + this.u16() * 2 ** 16;
  }

  /**
   * A compact-u16 in up to three bytes, more lenient than any reader known: longer encodings than needed
   * count, and so does a length that is cut off (kit and web3.js take that for 0).
   */
  length(): number {
    let value = 0;
    for (let shift = 0; shift < 21; shift += 7) {
      const byte = this.bytes[this.at];
      if (byte === undefined) break;
      this.at += 1;
      value += (byte & 0x7f) << shift;
      if (byte < 0x80) break;
    }
    return value;
  }
}

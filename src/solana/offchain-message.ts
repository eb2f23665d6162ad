import { isUtf8 } from 'node:buffer';
import { publicKey_bytes } from '../foundation/ed25519.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { isKeyAt } from './public-key.ts';

/** A message in the envelope that no transaction can begin with (first byte 0xff). Subarrays of the bytes. */
export type OffchainMessage = OffchainMessageV0 | OffchainMessageV1;

interface OffchainMessageBase {
  readonly kind: 'offchain';
  /** Everybody who has to sign; at least one. */
  readonly signers: readonly Uint8Array[];
  /** The text, in UTF-8 and never empty. */
  readonly body: Uint8Array;
}

export interface OffchainMessageV0 extends OffchainMessageBase {
  readonly version: 0;
  readonly applicationDomain: Uint8Array;
  readonly format: OffchainFormat;
}

export interface OffchainMessageV1 extends OffchainMessageBase {
  readonly version: 1;
}

/** What a v0 body may hold: printable ASCII or UTF-8 small enough for a hardware wallet, or long UTF-8. */
export type OffchainFormat = 'ascii' | 'utf8' | 'utf8-long';

// "\xffsolana offchain"
const signingDomain = Buffer.from('ff736f6c616e61206f6666636861696e', 'hex');

const formats: readonly OffchainFormat[] = ['ascii', 'utf8', 'utf8-long'];
const domain_bytes = 32;
// Formats 0 and 1, envelope included: what a hardware wallet takes.
const shortEnvelope_bytes_max = 1232;

/** Whether the bytes claim to be an off-chain message; they may still be a malformed one. */
export function beginsAsOffchainMessage(bytes: Uint8Array): boolean {
  return signingDomain.every((byte, index) => bytes[index] === byte);
}

/**
 * Reads the envelope, version 0 or 1, as `@solana/offchain-messages` writes it.
 * https://github.com/solana-foundation/SRFCs/discussions/3 is the text of version 1.
 * Throws OFFCHAIN_MESSAGE_INVALID.
 */
export function parseOffchainMessage(bytes: Uint8Array): OffchainMessage {
  if (!beginsAsOffchainMessage(bytes)) throw invalid('The signing domain is missing.');
  const version = bytes[signingDomain.length];
  const at = signingDomain.length + 1;
  if (version === 0) return parseV0(bytes, at);
  if (version === 1) return parseV1(bytes, at);
  throw invalid(version === undefined ? 'The version is missing.' : `The version ${version} is not known.`);
}

/** Whether this key is among those who have to sign. */
export function listsSigner(message: OffchainMessage, publicKey: Uint8Array): boolean {
  return message.signers.some(signer => isKeyAt(signer, 0, publicKey));
}

function parseV0(bytes: Uint8Array, domainOffset: number): OffchainMessageV0 {
  const formatOffset = domainOffset + domain_bytes;
  const format = formats[bytes[formatOffset] ?? formats.length];
  if (format === undefined) throw invalid('The format is missing or not known.');
  const signers = readSigners(bytes, formatOffset + 1);
  const lengthOffset = endOfSigners(formatOffset + 1, signers);
  const body = bytes.subarray(lengthOffset + 2);
  checkLength(bytes, lengthOffset, body);
  checkBody(body);
  checkFormat(format, body, bytes.length);
  const applicationDomain = bytes.subarray(domainOffset, formatOffset);
  return { kind: 'offchain', version: 0, applicationDomain, format, signers, body };
}

function parseV1(bytes: Uint8Array, signersOffset: number): OffchainMessageV1 {
  const signers = readSigners(bytes, signersOffset);
  checkAscending(signers);
  const body = bytes.subarray(endOfSigners(signersOffset, signers));
  checkBody(body);
  return { kind: 'offchain', version: 1, signers, body };
}

function readSigners(bytes: Uint8Array, offset: number): Uint8Array[] {
  const count = bytes[offset] ?? 0;
  if (count === 0) throw invalid('The message lists no signer.');
  if (bytes.length < offset + 1 + count * publicKey_bytes) throw invalid('The message ends in its signers.');
  return Array.from({ length: count }, (_, index) => {
    const from = offset + 1 + index * publicKey_bytes;
    return bytes.subarray(from, from + publicKey_bytes);
  });
}

const endOfSigners = (offset: number, signers: readonly Uint8Array[]): number =>
  offset + 1 + signers.length * publicKey_bytes;

function checkAscending(signers: readonly Uint8Array[]): void {
  signers.forEach((signer, index) => {
    const previous = signers[index - 1];
    if (previous !== undefined && Buffer.compare(previous, signer) >= 0) {
      throw invalid(`The signers ${index - 1} and ${index} are equal or not in ascending order.`);
    }
  });
}

function checkLength(bytes: Uint8Array, offset: number, body: Uint8Array): void {
  const low = bytes[offset];
  const high = bytes[offset + 1];
  if (low === undefined || high === undefined)
    throw invalid('The message ends before the length of its body.');
  const length = low + high * 2 ** 8;
  if (length !== body.length) {
    throw invalid(`The body has ${body.length} bytes, and the envelope says ${length}.`);
  }
}

function checkBody(body: Uint8Array): void {
  if (body.length === 0) throw invalid('The body is empty.');
  if (!isUtf8(body)) throw invalid('The body is not UTF-8.');
}

function checkFormat(format: OffchainFormat, body: Uint8Array, envelope_bytes: number): void {
  if (format === 'ascii' && !body.every(byte => byte >= 0x20 && byte <= 0x7e)) {
    throw invalid('The body has bytes outside printable ASCII, which is its format.');
  }
  if (format !== 'utf8-long' && envelope_bytes > shortEnvelope_bytes_max) {
    throw invalid(
      `The message has ${envelope_bytes} bytes; ${shortEnvelope_bytes_max} is the most for its format.`,
    );
  }
}

const invalid = (detail: string): KeyslotError => new KeyslotError('OFFCHAIN_MESSAGE_INVALID', detail);

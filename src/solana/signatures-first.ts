import { publicKey_bytes, signature_bytes } from '../foundation/ed25519.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { WireCursor } from './wire-cursor.ts';
import {
  blockhash_bytes,
  checkAccountIndex,
  checkEnd,
  checkHeader,
  checkInstructionCount,
  checkKeysDiffer,
  checkProgramIndex,
  checkSignatureCount,
  largestAccountIndex,
  type MessageHeader,
  malformed,
  readHeader,
  signersInvalid,
  v0_prefix,
  v1_prefix,
  version_bit,
  type WireLayout,
} from './wire-layout.ts';

/**
 * Legacy and v0: the signatures come first, with their count, and the message is the rest.
 * https://solana.com/docs/core/transactions (legacy) and Solana's proposal "Versioned Transactions" (v0).
 */
export function signaturesFirstLayout(wire: Uint8Array): WireLayout {
  const cursor = new WireCursor(wire, 0);
  const signatureCount = cursor.compactU16('the number of signatures');
  checkSignatureCount(signatureCount);
  const signaturesOffset = cursor.take(signatureCount * signature_bytes, 'the signatures');

  const messageOffset = cursor.at;
  const version = readVersion(cursor);
  const header = readHeader(cursor);
  checkSignaturePlaces(header, signatureCount);
  const accountKeyCount = cursor.compactU16('the number of account keys');
  checkHeader(header, accountKeyCount);
  const accountKeysOffset = cursor.take(accountKeyCount * publicKey_bytes, 'the account keys');
  const blockhashOffset = cursor.take(blockhash_bytes, 'the recent blockhash');

  const instructionCount = cursor.compactU16('the number of instructions');
  checkInstructionCount(instructionCount);
  const instructionsOffset = cursor.at;
  const largest = skipInstructions(cursor, instructionCount, accountKeyCount);

  const lookupCount = version === 'v0' ? cursor.compactU16('the number of address table lookups') : 0;
  const lookupsOffset = cursor.at;
  const loadedAccountCount = skipLookups(cursor, lookupCount);
  checkEnd(cursor);
  checkAccountCount(accountKeyCount + loadedAccountCount);
  checkAccountIndex(largest, accountKeyCount + loadedAccountCount);
  checkKeysDiffer(wire, accountKeysOffset, accountKeyCount);
  return {
    version,
    messageOffset,
    messageEnd: cursor.at,
    signaturesOffset,
    header,
    accountKeysOffset,
    accountKeyCount,
    blockhashOffset,
    instructionsOffset,
    instructionCount,
    lookupsOffset,
    lookupCount,
    loadedAccountCount,
    configMask: 0,
    configOffset: 0,
  };
}

function readVersion(cursor: WireCursor): 'legacy' | 'v0' {
  const prefix = cursor.u8('the first byte of the message');
  if (prefix === v0_prefix) return 'v0';
  if (prefix < version_bit) {
    cursor.at -= 1; // a legacy message has no version byte: this is its header
    return 'legacy';
  }
  if (prefix === v1_prefix) throw malformed('The message has version 1, which goes before its signatures.');
  throw new KeyslotError(
    'TRANSACTION_VERSION_UNSUPPORTED',
    `The message has version ${prefix & 0x7f}; legacy, 0 and 1 are supported.`,
  );
}

function checkSignaturePlaces(header: MessageHeader, signatureCount: number): void {
  if (header.requiredSignatures === signatureCount) return;
  throw signersInvalid(
    `The message requires ${header.requiredSignatures} signatures, and there is room for ${signatureCount}.`,
  );
}

/** Returns the largest account index; it is compared when the lookups have told how many accounts there are. */
function skipInstructions(cursor: WireCursor, count: number, accountKeyCount: number): number {
  let largest = -1;
  for (let position = 0; position < count; position += 1) {
    const programIndex = cursor.u8('the program of an instruction');
    checkProgramIndex(programIndex, position, accountKeyCount);
    const accountCount = cursor.compactU16('the number of accounts of an instruction');
    largest = Math.max(largest, largestAccountIndex(cursor, accountCount, position));
    cursor.take(cursor.compactU16('the data length of an instruction'), 'the data of an instruction');
  }
  return largest;
}

/** Returns how many accounts the lookups load. */
function skipLookups(cursor: WireCursor, count: number): number {
  let loaded = 0;
  for (let position = 0; position < count; position += 1) {
    cursor.take(publicKey_bytes, 'the address of a lookup table');
    const writable = cursor.compactU16('the number of writable lookups');
    cursor.take(writable, 'the writable lookups');
    const readonly = cursor.compactU16('the number of read-only lookups');
    cursor.take(readonly, 'the read-only lookups');
    if (writable + readonly === 0) throw malformed(`Address table lookup ${position} loads no account.`);
    loaded += writable + readonly;
  }
  return loaded;
}

// An account index is one byte.
function checkAccountCount(count: number): void {
  if (count <= 256) return;
  throw malformed(`The message has ${count} accounts, static and looked up; 256 is the most.`);
}

import { publicKey_bytes, signature_bytes } from '../foundation/ed25519.ts';
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
  malformed,
  readHeader,
  type WireLayout,
} from './wire-layout.ts';

/**
 * Version 1, SIMD-0385: the message comes first and its signatures last, without a count.
 * https://github.com/solana-foundation/solana-improvement-documents/blob/main/proposals/0385-transaction-v1.md
 */
export function messageFirstLayout(wire: Uint8Array): WireLayout {
  const cursor = new WireCursor(wire, 1);
  const header = readHeader(cursor);
  checkSignatureCount(header.requiredSignatures);
  const configMask = cursor.u32('the config mask');
  checkConfigMask(configMask);
  const blockhashOffset = cursor.take(blockhash_bytes, 'the recent blockhash');
  const instructionCount = cursor.u8('the number of instructions');
  checkInstructionCount(instructionCount);
  const accountKeyCount = cursor.u8('the number of account keys');
  checkAccountKeyCount(accountKeyCount);
  checkHeader(header, accountKeyCount);
  const accountKeysOffset = cursor.take(accountKeyCount * publicKey_bytes, 'the account keys');

  const configOffset = cursor.at;
  skipConfig(cursor, configMask);
  const instructionsOffset = cursor.take(
    instructionCount * instructionHeader_bytes,
    'the headers of the instructions',
  );
  const largest = skipPayloads(cursor, instructionsOffset, instructionCount, accountKeyCount);

  const messageEnd = cursor.at;
  cursor.take(header.requiredSignatures * signature_bytes, 'the signatures');
  checkEnd(cursor);
  checkAccountIndex(largest, accountKeyCount);
  checkKeysDiffer(wire, accountKeysOffset, accountKeyCount);
  return {
    version: 'v1',
    messageOffset: 0,
    messageEnd,
    signaturesOffset: messageEnd,
    header,
    accountKeysOffset,
    accountKeyCount,
    blockhashOffset,
    instructionsOffset,
    instructionCount,
    lookupsOffset: 0,
    lookupCount: 0,
    loadedAccountCount: 0,
    configMask,
    configOffset,
  };
}

/** u8 program, u8 number of accounts, u16 length of the data. */
export const instructionHeader_bytes = 4;

/** The bits of the config mask, in the order of their values. The priority fee is a u64 and takes two. */
export const configBits = {
  priorityFee: 0b00011,
  computeUnitLimit: 0b00100,
  loadedAccountsDataSizeLimit: 0b01000,
  heapSize: 0b10000,
} as const;
const knownBits = 0b11111;

const accountKeys_max = 64;
const heap_bytes_min = 32 * 1024;
const heap_bytes_max = 256 * 1024;
const heap_bytes_step = 1024;

// An unknown bit would move everything behind the config, so it cannot be passed over.
function checkConfigMask(mask: number): void {
  const fee = mask & configBits.priorityFee;
  if (mask <= knownBits && (fee === 0 || fee === configBits.priorityFee)) return;
  throw malformed(`The config mask 0x${mask.toString(16)} has unknown bits or half a priority fee.`);
}

function checkAccountKeyCount(count: number): void {
  if (count <= accountKeys_max) return;
  throw malformed(`The message has ${count} account keys; ${accountKeys_max} is the most for version 1.`);
}

function skipConfig(cursor: WireCursor, mask: number): void {
  if (mask & configBits.priorityFee) cursor.take(8, 'the priority fee');
  if (mask & configBits.computeUnitLimit) cursor.take(4, 'the compute unit limit');
  if (mask & configBits.loadedAccountsDataSizeLimit) cursor.take(4, 'the loaded accounts data size limit');
  if (mask & configBits.heapSize) checkHeapSize(cursor.u32('the heap size'));
}

function checkHeapSize(size: number): void {
  if (size >= heap_bytes_min && size <= heap_bytes_max && size % heap_bytes_step === 0) return;
  throw malformed(
    `The heap size is ${size} bytes; a multiple of ${heap_bytes_step} ` +
      `from ${heap_bytes_min} to ${heap_bytes_max} is possible.`,
  );
}

/** Returns the largest account index. */
function skipPayloads(cursor: WireCursor, offset: number, count: number, accountKeyCount: number): number {
  const headers = new WireCursor(cursor.bytes, offset);
  let largest = -1;
  for (let position = 0; position < count; position += 1) {
    checkProgramIndex(headers.u8('the program of an instruction'), position, accountKeyCount);
    const accountCount = headers.u8('the number of accounts of an instruction');
    const data_bytes = headers.u16('the data length of an instruction');
    largest = Math.max(largest, largestAccountIndex(cursor, accountCount, position));
    cursor.take(data_bytes, 'the data of an instruction');
  }
  return largest;
}

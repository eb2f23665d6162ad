import { publicKey_bytes } from '../foundation/ed25519.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { areKeysEqual } from './public-key.ts';
import type { WireCursor } from './wire-cursor.ts';

/** `legacy` has no version byte; the others are numbered. */
export type TransactionVersion = 'legacy' | 'v0' | 'v1';

export interface MessageHeader {
  /** The first keys sign; the very first one pays. */
  readonly requiredSignatures: number;
  /** How many of the signers, counted from their end, are read-only. */
  readonly readonlySigned: number;
  /** How many of the other static keys, counted from their end, are read-only. */
  readonly readonlyUnsigned: number;
}

/** Where everything stands in the wire bytes of one transaction. */
export interface WireLayout {
  readonly version: TransactionVersion;
  readonly messageOffset: number;
  readonly messageEnd: number;
  readonly signaturesOffset: number;
  readonly header: MessageHeader;
  readonly accountKeysOffset: number;
  readonly accountKeyCount: number;
  readonly blockhashOffset: number;
  readonly instructionsOffset: number;
  readonly instructionCount: number;
  /** v0 only: address table lookups, and the number of accounts that they load. */
  readonly lookupsOffset: number;
  readonly lookupCount: number;
  readonly loadedAccountCount: number;
  /** v1 only: which config values are present, and where they begin. */
  readonly configMask: number;
  readonly configOffset: number;
}

/** A message with this bit in its first byte has a version, which is the rest of the byte. */
export const version_bit = 0x80;
export const v0_prefix = 0x80;
export const v1_prefix = 0x81;
export const blockhash_bytes = 32;

// SIMD-0385 says 12 for v1; in the older formats no more fit, at 64 + 32 bytes a signer.
const signatures_max = 12;
// SIMD-0160: the trace of executed instructions has 64 places.
const instructions_max = 64;
// SIMD-0406.
const accountsPerInstruction_max = 255;

/** Reads the three bytes of the header. */
export function readHeader(cursor: WireCursor): MessageHeader {
  const requiredSignatures = cursor.u8('the number of required signatures');
  const readonlySigned = cursor.u8('the number of read-only signers');
  const readonlyUnsigned = cursor.u8('the number of read-only accounts');
  return { requiredSignatures, readonlySigned, readonlyUnsigned };
}

export function checkSignatureCount(count: number): void {
  if (count >= 1 && count <= signatures_max) return;
  throw signersInvalid(`The transaction has ${count} signatures; 1 to ${signatures_max} are possible.`);
}

/** The signers must be keys of the message, the payer must be writable, and the areas must not overlap. */
export function checkHeader(header: MessageHeader, accountKeyCount: number): void {
  const { requiredSignatures, readonlySigned, readonlyUnsigned } = header;
  if (requiredSignatures > accountKeyCount) {
    throw signersInvalid(
      `The message requires ${requiredSignatures} signatures, but has ${accountKeyCount} account keys.`,
    );
  }
  if (readonlySigned >= requiredSignatures) {
    throw malformed(`All ${requiredSignatures} signers are read-only, so nobody can pay the fee.`);
  }
  if (requiredSignatures + readonlyUnsigned > accountKeyCount) {
    throw malformed(
      `The header needs ${requiredSignatures + readonlyUnsigned} account keys, but there are ${accountKeyCount}.`,
    );
  }
}

/** A validator refuses to lock an account twice. */
export function checkKeysDiffer(wire: Uint8Array, offset: number, count: number): void {
  for (let later = 1; later < count; later += 1) {
    for (let earlier = 0; earlier < later; earlier += 1) {
      if (areKeysEqual(wire, offset + earlier * publicKey_bytes, offset + later * publicKey_bytes)) {
        throw malformed(`The account keys ${earlier} and ${later} are the same.`);
      }
    }
  }
}

export function checkInstructionCount(count: number): void {
  if (count <= instructions_max) return;
  throw malformed(`The message has ${count} instructions; ${instructions_max} is the most.`);
}

/** Programs are static keys, so that a transaction can be judged without loading anything; 0 is the payer. */
export function checkProgramIndex(programIndex: number, position: number, accountKeyCount: number): void {
  if (programIndex >= 1 && programIndex < accountKeyCount) return;
  throw malformed(
    `Instruction ${position} names account ${programIndex} as its program; ` +
      `1 to ${accountKeyCount - 1} are possible.`,
  );
}

/** The largest account index of one instruction, or -1. */
export function largestAccountIndex(cursor: WireCursor, count: number, position: number): number {
  if (count > accountsPerInstruction_max) {
    throw malformed(
      `Instruction ${position} has ${count} accounts; ${accountsPerInstruction_max} is the most.`,
    );
  }
  const from = cursor.take(count, 'the accounts of an instruction');
  let largest = -1;
  for (let at = from; at < cursor.at; at += 1) largest = Math.max(largest, cursor.bytes[at] ?? 0);
  return largest;
}

export function checkAccountIndex(largest: number, accountCount: number): void {
  if (largest < accountCount) return;
  throw malformed(`An instruction names account ${largest}, but there are ${accountCount} accounts.`);
}

export function checkEnd(cursor: WireCursor): void {
  const rest = cursor.bytes.length - cursor.at;
  if (rest === 0) return;
  throw new KeyslotError(
    'TRANSACTION_TRAILING_BYTES',
    `The transaction ends after ${cursor.at} bytes, and ${rest} more follow.`,
  );
}

export const malformed = (detail: string): KeyslotError => new KeyslotError('TRANSACTION_MALFORMED', detail);

export const signersInvalid = (detail: string): KeyslotError =>
  new KeyslotError('TRANSACTION_SIGNERS_INVALID', detail);

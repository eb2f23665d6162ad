import { publicKey_bytes } from '../foundation/ed25519.ts';
import { configBits, instructionHeader_bytes } from './message-first.ts';
import { WireCursor } from './wire-cursor.ts';
import {
  blockhash_bytes,
  type MessageHeader,
  type TransactionVersion,
  type WireLayout,
} from './wire-layout.ts';

/** One instruction. The account indexes count the static keys first, then those that lookups load. */
export interface InstructionView {
  readonly programIndex: number;
  readonly accounts: Uint8Array;
  readonly data: Uint8Array;
}

/** Accounts that a v0 transaction loads from one address lookup table. */
export interface AddressTableLookupView {
  readonly tableKey: Uint8Array;
  readonly writableIndexes: Uint8Array;
  readonly readonlyIndexes: Uint8Array;
}

/** The compute budget of a v1 transaction. A limit that was not set is 0 to a validator, and the heap 32 KiB. */
export interface TransactionConfig {
  /** Lamports for the whole transaction. */
  readonly priorityFee: bigint | undefined;
  readonly computeUnitLimit: number | undefined;
  readonly loadedAccountsDataSizeLimit: number | undefined;
  readonly heapSize: number | undefined;
}

/**
 * A transaction that was read by `parseTransaction`. Nothing is copied and little is made in advance: every
 * `Uint8Array` is a subarray of `wire`, and the lists are made when they are first asked for.
 */
export class TransactionView {
  readonly wire: Uint8Array;
  readonly version: TransactionVersion;
  /** What is signed: exactly these bytes of `wire`. */
  readonly message: Uint8Array;
  readonly header: MessageHeader;
  /** Where the signatures stand in `wire`: in front of the message, or for v1 behind it. */
  readonly signaturesOffset: number;
  readonly #layout: WireLayout;
  #instructions: readonly InstructionView[] | undefined;
  #lookups: readonly AddressTableLookupView[] | undefined;

  constructor(wire: Uint8Array, layout: WireLayout) {
    this.wire = wire;
    this.version = layout.version;
    this.message = wire.subarray(layout.messageOffset, layout.messageEnd);
    this.header = layout.header;
    this.signaturesOffset = layout.signaturesOffset;
    this.#layout = layout;
  }

  /** As many places as the header requires signatures; a place without one holds zeros. */
  get signatureCount(): number {
    return this.header.requiredSignatures;
  }

  /** How many keys the message itself has; v0 may load more, see `loadedAccountCount`. */
  get accountKeyCount(): number {
    return this.#layout.accountKeyCount;
  }

  get loadedAccountCount(): number {
    return this.#layout.loadedAccountCount;
  }

  accountKey(index: number): Uint8Array {
    const offset = this.accountKeyOffset(index);
    return this.wire.subarray(offset, offset + publicKey_bytes);
  }

  /** Where a static key stands in `wire`. Throws a RangeError for an index that is not one. */
  accountKeyOffset(index: number): number {
    if (!Number.isInteger(index) || index < 0 || index >= this.accountKeyCount) {
      throw new RangeError(`There is no static account key ${index} among ${this.accountKeyCount}.`);
    }
    return this.#layout.accountKeysOffset + index * publicKey_bytes;
  }

  /** A recent blockhash, or the value of a durable nonce. */
  get recentBlockhash(): Uint8Array {
    return this.wire.subarray(this.#layout.blockhashOffset, this.#layout.blockhashOffset + blockhash_bytes);
  }

  get instructionCount(): number {
    return this.#layout.instructionCount;
  }

  get instructions(): readonly InstructionView[] {
    this.#instructions ??= this.version === 'v1' ? this.#headedInstructions() : this.#inlineInstructions();
    return this.#instructions;
  }

  /** Empty for all versions but v0. */
  get addressTableLookups(): readonly AddressTableLookupView[] {
    this.#lookups ??= this.#readLookups();
    return this.#lookups;
  }

  /** `undefined` for all versions but v1. */
  get config(): TransactionConfig | undefined {
    if (this.version !== 'v1') return undefined;
    const { configMask, configOffset } = this.#layout;
    const cursor = new WireCursor(this.wire, configOffset);
    const u32 = (bit: number): number | undefined =>
      configMask & bit ? cursor.u32('the config') : undefined;
    const fee_low = u32(configBits.priorityFee);
    const fee_high = u32(configBits.priorityFee);
    return {
      priorityFee:
        fee_low === undefined || fee_high === undefined
          ? undefined
          : (BigInt(fee_high) << 32n) | BigInt(fee_low),
      computeUnitLimit: u32(configBits.computeUnitLimit),
      loadedAccountsDataSizeLimit: u32(configBits.loadedAccountsDataSizeLimit),
      heapSize: u32(configBits.heapSize),
    };
  }

  // The bytes were checked when the layout was made, so the cursors below never come to the end.

  #inlineInstructions(): InstructionView[] {
    const cursor = new WireCursor(this.wire, this.#layout.instructionsOffset);
    return Array.from({ length: this.instructionCount }, () => ({
      programIndex: cursor.u8('a program'),
      accounts: this.#slice(cursor, cursor.compactU16('accounts')),
      data: this.#slice(cursor, cursor.compactU16('data')),
    }));
  }

  #headedInstructions(): InstructionView[] {
    const { instructionsOffset, instructionCount } = this.#layout;
    const headers = new WireCursor(this.wire, instructionsOffset);
    const payloads = new WireCursor(
      this.wire,
      instructionsOffset + instructionCount * instructionHeader_bytes,
    );
    return Array.from({ length: instructionCount }, () => ({
      programIndex: headers.u8('a program'),
      accounts: this.#slice(payloads, headers.u8('accounts')),
      data: this.#slice(payloads, headers.u16('data')),
    }));
  }

  #readLookups(): AddressTableLookupView[] {
    const cursor = new WireCursor(this.wire, this.#layout.lookupsOffset);
    return Array.from({ length: this.#layout.lookupCount }, () => ({
      tableKey: this.#slice(cursor, publicKey_bytes),
      writableIndexes: this.#slice(cursor, cursor.compactU16('writable lookups')),
      readonlyIndexes: this.#slice(cursor, cursor.compactU16('read-only lookups')),
    }));
  }

  #slice(cursor: WireCursor, length: number): Uint8Array {
    const from = cursor.take(length, 'a checked part');
    return this.wire.subarray(from, from + length);
  }
}

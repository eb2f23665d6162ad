import { KeyslotError } from '../foundation/errors.ts';

/**
 * Walks forward over untrusted bytes. A step past the end throws TRANSACTION_TRUNCATED and names what is
 * missing, so that the readers above read like the layout that they describe. Integers are little endian.
 */
export class WireCursor {
  readonly bytes: Uint8Array;
  at: number;

  constructor(bytes: Uint8Array, at: number) {
    this.bytes = bytes;
    this.at = at;
  }

  /** Steps over `length` bytes and returns where they begin. */
  take(length: number, what: string): number {
    const from = this.at;
    if (length > this.bytes.length - from) throw this.#truncated(what);
    this.at = from + length;
    return from;
  }

  u8(what: string): number {
    const value = this.bytes[this.at];
    if (value === undefined) throw this.#truncated(what);
    this.at += 1;
    return value;
  }

  u16(what: string): number {
    return this.u8(what) + this.u8(what) * 2 ** 8;
  }

  u32(what: string): number {
    return this.u16(what) + this.u16(what) * 2 ** 16;
  }

  /**
   * Solana's compact-u16: 7 bits a byte, lowest first, the high bit says that more follow. Only the shortest
   * encoding counts, as for validators: one transaction has one form. Throws COMPACT_U16_INVALID.
   */
  compactU16(what: string): number {
    const first = this.u8(what);
    if (first < 0x80) return first;
    const second = this.u8(what);
    if (second === 0) throw this.#notCompact(what);
    if (second < 0x80) return (first & 0x7f) | (second << 7);
    const third = this.u8(what);
    // 14 bits are read: two are left of sixteen, and zero would not have needed this byte.
    if (third === 0 || third > 3) throw this.#notCompact(what);
    return (first & 0x7f) | ((second & 0x7f) << 7) | (third << 14);
  }

  #truncated(what: string): KeyslotError {
    return new KeyslotError(
      'TRANSACTION_TRUNCATED',
      `The transaction has ${this.bytes.length} bytes and ends within ${what}, which begins at byte ${this.at}.`,
    );
  }

  #notCompact(what: string): KeyslotError {
    return new KeyslotError(
      'COMPACT_U16_INVALID',
      `The encoding of ${what}, which ends at byte ${this.at}, overflows or is not the shortest.`,
    );
  }
}

import { timingSafeEqual } from 'node:crypto';
import { inspect } from 'node:util';

/**
 * Bytes that must not be seen: PINs, seeds, shares, tokens.
 *
 * A `Secret` holds a private copy, lends it to a callback, prints `[secret]` wherever it is turned into text,
 * and is zero-filled when disposed. It makes leaking an accident that cannot happen, not a crime that cannot:
 * JavaScript strings and the garbage collector may keep copies that nobody can wipe. Hardware can.
 */
export class Secret implements Disposable {
  #bytes: Buffer;
  #disposed = false;

  private constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  /** Takes a copy. With `wipe`, the given bytes are zero-filled, so that this is the only copy left. */
  static fromBytes(bytes: Uint8Array, options: { wipe?: boolean } = {}): Secret {
    // A buffer of its own outside the heap of V8, which moves and copies what is small enough to lie in it.
    const copy = Buffer.from(new ArrayBuffer(bytes.length));
    copy.set(bytes);
    if (options.wipe) bytes.fill(0);
    return new Secret(copy);
  }

  static fromText(text: string): Secret {
    return Secret.fromBytes(Buffer.from(text, 'utf8'), { wipe: true });
  }

  get length(): number {
    return this.#alive().length;
  }

  /** Lends the bytes for the time of the call. The callback must neither keep nor change them. */
  use<T>(borrow: (bytes: Uint8Array) => T): T {
    return borrow(this.#alive());
  }

  /** Lends the bytes as UTF-8 text, for interfaces that take a PIN as a string and nothing else. */
  useText<T>(borrow: (text: string) => T): T {
    return borrow(this.#alive().toString('utf8'));
  }

  /** Compares in constant time for secrets of one length; the length itself is not hidden. */
  equals(other: Secret): boolean {
    const mine = this.#alive();
    return other.use(theirs => mine.length === theirs.length && timingSafeEqual(mine, theirs));
  }

  /** A second secret with the same bytes and a life of its own. */
  copy(): Secret {
    return Secret.fromBytes(this.#alive());
  }

  [Symbol.dispose](): void {
    this.#bytes.fill(0);
    this.#disposed = true;
  }

  toString(): string {
    return '[secret]';
  }

  toJSON(): string {
    return '[secret]';
  }

  [inspect.custom](): string {
    return '[secret]';
  }

  #alive(): Buffer {
    if (this.#disposed) throw new Error('This secret was disposed.');
    return this.#bytes;
  }
}

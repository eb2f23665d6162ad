import { limits } from '../foundation/limits.ts';

/**
 * The frames on the socket between gateway and custodian.
 *
 *   u32 length of the rest · u32 call id · u8 kind · u32 length of the head · head (JSON) · { u32 length · bytes }*
 *
 * All integers little endian. The reader trusts nothing: a frame that is too long, or whose parts do not fill
 * it exactly, is a FrameError, after which the connection is of no use.
 */
export interface Frame {
  readonly id: number;
  readonly kind: FrameKind;
  readonly head: unknown;
  readonly bytes: readonly Uint8Array[];
}

export type FrameKind = 'hello' | 'call' | 'reply' | 'failure' | 'cancel';

export class FrameError extends Error {
  override name = 'FrameError';
}

export function encodeFrame(frame: Frame): Buffer {
  const head = JSON.stringify(frame.head);
  const head_bytes = Buffer.byteLength(head);
  const total = frame.bytes.reduce((sum, part) => sum + 4 + part.length, prefix_bytes + head_bytes);
  const buffer = Buffer.allocUnsafe(total);
  buffer.writeUInt32LE(total - 4, 0);
  buffer.writeUInt32LE(frame.id, 4);
  buffer.writeUInt8(kinds.indexOf(frame.kind), 8);
  buffer.writeUInt32LE(head_bytes, 9);
  buffer.write(head, prefix_bytes, 'utf8');
  let at = prefix_bytes + head_bytes;
  for (const part of frame.bytes) {
    buffer.writeUInt32LE(part.length, at);
    buffer.set(part, at + 4);
    at += 4 + part.length;
  }
  return buffer;
}

/** Collects what arrives and gives out whole frames. One per connection. */
export class FrameReader {
  #pending: Buffer = Buffer.alloc(0);

  /** The frames that this chunk completes. Their byte strings are views of the chunk: copy what is kept. */
  *read(chunk: Buffer): Generator<Frame> {
    let buffer = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
    while (buffer.length >= 4) {
      const length = buffer.readUInt32LE(0);
      if (length > limits.frame_bytes_max) throw new FrameError(`A frame of ${length} bytes is too long.`);
      if (buffer.length < 4 + length) break;
      yield decodeFrame(buffer.subarray(4, 4 + length));
      buffer = buffer.subarray(4 + length);
    }
    this.#pending = buffer;
  }
}

/**
 * Sends frames, all of one turn of the event loop in one write: one system call a frame would cost more than
 * the rest of the hop.
 */
export class FrameWriter {
  readonly #write: (bytes: Buffer) => void;
  #waiting: Buffer[] = [];

  constructor(write: (bytes: Buffer) => void) {
    this.#write = write;
  }

  send(frame: Frame): void {
    this.sendEncoded(encodeFrame(frame));
  }

  /** A frame that was encoded before, when its bytes were still those of its caller. */
  sendEncoded(frame: Buffer): void {
    if (this.#waiting.push(frame) === 1) setImmediate(() => this.#flush());
  }

  #flush(): void {
    const frames = this.#waiting;
    this.#waiting = [];
    const [only] = frames;
    this.#write(frames.length === 1 && only ? only : Buffer.concat(frames));
  }
}

const kinds: readonly FrameKind[] = ['hello', 'call', 'reply', 'failure', 'cancel'];
const prefix_bytes = 13;

function decodeFrame(body: Buffer): Frame {
  if (body.length < prefix_bytes - 4) throw new FrameError('A frame is shorter than its prefix.');
  const kind = kinds[body.readUInt8(4)];
  if (kind === undefined) throw new FrameError(`Frame kind ${body.readUInt8(4)} is unknown.`);
  const headEnd = prefix_bytes - 4 + body.readUInt32LE(5);
  if (headEnd > body.length) throw new FrameError('The head of a frame is longer than the frame.');
  return {
    id: body.readUInt32LE(0),
    kind,
    head: parsedHead(body.toString('utf8', prefix_bytes - 4, headEnd)),
    bytes: parts(body, headEnd),
  };
}

function parsedHead(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new FrameError('The head of a frame is not JSON.', { cause });
  }
}

function parts(body: Buffer, from: number): Uint8Array[] {
  const found: Uint8Array[] = [];
  let at = from;
  while (at < body.length) {
    if (at + 4 > body.length) throw new FrameError('A frame ends inside a length.');
    const end = at + 4 + body.readUInt32LE(at);
    if (end > body.length) throw new FrameError('A byte string is longer than its frame.');
    found.push(body.subarray(at + 4, end));
    at = end;
  }
  return found;
}

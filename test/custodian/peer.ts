import { connect, type Socket } from 'node:net';
import { encodeFrame, type Frame, FrameReader } from '../../src/wire/frames.ts';

/** The bare other end of a custodian's socket: sends what it is told, well-formed or not. */
export class Peer implements Disposable {
  readonly #socket: Socket;
  readonly #reader = new FrameReader();
  readonly #arrived: Frame[] = [];
  #closed = false;
  #news = Promise.withResolvers<void>();

  private constructor(path: string) {
    this.#socket = connect(path);
    this.#socket.on('data', chunk => {
      this.#arrived.push(...this.#reader.read(chunk));
      this.#tell();
    });
    this.#socket.on('error', () => undefined);
    this.#socket.on('close', () => {
      this.#closed = true;
      this.#tell();
    });
  }

  static async at(path: string): Promise<Peer> {
    const peer = new Peer(path);
    await new Promise(resolve => peer.#socket.once('connect', resolve));
    return peer;
  }

  static async greeted(path: string, secret: Uint8Array): Promise<Peer> {
    const peer = await Peer.at(path);
    peer.send(hello(secret));
    return peer;
  }

  send(...frames: readonly Frame[]): void {
    this.write(Buffer.concat(frames.map(encodeFrame)));
  }

  write(bytes: Uint8Array): void {
    if (this.#socket.writable) this.#socket.write(bytes);
  }

  /** The next frame, or undefined when the connection has ended without one. */
  async next(): Promise<Frame | undefined> {
    while (this.#arrived.length === 0 && !this.#closed) await this.#news.promise;
    return this.#arrived.shift();
  }

  async answerTo(frame: Frame): Promise<Frame | undefined> {
    this.send(frame);
    return this.next();
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }

  #tell(): void {
    this.#news.resolve();
    this.#news = Promise.withResolvers<void>();
  }
}

export const hello = (secret: Uint8Array): Frame => ({ id: 0, kind: 'hello', head: {}, bytes: [secret] });

export const callFrame = (id: number, head: unknown, bytes: readonly Uint8Array[] = []): Frame => ({
  id,
  kind: 'call',
  head,
  bytes,
});

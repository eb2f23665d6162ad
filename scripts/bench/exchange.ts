import { connect, type TLSSocket } from 'node:tls';

/**
 * One keep-alive connection that sends prepared bytes and reads the answer, one exchange at a time. It knows
 * as much HTTP/1.1 as Keyslot answers with (a status and a Content-Length) and no more, because the load shares
 * the cores with what it measures.
 */
export class Exchange {
  readonly #socket: TLSSocket;
  readonly #whenAnswered: (answer: Answer) => void;
  #chunks: Buffer[] = [];
  #missing_bytes = 0;
  #status = 0;
  #head_bytes = 0;

  private constructor(socket: TLSSocket, whenAnswered: (answer: Answer, exchange: Exchange) => void) {
    this.#socket = socket;
    this.#whenAnswered = answer => whenAnswered(answer, this);
    socket.on('data', chunk => this.#read(chunk));
  }

  /** Connected and shaken hands. A connection that ends without being closed from here is `whenLost`. */
  static async open(options: ExchangeOptions): Promise<Exchange> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const { url, tls } = options;
    const { hostname: host, port } = new URL(url);
    const socket = connect({ host, port: Number(port), ...tls });
    socket.setNoDelay(true);
    socket.once('secureConnect', resolve);
    socket.once('error', reject);
    await promise;
    socket.off('error', reject);
    socket.on('error', options.whenLost);
    socket.on('close', () => options.whenLost(new Error('A connection was closed.')));
    return new Exchange(socket, options.whenAnswered);
  }

  send(request: Buffer): void {
    this.#socket.write(request);
  }

  close(): void {
    this.#socket.destroy();
  }

  #read(chunk: Buffer): void {
    this.#chunks.push(chunk);
    if (this.#missing_bytes === 0) this.#readHead();
    else this.#missing_bytes -= chunk.length;
    if (this.#missing_bytes < 0) throw new Error('An answer is longer than it says.');
    if (this.#missing_bytes === 0 && this.#status > 0) this.#answered();
  }

  #readHead(): void {
    const bytes = this.#joined();
    const end = bytes.indexOf('\r\n\r\n');
    if (end < 0) {
      this.#chunks = [bytes];
      return;
    }
    const head = bytes.toString('latin1', 0, end);
    const length = contentLength.exec(head)?.[1];
    if (length === undefined) throw new Error(`An answer without a length: ${head}`);
    this.#status = Number(head.slice(9, 12));
    this.#head_bytes = end + 4;
    this.#chunks = [bytes];
    this.#missing_bytes = this.#head_bytes + Number(length) - bytes.length;
  }

  #answered(): void {
    const body = this.#joined().subarray(this.#head_bytes);
    const status = this.#status;
    this.#chunks = [];
    this.#status = 0;
    this.#whenAnswered({ status, body });
  }

  #joined(): Buffer {
    const [only] = this.#chunks;
    return this.#chunks.length === 1 && only ? only : Buffer.concat(this.#chunks);
  }
}

export interface Answer {
  readonly status: number;
  readonly body: Buffer;
}

export interface ExchangeOptions {
  readonly url: string;
  readonly tls: { readonly cert: string; readonly key: string; readonly ca: string };
  whenAnswered(answer: Answer, exchange: Exchange): void;
  whenLost(error: Error): void;
}

const contentLength = /\r\ncontent-length: (\d+)/i;

/** A POST with its body, as the bytes that go over the connection. */
export function postRequest(url: string, path: string, body: unknown): Buffer {
  const text = JSON.stringify(body);
  const head = [
    `POST ${path} HTTP/1.1`,
    `Host: ${new URL(url).host}`,
    'Content-Type: application/json',
    `Content-Length: ${Buffer.byteLength(text)}`,
  ];
  return Buffer.from(`${head.join('\r\n')}\r\n\r\n${text}`);
}

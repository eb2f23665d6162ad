import { timingSafeEqual } from 'node:crypto';
import { chmodSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { Secret } from '../foundation/secret.ts';
import type { CallAccount } from '../wire/account.ts';
import type { Custodian } from '../wire/custodian.ts';
import { type Frame, FrameError, FrameReader, FrameWriter } from '../wire/frames.ts';
import { parseCallHead } from '../wire/heads.ts';

/**
 * The socket binding, on the custodian's side: a unix socket that only its owner can open (0600 in a 0700
 * folder), whose first frame must be the secret of this boot. A peer that breaks the protocol is cut off.
 */
export class CustodianServer implements AsyncDisposable {
  readonly #server: Server;
  readonly #connections = new Set<Connection>();

  private constructor(server: Server) {
    this.#server = server;
  }

  static async listen(options: {
    path: string;
    bootSecret: Secret;
    custodian: Custodian;
    log: Log;
  }): Promise<CustodianServer> {
    const server = createServer();
    const made = new CustodianServer(server);
    server.on('connection', socket => {
      const connection = new Connection(socket, options);
      made.#connections.add(connection);
      socket.on('close', () => made.#connections.delete(connection));
    });
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once('error', reject);
    rmSync(options.path, { force: true }); // what a predecessor left that was killed
    server.listen(options.path, resolve);
    await promise;
    server.off('error', reject);
    server.on('error', error => options.log.error({ err: error }, 'the socket could not take a connection'));
    chmodSync(options.path, 0o600);
    return made;
  }

  /** Takes no new calls, lets the running ones answer, then closes. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    await Promise.all([...this.#connections].map(connection => connection.finish()));
  }
}

class Connection {
  readonly #socket: Socket;
  readonly #custodian: Custodian;
  readonly #log: Log;
  readonly #bootSecret: Secret;
  readonly #reader = new FrameReader();
  readonly #writer: FrameWriter;
  readonly #running = new Map<number, { abort: AbortController; done: Promise<void> }>();
  #greeted = false;
  #finishing = false;

  constructor(socket: Socket, options: { bootSecret: Secret; custodian: Custodian; log: Log }) {
    this.#socket = socket;
    this.#custodian = options.custodian;
    this.#log = options.log;
    this.#bootSecret = options.bootSecret;
    this.#writer = new FrameWriter(bytes => {
      if (socket.writable) socket.write(bytes);
    });
    socket.setTimeout(hello_ms, () => this.#cutOff('no greeting in time'));
    socket.on('data', chunk => this.#read(chunk));
    socket.on('error', error => this.#log.info({ err: error }, 'a gateway connection ended with an error'));
    socket.on('close', () => this.#abandon());
  }

  async finish(): Promise<void> {
    this.#finishing = true;
    await Promise.all([...this.#running.values()].map(call => call.done));
    setImmediate(() => this.#socket.end()); // behind the answers that leave at the end of this turn
  }

  #read(chunk: Buffer): void {
    try {
      for (const frame of this.#reader.read(chunk)) this.#receive(frame);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.#cutOff(error.message);
    }
  }

  #receive(frame: Frame): void {
    if (!this.#greeted) this.#greet(frame);
    else if (frame.kind === 'call') this.#start(frame);
    else if (frame.kind === 'cancel') this.#running.get(frame.id)?.abort.abort();
    else throw new FrameError(`A gateway does not send ${frame.kind} frames.`);
  }

  #greet(frame: Frame): void {
    const [presented] = frame.bytes;
    const right =
      frame.kind === 'hello' &&
      presented?.length === this.#bootSecret.length &&
      this.#bootSecret.use(secret => timingSafeEqual(secret, presented));
    if (!right) throw new FrameError('The greeting does not carry the secret of this boot.');
    this.#greeted = true;
    this.#socket.setTimeout(0);
  }

  #start(frame: Frame): void {
    if (this.#running.has(frame.id)) throw new FrameError(`Call ${frame.id} is running already.`);
    const abort = new AbortController();
    const told: Told = {};
    const done = this.#perform(frame, abort.signal, told).then(
      answer => this.#writer.send(answer),
      thrown => {
        if (thrown instanceof FrameError) this.#cutOff(thrown.message);
        else this.#writer.send(failure(frame.id, toKeyslotError(thrown), told, this.#log));
      },
    );
    this.#running.set(frame.id, { abort, done: done.finally(() => this.#running.delete(frame.id)) });
  }

  async #perform(frame: Frame, signal: AbortSignal, told: Told): Promise<Frame> {
    if (this.#finishing) throw new KeyslotError('SHUTTING_DOWN', 'The custodian is stopping.');
    const { operation, input, account: wanted, ...who } = parseCallHead(frame.head);
    const take = (account: CallAccount) => {
      told.account = account;
    };
    const account = wanted && { traced: wanted === 'traced', take };
    // The parts of a frame are views of what the socket received, which is ours: nobody writes to it again.
    const request = { input, bytes: frame.bytes };
    const call = { ...who, signal, account };
    const { output, bytes = [] } = await this.#custodian.call(operation, request, call);
    const head = wanted ? { output, account: told.account } : output;
    return { id: frame.id, kind: 'reply', head, bytes };
  }

  /** The gateway is gone: nobody waits for these answers any more. */
  #abandon(): void {
    for (const call of this.#running.values()) call.abort.abort();
  }

  #cutOff(reason: string): void {
    this.#log.warn({ reason }, 'a gateway connection broke the protocol and was cut off');
    this.#socket.destroy();
  }
}

const hello_ms = 5_000;

/** What the custodian has told of a call besides its answer. */
interface Told {
  account?: CallAccount;
}

function failure(id: number, error: KeyslotError, { account }: Told, log: Log): Frame {
  if (error.code === 'INTERNAL') log.error({ err: error }, 'an operation broke');
  return {
    id,
    kind: 'failure',
    head: {
      code: error.code,
      detail: error.message,
      retryAfter_s: error.retryAfter_s,
      violations: error.violations,
      account,
    },
    bytes: [],
  };
}

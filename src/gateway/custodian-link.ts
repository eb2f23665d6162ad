import { connect, type Socket } from 'node:net';
import { KeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { Log } from '../foundation/log.ts';
import type { Secret } from '../foundation/secret.ts';
import type { AccountTaker } from '../wire/account.ts';
import {
  type Call,
  type Custodian,
  type OperationName,
  operations,
  type Reply,
  type Request,
} from '../wire/custodian.ts';
import { encodeFrame, type Frame, FrameError, FrameReader, FrameWriter } from '../wire/frames.ts';
import { accountIn, outputIn, parseFailureHead } from '../wire/heads.ts';

/**
 * The socket binding, on the gateway's side. When the custodian is lost, calls that may be repeated wait for
 * its successor and are sent again, as do those that a custodian that stops has not begun; the others fail with CUSTODIAN_UNAVAILABLE, because nobody knows whether
 * they happened. Every call ends at its deadline.
 */
export class CustodianLink implements Custodian, Disposable {
  readonly #path: string;
  readonly #bootSecret: Secret;
  readonly #log: Log;
  readonly #pending = new Map<number, Pending>();
  readonly #sweeper: NodeJS.Timeout;
  #line: { socket: Socket; writer: FrameWriter } | undefined;
  #nextId = 1;
  #closed = false;
  #last = false;
  #outage = false;

  constructor(options: { path: string; bootSecret: Secret; log: Log }) {
    this.#path = options.path;
    this.#bootSecret = options.bootSecret;
    this.#log = options.log;
    this.#sweeper = setInterval(() => this.#sweep(), sweep_ms).unref();
    this.#connect();
  }

  call<N extends OperationName>(name: N, request: Request<N>, call: Call): Promise<Reply<N>> {
    if (this.#closed) return Promise.reject(stopping());
    if (this.#pending.size >= limits.pendingCalls_max) return Promise.reject(overloaded(this.#pending.size));
    const { promise, resolve, reject } = Promise.withResolvers<Reply<N>>();
    const id = this.#freeId();
    const { signal, account, ...who } = call;
    const asked_ms = performance.now();
    // Encoded now: a PIN or a seed among the bytes may be wiped before the frame can leave.
    const frame = encodeFrame({
      id,
      kind: 'call',
      head: { operation: name, input: request.input, ...who, account: account && wanted(account) },
      bytes: request.bytes ?? [],
    });
    const answer = ({ head, bytes }: Frame) => {
      if (account) told(account, head, asked_ms);
      const output = operations[name].output.safeParse(account ? outputIn(head) : head);
      if (output.success) resolve({ output: output.data, bytes } as Reply<N>);
      else reject(otherShape(output.error));
    };
    const failed = ({ head }: Frame) => account && told(account, head, asked_ms);
    const deadline_ms = asked_ms + limits.request_ms;
    const { repeatable } = operations[name];
    const sent = this.#line !== undefined;
    this.#pending.set(id, { frame, answer, failed, reject, deadline_ms, repeatable, sent });
    this.#line?.writer.sendEncoded(frame);
    if (signal?.aborted) this.#giveUp(id);
    signal?.addEventListener('abort', () => this.#giveUp(id), { once: true });
    return promise;
  }

  /** From now on a custodian that stops is the last one: what it does not begin any more fails, SHUTTING_DOWN. */
  expectNoSuccessor(): void {
    this.#last = true;
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    clearInterval(this.#sweeper);
    this.#line?.socket.destroy();
    this.#failAll(() => true, stopping());
  }

  /** Tries for as long as the gateway lives: the supervisor is bringing the custodian back meanwhile. */
  #connect(): void {
    const socket = connect(this.#path);
    const reader = new FrameReader();
    const writer = new FrameWriter(bytes => {
      if (socket.writable) socket.write(bytes);
    });
    socket.on('connect', () => {
      if (this.#closed) return void socket.destroy();
      const hello = this.#bootSecret.use(secret => ({
        id: 0,
        kind: 'hello' as const,
        head: {},
        bytes: [secret],
      }));
      writer.send(hello);
      for (const pending of this.#pending.values()) {
        pending.sent = true;
        writer.sendEncoded(pending.frame);
      }
      this.#line = { socket, writer };
      this.#outage = false;
    });
    socket.on('data', chunk => {
      try {
        for (const frame of reader.read(chunk)) this.#receive(frame);
      } catch (error) {
        if (!(error instanceof FrameError)) throw error;
        this.#log.error({ err: error }, 'the custodian broke the protocol');
        socket.destroy();
      }
    });
    socket.on('error', error => this.#unreachable(error));
    socket.on('close', () => this.#lost());
  }

  /** Said once an outage, not at every try. */
  #unreachable(error: Error): void {
    if (!this.#outage) this.#log.warn({ err: error }, 'the custodian is not reachable');
    this.#outage = true;
  }

  #lost(): void {
    const wasUp = this.#line !== undefined;
    this.#line = undefined;
    if (this.#closed) return;
    if (wasUp) this.#log.warn({ pending: this.#pending.size }, 'the custodian was lost');
    this.#failAll(
      pending => pending.sent && !pending.repeatable,
      new KeyslotError(
        'CUSTODIAN_UNAVAILABLE',
        'The custodian was lost before it answered; look whether the change happened before repeating it.',
        { retryAfter_s: 1 },
      ),
    );
    setTimeout(() => {
      if (!this.#closed) this.#connect();
    }, reconnect_ms);
  }

  #receive(frame: Frame): void {
    const pending = this.#pending.get(frame.id);
    if (!pending) return; // its deadline has passed
    if (frame.kind === 'reply') pending.answer(frame);
    else if (frame.kind === 'failure') {
      const error = parseFailureHead(frame.head);
      if (error.code === 'SHUTTING_DOWN' && !this.#last) {
        pending.sent = false; // not begun, so that the successor is sent it, whatever it is
        return;
      }
      pending.failed(frame);
      pending.reject(error);
    } else throw new FrameError(`A custodian does not send ${frame.kind} frames.`);
    this.#pending.delete(frame.id); // last: a call whose answer made no sense still ends as a lost one
  }

  #sweep(): void {
    const now_ms = performance.now();
    for (const [id, pending] of this.#pending) if (pending.deadline_ms <= now_ms) this.#giveUp(id);
  }

  #giveUp(id: number): void {
    const pending = this.#pending.get(id);
    if (!pending) return;
    this.#pending.delete(id);
    this.#line?.writer.send({ id, kind: 'cancel', head: {}, bytes: [] });
    pending.reject(new KeyslotError('DEADLINE_EXCEEDED', 'The custodian did not answer in time.'));
  }

  #failAll(which: (pending: Pending) => boolean, error: KeyslotError): void {
    for (const [id, pending] of this.#pending) {
      if (!which(pending)) continue;
      this.#pending.delete(id);
      pending.reject(error);
    }
  }

  #freeId(): number {
    do this.#nextId = (this.#nextId % 0xffff_ffff) + 1;
    while (this.#pending.has(this.#nextId));
    return this.#nextId;
  }
}

interface Pending {
  readonly frame: Buffer;
  readonly deadline_ms: number;
  readonly repeatable: boolean;
  /** To a custodian that may have acted on it: from then on it is not known whether it happened. */
  sent: boolean;
  answer(frame: Frame): void;
  /** What is told of a call that failed besides its failure. */
  failed(frame: Frame): void;
  reject(error: unknown): void;
}

const wanted = ({ traced }: AccountTaker) => (traced ? 'traced' : 'whole');

function told(taker: AccountTaker, head: unknown, asked_ms: number): void {
  const account = accountIn(head);
  if (account) taker.take(account, asked_ms);
}

const overloaded = (waiting: number) =>
  new KeyslotError('CUSTODIAN_UNAVAILABLE', `${waiting} calls are waiting for the custodian.`, {
    retryAfter_s: 1,
  });

const stopping = () => new KeyslotError('SHUTTING_DOWN', 'The gateway is stopping.');

const otherShape = (cause: unknown) =>
  new KeyslotError('INTERNAL', 'The custodian answered in another shape.', { cause });

const reconnect_ms = 50;
const sweep_ms = 250;

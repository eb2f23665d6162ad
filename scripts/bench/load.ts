import { createHistogram } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { decodeBase58 } from '../../src/foundation/base58.ts';
import { createVerifier } from '../../src/foundation/ed25519.ts';
import { type Answer, Exchange, type ExchangeOptions } from './exchange.ts';
import { answerParent } from './helper.ts';
import { type Mode, type Work, workOf } from './work.ts';

/**
 * The load: so many keep-alive connections over mTLS, each sending its next request when it has its answer.
 * A process of its own, so that its time is not the appliance's. Every answer is looked at; a sample of them is
 * verified in full against the key and the bytes that were sent.
 */

export interface LoadQuestion {
  readonly url: string;
  readonly tls: ExchangeOptions['tls'];
  readonly mode: Mode;
  readonly connections: number;
  readonly key: string;
  readonly publicKey: string;
  readonly transfers_base64: readonly string[];
  readonly warmUp_s: number;
  /** The measurement ends when either is reached. */
  readonly seconds_max: number;
  readonly signatures_max: number;
}

export interface LoadAnswer {
  readonly signatures: number;
  /** With those of the warm-up: what the processor time was spent on. */
  readonly signaturesAll: number;
  readonly seconds: number;
  /** Answers 503: the appliance said that it is too busy. */
  readonly refused: number;
  /** Signatures that were checked here. */
  readonly verified: number;
  /** Of one exchange: in a batch, of the whole batch. */
  readonly p50_ms: number;
  readonly p99_ms: number;
}

answerParent<LoadQuestion, LoadAnswer>(async question => {
  if (new URL(question.url).hostname !== '127.0.0.1') throw new Error('The load goes to 127.0.0.1 only.');
  const load = new Load(question);
  try {
    await load.connect(question);
    return await load.run(question);
  } finally {
    load.close();
  }
});

class Load {
  readonly #work: readonly Work[];
  readonly #signaturesEach: number;
  readonly #verifier: ReturnType<typeof createVerifier>;
  readonly #publicKey: string;
  readonly #latency = createHistogram({ lowest: 1, highest: 120_000_000, figures: 3 });
  readonly #exchanges = new Map<Exchange, { work: Work; sent_ms: number }>();
  readonly #failed = Promise.withResolvers<never>();
  readonly #finished = Promise.withResolvers<void>();
  readonly #verifying = new Set<Promise<void>>();
  #signatures_max = Number.POSITIVE_INFINITY;
  #closing = false;
  #answers = 0;
  #next = 0;
  #answered_ms = 0;
  #signatures = 0;
  #signaturesAll = 0;
  #refused = 0;
  #verified = 0;

  constructor({ mode, url, key, publicKey, transfers_base64 }: LoadQuestion) {
    this.#work = workOf(mode, url, key, transfers_base64);
    this.#signaturesEach = this.#work[0]?.messages.length ?? 0;
    this.#publicKey = publicKey;
    this.#verifier = createVerifier(decodeBase58(publicKey) ?? new Uint8Array());
    this.#failed.promise.catch(() => undefined);
  }

  /** A few at a time: 256 handshakes at once would queue behind one another in the gateway. */
  async connect({ url, tls, connections }: LoadQuestion): Promise<void> {
    const whenLost = (error: Error) => {
      if (!this.#closing) this.#failed.reject(error);
    };
    const whenAnswered = (answer: Answer, exchange: Exchange) => this.#answered(answer, exchange);
    while (this.#exchanges.size < connections) {
      const some = Math.min(handshakes_max, connections - this.#exchanges.size);
      const opened = await Promise.all(
        Array.from({ length: some }, () => Exchange.open({ url, tls, whenAnswered, whenLost })),
      );
      for (const exchange of opened) this.#exchanges.set(exchange, { work: this.#nextWork(), sent_ms: 0 });
    }
  }

  async run({ connections, warmUp_s, seconds_max, signatures_max }: LoadQuestion): Promise<LoadAnswer> {
    for (const exchange of this.#exchanges.keys()) this.#send(exchange);
    await this.#during(warmUp_s, connections);
    const from = this.#startMeasuring(signatures_max);
    await Promise.race([
      this.#during(seconds_max, from.answers + rounds_min * connections),
      this.#finished.promise,
    ]);
    const seconds = (this.#answered_ms - from.answered_ms) / 1_000;
    const signatures = this.#signatures;
    const signaturesAll = this.#signaturesAll;
    this.#closing = true;
    await Promise.race([Promise.all(this.#verifying), this.#failed.promise]);
    return {
      signatures,
      signaturesAll,
      seconds,
      refused: this.#refused,
      verified: this.#verified,
      p50_ms: this.#latency.percentile(50) / 1_000,
      p99_ms: this.#latency.percentile(99) / 1_000,
    };
  }

  /** From the last answer so far to the last one of the measurement: many batches end in one burst. */
  #startMeasuring(signatures_max: number): { answers: number; answered_ms: number } {
    this.#latency.reset();
    this.#refused = 0;
    this.#signatures = 0;
    this.#signatures_max = signatures_max;
    return { answers: this.#answers, answered_ms: this.#answered_ms };
  }

  close(): void {
    this.#closing = true;
    for (const exchange of this.#exchanges.keys()) exchange.close();
  }

  #send(exchange: Exchange): void {
    const work = this.#nextWork();
    this.#exchanges.set(exchange, { work, sent_ms: performance.now() });
    exchange.send(work.request);
  }

  #answered(answer: Answer, exchange: Exchange): void {
    if (this.#closing) return;
    const { work, sent_ms } = this.#exchanges.get(exchange) ?? unknownExchange();
    this.#answered_ms = performance.now();
    this.#answers += 1;
    const took_us = Math.max(1, Math.round((this.#answered_ms - sent_ms) * 1_000));
    if (answer.status === 200) this.#signed(answer, work, took_us);
    else if (answer.status === 503) this.#refused += 1;
    else this.#failed.reject(new Error(`The appliance answered ${answer.status}: ${answer.body}`));
    if (this.#signatures >= this.#signatures_max) this.#finished.resolve();
    else this.#send(exchange);
  }

  #signed(answer: Answer, work: Work, took_us: number): void {
    if (answer.body.includes('"error"')) this.#failed.reject(new Error(`An item failed: ${answer.body}`));
    this.#latency.record(took_us);
    this.#signatures += this.#signaturesEach;
    this.#signaturesAll += this.#signaturesEach;
    if (this.#answers % verifyEvery === 1) {
      const verifying = this.#verify(answer, work).catch(this.#failed.reject);
      this.#verifying.add(verifying);
      verifying.finally(() => this.#verifying.delete(verifying));
    }
  }

  async #verify({ body }: Answer, work: Work): Promise<void> {
    const signatures = work.signaturesIn(JSON.parse(body.toString()), this.#publicKey);
    const at = Math.floor(Math.random() * signatures.length);
    const [message, signature] = [work.messages[at], signatures[at]];
    const sound = message && signature && (await this.#verifier.verify(message, signature));
    if (!sound) throw new Error(`An answer carries a signature that does not verify: ${body}`);
    this.#verified += 1;
  }

  #nextWork(): Work {
    this.#next = (this.#next + 1) % this.#work.length;
    return this.#work[this.#next] ?? unknownExchange();
  }

  /** So long, and longer if there are not so many answers by then. */
  async #during(seconds: number, answers: number): Promise<void> {
    const from_ms = performance.now();
    await Promise.race([sleep(seconds * 1_000), this.#failed.promise, this.#finished.promise]);
    while (this.#answers < answers && performance.now() - from_ms < seconds * 1_000 + patience_ms) {
      await Promise.race([sleep(poll_ms), this.#failed.promise]);
    }
  }
}

const rounds_min = 2;
const patience_ms = 60_000;
const poll_ms = 2;
const handshakes_max = 16;
const verifyEvery = 64;

function unknownExchange(): never {
  throw new Error('There is no work for this exchange.');
}

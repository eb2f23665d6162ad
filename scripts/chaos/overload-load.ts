import { createHistogram } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Answer, Exchange, type ExchangeOptions } from '../bench/exchange.ts';
import { answerParent } from '../bench/helper.ts';
import { type Work, workOf } from '../bench/work.ts';

/**
 * Load that does not wait: so many requests a second, whether the ones before are answered or not, over keep-alive
 * connections of which there are only so many. A process of its own, so that its time is not the appliance's.
 */

export interface OpenLoadQuestion {
  readonly url: string;
  readonly tls: ExchangeOptions['tls'];
  readonly key: string;
  readonly transfers_base64: readonly string[];
  readonly perSecond: number;
  readonly connections: number;
  readonly warmUp_s: number;
  readonly seconds: number;
}

export interface OpenLoadAnswer {
  /** Requests that were due in the time of the measurement; those that no connection was free for were not sent. */
  readonly offered: number;
  readonly unsent: number;
  readonly accepted: number;
  readonly acceptedPerSecond: number;
  /** Answers that are no signatures, by status. */
  readonly refused: Readonly<Record<string, number>>;
  readonly acceptedP50_ms: number;
  readonly acceptedP99_ms: number;
  readonly refusedP99_ms: number;
}

answerParent<OpenLoadQuestion, OpenLoadAnswer>(async question => {
  if (new URL(question.url).hostname !== '127.0.0.1') throw new Error('The load goes to 127.0.0.1 only.');
  const load = new OpenLoad(question);
  try {
    await load.connect(question);
    await load.during(question.warmUp_s, question.perSecond);
    load.forget();
    await load.during(question.seconds, question.perSecond);
    await load.settled();
    return load.answer(question.seconds);
  } finally {
    load.close();
  }
});

class OpenLoad {
  readonly #work: readonly Work[];
  readonly #idle: Exchange[] = [];
  readonly #all: Exchange[] = [];
  readonly #sent = new Map<Exchange, number>();
  readonly #failed = Promise.withResolvers<never>();
  #accepted = createHistogram({ lowest: 1, highest: 120_000_000, figures: 3 });
  #refusedTimes = createHistogram({ lowest: 1, highest: 120_000_000, figures: 3 });
  #refused: Record<string, number> = {};
  #offered = 0;
  #unsent = 0;
  #next = 0;
  #since_ms = 0;
  #closing = false;

  constructor({ url, key, transfers_base64 }: OpenLoadQuestion) {
    this.#work = workOf('single', url, key, transfers_base64);
    this.#failed.promise.catch(() => undefined);
  }

  /** A few at a time: many handshakes at once would queue behind one another in the gateway. */
  async connect({ url, tls, connections }: OpenLoadQuestion): Promise<void> {
    const whenLost = (error: Error) => {
      if (!this.#closing) this.#failed.reject(error);
    };
    const whenAnswered = (answer: Answer, exchange: Exchange) => this.#answered(answer, exchange);
    while (this.#all.length < connections) {
      const some = Math.min(handshakes_max, connections - this.#all.length);
      const open = () => Exchange.open({ url, tls, whenAnswered, whenLost });
      const opened = await Promise.all(Array.from({ length: some }, open));
      this.#all.push(...opened);
      this.#idle.push(...opened);
      for (const _ of opened) this.#send(); // a connection that asks for nothing at first is closed
    }
    await this.settled();
  }

  /** What is due is sent in small groups, as far as there are connections for it. */
  async during(seconds: number, perSecond: number): Promise<void> {
    const from_ms = performance.now();
    for (let due = 0, now_ms = from_ms; now_ms < from_ms + seconds * 1_000; now_ms = performance.now()) {
      for (const until = ((now_ms - from_ms) / 1_000) * perSecond; due < until; due += 1) this.#send();
      await Promise.race([sleep(tick_ms), this.#failed.promise]);
    }
  }

  /** From here on it is measured. */
  forget(): void {
    this.#accepted.reset();
    this.#refusedTimes.reset();
    this.#refused = {};
    this.#offered = 0;
    this.#unsent = 0;
    this.#since_ms = performance.now();
  }

  /** What is under way has its answer: slow ones count too. */
  async settled(): Promise<void> {
    for (const until_ms = performance.now() + patience_ms; this.#sent.size > 0; await sleep(tick_ms)) {
      if (performance.now() > until_ms) throw new Error(`${this.#sent.size} requests have no answer.`);
    }
  }

  answer(seconds: number): OpenLoadAnswer {
    return {
      offered: this.#offered,
      unsent: this.#unsent,
      accepted: this.#accepted.count,
      acceptedPerSecond: this.#accepted.count / seconds,
      refused: this.#refused,
      acceptedP50_ms: this.#accepted.percentile(50) / 1_000,
      acceptedP99_ms: this.#accepted.percentile(99) / 1_000,
      refusedP99_ms: this.#refusedTimes.percentile(99) / 1_000,
    };
  }

  close(): void {
    this.#closing = true;
    for (const exchange of this.#all) exchange.close();
  }

  #send(): void {
    this.#offered += 1;
    const exchange = this.#idle.shift();
    const work = this.#work[this.#next++ % this.#work.length];
    if (!exchange || !work) {
      this.#unsent += 1;
      return;
    }
    this.#sent.set(exchange, performance.now());
    exchange.send(work.request);
  }

  #answered({ status }: Answer, exchange: Exchange): void {
    const sent_ms = this.#sent.get(exchange) ?? 0;
    this.#sent.delete(exchange);
    this.#idle.push(exchange);
    if (sent_ms < this.#since_ms) return; // of the warm-up
    const took_us = Math.max(1, Math.round((performance.now() - sent_ms) * 1_000));
    if (status === 200) this.#accepted.record(took_us);
    else {
      this.#refusedTimes.record(took_us);
      this.#refused[status] = (this.#refused[status] ?? 0) + 1;
    }
  }
}

const handshakes_max = 16;
const tick_ms = 4;
const patience_ms = 40_000;

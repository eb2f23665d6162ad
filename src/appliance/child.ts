import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { isKeyslotError, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { Dialogue, isLine, knownCode, type Line } from './dialogue.ts';

/**
 * A process of the appliance, as its supervisor sees it. What it needs to start, secrets included, goes over
 * the private channel and never through arguments or the environment; it says when it is ready and all the time
 * that it is alive, stops when it is told to or when the supervisor is gone, and ignores the signals that a
 * terminal sends to everybody.
 */
export class Child {
  readonly pid: number;
  /** Resolves with the exit, however it came about. */
  readonly exited: Promise<string>;
  readonly #process: ChildProcess;
  readonly #ready: PromiseWithResolvers<unknown>;
  readonly #dialogue = new Dialogue(line => this.#order(line));
  #heard = 0;

  constructor(options: {
    entry: string;
    flags: readonly string[];
    environment: Record<string, string>;
    boot: unknown;
    /** Hears what the process says on its way; see `tell`. */
    told?(text: string): void;
    /** Answers what the process asks; without it, nothing is answered. */
    asked?(question: unknown): Promise<unknown>;
  }) {
    const { entry, flags, environment, boot, asked = nobodyAnswers } = options;
    const child = spawn(process.execPath, [...flags, entry], {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      serialization: 'advanced',
      env: environment,
    });
    this.#process = child;
    this.pid = child.pid ?? 0;
    const exit = Promise.withResolvers<string>();
    const ready = Promise.withResolvers<unknown>();
    this.exited = exit.promise;
    this.#ready = ready;
    child.on('message', message => {
      const said = message as Message;
      this.#heard += 1;
      if (isLine(said)) this.#dialogue.hear(said, asked);
      else if (said.type === 'told') options.told?.(said.text);
      else if (said.type !== 'alive') settle(said, ready);
    });
    child.on('error', ready.reject);
    child.on('exit', (code, signal) => {
      const how = signal ? `signal ${signal}` : `exit status ${code}`;
      exit.resolve(how);
      this.#dialogue.end(new KeyslotError('CUSTODIAN_UNAVAILABLE', `The process ended (${how}).`));
      ready.reject(new KeyslotError('INTERNAL', `A process of the appliance ended at its start (${how}).`));
    });
    ready.promise.catch(() => undefined); // whoever waits for it is told; nobody may be waiting any more
    this.#order({ type: 'boot', boot });
  }

  /** How often it has said something: it stands still when this does. */
  get heard(): number {
    return this.#heard;
  }

  /** What the process said when it was ready, or the failure that it started with. */
  async ready<T>(): Promise<T> {
    return (await this.#ready.promise) as T;
  }

  /** Tells it something, see `Parent`; a process that has gone hears nothing. */
  send(news: unknown): void {
    this.#order({ type: 'news', news });
  }

  /** What it answers. As `Dialogue.ask`. */
  ask(question: unknown, bound_ms: number): Promise<unknown> {
    return this.#dialogue.ask(question, bound_ms);
  }

  /** Ends it at once, for the reason that whoever waits for it to be ready is given. */
  kill(why: KeyslotError): void {
    this.#ready.reject(why);
    this.#process.kill('SIGKILL');
  }

  /** Asks it to finish; kills it when it has not after `bound_ms`. */
  async stop(bound_ms: number): Promise<void> {
    this.#order({ type: 'stop' });
    const timer = setTimeout(() => this.#process.kill('SIGKILL'), bound_ms);
    await this.exited;
    clearTimeout(timer);
  }

  #order(order: Order<unknown>): void {
    if (this.#process.connected) this.#process.send(order);
  }
}

/** What a process has of its supervisor. */
export interface Parent {
  /** Has it hear what is sent to it after the boot. */
  hear(listener: (news: unknown) => void): void;
  /** Has it answer what is asked of it after the boot. */
  answer(listener: (question: unknown) => Promise<unknown>): void;
  /** What the supervisor answers. As `Dialogue.ask`. */
  ask(question: unknown, bound_ms: number): Promise<unknown>;
  /**
   * Stops in order and then kills this process, so that the supervisor starts the next one; for a process that
   * nothing else can help. It is a kill because an exit waits for threads, and those that hang never end.
   */
  startAnew(): void;
}

/**
 * The other end: starts with what the supervisor hands over, and lives until it says stop or is gone. It says that
 * it is alive for as long as its event loop turns and its threads work.
 */
export function runAsChild<B, R>(start: (boot: B, parent: Parent) => Promise<Started<R>>): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
  sayAlive();
  let starting: Promise<Started<R>> | undefined;
  let stopping: Promise<void> | undefined;
  let hear: (news: unknown) => void = () => undefined;
  let answer = nobodyAnswers;
  // A channel that has just closed is no news to whoever reads it no more.
  const dialogue = new Dialogue(line => process.connected && process.send?.(line, () => undefined));
  // Also a start that is under way is finished first: what it opened is then closed in order.
  const stopped = () => {
    stopping ??= stop(starting);
    return stopping;
  };
  const killed = async (bound_ms: number) => {
    await Promise.race([stopped(), delay(bound_ms)]);
    process.kill(process.pid, 'SIGKILL');
  };
  const parent: Parent = {
    hear: listener => {
      hear = listener;
    },
    answer: listener => {
      answer = listener;
    },
    ask: (question, bound_ms) => dialogue.ask(question, bound_ms),
    startAnew: () => void killed(startAnew_ms),
  };
  process.once('disconnect', () => killed(orphaned_ms)); // nobody is left to kill it, should its exit hang
  process.on('message', async (order: Order<B>) => {
    if (isLine(order)) return dialogue.hear(order, question => answer(question));
    if (order.type === 'news') return hear(order.news);
    if (order.type === 'stop') return void stopped().then(() => process.exit(0));
    try {
      starting = start(order.boot, parent);
      process.send?.({ type: 'ready', ready: (await starting).ready } satisfies Message);
    } catch (thrown) {
      const { code, message: detail } = toKeyslotError(thrown);
      if (code === 'INTERNAL') console.error(thrown);
      process.send?.({ type: 'failed', code, detail } satisfies Message, () => process.exit(0));
    }
  });
}

export interface Started<R> {
  readonly ready: R;
  stop(): Promise<void>;
}

async function stop(starting: Promise<Started<unknown>> | undefined): Promise<void> {
  try {
    await (await starting)?.stop();
  } catch (thrown) {
    if (!isKeyslotError(thrown)) console.error(thrown);
  }
}

/**
 * Each word goes through the pool of threads, so that it also proves that they are not all in calls that hang: then
 * nothing could be signed, verified or written down any more.
 */
function sayAlive(): void {
  randomBytes(1, () => {
    // A channel that has just closed is no news to whoever reads it no more.
    if (process.connected) process.send?.({ type: 'alive' } satisfies Message, () => undefined);
    setTimeout(sayAlive, alive_ms).unref();
  });
}

/** Several times in the shortest time that a supervisor waits. */
const alive_ms = 200;
// How long a stop may take that no supervisor bounds.
const startAnew_ms = 8_000;
const orphaned_ms = 60_000;

/** An entry beside this file, in the language of this file: TypeScript in a checkout, JavaScript when built. */
export const entryOf = (name: string): string =>
  fileURLToPath(new URL(`./${name}${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url));

/** In the process itself: what it is doing now, for whoever started it. */
export const tell = (text: string): void => {
  process.send?.({ type: 'told', text } satisfies Message);
};

type Outcome =
  | { readonly type: 'ready'; readonly ready: unknown }
  | { readonly type: 'failed'; readonly code: string; readonly detail: string };

type Message = Outcome | { readonly type: 'told'; readonly text: string } | { readonly type: 'alive' } | Line;

type Order<B> =
  | Line
  | { readonly type: 'boot'; readonly boot: B }
  | { readonly type: 'news'; readonly news: unknown }
  | { readonly type: 'stop' };

function settle(message: Outcome, ready: PromiseWithResolvers<unknown>): void {
  if (message.type === 'ready') ready.resolve(message.ready);
  else ready.reject(new KeyslotError(knownCode(message.code), message.detail));
}

const nobodyAnswers = (_question: unknown): Promise<unknown> =>
  Promise.reject(new TypeError('A process of the appliance was asked what it does not answer.'));

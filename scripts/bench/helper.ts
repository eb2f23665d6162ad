import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';

/**
 * A process of the benchmark that answers one question at a time over its private channel. It ends when it is
 * disposed of, and by itself when this process is gone, so an interrupted run leaves nothing behind.
 */
export class Helper<Question, Answer> implements AsyncDisposable {
  readonly pid: number;
  readonly #process: ChildProcess;
  readonly #ended: Promise<never>;

  constructor(entry: string, environment: Readonly<Record<string, string>> = {}) {
    const child = spawn(process.execPath, [join(import.meta.dirname, entry)], {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      env: { ...process.env, ...environment },
    });
    this.#process = child;
    this.pid = child.pid ?? 0;
    const { promise, reject } = Promise.withResolvers<never>();
    child.on('error', reject);
    child.on('exit', (code, signal) => reject(new Error(`${entry} ended (${signal ?? `status ${code}`}).`)));
    promise.catch(() => undefined); // told to whoever is asking; nobody may be
    this.#ended = promise;
  }

  /** The answer, or the failure that the other process met. */
  async ask(question: Question): Promise<Answer> {
    const { promise, resolve } = Promise.withResolvers<Envelope<Answer>>();
    this.#process.once('message', message => resolve(message as Envelope<Answer>));
    if (this.#process.connected) this.#process.send({ question });
    const envelope = await Promise.race([promise, this.#ended]);
    if ('failure' in envelope) throw new Error(envelope.failure);
    return envelope.answer;
  }

  /** Lets go of the channel, which is its sign to finish; kills it when it does not. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process.connected) this.#process.disconnect();
    const timer = setTimeout(() => this.#process.kill('SIGKILL'), stop_ms);
    await this.#ended.catch(() => undefined);
    clearTimeout(timer);
  }
}

type Envelope<Answer> = { readonly answer: Answer } | { readonly failure: string };

const stop_ms = 5_000;

/** The other end of a Helper: answers until its parent lets go, then cleans up and ends. */
export function answerParent<Question, Answer>(
  answer: (question: Question) => Promise<Answer>,
  finish: () => Promise<void> = async () => undefined,
): void {
  // A terminal sends Ctrl-C to everybody; the parent decides in which order things stop.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => undefined);
  process.on('disconnect', () => finish().finally(() => process.exit(0)));
  process.on('message', async ({ question }: { question: Question }) => {
    try {
      process.send?.({ answer: await answer(question) } satisfies Envelope<Answer>);
    } catch (thrown) {
      const failure = thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
      process.send?.({ failure } satisfies Envelope<Answer>);
    }
  });
}

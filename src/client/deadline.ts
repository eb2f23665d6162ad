import { KeyslotClientError } from './errors.ts';

/** The end of one call: its time, or the caller's signal, whichever comes first. To be closed after the call. */
export class Deadline {
  readonly #end = new AbortController();
  readonly #ended: Promise<never>;
  readonly #timer: ReturnType<typeof setTimeout>;
  readonly #until_ms: number;
  readonly #signal: AbortSignal | undefined;
  readonly #abort = () => this.#end.abort(aborted(this.#signal));

  constructor(timeout_ms: number, signal: AbortSignal | undefined) {
    this.#until_ms = performance.now() + timeout_ms;
    this.#signal = signal;
    this.#timer = setTimeout(() => this.#end.abort(timedOut(timeout_ms)), timeout_ms);
    this.#ended = new Promise((_, reject) =>
      this.#end.signal.addEventListener('abort', () => reject(this.#end.signal.reason), { once: true }),
    );
    this.#ended.catch(() => undefined); // whoever waits hears of it; when nobody does, nobody has to
    if (signal?.aborted) this.#abort();
    else signal?.addEventListener('abort', this.#abort, { once: true });
  }

  get signal(): AbortSignal {
    return this.#end.signal;
  }

  get left_ms(): number {
    return this.#until_ms - performance.now();
  }

  /** The work's end or this one, even when the work does not listen to the signal. CLIENT_TIMEOUT, CLIENT_ABORTED. */
  async race<T>(work: () => Promise<T>): Promise<T> {
    if (this.signal.aborted) throw this.signal.reason;
    try {
      return await Promise.race([work(), this.#ended]);
    } catch (thrown) {
      throw this.signal.aborted ? this.signal.reason : thrown;
    }
  }

  async sleep(wait_ms: number): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    try {
      await this.race(() => new Promise<void>(done => (timer = setTimeout(done, wait_ms))));
    } finally {
      clearTimeout(timer);
    }
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#signal?.removeEventListener('abort', this.#abort);
  }
}

const timedOut = (timeout_ms: number) =>
  new KeyslotClientError('CLIENT_TIMEOUT', `There was no answer within ${timeout_ms} ms.`, {
    retryable: true,
  });

const aborted = (signal: AbortSignal | undefined) =>
  new KeyslotClientError('CLIENT_ABORTED', 'The call was aborted.', { cause: signal?.reason });

import { isKeyslotClientError, KeyslotClientError } from './errors.ts';
import type { Auth } from './transport.ts';

/**
 * The PIN session of a client: one at a time, opened by the first who needs it while the others wait. Lost to
 * its expiry, or to a restart of the appliance, it is opened again, once a call.
 */
export class PinSession {
  readonly #pin: () => string | Promise<string>;
  readonly #openWith: (pin: string) => Promise<string>;
  readonly #close: (token: string) => Promise<unknown>;
  #opened: Promise<string> | undefined;
  #refused: { readonly pin: string; readonly error: KeyslotClientError } | undefined;
  #closed = false;

  constructor(
    pin: NonNullable<Auth['session']>['pin'],
    door: { open: (pin: string) => Promise<string>; close: (token: string) => Promise<unknown> },
  ) {
    this.#pin = pin;
    this.#openWith = door.open;
    this.#close = door.close;
  }

  /** The failures of opening, among them PIN_INCORRECT: said again, and not tried again, for the same PIN. */
  async use<T>(work: (token: string) => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    const opened = this.#take();
    try {
      return await work(await unlessAborted(opened, signal));
    } catch (thrown) {
      if (!isKeyslotClientError(thrown) || !endings.includes(thrown.code)) throw thrown;
      if (this.#opened === opened) this.#opened = undefined; // unless another call has done that
    }
    return work(await unlessAborted(this.#take(), signal));
  }

  /** Ends the session on the appliance as well, when it can be reached. */
  async close(): Promise<void> {
    this.#closed = true;
    const opened = this.#opened;
    this.#opened = undefined;
    try {
      if (opened) await this.#close(await opened);
    } catch (thrown) {
      if (!isKeyslotClientError(thrown)) throw thrown;
      // It ends by itself when nobody uses it.
    }
  }

  #take(): Promise<string> {
    if (this.#closed) throw new KeyslotClientError('CLIENT_ABORTED', 'The client was closed.');
    if (this.#opened) return this.#opened;
    const opened = this.#open();
    opened.catch(() => {
      if (this.#opened === opened) this.#opened = undefined;
    });
    this.#opened = opened;
    return opened;
  }

  async #open(): Promise<string> {
    const pin = await this.#pin();
    if (this.#refused?.pin === pin) throw this.#refused.error;
    return this.#opening(pin);
  }

  async #opening(pin: string): Promise<string> {
    try {
      return await this.#openWith(pin);
    } catch (error) {
      if (isKeyslotClientError(error) && error.code === 'PIN_INCORRECT') this.#refused = { pin, error };
      throw error;
    }
  }
}

const endings: readonly string[] = ['SESSION_EXPIRED', 'SESSION_REQUIRED'];

/** The session goes on being opened for the others. */
function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  return new Promise((resolve, reject) => {
    const stop = () =>
      reject(new KeyslotClientError('CLIENT_ABORTED', 'The call was aborted.', { cause: signal.reason }));
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop));
  });
}

import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import {
  type ErrorCode,
  isErrorCode,
  isKeyslotError,
  KeyslotError,
  toKeyslotError,
} from '../foundation/errors.ts';

/**
 * A process of the appliance, as its supervisor sees it. What it needs to start, secrets included, goes over
 * the private channel and never through arguments or the environment; it says when it is ready, stops when it
 * is told to or when the supervisor is gone, and ignores the signals that a terminal sends to everybody.
 */
export class Child {
  readonly pid: number;
  /** Resolves with the exit, however it came about. */
  readonly exited: Promise<string>;
  readonly #process: ChildProcess;
  readonly #ready: Promise<unknown>;

  constructor(options: {
    entry: string;
    flags: readonly string[];
    environment: Record<string, string>;
    boot: unknown;
    /** Hears what the process says on its way; see `tell`. */
    told?(text: string): void;
  }) {
    const { entry, flags, environment, boot } = options;
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
    this.#ready = ready.promise;
    child.on('message', message => {
      const said = message as Message;
      if (said.type === 'told') options.told?.(said.text);
      else settle(said, ready);
    });
    child.on('error', ready.reject);
    child.on('exit', (code, signal) => {
      const how = signal ? `signal ${signal}` : `exit status ${code}`;
      exit.resolve(how);
      ready.reject(new KeyslotError('INTERNAL', `A process of the appliance ended at its start (${how}).`));
    });
    this.#ready.catch(() => undefined); // whoever waits for it is told; nobody may be waiting any more
    child.send({ type: 'boot', boot });
  }

  /** What the process said when it was ready, or the failure that it started with. */
  async ready<T>(): Promise<T> {
    return (await this.#ready) as T;
  }

  /** Asks it to finish; kills it when it has not after `bound_ms`. */
  async stop(bound_ms: number): Promise<void> {
    if (this.#process.connected) this.#process.send({ type: 'stop' });
    const timer = setTimeout(() => this.#process.kill('SIGKILL'), bound_ms);
    await this.exited;
    clearTimeout(timer);
  }
}

/** The other end: starts with what the supervisor hands over, and lives until it says stop. */
export function runAsChild<B, R>(start: (boot: B) => Promise<{ ready: R; stop(): Promise<void> }>): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
  let starting: Promise<{ ready: R; stop(): Promise<void> }> | undefined;
  const finish = async () => {
    try {
      // Also a start that is under way is finished first: what it opened is then closed in order.
      await (await starting)?.stop();
    } catch (thrown) {
      if (!isKeyslotError(thrown)) console.error(thrown);
    }
    process.exit(0);
  };
  process.once('disconnect', finish);
  process.on('message', async (message: { type: 'boot'; boot: B } | { type: 'stop' }) => {
    if (message.type === 'stop') return finish();
    try {
      starting = start(message.boot);
      process.send?.({ type: 'ready', ready: (await starting).ready } satisfies Message);
    } catch (thrown) {
      const { code, message: detail } = toKeyslotError(thrown);
      if (code === 'INTERNAL') console.error(thrown);
      process.send?.({ type: 'failed', code, detail } satisfies Message, () => process.exit(0));
    }
  });
}

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

type Message = Outcome | { readonly type: 'told'; readonly text: string };

function settle(message: Outcome, ready: PromiseWithResolvers<unknown>): void {
  if (message.type === 'ready') ready.resolve(message.ready);
  else ready.reject(new KeyslotError(knownCode(message.code), message.detail));
}

const knownCode = (code: string): ErrorCode => (isErrorCode(code) ? code : 'INTERNAL');

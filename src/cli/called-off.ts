/** Ctrl-C and SIGTERM as a signal: what is under way is undone first. The second one ends the command at once. */
export class CalledOff implements Disposable {
  readonly #controller = new AbortController();
  readonly #listener = () => this.#controller.abort();

  constructor() {
    for (const name of signals) process.once(name, this.#listener);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  [Symbol.dispose](): void {
    for (const name of signals) process.off(name, this.#listener);
  }
}

const signals = ['SIGINT', 'SIGTERM'] as const;

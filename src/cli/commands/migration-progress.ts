/** How far something has come, on a terminal; nothing in a pipe, where nobody watches. */
export class ProgressBar implements Disposable {
  readonly #label: string;
  readonly #shown: boolean;
  readonly #what: string;

  constructor(label: string, wanted: boolean, what = 'keys') {
    this.#label = label;
    this.#what = what;
    this.#shown = wanted && process.stderr.isTTY === true;
  }

  show(done: number, of: number): void {
    if (!this.#shown) return;
    const filled = of === 0 ? width : Math.round((Math.min(done, of) / of) * width);
    process.stderr.write(
      `\r${this.#label} [${'#'.repeat(filled).padEnd(width, '.')}] ${done}/${of} ${this.#what}`,
    );
  }

  [Symbol.dispose](): void {
    if (this.#shown) process.stderr.write('\n');
  }
}

const width = 30;

/** Ctrl-C while keys are moving: what is under way is finished first. The second one ends the command at once. */
export class Interruption implements Disposable {
  asked = false;
  readonly #listener = () => {
    this.asked = true;
    process.stderr.write('\nstopping behind the keys that are under way\n');
  };

  constructor() {
    process.once('SIGINT', this.#listener);
  }

  [Symbol.dispose](): void {
    process.off('SIGINT', this.#listener);
  }
}

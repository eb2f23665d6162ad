/** What is being done now, on one line of a terminal; nothing in a pipe, where nobody watches. */
export class ProgressLine implements Disposable {
  readonly #shown = process.stderr.isTTY === true;
  #last = '';

  show(text: string): void {
    if (!this.#shown) return;
    this.#last = text.slice(0, width);
    process.stderr.write(`\r${this.#last.padEnd(width)}`);
  }

  [Symbol.dispose](): void {
    if (this.#last) process.stderr.write(`\r${' '.repeat(width)}\r`);
  }
}

const width = 78;

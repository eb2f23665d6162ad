/** How much of a file has been worked through, on a terminal; nothing in a pipe, where nobody watches. */
export class ByteBar implements Disposable {
  readonly #label: string;
  #shown = -1;

  constructor(label: string) {
    this.#label = label;
  }

  show(done: number, of: number): void {
    const percent = of === 0 ? 100 : Math.min(100, Math.floor((done / of) * 100));
    if (process.stderr.isTTY !== true || percent === this.#shown) return;
    this.#shown = percent;
    const bar = '#'.repeat(Math.round((percent / 100) * width)).padEnd(width, '.');
    process.stderr.write(`\r${this.#label} [${bar}] ${percent} % of ${(of / 1024 / 1024).toFixed(1)} MiB`);
  }

  [Symbol.dispose](): void {
    if (this.#shown >= 0) process.stderr.write('\n');
    this.#shown = -1;
  }
}

const width = 30;

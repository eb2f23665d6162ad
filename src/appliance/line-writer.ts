import { writeSync } from 'node:fs';
import { setTimeout as wait } from 'node:timers';

/**
 * Writes lines to a file descriptor that other processes write to as well: whole lines, at most as many at a time as a
 * pipe takes in one piece (PIPE_BUF), so that none of them stands inside another. What cannot be written stops nobody:
 * a full pipe is tried again, a full disk costs lines, and how many is known.
 */
export class LineWriter {
  readonly #fd: number;
  #lines: string[] = [];
  #waiting_bytes = 0;
  #lost = 0;
  #later: NodeJS.Timeout | undefined;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Lines that were never written. */
  get lost(): number {
    return this.#lost;
  }

  /** Gathers a line, which is written within `gathered_ms`. */
  readonly write = (line: string): void => {
    const line_bytes = Buffer.byteLength(line);
    if (this.#waiting_bytes + line_bytes > atomic_bytes) this.flush();
    if (this.#waiting_bytes + line_bytes > waiting_bytes_max) {
      this.#lost += 1;
      return;
    }
    this.#lines.push(line);
    this.#waiting_bytes += line_bytes;
    this.#again(gathered_ms);
  };

  /** Writes what waits, as far as the descriptor takes it now. */
  readonly flush = (): void => {
    clearTimeout(this.#later);
    this.#later = undefined;
    while (this.#lines.length > 0) {
      const count = this.#fitting();
      const bytes = Buffer.from(this.#lines.slice(0, count).join(''));
      const outcome = written(this.#fd, bytes);
      if (outcome === 'later') {
        this.#again(retry_ms);
        return;
      }
      if (outcome === 'lost') this.#lost += count;
      this.#lines.splice(0, count);
      this.#waiting_bytes -= bytes.length;
    }
  };

  #again(after_ms: number): void {
    this.#later ??= wait(this.flush, after_ms).unref();
  }

  /** How many lines go in one piece; one that is longer goes alone. */
  #fitting(): number {
    let sum_bytes = 0;
    let count = 0;
    for (const line of this.#lines) {
      sum_bytes += Buffer.byteLength(line);
      if (count > 0 && sum_bytes > atomic_bytes) break;
      count += 1;
    }
    return count;
  }
}

/** Of a long line the rest follows at once, also when others have to wait for it: half a line helps nobody. */
function written(fd: number, bytes: Buffer): 'done' | 'later' | 'lost' {
  let at = 0;
  for (let tries = 0; at < bytes.length; tries += 1) {
    try {
      at += writeSync(fd, bytes, at);
    } catch (thrown) {
      if (!(thrown instanceof Error && 'code' in thrown)) throw thrown;
      if (thrown.code !== 'EAGAIN' || tries >= tries_max) return 'lost';
      if (at === 0) return 'later';
    }
  }
  return 'done';
}

/** PIPE_BUF of Linux, pipe(7). */
const atomic_bytes = 4_096;
const waiting_bytes_max = 1_048_576;
const gathered_ms = 200;
const retry_ms = 10;
const tries_max = 1_000;

import { KeyslotError } from '../foundation/errors.ts';
import type { Store } from './store.ts';

/**
 * What was counted against limits, and how far the audit log was counted. Both are written together: whatever
 * the log holds behind the position is counted again at the next start, and nothing before it is.
 */
export class CounterRows {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  /** The oldest bucket first. */
  async all(): Promise<readonly CounterChange[]> {
    return this.#store.all('SELECT * FROM counters ORDER BY bucket_ms').map(row => ({
      counter: String(row.counter),
      window_ms: Number(row.window_ms),
      start_ms: Number(row.bucket_ms),
      amount: BigInt(String(row.amount)),
    }));
  }

  /** Nothing while no record of this node was counted. */
  async position(node: string): Promise<Position | undefined> {
    const [row] = this.#store.all('SELECT next, hash FROM positions WHERE node = ?', node);
    if (!(row?.hash instanceof Uint8Array)) return undefined;
    return { next: Number(row.next), hash: Buffer.from(row.hash) };
  }

  /**
   * Adds the changes and moves the position, in one transaction; a bucket of nothing is removed. STORE_FAILED when
   * the position is not the one that the changes were counted from, so that nothing is added twice.
   */
  async settle(node: string, step: Step): Promise<void> {
    this.#store.transaction(() => {
      const [row] = this.#store.all('SELECT next FROM positions WHERE node = ?', node);
      if (Number(row?.next ?? 0) !== step.from) {
        throw new KeyslotError('STORE_FAILED', `The counters of ${node} were moved on by somebody else.`);
      }
      for (const change of step.changes) this.#add(change);
      this.#store.run(
        'INSERT OR REPLACE INTO positions (node, next, hash) VALUES (?, ?, ?)',
        node,
        step.to.next,
        step.to.hash,
      );
    });
  }

  /** Removes buckets that no window of their length can reach any more, at most so many; how many it were. */
  async expire(at_ms: number, max: number): Promise<number> {
    return this.#store.change(
      `DELETE FROM counters WHERE (counter, window_ms, bucket_ms) IN
         (SELECT counter, window_ms, bucket_ms FROM counters WHERE bucket_ms + 2 * window_ms < ? LIMIT ?)`,
      at_ms,
      max,
    );
  }

  #add({ counter, window_ms, start_ms, amount }: CounterChange): void {
    const bucket = [counter, window_ms, start_ms] as const;
    const [held] = this.#store.all(
      'SELECT amount FROM counters WHERE counter = ? AND window_ms = ? AND bucket_ms = ?',
      ...bucket,
    );
    const sum = BigInt(String(held?.amount ?? '0')) + amount;
    if (sum > 0n) {
      this.#store.run(
        'INSERT OR REPLACE INTO counters (counter, window_ms, bucket_ms, amount) VALUES (?, ?, ?, ?)',
        ...bucket,
        String(sum),
      );
    } else if (held) {
      this.#store.run(
        'DELETE FROM counters WHERE counter = ? AND window_ms = ? AND bucket_ms = ?',
        ...bucket,
      );
    }
  }
}

/** What was counted in one bucket; a change may be negative. */
export interface CounterChange {
  readonly counter: string;
  readonly window_ms: number;
  /** Where the bucket begins; a bucket is shorter than its window. */
  readonly start_ms: number;
  readonly amount: bigint;
}

export interface Position {
  /** The seq of the first record that was not counted. */
  readonly next: number;
  /** The hash of the record before it. */
  readonly hash: Uint8Array;
}

export interface Step {
  /** `next` of the position before, 0 while there is none. */
  readonly from: number;
  readonly to: Position;
  readonly changes: readonly CounterChange[];
}

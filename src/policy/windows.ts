import { type Charge, type Counters, noRoom } from './verdict.ts';

/**
 * Counts over sliding windows, in bounded memory. A window is sixty buckets, and a bucket counts until all of it
 * has left the window: so within any stretch of time of a window's length, wherever it begins, no more is allowed
 * than the cap, and what was spent may count for up to a sixtieth longer. Time does not go backwards: a clock that
 * does is waited for. A clock that jumps ahead empties windows, so hand in one that does not.
 *
 * Counters that nothing is left of are dropped when there are too many. When all are in use, a new one says
 * `noRoom` and its limit refuses.
 *
 * @example
 * const windows = new SlidingWindows(() => Date.now());
 * const verdict = evaluate(policies, facts, subject, windows);
 * if (verdict.allowed) windows.charge(verdict.charges, Date.now());
 */
export class SlidingWindows implements Counters {
  readonly #now_ms: () => number;
  readonly #counters_max: number;
  readonly #counters = new Map<string, Window[]>();
  #seen_ms = 0;

  constructor(now_ms: () => number, options: { counters_max?: number } = {}) {
    this.#now_ms = now_ms;
    this.#counters_max = options.counters_max ?? 100_000;
  }

  spent(counter: string, window_ms: number): bigint {
    const now_ms = this.#advance(this.#now_ms());
    const windows = this.#counters.get(counter);
    if (windows === undefined) return this.#hasRoom(now_ms) ? 0n : noRoom;
    return windows.find(window => window.window_ms === window_ms)?.spent(now_ms) ?? 0n;
  }

  /** Right after the verdict, in the same turn: nobody else may be judged in between. */
  charge(charges: readonly Charge[], at_ms: number): void {
    this.#advance(at_ms);
    for (const { counter, window_ms, amount } of charges) this.#window(counter, window_ms).add(at_ms, amount);
  }

  /** Takes back what was charged at that time, because nothing was signed. What has expired stays expired. */
  refund(charges: readonly Charge[], at_ms: number): void {
    for (const { counter, window_ms, amount } of charges) {
      const windows = this.#counters.get(counter);
      windows?.find(window => window.window_ms === window_ms)?.take(at_ms, amount);
    }
  }

  /** What counts now, a row a bucket; for a store. */
  snapshot(): CounterRow[] {
    const now_ms = this.#advance(this.#now_ms());
    return [...this.#counters].flatMap(([counter, windows]) =>
      windows.flatMap(window => window.rows(now_ms).map(row => ({ counter, ...row }))),
    );
  }

  /** Adds the rows of a snapshot, the oldest first. */
  restore(rows: readonly CounterRow[]): void {
    for (const { counter, window_ms, start_ms, amount } of rows) {
      this.#advance(start_ms);
      this.#window(counter, window_ms).add(start_ms, BigInt(amount));
    }
  }

  /** How many counters are kept. */
  get size(): number {
    return this.#counters.size;
  }

  #advance(now_ms: number): number {
    if (now_ms > this.#seen_ms) this.#seen_ms = now_ms;
    return this.#seen_ms;
  }

  #window(counter: string, window_ms: number): Window {
    let windows = this.#counters.get(counter);
    if (windows === undefined) {
      windows = [];
      this.#counters.set(counter, windows);
    }
    let window = windows.find(one => one.window_ms === window_ms);
    if (window === undefined) {
      window = new Window(window_ms);
      windows.push(window);
    }
    return window;
  }

  #hasRoom(now_ms: number): boolean {
    if (this.#counters.size < this.#counters_max) return true;
    if (now_ms < this.#sweptAt_ms + sweep_ms) return false;
    this.#sweptAt_ms = now_ms;
    for (const [counter, windows] of this.#counters) {
      if (windows.every(window => window.isEmpty(now_ms))) this.#counters.delete(counter);
    }
    return this.#counters.size < this.#counters_max;
  }

  // Looking through all counters takes a while, so it is not done for every request that finds no room.
  #sweptAt_ms = Number.NEGATIVE_INFINITY;
}

/** One bucket of a counter, in plain values. */
export interface CounterRow {
  readonly counter: string;
  readonly window_ms: number;
  readonly start_ms: number;
  /** In decimal digits. */
  readonly amount: string;
}

export const buckets_per_window = 60;
const sweep_ms = 1_000;

class Window {
  readonly window_ms: number;
  readonly #bucket_ms: number;
  /** The oldest first, at most as many as fit a window and one more. */
  readonly #buckets: { readonly start_ms: number; amount: bigint }[] = [];
  #total = 0n;

  constructor(window_ms: number) {
    this.window_ms = window_ms;
    this.#bucket_ms = Math.max(1, Math.ceil(window_ms / buckets_per_window));
  }

  spent(now_ms: number): bigint {
    this.#expire(now_ms);
    return this.#total;
  }

  isEmpty(now_ms: number): boolean {
    this.#expire(now_ms);
    return this.#buckets.length === 0;
  }

  add(at_ms: number, amount: bigint): void {
    this.#expire(at_ms);
    const last = this.#buckets.at(-1);
    const start_ms = this.#startOf(at_ms);
    this.#total += amount;
    if (last && last.start_ms >= start_ms) last.amount += amount;
    else this.#buckets.push({ start_ms, amount });
  }

  take(at_ms: number, amount: bigint): void {
    const start_ms = this.#startOf(at_ms);
    const bucket = this.#buckets.findLast(one => one.start_ms === start_ms);
    if (bucket === undefined) return;
    const taken = amount < bucket.amount ? amount : bucket.amount;
    bucket.amount -= taken;
    this.#total -= taken;
  }

  rows(now_ms: number) {
    this.#expire(now_ms);
    return this.#buckets
      .filter(({ amount }) => amount > 0n)
      .map(({ start_ms, amount }) => ({ window_ms: this.window_ms, start_ms, amount: amount.toString() }));
  }

  #startOf(at_ms: number): number {
    return at_ms - (at_ms % this.#bucket_ms);
  }

  // The last moment of a bucket has left the window when a whole window lies between it and now.
  #expire(now_ms: number): void {
    for (let first = this.#buckets[0]; first; first = this.#buckets[0]) {
      if (first.start_ms + this.#bucket_ms + this.window_ms > now_ms) return;
      this.#total -= first.amount;
      this.#buckets.shift();
    }
  }
}

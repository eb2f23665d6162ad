import type { KeyId } from '../custody/ids.ts';

/** Who is using which key of a slot right now, so that a copy of a key is not removed under a signature. */
export class KeyUse {
  readonly #running = new Map<KeyId, number>();
  readonly #waiting = new Map<KeyId, (() => void)[]>();
  #requests = 0;

  /** How many use any key now. */
  get requests(): number {
    return this.#requests;
  }

  /** Counted from before the first await of the work to its end. */
  async during<T>(key: KeyId, work: () => Promise<T>): Promise<T> {
    this.#running.set(key, (this.#running.get(key) ?? 0) + 1);
    this.#requests += 1;
    try {
      return await work();
    } finally {
      this.#end(key);
    }
  }

  /** Resolves when nobody uses the key; false when somebody still does after this time. */
  async ended(key: KeyId, within_ms: number): Promise<boolean> {
    if (!this.#running.has(key)) return true;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const timer = setTimeout(() => resolve(false), within_ms);
    this.#waiting.set(key, [...(this.#waiting.get(key) ?? []), () => resolve(true)]);
    return promise.finally(() => clearTimeout(timer));
  }

  #end(key: KeyId): void {
    this.#requests -= 1;
    const left = (this.#running.get(key) ?? 1) - 1;
    if (left > 0) {
      this.#running.set(key, left);
      return;
    }
    this.#running.delete(key);
    for (const tell of this.#waiting.get(key) ?? []) tell();
    this.#waiting.delete(key);
  }
}

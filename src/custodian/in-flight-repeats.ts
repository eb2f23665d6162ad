import { isKeyslotError, KeyslotError } from '../foundation/errors.ts';

/** Requests under a name of their caller's that are being worked on: a repeat waits for the first. */
export class InFlightRepeats<T> {
  readonly #running = new Map<string, { readonly digest: Uint8Array; readonly outcome: Promise<T> }>();

  /**
   * One at a time under an id. A repeat gets what the first gets, its failure too, unless the first was given up
   * by its own caller: then the repeat works itself. IDEMPOTENCY_CONFLICT for another digest.
   */
  async join(id: string, digest: Uint8Array, work: () => Promise<T>): Promise<T> {
    for (let first = this.#running.get(id); first; first = this.#running.get(id)) {
      refuseOther(first.digest, digest);
      try {
        return await first.outcome;
      } catch (thrown) {
        if (!isKeyslotError(thrown) || thrown.code !== 'REQUEST_ABORTED') throw thrown;
      }
    }
    const outcome = work().finally(() => this.#running.delete(id));
    this.#running.set(id, { digest, outcome });
    return outcome;
  }
}

/** IDEMPOTENCY_CONFLICT: what is kept belongs to another request. */
export function refuseOther(kept: Uint8Array, asked: Uint8Array): void {
  if (Buffer.compare(kept, asked) === 0) return;
  throw new KeyslotError('IDEMPOTENCY_CONFLICT', 'Another request was made under this Idempotency-Key.');
}

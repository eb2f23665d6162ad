import type { Handle } from 'pkcs11js';
import type { SlotId } from '../../custody/ids.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import { limits } from '../../foundation/limits.ts';
import { CkrError, type Cryptoki, type Template } from './cryptoki.ts';
import type { Device } from './device.ts';
import { closedError, type SessionPool, untilAborted } from './pool.ts';

/**
 * A token that took its PIN: the anchor session, which holds the login, and the pool of sessions that work.
 * Finding, making and removing objects goes through the anchor and is synchronous, so it never races itself.
 */
export class TokenLogin {
  readonly slot: SlotId;
  readonly cryptoki: Cryptoki;
  readonly device: Device;
  readonly anchor: Handle;
  readonly pool: SessionPool;
  readonly #whenClosed: (settled: boolean) => void;
  readonly #gaveUp = new AbortController();
  #closing: Promise<boolean> | undefined;

  constructor(options: {
    slot: SlotId;
    cryptoki: Cryptoki;
    device: Device;
    anchor: Handle;
    pool: SessionPool;
    whenClosed(settled: boolean): void;
  }) {
    this.slot = options.slot;
    this.cryptoki = options.cryptoki;
    this.device = options.device;
    this.anchor = options.anchor;
    this.pool = options.pool;
    this.#whenClosed = options.whenClosed;
  }

  get closing(): boolean {
    return this.#closing !== undefined;
  }

  /** Synchronous work on the anchor, its failures as errors of the table. SESSION_CLOSED. */
  work<T>(work: () => T): T {
    if (this.closing) throw closedError();
    try {
      return work();
    } catch (thrown) {
      throw this.device.error(thrown, `Slot ${this.slot}`);
    }
  }

  find(search: Template): Handle[] {
    return this.cryptoki.findObjects(this.anchor, search);
  }

  attribute(object: Handle, type: number): Buffer | undefined {
    return this.cryptoki.attribute(this.anchor, object, type);
  }

  /** The outcome of a call, or TOKEN_UNAVAILABLE once the end of the login has waited for it long enough. */
  untilGivenUp<T>(call: Promise<T>): Promise<T> {
    return untilAborted(call, this.#gaveUp.signal, () => givenUp(this.slot));
  }

  /**
   * Waits for what is in flight, at most `limits.drain_ms`, then logs out and closes the sessions. False when
   * a call into the module has not come back: the module must then not be finalised.
   */
  close(): Promise<boolean> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<boolean> {
    const settled = await this.pool.drain(limits.drain_ms);
    if (settled) {
      try {
        for (const session of this.pool.takeAll()) this.cryptoki.closeSession(session);
        this.cryptoki.logout(this.anchor);
        this.cryptoki.closeSession(this.anchor);
      } catch (thrown) {
        // A device that has gone has ended the login and its sessions itself; anything else is a defect.
        if (!(thrown instanceof CkrError)) throw thrown;
      }
    }
    this.#gaveUp.abort();
    this.#whenClosed(settled);
    return settled;
  }
}

const givenUp = (slot: SlotId) =>
  new KeyslotError('TOKEN_UNAVAILABLE', `Slot ${slot}: a call to the token has not come back.`);

import type { Handle } from 'pkcs11js';
import type { KeyInfo, Signer } from '../../custody/engine.ts';
import { type Signature, signature } from '../../custody/ids.ts';
import { refuseUnsignable } from '../../custody/signing.ts';
import { CKM_EDDSA } from './constants.ts';
import { CkrError, type Cryptoki } from './cryptoki.ts';
import type { Device } from './device.ts';
import { abortedError, type SessionPool, untilAborted } from './pool.ts';

/** One key of a token with its handle cached: finding it again would cost a search of the whole token. */
export class Pkcs11Signer implements Signer {
  readonly key: KeyInfo;
  readonly #cryptoki: Cryptoki;
  readonly #device: Device;
  readonly #pool: SessionPool;
  readonly #refind: () => Handle | undefined;
  #handle: Handle;

  constructor(options: {
    key: KeyInfo;
    handle: Handle;
    cryptoki: Cryptoki;
    device: Device;
    pool: SessionPool;
    refind(): Handle | undefined;
  }) {
    this.key = options.key;
    this.#handle = options.handle;
    this.#cryptoki = options.cryptoki;
    this.#device = options.device;
    this.#pool = options.pool;
    this.#refind = options.refind;
  }

  async sign(message: Uint8Array, signal?: AbortSignal): Promise<Signature> {
    // An empty one would leave a SoftHSM session in an active operation for ever.
    refuseUnsignable(message, this.#device.profile.message_bytes_max);
    if (signal?.aborted) throw abortedError();
    const copy = Buffer.alloc(message.length); // ours until the token is done with it, whatever the caller does
    copy.set(message);
    const signing = this.#signed(copy, signal);
    return signal ? untilAborted(signing, signal) : signing;
  }

  async #signed(message: Buffer, signal: AbortSignal | undefined): Promise<Signature> {
    try {
      return signature(await this.#onSession(message, signal));
    } catch (thrown) {
      if (!this.#repeatable(thrown)) throw this.#device.error(thrown, `Signing with ${this.key.id}`);
    }
    // Ed25519 is deterministic: the same bytes signed again on a fresh session are the same signature.
    try {
      return signature(await this.#onSession(message, signal));
    } catch (thrown) {
      throw this.#device.error(thrown, `Signing with ${this.key.id}`);
    }
  }

  #onSession(message: Buffer, signal: AbortSignal | undefined): Promise<Buffer> {
    return this.#pool.use(session => this.#cryptoki.sign(session, CKM_EDDSA, this.#handle, message), signal);
  }

  /** Once, when the session had ended, or when the handle was stale and the same key is found again. */
  #repeatable(thrown: unknown): boolean {
    if (!(thrown instanceof CkrError)) return false;
    const kind = this.#device.ckrClass(thrown.ckr);
    if (kind === 'session') return true;
    if (kind !== 'stale-handle') return false;
    const handle = this.#refind();
    if (handle === undefined) return false;
    this.#handle = handle;
    return true;
  }
}

import type { KeyInfo, Signer } from '../../custody/engine.ts';
import { type Signature, signature } from '../../custody/ids.ts';
import { refuseUnsignable } from '../../custody/signing.ts';
import type { HeldKey } from './held-key.ts';
import type { TokenLogin } from './login.ts';
import { abortedError, untilAborted } from './pool.ts';

/** The signer of a key of a token. Ed25519 is deterministic: what fails is signed again, and is the same. */
export class Pkcs11Signer implements Signer {
  readonly key: KeyInfo;
  readonly #held: HeldKey;
  readonly #login: TokenLogin;
  readonly #place: string;

  constructor(held: HeldKey, login: TokenLogin) {
    this.key = held.info;
    this.#held = held;
    this.#login = login;
    this.#place = `Signing with ${held.info.id}`;
  }

  async sign(message: Uint8Array, signal?: AbortSignal): Promise<Signature> {
    // An empty one would leave a SoftHSM session in an active operation for ever.
    refuseUnsignable(message, this.#login.device.profile.message_bytes_max);
    if (signal?.aborted) throw abortedError();
    const copy = Buffer.alloc(message.length); // ours until the token is done with it, whatever the caller does
    copy.set(message);
    const signing = this.#login.repeated(this.#place, session => this.#held.sign(session, copy), signal);
    return signature(await (signal ? untilAborted(signing, signal) : signing));
  }
}

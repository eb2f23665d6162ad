import type { KeyInfo, Signer } from '../../custody/engine.ts';
import { type Signature, signature } from '../../custody/ids.ts';
import { refuseAborted, refuseUnsignable } from '../../custody/signing.ts';
import { signMessage } from '../../foundation/ed25519.ts';
import { type MemoryKey, unknownKey } from './key-table.ts';

/** What a signer asks of the session that gave it out. */
export interface SignerHome {
  /** Throws SESSION_CLOSED; false when the key was destroyed. */
  stillThere(): boolean;
  track<T>(work: () => Promise<T>): Promise<T>;
}

export class MemorySigner implements Signer {
  readonly key: KeyInfo;
  readonly #key: MemoryKey;
  readonly #home: SignerHome;

  constructor(key: MemoryKey, home: SignerHome) {
    this.key = key.info;
    this.#key = key;
    this.#home = home;
  }

  async sign(message: Uint8Array, signal?: AbortSignal): Promise<Signature> {
    if (!this.#home.stillThere()) throw unknownKey(this.key.id);
    refuseUnsignable(message);
    refuseAborted(signal);
    // A copy of its own, before the first await. Not slice(): on a Buffer that is a view of the same bytes.
    const copy = Uint8Array.from(message);
    const signed = await this.#home.track(() => signMessage(this.#key.privateKey, copy));
    refuseAborted(signal);
    return signature(signed);
  }
}

import type { KeyInfo, Signer } from '../../custody/engine.ts';
import { type Signature, signature } from '../../custody/ids.ts';
import { refuseAborted, refuseUnsignable } from '../../custody/signing.ts';

/** What a signer asks of the session that gave it out. */
export interface SignerHome {
  /** SESSION_CLOSED, KEY_UNKNOWN. */
  refuseGone(): void;
  /** 64 bytes from KMS, not verified. */
  sign(message: Uint8Array, signal: AbortSignal | undefined): Promise<Uint8Array>;
}

/** A RAW message of KMS: what is longer must be hashed first, and then it is no pure Ed25519 any more. */
export const kmsMessage_bytes_max = 4_096;

/** A key inside KMS. Signs 1 to 4,096 bytes: MESSAGE_TOO_LARGE beyond. */
export class NativeSigner implements Signer {
  readonly key: KeyInfo;
  readonly #home: SignerHome;

  constructor(key: KeyInfo, home: SignerHome) {
    this.key = key;
    this.#home = home;
  }

  async sign(message: Uint8Array, signal?: AbortSignal): Promise<Signature> {
    this.#home.refuseGone();
    refuseUnsignable(message, kmsMessage_bytes_max);
    refuseAborted(signal);
    // A copy of its own, before the first await. Not slice(): on a Buffer that is a view of the same bytes.
    const signed = await this.#home.sign(Uint8Array.from(message), signal);
    refuseAborted(signal);
    return signature(signed);
  }
}

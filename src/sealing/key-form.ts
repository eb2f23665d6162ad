import type { KeyId, PublicKeyBytes } from '../custody/ids.ts';
import type { Secret } from '../foundation/secret.ts';

/**
 * One form of key files: how the 32-byte seed of a key becomes the bytes of a file, and comes out again. Which
 * secrets that takes is the form's own business; a form is made when its slot opens and holds them until then.
 */
export interface KeyForm {
  /** A key is the file `<key id><suffix>` in the folder of its slot. */
  readonly suffix: string;
  /** Reads a file as far as it goes without a secret. KEY_FILE_MALFORMED, KEY_FILE_FOREIGN. */
  read(key: KeyId, file: Uint8Array): SealedKey;
  /** The content of a new file. The seed stays the caller's. Fails with the errors of what seals. */
  seal(key: KeyId, publicKey: PublicKeyBytes, seed: Secret, signal?: AbortSignal): Promise<Uint8Array>;
}

/** A key file that was read and not yet opened. */
export interface SealedKey {
  /** As the file states it under its seal; absent in forms that carry none. */
  readonly publicKey?: PublicKeyBytes;
  /**
   * The 32-byte seed; the caller disposes it. KEY_FILE_TAMPERED, SHARES_INSUFFICIENT, REQUEST_ABORTED, and the
   * errors of what seals. May be called concurrently and as often as the key signs.
   */
  unseal(signal?: AbortSignal): Promise<Secret>;
}

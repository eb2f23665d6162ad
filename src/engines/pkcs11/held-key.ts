import { randomBytes } from 'node:crypto';
import type { Handle } from 'pkcs11js';
import type { KeyInfo } from '../../custody/engine.ts';
import { createVerifier } from '../../foundation/ed25519.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import { CKM_EDDSA } from './constants.ts';
import { CkrError } from './cryptoki.ts';
import type { TokenLogin } from './login.ts';

/**
 * One key of a token with its handle, which is found again when the token has forgotten it or a new login has
 * begun: only then, because finding costs a search of the whole token.
 */
export class HeldKey {
  readonly info: KeyInfo;
  readonly #login: TokenLogin;
  readonly #find: (info: KeyInfo) => Handle;
  #handle: Handle;
  #epoch: number;

  /** `find` fails with KEY_UNKNOWN, KEY_AMBIGUOUS, KEY_MISMATCH. */
  constructor(login: TokenLogin, info: KeyInfo, handle: Handle, find: (info: KeyInfo) => Handle) {
    this.info = info;
    this.#login = login;
    this.#find = find;
    this.#handle = handle;
    this.#epoch = login.epoch;
  }

  /** One signature on a session that is the caller's meanwhile. */
  async sign(session: Handle, message: Buffer): Promise<Buffer> {
    // In one turn with C_SignInit: the number of a handle of before may be that of another key by now.
    const handle = this.#current();
    try {
      return await this.#login.cryptoki.sign(session, CKM_EDDSA, handle, message);
    } catch (thrown) {
      if (thrown instanceof CkrError && this.#login.device.ckrClass(thrown.ckr) === 'stale-handle') {
        if (this.#handle === handle) this.#epoch = forgotten;
      }
      throw thrown;
    }
  }

  /** That the token signs with this key. TOKEN_ERROR when what it makes does not verify. */
  async prove(session: Handle): Promise<void> {
    const challenge = randomBytes(32);
    const signature = await this.sign(session, challenge);
    if (await createVerifier(this.info.publicKey).verify(challenge, signature)) return;
    throw new KeyslotError('TOKEN_ERROR', `What the token signs with ${this.info.id} does not verify.`);
  }

  #current(): Handle {
    if (this.#epoch !== this.#login.epoch) {
      this.#handle = this.#find(this.info);
      this.#epoch = this.#login.epoch;
    }
    return this.#handle;
  }
}

const forgotten = -1;

import { randomFillSync } from 'node:crypto';
import type { Handle } from 'pkcs11js';
import { seed_bytes } from '../../foundation/ed25519.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import { Secret } from '../../foundation/secret.ts';
import { CkrError, gcmIv_bytes, gcmTag_bytes, UnsealError } from './cryptoki.ts';
import type { TokenLogin } from './login.ts';
import { abortedError, untilAborted } from './pool.ts';
import type { GcmIvPolicy } from './settings.ts';
import type { WrappingKey } from './wrapping-key.ts';

/** A seed under AES-256-GCM: the ciphertext with its tag behind it. */
export interface Sealed {
  readonly iv: Buffer;
  readonly data: Buffer;
}

export const sealedSeed_bytes = seed_bytes + gcmTag_bytes;

/**
 * Seals and opens seeds with the wrapping key inside the token, on the sessions of the pool. Calls are repeated as
 * signatures are: sealing twice makes two different ciphertexts, of which one is forgotten.
 */
export class TokenSealer {
  readonly #login: TokenLogin;
  readonly #key: WrappingKey;
  readonly #policy: GcmIvPolicy;
  #probe: Sealed | undefined;

  private constructor(login: TokenLogin, key: WrappingKey, policy: GcmIvPolicy) {
    this.#login = login;
    this.#key = key;
    this.#policy = policy;
  }

  /** Seals a probe and opens it again, so that a token which cannot is known at once. TOKEN_UNSUITABLE. */
  static async open(login: TokenLogin, key: WrappingKey, policy: GcmIvPolicy): Promise<TokenSealer> {
    const sealer = new TokenSealer(login, key, policy);
    using probe = Secret.fromBytes(Buffer.alloc(seed_bytes));
    sealer.#probe = await sealer.seal(probe, probeAad);
    login.proveWith(session => sealer.#withKey(session, handle => sealer.#openProbe(session, handle)));
    if (await sealer.#opensProbe()) return sealer;
    throw new KeyslotError(
      'TOKEN_UNSUITABLE',
      `The token of slot ${login.slot} does not open with "${key.name}" what it sealed with it.`,
    );
  }

  get keyName(): string {
    return this.#key.name;
  }

  /** The seed stays the caller's. SLOT_BUSY, REQUEST_ABORTED, SESSION_CLOSED, TOKEN_UNSUITABLE, the token's errors. */
  seal(seed: Secret, aad: Buffer, signal?: AbortSignal): Promise<Sealed> {
    const plain = Buffer.alloc(seed.length); // ours until the token is done with it, whatever the caller does
    seed.use(bytes => plain.set(bytes));
    const sealing = this.#login
      .repeated(
        this.#place,
        session => this.#withKey(session, key => this.#encrypt(session, key, plain, aad)),
        signal,
      )
      .finally(() => plain.fill(0));
    return this.#bounded(sealing, signal);
  }

  /** The same errors, and KEY_FILE_TAMPERED when the token is sound and does not open this. */
  unseal(sealed: Sealed, aad: Buffer, what: string, signal?: AbortSignal): Promise<Secret> {
    if (signal?.aborted) return Promise.reject(abortedError());
    const opening = this.#opened(sealed, aad, what, signal);
    const wanted = this.#bounded(opening, signal);
    // The caller may have left by the time that the token answers: then nobody else wipes the seed.
    wanted.catch(() => opening.then(seed => seed[Symbol.dispose](), ignored));
    return wanted;
  }

  async #opened(sealed: Sealed, aad: Buffer, what: string, signal: AbortSignal | undefined): Promise<Secret> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.#login.repeated(
          this.#place,
          session => this.#withKey(session, key => this.#decrypt(session, key, sealed, aad)),
          signal,
        );
      } catch (thrown) {
        if (!(thrown instanceof UnsealError)) throw thrown;
        await this.#blame(thrown, what, attempt);
      }
    }
  }

  /** Returns when it may have been the device, and another attempt will tell. */
  async #blame(refusal: UnsealError, what: string, attempt: number): Promise<void> {
    if (!refusal.certain && !(await this.#opensProbe())) {
      if (attempt >= attempts_max) throw this.#login.device.error(refusal, what);
      this.#login.lost(refusal);
      return;
    }
    if (!refusal.certain && attempt < attempts_max) return;
    const detail = `${what} does not open with key "${this.keyName}" of the token of slot ${this.#login.slot}.`;
    throw new KeyslotError('KEY_FILE_TAMPERED', detail, { cause: refusal });
  }

  async #encrypt(session: Handle, key: Handle, plain: Buffer, aad: Buffer): Promise<Sealed> {
    const iv = Buffer.alloc(gcmIv_bytes); // of its own for every attempt: an IV is never used twice
    if (this.#policy === 'random') randomFillSync(iv);
    const gcm = { iv, ivBits: this.#ivBits, aad };
    const data = await this.#login.cryptoki.encrypt(session, gcm, key, plain);
    if (iv.every(byte => byte === 0)) {
      throw this.#unsuitable('makes no IV of its own: set gcmIv: random');
    }
    if (data.length !== plain.length + gcmTag_bytes) {
      throw this.#unsuitable(
        `answers ${data.length} bytes where AES-GCM makes ${plain.length + gcmTag_bytes}`,
      );
    }
    return { iv, data };
  }

  async #decrypt(session: Handle, key: Handle, { iv, data }: Sealed, aad: Buffer): Promise<Secret> {
    const gcm = { iv: Buffer.from(iv), ivBits: this.#ivBits, aad }; // a copy: tokens do write to IVs
    const plain = await this.#login.cryptoki.decrypt(session, gcm, key, data);
    try {
      if (plain.length !== seed_bytes) throw this.#unsuitable(`opens a seed of ${plain.length} bytes`);
      return Secret.fromBytes(plain);
    } finally {
      plain.fill(0);
    }
  }

  get #place(): string {
    return `Slot ${this.#login.slot}`;
  }

  get #ivBits(): number {
    return this.#policy === 'random' ? 8 * gcmIv_bytes : 0;
  }

  /** The key under a handle that the token knows; a stale one is looked up again when this is repeated. */
  async #withKey<T>(session: Handle, work: (key: Handle) => Promise<T>): Promise<T> {
    const key = this.#key.handle ?? (await this.#found(session));
    try {
      return await work(key);
    } catch (thrown) {
      const stale = thrown instanceof CkrError && this.#login.device.ckrClass(thrown.ckr) === 'stale-handle';
      if (stale) this.#key.forget(key);
      throw thrown;
    }
  }

  /** Looked up again, and proven to be the same key by what was sealed when the slot was opened. */
  async #found(session: Handle): Promise<Handle> {
    const { epoch } = this.#login;
    const found = this.#key.lookUp();
    if (!found) throw this.#unsuitable(`no longer holds the key "${this.keyName}"`);
    try {
      await this.#openProbe(session, found);
    } catch (thrown) {
      if (!(thrown instanceof UnsealError)) throw thrown;
      throw this.#unsuitable(`holds another key "${this.keyName}" than when the slot was opened`);
    }
    this.#key.adopt(found, epoch);
    return found;
  }

  async #openProbe(session: Handle, key: Handle): Promise<void> {
    const probe = this.#probe;
    if (!probe) return; // it is being sealed right now
    using _seed = await this.#decrypt(session, key, probe, probeAad);
  }

  /** Whether the key opens what was sealed when the slot was opened: then it is the same, and the token works. */
  async #opensProbe(): Promise<boolean> {
    try {
      await this.#login.pool.use(session => this.#withKey(session, key => this.#openProbe(session, key)));
      return true;
    } catch (thrown) {
      if (thrown instanceof CkrError) return false;
      throw thrown;
    }
  }

  /** The outcome of a call for whoever waits for it, no longer than they want, nor than the login lasts. */
  #bounded<T>(call: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    const bounded = this.#login.untilGivenUp(call);
    return signal ? untilAborted(bounded, signal) : bounded;
  }

  #unsuitable(what: string): KeyslotError {
    return new KeyslotError('TOKEN_UNSUITABLE', `The token of slot ${this.#login.slot} ${what}.`);
  }
}

// A device that answers CKR_GENERAL_ERROR may have failed once, or refuse a changed file for good.
const attempts_max = 3;

const probeAad = Buffer.from('keyslot-probe\n1');

const ignored = () => undefined;

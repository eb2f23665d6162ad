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
 * Seals and opens seeds with the wrapping key inside the token, on the sessions of the pool. A call that finds
 * its session ended or its key handle stale is repeated once.
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
    const sealing = this.#twice(session => this.#encrypt(session, plain, aad), signal).finally(() =>
      plain.fill(0),
    );
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
    try {
      return await this.#twice(session => this.#decrypt(session, this.#key.handle, sealed, aad), signal);
    } catch (thrown) {
      if (!(thrown instanceof UnsealError)) throw thrown;
      if (!thrown.certain && !(await this.#opensProbe())) throw this.#login.device.error(thrown, what);
      const detail = `${what} does not open with key "${this.keyName}" of the token of slot ${this.#login.slot}.`;
      throw new KeyslotError('KEY_FILE_TAMPERED', detail, { cause: thrown });
    }
  }

  async #encrypt(session: Handle, plain: Buffer, aad: Buffer): Promise<Sealed> {
    const iv = Buffer.alloc(gcmIv_bytes); // of its own for every attempt: an IV is never used twice
    if (this.#policy === 'random') randomFillSync(iv);
    const gcm = { iv, ivBits: this.#ivBits, aad };
    const data = await this.#login.cryptoki.encrypt(session, gcm, this.#key.handle, plain);
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

  get #ivBits(): number {
    return this.#policy === 'random' ? 8 * gcmIv_bytes : 0;
  }

  /** Sealing twice makes two different ciphertexts, of which one is forgotten: repeating does no harm. */
  async #twice<T>(work: (session: Handle) => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    try {
      return await this.#login.pool.use(work, signal);
    } catch (thrown) {
      if (!(await this.#repeatable(thrown))) throw this.#told(thrown);
    }
    try {
      return await this.#login.pool.use(work, signal);
    } catch (thrown) {
      throw this.#told(thrown);
    }
  }

  async #repeatable(thrown: unknown): Promise<boolean> {
    if (!(thrown instanceof CkrError)) return false;
    const kind = this.#login.device.ckrClass(thrown.ckr);
    if (kind !== 'stale-handle') return kind === 'session';
    const found = this.#key.lookUp();
    if (!found) return false;
    if (await this.#opensProbe(found)) {
      this.#key.adopt(found);
      return true;
    }
    throw this.#unsuitable(`holds another key "${this.keyName}" than when the slot was opened`);
  }

  /** An `UnsealError` stays what it is: what it means is found out by whoever knows the file. */
  #told(thrown: unknown): unknown {
    if (thrown instanceof UnsealError) return thrown;
    if (thrown instanceof CkrError && this.#login.device.ckrClass(thrown.ckr) === 'stale-handle') {
      return this.#unsuitable(`no longer holds the key "${this.keyName}"`);
    }
    return this.#login.device.error(thrown, `Slot ${this.#login.slot}`);
  }

  /** Whether the key opens what was sealed when the slot was opened: then it is the same, and the token works. */
  async #opensProbe(key: Handle = this.#key.handle): Promise<boolean> {
    const probe = this.#probe;
    if (!probe) return true; // it is being sealed right now
    try {
      using _seed = await this.#login.pool.use(session => this.#decrypt(session, key, probe, probeAad));
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

const probeAad = Buffer.from('keyslot-probe\n1');

const ignored = () => undefined;

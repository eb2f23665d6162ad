import { setTimeout as delay } from 'node:timers/promises';
import type { Handle } from 'pkcs11js';
import type { SessionFigures } from '../../custody/engine.ts';
import type { SlotId } from '../../custody/ids.ts';
import { type ErrorCode, isKeyslotError, KeyslotError, toKeyslotError } from '../../foundation/errors.ts';
import { jittered } from '../../foundation/jitter.ts';
import { limits } from '../../foundation/limits.ts';
import type { Log } from '../../foundation/log.ts';
import type { Secret } from '../../foundation/secret.ts';
import type { CkrClass } from './ckr.ts';
import {
  CKF_RW_SESSION,
  CKF_SERIAL_SESSION,
  CKS_RO_USER_FUNCTIONS,
  CKS_RW_USER_FUNCTIONS,
} from './constants.ts';
import { CkrError, type Cryptoki, type Template, UnsealError } from './cryptoki.ts';
import type { Device } from './device.ts';
import type { Pkcs11Module, Tenant, TokenView } from './module.ts';
import { abortedError, closedError, SessionPool, untilAborted } from './pool.ts';
import { type Patience, Recovery } from './recovery.ts';
import type { TokenAccess } from './token-access.ts';

/**
 * A token that took its PIN: the anchor session, which holds the login, and the pool of sessions that work.
 * Finding, making and removing objects goes through the anchor and is synchronous, so it never races itself.
 *
 * What the token loses is brought back in this order, as far up as is needed: a new session, a look at the
 * login, a new login with the PIN that opened the slot, the module initialised anew. Handles mean something
 * during one `epoch` only, which ends with every new login.
 */
export class TokenLogin implements Tenant {
  readonly slot: SlotId;
  readonly cryptoki: Cryptoki;
  readonly device: Device;
  readonly pool: SessionPool;
  readonly recovery: Recovery;
  readonly #module: Pkcs11Module;
  readonly #access: TokenAccess;
  readonly #patience: Patience;
  readonly #log: Log;
  readonly #pin: Secret;
  readonly #whenClosed: () => void;
  readonly #leave: () => void;
  readonly #gaveUp = new AbortController();
  #token: TokenView;
  #anchor: Handle | undefined;
  #epoch = 0;
  // A token that denies the login which it shows, and an anchor that is left in an operation.
  #doubted = false;
  #spoiled = false;
  #proof: (session: Handle) => Promise<void> = async () => undefined;
  #closing: Promise<boolean> | undefined;

  /** The PIN is this one's from here on: it is kept for the next login, and wiped at the end. */
  constructor(options: {
    slot: SlotId;
    module: Pkcs11Module;
    cryptoki?: Cryptoki;
    device: Device;
    access: TokenAccess;
    patience: Patience;
    log: Log;
    token: TokenView;
    anchor: Handle;
    pin: Secret;
    whenClosed(): void;
  }) {
    this.slot = options.slot;
    this.cryptoki = options.cryptoki ?? options.module.cryptoki;
    this.device = options.device;
    this.#module = options.module;
    this.#access = options.access;
    this.#patience = options.patience;
    this.#log = options.log;
    this.#token = options.token;
    this.#anchor = options.anchor;
    this.#pin = options.pin;
    this.#whenClosed = options.whenClosed;
    this.pool = this.#newPool();
    this.recovery = new Recovery({
      slot: this.slot,
      pool: this.pool,
      patience: this.#patience,
      log: this.#log,
      mend: attempt => this.#mend(attempt),
      beyondHelp: () => this.#module.hung.size > 0,
    });
    this.#module.tokensInUse.add(this.#token.serial);
    this.#leave = this.#module.enter(this);
  }

  get closing(): boolean {
    return this.#closing !== undefined;
  }

  /** A handle that was found in another epoch means nothing, or another object. */
  get epoch(): number {
    return this.#epoch;
  }

  get anchor(): Handle {
    if (this.#anchor) return this.#anchor;
    throw loggedOut();
  }

  /** How it is tried after an outage that the token works: fails when it does not. */
  proveWith(proof: (session: Handle) => Promise<void>): void {
    this.#proof = proof;
  }

  /**
   * Work on a session of the pool that may be done twice. A failure that passes, or that can be mended, is
   * followed by another attempt, within `limits.request_ms`; the last one is told as an error of the table.
   */
  async repeated<T>(place: string, work: (session: Handle) => Promise<T>, signal?: AbortSignal): Promise<T> {
    let failed: Failures | undefined;
    for (;;) {
      try {
        return await this.pool.use(work, signal);
      } catch (thrown) {
        failed ??= new Failures();
        await this.#overcome(thrown, failed, place, signal);
      }
    }
  }

  /** The same for looking up and other work on the anchor that may be done twice. */
  async steadily<T>(work: () => T): Promise<T> {
    const failed = new Failures();
    for (;;) {
      await this.ready();
      try {
        return work();
      } catch (thrown) {
        this.#noticedOnAnchor(thrown);
        await this.#overcome(thrown, failed, `Slot ${this.slot}`, undefined);
      }
    }
  }

  /** Waits for the end of an outage, as far as requests do. SESSION_CLOSED, TOKEN_UNAVAILABLE. */
  async ready(): Promise<void> {
    if (this.closing) throw closedError();
    await this.recovery.over();
    if (this.closing) throw closedError();
  }

  /** Synchronous work on the anchor, done once, its failures as errors of the table. SESSION_CLOSED. */
  work<T>(work: () => T): T {
    if (this.closing) throw closedError();
    try {
      return work();
    } catch (thrown) {
      if (thrown instanceof CkrError) this.recovery.met(thrown.name);
      this.#noticedOnAnchor(thrown);
      throw this.device.error(thrown, `Slot ${this.slot}`);
    }
  }

  /** A failure that means a lost device although its code could mean less. */
  lost(failure: CkrError): void {
    const error = toKeyslotError(this.device.error(failure, `Slot ${this.slot}`));
    this.recovery.begin(error, this.device.ckrClass(failure.ckr));
  }

  /** Whether a failure leaves open if the token did what it was asked: then it has to be looked up. */
  isOpen(thrown: unknown): boolean {
    const cause = isKeyslotError(thrown) ? thrown.cause : thrown;
    return cause instanceof CkrError && repeatable.has(this.device.ckrClass(cause.ckr));
  }

  find(search: Template): Handle[] {
    return this.cryptoki.findObjects(this.anchor, search);
  }

  attribute(object: Handle, type: number): Buffer | undefined {
    return this.cryptoki.attribute(this.anchor, object, type);
  }

  /** Before it is believed that an object is not there: a token that is logged out shows no private ones. */
  refuseLoggedOut(): void {
    if (!this.#loggedIn()) throw loggedOut();
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

  get figures(): SessionFigures {
    return { ...this.pool.figures, ...this.recovery.figures };
  }

  get serving(): boolean {
    return this.recovery.health.state === 'serving';
  }

  get idle(): boolean {
    return this.pool.busy === 0;
  }

  suspend(): () => void {
    return this.pool.pause();
  }

  settled(bound_ms: number): Promise<boolean> {
    return this.pool.settled(bound_ms);
  }

  voided(): void {
    this.#epoch += 1;
    this.#anchor = undefined;
    this.pool.forget(false);
    this.recovery.begin(
      new KeyslotError('TOKEN_UNAVAILABLE', `The module of slot ${this.slot} is being initialised anew.`),
      'renewed',
    );
    this.recovery.wake();
  }

  /** Returns when the work may be tried again; the failure as an error of the table when it may not. */
  async #overcome(
    thrown: unknown,
    failed: Failures,
    place: string,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    if (!(thrown instanceof CkrError) || thrown instanceof UnsealError) throw thrown;
    this.recovery.met(thrown.name);
    this.#noticed(thrown);
    const kind = this.device.ckrClass(thrown.ckr);
    const left = failed.count(kind) && repeatable.has(kind) && !this.closing;
    if (!left || signal?.aborted) throw this.#told(thrown, place, failed);
    // What was brought back at once is tried at once; a second failure gets its time.
    if (kind === 'transient' || failed.total > 1) await this.#backOff(failed.total, signal);
  }

  /** Begins to climb when the failure is one that no other session helps against. */
  #noticed(failure: CkrError): void {
    const kind = this.device.ckrClass(failure.ckr);
    const lost =
      kind === 'device' ||
      kind === 'login' ||
      ((kind === 'session' || kind === 'stale-handle') && !this.#loggedIn());
    if (lost) this.lost(failure);
  }

  /** An anchor that is in the middle of something stays there, and is replaced. */
  #noticedOnAnchor(thrown: unknown): void {
    if (!(thrown instanceof CkrError)) return;
    if (this.device.ckrClass(thrown.ckr) === 'session') this.#spoiled = true;
    this.#noticed(thrown);
  }

  #told(thrown: CkrError, place: string, failed: Failures): unknown {
    if (this.device.ckrClass(thrown.ckr) !== 'stale-handle' || failed.total === 1) {
      return this.device.error(thrown, place);
    }
    // It was found again each time, so it is not unknown.
    return new KeyslotError('TOKEN_ERROR', `${place}: the token does not take the handles that it gives.`, {
      cause: thrown,
    });
  }

  async #backOff(attempt: number, signal: AbortSignal | undefined): Promise<void> {
    const bound_ms = this.#patience.pause_ms_min * 2 ** (attempt - 1);
    try {
      await delay(jittered(bound_ms), undefined, { ...(signal ? { signal } : {}) });
    } catch (thrown) {
      throw signal?.aborted ? abortedError() : thrown;
    }
  }

  /** One climb, from looking to a new login, and from there to a module that is initialised anew. */
  async #mend(attempt: number): Promise<void> {
    // What runs comes back first, so that it does not fail in what follows; what hangs is not waited for.
    await this.pool.settled(Math.min(this.#patience.settle_ms, brief_ms));
    try {
      await this.#reconnect();
    } catch (thrown) {
      const told = this.device.error(thrown, `Slot ${this.slot}`);
      if (!this.#wantsRenewal(told, attempt)) throw told;
      this.#log.warn({ slot: this.slot, err: told }, 'the module is initialised anew');
      if (!(await this.#module.renew(this.#patience.settle_ms))) throw told;
      try {
        await this.#reconnect();
      } catch (again) {
        throw this.device.error(again, `Slot ${this.slot}`);
      }
    }
  }

  /** Logged in, and a signature or a seed that proves it. */
  async #reconnect(): Promise<void> {
    if (this.closing) throw closedError();
    if (this.pool.exhausted) throw givenUp(this.slot);
    const token = this.#access.token();
    if (!this.#loggedIn()) this.#logInAgain(token);
    const epoch = this.#epoch;
    try {
      await this.pool.useFresh(session => this.#proof(session));
    } catch (thrown) {
      if (thrown instanceof CkrError && this.device.ckrClass(thrown.ckr) === 'login') this.#doubted = true;
      throw thrown;
    }
    if (epoch !== this.#epoch) throw givenUp(this.slot);
  }

  /** One C_Login, after a look at the flags: PIN_REFUSED, PIN_LOCKED and PIN_LAST_TRY end the recovery. */
  #logInAgain(token: TokenView): void {
    this.#access.refuseUnsuitable(token, this.#pin);
    this.pool.forget(true);
    const before = this.#anchor;
    this.#anchor = undefined;
    const anchor = this.#access.openAnchor(token);
    // Not when the module has given the number away again.
    if (before && !before.equals(anchor)) this.#access.closeQuietly(before);
    this.#access.logIn(anchor, token, this.#pin, this.#doubted);
    this.#doubted = false;
    this.#spoiled = false;
    this.#anchor = anchor;
    this.#epoch += 1;
    this.#module.tokensInUse.delete(this.#token.serial);
    this.#module.tokensInUse.add(token.serial);
    this.#token = token;
  }

  /** Where others work with the module, looking again comes first, and they are not disturbed often. */
  #wantsRenewal(told: unknown, attempt: number): boolean {
    if (!isKeyslotError(told) || !renewing.has(told.code) || this.closing) return false;
    if (!this.#module.disturbs(this)) return true;
    return attempt >= 2 && this.#module.sinceRenewal_ms >= this.#patience.disturb_ms;
  }

  #loggedIn(): boolean {
    if (!this.#anchor || this.#doubted || this.#spoiled) return false;
    try {
      return userStates.has(this.cryptoki.sessionState(this.#anchor));
    } catch (thrown) {
      if (thrown instanceof CkrError) return false;
      throw thrown;
    }
  }

  #newPool(): SessionPool {
    const mode = this.device.sessionMode === 'read-write' ? CKF_RW_SESSION : 0;
    return new SessionPool({
      size: this.device.sessions,
      queue_max: limits.slotQueue_items_max,
      open: () => this.cryptoki.openSession(this.#token.slotHandle, CKF_SERIAL_SESSION | mode),
      discard: session => this.#access.closeQuietly(session),
      call_ms: this.#patience.call_ms,
      hung: this.#module.hung,
      whenHung: () => this.#callHung(),
      isFull: thrown => thrown instanceof CkrError && this.device.ckrClass(thrown.ckr) === 'capacity',
    });
  }

  #callHung(): void {
    this.#log.error({ slot: this.slot, hung: this.pool.writtenOff }, 'a call to the token has not come back');
    if (!this.pool.exhausted) return;
    this.recovery.begin(givenUp(this.slot), 'hung');
    this.recovery.giveUpWaiting();
  }

  async #close(): Promise<boolean> {
    this.recovery.end();
    const settled = await this.pool.drain(limits.drain_ms);
    if (settled) this.#logOut();
    this.#leave();
    this.#module.tokensInUse.delete(this.#token.serial);
    this.#pin[Symbol.dispose]();
    this.#gaveUp.abort();
    this.#whenClosed();
    return settled;
  }

  #logOut(): void {
    for (const session of this.pool.takeAll()) this.#access.closeQuietly(session);
    if (!this.#anchor) return;
    try {
      this.cryptoki.logout(this.#anchor);
    } catch (thrown) {
      // A device that has gone has ended the login itself; anything else is a defect.
      if (!(thrown instanceof CkrError)) throw thrown;
    }
    this.#access.closeQuietly(this.#anchor);
  }
}

/** What one request has met so far. */
class Failures {
  total = 0;
  #transient = 0;
  #since_ms: number | undefined;

  /** False when it was enough. */
  count(kind: CkrClass): boolean {
    this.#since_ms ??= performance.now();
    this.total += 1;
    if (kind === 'transient') this.#transient += 1;
    return (
      this.total < attempts_max &&
      this.#transient <= transient_max &&
      performance.now() - this.#since_ms < limits.request_ms
    );
  }
}

const attempts_max = 8;
const transient_max = 3;

// How long a climb waits for what runs before it begins.
const brief_ms = 250;

const repeatable: ReadonlySet<CkrClass> = new Set([
  'transient',
  'session',
  'login',
  'stale-handle',
  'device',
]);

const renewing: ReadonlySet<ErrorCode> = new Set(['TOKEN_NOT_FOUND', 'TOKEN_UNAVAILABLE', 'MODULE_UNUSABLE']);

const userStates: ReadonlySet<number> = new Set([CKS_RO_USER_FUNCTIONS, CKS_RW_USER_FUNCTIONS]);

const loggedOut = () => new CkrError(0x101, 'CKR_USER_NOT_LOGGED_IN');

const givenUp = (slot: SlotId) =>
  new KeyslotError('TOKEN_UNAVAILABLE', `Slot ${slot}: a call to the token has not come back.`);

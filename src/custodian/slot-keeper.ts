import { isDeepStrictEqual } from 'node:util';
import { canaryKey } from '../custody/canary-key.ts';
import {
  type CustodyLabel,
  queues,
  recovers,
  type Session,
  type SessionHealth,
  type Signer,
  type Slot,
  type SlotDescription,
} from '../custody/engine.ts';
import type { KeyId, Signature, SlotId } from '../custody/ids.ts';
import { encodeBase58 } from '../foundation/base58.ts';
import type { Clock } from '../foundation/clock.ts';
import { createVerifier, type Verifier } from '../foundation/ed25519.ts';
import { type ErrorCode, isKeyslotError, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { Log } from '../foundation/log.ts';
import type { Secret } from '../foundation/secret.ts';
import type { KeyRecord, KeyRegistry } from '../store/key-registry.ts';
import type { Latches } from '../store/latches.ts';
import type { MigrationsJournal } from '../store/migrations-journal.ts';
import type { AccessMode, CanaryView, SlotState, SlotView, TrialView } from '../wire/views.ts';
import { Canary, type CanaryWorld } from './canary.ts';
import { Crowd } from './crowd.ts';
import { KeyUse } from './key-use.ts';
import type { PinGuard } from './pin-guard.ts';
import {
  type Copy,
  type Findings,
  isHarmless,
  Reconciliation,
  samePublicKey,
  shown,
} from './reconciliation.ts';

/**
 * One configured slot and its state: `locked → open ⇄ degraded → failed`, and `latched` once its token has
 * refused a PIN. The keeper alone decides when a token hears a PIN: one opening at a time, one attempt each.
 *
 * A session that finds its lost device again by itself stays open meanwhile: `degraded` while requests wait for the
 * device, `failed` while they are turned away, and what it was before when the device is back.
 */
export class SlotKeeper {
  readonly id: SlotId;
  #setting: SlotSetting;
  readonly #world: KeeperWorld;
  readonly #use = new KeyUse();
  readonly #crowd: Crowd;
  readonly #reconciliation: Reconciliation;
  readonly #listeners = new Set<(state: SlotState) => void>();
  readonly #watchers = new Set<() => void>();
  #description: SlotDescription;
  #state: SlotState = 'locked';
  #reason: Reason | undefined;
  #since: Date;
  #findings: Findings = [];
  #opened: Opened | undefined;
  #opening: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  #latching: Promise<void> | undefined;

  private constructor(setting: SlotSetting, description: SlotDescription, world: KeeperWorld) {
    this.id = setting.slot.id;
    this.#setting = setting;
    this.#description = description;
    this.#world = world;
    this.#since = world.clock.utc();
    this.#crowd = new Crowd(world.clock);
    this.#reconciliation = new Reconciliation(this.id, world);
  }

  /**
   * Describes the slot, which proves its settings. One that cannot be described is refused as `Slot.describe`
   * fails, or, where the setting has a description to fall back on, begins as failed and harms no other slot.
   */
  static async create(setting: SlotSetting, world: KeeperWorld): Promise<SlotKeeper> {
    try {
      return new SlotKeeper(setting, await setting.slot.describe(), world);
    } catch (thrown) {
      if (!setting.fallback) throw thrown;
      const keeper = new SlotKeeper(setting, setting.fallback, world);
      keeper.#failed(thrown);
      return keeper;
    }
  }

  get state(): SlotState {
    return this.#state;
  }

  /** Why the slot is not what it should be; nothing for one that is open, or locked. */
  get reason(): { readonly code: ErrorCode; readonly detail: string } | undefined {
    return this.#reason;
  }

  /** When it got into its present state. */
  get since(): Date {
    return this.#since;
  }

  /** Differences between the registry and the token, as of the last look. */
  get findings(): Findings {
    return this.#findings;
  }

  /** Whether the appliance is not ready without it. */
  get required(): boolean {
    return this.#setting.required ?? true;
  }

  /** How the canary of the open slot is; nothing for a slot that has none, or is not open. */
  get canary(): CanaryView | undefined {
    return this.#opened?.canary?.health;
  }

  /** Whether it is logged in, also while its device is away. */
  get holdsSession(): boolean {
    return this.#opened !== undefined;
  }

  /** Calls the listener at every change of the state, until the returned function is called. */
  onState(listener: (state: SlotState) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Calls the listener whenever `state`, `reason` or `presence` may have changed, until the returned function is. */
  onChange(listener: () => void): () => void {
    this.#watchers.add(listener);
    return () => this.#watchers.delete(listener);
  }

  /** Whether a call made now is answered, waits for a device that was lost a moment ago, or is turned away. */
  get presence(): Presence {
    const session = this.#opened?.session;
    if (!session) return 'away';
    if (!recovers(session) || session.health.state === 'serving') return 'here';
    return session.health.state === 'recovering' ? 'awaited' : 'away';
  }

  /**
   * How long a request that is let in now has to wait, in milliseconds, where that is too long. Requests count, from
   * the moment at which they were let in, and not the items of a batch, of which only a few wait at a time.
   */
  crowded_ms(): number | undefined {
    const session = this.#opened?.session;
    if (!session || !queues(session)) return undefined;
    return this.#crowd.tooLong(this.#use.requests, session.queue);
  }

  /** SLOT_BUSY, before anything is done for the request. */
  refuseCrowd(): void {
    const wait_ms = this.crowded_ms();
    if (wait_ms === undefined) return;
    const detail = `A request to slot ${this.id} would wait for ${Math.round(wait_ms)} ms.`;
    throw new KeyslotError('SLOT_BUSY', detail, { retryAfter_s: Math.ceil(wait_ms / 1_000) });
  }

  /** What signing takes. */
  get access(): AccessMode {
    return this.#setting.access;
  }

  get custody(): CustodyLabel {
    return this.#description.custody;
  }

  get engine(): string {
    return this.#description.engine;
  }

  /** Of the keys of the group's other slots, those that were found here when the slot was last looked into. */
  get copies(): ReadonlyMap<KeyId, Copy> | undefined {
    return this.#reconciliation.copies;
  }

  /** Unattended slots open by themselves; an attended one waits for its operator. */
  get attended(): boolean {
    return this.#setting.readPin === undefined;
  }

  view(): SlotView {
    const { engine, custody, summary, details } = this.#description;
    return {
      id: this.id,
      engine,
      custody,
      state: this.#state,
      ...(this.#reason ? { reason: this.#reason } : {}),
      access: this.access,
      attended: this.attended,
      summary,
      details: { ...details },
      findings: this.#findings,
    };
  }

  /**
   * Opens the slot with the PIN that is given, or else with the one of the configured source. On an open slot
   * the PIN is only compared, and a device that is away is looked for at once. Concurrent openings are one: the
   * later ones compare with the first one's PIN. A latched slot takes no PIN from a caller, but another one of the
   * source; one that comes while the slot is closing waits for the end of that.
   * SLOT_HAS_NO_PIN, SLOT_LATCHED, SLOT_PIN_REQUIRED, SECRET_UNREADABLE, PIN_INCORRECT, and the failures of `Slot.open`.
   */
  async open(given: Secret | undefined, by: string): Promise<void> {
    if (given && this.#setting.hasPin === false) throw this.#pinless();
    while (this.#opening ?? this.#closing) await (this.#opening ?? this.#closing)?.catch(() => undefined);
    if (this.#opened) {
      const { session, pinDigest } = this.#opened;
      if (given) this.#world.pins.compare(by, given, pinDigest);
      if (recovers(session) && session.health.state !== 'serving') await session.lookNow();
      return;
    }
    if (this.#state === 'latched' && (given || this.attended)) throw this.#latchedError();
    if (given) this.#world.pins.admit(by);
    this.#opening = this.#openWith(given, by);
    try {
      await this.#opening;
    } finally {
      this.#opening = undefined;
    }
    await this.#firstProof(); // no part of the opening: a lock does not wait for it
  }

  /** Goes on with other terms; an open slot stays open. Another source of the PIN counts from the next opening on. */
  adjust(terms: SlotTerms): void {
    const { slot, fallback, canary } = this.#setting;
    this.#setting = { slot, ...(fallback ? { fallback } : {}), ...terms };
    const opened = this.#opened;
    if (!opened || isDeepStrictEqual(canary, terms.canary)) return;
    opened.canary?.[Symbol.dispose]();
    opened.canary = this.#canaryOf(opened.session).canary;
    void opened.canary?.try();
  }

  /**
   * Looks whether the registered keys are all there, where the slot is open. A key that is not there as it should be
   * signs no more, from now on. Answers which these are. The failures of the session.
   */
  async recheck(): Promise<readonly KeyId[]> {
    const opened = this.#opened;
    if (!opened) return [];
    const harmful = await this.#lookInto(opened);
    return harmful.map(({ key }) => key as KeyId);
  }

  /** Has the canary sign now. POWER_MISSING for a slot without one, SLOT_LOCKED and its kin. */
  try(): Promise<TrialView> {
    const { canary } = this.#openedOrThrow();
    if (!canary) throw new KeyslotError('POWER_MISSING', `Slot ${this.id} has no canary.`);
    return canary.try();
  }

  /** Ends the login. What is signing finishes first; the slot refuses new work at once. */
  async lock(): Promise<void> {
    await this.#opening?.catch(() => undefined);
    await this.#latching;
    await this.#close('locked', undefined);
  }

  /** An operator says that the refused PIN may be tried again. Costs no attempt by itself. */
  clearLatch(): void {
    this.#world.latches.clear(this.id);
    if (this.#state === 'latched') this.#enter('locked', undefined);
  }

  /** Compares a caller's PIN in memory. SLOT_LOCKED and its kin, PIN_INCORRECT and its limits. */
  comparePin(pin: Secret, by: string): void {
    if (this.#setting.hasPin === false) throw this.#pinless();
    this.#world.pins.compare(by, pin, this.#openedOrThrow().pinDigest);
  }

  session(): Session {
    return this.#openedOrThrow().session;
  }

  /**
   * The signer of a registered key, looked up once. KEY_MISMATCH when the token holds another public key than
   * the registry: then nothing is signed at all.
   */
  signer(record: KeyRecord): Promise<BoundSigner> {
    const opened = this.#openedOrThrow();
    const known = opened.signers.get(record.id);
    if (known) return known.catch(ownFailure);
    const bound = this.#bind(opened.session, record);
    opened.signers.set(record.id, bound);
    bound.catch(() => opened.signers.delete(record.id)); // a failed look-up is not remembered
    return bound;
  }

  /** Lends the signer of a registered key for the time of the work. The failures of `signer`. */
  lend<T>(record: KeyRecord, work: (key: BoundSigner) => Promise<T>): Promise<T> {
    return this.using(record.id, async () => work(await this.signer(record)));
  }

  /** Work for which a key of this slot must stay where it is, wherever its signatures are made. */
  using<T>(key: KeyId, work: () => Promise<T>): Promise<T> {
    return this.#use.during(key, work);
  }

  /** Waits until nobody signs with a key of this slot any more, which ends once the key is registered elsewhere. */
  async unused(key: KeyId): Promise<void> {
    if (await this.#use.ended(key, limits.drain_ms)) return;
    throw new KeyslotError('SLOT_BUSY', `Slot ${this.id} is still signing with ${key}.`, { retryAfter_s: 5 });
  }

  /** The key was moved, or its copy removed: what was looked up of it before is not used again. */
  forgetSigner(key: KeyId): void {
    this.#opened?.signers.delete(key);
  }

  /** What a migration left of a key in this slot, or nothing any more. */
  noteCopy(key: KeyId, kept: boolean): void {
    const others = this.#findings.filter(finding => finding.key !== key);
    this.#findings = shown([...others, ...(kept ? [{ key, problem: 'kept-copy' as const }] : [])]);
  }

  /** Work in this slot: a token that turns out to have gone takes the slot out of service. */
  async watched<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (thrown) {
      const error = toKeyslotError(thrown);
      this.noticed(error);
      throw error;
    }
  }

  /**
   * A failure below, told by whoever met it: a token that has gone takes its slot out of service, unless its session
   * knows better.
   */
  noticed(error: KeyslotError): void {
    if (error.code !== 'TOKEN_UNAVAILABLE' || !this.#opened || recovers(this.#opened.session)) return;
    this.#world.log.error({ slot: this.id, err: error }, 'the token is gone; the slot has failed');
    this.#closeSoon('failed', reasonOf(error));
  }

  async #openWith(given: Secret | undefined, by: string): Promise<void> {
    using pin = given?.copy() ?? (await this.#configuredPin());
    if (await this.#world.latches.holds(this.id, pin)) {
      this.#enter('latched', latchReason);
      throw this.#latchedError();
    }
    let session: Session;
    try {
      session = await this.#setting.slot.open(pin);
    } catch (thrown) {
      throw await this.#refused(thrown, pin, given && by);
    }
    await this.#enterOpen(session, pin);
    if (given) this.#world.pins.succeeded(by);
  }

  async #enterOpen(session: Session, pin: Secret): Promise<void> {
    try {
      this.#world.latches.clear(this.id);
      this.#description = await this.#setting.slot.describe();
      this.#findings = shown(await this.#reconciliation.atOpening(session));
    } catch (thrown) {
      await session[Symbol.asyncDispose]();
      throw this.#failed(thrown);
    }
    const opened: Opened = {
      session,
      pinDigest: this.#world.pins.digest(pin),
      signers: new Map(),
      ...this.#canaryOf(session),
      ...(recovers(session)
        ? { pin: pin.copy(), unfollow: session.onHealth(health => this.#follow(opened, health)) }
        : {}),
    };
    this.#opened = opened;
    this.#enter(this.#standing(), undefined);
    if (recovers(session) && session.health.state !== 'serving') this.#follow(opened, session.health);
  }

  async #firstProof(): Promise<void> {
    await this.#opened?.canary?.try();
  }

  #canaryOf(session: Session): { canary?: Canary | undefined } {
    const { canary: setting } = this.#setting;
    if (!setting) return {};
    const { clock, log, registry, canaryMade: recorded } = this.#world;
    const registered = () => registry.get(canaryKey) !== undefined;
    const noticed = (error: KeyslotError) => this.noticed(error);
    return {
      canary: new Canary(
        session,
        { ...setting, slot: this.id },
        { clock, log, registered, recorded, noticed },
      ),
    };
  }

  /** What becomes of the slot as its session loses its device and finds it again. */
  #follow(opened: Opened, health: SessionHealth): void {
    if (opened !== this.#opened) return;
    switch (health.state) {
      case 'serving':
        this.#enter(this.#standing(), undefined);
        this.#lookAgain(opened);
        void opened.canary?.try();
        break;
      case 'recovering':
        this.#enter('degraded', reasonOf(health.error));
        break;
      case 'lost':
        this.#enter('failed', reasonOf(health.error));
        break;
      case 'refused':
        this.#refusedMeanwhile(opened, health.error);
        break;
      case 'hung':
        this.#enter('failed', reasonOf(health.error));
        this.#world.beyondHelp(this.id, health.error);
        break;
    }
  }

  /** The token was away: the keys that are registered here are looked for again, behind the requests. */
  #lookAgain(opened: Opened): void {
    this.#lookInto(opened).catch(thrown => {
      const error = toKeyslotError(thrown); // the next outage, most likely, which brings the next look
      this.#world.log.warn({ slot: this.id, err: error }, 'the keys of a slot could not be looked for');
    });
  }

  async #lookInto(opened: Opened): Promise<Findings> {
    const harmful = await this.#reconciliation.ofRegistered(opened.session);
    if (opened !== this.#opened) return [];
    for (const { key } of harmful) opened.signers.delete(key as KeyId);
    this.#findings = shown([...harmful, ...this.#findings.filter(isHarmless)]);
    if (this.#state === 'open' || this.#reason === undefined) this.#enter(this.#standing(), undefined);
    return harmful;
  }

  /** The PIN that opened the slot is refused now, so it is not spent again, here or by a successor. */
  #refusedMeanwhile({ pin }: Opened, error: KeyslotError): void {
    if (error.code === 'PIN_REFUSED' && pin) {
      this.#enter('latched', latchReason); // at once: it holds even when it cannot be written down
      this.#latching = this.#world.latches.set(this.id, pin, this.#world.clock.utc()).catch(thrown => {
        this.#world.log.error({ slot: this.id, err: thrown }, 'a refused PIN could not be written down');
      });
    }
    this.#closeSoon('failed', reasonOf(error));
  }

  /** How an open slot is when its device is there. */
  #standing(): SlotState {
    return this.#findings.every(isHarmless) ? 'open' : 'degraded';
  }

  /** A PIN that a caller brought counts against that caller; the one of the source is nobody's guess. */
  async #refused(thrown: unknown, pin: Secret, by: string | undefined): Promise<KeyslotError> {
    const error = toKeyslotError(thrown);
    if (error.code !== 'PIN_REFUSED') return this.#failed(error);
    if (by !== undefined) this.#world.pins.failed(by);
    this.#enter('latched', latchReason); // at once: it holds even when it cannot be written down
    await this.#world.latches.set(this.id, pin, this.#world.clock.utc());
    return error;
  }

  #failed(thrown: unknown): KeyslotError {
    const error = toKeyslotError(thrown);
    this.#enter('failed', reasonOf(error));
    return error;
  }

  async #configuredPin(): Promise<Secret> {
    if (this.#setting.readPin) {
      return this.#setting.readPin().catch(thrown => {
        throw this.#failed(thrown);
      });
    }
    throw new KeyslotError(
      'SLOT_PIN_REQUIRED',
      `Slot ${this.id} is attended: its PIN comes with the request.`,
    );
  }

  async #bind(session: Session, record: KeyRecord): Promise<BoundSigner> {
    const failure = (thrown: unknown) => this.#explained(thrown, record.id);
    const signer = await session.signer(record.id).catch(thrown => {
      throw failure(thrown);
    });
    if (!samePublicKey(record, signer.key)) {
      throw new KeyslotError('KEY_MISMATCH', `Slot ${this.id} holds another public key for ${record.id}.`);
    }
    const { publicKey } = signer.key;
    const { engine } = this.#description;
    const address = encodeBase58(publicKey);
    const canary = this.#opened?.session === session ? this.#opened.canary : undefined;
    const checked = canary && ((verified: boolean) => verified && canary.verified());
    const sign = async (message: Uint8Array, signal?: AbortSignal): Promise<Made> => {
      try {
        return { signature: await signer.sign(message, signal), slot: this.id, checked };
      } catch (thrown) {
        throw failure(thrown);
      }
    };
    return { signer, slot: this.id, engine, verifier: createVerifier(publicKey), address, sign };
  }

  /** A session that was ended under a request that had come in already is a slot that was locked, or has failed. */
  #explained(thrown: unknown, key: KeyId): unknown {
    if (!isKeyslotError(thrown) || thrown.code !== 'SESSION_CLOSED') return missingKey(thrown, key, this.id);
    if (this.#state === 'failed') return this.#failedError();
    return new KeyslotError('SLOT_LOCKED', `Slot ${this.id} was locked meanwhile.`, { cause: thrown });
  }

  /** Not waited for: whoever met the failure is answered now, the sessions end in their own time. */
  #closeSoon(state: SlotState, reason: Reason): void {
    this.#close(state, reason).catch(thrown => {
      this.#world.log.error({ slot: this.id, err: thrown }, 'the session of a slot did not end in order');
    });
  }

  async #close(state: SlotState, reason: Reason | undefined): Promise<void> {
    const opened = this.#opened;
    this.#opened = undefined;
    if (this.#state !== 'latched') this.#enter(state, reason);
    if (opened) {
      opened.canary?.[Symbol.dispose]();
      opened.unfollow?.();
      const closing = Promise.resolve(opened.session[Symbol.asyncDispose]());
      this.#closing = closing.finally(() => {
        this.#closing = undefined;
        opened.pin?.[Symbol.dispose]();
      });
    }
    await this.#closing;
  }

  #enter(state: SlotState, reason: Reason | undefined): void {
    const from = this.#state;
    this.#state = state;
    this.#reason = reason;
    for (const watcher of this.#watchers) watcher();
    if (state === from) return;
    this.#since = this.#world.clock.utc();
    this.#world.log.info({ slot: this.id, from, to: state, ...reason }, 'the slot changed its state');
    for (const listener of this.#listeners) listener(state);
  }

  #openedOrThrow(): Opened {
    if (this.#opened) return this.#opened;
    if (this.#state === 'latched') throw this.#latchedError();
    if (this.#state === 'failed') throw this.#failedError();
    throw new KeyslotError('SLOT_LOCKED', `Slot ${this.id} is locked.`);
  }

  #failedError(): KeyslotError {
    const detail = `Slot ${this.id} has failed: ${this.#reason?.code}.`;
    return new KeyslotError('SLOT_FAILED', detail, { retryAfter_s: 5 });
  }

  #pinless(): KeyslotError {
    return new KeyslotError('SLOT_HAS_NO_PIN', `Slot ${this.id} has no PIN.`);
  }

  #latchedError(): KeyslotError {
    return new KeyslotError('SLOT_LATCHED', `Slot ${this.id} is latched: its token refused the PIN before.`);
  }
}

/** What the configuration says of a slot, with its engine's slot already made. */
export interface SlotSetting extends SlotTerms {
  readonly slot: Slot;
  /** What is said of the slot while it cannot describe itself; without it such a slot is a failure to start. */
  readonly fallback?: SlotDescription;
}

/** What can change while a slot is open. */
export interface SlotTerms {
  readonly access: AccessMode;
  /** False where credentials of the custodian take the place of a PIN; `readPin` then gives an empty one. */
  readonly hasPin?: boolean;
  /** Reads the PIN from its source, anew each time; absent for an attended slot. SECRET_UNREADABLE. */
  readonly readPin?: () => Promise<Secret>;
  /** Has a key of its own in the slot sign that often; without it the slot has no canary. */
  readonly canary?: { readonly every_ms: number } | undefined;
  /** False for a slot without which the appliance is ready all the same. */
  readonly required?: boolean;
}

export interface KeeperWorld {
  readonly registry: KeyRegistry;
  /** The other slots of the group of each slot that is in one. */
  readonly mates?: ReadonlyMap<SlotId, readonly SlotId[]> | undefined;
  readonly journal: MigrationsJournal;
  readonly latches: Latches;
  readonly pins: PinGuard;
  readonly clock: Clock;
  readonly log: Log;
  /** Has the making of a canary's key written down. */
  readonly canaryMade: CanaryWorld['recorded'];
  /** Calls of the slot's module hang for good: only another process helps. */
  readonly beyondHelp: (slot: SlotId, error: KeyslotError) => void;
}

/** A signer together with what checks its signatures: the registered public key, prepared once. */
export interface BoundSigner {
  readonly signer: Signer;
  readonly slot: SlotId;
  /** The engine's name. */
  readonly engine: string;
  readonly verifier: Verifier;
  /** Base58 of the public key. */
  readonly address: string;
  /**
   * As `Signer.sign`, and says which slot made the signature; a failure is told as what it means to whoever asked:
   * KEY_MISSING, SLOT_LOCKED and SLOT_FAILED say more.
   */
  readonly sign: (message: Uint8Array, signal?: AbortSignal) => Promise<Made>;
}

/** A signature that nobody has verified yet. */
export interface Made {
  readonly signature: Signature;
  readonly slot: SlotId;
  /** Told whether it verified. */
  readonly checked?: ((verified: boolean) => void) | undefined;
}

export type Presence = 'here' | 'awaited' | 'away';

interface Opened {
  readonly session: Session;
  readonly pinDigest: Buffer;
  readonly signers: Map<KeyId, Promise<BoundSigner>>;
  canary?: Canary | undefined;
  /** Of a session that logs in again by itself: what it does so with, and how it is no longer followed. */
  readonly pin?: Secret;
  readonly unfollow?: () => void;
}

interface Reason {
  readonly code: ErrorCode;
  readonly detail: string;
}

const reasonOf = ({ code, message }: KeyslotError): Reason => ({ code, detail: message });

const latchReason = {
  code: 'SLOT_LATCHED',
  detail: 'The token refused the PIN; it is not tried again.',
} as const;

/** One look-up may fail many requests, and the failure of each is written down by itself. */
function ownFailure(thrown: unknown): never {
  if (!isKeyslotError(thrown)) throw thrown;
  const { code, message, retryAfter_s } = thrown;
  throw new KeyslotError(code, message, { cause: thrown, ...(retryAfter_s ? { retryAfter_s } : {}) });
}

/** That a custody knows nothing of a key is the caller's mistake only when the registry does not know it either. */
export function missingKey(thrown: unknown, key: KeyId, slot: SlotId): unknown {
  if (!isKeyslotError(thrown) || thrown.code !== 'KEY_UNKNOWN') return thrown;
  return new KeyslotError('KEY_MISSING', `Slot ${slot} no longer holds the key ${key}.`, { cause: thrown });
}

/** Whether an error of opening a slot is one that a correction of the configuration mends. */
export const isSettingError = (thrown: unknown): boolean =>
  isKeyslotError(thrown) && settingErrors.has(thrown.code);

const settingErrors: ReadonlySet<ErrorCode> = new Set([
  'MODULE_UNUSABLE',
  'TOKEN_NOT_FOUND',
  'TOKEN_AMBIGUOUS',
  'TOKEN_UNSUITABLE',
  'SECRET_UNREADABLE',
  'CONFIG_INVALID',
  'KEY_FILE_UNSAFE',
  'KEY_FILE_FOREIGN',
  'KEY_FILE_MALFORMED',
  'KMS_DENIED',
  'KMS_KEY_UNKNOWN',
  'KMS_KEY_UNSUITABLE',
  'NODE_SECRET_MISSING',
  'SLOT_PIN_REQUIRED',
  'SLOT_OPEN',
  'PIN_REFUSED',
  'PIN_LAST_TRY',
  'PIN_LOCKED',
  'SLOT_LATCHED',
]);

import { randomBytes } from 'node:crypto';
import { canaryKey } from '../custody/canary-key.ts';
import { generates, type KeyInfo, type Session, type Signer } from '../custody/engine.ts';
import type { SlotId } from '../custody/ids.ts';
import { encodeBase58 } from '../foundation/base58.ts';
import type { Clock } from '../foundation/clock.ts';
import { createVerifier, type Verifier } from '../foundation/ed25519.ts';
import { type ErrorCode, isKeyslotError, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { CanaryView, TrialView } from '../wire/views.ts';
import type { Recorder } from './recorder.ts';

/**
 * Shows that an open slot signs: a key of its own there signs a text on an interval and on demand, and what comes
 * back is verified. The key is in no registry, so nobody else can use it. It is made where the slot has none.
 *
 * One attempt at a time, each with a deadline of its own; none of them fails the slot's opening, waits for a lock, or
 * is made while an earlier call has not come back. A caller's signature that verified is as good a proof.
 */
export class Canary implements Disposable {
  readonly #session: Session;
  readonly #setting: CanarySetting;
  readonly #world: CanaryWorld;
  readonly #counts = { signatures: 0, failures: 0, unverified: 0 };
  readonly #ended = new AbortController();
  #key: { readonly signer: Signer; readonly verifier: Verifier } | undefined;
  #running: Promise<TrialView> | undefined;
  #away: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #proven_ms: number | undefined;
  #state: 'signing' | 'failing' | 'unverified' | 'unavailable' = 'signing';
  #lastError: CanaryView['lastError'];

  constructor(session: Session, setting: CanarySetting, world: CanaryWorld) {
    this.#session = session;
    this.#setting = setting;
    this.#world = world;
  }

  /** A signature of a caller was verified. On the path of every signature, so it is one assignment. */
  verified(): void {
    this.#proven_ms = this.#world.clock.monotonic_ms();
  }

  /** Signs now, or joins the attempt that is under way. It does not fail: what failed is in the answer. */
  try(): Promise<TrialView> {
    this.#running ??= this.#attempt().finally(() => {
      this.#running = undefined;
      this.#schedule();
    });
    return this.#running;
  }

  get health(): CanaryView {
    const { every_ms } = this.#setting;
    const age_ms = this.#age_ms();
    const state = this.#standing(age_ms);
    return {
      ok: state === 'proven',
      state,
      every_s: every_ms / 1000,
      ...(age_ms === undefined ? {} : { age_s: Math.round(age_ms / 100) / 10 }),
      ...this.#counts,
      ...(this.#lastError ? { lastError: this.#lastError } : {}),
    };
  }

  /** The session ends: whoever waits for an attempt is answered now. */
  [Symbol.dispose](): void {
    this.#ended.abort();
    clearTimeout(this.#timer);
  }

  #standing(age_ms: number | undefined): CanaryView['state'] {
    if (this.#state === 'unverified' || this.#state === 'unavailable') return this.#state;
    return age_ms !== undefined && age_ms < fresh_intervals * this.#setting.every_ms ? 'proven' : 'unproven';
  }

  #age_ms(): number | undefined {
    return this.#proven_ms === undefined ? undefined : this.#world.clock.monotonic_ms() - this.#proven_ms;
  }

  /** A slot that takes no canary key is asked now and then whether that has changed. */
  #schedule(): void {
    clearTimeout(this.#timer);
    if (this.#ended.signal.aborted) return;
    const pause_ms = this.#setting.every_ms * (this.#state === 'unavailable' ? unavailable_intervals : 1);
    this.#timer = setTimeout(() => void this.try(), pause_ms).unref();
  }

  async #attempt(): Promise<TrialView> {
    const { clock } = this.#world;
    const began_ms = clock.monotonic_ms();
    const at = clock.utc().toISOString();
    const error = await this.#inTime().then(() => undefined, toKeyslotError);
    if (!error) this.#succeeded();
    else if (!this.#ended.signal.aborted) this.#failed(error, at);
    const took_ms = Math.round((clock.monotonic_ms() - began_ms) * 10) / 10;
    if (!error) return { ok: true, took_ms, at };
    return { ok: false, took_ms, at, error: { code: error.code, detail: error.message } };
  }

  /** DEADLINE_EXCEEDED, also while a call that ran into it has not come back; SLOT_LOCKED when the session ends. */
  async #inTime(): Promise<void> {
    if (this.#away) throw this.#overdue('has not come back yet');
    const attempt = new AbortController();
    const limit_ms = Math.min(this.#setting.every_ms, attempt_ms);
    const { promise: stopped, reject } = Promise.withResolvers<never>();
    const stop = (error: KeyslotError) => {
      reject(error);
      attempt.abort();
    };
    const locked = () =>
      stop(new KeyslotError('SLOT_LOCKED', `Slot ${this.#setting.slot} was closed meanwhile.`));
    const timer = setTimeout(() => stop(this.#overdue(`took longer than ${limit_ms} ms`)), limit_ms);
    this.#ended.signal.addEventListener('abort', locked);
    const back = () => {
      this.#away = undefined;
    };
    try {
      if (this.#ended.signal.aborted) locked();
      const work = this.#prove(attempt.signal);
      this.#away = work.then(back, back);
      await Promise.race([stopped, work]);
    } finally {
      clearTimeout(timer);
      this.#ended.signal.removeEventListener('abort', locked);
    }
  }

  async #prove(signal: AbortSignal): Promise<void> {
    const { slot } = this.#setting;
    if (signal.aborted) return;
    this.#key ??= await this.#found();
    if (signal.aborted) return;
    const { signer, verifier } = this.#key;
    const message = canaryMessage(slot, this.#world.clock.utc());
    const signature = await signer.sign(message, signal);
    if (await verifier.verify(message, signature)) return;
    throw new KeyslotError('SIGNATURE_WITHHELD', `The signature that slot ${slot} made does not verify.`);
  }

  async #found(): Promise<{ signer: Signer; verifier: Verifier }> {
    const { slot } = this.#setting;
    if (this.#world.registered()) {
      throw new Unavailable('KEY_EXISTS', `A caller's key is registered as ${canaryKey}.`);
    }
    const signer = await this.#session.signer(canaryKey).catch(async thrown => {
      if (passingLookups.has(toKeyslotError(thrown).code)) throw thrown;
      if (!isCode(thrown, 'KEY_UNKNOWN')) throw unlessPassing(thrown);
      await this.#make();
      return this.#session.signer(canaryKey);
    });
    this.#world.log.info({ slot, key: canaryKey }, 'the canary key is there');
    return { signer, verifier: createVerifier(signer.key.publicKey) };
  }

  /** Another appliance on the same token may have made it in between: then it is that one. */
  async #make(): Promise<void> {
    const session = this.#session;
    if (!generates(session)) {
      throw new Unavailable('POWER_MISSING', `Slot ${this.#setting.slot} makes no keys.`);
    }
    await this.#world
      .recorded(this.#setting.slot, () => session.generate(canaryKey))
      .catch(thrown => {
        if (!isCode(thrown, 'KEY_EXISTS')) throw unlessPassing(thrown);
      });
  }

  #succeeded(): void {
    const { log } = this.#world;
    if (this.#state !== 'signing') log.info({ slot: this.#setting.slot }, 'the canary signs again');
    this.#state = 'signing';
    this.#counts.signatures += 1;
    this.verified();
  }

  #failed(error: KeyslotError, at: string): void {
    const { slot } = this.#setting;
    const { log } = this.#world;
    // A queue full of callers' requests is no failure: they show whether the slot signs.
    if (error.code === 'SLOT_BUSY') return;
    this.#lastError = { code: error.code, at };
    const before = this.#state;
    if (isWrong(error)) {
      this.#state = 'unverified';
      this.#counts.unverified += 1;
      log.error({ slot, err: error }, 'a signature of the canary does not verify: the slot is not ready');
    } else if (error instanceof Unavailable) {
      this.#state = 'unavailable';
      if (before !== this.#state) log.warn({ slot, err: error }, 'the slot has no canary key');
    } else {
      // What did not answer takes back nothing: a wrong signature stays one until a right one follows.
      this.#counts.failures += 1;
      if (before === 'signing') log.warn({ slot, err: error }, 'the canary did not sign');
      if (before !== 'unverified') this.#state = 'failing';
    }
    if (gone.has(error.code)) this.#key = undefined;
    this.#world.noticed(error);
  }

  #overdue(what: string): KeyslotError {
    return new KeyslotError(
      'DEADLINE_EXCEEDED',
      `A call of the canary of slot ${this.#setting.slot} ${what}.`,
    );
  }
}

export interface CanarySetting {
  readonly slot: SlotId;
  readonly every_ms: number;
}

export interface CanaryWorld {
  readonly clock: Clock;
  readonly log: Log;
  /** Whether the reserved id is one of a caller's key, from before it was reserved. */
  registered(): boolean;
  /** Has the making written down, before and after. AUDIT_UNAVAILABLE, AUDIT_FAILED. */
  recorded(slot: SlotId, make: () => Promise<KeyInfo>): Promise<KeyInfo>;
  /** Tells the slot what failed, as a caller's request would. */
  noticed(error: KeyslotError): void;
}

/** Makes the key of a canary, with an intent before it and its result behind it in the audit log. */
export async function recordedMaking(
  recorder: Recorder,
  slot: SlotId,
  make: () => Promise<KeyInfo>,
): Promise<KeyInfo> {
  const about = { actor: 'keyslot', operation: 'make-canary', slot, key: canaryKey };
  const intent = await recorder.intent(about);
  const made = await make().catch(toKeyslotError);
  if (isKeyslotError(made)) {
    await recorder.result(intent, { ...about, outcome: 'failed', code: made.code });
    throw made;
  }
  const detail = { publicKey: encodeBase58(made.publicKey) };
  await recorder.result(intent, { ...about, outcome: 'ok', detail });
  return made;
}

/**
 * What a canary signs: text that says what it is, and no transaction. Read as a message of one, its fourth byte
 * announces more accounts than it has bytes; as one with signatures, its first byte more signatures.
 */
export const canaryMessage = (slot: SlotId, at: Date): Uint8Array => {
  number += 1;
  return Buffer.from(
    `keyslot canary\nslot ${slot}\nboot ${boot}\nat ${at.toISOString()}\nnumber ${number}\n`,
  );
};

/** Of this process: no two canaries ever sign the same text. */
const boot = randomBytes(16).toString('hex');
let number = 0;

/** How old the last proof may be, in intervals. */
const fresh_intervals = 3;
/** How long until a slot that takes no canary key is asked again, in intervals. */
const unavailable_intervals = 10;
const attempt_ms = 5_000;

/** The slot takes no canary key. That says nothing of the keys that it has. */
class Unavailable extends KeyslotError {}

const isCode = (thrown: unknown, code: ErrorCode): boolean => isKeyslotError(thrown) && thrown.code === code;

/** What the device or the appliance will overcome is tried again; anything else means that there is no key. */
function unlessPassing(thrown: unknown): KeyslotError {
  const error = toKeyslotError(thrown);
  if (passing.has(error.code)) return error;
  return new Unavailable(error.code, error.message, { cause: error });
}

const passing: ReadonlySet<ErrorCode> = new Set([
  'TOKEN_UNAVAILABLE',
  'KMS_UNAVAILABLE',
  'KMS_THROTTLED',
  'SLOT_BUSY',
  'SESSION_CLOSED',
  'REQUEST_ABORTED',
  'DEADLINE_EXCEEDED',
  'AUDIT_UNAVAILABLE',
  'AUDIT_FAILED',
  'KEY_UNVERIFIED',
  'INTERNAL',
]);

/** A token that fails while it is searched fails every caller as well; one that refuses to make a key does not. */
const passingLookups: ReadonlySet<ErrorCode> = new Set(['TOKEN_ERROR', 'TOKEN_CAPACITY']);

const isWrong = ({ code }: KeyslotError): boolean =>
  code === 'SIGNATURE_WITHHELD' || code === 'KEY_UNVERIFIED';

/** Failures after which the key is looked for again. */
const gone: ReadonlySet<ErrorCode> = new Set(['KEY_UNKNOWN', 'KEY_MISMATCH']);

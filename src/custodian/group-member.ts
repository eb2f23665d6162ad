import { randomBytes } from 'node:crypto';
import type { KeyId, SlotId } from '../custody/ids.ts';
import type { Clock } from '../foundation/clock.ts';
import { type ErrorCode, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { KeyRecord } from '../store/key-registry.ts';
import { Circuit } from './circuit.ts';
import type { BoundSigner, Made, Presence, SlotKeeper } from './slot-keeper.ts';

/**
 * One slot of a group, and what is known of the copies in it. Before a caller's first signature with a key, the slot
 * signs a challenge with it, anew after each opening, each outage, and each signature that did not verify.
 */
export class GroupMember implements Disposable {
  readonly keeper: SlotKeeper;
  readonly weight: number;
  readonly circuit: Circuit;
  /** What smooth weighting has it owed: the one with the most is next. */
  credit = 0;
  readonly #group: string;
  readonly #clock: Clock;
  readonly #changed: () => void;
  readonly #unfollow: () => void;
  #presence: Presence;
  readonly #attempts = new Set<AbortController>();
  #proofs = new WeakMap<BoundSigner, Promise<void>>();
  /** Keys whose copies have proved themselves since the last look into the slot. */
  readonly #seen = new Set<KeyId>();
  readonly #unfit = new Map<KeyId, { readonly error: KeyslotError; readonly until_ms: number }>();

  constructor(options: MemberOptions) {
    this.keeper = options.keeper;
    this.weight = options.weight;
    this.circuit = new Circuit(options.clock);
    this.#group = options.group;
    this.#clock = options.clock;
    this.#changed = options.changed;
    this.#presence = options.keeper.presence;
    this.#unfollow = this.keeper.onChange(() => this.#look());
  }

  /** Follows its slot no longer. */
  [Symbol.dispose](): void {
    this.#unfollow();
  }

  get slot(): SlotId {
    return this.keeper.id;
  }

  get presence(): Presence {
    return this.#presence;
  }

  /** Why it has no copy of the key that could sign; asked again after a while, because somebody may have made one. */
  unfit(key: KeyId): KeyslotError | undefined {
    const found = this.#unfit.get(key);
    if (found && this.#clock.monotonic_ms() < found.until_ms) return found.error;
    this.#unfit.delete(key);
    return undefined;
  }

  /** What there is under the id of a key, as far as it is known. */
  holds(key: KeyId): 'copy' | 'mismatch' | undefined {
    const code = this.#unfit.get(key)?.error.code;
    if (code) return code === 'KEY_MISMATCH' || code === 'KEY_UNVERIFIED' ? 'mismatch' : undefined;
    return this.#seen.has(key) ? 'copy' : this.keeper.copies?.get(key);
  }

  /** The copy was made, or removed, a moment ago: what was known of it is not believed any more. */
  forget(key: KeyId): void {
    this.#unfit.delete(key);
    this.#seen.delete(key);
    this.keeper.forgetSigner(key);
  }

  /** Has a copy prove itself. The failures of `sign`. */
  async prove(record: KeyRecord): Promise<void> {
    await this.#attempt(record, undefined, async () => undefined);
  }

  /**
   * Signs in this slot, within `limits.groupAttempt_ms` and only while its device is there. What a slot answers with
   * afterwards is dropped. DEADLINE_EXCEEDED, KEY_MISSING, KEY_MISMATCH, KEY_UNVERIFIED, the failures of the slot
   * and its signer; REQUEST_ABORTED when the caller has gone.
   */
  sign(record: KeyRecord, message: Uint8Array, signal: AbortSignal | undefined): Promise<Made> {
    return this.#attempt(record, signal, async (bound, stop) => {
      const { signature, slot, checked } = await bound.sign(message, stop);
      return { signature, slot, checked: verified => this.#checked(verified, checked) };
    });
  }

  async #attempt<T>(
    record: KeyRecord,
    signal: AbortSignal | undefined,
    work: (bound: BoundSigner, stop: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const attempt = new AbortController();
    const gone = () => attempt.abort(new KeyslotError('REQUEST_ABORTED', 'The request was aborted.'));
    if (signal?.aborted) gone();
    signal?.addEventListener('abort', gone);
    const timer = setTimeout(() => attempt.abort(tooSlow(this.slot)), limits.groupAttempt_ms);
    this.#attempts.add(attempt);
    try {
      const working = this.keeper.lend(record, async bound => {
        await this.#proof(bound, record);
        attempt.signal.throwIfAborted();
        return work(bound, attempt.signal);
      });
      return await untilAborted(working, attempt.signal);
    } catch (thrown) {
      const error = toKeyslotError(attempt.signal.aborted ? attempt.signal.reason : thrown);
      if (unfitting.has(error.code)) this.#notFit(record.id, error);
      throw error;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', gone);
      this.#attempts.delete(attempt);
    }
  }

  /** One proof for everybody who waits for it. One that fails is not remembered here. */
  #proof(bound: BoundSigner, record: KeyRecord): Promise<void> {
    const known = this.#proofs.get(bound);
    if (known) return known;
    const proofs = this.#proofs;
    const proof = proveCopy(bound, record, this.#group);
    proofs.set(bound, proof);
    proof.then(
      () => this.#seen.add(record.id),
      thrown => {
        proofs.delete(bound);
        if (toKeyslotError(thrown).code === 'KEY_UNVERIFIED') this.#notVerified('KEY_UNVERIFIED');
      },
    );
    return proof;
  }

  #notFit(key: KeyId, error: KeyslotError): void {
    this.#unfit.set(key, { error, until_ms: this.#clock.monotonic_ms() + recheck_ms });
    this.#seen.delete(key);
  }

  #checked(verified: boolean, told: ((verified: boolean) => void) | undefined): void {
    told?.(verified);
    if (!verified) this.#notVerified('SIGNATURE_WITHHELD');
  }

  #notVerified(code: ErrorCode): void {
    this.circuit.trip(code, 'unverified');
    this.#doubtAll();
    this.#changed();
  }

  /** Every copy proves itself again before it signs for anybody. */
  #doubtAll(): void {
    this.#proofs = new WeakMap();
  }

  #look(): void {
    const { presence } = this.keeper;
    if (presence === this.#presence) return;
    const before = this.#presence;
    this.#presence = presence;
    if (before === 'here') {
      const code = this.keeper.reason?.code ?? 'SLOT_LOCKED';
      this.circuit.trip(code, 'gone');
      this.#doubtAll();
      const error = new KeyslotError(lostAs(code), `Slot ${this.slot} went out of service: ${code}.`);
      for (const attempt of this.#attempts) attempt.abort(error);
    }
    if (presence === 'here') {
      this.circuit.hope();
      this.#unfit.clear();
      this.#seen.clear();
    }
    this.#changed();
  }
}

export interface MemberOptions {
  readonly keeper: SlotKeeper;
  readonly weight: number;
  /** The id of the group. */
  readonly group: string;
  readonly clock: Clock;
  /** Told when the member can be asked now, or cannot any more. */
  readonly changed: () => void;
}

/** What says that this slot has no such copy, and nothing about the slot. */
const unfitting: ReadonlySet<ErrorCode> = new Set([
  'KEY_MISSING',
  'KEY_MISMATCH',
  'KEY_AMBIGUOUS',
  'KEY_UNVERIFIED',
  'KEY_FILE_MALFORMED',
  'KEY_FILE_TAMPERED',
  'KEY_FILE_FOREIGN',
  'KEY_FILE_UNSAFE',
  'SHARES_INSUFFICIENT',
  'KMS_KEY_UNKNOWN',
  'KMS_KEY_UNUSABLE',
  'KMS_KEY_UNSUITABLE',
]);

export const isUnfitting = ({ code }: KeyslotError): boolean => unfitting.has(code);

const recheck_ms = 30_000;

const tooSlow = (slot: SlotId) =>
  new KeyslotError('DEADLINE_EXCEEDED', `Slot ${slot} took longer than ${limits.groupAttempt_ms} ms.`, {
    retryAfter_s: 2,
  });

const lostAs = (code: ErrorCode): ErrorCode => (code === 'SLOT_LOCKED' ? code : 'TOKEN_UNAVAILABLE');

/**
 * Has the slot sign what nobody else would have it sign. That the public key is the registered one was looked at
 * when the signer was bound. KEY_MISMATCH for another custody, KEY_UNVERIFIED, and what the custody answers.
 */
async function proveCopy(bound: BoundSigner, record: KeyRecord, group: string): Promise<void> {
  const { signer, slot, verifier } = bound;
  if (signer.key.custody !== record.custody) {
    throw new KeyslotError('KEY_MISMATCH', `Slot ${slot} keeps ${record.id} as ${signer.key.custody}.`);
  }
  const challenge = freshChallenge(group, slot, record.id);
  const late = AbortSignal.timeout(limits.groupAttempt_ms);
  const { signature } = await untilAborted(bound.sign(challenge, late), late).catch(thrown => {
    throw late.aborted ? tooSlow(slot) : thrown;
  });
  if (await verifier.verify(challenge, signature)) return;
  throw new KeyslotError('KEY_UNVERIFIED', `Slot ${slot} does not sign as the public key of ${record.id}.`);
}

/**
 * Says what it is, and is never a transaction: read as one, its first byte `k` (107) announces more signers than
 * the challenge has room for.
 */
const freshChallenge = (group: string, slot: SlotId, key: KeyId): Buffer =>
  Buffer.concat([Buffer.from(`keyslot group ${group} slot ${slot} key ${key}\n`), randomBytes(32)]);

/** The outcome of the work, or the reason of the abort, whichever is there first. */
export async function untilAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: stopped, reject } = Promise.withResolvers<never>();
  const stop = () => reject(signal.reason);
  if (signal.aborted) stop();
  signal.addEventListener('abort', stop);
  try {
    return await Promise.race([work, stopped]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

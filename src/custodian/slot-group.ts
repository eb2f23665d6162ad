import { destroys } from '../custody/engine.ts';
import type { KeyId, SlotId } from '../custody/ids.ts';
import { encodeBase58 } from '../foundation/base58.ts';
import type { Clock } from '../foundation/clock.ts';
import { createVerifier } from '../foundation/ed25519.ts';
import { type ErrorCode, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { Log } from '../foundation/log.ts';
import type { KeyRecord, KeyRegistry } from '../store/key-registry.ts';
import type { GroupMemberView, GroupState, GroupView } from '../wire/groups.ts';
import type { FreezeBoard } from './freeze-board.ts';
import { GroupMember, isUnfitting, untilAborted } from './group-member.ts';
import type { BoundSigner, Made, SlotKeeper } from './slot-keeper.ts';

/** One group: which member signs, and which one next when that one cannot. */
export class SlotGroup implements Disposable {
  readonly id: string;
  readonly members: readonly GroupMember[];
  readonly #world: GroupsWorld;
  readonly #signers = new WeakMap<KeyRecord, BoundSigner>();
  #change = Promise.withResolvers<void>();
  #waiting = 0;
  #said = { since_ms: 0, count: 0 };

  constructor({ id, members }: GroupSetting, world: GroupsWorld) {
    this.id = id;
    this.#world = world;
    const found = members.map(({ slot, weight }) => {
      const keeper = world.keepers.get(slot);
      if (!keeper) throw invalid(id, `there is no slot ${slot}.`);
      return { keeper, weight };
    });
    const [one, ...others] = found.map(({ keeper }) => keeper);
    const other = others.find(({ custody }) => custody !== one?.custody);
    if (one && other) {
      throw invalid(
        id,
        `${one.id} is ${one.custody} and ${other.id} is ${other.custody}: they must be alike.`,
      );
    }
    const { clock } = world;
    const changed = () => this.#changed();
    this.members = found.map(member => new GroupMember({ ...member, group: id, clock, changed }));
  }

  [Symbol.dispose](): void {
    for (const member of this.members) member[Symbol.dispose]();
    this.#changed(); // whoever waits here looks again, and goes
  }

  /** Whether it would be the same if it were made of these. */
  isOf({ id, members }: GroupSetting, keepers: ReadonlyMap<SlotId, SlotKeeper>): boolean {
    return (
      id === this.id &&
      members.length === this.members.length &&
      members.every(({ slot, weight }, at) => {
        const member = this.members[at];
        return member?.keeper === keepers.get(slot) && member?.weight === weight;
      })
    );
  }

  get state(): GroupState {
    if (this.members.every(member => this.isAble(member))) return 'serving';
    const signs = this.members.some(member => this.#mayHelp(member) && member.presence !== 'away');
    return signs ? 'degraded' : 'down';
  }

  /** Whether the member signs when it is its turn. */
  isAble(member: GroupMember): boolean {
    return member.presence === 'here' && member.circuit.state !== 'open' && this.#mayHelp(member);
  }

  /**
   * Those that could do all alone, as far as it is known: they sign and hold every key. Where there is none, those that
   * sign, if they hold every key together; then no other slot may go.
   */
  enough(): readonly GroupMember[] {
    const able = this.members.filter(member => this.isAble(member));
    const keys = this.#keys();
    const whole = able.filter(member => keys.every(key => holds(member, key)));
    if (whole.length > 0) return whole;
    return keys.every(key => able.some(member => holds(member, key))) ? able : [];
  }

  /** SLOT_BUSY when every member that could sign has too many waiting. */
  refuseCrowd(): void {
    const able = this.members.filter(member => this.isAble(member));
    if (able.every(({ keeper }) => keeper.crowded_ms() !== undefined)) able[0]?.keeper.refuseCrowd();
  }

  /**
   * Lends what signs with a key of the group for the time of the work; while that lasts, the key stays registered
   * and its copies stay where they are.
   */
  lend<T>(record: KeyRecord, work: (key: BoundSigner) => Promise<T>): Promise<T> {
    return this.#home(record).keeper.using(record.id, async () => work(this.#signer(record)));
  }

  /**
   * Takes a copy of a registered key into another slot of the group, where it proves itself. KEY_EXISTS when it is
   * another key, or the slot has one; the failures of the import and of the proof.
   */
  async addCopy(record: KeyRecord, keeper: SlotKeeper, make: () => Promise<unknown>): Promise<void> {
    const member = this.members.find(each => each.keeper === keeper);
    if (!member) throw new TypeError(`Slot ${keeper.id} is not in group ${this.id}.`);
    await make();
    member.forget(record.id);
    await member.prove(record);
    this.#world.log.info({ group: this.id, slot: keeper.id, key: record.id }, 'a key got a copy');
  }

  /**
   * Where the key and its copies are, ready to be destroyed: its home last. The error of the first slot that cannot
   * be looked into or cannot destroy keys, before anything was removed.
   */
  async holders(record: KeyRecord): Promise<readonly SlotKeeper[]> {
    for (const { keeper, presence } of this.members) {
      const session = keeper.session();
      if (presence !== 'here') throw notHere(keeper);
      if (!destroys(session)) {
        throw new KeyslotError('POWER_MISSING', `Slot ${keeper.id} cannot destroy keys.`);
      }
    }
    const copies: SlotKeeper[] = [];
    for (const { keeper } of this.members) {
      if (keeper.id !== record.slot && (await this.#holdsCopy(keeper, record))) copies.push(keeper);
    }
    return [...copies, this.#home(record).keeper];
  }

  /** Whether another slot than its home has a copy of the key, or may have one, being away. */
  async copyElsewhere(record: KeyRecord): Promise<SlotId | undefined> {
    for (const { keeper, presence, slot } of this.members) {
      if (slot === record.slot) continue;
      if (presence !== 'here' || (await this.#holdsCopy(keeper, record))) return slot;
    }
    return undefined;
  }

  /** What was known of the key anywhere in the group is not believed any more. */
  forget(key: KeyId): void {
    for (const member of this.members) member.forget(key);
  }

  view(maySee: (keeper: SlotKeeper) => boolean): GroupView {
    const members = this.members.filter(({ keeper }) => maySee(keeper));
    return { id: this.id, state: this.state, members: members.map(member => this.#memberView(member)) };
  }

  #memberView(member: GroupMember): GroupMemberView {
    const { slot, weight, circuit, keeper } = member;
    return {
      slot,
      weight,
      state: keeper.state,
      circuit: circuit.state,
      since: circuit.since.toISOString(),
      ...(circuit.lastError ? { lastError: circuit.lastError } : {}),
      ...(keeper.copies ? { keys: this.#counts(member) } : {}),
    };
  }

  #counts(member: GroupMember): NonNullable<GroupMemberView['keys']> {
    const counts = { home: 0, copies: 0, missing: 0, mismatched: 0 };
    for (const { id, slot } of this.#keys()) {
      const found = member.holds(id);
      if (slot === member.slot) counts.home += 1;
      else if (found === 'copy') counts.copies += 1;
      else if (found === 'mismatch') counts.mismatched += 1;
      else counts.missing += 1;
    }
    return counts;
  }

  #keys(): readonly KeyRecord[] {
    const all = this.members.flatMap(({ slot }) => this.#world.registry.ofSlot(slot));
    return all.filter(({ state }) => state === 'active' || state === 'disabled');
  }

  #home(record: KeyRecord): GroupMember {
    const home = this.members.find(({ slot }) => slot === record.slot);
    if (home) return home;
    throw new TypeError(`The key ${record.id} is not in group ${this.id}.`);
  }

  /** The key as one signer, made once of what the registry says. */
  #signer(record: KeyRecord): BoundSigner {
    const known = this.#signers.get(record);
    if (known) return known;
    const { id, publicKey, custody, exportable = false } = record;
    if (!publicKey || !custody) throw new KeyslotError('KEY_UNKNOWN', `There is no key ${id}.`);
    const sign = (message: Uint8Array, signal?: AbortSignal) => this.#sign(record, message, signal);
    const signer: BoundSigner = {
      signer: {
        key: { id, publicKey, custody, exportable },
        sign: async (message, signal) => (await sign(message, signal)).signature,
      },
      slot: record.slot,
      engine: this.#home(record).keeper.engine,
      verifier: createVerifier(publicKey),
      address: encodeBase58(publicKey),
      sign,
    };
    this.#signers.set(record, signer);
    return signer;
  }

  /** Asks one member after the other, each once, and where a device is awaited, once more when it is back. */
  async #sign(record: KeyRecord, message: Uint8Array, signal: AbortSignal | undefined): Promise<Made> {
    const failures = new Map<GroupMember, KeyslotError>();
    for (let waits = 0; ; ) {
      const member = this.#next(record, failures);
      if (member) {
        const made = await this.#attempt(member, record, message, signal);
        if (!(made instanceof KeyslotError)) return made;
        failures.set(member, made);
      } else {
        waits += 1;
        if (waits > waits_max || !this.#isAwaited()) throw this.#allOut(record, failures);
        await this.#changes(signal);
        for (const each of failures.keys()) if (each.presence === 'here') failures.delete(each);
      }
    }
  }

  /** The signature, or the failure after which another member may be asked; every other failure is thrown. */
  async #attempt(
    member: GroupMember,
    record: KeyRecord,
    message: Uint8Array,
    signal: AbortSignal | undefined,
  ): Promise<Made | KeyslotError> {
    const { circuit, keeper } = member;
    const trial = circuit.begin();
    try {
      const made = await member.sign(record, message, signal);
      circuit.succeeded(trial);
      return made;
    } catch (thrown) {
      const error = toKeyslotError(thrown);
      if (!isUnfitting(error) && isFailure(error)) circuit.failed(error.code, trial);
      else circuit.left(trial);
      if (!isUnfitting(error) && !isFailure(error)) throw ownError(error);
      this.#say(member, record, error);
      keeper.noticed(error);
      return error;
    }
  }

  /**
   * Whose turn it is: one of those that are there and whose circuit lets somebody in, by their weights; then those
   * that stand by; then whoever is there at all and has not made a signature that was wrong.
   */
  #next(record: KeyRecord, tried: ReadonlyMap<GroupMember, unknown>): GroupMember | undefined {
    const left = this.members.filter(
      each => !tried.has(each) && each.presence === 'here' && !each.unfit(record.id) && this.#mayHelp(each),
    );
    const fit = left.filter(({ circuit }) => circuit.admits);
    const roomy = fit.filter(({ keeper }) => keeper.crowded_ms() === undefined);
    return (
      byWeight(roomy.filter(({ weight }) => weight > 0)) ??
      byWeight(fit.filter(({ weight }) => weight > 0)) ??
      fit[0] ??
      left.find(({ slot }) => slot === record.slot) ??
      left[0]
    );
  }

  #mayHelp(member: GroupMember): boolean {
    const wrong = member.circuit.barred || member.keeper.canary?.state === 'unverified';
    return !wrong && !this.#isFrozen(member);
  }

  #isFrozen({ slot }: GroupMember): boolean {
    return this.#world.freezes.all().some(({ id }) => id === `slot/${slot}` || id === 'appliance');
  }

  #isAwaited(): boolean {
    return this.members.some(member => member.presence === 'awaited' && this.#mayHelp(member));
  }

  /** Until some member is there, or has gone for good. SLOT_BUSY, REQUEST_ABORTED. */
  async #changes(signal: AbortSignal | undefined): Promise<void> {
    if (this.#waiting >= limits.slotQueue_items_max) {
      throw new KeyslotError('SLOT_BUSY', `Too many requests wait for group ${this.id}.`, {
        retryAfter_s: 2,
      });
    }
    this.#waiting += 1;
    try {
      const { promise } = this.#change;
      await (signal ? untilAborted(promise, signal) : promise);
    } catch (cause) {
      throw new KeyslotError('REQUEST_ABORTED', 'The request was aborted.', { cause });
    } finally {
      this.#waiting -= 1;
    }
  }

  #changed(): void {
    this.#change.resolve();
    this.#change = Promise.withResolvers();
  }

  /** As the home slot has it, since the caller knows of that one. */
  #allOut(record: KeyRecord, failures: ReadonlyMap<GroupMember, KeyslotError>): KeyslotError {
    const home = this.#home(record);
    return ownError(
      failures.get(home) ?? home.unfit(record.id) ?? whyAway(home.keeper) ?? this.#keptOut(home),
    );
  }

  #keptOut({ slot, circuit }: GroupMember): KeyslotError {
    const detail = `Slot ${slot} is kept out of group ${this.id}: ${circuit.lastError ?? 'FROZEN'}.`;
    return new KeyslotError('SLOT_FAILED', detail, { retryAfter_s: 5 });
  }

  async #holdsCopy(keeper: SlotKeeper, record: KeyRecord): Promise<boolean> {
    try {
      await keeper.watched(keeper.signer(record));
      return true;
    } catch (thrown) {
      const { code } = toKeyslotError(thrown);
      if (code === 'KEY_MISSING' || code === 'KEY_MISMATCH') return false;
      throw thrown;
    }
  }

  /** Some a second are enough to know, and thousands that were in flight when a token went are not. */
  #say(member: GroupMember, { id: key }: KeyRecord, error: KeyslotError): void {
    const now_ms = this.#world.clock.monotonic_ms();
    if (now_ms - this.#said.since_ms >= 1_000) this.#said = { since_ms: now_ms, count: 0 };
    this.#said.count += 1;
    if (this.#said.count > said_perSecond) return;
    this.#world.log.warn(
      { group: this.id, slot: member.slot, key, code: error.code, err: error },
      'a slot of a group did not sign',
    );
  }
}

export interface GroupSetting {
  readonly id: string;
  readonly members: readonly { readonly slot: SlotId; readonly weight: number }[];
}

export interface GroupsWorld {
  readonly keepers: ReadonlyMap<SlotId, SlotKeeper>;
  readonly registry: KeyRegistry;
  readonly freezes: Pick<FreezeBoard, 'all'>;
  readonly clock: Clock;
  readonly log: Log;
}

const holds = (member: GroupMember, { id, slot }: KeyRecord): boolean =>
  slot === member.slot ? member.unfit(id) === undefined : member.holds(id) === 'copy';

/** Smooth weighting: each gains its weight, the one with the most is next and pays what all have gained. */
function byWeight(members: readonly GroupMember[]): GroupMember | undefined {
  let most: GroupMember | undefined;
  let gained = 0;
  for (const member of members) {
    member.credit += member.weight;
    gained += member.weight;
    if (!most || member.credit > most.credit) most = member;
  }
  if (most) most.credit -= gained;
  return most;
}

/** Failures of a slot, after which another one may well sign; a refusal of the request would be one everywhere. */
const isFailure = ({ code }: KeyslotError): boolean => failures.has(code);

const failures: ReadonlySet<ErrorCode> = new Set([
  'TOKEN_UNAVAILABLE',
  'TOKEN_ERROR',
  'TOKEN_CAPACITY',
  'PIN_REFUSED',
  'PIN_LAST_TRY',
  'PIN_LOCKED',
  'KMS_UNAVAILABLE',
  'KMS_THROTTLED',
  'KMS_DENIED',
  'SLOT_BUSY',
  'SLOT_FAILED',
  'SLOT_LOCKED',
  'SLOT_LATCHED',
  'SESSION_CLOSED',
  'DEADLINE_EXCEEDED',
]);

/** Each request has an error of its own, because the log knows by the error what it has written down already. */
const ownError = (error: KeyslotError): KeyslotError =>
  new KeyslotError(error.code, error.message, {
    cause: error,
    ...(error.entry.retryable ? { retryAfter_s: error.retryAfter_s ?? 2 } : {}),
  });

function whyAway(keeper: SlotKeeper): KeyslotError | undefined {
  if (keeper.presence === 'here') return undefined;
  try {
    keeper.session();
    return notHere(keeper);
  } catch (thrown) {
    return toKeyslotError(thrown);
  }
}

const notHere = (keeper: SlotKeeper): KeyslotError =>
  new KeyslotError('TOKEN_UNAVAILABLE', `The token of slot ${keeper.id} is away: ${keeper.reason?.code}.`, {
    retryAfter_s: 2,
  });

const invalid = (group: string, detail: string) =>
  new KeyslotError('CONFIG_INVALID', `groups.${group}: ${detail}`);

const waits_max = 8;
const said_perSecond = 10;

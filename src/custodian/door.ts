import { isId, type KeyId, keyId, type SlotId, slotId } from '../custody/ids.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { KeyRecord, KeyRegistry } from '../store/key-registry.ts';
import type { Migration } from '../store/migrations-journal.ts';
import type { Call } from '../wire/custodian.ts';
import { mayDo, mayEnter } from './authority.ts';
import type { CallerSessions } from './caller-sessions.ts';
import { type GrantOperation, mayRead, mayUse, type Target } from './grants.ts';
import { type Identity, isKnownBySame } from './identities.ts';
import { keyUnknown } from './keys.ts';
import type { SlotGroups } from './slot-groups.ts';
import type { BoundSigner, SlotKeeper } from './slot-keeper.ts';

/** Which slots and keys a caller gets to: what somebody has no business with looks as if it did not exist. */
export class Door {
  readonly keepers: ReadonlyMap<SlotId, SlotKeeper>;
  readonly #registry: KeyRegistry;
  readonly #sessions: CallerSessions;
  readonly #reserved: SlotId | undefined;
  readonly groups: SlotGroups;
  readonly #identityOf: (name: string) => Identity | undefined;

  /** `reserved`: the slot of the audit key, which signs for nobody and takes no other keys. */
  constructor(world: {
    keepers: ReadonlyMap<SlotId, SlotKeeper>;
    registry: KeyRegistry;
    sessions: CallerSessions;
    reserved: SlotId | undefined;
    groups: SlotGroups;
    identityOf: (name: string) => Identity | undefined;
  }) {
    this.keepers = world.keepers;
    this.#registry = world.registry;
    this.#sessions = world.sessions;
    this.#reserved = world.reserved;
    this.groups = world.groups;
    this.#identityOf = world.identityOf;
  }

  /** In a slot with PIN sessions, whoever knows the PIN may come in; so its existence is no secret. */
  maySee(identity: Identity, keeper: SlotKeeper): boolean {
    if (keeper.access === 'session' || mayRead(identity, { slot: keeper.id })) return true;
    // Who has a grant of one of its keys knows where that key is.
    return this.#registry.ofSlot(keeper.id).some(record => mayRead(identity, targetOf(record)));
  }

  /** Of the key and the slot that somebody named, those that there are: anything else may be a misplaced secret. */
  existing({ key = '', slot = '' }: { key?: string | undefined; slot?: string | undefined }): {
    key?: string;
    slot?: string;
  } {
    return {
      ...(isId(key) && this.#registry.get(keyId(key)) ? { key } : {}),
      ...(isId(slot) && this.keepers.has(slotId(slot)) ? { slot } : {}),
    };
  }

  /** SLOT_UNKNOWN. */
  visibleSlot(id: string, identity: Identity): SlotKeeper {
    const keeper = this.keepers.get(slotId(id));
    if (keeper && this.maySee(identity, keeper)) return keeper;
    throw slotUnknown(id);
  }

  /** A slot that the identity may do this with. SLOT_UNKNOWN, PERMISSION_DENIED. */
  managedSlot(id: string, identity: Identity, operation: GrantOperation): SlotKeeper {
    const keeper = this.keepers.get(slotId(id));
    if (keeper && mayDo(identity, [operation], { slot: keeper.id })) return keeper;
    throw slotUnknown(id);
  }

  /** The same, for keys that are to be made there. PERMISSION_DENIED for the slot of the audit key. */
  slotForKeys(id: string, identity: Identity, operation: GrantOperation): SlotKeeper {
    const keeper = this.managedSlot(id, identity, operation);
    if (keeper.id === this.#reserved) throw reserved(id);
    return keeper;
  }

  /** A PIN session lets its holder see the keys of its slot, as far as it lets it sign with them. */
  mayReadKey(target: Target, identity: Identity, call: Call): boolean {
    if (mayRead(identity, target)) return true;
    return (
      this.keepers.get(target.slot)?.access === 'session' &&
      this.#sessions.holds(call.session, identity, target.slot)
    );
  }

  /** KEY_UNKNOWN; SESSION_EXPIRED for whoever came with a session that is over. */
  visibleKey(id: string, identity: Identity, call: Call): KeyRecord {
    const record = this.#registry.get(keyId(id));
    if (record && record.state !== 'pending' && this.mayReadKey(targetOf(record), identity, call))
      return record;
    this.#sessions.refuseExpired(call.session); // whether or not there is such a key
    throw keyUnknown(keyId(id));
  }

  /** A key that the identity may do this with. KEY_UNKNOWN, PERMISSION_DENIED. */
  managedKey(id: string, identity: Identity, operation: GrantOperation | undefined): KeyRecord {
    const record = this.#registry.get(keyId(id));
    const target = record && targetOf(record);
    const operations = operation === undefined ? [] : [operation];
    if (!target || record.state === 'pending' || !mayDo(identity, operations, target))
      throw keyUnknown(keyId(id));
    if (record.slot === this.#reserved) throw reserved(record.slot);
    return record;
  }

  /** SLOT_FAILED for a key whose slot was taken out of the configuration. */
  slotOf(record: KeyRecord): SlotKeeper {
    const keeper = this.keepers.get(record.slot);
    if (keeper) return keeper;
    throw new KeyslotError(
      'SLOT_FAILED',
      `The slot ${record.slot} of ${record.id} is not configured any more.`,
    );
  }

  /**
   * The door to every signature: the key exists, the grants and its slot let this caller in, and it is fit for
   * use. Nothing is awaited between the registry and the loan: a key that moves meanwhile is still there until
   * the work ends. KEY_UNKNOWN, PERMISSION_DENIED, KEY_DISABLED, the failures of a session and of the slot.
   */
  signing<T>(entry: Entry, work: (record: KeyRecord, key: BoundSigner) => Promise<T>): Promise<T> {
    const { id, identity, call, operations } = entry;
    const record = this.#registry.get(keyId(id));
    if (!record || (record.state !== 'active' && record.state !== 'disabled')) throw keyUnknown(keyId(id));
    const keeper = this.slotOf(record);
    const { access } = keeper;
    const target = targetOf(record);
    const { session } = call;
    if (!mayEnter(identity, operations, target, { access, session, sessions: this.#sessions })) {
      throw keyUnknown(record.id);
    }
    if (record.slot === this.#reserved) throw reserved(record.slot);
    if (record.state === 'disabled')
      throw new KeyslotError('KEY_DISABLED', `The key ${record.id} is disabled.`);
    const group = this.groups.of(keeper.id);
    (group ?? keeper).refuseCrowd();
    const guarded = (key: BoundSigner) => work(record, this.#guarded(entry, record, key));
    if (group) return group.lend(record, guarded);
    return keeper.watched(keeper.lend(record, guarded));
  }

  /** What was being made when its caller lost the right to it is not given out. The failures of `refuseMeanwhile`. */
  #guarded(entry: Entry, record: KeyRecord, key: BoundSigner): BoundSigner {
    const sign: BoundSigner['sign'] = async (message, signal) => {
      const made = await key.sign(message, signal);
      this.#refuseChanged(entry, record);
      return made;
    };
    return { ...key, sign };
  }

  /**
   * For a signature that was let in a while ago and is about to be made: whoever would not be let in any more goes
   * without. CREDENTIAL_UNKNOWN for somebody who has gone, KEY_DISABLED, otherwise the failures of the door.
   */
  refuseMeanwhile(entry: Entry, record: KeyRecord, kind: GrantOperation): void {
    const state = this.#registry.get(record.id)?.state;
    if (state === 'disabled') throw new KeyslotError('KEY_DISABLED', `The key ${record.id} is disabled.`);
    const now = this.#refuseChanged(entry, record);
    const { access } = this.slotOf(record);
    if (now === entry.identity && access === 'identity') return;
    this.#refuseOutside(entry, now, record);
    this.refuseKind(record, now, kind);
  }

  /** Who the caller is by now. CREDENTIAL_UNKNOWN, also for one who is known by something else now; for one who was changed, the failures of the door. */
  #refuseChanged(entry: Entry, record: KeyRecord): Identity {
    const { identity } = entry;
    const now = this.#identityOf(identity.name);
    if (!now || !isKnownBySame(identity, now)) {
      throw new KeyslotError('CREDENTIAL_UNKNOWN', `${identity.name} is not who it was.`);
    }
    if (now !== identity) this.#refuseOutside(entry, now, record);
    return now;
  }

  #refuseOutside({ call, operations }: Entry, now: Identity, record: KeyRecord): void {
    const { access } = this.slotOf(record);
    const at = { access, session: call.session, sessions: this.#sessions };
    if (!now.roles.includes('signer') || !mayEnter(now, operations, targetOf(record), at)) {
      throw keyUnknown(record.id);
    }
  }

  /**
   * A signature with the key failed like this. A group has told whichever of its slots it was, and one that is not
   * configured any more is told nothing.
   */
  noticed(record: KeyRecord, error: KeyslotError): void {
    if (!this.groups.of(record.slot)) this.keepers.get(record.slot)?.noticed(error);
  }

  /**
   * Of those who were let in, refuses who has no grant for this kind of signature. PERMISSION_DENIED. Whoever came
   * by the PIN alone has all but the raw right.
   */
  refuseKind(record: KeyRecord, identity: Identity, operation: GrantOperation): void {
    if (operation !== 'raw' && this.slotOf(record).access === 'session') return;
    if (mayUse(identity, operation, targetOf(record))) return;
    throw new KeyslotError(
      'PERMISSION_DENIED',
      `${identity.name} has no grant for ${operation} of ${record.id}.`,
    );
  }
}

export interface Entry {
  /** The key that is named. */
  readonly id: string;
  readonly identity: Identity;
  readonly call: Call;
  /** Any of these grants lets the caller in. */
  readonly operations: readonly GrantOperation[];
}

export const targetOf = ({
  id,
  slot,
  tags,
}: {
  id: KeyId;
  slot: SlotId;
  tags: readonly string[];
}): Target => ({
  key: id,
  slot,
  tags,
});

export const mayMigrate = (identity: Identity, { from, to }: Migration): boolean =>
  mayUse(identity, 'manage', { slot: from }) && mayUse(identity, 'manage', { slot: to });

const slotUnknown = (id: string) => new KeyslotError('SLOT_UNKNOWN', `There is no slot ${id}.`);

const reserved = (slot: string) =>
  new KeyslotError('PERMISSION_DENIED', `Slot ${slot} holds the audit key and serves nothing else.`);

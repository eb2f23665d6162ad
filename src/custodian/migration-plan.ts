import { exports, imports, type KeyInfo, type Session } from '../custody/engine.ts';
import type { KeyId, SlotId } from '../custody/ids.ts';
import { encodeBase58 } from '../foundation/base58.ts';
import { type ErrorCode, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { KeyRecord, KeyRegistry } from '../store/key-registry.ts';
import { alreadyMoving, type MigrationsJournal } from '../store/migrations-journal.ts';
import type { MigrationPlanView } from '../wire/views.ts';
import { mayUse } from './grants.ts';
import type { Identity } from './identities.ts';
import type { SlotKeeper } from './slot-keeper.ts';

/** From where to where, and which keys: those that are named, or every one. */
export interface MigrationRoute {
  readonly from: SlotKeeper;
  readonly to: SlotKeeper;
  readonly keys?: readonly KeyId[] | undefined;
}

export interface MigrationPlan {
  readonly route: MigrationRoute;
  /** What callers would notice: the right to sign belongs to a slot, not to a key. */
  readonly notes: readonly string[];
  readonly obstacle?: Reason;
  readonly keys: readonly PlannedKey[];
}

export interface PlannedKey {
  readonly key: KeyId;
  readonly record?: KeyRecord;
  /** Why this key cannot be moved; absent when it can. */
  readonly reason?: Reason;
}

interface Reason {
  readonly code: ErrorCode;
  readonly detail: string;
}

/** Looks at both slots and says for each key whether it can be moved. Changes nothing. */
export async function planMigration(
  route: MigrationRoute,
  world: {
    readonly registry: KeyRegistry;
    readonly journal: MigrationsJournal;
    readonly identities: readonly Identity[];
    copyElsewhere(record: KeyRecord): Promise<SlotId | undefined>;
    inOneGroup(from: SlotId, to: SlotId): boolean;
  },
): Promise<MigrationPlan> {
  const { from, to } = route;
  const keys = route.keys ? [...new Set(route.keys)] : keysOf(from, world.registry);
  const records = keys.map(key => ({ key, record: world.registry.get(key) }));
  const obstacle = obstacleOf(from, to) ?? (world.inOneGroup(from.id, to.id) ? grouped(from, to) : undefined);
  const there = obstacle ? undefined : { from: await held(from), to: await held(to) };
  const planned: PlannedKey[] = [];
  for (const { key, record } of records) {
    if (record?.slot !== from.id || record.state === 'pending') {
      planned.push({ key, reason: because('KEY_UNKNOWN', `Slot ${from.id} has no key ${key}.`) });
      continue;
    }
    const reason =
      obstacle ??
      (await reasonOf(record, route, there, world.journal.unsettledOf(key))) ??
      copied(record, await world.copyElsewhere(record));
    planned.push({ key, record, ...(reason ? { reason } : {}) });
  }
  const notes = notesOf(route, world.identities);
  return { route, notes, ...(obstacle ? { obstacle } : {}), keys: planned };
}

/** MIGRATION_IMPOSSIBLE, naming why: a pair of slots, a key that was asked for, or nothing that can be moved. */
export function refuseImpossible({ route, obstacle, keys }: MigrationPlan): void {
  const [refused] = keys.filter(({ reason }) => reason);
  const way = `from ${route.from.id} to ${route.to.id}`;
  if (obstacle) throw impossible(`Nothing can move ${way}: ${obstacle.detail}`);
  if (keys.length === 0) throw impossible(`Nothing can move ${way}: slot ${route.from.id} has no key.`);
  if (refused?.reason && (route.keys || keys.every(({ reason }) => reason))) {
    throw impossible(`The key ${refused.key} cannot move ${way}: ${refused.reason.detail}`);
  }
}

export function planView({ route, obstacle, notes, keys }: MigrationPlan): MigrationPlanView {
  const impossibleKeys = keys.filter(({ reason }) => reason);
  const possibleKeys = keys.filter(({ reason }) => !reason);
  return {
    from: route.from.id,
    to: route.to.id,
    possible: possibleKeys.length,
    impossible: impossibleKeys.length,
    ...(obstacle ? { obstacle } : {}),
    notes: [...notes],
    keys: plannedViews([...impossibleKeys, ...possibleKeys]),
  };
}

/** No more than a page, because a slot may hold more keys than one answer. */
export const plannedViews = (keys: readonly PlannedKey[]): MigrationPlanView['keys'] =>
  keys.slice(0, limits.page_items_max).map(({ key, record, reason }) => ({
    key,
    ...(record?.publicKey ? { publicKey: encodeBase58(record.publicKey) } : {}),
    possible: reason === undefined,
    ...(reason ? { reason } : {}),
  }));

const keysOf = (from: SlotKeeper, registry: KeyRegistry): KeyId[] =>
  registry
    .ofSlot(from.id)
    .filter(({ state }) => state !== 'pending' && state !== 'destroyed')
    .map(({ id }) => id)
    .sort();

/** What stands between the two slots, whatever the key. */
function obstacleOf(from: SlotKeeper, to: SlotKeeper): Reason | undefined {
  if (from.id === to.id) return because('MIGRATION_IMPOSSIBLE', 'A slot is not moved to itself.');
  const source = sessionOf(from);
  const target = sessionOf(to);
  if (source instanceof KeyslotError) return because(source.code, source.message);
  if (target instanceof KeyslotError) return because(target.code, target.message);
  if (!exports(source)) return because('POWER_MISSING', neverLeave(from, to));
  if (!imports(target)) {
    return because('POWER_MISSING', `Slot ${to.id} takes no keys in: it makes its own. ${instead(to)}`);
  }
  return undefined;
}

/** The session, or why there is none. */
function sessionOf(keeper: SlotKeeper): Session | KeyslotError {
  try {
    return keeper.session();
  } catch (thrown) {
    return toKeyslotError(thrown);
  }
}

async function reasonOf(
  record: KeyRecord,
  { from, to }: MigrationRoute,
  there: { from: ReadonlyMap<KeyId, KeyInfo>; to: ReadonlyMap<KeyId, KeyInfo> } | undefined,
  unsettled: string | undefined,
): Promise<Reason | undefined> {
  const { id } = record;
  const info = there?.from.get(id);
  if (record.state !== 'active') return because('MIGRATION_STATE', `The key ${id} is ${record.state}.`);
  if (unsettled) return because('MIGRATION_RUNNING', alreadyMoving(id, unsettled).message);
  if (!info) return absence(from, id);
  if (Buffer.compare(info.publicKey, record.publicKey ?? new Uint8Array()) !== 0) {
    return because('KEY_MISMATCH', `Slot ${from.id} holds another public key for ${id}.`);
  }
  if (!info.exportable) return because('KEY_NOT_EXPORTABLE', neverLeave(from, to));
  if (there?.to.has(id)) {
    return because(
      'KEY_EXISTS',
      `Slot ${to.id} holds a key ${id} already; if a migration kept it there, roll that back instead, or destroy the copy.`,
    );
  }
  return undefined;
}

const grouped = (from: SlotKeeper, to: SlotKeeper): Reason =>
  because(
    'MIGRATION_IMPOSSIBLE',
    `Slots ${from.id} and ${to.id} are in one group, which signs in both: a key gets a copy by importing it.`,
  );

/** What a group keeps elsewhere would stay behind, and sign for nobody. */
const copied = (record: KeyRecord, slot: SlotId | undefined): Reason | undefined =>
  slot === undefined
    ? undefined
    : because(
        'MIGRATION_IMPOSSIBLE',
        `Slot ${slot} is in a group with slot ${record.slot} and has, or while it is away may have, a copy of ${record.id}: remove it first.`,
      );

/** Why a key that is registered is not among those of its slot: it has gone, or cannot be used. */
async function absence(from: SlotKeeper, id: KeyId): Promise<Reason> {
  const gone = because('KEY_MISSING', `Slot ${from.id} no longer holds the key ${id}.`);
  return from
    .session()
    .signer(id)
    .then(
      () => gone,
      thrown => {
        const { code, message } = toKeyslotError(thrown);
        return code === 'KEY_UNKNOWN' ? gone : because(code, message);
      },
    );
}

async function held(keeper: SlotKeeper): Promise<ReadonlyMap<KeyId, KeyInfo>> {
  const infos = new Map<KeyId, KeyInfo>();
  for await (const info of keeper.session().keys()) infos.set(info.id, info);
  return infos;
}

const maySign = (identity: Identity, slot: SlotId): boolean =>
  mayUse(identity, 'sign-transaction', { slot }) || mayUse(identity, 'sign-message', { slot });

function notesOf({ from, to }: MigrationRoute, identities: readonly Identity[]): string[] {
  const notes: string[] = [];
  if (from.access !== to.access) {
    notes.push(
      `Signing in slot ${to.id} takes access ${to.access}; in slot ${from.id} it is ${from.access}.`,
    );
  }
  const shutOut = identities.filter(
    each => each.roles.includes('signer') && maySign(each, from.id) && !maySign(each, to.id),
  );
  if (to.access !== 'session' && shutOut.length > 0) {
    const names = shutOut.slice(0, 10).map(({ name }) => name);
    notes.push(
      `${shutOut.length} of those who may sign in slot ${from.id} may not in slot ${to.id}: ${names.join(', ')}.`,
    );
  }
  return notes;
}

const neverLeave = (from: SlotKeeper, to: SlotKeeper): string =>
  `Keys of slot ${from.id} (${from.view().custody}) never leave it. ${instead(to)}`;

const instead = (to: SlotKeeper): string =>
  `Make a new key in slot ${to.id} and move funds and authorities to its address on chain.`;

const because = (code: ErrorCode, detail: string): Reason => ({ code, detail });

const impossible = (detail: string) => new KeyslotError('MIGRATION_IMPOSSIBLE', detail);

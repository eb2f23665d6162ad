import { destroys, exports, imports, type KeyInfo, type Session } from '../custody/engine.ts';
import type { KeyId, SlotId } from '../custody/ids.ts';
import { encodeBase58 } from '../foundation/base58.ts';
import type { Clock } from '../foundation/clock.ts';
import { publicKeyFromSeed } from '../foundation/ed25519.ts';
import { isKeyslotError, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { Log } from '../foundation/log.ts';
import type { KeyRecord, KeyRegistry } from '../store/key-registry.ts';
import type {
  Migration,
  MigrationKey,
  MigrationStep,
  MigrationsJournal,
} from '../store/migrations-journal.ts';
import type { MigrationKeyView, MigrationPlanView, MigrationView } from '../wire/views.ts';
import type { Identity } from './identities.ts';
import {
  type MigrationRoute,
  planMigration,
  plannedViews,
  planView,
  refuseImpossible,
} from './migration-plan.ts';
import { proveKey } from './migration-proof.ts';
import type { SlotKeeper } from './slot-keeper.ts';

/**
 * Keys that change their slot and keep their id and address. For each key: its seed goes from the source into
 * the target, the target proves the key, the registry switches, and the source's copy stays until an operator
 * has it destroyed. Every step can be repeated, so a migration that was stopped anywhere is simply run again.
 * A key that fails is listed with its code and does not hold up the others.
 */
export class Migrations {
  readonly #world: MigrationWorld;
  /** Migrations at work: one call at a time may move the keys of one. */
  readonly #busy = new Set<string>();

  constructor(world: MigrationWorld) {
    this.#world = world;
  }

  async plan(route: MigrationRoute): Promise<MigrationPlanView> {
    return planView(await planMigration(route, this.#world));
  }

  /**
   * Writes down what is to be moved, and moves nothing yet. Of all keys of a slot the impossible ones are left
   * out; a key that was asked for by name is not. MIGRATION_IMPOSSIBLE, MIGRATION_RUNNING.
   */
  async start(
    route: MigrationRoute,
    by: string,
  ): Promise<MigrationView & { leftOut: MigrationPlanView['keys'] }> {
    const plan = await planMigration(route, this.#world);
    refuseImpossible(plan);
    const { journal, clock } = this.#world;
    const migration = journal.begin({
      from: route.from.id,
      to: route.to.id,
      by,
      at: clock.utc(),
      keys: plan.keys.flatMap(({ record, reason }) => (record && !reason ? [entryOf(record)] : [])),
    });
    return { ...this.view(migration), leftOut: plannedViews(plan.keys.filter(({ reason }) => reason)) };
  }

  /** MIGRATION_UNKNOWN. */
  get(id: string): Migration {
    const migration = this.#world.journal.get(id);
    if (migration) return migration;
    throw migrationUnknown(id);
  }

  all(): readonly Migration[] {
    return this.#world.journal.all();
  }

  view({ id, from, to, createdAt, createdBy }: Migration): MigrationView {
    const counts = this.#world.journal.counts(id);
    const unfinished = counts.planned + counts.imported + counts.proven + counts.switched;
    return {
      id,
      from,
      to,
      createdAt,
      createdBy,
      state: unfinished > 0 ? 'unfinished' : 'finished',
      counts,
      failed: this.#world.journal.failed(id),
    };
  }

  page(migration: Migration, { cursor = '', limit }: { cursor?: string | undefined; limit: number }): Did {
    const found = this.#world.journal.keys(migration.id, cursor);
    const keys = found.slice(0, limit);
    const next = found.length > limit ? keys.at(-1)?.key : undefined;
    return { migration: this.view(migration), keys: keys.map(keyView), ...(next ? { next } : {}) };
  }

  /** Moves the keys that are not moved yet, each from where its last attempt stopped. */
  run(migration: Migration, slots: Slots, batch: Batch): Promise<Did> {
    return this.#each(migration, batch, ['planned', 'imported', 'proven', 'switched'], key =>
      this.#move(key, slots),
    );
  }

  /** Has every key that was moved prove itself again; a source copy must have the same public key. */
  verify(migration: Migration, slots: Slots, batch: Batch): Promise<Did> {
    return this.#each(migration, batch, ['switched', 'kept', 'destroyed'], key => this.#verify(key, slots));
  }

  /** Back to the source, after its copy has proved itself; the target's copy stays. */
  async rollback(migration: Migration, slots: Slots, batch: Batch): Promise<Did> {
    const { planned, imported, proven, switched, kept } = this.#world.journal.counts(migration.id);
    const returnable = planned + imported + proven + switched + kept;
    if (returnable === 0)
      throw wrongState(`No key of migration ${migration.id} can be rolled back any more.`);
    // With those whose copy was destroyed, so that each of them is named.
    const steps = ['planned', 'imported', 'proven', 'switched', 'kept', 'destroyed'] as const;
    return this.#each(migration, batch, steps, key => this.#rollBack(key, slots));
  }

  /** Removes the copies that the registry does not use: of moved keys at the source, of returned ones at the target. */
  destroyCopies(migration: Migration, slots: Slots, batch: Batch): Promise<Did> {
    return this.#each(migration, batch, ['switched', 'kept', 'rolled-back'], key =>
      key.step === 'rolled-back'
        ? this.#destroyCopy(key, slots.to, 'cleared')
        : this.#destroyCopy(key, slots.from, 'destroyed'),
    );
  }

  async #move(key: MigrationKey, slots: Slots): Promise<MigrationKey> {
    const moved = key.step === 'switched' ? key : await this.#moveNow(key, slots);
    await sameCopy(moved, slots.from);
    return this.#reached(moved, 'kept');
  }

  async #moveNow(key: MigrationKey, slots: Slots): Promise<MigrationKey> {
    const { from, to } = slots;
    const record = this.#registered(key, from);
    await this.#copy(key, slots);
    const imported = key.step === 'planned' ? this.#reached(key, 'imported') : key;
    // Also of a key that was proven before a stop: what the target held then it need not hold now.
    to.forgetSigner(key.key);
    const bound = await to.watched(to.signer(record));
    const proof = await to.watched(proveKey(key.migration, bound, this.#world.clock.utc()));
    const { custody: custodyAfter } = bound.signer.key;
    const proven = this.#reached(imported, 'proven', { proof, custodyAfter });
    return this.#switch(proven, { leaving: from, entering: to, info: bound.signer.key, step: 'switched' });
  }

  /** Source to target; a copy with the right public key that is there already is the one of an earlier attempt. */
  async #copy(key: MigrationKey, { from, to }: Slots): Promise<void> {
    if (await copyIn(to, key)) return;
    const source = from.session();
    const target = to.session();
    if (!exports(source) || !imports(target)) {
      throw new KeyslotError('POWER_MISSING', `Keys cannot move from slot ${from.id} to slot ${to.id}.`);
    }
    using seed = await from.watched(source.export(key.key));
    if (Buffer.compare(seed.use(publicKeyFromSeed), key.publicKey) !== 0) throw otherKey(from, key.key);
    await to.watched(target.import(key.key, seed));
    to.noteCopy(key.key, true);
  }

  /** The registry and the journal in one transaction. New signatures are made where the key entered. */
  #switch(
    key: MigrationKey,
    way: { leaving: SlotKeeper; entering: SlotKeeper; info: KeyInfo; step: 'switched' | 'rolled-back' },
  ): MigrationKey {
    this.#registered(key, way.leaving);
    let switched = key;
    this.#world.registry.move(way.info, way.entering.id, () => {
      switched = this.#reached(key, way.step);
    });
    way.leaving.forgetSigner(key.key);
    way.leaving.noteCopy(key.key, true);
    way.entering.noteCopy(key.key, false);
    const { migration, key: id } = key;
    this.#world.log.info(
      { migration, key: id, from: way.leaving.id, to: way.entering.id },
      'a key changed its slot',
    );
    return switched;
  }

  async #verify(key: MigrationKey, { from, to }: Slots): Promise<MigrationKey> {
    const record = this.#registered(key, to);
    const proof = await this.#prove(key, record, to);
    if (key.step !== 'destroyed') await sameCopy(key, from);
    return this.#world.journal.verified(key, this.#world.clock.utc(), proof);
  }

  async #rollBack(key: MigrationKey, { from, to }: Slots): Promise<MigrationKey> {
    if (key.step === 'destroyed') throw wrongState(`The source's copy of ${key.key} was destroyed.`);
    if (key.step !== 'switched' && key.step !== 'kept') return this.#reached(key, 'rolled-back');
    const record = this.#registered(key, to);
    from.forgetSigner(key.key);
    const bound = await from.watched(from.signer(record));
    const proof = await from.watched(proveKey(key.migration, bound, this.#world.clock.utc()));
    const { key: info } = bound.signer;
    return this.#switch({ ...key, proof }, { leaving: to, entering: from, info, step: 'rolled-back' });
  }

  /** Only after the key has proved itself where it is registered, which is never the slot of the copy. */
  async #destroyCopy(
    key: MigrationKey,
    keeper: SlotKeeper,
    step: 'destroyed' | 'cleared',
  ): Promise<MigrationKey> {
    const record = this.#registeredOutside(key, keeper);
    const proof = await this.#prove(key, record, this.#world.slotOf(record));
    await keeper.unused(key.key); // nobody new comes: whoever asks now signs in the registered slot
    const session = keeper.session();
    if (!destroys(session)) {
      throw new KeyslotError('POWER_MISSING', `Slot ${keeper.id} cannot destroy keys.`);
    }
    if (await copyIn(keeper, key)) {
      this.#registeredOutside(key, keeper); // once more, with nothing awaited before the end of the copy begins
      await keeper.watched(session.destroy(key.key));
    }
    keeper.forgetSigner(key.key);
    keeper.noteCopy(key.key, false);
    this.#world.log.warn(
      { migration: key.migration, key: key.key, slot: keeper.id },
      'the copy of a key that was moved was destroyed',
    );
    return this.#reached(key, step, { proof });
  }

  async #prove(key: MigrationKey, record: KeyRecord, keeper: SlotKeeper) {
    const proving = keeper.lend(record, bound => proveKey(key.migration, bound, this.#world.clock.utc()));
    return keeper.watched(proving);
  }

  /** The key as the registry has it: active, of this public key, and in this slot. MIGRATION_STATE. */
  #registered(key: MigrationKey, keeper?: SlotKeeper): KeyRecord {
    const record = this.#world.registry.get(key.key);
    if (record?.state !== 'active' || !record.publicKey) {
      throw wrongState(`The key ${key.key} is not active.`);
    }
    if (Buffer.compare(record.publicKey, key.publicKey) !== 0) {
      throw wrongState(`The key ${key.key} is another one than when the migration began.`);
    }
    if (keeper && record.slot !== keeper.id) throw registeredElsewhere(key, record);
    return record;
  }

  /** Where it is registered, which must not be the slot whose copy is to go. MIGRATION_STATE. */
  #registeredOutside(key: MigrationKey, keeper: SlotKeeper): KeyRecord {
    const record = this.#registered(key);
    if (record.slot === keeper.id) throw registeredElsewhere(key, record);
    return record;
  }

  #reached(key: MigrationKey, step: MigrationStep, more: Parameters<MigrationsJournal['reached']>[3] = {}) {
    return this.#world.journal.reached(key, step, this.#world.clock.utc(), more);
  }

  /**
   * One key after the other, as many as a batch takes. MIGRATION_RUNNING while another call is at work on the
   * migration; MIGRATION_STATE when none of its keys is at one of these steps.
   */
  async #each(
    migration: Migration,
    { keys: wanted, after = '', max, signal }: Batch,
    steps: readonly MigrationStep[],
    work: (key: MigrationKey) => Promise<MigrationKey>,
  ): Promise<Did> {
    const { id } = migration;
    if (this.#busy.has(id)) throw new KeyslotError('MIGRATION_RUNNING', `Migration ${id} is at work.`);
    this.#busy.add(id);
    try {
      const chosen = this.#chosen(migration, steps, wanted).filter(({ key }) => key > after);
      const { clock } = this.#world;
      const end_ms = clock.monotonic_ms() + batch_ms;
      const done: MigrationKeyView[] = [];
      for (const key of chosen) {
        if (done.length > 0 && (done.length >= max || clock.monotonic_ms() > end_ms || signal?.aborted)) {
          break;
        }
        done.push(await this.#attempt(key, steps, work));
      }
      const next = done.length < chosen.length ? done.at(-1)?.key : undefined;
      return { migration: this.view(migration), keys: done, ...(next ? { next } : {}) };
    } finally {
      this.#busy.delete(id);
    }
  }

  #chosen(
    migration: Migration,
    steps: readonly MigrationStep[],
    wanted: readonly KeyId[] | undefined,
  ): readonly MigrationKey[] {
    const all = this.#world.journal.keys(migration.id);
    if (wanted) {
      const known = new Set(all.map(({ key }) => key));
      const stranger = wanted.find(key => !known.has(key));
      if (stranger) {
        throw new KeyslotError('KEY_UNKNOWN', `Migration ${migration.id} has no key ${stranger}.`);
      }
      return all.filter(({ key }) => wanted.includes(key));
    }
    const fit = all.filter(({ step }) => steps.includes(step));
    if (fit.length === 0 && !steps.includes('planned')) {
      throw wrongState(`No key of migration ${migration.id} is ${steps.join(' or ')}.`);
    }
    return fit;
  }

  async #attempt(
    key: MigrationKey,
    steps: readonly MigrationStep[],
    work: (key: MigrationKey) => Promise<MigrationKey>,
  ): Promise<MigrationKeyView> {
    try {
      if (!steps.includes(key.step)) throw wrongState(`The key ${key.key} is ${key.step}.`);
      return keyView(await work(key));
    } catch (thrown) {
      return this.#stopped(key, toKeyslotError(thrown));
    }
  }

  #stopped(key: MigrationKey, failure: KeyslotError): MigrationKeyView {
    const { migration, key: id } = key;
    const error = { code: failure.code, detail: failure.message };
    this.#world.log.warn({ migration, key: id, err: failure }, 'a step of a migration was not done');
    // That a step was not allowed says nothing about the key.
    if (failure.code !== 'MIGRATION_STATE') this.#world.journal.stopped(key, error);
    const [now] = this.#world.journal.keys(migration).filter(({ key: each }) => each === id);
    return { ...keyView(now ?? key), error };
  }
}

export interface MigrationWorld {
  readonly registry: KeyRegistry;
  readonly journal: MigrationsJournal;
  readonly clock: Clock;
  readonly log: Log;
  /** Everybody whom the configuration names. */
  readonly identities: readonly Identity[];
  /** Another slot of its group that has, or may have, a copy of the key. */
  copyElsewhere(record: KeyRecord): Promise<SlotId | undefined>;
  inOneGroup(from: SlotId, to: SlotId): boolean;
  /** The slot that a key is registered in. SLOT_FAILED when it is not configured any more. */
  slotOf(record: KeyRecord): SlotKeeper;
}

export interface Slots {
  readonly from: SlotKeeper;
  readonly to: SlotKeeper;
}

/** Which keys of a migration one call works on. */
export interface Batch {
  readonly keys?: readonly KeyId[] | undefined;
  readonly after?: string | undefined;
  readonly max: number;
  /** Whoever asked has gone: the key under way is finished, the next one is not begun. */
  readonly signal?: AbortSignal | undefined;
}

interface Did {
  readonly migration: MigrationView;
  readonly keys: MigrationKeyView[];
  readonly next?: string;
}

/** Within `limits.drain_ms`, so that a stop need not cut a migration off. */
const batch_ms = 2_000;
export const batchOf = (max: number): number => Math.min(Math.max(max, 1), limits.batch_items_max);

export const migrationUnknown = (id: string) =>
  new KeyslotError('MIGRATION_UNKNOWN', `There is no migration ${id.slice(0, 80)}.`);

function entryOf({ id, publicKey, custody }: KeyRecord) {
  if (!publicKey || !custody) throw new RangeError(`The key ${id} was never completed.`);
  return { key: id, publicKey, custodyBefore: custody };
}

/** Whether the slot holds the key. KEY_MISMATCH when it holds another one under the same id. */
async function copyIn(keeper: SlotKeeper, { key, publicKey }: MigrationKey): Promise<boolean> {
  const info = await keeper.watched(infoIn(keeper.session(), key));
  if (info && Buffer.compare(info.publicKey, publicKey) !== 0) throw otherKey(keeper, key);
  return info !== undefined;
}

async function sameCopy(key: MigrationKey, keeper: SlotKeeper): Promise<void> {
  if (await copyIn(keeper, key)) return;
  throw new KeyslotError('KEY_MISSING', `Slot ${keeper.id} no longer holds the copy of ${key.key}.`);
}

async function infoIn(session: Session, key: KeyId): Promise<KeyInfo | undefined> {
  try {
    return (await session.signer(key)).key;
  } catch (thrown) {
    if (isKeyslotError(thrown) && thrown.code === 'KEY_UNKNOWN') return undefined;
    throw thrown;
  }
}

const otherKey = (keeper: SlotKeeper, key: KeyId) =>
  new KeyslotError('KEY_MISMATCH', `Slot ${keeper.id} holds another key under the id ${key}.`);

const wrongState = (detail: string) => new KeyslotError('MIGRATION_STATE', detail);

const registeredElsewhere = ({ key }: MigrationKey, record: KeyRecord) =>
  wrongState(`The key ${key} is registered in slot ${record.slot} now.`);

function keyView({ migration: _id, publicKey, ...key }: MigrationKey): MigrationKeyView {
  return { ...key, publicKey: encodeBase58(publicKey), times: { ...key.times } };
}

import { keyId } from '../custody/ids.ts';
import { limits } from '../foundation/limits.ts';
import type { Migration } from '../store/migrations-journal.ts';
import type { Call, Request } from '../wire/custodian.ts';
import { type Door, mayMigrate } from './door.ts';
import type { Identity } from './identities.ts';
import { type Batch, batchOf, type Migrations, migrationUnknown } from './migration.ts';
import type { Operations } from './operation.ts';

/** Keys that move: each part of it takes the right to manage both slots. */
export function migrationOperations(
  door: Door,
  migrations: Migrations,
): Operations<
  | 'plan-migration'
  | 'start-migration'
  | 'list-migrations'
  | 'show-migration'
  | 'run-migration'
  | 'verify-migration'
  | 'rollback-migration'
  | 'destroy-copies'
> {
  const route = (input: Request<'plan-migration'>['input'], identity: Identity) => {
    const from = door.slotForKeys(input.from, identity, 'manage');
    const to = door.slotForKeys(input.to, identity, 'manage');
    return { from, to, keys: input.keys?.map(keyId) };
  };
  const migrationOf = (id: string, identity: Identity): Migration => {
    const migration = migrations.get(id);
    if (mayMigrate(identity, migration)) return migration;
    throw migrationUnknown(id);
  };
  const moving = async (
    verb: 'run' | 'verify' | 'rollback' | 'destroyCopies',
    input: Request<'run-migration'>['input'],
    call: Call,
    identity: Identity,
  ) => {
    const migration = migrationOf(input.migration, identity);
    const slots = {
      from: door.managedSlot(migration.from, identity, 'manage'),
      to: door.managedSlot(migration.to, identity, 'manage'),
    };
    const { after, keys, max } = input;
    const batch: Batch = { after, keys: keys?.map(keyId), max: batchOf(max), signal: call.signal };
    return { output: await migrations[verb](migration, slots, batch) };
  };

  return {
    'plan-migration': async ({ input }, _call, identity) => ({
      output: await migrations.plan(route(input, identity)),
    }),
    'start-migration': async ({ input }, _call, identity) => ({
      output: await migrations.start(route(input, identity), identity.name),
    }),
    'list-migrations': async (_request, _call, identity) => {
      const visible = migrations.all().filter(migration => mayMigrate(identity, migration));
      const newest = visible.slice(0, limits.page_items_max);
      return { output: { migrations: newest.map(migration => migrations.view(migration)) } };
    },
    'show-migration': async ({ input }, _call, identity) => {
      const limit = Math.min(Math.max(input.limit, 1), limits.page_items_max);
      const migration = migrationOf(input.migration, identity);
      return { output: migrations.page(migration, { cursor: input.cursor, limit }) };
    },
    'run-migration': ({ input }, call, identity) => moving('run', input, call, identity),
    'verify-migration': ({ input }, call, identity) => moving('verify', input, call, identity),
    'rollback-migration': ({ input }, call, identity) => moving('rollback', input, call, identity),
    'destroy-copies': ({ input }, call, identity) => moving('destroyCopies', input, call, identity),
  };
}

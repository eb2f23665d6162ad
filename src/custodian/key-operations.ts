import { destroys, exports } from '../custody/engine.ts';
import { keyId } from '../custody/ids.ts';
import { createVerifier } from '../foundation/ed25519.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import { Secret } from '../foundation/secret.ts';
import type { KeyRegistry } from '../store/key-registry.ts';
import type { Door } from './door.ts';
import { targetOf } from './door.ts';
import { type KeyLifecycle, keyUnknown, keyView, tagOf } from './keys.ts';
import type { Operations } from './operation.ts';
import type { SlotKeeper } from './slot-keeper.ts';

/** Keys: which there are, where they come from, and where they end. */
export function keyOperations(
  world: KeyWorld,
): Operations<
  | 'list-keys'
  | 'show-key'
  | 'generate-key'
  | 'import-key'
  | 'adopt-key'
  | 'tag-key'
  | 'disable-key'
  | 'enable-key'
  | 'export-key'
  | 'destroy-key'
  | 'verify'
> {
  const { door, keys, registry } = world;
  return {
    'list-keys': async ({ input }, call, identity) => {
      const only = input.slot === undefined ? undefined : door.visibleSlot(input.slot, identity).id;
      const limit = Math.min(Math.max(input.limit, 1), limits.page_items_max);
      const found = registry.page({
        which: record =>
          (only === undefined || record.slot === only) && door.mayReadKey(targetOf(record), identity, call),
        after: input.cursor,
        limit: limit + 1,
      });
      const page = found.slice(0, limit).map(keyView);
      const last = found.length > limit ? page.at(-1)?.id : undefined;
      return { output: { keys: page, ...(last === undefined ? {} : { next: last }) } };
    },
    'show-key': async ({ input }, call, identity) => ({
      output: keyView(door.visibleKey(input.key, identity, call)),
    }),
    'generate-key': async ({ input }, _call, identity) => {
      const id = keyId(input.key);
      const keeper = door.slotForKeys(input.slot, identity, 'generate');
      return { output: await keeper.watched(keys.generate(id, keeper, input.tags)) };
    },
    'import-key': async ({ input, bytes }, _call, identity) => {
      using seed = Secret.fromBytes(bytes?.[0] ?? new Uint8Array(), { wipe: true });
      const id = keyId(input.key);
      const keeper = door.slotForKeys(input.slot, identity, 'import');
      const group = door.groups.of(keeper.id);
      return { output: await keeper.watched(keys.import(id, keeper, seed, input.tags, group)) };
    },
    'adopt-key': async ({ input }, _call, identity) => {
      const id = keyId(input.key);
      const keeper = door.slotForKeys(input.slot, identity, 'import');
      return { output: await keeper.watched(keys.adopt(id, keeper, input.reference, input.tags)) };
    },
    'tag-key': async ({ input }, _call, identity) => {
      const { id } = door.managedKey(input.key, identity, undefined);
      return { output: keyView(registry.setTags(id, input.tags.map(tagOf))) };
    },
    'disable-key': async ({ input }, _call, identity) => {
      const { id } = door.managedKey(input.key, identity, 'manage');
      return { output: keyView(registry.setState(id, 'disabled')) };
    },
    'enable-key': async ({ input }, _call, identity) => {
      const { id } = door.managedKey(input.key, identity, undefined);
      return { output: keyView(registry.setState(id, 'active')) };
    },
    'export-key': async ({ input }, _call, identity) => {
      const record = door.managedKey(input.key, identity, 'export');
      const keeper = door.slotOf(record);
      const session = keeper.session();
      if (!record.exportable || !exports(session)) {
        throw new KeyslotError('KEY_NOT_EXPORTABLE', `The key ${record.id} cannot leave slot ${keeper.id}.`);
      }
      using seed = await keeper.watched(session.export(record.id));
      return { output: keyView(record), bytes: [seed.use(bytes => Uint8Array.from(bytes))] };
    },
    'destroy-key': async ({ input }, _call, identity) => {
      const record = door.managedKey(input.key, identity, 'manage');
      const group = door.groups.of(record.slot);
      const keepers = group ? await group.holders(record) : [door.slotOf(record)];
      const sessions = keepers.map(keeper => destroying(keeper));
      // Written down first: a key that is half destroyed signs nothing any more.
      const destroyed = registry.setState(record.id, 'destroyed');
      for (const keeper of keepers) await keeper.unused(record.id);
      for (const { keeper, session } of sessions) {
        await keeper.watched(session.destroy(record.id));
        keeper.forgetSigner(record.id);
      }
      group?.forget(record.id);
      return { output: keyView(destroyed) };
    },
    verify: async ({ input, bytes }, call, identity) => {
      const record = door.visibleKey(input.key, identity, call);
      const [message = new Uint8Array(), signature = new Uint8Array()] = bytes ?? [];
      if (!record.publicKey) throw keyUnknown(record.id);
      // Checking needs no slot: the registered public key is enough, even while the slot is locked.
      return { output: { valid: await createVerifier(record.publicKey).verify(message, signature) } };
    },
  };
}

function destroying(keeper: SlotKeeper) {
  const session = keeper.session();
  if (destroys(session)) return { keeper, session };
  throw new KeyslotError('POWER_MISSING', `Slot ${keeper.id} cannot destroy keys.`);
}

export interface KeyWorld {
  readonly door: Door;
  readonly keys: KeyLifecycle;
  readonly registry: KeyRegistry;
}

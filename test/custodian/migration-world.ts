import { join } from 'node:path';
import { LocalCustodian } from '../../src/custodian/custodian.ts';
import type { Slot } from '../../src/custody/engine.ts';
import { slotId } from '../../src/custody/ids.ts';
import { createEncryptedFileEngine, encryptedFileSettings } from '../../src/engines/encrypted-file/index.ts';
import { createPkcs11Engine, pkcs11Settings } from '../../src/engines/pkcs11/index.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import { Store } from '../../src/store/store.ts';
import { auditOf, people } from './lab.ts';

/** Where everything is that outlives a custodian which is killed. */
export interface WorldPlace {
  readonly folder: string;
  readonly module: string;
  readonly tokenLabel: string;
  readonly tokenPin: string;
}

export interface World extends AsyncDisposable {
  readonly custodian: LocalCustodian;
  readonly store: Store;
}

/** What stands between the custodian and its slots and store; a test child stops there. */
export interface Bends {
  slot?(slot: Slot): Slot;
  store?(file: string): Store;
}

/** A custodian over key files (slot `files`) and a SoftHSM token (slot `token`), both of which stay. */
export async function openWorld(place: WorldPlace, bends: Bends = {}): Promise<World> {
  await using opened = new AsyncDisposableStack();
  const file = join(place.folder, 'keyslot.db');
  const store = opened.use(bends.store?.(file) ?? new Store(file));
  const files = opened.use(
    createEncryptedFileEngine(
      slotId('files'),
      { ...encryptedFileSettings.parse({}), folder: join(place.folder, 'keys') },
      silentLog,
    ),
  );
  const settings = pkcs11Settings.parse({ module: place.module, tokenLabel: place.tokenLabel });
  const token = opened.use(createPkcs11Engine(slotId('token'), settings, silentLog));
  const bent = (slot: Slot) => bends.slot?.(slot) ?? slot;
  const [fileSlots, tokenSlots] = [await files.slots(), await token.slots()];
  const custodian = opened.use(
    await LocalCustodian.create({
      store,
      slots: [
        ...fileSlots.map(slot => ({ slot: bent(slot), access, readPin: pinOf('a long enough secret') })),
        ...tokenSlots.map(slot => ({ slot: bent(slot), access, readPin: pinOf(place.tokenPin) })),
      ],
      identities: Object.values(people),
      sessions: { idle_ms: 60_000, absolute_ms: 60_000 },
      audit: auditOf(join(place.folder, 'audit')),
      policies: { documents: [everythingAllowed('everything', 'all')] },
      log: silentLog,
    }),
  );
  const [failure] = await custodian.openUnattended();
  if (failure) throw failure;
  const keep = opened.move();
  return { custodian, store, [Symbol.asyncDispose]: () => keep.disposeAsync() };
}

const access = 'identity' as const;
const pinOf = (pin: string) => async () => Secret.fromText(pin);

import { join } from 'node:path';
import { LocalCustodian } from '../../src/custodian/custodian.ts';
import type { CustodyLabel, Engine, Slot } from '../../src/custody/engine.ts';
import {
  createEncryptedFileEngine,
  createHsmSimEngine,
  createKmsEngine,
  createMemoryEngine,
  createMpcEngine,
  createPkcs11Engine,
  encryptedFileSettings,
  hsmSimSettings,
  kmsSettings,
  mpcSettings,
  pkcs11Settings,
  Secret,
  silentLog,
  slotId,
} from '../../src/index.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import { Store } from '../../src/store/store.ts';
import { auditOf, people } from './lab.ts';

/** Where everything is that outlives a custodian which is killed. The KMS is found by the environment. */
export interface Place {
  readonly folder: string;
  readonly module: string;
  readonly tokenPin: string;
  readonly kmsKey: string;
}

/** Labels of the two tokens that a place needs. */
export const nativeToken = 'native';
export const wrappedToken = 'wrapped';

interface Custody {
  readonly label: CustodyLabel;
  readonly pin: (place: Place) => string;
  /** What its sessions can do, as it matters for moving keys. */
  readonly gives: boolean;
  readonly takes: boolean;
  /** Whether it takes part where the custodian is killed: what is in memory alone does not survive that. */
  readonly killed: boolean;
  make(place: Place): Engine;
}

const folderOf = (place: Place, slot: string) => join(place.folder, slot);
const filePin = () => 'a long enough secret';
const both = { gives: true, takes: true, killed: true };

/** Every custody under the name of its slot. */
export const custodies = {
  file: {
    ...both,
    label: 'encrypted-file',
    pin: filePin,
    make: place => {
      const settings = { ...encryptedFileSettings.parse({}), folder: folderOf(place, 'file') };
      return createEncryptedFileEngine(slotId('file'), settings, silentLog);
    },
  },
  'file-page-form': {
    ...both,
    killed: false, // the same engine as `file`, with a key derivation for each look at a key
    label: 'encrypted-file',
    pin: filePin,
    make: place => {
      const folder = folderOf(place, 'file-page-form');
      const settings = { ...encryptedFileSettings.parse({ envelope: 'agentic-wallet' }), folder };
      return createEncryptedFileEngine(slotId('file-page-form'), settings, silentLog);
    },
  },
  sim: {
    ...both,
    label: 'simulated-hsm',
    pin: filePin,
    make: place => {
      const settings = { ...hsmSimSettings.parse({}), folder: folderOf(place, 'sim') };
      const moduleSecret = async () => Secret.fromText('a module secret');
      return createHsmSimEngine(slotId('sim'), settings, moduleSecret, silentLog);
    },
  },
  'kms-simulated': {
    ...both,
    label: 'simulated-kms',
    pin: filePin,
    make: place => {
      const folder = folderOf(place, 'kms-simulated');
      const settings = { ...kmsSettings.parse({ mode: 'simulated' }), folder };
      return createKmsEngine(slotId('kms-simulated'), settings, silentLog);
    },
  },
  'kms-envelope': {
    ...both,
    label: 'kms-envelope',
    pin: () => '',
    make: place => {
      const folder = folderOf(place, 'kms-envelope');
      const settings = { ...kmsSettings.parse({ mode: 'aws-envelope', keyId: place.kmsKey }), folder };
      return createKmsEngine(slotId('kms-envelope'), settings, silentLog);
    },
  },
  'kms-native': {
    ...both,
    gives: false,
    takes: false,
    label: 'kms-native',
    pin: () => '',
    make: place => {
      const folder = folderOf(place, 'kms-native');
      const settings = { ...kmsSettings.parse({ mode: 'aws-native' }), folder };
      return createKmsEngine(slotId('kms-native'), settings, silentLog);
    },
  },
  mpc: {
    ...both,
    label: 'shamir-envelope',
    pin: () => 'node one,node two,node three',
    make: place => {
      const settings = { ...mpcSettings.parse({}), folder: folderOf(place, 'mpc') };
      return createMpcEngine(slotId('mpc'), settings, silentLog);
    },
  },
  wrapped: {
    ...both,
    label: 'hsm-wrapped',
    pin: place => place.tokenPin,
    make: place => {
      const folder = folderOf(place, 'wrapped');
      const { module } = place;
      const settings = pkcs11Settings.parse({ module, tokenLabel: wrappedToken, mode: 'wrapped', folder });
      return createPkcs11Engine(slotId('wrapped'), settings, silentLog);
    },
  },
  native: {
    ...both,
    gives: false,
    label: 'hsm-native',
    pin: place => place.tokenPin,
    make: ({ module }) => {
      const settings = pkcs11Settings.parse({ module, tokenLabel: nativeToken });
      return createPkcs11Engine(slotId('native'), settings, silentLog);
    },
  },
  memory: {
    ...both,
    killed: false,
    label: 'memory',
    pin: filePin,
    make: () => createMemoryEngine(slotId('memory')),
  },
} as const satisfies Record<string, Custody>;

export type CustodyName = keyof typeof custodies;
export const custodyNames = Object.keys(custodies) as CustodyName[];

export interface OpenCustodies extends AsyncDisposable {
  readonly custodian: LocalCustodian;
}

/** One custodian over a slot of every custody, all of them open. `bend` stands between it and its slots. */
export async function openEveryCustody(
  place: Place,
  bend: (slot: Slot) => Slot = slot => slot,
): Promise<OpenCustodies> {
  await using opened = new AsyncDisposableStack();
  const store = opened.use(new Store(join(place.folder, 'keyslot.db')));
  const slots = [];
  for (const name of custodyNames) {
    const { make, pin } = custodies[name];
    const [slot] = await opened.use(make(place)).slots();
    if (!slot) throw new Error(`${name} has no slot.`);
    const readPin = async () => Secret.fromText(pin(place));
    slots.push({ slot: bend(slot), access: 'identity' as const, readPin });
  }
  const custodian = opened.use(
    await LocalCustodian.create({
      store,
      slots,
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
  return { custodian, [Symbol.asyncDispose]: () => keep.disposeAsync() };
}

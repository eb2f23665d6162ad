import { randomBytes } from 'node:crypto';
import { canaryKey } from '../custody/canary-key.ts';
import type { KeyInfo, Session } from '../custody/engine.ts';
import { type SlotId, slotId } from '../custody/ids.ts';
import { createVerifier } from '../foundation/ed25519.ts';
import { type ErrorCode, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { type Log, silentLog } from '../foundation/log.ts';
import type { Secret } from '../foundation/secret.ts';
import { KeyRegistry } from '../store/key-registry.ts';
import { Latches } from '../store/latches.ts';
import { Store } from '../store/store.ts';
import { createEngine } from './catalogue.ts';
import { runAsChild, tell } from './child.ts';
import { type Config, keyFolderOf, type SlotConfig } from './config.ts';
import { startCustodian } from './custodian-start.ts';
import { Home } from './home.ts';
import type { PolicyDocumentShape } from './policy-files.ts';
import { pinReader } from './secrets.ts';

/**
 * The process of a restore drill: starts the custodian on the restored state, and then opens what slots it can, looks
 * at their keys and has their canaries sign. In a token it makes, changes and removes nothing: the custodian that is
 * started opens no slot, and no key of a caller signs.
 */
export interface DrillBoot {
  /** Of the restored state folder, with the secrets where they are; see `drillConfig`. */
  readonly config: Config;
  readonly policies: readonly PolicyDocumentShape[];
}

export interface DrillAnswer {
  readonly start: Outcome;
  readonly slots: readonly SlotDrill[];
}

type Outcome =
  | { readonly ok: true }
  | { readonly ok: false; readonly code: ErrorCode; readonly detail: string };

export interface SlotDrill {
  readonly slot: string;
  readonly engine: string;
  /**
   * `opened`; `pin-missing`: its PIN cannot be read here; `not-here`: its token or service is not reached from here;
   * `refused`: everything else that keeps it shut; `not-kept`: its keys are in no backup.
   */
  readonly outcome: 'opened' | 'pin-missing' | 'not-here' | 'refused' | 'not-kept';
  readonly code?: ErrorCode;
  readonly detail?: string;
  readonly keys?: {
    readonly registered: number;
    /** Found, with the public key of the registry. */
    readonly proven: number;
    /** At most a hundred of them. */
    readonly missing: readonly string[];
    readonly different: readonly string[];
  };
  /** Whether the canary signed; `none` where the slot has no such key. */
  readonly canary?: 'signed' | 'failed' | 'none';
}

runAsChild<DrillBoot, DrillAnswer>(async boot => ({
  ready: await drill(boot),
  stop: async () => undefined,
}));

async function drill(boot: DrillBoot): Promise<DrillAnswer> {
  using home = new Home(boot.config.home);
  tell('the custodian');
  const start = await started(boot, home);
  using store = new Store(home.storeFile);
  const slots: SlotDrill[] = [];
  for (const slot of boot.config.slots) {
    tell(`slot ${slot.id}`);
    slots.push({ slot: slot.id, engine: slot.engine, ...(await drilled(boot.config, slot, store)) });
  }
  return { start, slots };
}

/** Store, audit log, policies and registry are taken up as at any start. */
async function started({ config, policies }: DrillBoot, home: Home): Promise<Outcome> {
  const shut = config.slots.map(slot => ({ ...slot, pin: { attended: true }, canary: 'off' }) as const);
  try {
    const custodian = await startCustodian({
      config: { ...config, slots: shut },
      identities: [],
      policies,
      storeFile: home.storeFile,
      socketFile: home.socketFile,
      bootSecret: randomBytes(32),
      firstStart: false,
    });
    await custodian.stop();
    return { ok: true };
  } catch (thrown) {
    return { ok: false, ...said(thrown) };
  }
}

type Drilled = Omit<SlotDrill, 'slot' | 'engine'>;

async function drilled(config: Config, slot: SlotConfig, store: Store): Promise<Drilled> {
  if (slot.engine === 'memory') return { outcome: 'not-kept' };
  const readPin = pinReader(config, slot, silentLog);
  if (!readPin) return { outcome: 'pin-missing', detail: 'An operator opens this slot.' };
  try {
    using pin = await readPin();
    if (await new Latches(store).holds(slotId(slot.id), pin)) {
      return { outcome: 'refused', code: 'SLOT_LATCHED', detail: 'Its token refused this PIN before.' };
    }
    return await openedSlot(config, slot, pin, new KeyRegistry(store));
  } catch (thrown) {
    const { code, detail } = said(thrown);
    return { outcome: outcomeOf(code), code, detail };
  }
}

async function openedSlot(
  config: Config,
  slot: SlotConfig,
  pin: Secret,
  registry: KeyRegistry,
): Promise<Drilled> {
  const log: Log = silentLog;
  const id = slotId(slot.id);
  const registered = registry.ofSlot(id).filter(({ state }) => state !== 'destroyed' && state !== 'pending');
  if (registered.length === 0 && slot.engine === 'pkcs11' && slot.settings.mode === 'wrapped') {
    // Opening an empty one makes its wrapping key where there is none.
    return { outcome: 'refused', detail: `No keys are registered in ${keyFolderOf(config, slot)}.` };
  }
  await using engine = await createEngine(config, slot, log);
  const [place] = await engine.slots();
  if (!place) throw new KeyslotError('SLOT_UNKNOWN', `Slot ${slot.id} is not there.`);
  await using session = await place.open(pin);
  const present = await listed(session);
  const missing = registered.filter(key => !present.has(key.id)).map(key => key.id);
  const different = registered
    .filter(({ id: key, publicKey }) => {
      const found = present.get(key);
      return found && (!publicKey || Buffer.compare(found.publicKey, publicKey) !== 0);
    })
    .map(key => key.id);
  return {
    outcome: 'opened',
    keys: {
      registered: registered.length,
      proven: registered.length - missing.length - different.length,
      missing: missing.slice(0, named_max),
      different: different.slice(0, named_max),
    },
    ...(await canarySigned(session, id, present.get(canaryKey))),
  };
}

async function canarySigned(
  session: Session,
  slot: SlotId,
  canary: KeyInfo | undefined,
): Promise<Pick<SlotDrill, 'canary' | 'code' | 'detail'>> {
  if (!canary) return { canary: 'none' };
  const text = Buffer.from(`keyslot restore drill\n${slot}\n${randomBytes(16).toString('hex')}`);
  try {
    const signature = await (await session.signer(canaryKey)).sign(text);
    if (await createVerifier(canary.publicKey).verify(text, signature)) return { canary: 'signed' };
    return { canary: 'failed', code: 'SIGNATURE_WITHHELD', detail: 'Its signature is not valid.' };
  } catch (thrown) {
    return { canary: 'failed', ...said(thrown) };
  }
}

async function listed(session: Session): Promise<ReadonlyMap<string, KeyInfo>> {
  const present = new Map<string, KeyInfo>();
  for await (const info of session.keys()) present.set(info.id, info);
  return present;
}

function outcomeOf(code: ErrorCode): SlotDrill['outcome'] {
  if (code === 'SECRET_UNREADABLE') return 'pin-missing';
  return notHere.has(code) ? 'not-here' : 'refused';
}

const notHere: ReadonlySet<ErrorCode> = new Set([
  'TOKEN_NOT_FOUND',
  'TOKEN_UNAVAILABLE',
  'MODULE_UNUSABLE',
  'KMS_UNAVAILABLE',
]);

function said(thrown: unknown): { readonly code: ErrorCode; readonly detail: string } {
  const error = toKeyslotError(thrown);
  if (error.code === 'INTERNAL') console.error(error.cause);
  return { code: error.code, detail: error.message };
}

const named_max = 100;

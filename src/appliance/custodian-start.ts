import { type CustodianOptions, LocalCustodian } from '../custodian/custodian.ts';
import type { Identity } from '../custodian/identities.ts';
import { CustodianServer } from '../custodian/server.ts';
import type { Desk } from '../custodian/signing-desk.ts';
import type { SlotSetting } from '../custodian/slot-keeper.ts';
import { isSettingError } from '../custodian/slot-keeper.ts';
import type { Engine } from '../custody/engine.ts';
import { slotId } from '../custody/ids.ts';
import { KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import { Secret } from '../foundation/secret.ts';
import { Store } from '../store/store.ts';
import type { OperationName } from '../wire/custodian.ts';
import { adoptionSource } from './adoption.ts';
import { createEngine, custodyOf } from './catalogue.ts';
import {
  adoptedSuffix,
  type Config,
  canaryOf,
  inHome,
  keyFolderOf,
  type SlotConfig,
  walletSlot,
} from './config.ts';
import { apiTokensKey, jwtIssuersOf } from './identities.ts';
import { createLog } from './logger.ts';
import type { PolicyDocumentShape } from './policy-files.ts';
import { pinReader } from './secrets.ts';

export interface CustodianBoot {
  readonly config: Config;
  readonly identities: readonly Identity[];
  /** The policy documents of the configuration, as they were at the first start. */
  readonly policies: readonly PolicyDocumentShape[];
  readonly storeFile: string;
  readonly socketFile: string;
  readonly bootSecret: Uint8Array;
  /** At the first start a wrong setting stops the appliance; later it only takes its slot out of service. */
  readonly firstStart: boolean;
}

/**
 * Starts what holds the keys: engines, slots, state. It listens on no network. `startAnew` is called at most once,
 * when calls to a token hang so that only another process helps. `desk` takes the place of policies and the audit
 * log, for measuring what they cost.
 */
export async function startCustodian(boot: CustodianBoot, options: { startAnew?(): void; desk?: Desk } = {}) {
  process.umask(0o077);
  const log = createLog('custodian');
  const { config } = boot;
  await using opened = new AsyncDisposableStack();
  const store = opened.use(new Store(boot.storeFile));
  const slots: SlotSetting[] = [];
  for (const slot of config.slots) {
    const engine = opened.use(await engineOf(config, slot, boot.firstStart, log));
    slots.push(await slotSetting(config, slot, engine, boot.firstStart, log));
  }
  const { idle_s, absolute_s } = config.sessions;
  const custodian = opened.use(
    await LocalCustodian.create({
      store,
      slots,
      groups: groupSettings(config),
      identities: boot.identities,
      sessions: { idle_ms: idle_s * 1000, absolute_ms: absolute_s * 1000 },
      lease_ms: config.facade.lease_s * 1000,
      wallets: await walletSetting(config, boot.firstStart, log),
      audit: auditSetting(config),
      policies: {
        documents: boot.policies,
        refusePermissive: config.profile === 'production',
        rpcUrl: config.solanaRpcUrl,
        freezeFile: inHome(config, freezeFile),
      },
      jwtIssuers: jwtIssuersOf(config),
      apiTokens: await apiTokenSetting(config),
      exports: config.exports.enabled,
      approvals: neededApprovals(config),
      idempotency_ms: config.idempotency.retention_s * 1000,
      desk: options.desk,
      beyondHelp: onceBeyondHelp(log, options.startAnew),
      log,
    }),
  );
  await openSlots(custodian, boot.firstStart, log);
  const bootSecret = opened.use(Secret.fromBytes(boot.bootSecret, { wipe: true }));
  opened.use(await CustodianServer.listen({ path: boot.socketFile, bootSecret, custodian, log }));
  const keep = opened.move(); // disposed in reverse: first the server, last the store
  return { ready: {}, stop: () => keep.disposeAsync() };
}

/** One slot that hangs is enough, and whatever hangs while this process stops changes nothing. */
function onceBeyondHelp(
  log: Log,
  startAnew: (() => void) | undefined,
): NonNullable<CustodianOptions['beyondHelp']> {
  let begun = false;
  return (slot, error) => {
    if (begun) return;
    begun = true;
    log.error(
      { slot, err: error },
      'calls to a token hang for good: this process makes way for the next one',
    );
    startAnew?.();
  };
}

const groupSettings = ({ groups }: Config): NonNullable<CustodianOptions['groups']> =>
  groups.map(({ id, members }) => ({
    id,
    members: members.map(({ slot, weight }) => ({ slot: slotId(slot), weight })),
  }));

/** The audit log is beside the store; its key is in a slot of its own, where the configuration names one. */
function auditSetting(config: Config): CustodianOptions['audit'] {
  const { node, folder, slot, key, segmentRecords, checkpoint, witnesses } = config.audit;
  return {
    node,
    folder: inHome(config, folder),
    segment_records: segmentRecords,
    checkpoint: { every_ms: checkpoint.every_s * 1000, records: checkpoint.records },
    witnesses: witnesses.map(witness =>
      'file' in witness ? { file: inHome(config, witness.file) } : { url: witness.url },
    ),
    detail: { profile: config.profile, node_version: process.version },
    ...(slot === undefined ? {} : { key: { slot: slotId(slot), id: key } }),
  };
}

const neededApprovals = ({ dualControl: { approvals, operations } }: Config) =>
  new Map<OperationName, number>(
    (['export-key', 'destroy-key', ...operations] as const).map(operation => [operation, approvals]),
  );

const apiTokenSetting = async (config: Config): Promise<CustodianOptions['apiTokens']> =>
  config.apiTokens.enabled ? { key: await apiTokensKey(config), max_s: config.apiTokens.max_s } : undefined;

/** The file in the state folder that freezes the appliance by being there. */
const freezeFile = 'freeze';

async function openSlots(custodian: LocalCustodian, firstStart: boolean, log: Log): Promise<void> {
  for (const failure of await custodian.openUnattended()) {
    if (firstStart && isSettingError(failure)) throw failure;
    log.error({ err: failure }, 'a slot could not be opened');
  }
}

/** At the first start a folder that cannot be adopted is refused; later its wallets are those of the last time. */
async function walletSetting(
  config: Config,
  firstStart: boolean,
  log: Log,
): Promise<CustodianOptions['wallets']> {
  const slot = config.slots.find(each => each.id === walletSlot(config));
  if (!slot) return undefined;
  const made = { slot: slotId(slot.id) };
  const suffix = adoptedSuffix(slot);
  if (config.compat.adopt === undefined || suffix === undefined) return made;
  try {
    const { adopt, adoptDatabase } = config.compat;
    const from = inHome(config, adopt);
    const folder = keyFolderOf(config, slot);
    const database = adoptDatabase && inHome(config, adoptDatabase);
    return { ...made, adoption: await adoptionSource({ from, database, suffix, folder, log }) };
  } catch (thrown) {
    if (firstStart) throw thrown;
    log.error({ err: thrown }, 'no wallets are adopted');
    return made;
  }
}

/** At the first start a module that cannot be used is refused by the name of its setting; later it waits as failed. */
async function engineOf(config: Config, slot: SlotConfig, firstStart: boolean, log: Log): Promise<Engine> {
  try {
    return await createEngine(config, slot, log);
  } catch (thrown) {
    const { code, message } = toKeyslotError(thrown);
    const error = new KeyslotError(code, `slots.${slot.id}.settings.module: ${message}`, { cause: thrown });
    if (firstStart) throw error;
    return unusableEngine(slot, error);
  }
}

function unusableEngine(slot: SlotConfig, error: KeyslotError): Engine {
  const refuse = () => Promise.reject(error);
  return {
    name: slot.engine,
    slots: async () => [{ id: slotId(slot.id), describe: refuse, open: refuse }],
    [Symbol.asyncDispose]: async () => undefined,
  };
}

/** Whether the appliance can begin without the slot's device: it opens by itself later, and its group signs meanwhile. */
const hasStandIn = ({ groups }: Config, { id, pin }: SlotConfig): boolean =>
  pin !== 'none' &&
  !('attended' in pin) &&
  groups.some(({ members }) => members.some(({ slot }) => slot === id));

async function slotSetting(
  config: Config,
  slot: SlotConfig,
  engine: Engine,
  firstStart: boolean,
  log: Log,
): Promise<SlotSetting> {
  const [first] = await engine.slots();
  if (!first) throw new TypeError(`The engine of slot ${slot.id} has no slot.`);
  const readPin = pinReader(config, slot, log);
  const fallback = {
    id: first.id,
    engine: slot.engine,
    custody: custodyOf(slot),
    summary: 'not reachable when the custodian started',
    details: {},
  };
  return {
    slot: first,
    access: slot.access,
    canary: canaryOf(slot),
    required: slot.required,
    ...(firstStart && !hasStandIn(config, slot) ? {} : { fallback }),
    ...(slot.pin === 'none' ? { hasPin: false } : {}),
    ...(readPin ? { readPin } : {}),
  };
}

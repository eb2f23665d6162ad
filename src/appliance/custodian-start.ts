import { type CustodianOptions, LocalCustodian } from '../custodian/custodian.ts';
import type { Identity } from '../custodian/identities.ts';
import type { Configuration } from '../custodian/reload.ts';
import { CustodianServer } from '../custodian/server.ts';
import type { Desk } from '../custodian/signing-desk.ts';
import type { SlotSetting } from '../custodian/slot-keeper.ts';
import { isSettingError } from '../custodian/slot-keeper.ts';
import { slotId } from '../custody/ids.ts';
import type { Log } from '../foundation/log.ts';
import { Secret } from '../foundation/secret.ts';
import { Store } from '../store/store.ts';
import type { OperationName } from '../wire/custodian.ts';
import { adoptionSource } from './adoption.ts';
import type { Parent } from './child.ts';
import { adoptedSuffix, type Config, inHome, keyFolderOf, type SlotConfig, walletSlot } from './config.ts';
import { Engines, sameDevice } from './engines.ts';
import { apiTokensKey, jwtIssuersOf } from './identities.ts';
import { createLog } from './logger.ts';
import type { PolicyDocumentShape } from './policy-files.ts';
import type { Proposal } from './snapshot.ts';

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

/** What is asked of the custodian by whoever sent a signal. */
export type CustodianOrders = { readonly reload: true } | { readonly drained: true };

/** What the custodian asks of its supervisor: what the configuration says now; that this is in force. */
export type CustodianAsks = 'proposal' | 'taken';

/**
 * Starts what holds the keys: engines, slots, state. It listens on no network. `startAnew` is called at most once,
 * when calls to a token hang so that only another process helps. `desk` takes the place of policies and the audit
 * log, for measuring what they cost. Without a `parent` there is no other configuration to be taken.
 */
export async function startCustodian(
  boot: CustodianBoot,
  options: { parent?: Pick<Parent, 'ask' | 'answer' | 'startAnew'>; desk?: Desk } = {},
) {
  process.umask(0o077);
  const log = createLog('custodian');
  const { config } = boot;
  const { parent, desk } = options;
  await using opened = new AsyncDisposableStack();
  const store = opened.use(new Store(boot.storeFile));
  const engines = opened.use(new Engines(log));
  const slots: SlotSetting[] = [];
  for (const slot of config.slots) slots.push(await engines.make(config, slot, boot.firstStart));
  const custodian = opened.use(
    await LocalCustodian.create({
      store,
      slots,
      groups: groupSettings(config),
      ...peopleSetting(boot),
      apiTokens: await apiTokenSetting(config),
      sessions: sessionLimits(config),
      wallets: await walletSetting(config, boot.firstStart, log),
      audit: auditSetting(config),
      policies: {
        documents: boot.policies,
        refusePermissive: config.profile === 'production',
        rpcUrl: config.solanaRpcUrl,
        freezeFile: inHome(config, freezeFile),
      },
      exports: config.exports.enabled,
      approvals: neededApprovals(config),
      idempotency_ms: config.idempotency.retention_s * 1000,
      desk,
      source: parent && (() => configurationOf(parent, engines)),
      beyondHelp: onceBeyondHelp(log, parent?.startAnew),
      log,
    }),
  );
  parent?.answer(question => obey(custodian, question as CustodianOrders));
  await openSlots(custodian, boot.firstStart, log);
  const bootSecret = opened.use(Secret.fromBytes(boot.bootSecret, { wipe: true }));
  opened.use(await CustodianServer.listen({ path: boot.socketFile, bootSecret, custodian, log }));
  const keep = opened.move(); // disposed in reverse: first the server, last the store
  return { ready: {}, stop: () => keep.disposeAsync() };
}

async function obey(custodian: LocalCustodian, orders: CustodianOrders): Promise<void> {
  if ('reload' in orders) await custodian.reload('signal');
  else await custodian.noteDrain('signal');
}

/** What the files say now, checked by the supervisor, with the engines of new slots made. */
async function configurationOf(parent: Pick<Parent, 'ask'>, engines: Engines): Promise<Configuration> {
  const proposal = (await parent.ask('proposal' satisfies CustodianAsks, proposal_ms)) as Proposal;
  const { config, policies, diff } = proposal;
  const before = engines.slots;
  const isNew = (slot: SlotConfig) => !sameDevice(before.get(slot.id), slot);
  await using made = engines.draft();
  const added: SlotSetting[] = [];
  for (const slot of config.slots.filter(isNew)) added.push(await made.make(config, slot));
  const kept = config.slots.filter(slot => !isNew(slot));
  const apiTokens = await apiTokenSetting(config);
  const draft = made.move();
  return {
    diff,
    slots: {
      all: config.slots.map(({ id }) => slotId(id)),
      added,
      adjusted: kept.map(slot => ({ id: slotId(slot.id), terms: engines.terms(config, slot) })),
    },
    groups: groupSettings(config),
    people: { ...peopleSetting(proposal), apiTokens },
    policies,
    sessions: sessionLimits(config),
    approvals: neededApprovals(config),
    exports: config.exports.enabled,
    keep: async () => {
      draft.keep(kept);
      await parent.ask('taken' satisfies CustodianAsks, proposal_ms);
    },
    retire: slot => draft.retire(slot),
    [Symbol.asyncDispose]: () => draft[Symbol.asyncDispose](),
  };
}

const proposal_ms = 30_000;

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

const peopleSetting = ({ config, identities }: Pick<CustodianBoot, 'config' | 'identities'>) => ({
  identities,
  jwtIssuers: jwtIssuersOf(config),
  lease_ms: config.facade.lease_s * 1000,
});

const sessionLimits = ({ sessions: { idle_s, absolute_s } }: Config) => ({
  idle_ms: idle_s * 1000,
  absolute_ms: absolute_s * 1000,
});

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

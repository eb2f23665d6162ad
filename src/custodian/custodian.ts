import type { AuditLog } from '../audit/audit-log.ts';
import { type AuditLogOptions, openAuditLog } from '../audit/open.ts';
import { keyId, type SlotId } from '../custody/ids.ts';
import { type Clock, systemClock } from '../foundation/clock.ts';
import { isKeyslotError, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import { Secret } from '../foundation/secret.ts';
import { SlidingWindows } from '../policy/windows.ts';
import { CounterRows } from '../store/counters.ts';
import { Freezes } from '../store/freezes.ts';
import { IdempotencyRows } from '../store/idempotency.ts';
import { KeyRegistry } from '../store/key-registry.ts';
import { Latches } from '../store/latches.ts';
import { MigrationsJournal } from '../store/migrations-journal.ts';
import { StoredPolicies } from '../store/policies.ts';
import type { Store } from '../store/store.ts';
import { WalletLabels } from '../store/wallets.ts';
import type { Call, Custodian, OperationName, Reply, Request } from '../wire/custodian.ts';
import { type AdoptionSource, adopting } from './adoption.ts';
import { Approvals } from './approvals.ts';
import { AuditKey } from './audit-key.ts';
import { auditOperations } from './audit-operations.ts';
import { requireRole, rights } from './authority.ts';
import { CallNotes, type Noted } from './call-notes.ts';
import { CallerSessions, type SessionLimits } from './caller-sessions.ts';
import { type CanaryWorld, recordedMaking } from './canary.ts';
import { Door } from './door.ts';
import { FreezeBoard } from './freeze-board.ts';
import { healthOperations } from './health-operations.ts';
import { Idempotency } from './idempotency.ts';
import type { Identities, Identity } from './identities.ts';
import { identityOperations } from './identity-operations.ts';
import { keyOperations } from './key-operations.ts';
import { KeyLifecycle } from './keys.ts';
import { Ledger } from './ledger.ts';
import { LookupTables } from './lookup-tables.ts';
import { CustodianMetrics } from './metrics.ts';
import { Migrations } from './migration.ts';
import { migrationOperations } from './migration-operations.ts';
import type { Operation, Operations } from './operation.ts';
import { People, type PeopleSetting } from './people.ts';
import { PinGuard } from './pin-guard.ts';
import { PolicyBook } from './policy-book.ts';
import { policyOperations } from './policy-operations.ts';
import { asker, Recorder, subjectOf, traceOf } from './recorder.ts';
import { Reloading, type ReloadingWorld } from './reload.ts';
import { isAway, Reopening } from './reopening.ts';
import { type Desk, SigningDesk } from './signing-desk.ts';
import { signingOperations } from './signing-operations.ts';
import type { GroupSetting } from './slot-group.ts';
import { matesOf, SlotGroups } from './slot-groups.ts';
import { SlotKeeper, type SlotSetting } from './slot-keeper.ts';
import { slotOperations } from './slot-operations.ts';
import { StageBoard, type StagesListener } from './stages.ts';
import { SteadyClock } from './steady-clock.ts';
import { Surroundings } from './surroundings.ts';
import { walletOperations } from './wallet-operations.ts';
import { Wallets } from './wallets.ts';

/**
 * The custodian: every decision that matters is made here, for whichever binding asks. `call` authenticates,
 * checks the role, takes approvals, and has what changes something written down before and after; the operations
 * themselves are in files of their own, by what they are about.
 */
export class LocalCustodian implements Custodian, AsyncDisposable {
  readonly #parts: Parts;
  readonly #opened: AsyncDisposableStack;

  private constructor(parts: Parts, opened: AsyncDisposableStack) {
    this.#parts = parts;
    this.#opened = opened;
  }

  /**
   * Describes every slot, which proves its settings, and opens none; opens the audit log and counts on from where
   * it stands. Fails as `SlotKeeper.create`, `openAuditLog`, `Ledger.recover` and `PolicyBook.open` do.
   */
  static async create(options: CustodianOptions): Promise<LocalCustodian> {
    await using opened = new AsyncDisposableStack();
    const parts = await assemble(options, opened);
    return new LocalCustodian(parts, opened.move());
  }

  /**
   * Opens the slots that open by themselves; what failed is returned, and its slot says so too. That a device is away
   * is no failure where another slot of its group has opened.
   */
  async openUnattended(): Promise<readonly KeyslotError[]> {
    const { door, recorder, log } = this.#parts;
    const failures: { readonly slot: SlotId; readonly error: KeyslotError }[] = [];
    for (const keeper of door.keepers.values()) {
      if (keeper.attended) continue;
      const failed = (thrown: unknown) => failures.push({ slot: keeper.id, error: toKeyslotError(thrown) });
      await openByItself(keeper, recorder).catch(failed);
    }
    const told = failures.filter(({ slot, error }) => {
      const replaced = isAway(error.code) && (door.groups.of(slot)?.state ?? 'down') !== 'down';
      if (replaced) log.error({ slot, err: error }, 'a slot is away, and its group does without it');
      return !replaced;
    });
    return told.map(({ error }) => error);
  }

  /** The audit log, for whoever runs the custodian. */
  get audit(): AuditLog {
    return this.#parts.audit;
  }

  /** Has somebody told of each signature, made or refused, and where its time went. */
  onStages(listener: StagesListener): Disposable {
    return this.#parts.stages.listen(listener);
  }

  async call<N extends OperationName>(name: N, request: Request<N>, call: Call): Promise<Reply<N>> {
    const { account } = call;
    if (!account) return this.#counted(name, request, call);
    const notes = new CallNotes(account);
    try {
      return await this.#counted(name, request, { ...call, notes });
    } finally {
      // Of keys and slots only those that there are: anything else may be a secret in the wrong place.
      const named = notes.identity === undefined ? {} : subjectOf(request.input);
      const existing = this.#parts.door.existing(named);
      account.take(notes.account(name, existing), notes.began_ms);
    }
  }

  #counted<N extends OperationName>(name: N, request: Request<N>, call: Noted): Promise<Reply<N>> {
    const { metrics } = this.#parts;
    const answer = this.#answered(name, request, call);
    answer.then(
      () => metrics.answered(name, undefined),
      thrown => metrics.answered(name, toKeyslotError(thrown)),
    );
    return answer;
  }

  async #answered<N extends OperationName>(name: N, request: Request<N>, call: Noted): Promise<Reply<N>> {
    const identity = await this.#admitted(name, request, call);
    const job: Job<N> = { name, request, call, identity };
    switch (traceOf[name]) {
      case 'change':
        return this.#once(job, () => this.#changed(job));
      case 'event':
        return this.#once(job, () => this.#told(job));
      case 'sign':
      case 'read':
        return this.#refusing(job, () => this.#perform(job));
    }
  }

  /** Takes the configuration as it is now, without anybody's having asked over the network. As `Reloading.run`. */
  async reload(by: string): Promise<void> {
    const { recorder, reloading } = this.#parts;
    const about = { actor: by, operation: 'reload' };
    const intent = await recorder.intent(about);
    const error = await reloading.run(by).then(() => undefined, toKeyslotError);
    await recorder.result(intent, { ...about, outcome: error ? 'refused' : 'ok', code: error?.code });
    if (error) throw error;
  }

  /** Who was let out had it said by a signal: it stands in the audit log like the request that does the same. */
  async noteDrain(by: string): Promise<void> {
    await this.#parts.recorder.event({
      actor: by,
      operation: 'drain',
      outcome: 'ok',
      detail: { drain: true },
    });
  }

  /** Locks every slot: what is signing finishes, then the logins end. The log is closed last. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#opened.disposeAsync();
  }

  /** Who asks, when they may ask for such a thing at all. */
  async #admitted(name: OperationName, request: Request<OperationName>, call: Noted): Promise<Identity> {
    if (rights[name].roles === 'nobody') return nobody;
    let identity: Identity | undefined;
    try {
      identity = await this.#parts.identities.authenticate(call.credential);
      if (call.notes) call.notes.identity = identity.name;
      requireRole(identity, name);
      return identity;
    } catch (thrown) {
      const error = toKeyslotError(thrown);
      if (!identity) this.#parts.metrics.refusedCredential(call.credential, error);
      return this.#refused({ name, request, call, identity }, error);
    }
  }

  async #perform<N extends OperationName>({ name, request, call, identity }: Job<N>): Promise<Reply<N>> {
    const perform = this.#parts.operations[name] as Operation<N>;
    return perform(request, call, identity);
  }

  /** Once under its Idempotency-Key, where the caller gave one and is somebody. */
  async #once<N extends OperationName>(job: Job<N>, work: () => Promise<Reply<N>>): Promise<Reply<N>> {
    const { name: operation, request, call, identity } = job;
    const { idempotencyKey } = call;
    if (idempotencyKey === undefined || identity === nobody) return work();
    const { input, bytes } = request;
    const { idempotency } = this.#parts;
    return this.#refusing(job, () =>
      idempotency.once({ identity: identity.name, operation, input, bytes, idempotencyKey }, work),
    ) as Promise<Reply<N>>;
  }

  /** What merely happens is written down when it has happened, and not answered before. */
  async #told<N extends OperationName>(job: Job<N>): Promise<Reply<N>> {
    const reply = await this.#refusing(job, () => this.#perform(job));
    await this.#parts.recorder.event({ ...aboutJob(job), outcome: 'ok' });
    return reply;
  }

  /**
   * What changes something is written down before it is done and after, with the approvals that it took.
   * AUDIT_UNAVAILABLE and AUDIT_FAILED before anything was done.
   */
  async #changed<N extends OperationName>(job: Job<N>): Promise<Reply<N>> {
    const { recorder, log } = this.#parts;
    const approvedBy = await this.#refusing(job, async () => this.#approved(job));
    const { slot, ...rest } = aboutJob(job);
    const about = { ...rest, ...this.#parts.door.existing({ slot }) };
    const intent = await recorder.intent({
      ...about,
      ...(approvedBy.length > 0 ? { approvals: approvedBy } : {}),
    });
    const done = await this.#perform(job).catch(toKeyslotError);
    const { detail: _said, ...named } = about;
    if (!isKeyslotError(done)) {
      await recorder.result(intent, { ...named, outcome: 'ok' });
      log.info(named, 'something was changed');
      return done;
    }
    recorder.noteRecorded(done);
    const outcome = done.entry.status < 500 ? 'refused' : 'failed';
    await recorder.result(intent, { ...named, outcome, code: done.code });
    throw done;
  }

  /** Who approved. EXPORT_DISABLED, APPROVAL_REQUIRED and its kin. */
  #approved({ name, request, call, identity }: Job<OperationName>): readonly string[] {
    if (name === 'export-key' && !this.#parts.exports.enabled) {
      throw new KeyslotError('EXPORT_DISABLED', 'The configuration does not let keys leave.');
    }
    return this.#parts.approvals.take(call.approval, identity.name, name, request.input);
  }

  async #refusing<T>(job: Job<OperationName>, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (thrown) {
      return this.#refused(job, toKeyslotError(thrown));
    }
  }

  /** Writes a refusal down and passes it on. That something could not be read for a failure below is none. */
  async #refused(
    job: Omit<Job<OperationName>, 'identity'> & { identity: Identity | undefined },
    error: KeyslotError,
  ): Promise<never> {
    if (error.entry.status < 500 || traceOf[job.name] !== 'read') {
      const { key, slot, detail, ...rest } = aboutJob(job);
      // What a stranger or a reader names need not exist, and may be a secret in the wrong place.
      const said = job.identity && traceOf[job.name] !== 'read' && detail ? { detail } : {};
      const existing = this.#parts.door.existing({ key, slot });
      await this.#parts.recorder.refusal(error, { ...rest, ...existing, ...said });
    }
    throw error;
  }
}

/** Nobody asked for it, and it stands in the audit log all the same. */
async function openByItself(keeper: SlotKeeper, recorder: Recorder): Promise<void> {
  const about = { actor: 'keyslot', operation: 'open-slot', slot: keeper.id };
  const intent = await recorder.intent(about);
  const error = await keeper.open(undefined, 'keyslot').then(() => undefined, toKeyslotError);
  await recorder.result(intent, { ...about, outcome: error ? 'failed' : 'ok', code: error?.code });
  if (error) throw error;
}

/** A device that is still away is nothing to write down again and again; that it is back, or refuses, is. */
async function openAgain(keeper: SlotKeeper, recorder: Recorder): Promise<void> {
  const error = await keeper.open(undefined, 'keyslot').then(() => undefined, toKeyslotError);
  if (!error || !isAway(error.code)) {
    const outcome = error ? 'failed' : 'ok';
    const about = { actor: 'keyslot', operation: 'open-slot', slot: keeper.id, outcome } as const;
    await recorder.event({ ...about, ...(error ? { code: error.code } : {}) });
  }
  if (error) throw error;
}

/** What somebody asks for. */
interface Job<N extends OperationName> {
  readonly name: N;
  readonly request: Request<N>;
  readonly call: Noted;
  readonly identity: Identity;
}

const aboutJob = ({
  name,
  request,
  call,
  identity,
}: Omit<Job<OperationName>, 'identity'> & { identity: Identity | undefined }) => ({
  ...asker(name, call, identity),
  ...subjectOf(request.input),
});

export interface CustodianOptions extends PeopleSetting {
  readonly store: Store;
  readonly slots: readonly SlotSetting[];
  /** Which of them hold the same keys. */
  readonly groups?: readonly GroupSetting[];
  readonly sessions: SessionLimits;
  readonly audit: AuditSetting;
  readonly policies?: {
    /** The documents of the configuration. */
    readonly documents?: readonly Readonly<Record<string, unknown>>[];
    /** Whether one that lets everything through is refused. */
    readonly refusePermissive?: boolean;
    /** The Solana node that sees through lookup tables. */
    readonly rpcUrl?: string | undefined;
    /** The file that freezes the appliance by being there. */
    readonly freezeFile?: string | undefined;
  };
  readonly exports?: boolean;
  /** How many approvals an operation takes. */
  readonly approvals?: ReadonlyMap<OperationName, number>;
  readonly idempotency_ms?: number;
  /** In place of policies and the audit log, for measuring what they cost. No configuration can say it. */
  readonly desk?: Desk | undefined;
  /** Where wallets are made, and whose wallets are taken in there. */
  readonly wallets?: { readonly slot: SlotId; readonly adoption?: AdoptionSource | undefined } | undefined;
  /** Where another configuration comes from; without it there is none to be taken. */
  readonly source?: ReloadingWorld['source'];
  /** Told when calls of a slot's module hang for good, so that only another process helps. */
  readonly beyondHelp?: (slot: SlotId, error: KeyslotError) => void;
  readonly log: Log;
  readonly clock?: Clock;
}

export interface AuditSetting
  extends Pick<
    AuditLogOptions,
    'folder' | 'node' | 'segment_records' | 'checkpoint' | 'witnesses' | 'file' | 'detail' | 'commit_ms'
  > {
  /** The key that signs checkpoints, and the slot that it has for itself; without it they are not signed. */
  readonly key?: { readonly slot: SlotId; readonly id: string } | undefined;
}

/** What everything needs at hand, made in the order in which one thing stands on another. */
async function assemble(options: CustodianOptions, opened: AsyncDisposableStack): Promise<Parts> {
  const { store, log, clock: machineClock = systemClock } = options;
  const clock = new SteadyClock(machineClock, log);
  const now = () => clock.utc();
  const registry = new KeyRegistry(store);
  const keys = new KeyLifecycle(registry, clock);
  const labels = new WalletLabels(store);
  const journal = new MigrationsJournal(store);
  // No slot opens before everything stands.
  const canaryMade: CanaryWorld['recorded'] = (slot, make) => recordedMaking(recorder, slot, make);
  const mates = new Map(matesOf(options.groups ?? []));
  const keeperOf = keeperMaker(options, { registry, journal, labels, mates, clock, store, canaryMade });
  const keepers = new Map<SlotId, SlotKeeper>();
  for (const setting of options.slots) keepers.set(setting.slot.id, await keeperOf(setting));

  const counters = new CounterRows(store);
  const rows = new IdempotencyRows(store);
  const windows = new SlidingWindows(() => now().getTime());
  const { node } = options.audit;
  const retention_ms = options.idempotency_ms ?? day_ms;
  const ledger = new Ledger({ node, windows, counters, idempotency: rows, clock, log, retention_ms });
  const metrics = opened.use(new CustodianMetrics(slot => keepers.get(slot)?.engine ?? ''));
  const auditKey = auditKeyOf(options, { keepers, registry, keys });
  const audit = await openAuditLog({
    ...options.audit,
    ...(auditKey ? { signer: auditKey.signer } : {}),
    observe: ledger.apply,
    committed: (records, took_ms) => metrics.committed(records, took_ms),
    clock,
    log,
  });
  opened.use(audit);
  opened.use(ledger);
  await ledger.recover(audit);
  // Above the log in the order of ends: what is signing finishes and is written down, and the last checkpoint is
  // signed before the slot of its key is locked.
  opened.defer(async () => {
    const last = options.audit.key && keepers.get(options.audit.key.slot);
    await Promise.all([...keepers.values()].map(keeper => (keeper === last ? undefined : keeper.lock())));
    await audit.checkpoint().catch(thrown => log.error({ err: thrown }, 'the last checkpoint was not made'));
    await last?.lock();
  });

  const recorder = new Recorder(audit, clock, log);
  const { documents = [], refusePermissive = false, rpcUrl, freezeFile } = options.policies ?? {};
  const book = await PolicyBook.open(new StoredPolicies(store), {
    configured: documents,
    refusePermissive,
    now,
  });
  const freezes = opened.use(
    await FreezeBoard.open(new Freezes(store), {
      file: freezeFile,
      now,
      log,
      frozenByFile: ({ id: freeze }) =>
        recorder.event({ actor: 'file', operation: 'freeze', outcome: 'ok', detail: { freeze } }),
    }),
  );
  const approvals = new Approvals(options.approvals ?? new Map(), clock);
  const sessions = new CallerSessions({ clock, ...options.sessions });
  const idempotency = opened.use(new Idempotency({ rows, clock, retention_ms }));
  const people = await People.open(options, { store, clock, log });
  const groups = new SlotGroups(options.groups ?? [], { keepers, registry, freezes, clock, log });
  const reserved = options.audit.key?.slot;
  const identityOf = (name: string) => people.identities.get(name);
  const door = new Door({ keepers, registry, sessions, reserved, groups, identityOf });
  const tables = new LookupTables(rpcUrl, log);
  const desk = new SigningDesk({
    book,
    freezes,
    ledger,
    recorder,
    tables,
    clock,
    decided: verdict => metrics.decided(verdict),
  });
  const wallets = new Wallets({ registry, labels, keys });
  const surroundings = new Surroundings({ store, auditFolder: options.audit.folder, clock, machineClock });
  const keysOf = (slot: SlotId) => registry.ofSlot(slot);
  const seen = { keepers, keysOf, groups, audit, surroundings };
  const slotOf = door.slotOf.bind(door);
  const migrations = new Migrations({
    registry,
    journal,
    clock,
    log,
    get identities() {
      return people.configured;
    },
    slotOf,
    copyElsewhere: async record => groups.of(record.slot)?.copyElsewhere(record),
    inOneGroup: (from, to) => groups.of(from) !== undefined && groups.of(from) === groups.of(to),
  });
  const ended = (name: string) => {
    sessions.closeAllBy(name);
    approvals.forget(name);
  };
  const exports = { enabled: options.exports ?? false };
  const reopening = opened.use(new Reopening(keeper => openAgain(keeper, recorder), log));
  for (const keeper of keepers.values()) reopening.follow(keeper);
  const reloading = new Reloading({
    source: options.source,
    keepers,
    keeperOf,
    open: keeper => openByItself(keeper, recorder),
    reopening,
    people,
    book,
    groups,
    sessions,
    approvals,
    recorder,
    setExports: enabled => {
      exports.enabled = enabled;
    },
    setMates: settings => {
      mates.clear();
      for (const [slot, others] of matesOf(settings)) mates.set(slot, others);
    },
    clock,
    log,
  });
  const stages = new StageBoard();
  opened.use(stages.listen(signature => metrics.signed(signature)));
  const operations: Operations<OperationName> = {
    ...slotOperations(door, sessions),
    ...keyOperations({ door, keys, registry }),
    ...signingOperations({ door, desk: options.desk ?? desk, stages, log }),
    ...walletOperations(door, wallets, options.wallets?.slot),
    ...migrationOperations(door, migrations),
    ...policyOperations({ book, freezes, approvals, now, door, desk }),
    ...identityOperations({
      identities: people.identities,
      rows: people.rows,
      tokens: people.tokens,
      issuers: () => people.issuers,
      ended,
      clock,
    }),
    ...auditOperations(
      audit,
      () => auditKey?.publicKey,
      () => ledger.flush(),
    ),
    login: async ({ input, bytes }, call) => {
      using secretId = Secret.fromBytes(bytes?.[0] ?? new Uint8Array(), { wipe: true });
      const { identity, token, lease_s } = people.appRoles.login(input.roleId, secretId);
      log.info({ actor: identity.name, requestId: call.requestId }, 'an identity logged in');
      return { output: { identity: identity.name, lease_s }, bytes: [token] };
    },
    ...healthOperations({ metrics, seen, clock, reserved }),
    drain: async ({ input }) => ({ output: { draining: input.drain } }),
    reload: async (_request, _call, identity) => ({ output: await reloading.run(identity.name) }),
    'show-reload': async () => ({ output: reloading.view }),
  };
  return {
    identities: people.identities,
    audit,
    recorder,
    approvals,
    idempotency,
    operations,
    door,
    metrics,
    stages,
    exports,
    reloading,
    log,
  };
}

interface Parts {
  readonly identities: Identities;
  readonly audit: AuditLog;
  readonly recorder: Recorder;
  readonly approvals: Approvals;
  readonly idempotency: Idempotency;
  readonly operations: Operations<OperationName>;
  readonly door: Door;
  readonly metrics: CustodianMetrics;
  readonly stages: StageBoard;
  readonly exports: { readonly enabled: boolean };
  readonly reloading: Reloading;
  readonly log: Log;
}

/** Makes the keepers of slots, now and when others are configured. */
function keeperMaker(
  options: CustodianOptions,
  world: {
    registry: KeyRegistry;
    journal: MigrationsJournal;
    labels: WalletLabels;
    mates: ReadonlyMap<SlotId, readonly SlotId[]>;
    clock: Clock;
    store: Store;
    canaryMade: CanaryWorld['recorded'];
  },
): (setting: SlotSetting) => Promise<SlotKeeper> {
  const { registry, journal, labels, mates, clock, store, canaryMade } = world;
  const { log, beyondHelp = () => undefined } = options;
  const keeperWorld = {
    registry,
    mates,
    journal,
    latches: new Latches(store),
    pins: new PinGuard(clock),
    clock,
    log,
    canaryMade,
    beyondHelp,
  };
  return setting => {
    const adoption = setting.slot.id === options.wallets?.slot ? options.wallets.adoption : undefined;
    const slot = adoption ? adopting(setting.slot, adoption, { registry, labels, log }) : setting.slot;
    return SlotKeeper.create({ ...setting, slot }, keeperWorld);
  };
}

function auditKeyOf(
  { audit, log }: CustodianOptions,
  world: { keepers: ReadonlyMap<SlotId, SlotKeeper>; registry: KeyRegistry; keys: KeyLifecycle },
): AuditKey | undefined {
  const keeper = audit.key && world.keepers.get(audit.key.slot);
  return keeper && new AuditKey({ ...world, keeper, id: keyId(audit.key.id), log });
}

const nobody: Identity = { name: 'nobody', roles: [], grants: [], source: 'configuration' };

const day_ms = 86_400_000;

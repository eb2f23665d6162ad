import { type KeyId, keyId, type SlotId, slotId } from '../custody/ids.ts';
import { type Clock, systemClock } from '../foundation/clock.ts';
import { createVerifier } from '../foundation/ed25519.ts';
import { isKeyslotError, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { Log } from '../foundation/log.ts';
import { Secret } from '../foundation/secret.ts';
import { type KeyRecord, KeyRegistry } from '../store/key-registry.ts';
import { Latches } from '../store/latches.ts';
import { type Migration, MigrationsJournal } from '../store/migrations-journal.ts';
import type { Store } from '../store/store.ts';
import { WalletLabels } from '../store/wallets.ts';
import type { Call, Custodian, OperationName, Reply, Request } from '../wire/custodian.ts';
import { type AdoptionSource, adopting } from './adoption.ts';
import { AppRoles } from './app-roles.ts';
import { mayEnter, requireRole, roleOf } from './authority.ts';
import { CallerSessions } from './caller-sessions.ts';
import { Identities, type Identity, mayUseSlot } from './identities.ts';
import { KeyLifecycle, keyUnknown, keyView } from './keys.ts';
import { type Batch, batchOf, Migrations, migrationUnknown } from './migration.ts';
import { PinGuard } from './pin-guard.ts';
import { type Order, type Signed, signMany, signOne } from './sign.ts';
import { type BoundSigner, SlotKeeper, type SlotSetting } from './slot-keeper.ts';
import { Wallets } from './wallets.ts';

/**
 * The custodian: every decision that matters is made here, for whichever binding asks. `call` authenticates,
 * checks the role, and hands over to the operation; the operations below are in the order of the API.
 */
export class LocalCustodian implements Custodian, AsyncDisposable {
  readonly #identities: Identities;
  readonly #appRoles: AppRoles;
  readonly #sessions: CallerSessions;
  readonly #registry: KeyRegistry;
  readonly #keys: KeyLifecycle;
  readonly #keepers: ReadonlyMap<SlotId, SlotKeeper>;
  readonly #wallets: Wallets;
  readonly #walletSlot: SlotId | undefined;
  readonly #migrations: Migrations;
  readonly #log: Log;

  private constructor(options: {
    identities: Identities;
    appRoles: AppRoles;
    sessions: CallerSessions;
    registry: KeyRegistry;
    keys: KeyLifecycle;
    keepers: ReadonlyMap<SlotId, SlotKeeper>;
    wallets: Wallets;
    walletSlot: SlotId | undefined;
    journal: MigrationsJournal;
    people: readonly Identity[];
    clock: Clock;
    log: Log;
  }) {
    this.#identities = options.identities;
    this.#appRoles = options.appRoles;
    this.#sessions = options.sessions;
    this.#registry = options.registry;
    this.#keys = options.keys;
    this.#keepers = options.keepers;
    this.#wallets = options.wallets;
    this.#walletSlot = options.walletSlot;
    this.#log = options.log;
    const { people: identities, registry, journal, clock, log } = options;
    const slotOf = (record: KeyRecord) => this.#slotOf(record);
    this.#migrations = new Migrations({ registry, journal, clock, log, identities, slotOf });
  }

  /** Describes every slot, which proves its settings, and opens none. Fails as `SlotKeeper.create` does. */
  static async create(options: CustodianOptions): Promise<LocalCustodian> {
    const { store, log, clock = systemClock } = options;
    const registry = new KeyRegistry(store);
    const journal = new MigrationsJournal(store);
    const pins = new PinGuard(clock);
    const world = { registry, journal, latches: new Latches(store), pins, clock, log };
    const keys = new KeyLifecycle(registry, clock);
    const labels = new WalletLabels(store);
    const keepers = new Map<SlotId, SlotKeeper>();
    for (const setting of options.slots) {
      const adoption = setting.slot.id === options.wallets?.slot ? options.wallets.adoption : undefined;
      const slot = adoption ? adopting(setting.slot, adoption, { registry, labels, log }) : setting.slot;
      keepers.set(slot.id, await SlotKeeper.create({ ...setting, slot }, world));
    }
    const { lease_ms = appRoleLease_ms } = options;
    const appRoles = new AppRoles(options.identities, { clock, lease_ms });
    return new LocalCustodian({
      identities: new Identities(options.identities, token => appRoles.identityOf(token)),
      appRoles,
      sessions: new CallerSessions({ clock, ...options.sessions }),
      registry,
      keys,
      keepers,
      wallets: new Wallets({ registry, labels, keys }),
      walletSlot: options.wallets?.slot,
      journal,
      people: options.identities,
      clock,
      log,
    });
  }

  /** Opens the slots that open by themselves; what failed is returned, and its slot says so too. */
  async openUnattended(): Promise<readonly KeyslotError[]> {
    const failures: KeyslotError[] = [];
    for (const keeper of this.#keepers.values()) {
      if (keeper.attended) continue;
      try {
        await keeper.open(undefined, 'keyslot');
      } catch (thrown) {
        failures.push(toKeyslotError(thrown));
      }
    }
    return failures;
  }

  async call<N extends OperationName>(name: N, request: Request<N>, call: Call): Promise<Reply<N>> {
    const perform = this.#operations[name] as Operation<N>;
    if (roleOf[name] === 'nobody') return perform(request, call, nobody);
    const identity = this.#identities.authenticate(call.credential);
    requireRole(identity, name);
    return perform(request, call, identity);
  }

  /** Locks every slot: what is signing finishes, then the logins end. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#keepers.values()].map(keeper => keeper.lock()));
  }

  readonly #operations: { readonly [N in OperationName]: Operation<N> } = {
    'list-slots': async (_request, _call, identity) => {
      const visible = [...this.#keepers.values()].filter(keeper => maySee(identity, keeper));
      return { output: { slots: visible.map(keeper => keeper.view()) } };
    },
    'show-slot': async ({ input }, _call, identity) => ({
      output: this.#visibleSlot(input.slot, identity).view(),
    }),
    'open-slot': async ({ input, bytes }, call, identity) => {
      const keeper = this.#managedSlot(input.slot, identity);
      using pin = bytes?.[0] && Secret.fromBytes(bytes[0], { wipe: true });
      await keeper.open(pin, identity.name);
      this.#log.info({ slot: keeper.id, by: identity.name, requestId: call.requestId }, 'a slot was opened');
      return { output: keeper.view() };
    },
    'lock-slot': async ({ input }, call, identity) => {
      const keeper = this.#managedSlot(input.slot, identity);
      try {
        await keeper.lock();
      } finally {
        this.#sessions.closeAllOf(keeper.id); // behind the lock: before it, somebody could still come in
      }
      this.#log.info({ slot: keeper.id, by: identity.name, requestId: call.requestId }, 'a slot was locked');
      return { output: keeper.view() };
    },
    'clear-latch': async ({ input }, call, identity) => {
      const keeper = this.#managedSlot(input.slot, identity);
      keeper.clearLatch();
      this.#log.warn(
        { slot: keeper.id, by: identity.name, requestId: call.requestId },
        'a PIN latch was cleared',
      );
      return { output: keeper.view() };
    },
    'open-session': async ({ input, bytes }, _call, identity) => {
      const keeper = this.#visibleSlot(input.slot, identity);
      using pin = Secret.fromBytes(bytes?.[0] ?? new Uint8Array(), { wipe: true });
      keeper.comparePin(pin, identity.name);
      const { token, view } = this.#sessions.open(identity, keeper.id);
      return { output: view, bytes: [token] };
    },
    'close-session': async (_request, call, identity) => {
      this.#sessions.close(call.session, identity);
      return { output: {} };
    },
    'list-keys': async ({ input }, call, identity) => {
      const only = input.slot === undefined ? undefined : this.#visibleSlot(input.slot, identity).id;
      const limit = Math.min(Math.max(input.limit, 1), limits.page_items_max);
      const found = this.#registry.page({
        slots: slot => this.#mayRead(slot, identity, call) && (only === undefined || slot === only),
        after: input.cursor,
        limit: limit + 1,
      });
      const keys = found.slice(0, limit).map(keyView);
      const last = found.length > limit ? keys.at(-1)?.id : undefined;
      return { output: { keys, ...(last === undefined ? {} : { next: last }) } };
    },
    'show-key': async ({ input }, call, identity) => ({
      output: keyView(this.#visibleKey(keyId(input.key), identity, call)),
    }),
    'generate-key': async ({ input }, call, identity) => {
      const id = keyId(input.key);
      const keeper = this.#managedSlot(input.slot, identity);
      const output = await keeper.watched(this.#keys.generate(id, keeper));
      this.#log.info(
        { key: id, slot: keeper.id, by: identity.name, requestId: call.requestId },
        'a key was generated',
      );
      return { output };
    },
    'import-key': async ({ input, bytes }, call, identity) => {
      using seed = Secret.fromBytes(bytes?.[0] ?? new Uint8Array(), { wipe: true });
      const id = keyId(input.key);
      const keeper = this.#managedSlot(input.slot, identity);
      const output = await keeper.watched(this.#keys.import(id, keeper, seed));
      this.#log.info(
        { key: id, slot: keeper.id, by: identity.name, requestId: call.requestId },
        'a key was imported',
      );
      return { output };
    },
    'adopt-key': async ({ input }, call, identity) => {
      const id = keyId(input.key);
      const keeper = this.#managedSlot(input.slot, identity);
      const output = await keeper.watched(this.#keys.adopt(id, keeper, input.reference));
      this.#log.info(
        { key: id, slot: keeper.id, by: identity.name, requestId: call.requestId },
        'a key was adopted',
      );
      return { output };
    },
    'sign-message': async ({ input, bytes }, call, identity) => {
      return this.#signing(input.key, identity, call, async key => {
        const signed = await this.#noticing(key, signOne(order('message', bytes?.[0]), key, call.signal));
        return { output: { ...signedBy(key), kind: messageKind(signed) }, bytes: released(signed) };
      });
    },
    'sign-transaction': async ({ input, bytes }, call, identity) => {
      return this.#signing(input.key, identity, call, async key => {
        const signed = await this.#noticing(key, signOne(order('transaction', bytes?.[0]), key, call.signal));
        return { output: { ...signedBy(key), version: version(signed) }, bytes: released(signed) };
      });
    },
    'sign-batch': async ({ input, bytes }, call, identity) => {
      if (input.items.length > limits.batch_items_max || input.items.length !== bytes?.length) {
        throw new KeyslotError('BATCH_TOO_LARGE', `A batch has at most ${limits.batch_items_max} items.`);
      }
      const orders = input.items.map((kind, at) => order(kind, bytes[at]));
      return this.#signing(input.key, identity, call, async key => {
        const results = await signMany(orders, key, call.signal);
        for (const result of results) if (isKeyslotError(result)) this.#notice(key, result);
        return {
          output: { ...signedBy(key), results: results.map(batchResult) },
          bytes: results.flatMap(result => (isKeyslotError(result) ? [] : released(result))),
        };
      });
    },
    'sign-bytes': async ({ input, bytes = [] }, call, identity) => {
      if (bytes.length > limits.batch_items_max) {
        throw new KeyslotError('BATCH_TOO_LARGE', `A batch has at most ${limits.batch_items_max} items.`);
      }
      const orders = bytes.map(each => order('bytes', each));
      return this.#signing(input.key, identity, call, async key => {
        const results = await signMany(orders, key, call.signal);
        for (const result of results) if (isKeyslotError(result)) this.#notice(key, result);
        return {
          output: { ...signedBy(key), results: results.map(bytesResult) },
          bytes: results.flatMap(result => (isKeyslotError(result) ? [] : [result.signature])),
        };
      });
    },
    verify: async ({ input, bytes }, call, identity) => {
      const record = this.#visibleKey(keyId(input.key), identity, call);
      const [message = new Uint8Array(), signature = new Uint8Array()] = bytes ?? [];
      if (!record.publicKey) throw keyUnknown(record.id);
      // Checking needs no slot: the registered public key is enough, even while the slot is locked.
      return { output: { valid: await createVerifier(record.publicKey).verify(message, signature) } };
    },
    'create-wallet': async ({ input }, call, identity) => {
      if (!this.#walletSlot) throw new KeyslotError('SLOT_UNKNOWN', 'No slot is configured for wallets.');
      const keeper = this.#managedSlot(this.#walletSlot, identity);
      const output = await keeper.watched(this.#wallets.create(input.label, keeper));
      this.#log.info(
        { key: output.id, slot: keeper.id, by: identity.name, requestId: call.requestId },
        'a wallet was made',
      );
      return { output };
    },
    'list-wallets': async ({ input }, call, identity) => {
      const slots = [...this.#keepers.keys()].filter(slot => this.#mayRead(slot, identity, call));
      return { output: this.#wallets.page({ slots, ...input }) };
    },
    'show-wallet': async ({ input }, call, identity) => ({
      output: this.#wallets.view(this.#visibleKey(keyId(input.key), identity, call)),
    }),
    'plan-migration': async ({ input }, _call, identity) => ({
      output: await this.#migrations.plan(this.#route(input, identity)),
    }),
    'start-migration': async ({ input }, call, identity) => {
      const output = await this.#migrations.start(this.#route(input, identity), identity.name);
      const { id: migration, from, to } = output;
      this.#log.info(
        { migration, from, to, by: identity.name, requestId: call.requestId },
        'a migration was begun',
      );
      return { output };
    },
    'list-migrations': async (_request, _call, identity) => {
      const visible = this.#migrations.all().filter(migration => mayMigrate(identity, migration));
      const newest = visible.slice(0, limits.page_items_max);
      return { output: { migrations: newest.map(migration => this.#migrations.view(migration)) } };
    },
    'show-migration': async ({ input }, _call, identity) => {
      const limit = Math.min(Math.max(input.limit, 1), limits.page_items_max);
      const migration = this.#migration(input.migration, identity);
      return { output: this.#migrations.page(migration, { cursor: input.cursor, limit }) };
    },
    'run-migration': ({ input }, call, identity) => this.#migrating('run', input, call, identity),
    'verify-migration': ({ input }, call, identity) => this.#migrating('verify', input, call, identity),
    'rollback-migration': ({ input }, call, identity) => this.#migrating('rollback', input, call, identity),
    'destroy-copies': ({ input }, call, identity) => this.#migrating('destroyCopies', input, call, identity),
    login: async ({ input, bytes }, call) => {
      using secretId = Secret.fromBytes(bytes?.[0] ?? new Uint8Array(), { wipe: true });
      const { identity, token, lease_s } = this.#appRoles.login(input.roleId, secretId);
      this.#log.info({ by: identity.name, requestId: call.requestId }, 'an identity logged in');
      return { output: { identity: identity.name, lease_s }, bytes: [token] };
    },
    health: async () => {
      const checks = [...this.#keepers.values()].map(({ id, state, custody }) => ({
        id: `slot/${id}`,
        ok: state === 'open' || state === 'degraded',
        state,
        custody,
      }));
      return { output: { ready: checks.every(check => check.ok), checks } };
    },
  };

  /** Moving keys takes the right to manage both slots. */
  #route(input: Request<'plan-migration'>['input'], identity: Identity) {
    const from = this.#managedSlot(input.from, identity);
    const to = this.#managedSlot(input.to, identity);
    return { from, to, keys: input.keys?.map(keyId) };
  }

  #migration(id: string, identity: Identity): Migration {
    const migration = this.#migrations.get(id);
    if (mayMigrate(identity, migration)) return migration;
    throw migrationUnknown(id);
  }

  async #migrating(
    verb: 'run' | 'verify' | 'rollback' | 'destroyCopies',
    input: Request<'run-migration'>['input'],
    call: Call,
    identity: Identity,
  ) {
    const migration = this.#migration(input.migration, identity);
    const slots = {
      from: this.#managedSlot(migration.from, identity),
      to: this.#managedSlot(migration.to, identity),
    };
    const { after, keys, max } = input;
    const batch: Batch = { after, keys: keys?.map(keyId), max: batchOf(max), signal: call.signal };
    return { output: await this.#migrations[verb](migration, slots, batch) };
  }

  /** A slot as far as this identity may know of it; any other looks as if it did not exist. */
  #visibleSlot(id: string, identity: Identity): SlotKeeper {
    const keeper = this.#keepers.get(slotId(id));
    if (keeper && maySee(identity, keeper)) return keeper;
    throw new KeyslotError('SLOT_UNKNOWN', `There is no slot ${id}.`);
  }

  #managedSlot(id: string, identity: Identity): SlotKeeper {
    const keeper = this.#keepers.get(slotId(id));
    if (keeper && mayUseSlot(identity, keeper.id)) return keeper;
    throw new KeyslotError('SLOT_UNKNOWN', `There is no slot ${id}.`);
  }

  /** A PIN session lets its holder see the keys of its slot, as far as it lets it sign with them. */
  #mayRead(slot: SlotId, identity: Identity, call: Call): boolean {
    if (mayUseSlot(identity, slot)) return true;
    return (
      this.#keepers.get(slot)?.access === 'session' && this.#sessions.holds(call.session, identity, slot)
    );
  }

  #visibleKey(id: KeyId, identity: Identity, call: Call): KeyRecord {
    const record = this.#registry.get(id);
    if (record && record.state !== 'pending' && this.#mayRead(record.slot, identity, call)) return record;
    this.#sessions.refuseExpired(call.session); // whether or not there is such a key
    throw keyUnknown(id);
  }

  #slotOf(record: KeyRecord): SlotKeeper {
    const keeper = this.#keepers.get(record.slot);
    if (keeper) return keeper;
    throw new KeyslotError(
      'SLOT_FAILED',
      `The slot ${record.slot} of ${record.id} is not configured any more.`,
    );
  }

  /**
   * The door to every signature: the key exists, its slot lets this caller in, and it is fit for use. Nothing is
   * awaited between the registry and the loan: a key that moves meanwhile is still there until the work ends.
   */
  async #signing<T>(
    id: string,
    identity: Identity,
    call: Call,
    work: (key: BoundSigner) => Promise<T>,
  ): Promise<T> {
    const record = this.#registry.get(keyId(id));
    if (record?.state !== 'active') throw keyUnknown(keyId(id));
    const keeper = this.#slotOf(record);
    if (!mayEnter(identity, keeper, call.session, this.#sessions)) throw keyUnknown(record.id);
    return keeper.watched(keeper.lend(record, work));
  }

  async #noticing<T>(key: BoundSigner, work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (thrown) {
      const error = toKeyslotError(thrown);
      this.#notice(key, error);
      throw error;
    }
  }

  #notice(key: BoundSigner, error: KeyslotError): void {
    const { id } = key.signer.key;
    if (error.entry.status >= 500) this.#log.error({ key: id, err: error }, 'a signature was not made');
    this.#keepers.get(key.slot)?.noticed(error);
  }
}

export interface CustodianOptions {
  readonly store: Store;
  readonly slots: readonly SlotSetting[];
  readonly identities: readonly Identity[];
  readonly sessions: { readonly idle_ms: number; readonly absolute_ms: number };
  /** How long a token is good that an identity with a role id was given; default: an hour. */
  readonly lease_ms?: number;
  /** Where wallets are made, and whose wallets are taken in there. */
  readonly wallets?: { readonly slot: SlotId; readonly adoption?: AdoptionSource | undefined } | undefined;
  readonly log: Log;
  readonly clock?: Clock;
}

type Operation<N extends OperationName> = (
  request: Request<N>,
  call: Call,
  identity: Identity,
) => Promise<Reply<N>>;

const nobody: Identity = { name: 'nobody', roles: [], slots: [] };

const appRoleLease_ms = 3_600_000;

const mayMigrate = (identity: Identity, { from, to }: Migration): boolean =>
  mayUseSlot(identity, from) && mayUseSlot(identity, to);

/** In a slot with PIN sessions, whoever knows the PIN may come in; so its existence is no secret. */
const maySee = (identity: Identity, keeper: SlotKeeper): boolean =>
  keeper.access === 'session' || mayUseSlot(identity, keeper.id);

const order = (kind: Order['kind'], bytes: Uint8Array | undefined): Order => ({
  kind,
  bytes: bytes ?? new Uint8Array(),
});

const signedBy = ({ address, signer }: BoundSigner) => ({ publicKey: address, custody: signer.key.custody });

const released = (signed: Signed): Uint8Array[] =>
  signed.kind === 'transaction' ? [signed.signature, signed.signedTransaction] : [signed.signature];

function batchResult(result: Signed | KeyslotError) {
  if (isKeyslotError(result)) return { code: result.code, detail: result.message };
  return result.kind === 'transaction' ? { version: result.version } : { kind: result.kind };
}

const bytesResult = (result: Signed | KeyslotError) =>
  isKeyslotError(result) ? { code: result.code, detail: result.message } : { kind: result.kind };

function messageKind(signed: Signed): 'bytes' | 'offchain' {
  if (signed.kind === 'transaction') throw new TypeError('A message was signed as a transaction.');
  return signed.kind;
}

function version(signed: Signed) {
  if (signed.kind !== 'transaction') throw new TypeError('A transaction was signed as a message.');
  return signed.version;
}

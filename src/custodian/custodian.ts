import { type KeyId, keyId, type SlotId, slotId } from '../custody/ids.ts';
import { type Clock, systemClock } from '../foundation/clock.ts';
import { createVerifier } from '../foundation/ed25519.ts';
import { isKeyslotError, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { Log } from '../foundation/log.ts';
import { Secret } from '../foundation/secret.ts';
import { type KeyRecord, KeyRegistry } from '../store/key-registry.ts';
import { Latches } from '../store/latches.ts';
import type { Store } from '../store/store.ts';
import type { Call, Custodian, OperationName, Reply, Request } from '../wire/custodian.ts';
import { mayEnter, requireRole } from './authority.ts';
import { CallerSessions } from './caller-sessions.ts';
import { Identities, type Identity, mayUseSlot } from './identities.ts';
import { KeyLifecycle, keyUnknown, keyView } from './keys.ts';
import { PinGuard } from './pin-guard.ts';
import { type Order, type Signed, signMany, signOne } from './sign.ts';
import { type BoundSigner, SlotKeeper, type SlotSetting } from './slot-keeper.ts';

/**
 * The custodian: every decision that matters is made here, for whichever binding asks. `call` authenticates,
 * checks the role, and hands over to the operation; the operations below are in the order of the API.
 */
export class LocalCustodian implements Custodian, AsyncDisposable {
  readonly #identities: Identities;
  readonly #sessions: CallerSessions;
  readonly #registry: KeyRegistry;
  readonly #keys: KeyLifecycle;
  readonly #keepers: ReadonlyMap<SlotId, SlotKeeper>;
  readonly #log: Log;

  private constructor(options: {
    identities: Identities;
    sessions: CallerSessions;
    registry: KeyRegistry;
    keys: KeyLifecycle;
    keepers: ReadonlyMap<SlotId, SlotKeeper>;
    log: Log;
  }) {
    this.#identities = options.identities;
    this.#sessions = options.sessions;
    this.#registry = options.registry;
    this.#keys = options.keys;
    this.#keepers = options.keepers;
    this.#log = options.log;
  }

  /** Describes every slot, which proves its settings, and opens none. Fails as `SlotKeeper.create` does. */
  static async create(options: CustodianOptions): Promise<LocalCustodian> {
    const { store, log, clock = systemClock } = options;
    const registry = new KeyRegistry(store);
    const world = { registry, latches: new Latches(store), pins: new PinGuard(clock), clock, log };
    const keepers = new Map<SlotId, SlotKeeper>();
    for (const setting of options.slots) {
      keepers.set(setting.slot.id, await SlotKeeper.create(setting, world));
    }
    return new LocalCustodian({
      identities: new Identities(options.identities),
      sessions: new CallerSessions({ clock, ...options.sessions }),
      registry,
      keys: new KeyLifecycle(registry, clock),
      keepers,
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
    if (name === 'health') return perform(request, call, nobody);
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
    'list-keys': async ({ input }, _call, identity) => {
      const only = input.slot === undefined ? undefined : this.#visibleSlot(input.slot, identity).id;
      const limit = Math.min(Math.max(input.limit, 1), limits.page_items_max);
      const found = this.#registry.page({
        slots: slot => mayUseSlot(identity, slot) && (only === undefined || slot === only),
        after: input.cursor,
        limit: limit + 1,
      });
      const keys = found.slice(0, limit).map(keyView);
      const last = found.length > limit ? keys.at(-1)?.id : undefined;
      return { output: { keys, ...(last === undefined ? {} : { next: last }) } };
    },
    'show-key': async ({ input }, _call, identity) => ({
      output: keyView(this.#visibleKey(keyId(input.key), identity)),
    }),
    'generate-key': async ({ input }, call, identity) => {
      const id = keyId(input.key);
      const keeper = this.#managedSlot(input.slot, identity);
      const output = await watched(keeper, this.#keys.generate(id, keeper));
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
      const output = await watched(keeper, this.#keys.import(id, keeper, seed));
      this.#log.info(
        { key: id, slot: keeper.id, by: identity.name, requestId: call.requestId },
        'a key was imported',
      );
      return { output };
    },
    'sign-message': async ({ input, bytes }, call, identity) => {
      const key = await this.#signer(input.key, identity, call);
      const signed = await this.#noticing(key, signOne(order('message', bytes?.[0]), key, call.signal));
      return { output: { ...signedBy(key), kind: messageKind(signed) }, bytes: released(signed) };
    },
    'sign-transaction': async ({ input, bytes }, call, identity) => {
      const key = await this.#signer(input.key, identity, call);
      const signed = await this.#noticing(key, signOne(order('transaction', bytes?.[0]), key, call.signal));
      return { output: { ...signedBy(key), version: version(signed) }, bytes: released(signed) };
    },
    'sign-batch': async ({ input, bytes }, call, identity) => {
      if (input.items.length > limits.batch_items_max || input.items.length !== bytes?.length) {
        throw new KeyslotError('BATCH_TOO_LARGE', `A batch has at most ${limits.batch_items_max} items.`);
      }
      const key = await this.#signer(input.key, identity, call);
      const orders = input.items.map((kind, at) => order(kind, bytes[at]));
      const results = await signMany(orders, key, call.signal);
      for (const result of results) if (isKeyslotError(result)) this.#notice(key, result);
      return {
        output: { ...signedBy(key), results: results.map(batchResult) },
        bytes: results.flatMap(result => (isKeyslotError(result) ? [] : released(result))),
      };
    },
    verify: async ({ input, bytes }, _call, identity) => {
      const record = this.#visibleKey(keyId(input.key), identity);
      const [message = new Uint8Array(), signature = new Uint8Array()] = bytes ?? [];
      if (!record.publicKey) throw keyUnknown(record.id);
      // Checking needs no slot: the registered public key is enough, even while the slot is locked.
      return { output: { valid: await createVerifier(record.publicKey).verify(message, signature) } };
    },
    health: async () => {
      const checks = [...this.#keepers.values()].map(({ id, state }) => ({
        id: `slot/${id}`,
        ok: state === 'open' || state === 'degraded',
        state,
      }));
      return { output: { ready: checks.every(check => check.ok), checks } };
    },
  };

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

  #visibleKey(id: KeyId, identity: Identity): KeyRecord {
    const record = this.#registry.get(id);
    if (record && record.state !== 'pending' && mayUseSlot(identity, record.slot)) return record;
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

  /** The door to every signature: the key exists, its slot lets this caller in, and it is fit for use. */
  async #signer(id: string, identity: Identity, call: Call): Promise<BoundSigner> {
    const record = this.#registry.get(keyId(id));
    if (record?.state !== 'active') throw keyUnknown(keyId(id));
    const keeper = this.#slotOf(record);
    if (!mayEnter(identity, keeper, call.session, this.#sessions)) throw keyUnknown(record.id);
    return watched(keeper, keeper.signer(record));
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
    const record = this.#registry.get(id);
    if (record) this.#keepers.get(record.slot)?.noticed(error);
  }
}

export interface CustodianOptions {
  readonly store: Store;
  readonly slots: readonly SlotSetting[];
  readonly identities: readonly Identity[];
  readonly sessions: { readonly idle_ms: number; readonly absolute_ms: number };
  readonly log: Log;
  readonly clock?: Clock;
}

type Operation<N extends OperationName> = (
  request: Request<N>,
  call: Call,
  identity: Identity,
) => Promise<Reply<N>>;

const nobody: Identity = { name: 'nobody', roles: [], slots: [], credential: { token: '' } };

/** In a slot with PIN sessions, whoever knows the PIN may come in; so its existence is no secret. */
const maySee = (identity: Identity, keeper: SlotKeeper): boolean =>
  keeper.access === 'session' || mayUseSlot(identity, keeper.id);

/** Tells the keeper when the token turns out to have gone. */
async function watched<T>(keeper: SlotKeeper, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (thrown) {
    const error = toKeyslotError(thrown);
    keeper.noticed(error);
    throw error;
  }
}

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

function messageKind(signed: Signed): 'bytes' | 'offchain' {
  if (signed.kind === 'transaction') throw new TypeError('A message was signed as a transaction.');
  return signed.kind;
}

function version(signed: Signed) {
  if (signed.kind !== 'transaction') throw new TypeError('A transaction was signed as a message.');
  return signed.version;
}

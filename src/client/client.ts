import { limits } from '../foundation/limits.ts';
import type { Health, KeyView, MigrationPlanView, MigrationView, SlotView } from '../wire/views.ts';
import { fromBase64, toBase64 } from './bytes.ts';
import type { Check } from './checks.ts';
import { isKeyslotClientError, KeyslotClientError } from './errors.ts';
import { PinSession } from './pin-session.ts';
import * as replies from './replies.ts';
import {
  type AskOptions,
  type Auth,
  errorOf,
  type Fetch,
  invalid,
  type Question,
  segment,
  Transport,
} from './transport.ts';

export interface ClientOptions {
  /** Where the appliance listens: `https://…`, or `http:` on loopback. A path in it is kept as a prefix. */
  readonly url: string | URL;
  readonly auth?: Auth | undefined;
  /** `mtlsFetch` of `keyslot/client/node`, for one; otherwise the runtime's own. */
  readonly fetch?: Fetch | undefined;
  /**
   * How long one call may take with all its repetitions: 60 seconds, unless told. A PIN session that has to be
   * opened for it has as long for itself.
   */
  readonly timeout_ms?: number | undefined;
  /** How often a call is repeated at most: 5 times, unless told. */
  readonly retries?: number | undefined;
}

export interface CallOptions {
  /** Ends the call with CLIENT_ABORTED. What the appliance has begun by then it may still finish. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Sent as `Idempotency-Key` with everything but reads, the same at each repetition; random unless given. The
   * appliance does not look at it today: calls that change something are simply never repeated once sent.
   */
  readonly idempotencyKey?: string | undefined;
}

export interface SignOptions extends CallOptions {
  /** The token of a PIN session that the caller opened itself, in place of the client's. */
  readonly session?: string | undefined;
}

interface SignedBy {
  /** The Solana address of the key. */
  readonly publicKey: string;
  readonly custody: replies.Custody;
}
interface MessageSignature {
  readonly signature: Uint8Array;
  readonly kind: replies.MessageKind;
}
interface TransactionSignature {
  readonly signature: Uint8Array;
  /** The wire transaction with the signature in its place. */
  readonly signedTransaction: Uint8Array;
  readonly version: replies.TransactionVersion;
}
export type SignedMessage = MessageSignature & SignedBy;
export type SignedTransaction = TransactionSignature & SignedBy;

export type BatchItem = { readonly message: Uint8Array } | { readonly transaction: Uint8Array };
export type BatchResult = MessageSignature | TransactionSignature | { readonly error: KeyslotClientError };
export interface Batch<R> extends SignedBy {
  readonly results: readonly R[];
}

interface Part {
  readonly keys?: readonly string[];
  readonly after?: string;
  readonly max?: number;
}
interface Page {
  readonly cursor?: string | undefined;
  readonly limit?: number | undefined;
}

export type KeyslotClient = ReturnType<typeof createKeyslotClient>;

/**
 * Every call of the HTTP API, bytes as `Uint8Array`. A call rejects with a `KeyslotClientError` that has the
 * code of the appliance's problem, or a `CLIENT_` one; reads and signatures are repeated where that is promised
 * to help, and nothing else is once it was sent.
 *
 * @example
 * const client = createKeyslotClient({ url: 'https://127.0.0.1:8443', auth: { bearerToken } });
 * const { signature } = await client.signMessage('treasury', new TextEncoder().encode('hello'));
 */
export function createKeyslotClient(options: ClientOptions) {
  const { auth, timeout_ms = 60_000, retries = 5 } = options;
  const transport = new Transport({ ...options, timeout_ms, retries });
  let closed = false;

  const ask = <T, R>(question: Question<T, R>, asked: AskOptions = {}): Promise<R> => {
    if (!closed) return transport.ask(question, asked);
    return Promise.reject(new KeyslotClientError('CLIENT_ABORTED', 'The client was closed.'));
  };
  const get = <T>(path: string, check: Check<T>, asked?: CallOptions) =>
    ask({ method: 'GET', path, repeatable: true, check, read: same }, asked);
  /** Changes something: sent once. */
  const post = <T>(path: string, body: object, check: Check<T>, asked?: CallOptions) =>
    ask({ method: 'POST', path, body, repeatable: false, check, read: same }, asked);
  /** Asks with a body, and changes nothing. */
  const query = <T>(path: string, body: object, check: Check<T>, asked?: CallOptions) =>
    ask({ method: 'POST', path, body, repeatable: true, check, read: same }, asked);

  const openSession = (slot: string, pin: string, asked?: CallOptions) =>
    post(`${slotPath(slot)}/sessions`, { pin }, replies.session, asked);
  const closeSession = async (session: string, { signal, idempotencyKey }: CallOptions = {}) => {
    const path = '/v1/sessions/current';
    const question = {
      method: 'DELETE',
      path,
      repeatable: false,
      check: replies.nothing,
      read: same,
    } as const;
    await transport.ask(question, { session, signal, idempotencyKey });
  };
  const pinSession =
    auth?.session &&
    new PinSession(auth.session.pin, {
      open: async pin => (await openSession(auth.session?.slot ?? '', pin)).token,
      close: closeSession,
    });

  /** Every signature goes through here: with the caller's session, the client's, or none. */
  const sign = async <T, R>(
    path: string,
    body: object,
    check: Check<T>,
    read: (reply: T) => R,
    asked: SignOptions = {},
  ): Promise<R> => {
    const question = { method: 'POST', path, body, repeatable: true, check, read } as const;
    if (asked.session !== undefined || !pinSession) return ask(question, asked);
    return pinSession.use(session => ask(question, { ...asked, session }), asked.signal);
  };
  const signBatchAs = <R>(
    key: string,
    items: readonly BatchItem[],
    resultOf: (told: replies.ToldResult, index: number) => R,
    asked?: SignOptions,
  ): Promise<Batch<R>> =>
    sign(
      `${keyPath(key)}/sign-batch`,
      { items: items.map(toldItem) },
      replies.batch,
      ({ results, publicKey, custody }) => {
        if (results.length !== items.length) throw invalid('The reply has another number of results.');
        return { publicKey, custody, results: results.map(resultOf) };
      },
      asked,
    );

  const showKey = async (key: string, asked: SignOptions = {}): Promise<KeyView> => {
    const question: Question<KeyView, KeyView> = {
      method: 'GET',
      path: keyPath(key),
      repeatable: true,
      check: replies.key,
      read: same,
    };
    try {
      return await ask(question, asked);
    } catch (thrown) {
      const unknown = isKeyslotClientError(thrown) && thrown.code === 'KEY_UNKNOWN';
      if (!unknown || !pinSession || asked.session !== undefined) throw thrown;
    }
    return pinSession.use(session => ask(question, { ...asked, session }), asked.signal);
  };

  const listKeys = (page: Page & { readonly slot?: string | undefined } = {}, asked?: CallOptions) =>
    get(`/v1/keys${queryOf({ ...page })}`, replies.keyPage, asked);

  async function* allKeys(
    { slot, limit = limits.page_items_max }: { slot?: string; limit?: number } = {},
    asked?: CallOptions,
  ): AsyncGenerator<KeyView, void, undefined> {
    for (let cursor: string | undefined; ; ) {
      const { keys, next } = await listKeys({ slot, limit, cursor }, asked);
      yield* keys;
      if (next === undefined) return;
      if (next === cursor) throw invalid('The listing does not come to an end.');
      cursor = next;
    }
  }

  const moveKeys =
    (step: 'run' | 'verify' | 'rollback') =>
    (id: string, part: Part = {}, asked?: CallOptions): Promise<replies.MigrationPage> =>
      post(`${migrationPath(id)}/${step}`, part, replies.migrationPage, asked);

  const close = async (): Promise<void> => {
    closed = true;
    await pinSession?.close();
  };

  return Object.freeze({
    slots: Object.freeze({
      list: async (asked?: CallOptions): Promise<readonly SlotView[]> =>
        (await get('/v1/slots', replies.slots, asked)).slots,
      show: async (slot: string, asked?: CallOptions): Promise<SlotView> =>
        get(slotPath(slot), replies.slot, asked),
      /** Without a PIN the appliance reads the configured source. */
      open: async (slot: string, pin?: string, asked?: CallOptions): Promise<SlotView> =>
        post(`${slotPath(slot)}/open`, pin === undefined ? {} : { pin }, replies.slot, asked),
      lock: async (slot: string, asked?: CallOptions): Promise<SlotView> =>
        post(`${slotPath(slot)}/lock`, {}, replies.slot, asked),
      clearLatch: async (slot: string, asked?: CallOptions): Promise<SlotView> =>
        post(`${slotPath(slot)}/clear-latch`, {}, replies.slot, asked),
    }),

    /** For callers that keep PIN sessions themselves; `auth.session` does it for the others. */
    sessions: Object.freeze({
      open: async (slot: string, pin: string, asked?: CallOptions): Promise<replies.OpenedSession> =>
        openSession(slot, pin, asked),
      close: closeSession,
    }),

    keys: Object.freeze({
      /** One page. */
      list: async (...asked: Parameters<typeof listKeys>): Promise<replies.KeyPage> => listKeys(...asked),
      /** Page after page, as they are asked for. */
      all: allKeys,
      /** Without a grant of the key's slot, a PIN session is what shows it. */
      show: showKey,
      generate: async (id: string, slot: string, asked?: CallOptions): Promise<KeyView> =>
        post('/v1/keys', { id, slot }, replies.key, asked),
      /** A seed of 32 bytes, or the 64 bytes of a Solana key file. */
      import: async (id: string, material: KeyMaterial, asked?: CallOptions): Promise<KeyView> =>
        post(`${keyPath(id)}/import`, toldMaterial(material), replies.key, asked),
      /** A key that is in the custody already: `reference` is its name there. */
      adopt: async (
        id: string,
        from: { readonly slot: string; readonly reference?: string },
        asked?: CallOptions,
      ): Promise<KeyView> => post(`${keyPath(id)}/adopt`, from, replies.key, asked),
    }),

    signMessage: async (key: string, message: Uint8Array, asked?: SignOptions): Promise<SignedMessage> =>
      sign(
        `${keyPath(key)}/sign-message`,
        { message: toBase64(message) },
        replies.signedMessage,
        told => ({ ...messageSignature(told), publicKey: told.publicKey, custody: told.custody }),
        asked,
      ),

    /** Takes the wire transaction and puts the signature into its place; other signatures are kept. */
    signTransaction: async (
      key: string,
      transaction: Uint8Array,
      asked?: SignOptions,
    ): Promise<SignedTransaction> =>
      sign(
        `${keyPath(key)}/sign-transaction`,
        { transaction: toBase64(transaction) },
        replies.signedTransaction,
        told => ({ ...transactionSignature(told), publicKey: told.publicKey, custody: told.custody }),
        asked,
      ),

    /** 1 to 100 items, a result each, in order: one that failed is its error, the others are signed. */
    signBatch: async (
      key: string,
      items: readonly BatchItem[],
      asked?: SignOptions,
    ): Promise<Batch<BatchResult>> =>
      signBatchAs(
        key,
        items,
        (told, index) => ('error' in told ? { error: errorOf(told.error, { index }) } : signatureOf(told)),
        asked,
      ),

    /** The same, all or nothing: the first item that failed is the failure of the call, with its `index`. */
    signAll: async (
      key: string,
      items: readonly BatchItem[],
      asked?: SignOptions,
    ): Promise<Batch<MessageSignature | TransactionSignature>> =>
      signBatchAs(
        key,
        items,
        (told, index) => {
          if ('error' in told) throw errorOf(told.error, { index });
          return signatureOf(told);
        },
        asked,
      ),

    /** Whether the appliance's key made this signature; works while its slot is locked. */
    verify: async (
      key: string,
      message: Uint8Array,
      signature: Uint8Array,
      asked?: CallOptions,
    ): Promise<boolean> => {
      const body = { message: toBase64(message), signature: toBase64(signature) };
      return (await query(`${keyPath(key)}/verify`, body, replies.verified, asked)).valid;
    },

    migrations: Object.freeze({
      plan: async (route: Route, asked?: CallOptions): Promise<MigrationPlanView> =>
        query('/v1/migrations/plan', route, replies.migrationPlan, asked),
      start: async (route: Route, asked?: CallOptions): Promise<replies.StartedMigration> =>
        post('/v1/migrations', route, replies.startedMigration, asked),
      list: async (asked?: CallOptions): Promise<readonly MigrationView[]> =>
        (await get('/v1/migrations', replies.migrations, asked)).migrations,
      show: async (id: string, page: Page = {}, asked?: CallOptions): Promise<replies.MigrationPage> =>
        get(`${migrationPath(id)}${queryOf({ ...page })}`, replies.migrationPage, asked),
      run: moveKeys('run'),
      verify: moveKeys('verify'),
      rollback: moveKeys('rollback'),
      /** Cannot be undone, so the appliance wants it said: `confirm: true`. */
      destroyCopies: async (
        id: string,
        part: Part & { readonly confirm: true },
        asked?: CallOptions,
      ): Promise<replies.MigrationPage> =>
        post(`${migrationPath(id)}/destroy-copies`, part, replies.migrationPage, asked),
    }),

    health: Object.freeze({
      /** Whether somebody answers who says so. */
      alive: async (asked?: CallOptions): Promise<boolean> =>
        (await get('/healthz', replies.alive, asked)).status === 'ok',
      /** Slot by slot; an appliance that is not ready is an answer, not a failure. */
      ready: async (asked?: CallOptions): Promise<Health> => {
        const question = { method: 'GET', path: '/readyz', repeatable: true, alsoAnswers: 503 } as const;
        return ask({ ...question, check: replies.health, read: same }, asked);
      },
    }),

    /** Ends the client's PIN session. Calls that are asked for afterwards end with CLIENT_ABORTED. */
    close,
    [Symbol.asyncDispose]: close,
  });
}

type KeyMaterial = { readonly slot: string } & (
  | { readonly seed: Uint8Array }
  | { readonly secretKey: Uint8Array }
);

interface Route {
  readonly from: string;
  readonly to: string;
  readonly keys?: readonly string[];
}

const same = <T>(reply: T): T => reply;

const slotPath = (slot: string) => `/v1/slots/${segment(slot, 'SLOT_ID_INVALID')}`;
const keyPath = (key: string) => `/v1/keys/${segment(key, 'KEY_ID_INVALID')}`;
const migrationPath = (id: string) => `/v1/migrations/${segment(id, 'MIGRATION_UNKNOWN')}`;

function queryOf(fields: Readonly<Record<string, string | number | undefined>>): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) if (value !== undefined) query.set(name, String(value));
  return query.size > 0 ? `?${query}` : '';
}

const toldItem = (item: BatchItem) =>
  'message' in item ? { message: toBase64(item.message) } : { transaction: toBase64(item.transaction) };

const toldMaterial = ({ slot, ...material }: KeyMaterial) =>
  'seed' in material ? { slot, seed: toBase64(material.seed) } : { slot, secretKey: [...material.secretKey] };

const signatureOf = (told: Exclude<replies.ToldResult, { error: unknown }>) =>
  'kind' in told ? messageSignature(told) : transactionSignature(told);

const messageSignature = (told: { signatureBase64: string; kind: replies.MessageKind }) => ({
  signature: signatureBytes(told.signatureBase64),
  kind: told.kind,
});

const transactionSignature = (told: {
  signatureBase64: string;
  signedTransaction: string;
  version: replies.TransactionVersion;
}) => ({
  signature: signatureBytes(told.signatureBase64),
  signedTransaction: fromBase64(told.signedTransaction) ?? notBytes(),
  version: told.version,
});

function signatureBytes(text: string): Uint8Array {
  const bytes = fromBase64(text);
  return bytes?.length === 64 ? bytes : notBytes();
}

function notBytes(): never {
  throw invalid('The reply does not hold the bytes that it should.');
}

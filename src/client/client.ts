import { limits } from '../foundation/limits.ts';
import type { AuditStatus } from '../wire/audit.ts';
import type { ApprovalView, FreezeView, PolicyView, VerdictView } from '../wire/policies.ts';
import type {
  Health,
  KeyView,
  MigrationPlanView,
  MigrationView,
  SlotView,
  TrialView,
} from '../wire/views.ts';
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
   * Sent as `Idempotency-Key` with everything but reads, the same at each repetition; random unless given. Under
   * one key the appliance does a thing once, and answers a repeat of it within a day as it answered the first.
   */
  readonly idempotencyKey?: string | undefined;
  /**
   * What the appliance's logs and errors call this request: 1 to 100 of letters, digits, `.`, `_`, `:`, `-`. The same
   * bytes signed with the same key under the same name are one request, so without `idempotencyKey` none is sent.
   */
  readonly requestId?: string | undefined;
}

export interface ChangeOptions extends CallOptions {
  /** The id of an approval, where the appliance wants others to agree. */
  readonly approval?: string | undefined;
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
  readonly receipt: replies.Receipt;
}
interface TransactionSignature {
  readonly signature: Uint8Array;
  /** The wire transaction with the signature in its place. */
  readonly signedTransaction: Uint8Array;
  readonly version: replies.TransactionVersion;
  readonly receipt: replies.Receipt;
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
 * code of the appliance's problem, or a `CLIENT_` one. Calls are repeated where that is promised to help, under
 * one Idempotency-Key, so that nothing is done twice; what carries a PIN is sent once.
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
    ask({ method: 'GET', path, repeats: 'freely', check, read: same }, asked);
  const change = <T>(
    method: 'POST' | 'PUT' | 'DELETE',
    path: string,
    body: object | undefined,
    check: Check<T>,
    asked?: ChangeOptions,
  ) => ask({ method, path, ...(body ? { body } : {}), repeats: 'under-key', check, read: same }, asked);
  const post = <T>(path: string, body: object, check: Check<T>, asked?: ChangeOptions) =>
    change('POST', path, body, check, asked);
  /** A PIN: sent once, so that a wrong one costs one try. */
  const tell = <T>(path: string, body: object, check: Check<T>, asked?: CallOptions) =>
    ask({ method: 'POST', path, body, repeats: 'never', check, read: same }, asked);
  /** Asks with a body, and changes nothing. */
  const query = <T>(path: string, body: object, check: Check<T>, asked?: CallOptions) =>
    ask({ method: 'POST', path, body, repeats: 'freely', check, read: same }, asked);

  const openSession = (slot: string, pin: string, asked?: CallOptions) =>
    tell(`${slotPath(slot)}/sessions`, { pin }, replies.session, asked);
  const closeSession = async (session: string, asked: CallOptions = {}) => {
    const path = '/v1/sessions/current';
    const question = {
      method: 'DELETE',
      path,
      repeats: 'never',
      check: replies.nothing,
      read: same,
    } as const;
    await transport.ask(question, { ...asked, session });
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
    const question = { method: 'POST', path, body, repeats: 'freely', check, read } as const;
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
      repeats: 'freely',
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
        pin === undefined
          ? post(`${slotPath(slot)}/open`, {}, replies.slot, asked)
          : tell(`${slotPath(slot)}/open`, { pin }, replies.slot, asked),
      lock: async (slot: string, asked?: CallOptions): Promise<SlotView> =>
        post(`${slotPath(slot)}/lock`, {}, replies.slot, asked),
      clearLatch: async (slot: string, asked?: CallOptions): Promise<SlotView> =>
        post(`${slotPath(slot)}/clear-latch`, {}, replies.slot, asked),
      /** Has the canary of the slot sign now. That it could not is an answer, not a failure. */
      try: async (slot: string, asked?: CallOptions): Promise<TrialView> =>
        post(`${slotPath(slot)}/try`, {}, replies.trial, asked),
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
      generate: async (id: string, slot: string, { tags, ...asked }: TaggedOptions = {}): Promise<KeyView> =>
        post('/v1/keys', { id, slot, tags }, replies.key, asked),
      /** A seed of 32 bytes, or the 64 bytes of a Solana key file. */
      import: async (id: string, material: KeyMaterial, asked?: CallOptions): Promise<KeyView> =>
        post(`${keyPath(id)}/import`, toldMaterial(material), replies.key, asked),
      /** A key that is in the custody already: `reference` is its name there. */
      adopt: async (
        id: string,
        from: { readonly slot: string; readonly reference?: string; readonly tags?: readonly string[] },
        asked?: CallOptions,
      ): Promise<KeyView> => post(`${keyPath(id)}/adopt`, from, replies.key, asked),
      /** All of its tags anew. They choose policies and grants, so this is an admin's. */
      tag: async (id: string, tags: readonly string[], asked?: ChangeOptions): Promise<KeyView> =>
        change('PUT', `${keyPath(id)}/tags`, { tags }, replies.key, asked),
      disable: async (id: string, asked?: ChangeOptions): Promise<KeyView> =>
        post(`${keyPath(id)}/disable`, {}, replies.key, asked),
      enable: async (id: string, asked?: ChangeOptions): Promise<KeyView> =>
        post(`${keyPath(id)}/enable`, {}, replies.key, asked),
      /** Removes it from its slot for good; its id is never used again. Takes an approval. */
      destroy: async (id: string, asked: ChangeOptions): Promise<KeyView> =>
        post(`${keyPath(id)}/destroy`, {}, replies.key, asked),
      /** Its 64 bytes, as a Solana key file has them. Takes an approval. */
      export: async (
        id: string,
        asked: ChangeOptions,
      ): Promise<{ readonly key: KeyView; readonly secretKey: Uint8Array }> => {
        const told = await post(`${keyPath(id)}/export`, {}, replies.exportedKey, asked);
        const { secretKey, ...key } = told;
        return { key, secretKey: Uint8Array.from(secretKey) };
      },
    }),

    /** `raw` lets bytes pass that read as a transaction, for an identity that has the right. */
    signMessage: async (
      key: string,
      message: Uint8Array,
      { raw, ...asked }: SignOptions & { readonly raw?: boolean | undefined } = {},
    ): Promise<SignedMessage> =>
      sign(
        `${keyPath(key)}/sign-message`,
        { message: toBase64(message), raw },
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
        asked?: ChangeOptions,
      ): Promise<replies.MigrationPage> =>
        post(`${migrationPath(id)}/destroy-copies`, part, replies.migrationPage, asked),
    }),

    policies: Object.freeze({
      list: async (asked?: CallOptions): Promise<readonly PolicyView[]> =>
        (await get('/v1/policies', replies.policies, asked)).policies,
      /** The newest version, or the one that is named. */
      show: async (name: string, version?: number, asked?: CallOptions): Promise<PolicyView> =>
        get(
          version === undefined ? policyPath(name) : `${policyPath(name)}/versions/${version}`,
          replies.policy,
          asked,
        ),
      /** `expected`: the version that the change was made from; 0 for a policy that must not exist yet. */
      put: async (
        name: string,
        from: { readonly document: Readonly<Record<string, unknown>>; readonly expected?: number },
        asked?: ChangeOptions,
      ): Promise<PolicyView> => change('PUT', policyPath(name), from, replies.policy, asked),
      delete: async (name: string, asked?: ChangeOptions): Promise<PolicyView> =>
        change('DELETE', policyPath(name), undefined, replies.policy, asked),
      /** What every rule would say of it, signing nothing; `document` is a candidate in place of the policies. */
      evaluate: async (
        key: string,
        what: BatchItem,
        document?: Readonly<Record<string, unknown>>,
        asked?: CallOptions,
      ): Promise<VerdictView> =>
        query('/v1/policies/evaluate', { key, ...toldItem(what), document }, replies.verdict, asked),
    }),

    freezes: Object.freeze({
      list: async (asked?: CallOptions): Promise<readonly FreezeView[]> =>
        (await get('/v1/freezes', replies.freezes, asked)).freezes,
      /** Stops signing at once: of the appliance, of a slot, of a key. */
      freeze: async (
        what: Pick<FreezeView, 'scope' | 'target' | 'reason'>,
        asked?: ChangeOptions,
      ): Promise<FreezeView> => post('/v1/freezes', what, replies.freeze, asked),
      /** `freeze` is the id: `appliance`, `slot/<id>` or `key/<id>`. */
      thaw: async (freeze: string, reason: string, asked?: ChangeOptions): Promise<FreezeView> =>
        post('/v1/freezes/thaw', { freeze, reason }, replies.freeze, asked),
    }),

    approvals: Object.freeze({
      list: async (asked?: CallOptions): Promise<readonly ApprovalView[]> =>
        (await get('/v1/approvals', replies.approvals, asked)).approvals,
      show: async (id: string, asked?: CallOptions): Promise<ApprovalView> =>
        get(approvalPath(id), replies.approval, asked),
      request: async (
        what: Pick<ApprovalView, 'operation' | 'input' | 'reason'>,
        asked?: CallOptions,
      ): Promise<ApprovalView> => post('/v1/approvals', what, replies.approval, asked),
      /** `digest` is that of the request that was read. */
      approve: async (id: string, digest: string, asked?: CallOptions): Promise<ApprovalView> =>
        post(`${approvalPath(id)}/approve`, { digest }, replies.approval, asked),
      reject: async (id: string, digest: string, asked?: CallOptions): Promise<ApprovalView> =>
        post(`${approvalPath(id)}/reject`, { digest }, replies.approval, asked),
    }),

    audit: Object.freeze({
      status: async (asked?: CallOptions): Promise<AuditStatus> =>
        get('/v1/audit/status', replies.auditStatus, asked),
      /** Lines as they stand in the log; `next` is where the next stretch begins. */
      read: async (stretch: Stretch = {}, asked?: CallOptions): Promise<replies.AuditLines> =>
        get(`/v1/audit${queryOf({ ...stretch })}`, replies.auditLines, asked),
      /** That the record of a receipt is in the log. */
      proof: async (seq: number, size?: number, asked?: CallOptions): Promise<replies.InclusionProof> =>
        get(`/v1/audit/${seq}/proof${queryOf({ size })}`, replies.inclusionProof, asked),
      consistency: async (from: number, to: number, asked?: CallOptions): Promise<replies.ConsistencyProof> =>
        get(`/v1/audit/consistency${queryOf({ from, to })}`, replies.consistencyProof, asked),
      checkpoints: async (stretch: Stretch = {}, asked?: CallOptions): Promise<readonly string[]> =>
        (await get(`/v1/audit/checkpoints${queryOf({ ...stretch })}`, replies.checkpoints, asked))
          .checkpoints,
    }),

    health: Object.freeze({
      /** Whether somebody answers who says so. */
      alive: async (asked?: CallOptions): Promise<boolean> =>
        (await get('/healthz', replies.alive, asked)).status === 'ok',
      /** Slot by slot; an appliance that is not ready is an answer, not a failure. */
      ready: async (asked?: CallOptions): Promise<Health> => {
        const question = { method: 'GET', path: '/readyz', repeats: 'freely', alsoAnswers: 503 } as const;
        return ask({ ...question, check: replies.health, read: same }, asked);
      },
    }),

    /** Ends the client's PIN session. Calls that are asked for afterwards end with CLIENT_ABORTED. */
    close,
    [Symbol.asyncDispose]: close,
  });
}

type TaggedOptions = CallOptions & { readonly tags?: readonly string[] | undefined };

interface Stretch {
  readonly from?: number | undefined;
  readonly limit?: number | undefined;
}

type KeyMaterial = { readonly slot: string; readonly tags?: readonly string[] | undefined } & (
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
const policyPath = (name: string) => `/v1/policies/${segment(name, 'POLICY_UNKNOWN')}`;
const approvalPath = (id: string) => `/v1/approvals/${segment(id, 'APPROVAL_UNKNOWN')}`;
const migrationPath = (id: string) => `/v1/migrations/${segment(id, 'MIGRATION_UNKNOWN')}`;

function queryOf(fields: Readonly<Record<string, string | number | undefined>>): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) if (value !== undefined) query.set(name, String(value));
  return query.size > 0 ? `?${query}` : '';
}

const toldItem = (item: BatchItem) =>
  'message' in item ? { message: toBase64(item.message) } : { transaction: toBase64(item.transaction) };

const toldMaterial = ({ slot, tags, ...material }: KeyMaterial) => ({
  slot,
  tags,
  ...('seed' in material ? { seed: toBase64(material.seed) } : { secretKey: [...material.secretKey] }),
});

const signatureOf = (told: Exclude<replies.ToldResult, { error: unknown }>) =>
  'kind' in told ? messageSignature(told) : transactionSignature(told);

const messageSignature = (told: {
  signatureBase64: string;
  kind: replies.MessageKind;
  receipt: replies.Receipt;
}) => ({
  signature: signatureBytes(told.signatureBase64),
  kind: told.kind,
  receipt: told.receipt,
});

const transactionSignature = (told: {
  signatureBase64: string;
  signedTransaction: string;
  version: replies.TransactionVersion;
  receipt: replies.Receipt;
}) => ({
  signature: signatureBytes(told.signatureBase64),
  signedTransaction: fromBase64(told.signedTransaction) ?? notBytes(),
  version: told.version,
  receipt: told.receipt,
});

function signatureBytes(text: string): Uint8Array {
  const bytes = fromBase64(text);
  return bytes?.length === 64 ? bytes : notBytes();
}

function notBytes(): never {
  throw invalid('The reply does not hold the bytes that it should.');
}

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import type { Express } from 'express';
import { encodeBase64 } from '../foundation/base64.ts';
import { isErrorCode, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { Log } from '../foundation/log.ts';
import { Secret } from '../foundation/secret.ts';
import type { Call, Custodian } from '../wire/custodian.ts';
import { base64Field } from '../wire/http.ts';
import { refuseHash, signaturePrefix, vaultBodies, vaultSignature } from '../wire/vault-transit.ts';
import type { KeyView } from '../wire/views.ts';
import { callOf } from './authentication.ts';
import { type Answer, type Exchange, failures, mount, type Routes } from './exchange.ts';
import { readiness } from './ops.ts';
import { answerLoginErrors, answerVaultErrors } from './vault-transit-errors.ts';

/**
 * The calls of HashiCorp Vault's transit engine that Solana signers make, so that their clients need only another
 * URL and a token. The same operations, checks and refusals as the native routes stand behind them: the bytes
 * are signed as what they are, and a transaction's message is held to everything that a transaction is.
 */
export function withVaultTransit(app: Express, options: VaultTransitOptions): void {
  const { custodian, log } = options;
  const transit = `/v1/${options.mount}`;
  const anybody = { callOf: nobodysCall, takesType: takesVaultType };
  const known = { callOf: vaultCallOf, takesType: takesVaultType };
  mount(app, inNamespace(options.namespace, keys(custodian, transit)), known);
  mount(app, inNamespace(options.namespace, login(custodian)), anybody);
  mount(app, health(custodian), anybody);
  for (const prefix of [transit, '/v1/auth', '/v1/sys']) {
    app.use(prefix, () => {
      throw new KeyslotError('ROUTE_UNKNOWN', 'No handler for this route.');
    });
  }
  app.use('/v1/auth', failures(log, answerLoginErrors));
  for (const prefix of [transit, '/v1/sys']) app.use(prefix, failures(log, answerVaultErrors));
}

export interface VaultTransitOptions {
  readonly custodian: Custodian;
  readonly log: Log;
  /** Where Vault would have its transit engine mounted, without slashes around it. */
  readonly mount: string;
  /** What X-Vault-Namespace must say; without it, it may say anything. */
  readonly namespace?: string | undefined;
}

const nobodysCall = (_request: IncomingMessage, requestId: string): Call => ({ requestId });

/** A token in X-Vault-Token is who asks; without one, whoever asks is known as everywhere else. */
function vaultCallOf(request: IncomingMessage, requestId: string): Call {
  const token = request.headers['x-vault-token'];
  if (typeof token !== 'string') return callOf(request, requestId);
  // No token that is too short to be a bearer token is one here.
  if (!/^[A-Za-z0-9._~+/=-]{16,512}$/.test(token)) {
    throw new KeyslotError('CREDENTIAL_UNKNOWN', 'X-Vault-Token does not hold a token.');
  }
  const session = request.headers['keyslot-session'];
  return {
    requestId,
    credential: { token: sha256(token) },
    ...(typeof session === 'string' ? { session: sha256(session) } : {}),
  };
}

/**
 * Vault's own clients send JSON without saying so, and curl says that it is a form. No web page can send the
 * header with the token, or knows a secret id; without these, only the certificate of a browser could speak.
 */
function takesVaultType({ headers, url = '' }: IncomingMessage): boolean {
  const known = headers['x-vault-token'] !== undefined || url.toLowerCase().startsWith('/v1/auth/');
  const type = headers['content-type'];
  return known && (type === undefined || /^application\/x-www-form-urlencoded\s*(;|$)/i.test(type));
}

function health(custodian: Custodian): Routes {
  return {
    // Sealed is what Vault calls it when no slot is open. What its query asks of other states does not occur.
    '/v1/sys/health': {
      get: async () => {
        const { checks } = await readiness(custodian);
        const sealed = !checks.some(({ id, ok }) => ok && id.startsWith('slot/'));
        const state = { initialized: true, sealed, standby: false, performance_standby: false };
        const names = { replication_performance_mode: 'disabled', replication_dr_mode: 'disabled', version };
        const body = { ...state, ...names, server_time_utc: Math.floor(Date.now() / 1000), ...cluster };
        return { status: sealed ? 503 : 200, body };
      },
    },
  };
}

const cluster = { cluster_name: 'keyslot', cluster_id: '' };
const packageFile = new URL('../../package.json', import.meta.url);
const { version } = JSON.parse(readFileSync(packageFile, 'utf8')) as { version: string };

function login(custodian: Custodian): Routes {
  return posted('/v1/auth/approle/login', async ({ call, body }) => {
    const { role_id: roleId, secret_id } = await body(vaultBodies.login);
    using secret = Secret.fromText(secret_id);
    const request = { input: { roleId }, bytes: [secret.use(lent)] };
    const { output, bytes } = await custodian.call('login', request, call);
    const auth = {
      client_token: Buffer.from(bytes?.[0] ?? missing()).toString('latin1'),
      accessor: '',
      policies: [],
      token_policies: [],
      metadata: { role_name: output.identity },
      lease_duration: output.lease_s,
      renewable: false,
      entity_id: '',
      token_type: 'service',
      orphan: true,
      mfa_requirement: null,
      num_uses: 0,
    };
    return { body: { ...envelope(call), auth } };
  });
}

function keys(custodian: Custodian, transit: string): Routes {
  const sign = (exchange: Exchange) => signed(custodian, exchange);
  const verify = (exchange: Exchange) => verified(custodian, exchange);
  return {
    ...posted(`${transit}/sign/:key`, sign),
    ...posted(`${transit}/sign/:key/:hash`, sign),
    ...posted(`${transit}/verify/:key`, verify),
    ...posted(`${transit}/verify/:key/:hash`, verify),
    [`${transit}/keys`]: { get: exchange => listed(custodian, exchange) },
    [`${transit}/keys/:key`]: {
      get: async ({ call, params }) => {
        const { output } = await custodian.call('show-key', { input: { key: params.key ?? '' } }, call);
        return { body: { ...envelope(call), data: keyData(output) } };
      },
    },
  };
}

/** Vault makes no difference between POST and PUT. */
const posted = (path: string, handler: (exchange: Exchange) => Promise<Answer>): Routes => ({
  [path]: { post: handler, put: handler },
});

async function signed(custodian: Custodian, exchange: Exchange): Promise<Answer> {
  const { call, params } = exchange;
  const { input, batch_input } = await bodyOf(exchange, vaultBodies.sign);
  const items = itemsOf(input, batch_input, text => ({ input: text, reference: null }));
  const bytes = items.map((item, at) => base64Field(fieldOf('input', batch_input, at), item.input));
  const request = { input: { key: params.key ?? '' }, bytes };
  const reply = await custodian.call('sign-bytes', request, call);
  const signatures = (reply.bytes ?? []).values();
  const results = reply.output.results.map(result => {
    if ('code' in result) return toError(result);
    const signature = signatures.next().value ?? missing();
    const { receipt } = result;
    return { signature: `${signaturePrefix}${encodeBase64(signature)}`, key_version: 1, receipt };
  });
  return answered(call, items, batch_input, results);
}

async function verified(custodian: Custodian, exchange: Exchange): Promise<Answer> {
  const { call, params } = exchange;
  const { input, signature, batch_input } = await bodyOf(exchange, vaultBodies.verify);
  if (!batch_input && typeof signature !== 'string') {
    throw new KeyslotError('BODY_INVALID', 'Field signature is missing.');
  }
  const single = (text: string) => ({ input: text, signature: signature ?? '', reference: null });
  const items = itemsOf(input, batch_input, single);
  const asked = items.map((item, at) => [
    base64Field(fieldOf('input', batch_input, at), item.input),
    vaultSignature(item.signature),
  ]);
  const verdicts = asked.map(async bytes => {
    const { output } = await custodian.call('verify', { input: { key: params.key ?? '' }, bytes }, call);
    return { valid: output.valid };
  });
  return answered(call, items, batch_input, await Promise.all(verdicts));
}

/** QUERY_INVALID: what stands in the query of these calls means nothing to Vault, and something to who wrote it. */
function bodyOf<S extends Parameters<Exchange['body']>[0]>(
  { body, params, query }: Exchange,
  schema: S,
): ReturnType<typeof body<S>> {
  refuseHash(params.hash);
  if (query.size > 0) throw new KeyslotError('QUERY_INVALID', 'This route takes no query parameters.');
  return body(schema, limits.batchBody_bytes_max);
}

function itemsOf<T>(
  input: string | null | undefined,
  batch: readonly T[] | null | undefined,
  single: (input: string) => T,
): readonly T[] {
  if ((typeof input === 'string') === Array.isArray(batch)) {
    throw new KeyslotError('BODY_INVALID', 'Exactly one of input and batch_input must be given.');
  }
  if (typeof input === 'string') return [single(input)];
  if (batch && batch.length > 0 && batch.length <= limits.batch_items_max) return batch;
  throw new KeyslotError('BATCH_TOO_LARGE', `A batch has 1 to ${limits.batch_items_max} items.`);
}

const fieldOf = (name: string, batch: unknown, at: number): string =>
  batch ? `batch_input.${at}.${name}` : name;

/** A single failure is the answer's; in a batch each item has its own, and its reference back. */
function answered(
  call: Call,
  items: readonly { readonly reference?: string | null | undefined }[],
  batch: unknown,
  results: readonly (KeyslotError | Record<string, unknown>)[],
): Answer {
  const [first] = results;
  if (!batch) {
    if (first instanceof KeyslotError || !first) throw first ?? missing();
    return { body: { ...envelope(call), data: first } };
  }
  const batch_results = results.map((result, at) => {
    const reference = items[at]?.reference ?? undefined;
    const shown = result instanceof KeyslotError ? { error: `${result.message} (${result.code})` } : result;
    return reference === undefined ? shown : { ...shown, reference };
  });
  return { body: { ...envelope(call), data: { batch_results } } };
}

/** By name, all of them, or those behind `after` and at most `limit`, as OpenBao has it. */
async function listed(custodian: Custodian, { call, query }: Exchange): Promise<Answer> {
  const limit = Number(query.get('limit') ?? 0);
  const after = query.get('after') ?? undefined;
  if (!Number.isInteger(limit) || (after?.length ?? 0) > 63) {
    throw new KeyslotError('QUERY_INVALID', 'The parameters after and limit are a name and a number.');
  }
  const wanted = limit > 0 ? Math.min(limit, list_items_max) : list_items_max;
  const names: string[] = [];
  let cursor = after;
  do {
    const input = { cursor, limit: Math.min(wanted - names.length, limits.page_items_max) };
    const { output } = await custodian.call('list-keys', { input }, call);
    names.push(...output.keys.map(({ id }) => id));
    cursor = output.next;
  } while (cursor !== undefined && names.length < wanted);
  if (names.length === 0) throw new KeyslotError('KEY_UNKNOWN', 'There is no key.');
  const cut = cursor !== undefined && limit <= 0;
  const warnings = cut ? ['There are more keys: list them with after and limit.'] : null;
  return { body: { ...envelope(call), data: { keys: names }, warnings } };
}

const list_items_max = 10_000;

function keyData({ id, publicKeyBase64, createdAt, state }: KeyView) {
  return {
    name: id,
    type: 'ed25519',
    keys: { 1: { creation_time: createdAt, name: 'ed25519', public_key: publicKeyBase64 } },
    latest_version: 1,
    min_available_version: 0,
    min_decryption_version: 1,
    min_encryption_version: 0,
    supports_signing: state === 'active',
    supports_encryption: false,
    supports_decryption: false,
    supports_derivation: false,
    derived: false,
    exportable: false, // not by these calls, whatever its custody can do
    allow_plaintext_backup: false,
    deletion_allowed: false,
    auto_rotate_period: 0,
    imported_key: false,
  };
}

/** PERMISSION_DENIED for another namespace than the configured one. Health is the same in all of them. */
function inNamespace(namespace: string | undefined, routes: Routes): Routes {
  if (namespace === undefined) return routes;
  return Object.fromEntries(
    Object.entries(routes).map(([path, methods]) => [
      path,
      Object.fromEntries(
        Object.entries(methods).map(([method, handler]) => [
          method,
          (exchange: Exchange) => {
            const named = exchange.header('x-vault-namespace') ?? '';
            if (named.replace(/^\/|\/$/g, '') === namespace) return handler(exchange);
            throw new KeyslotError('PERMISSION_DENIED', 'X-Vault-Namespace does not name the namespace.');
          },
        ]),
      ),
    ]),
  );
}

const envelope = ({ requestId }: Call) => ({
  request_id: requestId,
  lease_id: '',
  renewable: false,
  lease_duration: 0,
  data: null,
  wrap_info: null,
  warnings: null,
  auth: null,
});

const toError = ({ code, detail }: { code: string; detail: string }): KeyslotError =>
  isErrorCode(code) ? new KeyslotError(code, detail) : toKeyslotError(new TypeError(code));

function missing(): never {
  throw new KeyslotError('INTERNAL', 'The custodian answered without the bytes of a signature.');
}

// The bytes stay valid until the Secret is disposed, which is after the call has been answered.
const lent = (bytes: Uint8Array): Uint8Array => bytes;

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

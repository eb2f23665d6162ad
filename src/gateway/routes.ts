import { randomBytes } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import express, { type ErrorRequestHandler, type Express, type RequestHandler } from 'express';
import { encodeBase58 } from '../foundation/base58.ts';
import { encodeBase64 } from '../foundation/base64.ts';
import { isErrorCode, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { Log } from '../foundation/log.ts';
import { Secret } from '../foundation/secret.ts';
import type { Call, Custodian, OperationName, Reply } from '../wire/custodian.ts';
import { base64Field, bodies, parseBody, seedOf, signatureField } from '../wire/http.ts';
import { callOf } from './authentication.ts';
import { readJson } from './json-body.ts';
import { answer, answerProblem, problemOf } from './problem.ts';

/** The HTTP API: each route parses its body, asks the custodian one question, and shapes the answer. */
export function createApi(
  custodian: Custodian,
  log: Log,
  more: (app: Express) => Express = app => app,
): Express {
  const app = lean();
  mount(app, routes(custodian));
  return closed(more(app), log);
}

/** How callers of some routes say who they are, and of what type bodies may be besides JSON. */
export interface Door {
  readonly callOf: typeof callOf;
  readonly takesType: (request: IncomingMessage) => boolean;
}

const ownDoor: Door = { callOf, takesType: () => false };

/** Puts routes into an app; a method that a path does not take is METHOD_NOT_ALLOWED. */
export function mount(app: Express, routes: Routes, door = ownDoor): void {
  for (const [path, methods] of Object.entries(routes)) {
    const route = app.route(path);
    const allowed = Object.keys(methods).map(method => method.toUpperCase());
    for (const [method, handler] of Object.entries(methods)) {
      route[method as Method](asHandler(handler, door));
    }
    route.all((_request, response) => {
      response.setHeader('Allow', allowed.join(', '));
      throw new KeyslotError('METHOD_NOT_ALLOWED', `This route takes ${allowed.join(' and ')}.`);
    });
  }
}

/** Express with nothing on the hot path that a signature does not need. */
export function lean(): Express {
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.set('query parser', 'simple');
  return app;
}

/** The end of every stack: what no route took, and what any route threw, as problems. */
export function closed(app: Express, log: Log): Express {
  app.use(() => {
    throw new KeyslotError('ROUTE_UNKNOWN', 'No route has this path.');
  });
  app.use(failures(log, answerProblem));
  return app;
}

/** What routes throw, answered in whichever shape. */
export function failures(log: Log, answerFailure: typeof answerProblem): ErrorRequestHandler {
  return (thrown, request, response, _next) => {
    const error = httpError(thrown);
    const requestId = requestIds.get(request) ?? newRequestId();
    if (error.code === 'INTERNAL') log.error({ requestId, err: error }, 'a request broke');
    if (response.headersSent) return void response.destroy();
    // What is left of a body that was refused is not read: the connection ends with the answer.
    if (!request.complete && hasBody(request)) response.setHeader('Connection', 'close');
    response.setHeader('Request-Id', requestId);
    answerFailure(response, error, requestId);
  };
}

type Method = 'get' | 'post' | 'put' | 'delete';
type Handler = (exchange: Exchange) => Promise<Answer>;
export type Routes = Readonly<Record<string, Partial<Record<Method, Handler>>>>;
export interface Answer {
  readonly status?: number;
  readonly body: unknown;
  readonly contentType?: string;
}

/** One request on its way: its call for the custodian, its parameters, its body when it is asked for. */
export interface Exchange {
  readonly call: Call;
  readonly params: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  body<S extends Parameters<typeof parseBody>[0]>(
    schema: S,
    bytes_max?: number,
  ): Promise<ReturnType<typeof parseBody<S>>>;
  /** The body as it parses, of whatever shape. */
  json(): Promise<unknown>;
  header(name: string): string | undefined;
  /** Aborted when the client has gone. */
  gone(): AbortSignal;
}

function routes(custodian: Custodian): Routes {
  const ask = custodian.call.bind(custodian);
  const plain = async <N extends OperationName>(reply: Promise<Reply<N>>, status = 200): Promise<Answer> => ({
    status,
    body: (await reply).output,
  });
  /** A part of a migration: as many keys as one request has time for, and none begun for a client that has gone. */
  const migrating =
    (
      operation: 'run-migration' | 'verify-migration' | 'rollback-migration' | 'destroy-copies',
      schema: typeof bodies.migrationBatch | typeof bodies.destroyCopies,
    ): Handler =>
    async ({ call, params, body, gone }) => {
      const { keys, after, max = migrationBatch_items } = await body(schema);
      const input = { migration: params.id ?? '', keys, after, max };
      return plain(ask(operation, { input }, { ...call, signal: gone() }));
    };

  return {
    // The hot ones first: express looks through its routes in order.
    '/v1/keys/:id/sign-transaction': {
      post: async ({ call, params, body }) => {
        const { transaction } = await body(bodies.signTransaction);
        const bytes = [base64Field('transaction', transaction)];
        const reply = await ask('sign-transaction', { input: { key: params.id ?? '' }, bytes }, call);
        const { version, ...by } = reply.output;
        return { body: { ...signedTransaction(reply.bytes ?? []), version, ...by } };
      },
    },
    '/v1/keys/:id/sign-message': {
      post: async ({ call, params, body }) => {
        const { message } = await body(bodies.signMessage);
        const bytes = [base64Field('message', message)];
        const reply = await ask('sign-message', { input: { key: params.id ?? '' }, bytes }, call);
        return { body: { ...signedMessage(reply.bytes ?? []), ...reply.output } };
      },
    },
    '/v1/keys/:id/sign-batch': {
      post: async ({ call, params, body }) => {
        const { items } = await body(bodies.signBatch, limits.batchBody_bytes_max);
        if (items.length === 0 || items.length > limits.batch_items_max) {
          throw new KeyslotError('BATCH_TOO_LARGE', `A batch has 1 to ${limits.batch_items_max} items.`);
        }
        return { body: await signBatch(custodian, params.id ?? '', items, call) };
      },
    },
    '/v1/keys/:id/verify': {
      post: async ({ call, params, body }) => {
        const { message, signature } = await body(bodies.verify);
        const bytes = [base64Field('message', message), signatureField(signature)];
        return plain(ask('verify', { input: { key: params.id ?? '' }, bytes }, call));
      },
    },
    '/v1/keys/:id/import': {
      post: async ({ call, params, body }) => {
        const material = await body(bodies.importKey);
        using seed = seedOf(material);
        const input = { key: params.id ?? '', slot: material.slot };
        return await plain(ask('import-key', { input, bytes: [seed.use(lent)] }, call), 201);
      },
    },
    '/v1/keys/:id/adopt': {
      post: async ({ call, params, body }) => {
        const input = { key: params.id ?? '', ...(await body(bodies.adoptKey)) };
        return plain(ask('adopt-key', { input }, call), 201);
      },
    },
    '/v1/keys/:id': {
      get: async ({ call, params }) => plain(ask('show-key', { input: { key: params.id ?? '' } }, call)),
    },
    '/v1/keys': {
      get: async ({ call, query }) => plain(ask('list-keys', { input: listing(query) }, call)),
      post: async ({ call, body }) => {
        const { id, slot } = await body(bodies.generateKey);
        return plain(ask('generate-key', { input: { key: id, slot } }, call), 201);
      },
    },
    '/v1/slots': {
      get: async ({ call }) => plain(ask('list-slots', { input: {} }, call)),
    },
    '/v1/slots/:slot': {
      get: async ({ call, params }) => plain(ask('show-slot', { input: { slot: params.slot ?? '' } }, call)),
    },
    '/v1/slots/:slot/open': {
      post: async ({ call, params, body }) => {
        const { pin } = await body(bodies.openSlot);
        const input = { slot: params.slot ?? '' };
        if (pin === undefined) return plain(ask('open-slot', { input }, call));
        using secret = Secret.fromText(pin);
        return await plain(ask('open-slot', { input, bytes: [secret.use(lent)] }, call));
      },
    },
    '/v1/slots/:slot/lock': {
      post: async ({ call, params, body }) => {
        await body(bodies.nothing);
        return plain(ask('lock-slot', { input: { slot: params.slot ?? '' } }, call));
      },
    },
    '/v1/slots/:slot/clear-latch': {
      post: async ({ call, params, body }) => {
        await body(bodies.nothing);
        return plain(ask('clear-latch', { input: { slot: params.slot ?? '' } }, call));
      },
    },
    '/v1/slots/:slot/sessions': {
      post: async ({ call, params, body }) => {
        const { pin } = await body(bodies.openSession);
        using secret = Secret.fromText(pin);
        const input = { slot: params.slot ?? '' };
        const reply = await ask('open-session', { input, bytes: [secret.use(lent)] }, call);
        const token = Buffer.from(reply.bytes?.[0] ?? []).toString('latin1');
        return { status: 201, body: { token, ...reply.output } };
      },
    },
    '/v1/migrations/plan': {
      post: async ({ call, body }) =>
        plain(ask('plan-migration', { input: await body(bodies.migrationRoute) }, call)),
    },
    '/v1/migrations': {
      get: async ({ call }) => plain(ask('list-migrations', { input: {} }, call)),
      post: async ({ call, body }) =>
        plain(ask('start-migration', { input: await body(bodies.migrationRoute) }, call), 201),
    },
    '/v1/migrations/:id': {
      get: async ({ call, params, query }) => {
        const input = { migration: params.id ?? '', ...pageOf(query) };
        return plain(ask('show-migration', { input }, call));
      },
    },
    '/v1/migrations/:id/run': { post: migrating('run-migration', bodies.migrationBatch) },
    '/v1/migrations/:id/verify': { post: migrating('verify-migration', bodies.migrationBatch) },
    '/v1/migrations/:id/rollback': { post: migrating('rollback-migration', bodies.migrationBatch) },
    '/v1/migrations/:id/destroy-copies': { post: migrating('destroy-copies', bodies.destroyCopies) },
    '/v1/sessions/current': {
      delete: async ({ call }) => plain(ask('close-session', { input: {} }, call)),
    },
  };
}

async function signBatch(
  custodian: Custodian,
  key: string,
  items: ReturnType<typeof parseBody<typeof bodies.signBatch>>['items'],
  call: Call,
) {
  const kinds = items.map(item => ('message' in item ? 'message' : 'transaction'));
  const bytes = items.map((item, at) =>
    'message' in item
      ? base64Field(`items.${at}.message`, item.message)
      : base64Field(`items.${at}.transaction`, item.transaction),
  );
  const reply = await custodian.call('sign-batch', { input: { key, items: kinds }, bytes }, call);
  const { results, ...by } = reply.output;
  const signed = (reply.bytes ?? []).values();
  const take = (count: number) => [...signed.take(count)];
  return {
    ...by,
    results: results.map(result => {
      if ('version' in result) return { ...signedTransaction(take(2)), version: result.version };
      if ('kind' in result) return { ...signedMessage(take(1)), kind: result.kind };
      const code = isErrorCode(result.code) ? result.code : 'INTERNAL';
      return { error: problemOf(code, result.detail, call.requestId) };
    }),
  };
}

function signedMessage([signature]: readonly Uint8Array[]) {
  const bytes = signature ?? missing();
  return { signature: encodeBase58(bytes), signatureBase64: encodeBase64(bytes) };
}

function signedTransaction([signature, transaction]: readonly Uint8Array[]) {
  return {
    signedTransaction: encodeBase64(transaction ?? missing()),
    ...signedMessage([signature ?? missing()]),
  };
}

function missing(): never {
  throw new KeyslotError('INTERNAL', 'The custodian answered without the bytes of a signature.');
}

const migrationBatch_items = 25;

function listing(query: URLSearchParams) {
  return { ...pageOf(query, ['slot']), slot: query.get('slot') ?? undefined };
}

function pageOf(query: URLSearchParams, more: readonly string[] = []) {
  for (const name of query.keys()) {
    if (!['cursor', 'limit', ...more].includes(name)) {
      throw new KeyslotError(
        'QUERY_INVALID',
        `There is no query parameter ${JSON.stringify(name.slice(0, 80))}.`,
      );
    }
  }
  const limit = Number(query.get('limit') ?? limits.page_items_default);
  if (!Number.isInteger(limit) || limit < 1 || limit > limits.page_items_max) {
    throw new KeyslotError(
      'QUERY_INVALID',
      `The parameter limit is a number from 1 to ${limits.page_items_max}.`,
    );
  }
  const cursor = query.get('cursor') ?? undefined;
  if (cursor !== undefined && cursor.length > 63) {
    throw new KeyslotError('QUERY_INVALID', 'The parameter cursor is not one that a listing gave out.');
  }
  return { limit, cursor };
}

// The bytes stay valid until the Secret is disposed, which is after the call has been answered.
const lent = (bytes: Uint8Array): Uint8Array => bytes;

function asHandler(handler: Handler, door: Door): RequestHandler {
  return async (request, response) => {
    const requestId = newRequestId();
    requestIds.set(request, requestId);
    const {
      status = 200,
      body,
      contentType,
    } = await handler({
      call: door.callOf(request, requestId),
      params: request.params as Record<string, string>,
      query: queryOf(request),
      body: async (schema, bytes_max = limits.body_bytes_max) =>
        parseBody(schema, await readJson(request, bytes_max, door.takesType)),
      json: () => readJson(request, limits.body_bytes_max, door.takesType),
      header: name => request.get(name),
      gone: () => {
        const gone = new AbortController();
        response.once('close', () => gone.abort());
        return gone.signal;
      },
    });
    response.setHeader('Request-Id', requestId);
    answer(response as ServerResponse, status, body, contentType);
  };
}

// A request without a body is not complete yet either while a route answers it at once.
const hasBody = ({ headers }: IncomingMessage): boolean =>
  headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;

const queryOf = ({ url = '' }: IncomingMessage) =>
  new URLSearchParams(url.includes('?') ? url.slice(url.indexOf('?')) : '');

/** Express's own refusals (a path that does not decode) are the caller's; everything else keeps its code. */
function httpError(thrown: unknown): KeyslotError {
  if (thrown instanceof URIError)
    return new KeyslotError('ROUTE_UNKNOWN', 'The path is not valid percent-encoding.');
  return toKeyslotError(thrown);
}

const requestIds = new WeakMap<IncomingMessage, string>();
const requestPrefix = randomBytes(6).toString('hex');
let requestCount = 0;
const newRequestId = (): string => {
  requestCount += 1;
  return `${requestPrefix}-${requestCount.toString(36)}`;
};

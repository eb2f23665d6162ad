import { randomBytes } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import express, { type ErrorRequestHandler, type Express, type RequestHandler } from 'express';
import { KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { Log } from '../foundation/log.ts';
import type { Call, OperationName, Reply } from '../wire/custodian.ts';
import { parseBody } from '../wire/http.ts';
import { callOf } from './authentication.ts';
import { hasBody, readJson } from './json-body.ts';
import { answer, answerProblem } from './problem.ts';
import { notesOf } from './request-notes.ts';
import { givenRequestId, termsOf } from './request-terms.ts';

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

export interface Answer {
  readonly status?: number;
  readonly body: unknown;
  readonly contentType?: string;
}

type Method = 'get' | 'post' | 'put' | 'delete';
export type Handler = (exchange: Exchange) => Promise<Answer>;
export type Routes = Readonly<Record<string, Partial<Record<Method, Handler>>>>;

/** How callers of some routes say who they are, and of what type bodies may be besides JSON. */
export interface Door {
  readonly callOf: typeof callOf;
  readonly takesType: (request: IncomingMessage) => boolean;
}

const ownDoor: Door = { callOf, takesType: () => false };

/** An answer of the custodian as it is. */
export const plain = async <N extends OperationName>(
  reply: Promise<Reply<N>>,
  status = 200,
): Promise<Answer> => ({ status, body: (await reply).output });

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
    const requestId = requestIds.get(request) ?? givenRequestId(request) ?? newRequestId();
    const notes = notesOf(request);
    if (notes) {
      notes.requestId = requestId;
      notes.failed(error);
    }
    if (error.code === 'INTERNAL') log.error({ requestId, err: error }, 'a request broke');
    if (response.headersSent) return void response.destroy();
    // What is left of a body that was refused is not read: the connection ends with the answer. A request without
    // a body is not complete yet either while a route answers it at once.
    if (!request.complete && hasBody(request)) response.setHeader('Connection', 'close');
    response.setHeader('Request-Id', requestId);
    answerFailure(response, error, requestId);
  };
}

function asHandler(handler: Handler, door: Door): RequestHandler {
  return async (request, response) => {
    const given = givenRequestId(request);
    const requestId = given ?? newRequestId();
    requestIds.set(request, requestId);
    const account = notesOf(request);
    if (account) account.requestId = requestId;
    const call = door.callOf(request, requestId);
    const {
      status = 200,
      body,
      contentType,
    } = await handler({
      call: { ...call, ...termsOf(request, given), ...(account ? { account } : {}) },
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

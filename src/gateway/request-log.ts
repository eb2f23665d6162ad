import type { IncomingMessage, ServerResponse } from 'node:http';
import type { LogFields } from '../foundation/log.ts';
import { parseTraceParent, type Tracer } from '../foundation/tracing.ts';
import { type CallAccount, stageNames } from '../wire/account.ts';
import { type CallSeen, RequestNotes, type RequestSeen, takeNotes } from './request-notes.ts';
import { traceOf } from './request-trace.ts';

/**
 * One line a request, when its answer has left or its client has gone. What it says is chosen field by field:
 * routes as they are declared and not as they were called, names of what exists, codes, times. No body, no header
 * but the request id and the trace id, no query, no text of an error.
 */
export class RequestLog {
  readonly #options: RequestLogOptions;
  readonly #probes = new Map<string, number>();

  constructor(options: RequestLogOptions) {
    this.#options = options;
  }

  begin(request: IncomingMessage, response: ServerResponse): void {
    const began_ms = performance.now();
    const caller = parseTraceParent(request.headers.traceparent);
    const span = isProbe(pathOf(request))
      ? undefined
      : this.#options.tracer?.begin('request', began_ms, caller);
    const notes = new RequestNotes(span, span?.traceId ?? caller?.traceId);
    takeNotes(request, notes);
    response.once('close', () => this.#end(request, response, notes, began_ms));
  }

  #end(request: IncomingMessage, response: ServerResponse, notes: RequestNotes, began_ms: number): void {
    const ended_ms = performance.now();
    const seen: RequestSeen = {
      method: request.method ?? '',
      route: routeOf(request),
      status: response.headersSent ? response.statusCode : undefined,
      answered: response.writableFinished,
      began_ms,
      ended_ms,
    };
    if (notes.span) traceOf(notes.span, seen, notes);
    if (!this.#isSaid(seen)) return;
    const address = this.#options.clientAddress ? request.socket.remoteAddress : undefined;
    this.#options.write(lineOf(seen, notes, address), (seen.status ?? 0) >= 500);
  }

  #isSaid({ route, status = 0 }: RequestSeen): boolean {
    const { which, probes } = this.#options;
    if (which === 'off') return false;
    if (which === 'errors' && status > 0 && status < 400) return false;
    if (route === undefined || !isProbe(route) || probes === 'all') return true;
    const changed = this.#probes.get(route) !== status;
    this.#probes.set(route, status);
    return probes === 'changes' && changed;
  }
}

export interface RequestLogOptions {
  readonly which: 'all' | 'errors' | 'off';
  /** Of those who look how the appliance is: every one, those that are answered otherwise than the one before, or none. */
  readonly probes: 'all' | 'changes' | 'off';
  readonly clientAddress: boolean;
  readonly tracer?: Tracer | undefined;
  /** `failed`: the appliance could not do what was asked. */
  write(fields: LogFields, failed: boolean): void;
}

/** What all calls of a request together tell: most have one, and of several the last one is what was asked for. */
export function summed(calls: readonly CallSeen[]): Partial<CallAccount> {
  const [only] = calls;
  if (calls.length < 2 || !only) return only?.account ?? {};
  return Object.assign({}, ...calls.map(({ account }) => account)) as Partial<CallAccount>;
}

function lineOf(seen: RequestSeen, notes: RequestNotes, client: string | undefined): LogFields {
  const { operation, identity, key, slot, verdict, items, unsigned, stages } = summed(notes.calls);
  const custodian_ms = notes.calls.reduce((sum, { account }) => sum + account.took_ms, 0);
  return {
    requestId: notes.requestId,
    traceId: notes.traceId,
    method: seen.method,
    route: seen.route,
    status: seen.status,
    aborted: seen.answered ? undefined : true,
    code: notes.code,
    rules: notes.rules,
    client,
    operation,
    identity,
    key,
    slot,
    verdict,
    items,
    unsigned,
    duration_ms: micro(seen.ended_ms - seen.began_ms),
    custodian_ms: notes.calls.length > 0 ? micro(custodian_ms) : undefined,
    stages_ms: stages && named(stages),
  };
}

function named(stages: readonly number[]): Readonly<Record<string, number>> {
  const times: Record<string, number> = {};
  for (let at = 0; at < stages.length; at += 1) times[stageNames[at] ?? ''] = stages[at] ?? 0;
  return times;
}

/** express leaves the route that it took at the request. */
function routeOf(request: object): string | undefined {
  const route: unknown = 'route' in request ? request.route : undefined;
  if (typeof route !== 'object' || route === null || !('path' in route)) return undefined;
  return typeof route.path === 'string' ? route.path : undefined;
}

const pathOf = ({ url = '' }: IncomingMessage): string => url.split('?', 1)[0] ?? '';

const isProbe = (path: string): boolean => probePaths.has(path);

const probePaths: ReadonlySet<string> = new Set(['/healthz', '/readyz', '/v1/health', '/metrics']);

const micro = (time_ms: number): number => Math.round(time_ms * 1_000) / 1_000;

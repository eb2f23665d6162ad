import type { IncomingMessage } from 'node:http';
import type { KeyslotError } from '../foundation/errors.ts';
import type { Span } from '../foundation/tracing.ts';
import type { AccountTaker, CallAccount } from '../wire/account.ts';

/** What is learnt of a request on its way. */
export class RequestNotes implements AccountTaker {
  requestId: string | undefined;
  readonly span: Span | undefined;
  readonly traceId: string | undefined;
  readonly calls: CallSeen[] = [];
  #code: string | undefined;
  #rules: readonly string[] | undefined;

  constructor(span: Span | undefined, traceId: string | undefined) {
    this.span = span;
    this.traceId = traceId;
  }

  get traced(): boolean {
    return this.span?.recorded ?? false;
  }

  get code(): string | undefined {
    return this.#code;
  }

  get rules(): readonly string[] | undefined {
    return this.#rules;
  }

  take(account: CallAccount, asked_ms: number): void {
    if (this.calls.length < calls_max) this.calls.push({ account, asked_ms, answered_ms: performance.now() });
  }

  failed({ code, violations }: KeyslotError): void {
    this.#code = code;
    this.#rules = violations?.slice(0, rules_max).map(({ rule }) => rule.slice(0, rule_chars_max));
  }
}

/** A call to the custodian, with the times of this process around those that the custodian tells. */
export interface CallSeen {
  readonly account: CallAccount;
  readonly asked_ms: number;
  readonly answered_ms: number;
}

export interface RequestSeen {
  readonly method: string;
  /** As it is declared; undefined when no route took the request. */
  readonly route: string | undefined;
  /** Undefined when the client had gone before there was one. */
  readonly status: number | undefined;
  readonly answered: boolean;
  readonly began_ms: number;
  readonly ended_ms: number;
}

/** The notes of a request; none where nobody reads them. */
export const notesOf = (request: IncomingMessage): RequestNotes | undefined => noted.get(request);

export function takeNotes(request: IncomingMessage, notes: RequestNotes): void {
  noted.set(request, notes);
}

const noted = new WeakMap<IncomingMessage, RequestNotes>();

const calls_max = 16;
const rules_max = 5;
const rule_chars_max = 100;

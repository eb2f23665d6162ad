import type { ServerResponse } from 'node:http';
import { type ErrorCode, errorTable, type KeyslotError, type Violation } from '../foundation/errors.ts';

/** An error as `application/problem+json` (RFC 9457). It says what to do, and nothing from inside. */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly code: ErrorCode;
  readonly remedy: string;
  readonly retryable: boolean;
  readonly requestId: string;
  /** The rules that refused, where a policy did. */
  readonly violations?: readonly Violation[];
}

export function problemOf(
  code: ErrorCode,
  detail: string,
  requestId: string,
  violations?: readonly Violation[],
): Problem {
  const { status, title, remedy, retryable } = errorTable[code];
  const problem = { type: `urn:keyslot:error:${code}`, title, status, detail, code, remedy, retryable };
  return { ...problem, requestId, ...(violations ? { violations } : {}) };
}

export function answerProblem(response: ServerResponse, error: KeyslotError, requestId: string): void {
  const problem = problemOf(error.code, error.message, requestId, error.violations);
  if (error.retryAfter_s !== undefined) response.setHeader('Retry-After', String(error.retryAfter_s));
  if (problem.status === 401) response.setHeader('WWW-Authenticate', 'Bearer');
  answer(response, problem.status, problem, 'application/problem+json');
}

export function answer(
  response: ServerResponse,
  status: number,
  body: unknown,
  contentType = 'application/json',
): void {
  const text = JSON.stringify(body);
  response.writeHead(status, {
    'Content-Type': contentType,
    'Content-Length': Buffer.byteLength(text),
    'Cache-Control': 'no-store',
  });
  response.end(text);
}

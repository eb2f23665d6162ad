import type { ErrorCode } from '../foundation/errors.ts';

/** The appliance's own codes (docs/errors.md), and what only a client can find out. */
export type ClientErrorCode =
  | ErrorCode
  /** No answer came: nobody listens, a connection broke, or a certificate was not accepted. */
  | 'CLIENT_NETWORK'
  /** The time of the call is over. */
  | 'CLIENT_TIMEOUT'
  /** The caller's signal, or the client was closed. `cause` is the reason of the signal. */
  | 'CLIENT_ABORTED'
  /** What answered is not Keyslot, or not in a shape that this client reads. */
  | 'CLIENT_REPLY_INVALID'
  /** A signature is not one of this address over these bytes. Nothing was released. */
  | 'CLIENT_SIGNATURE_INVALID'
  /** The key has another address than the one that was asked for. */
  | 'CLIENT_ADDRESS_MISMATCH';

/** A call that failed. The text says what happened and never holds a token, a PIN or a body. */
export class KeyslotClientError extends Error {
  readonly code: ClientErrorCode;
  /** The HTTP status, where there was an answer. */
  readonly status: number | undefined;
  /** Whether the same call may succeed later; what was safe to repeat has been repeated already. */
  readonly retryable: boolean;
  readonly retryAfter_s: number | undefined;
  /** What the appliance's log calls this request. */
  readonly requestId: string | undefined;
  readonly detail: string;
  /** Which item of a batch failed. */
  readonly index: number | undefined;
  /** The rules that refused, each with its reason; empty where no policy did. */
  readonly violations: readonly Violation[];

  constructor(code: ClientErrorCode, detail: string, facts: ErrorFacts = {}) {
    super(detail, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.name = 'KeyslotClientError';
    this.code = code;
    this.detail = detail;
    this.status = facts.status;
    this.retryable = facts.retryable ?? false;
    this.retryAfter_s = facts.retryAfter_s;
    this.requestId = facts.requestId;
    this.index = facts.index;
    this.violations = facts.violations ?? [];
  }
}

export interface ErrorFacts {
  readonly status?: number | undefined;
  readonly retryable?: boolean | undefined;
  readonly retryAfter_s?: number | undefined;
  readonly requestId?: string | undefined;
  readonly index?: number | undefined;
  readonly violations?: readonly Violation[] | undefined;
  readonly cause?: unknown;
}

/** A rule of a policy, `policy/rule`, and why it refused. */
export interface Violation {
  readonly rule: string;
  readonly reason: string;
}

export const isKeyslotClientError = (error: unknown): error is KeyslotClientError =>
  error instanceof KeyslotClientError;

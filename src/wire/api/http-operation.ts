import type { z } from 'zod';
import { type ErrorCode, errorTable } from '../../foundation/errors.ts';
import { vaultStatus } from '../vault-transit.ts';

/**
 * One call of the HTTP API as it is described to others: where it is, what it takes and answers, and with which codes
 * it fails. `table.ts` has all of them; the OpenAPI document is made of it, and tests hold routes and custodian to it.
 */
export interface HttpOperation {
  /** The operation of the custodian where there is one of the same purpose; unique, and for ever. */
  readonly id: string;
  readonly method: 'get' | 'post' | 'put' | 'delete';
  /** Parameters in braces. */
  readonly path: string;
  readonly tag: Tag;
  readonly summary: string;
  readonly description?: string;
  /** Who may ask: an identity, whoever Vault's token names, or anybody at all. */
  readonly door: 'identity' | 'vault' | 'anybody';
  /** Whether the token of a PIN session means something to it. */
  readonly session: boolean;
  readonly effect: Effect;
  readonly parameters: readonly Parameter[];
  readonly body?: z.ZodType;
  /** Whether the body may be left out, which reads as `{}`. */
  readonly bodyOptional: boolean;
  readonly status: 200 | 201;
  readonly reply: z.ZodType;
  /** Of the reply; JSON where nothing else is said. */
  readonly replyType?: string;
  /** Replies of the same shape with another status, and what that means: what is not ready says so in its own words. */
  readonly otherStatuses?: Readonly<Partial<Record<501 | 503, string>>>;
  /** Where it is answered; on that of callers where nothing else is said. */
  readonly listeners?: readonly Listener[];
  readonly failure: Failure;
  /** Whatever it may fail with, each once. */
  readonly codes: readonly ErrorCode[];
  /** A request that works, with a key `treasury` in the slot `main`. */
  readonly example: Example;
}

/** That of callers, or the one for whoever operates the appliance. */
export type Listener = 'api' | 'ops';

export type Tag =
  | 'signing'
  | 'keys'
  | 'slots'
  | 'migrations'
  | 'policies'
  | 'audit'
  | 'identities'
  | 'service'
  | 'wallets'
  | 'vault';

/**
 * What it leaves behind: nothing, a signature, a change, or a mere event. Whatever is not `read` looks at
 * Idempotency-Key; a `change` may take approvals, where the configuration says so.
 */
export type Effect = 'read' | 'sign' | 'change' | 'event';

/** In which shape failures are answered: as problems, or as the other programs have them. */
export type Failure = 'problem' | 'wallet' | 'vault';

export interface Parameter {
  /** Of the component in the document. */
  readonly component: string;
  readonly name: string;
  readonly in: 'path' | 'query';
  readonly required: boolean;
  readonly schema: z.ZodType;
  readonly description: string;
  readonly example: string | number;
}

export interface Example {
  readonly parameters?: Readonly<Record<string, string | number>>;
  readonly body?: unknown;
  /** Of what is the same each time; receipts, times and ids are examples only. */
  readonly reply?: unknown;
}

/** What is said of an operation of our own; everything else follows from it. */
export interface Native
  extends Pick<HttpOperation, 'id' | 'method' | 'path' | 'tag' | 'summary' | 'reply'>,
    Partial<
      Pick<
        HttpOperation,
        | 'description'
        | 'door'
        | 'session'
        | 'effect'
        | 'parameters'
        | 'body'
        | 'bodyOptional'
        | 'status'
        | 'failure'
        | 'example'
      >
    > {
  /** Beyond those that come with credentials, bodies, headers and parameters. */
  readonly codes?: readonly ErrorCode[];
  /** Anybody who is known may ask, whatever the roles. */
  readonly anyRole?: boolean;
}

export function native(described: Native): HttpOperation {
  const { method, parameters = [], body, door = 'identity', session = false } = described;
  const effect = described.effect ?? (method === 'get' ? 'read' : 'change');
  const codes: readonly ErrorCode[] = [
    ...(door !== 'anybody' ? [...groups.credential, ...(described.anyRole ? [] : groups.role)] : []),
    ...(session ? groups.expiredSession : []),
    ...(method === 'get' ? [] : groups.terms),
    ...(effect === 'read' ? [] : groups.repeat),
    ...(effect === 'change' ? groups.approval : []),
    ...(body ? groups.body : []),
    ...(parameters.some(each => each.in === 'path') ? groups.path : []),
    ...groups.custodian,
    ...(described.codes ?? []),
  ];
  return {
    status: 200,
    failure: 'problem',
    example: {},
    bodyOptional: false,
    ...described,
    door,
    session,
    effect,
    parameters,
    codes: [...new Set(codes)],
  };
}

/** With which status a code is answered there: as the error table says, or as Vault would. */
export const statusOf = (
  { failure, method }: Pick<HttpOperation, 'failure' | 'method'>,
  code: ErrorCode,
): number => (failure === 'vault' ? vaultStatus(code, method) : errorTable[code].status);

/** Codes that come together. */
export const groups = {
  credential: ['CREDENTIAL_MISSING', 'CREDENTIAL_UNKNOWN', 'CREDENTIAL_EXPIRED', 'JWKS_UNAVAILABLE'],
  role: ['PERMISSION_DENIED'],
  expiredSession: ['SESSION_EXPIRED'],
  /** Of what is said in headers, and looked at before the body. */
  terms: ['IDEMPOTENCY_KEY_INVALID', 'APPROVAL_UNKNOWN'],
  repeat: ['IDEMPOTENCY_CONFLICT'],
  approval: ['APPROVAL_REQUIRED', 'APPROVAL_UNUSABLE'],
  body: ['BODY_NOT_JSON', 'BODY_INVALID', 'FIELD_UNKNOWN', 'BODY_TOO_LARGE', 'CONTENT_TYPE_UNSUPPORTED'],
  path: ['ROUTE_UNKNOWN'],
  query: ['QUERY_INVALID'],
  custodian: [
    'INTERNAL',
    'CUSTODIAN_UNAVAILABLE',
    'SHUTTING_DOWN',
    'REQUEST_ABORTED',
    'STORE_FAILED',
    'AUDIT_UNAVAILABLE',
    'AUDIT_FAILED',
    'AUDIT_TAMPERED',
    'DEADLINE_EXCEEDED',
  ],
  /** A slot that has to be open. */
  openSlot: ['SLOT_LOCKED', 'SLOT_LATCHED', 'SLOT_FAILED'],
  /** What custodies answer with, whichever it is. */
  custody: [
    'SLOT_BUSY',
    'SESSION_CLOSED',
    'KEY_AMBIGUOUS',
    'KEY_MISMATCH',
    'KEY_MISSING',
    'SIGNATURE_WITHHELD',
    'NODE_SECRET_MISSING',
    'SHARES_INSUFFICIENT',
    'TOKEN_UNSUITABLE',
    'TOKEN_UNAVAILABLE',
    'TOKEN_CAPACITY',
    'TOKEN_ERROR',
    'KEY_FILE_MALFORMED',
    'KEY_FILE_TAMPERED',
    'KEY_FILE_FOREIGN',
    'KEY_FILE_UNSAFE',
    'KEY_FILE_UNWRITABLE',
    'KMS_THROTTLED',
    'KMS_UNAVAILABLE',
    'KMS_DENIED',
    'KMS_KEY_UNUSABLE',
    'KMS_KEY_UNKNOWN',
    'KMS_KEY_UNSUITABLE',
    'KMS_REPLY_WRONG',
  ],
  /** What a login at the token is refused with, also at one that is made again. */
  login: ['PIN_REFUSED', 'PIN_LAST_TRY', 'PIN_LOCKED'],
  callersPin: ['PIN_INCORRECT', 'PIN_RATE_LIMITED', 'IDENTITY_LOCKED_OUT', 'SLOT_HAS_NO_PIN'],
  pinSession: ['SESSION_REQUIRED', 'SESSION_EXPIRED', 'SESSION_FOREIGN'],
  message: [
    'MESSAGE_EMPTY',
    'MESSAGE_TOO_LARGE',
    'MESSAGE_IS_TRANSACTION',
    'OFFCHAIN_MESSAGE_INVALID',
    'KEY_NOT_A_SIGNER',
  ],
  transaction: [
    'TRANSACTION_TRUNCATED',
    'TRANSACTION_TRAILING_BYTES',
    'TRANSACTION_MALFORMED',
    'TRANSACTION_TOO_LARGE',
    'TRANSACTION_VERSION_UNSUPPORTED',
    'TRANSACTION_SIGNERS_INVALID',
    'COMPACT_U16_INVALID',
    'KEY_NOT_A_SIGNER',
  ],
} as const satisfies Record<string, readonly ErrorCode[]>;

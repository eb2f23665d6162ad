import { createHash } from 'node:crypto';

/**
 * One line of the audit log: what happened, who wanted it, what was decided, and the hash of the line before.
 * Canonical: JSON with the fields in the order of `recordFields`, absent ones left out, nothing else let in;
 * whoever parses a line and writes it again gets the same bytes, or the line is not one of ours.
 *
 * There is never a PIN, a seed, a token or the text of a message in it. The bytes of a transaction's message are
 * public as soon as the transaction is used, and are kept, so that a log can be read and judged again later.
 */
export interface AuditRecord extends AuditEntry {
  readonly v: 1;
  readonly node: string;
  /** Random, of this start of the custodian: two processes that wrote under one name can be told apart. */
  readonly boot: string;
  /** Place in the log of this node, over all its boots, from 0: also the index of its leaf in the Merkle tree. */
  readonly seq: number;
  readonly utc: string;
  /** Milliseconds since this boot, from a clock that is never set. */
  readonly mono_ms: number;
  /** SHA-256 of the line before (without its line feed), in hexadecimal; 64 zeros before the first. */
  readonly prev: string;
}

/** What the custodian says; place, time and chain are added when the record is written. */
export interface AuditEntry {
  readonly type: RecordType;
  readonly requestId?: string | undefined;
  /** The identity's name; absent when nobody was recognised. */
  readonly actor?: string | undefined;
  /** How it was recognised: `certificate:` and the SHA-256 of its SPKI, `token:` and an id, `jwt:` and the issuer's name. */
  readonly credential?: string | undefined;
  readonly operation?: string | undefined;
  readonly key?: string | undefined;
  readonly publicKey?: string | undefined;
  readonly slot?: string | undefined;
  readonly engine?: string | undefined;
  readonly custody?: string | undefined;
  /** What was to be signed: `transaction`, `offchain`, `bytes`. */
  readonly kind?: string | undefined;
  /** SHA-256 of the signed bytes, in hexadecimal. */
  readonly message?: string | undefined;
  /** The message of a transaction, in base64. */
  readonly transaction?: string | undefined;
  /** What it does, in a few words a line: `system.transfer 1000000`. */
  readonly summary?: readonly string[] | undefined;
  /** The policies that were asked: `name@version`. */
  readonly policies?: readonly string[] | undefined;
  readonly decision?: 'allow' | 'deny' | undefined;
  /** The rules that refused: `policy/rule`. */
  readonly rules?: readonly string[] | undefined;
  readonly approvals?: readonly string[] | undefined;
  /** What counts against limits, so that the counters can be made again from the log. */
  readonly charges?: readonly AuditCharge[] | undefined;
  /** Of a `result`: the seq of its intent. */
  readonly intent?: number | undefined;
  readonly outcome?: 'ok' | 'refused' | 'failed' | 'unknown' | undefined;
  /** The error code of what was refused or failed. */
  readonly code?: string | undefined;
  /** The signature that was released, in base64. */
  readonly signature?: string | undefined;
  /** SHA-256 of identity and Idempotency-Key, in hexadecimal. */
  readonly idempotency?: string | undefined;
  /** Details of an event: names and numbers only. */
  readonly detail?: Readonly<Record<string, string | number | boolean>> | undefined;
}

/**
 * `boot`: the custodian started; `intent`: a signature is about to be made; `result`: what became of an intent;
 * `refusal`: something was asked for and not done; `event`: something was done (an opening, a key, a policy).
 */
export type RecordType = 'boot' | 'intent' | 'result' | 'refusal' | 'event';

export interface AuditCharge {
  /** The counter: `policy/rule/scope`. */
  readonly counter: string;
  readonly window_s: number;
  /** Decimal: JSON has no integers of 64 bits. */
  readonly amount: string;
}

/** The order in which fields stand in a line. */
export const recordFields = [
  'v',
  'node',
  'boot',
  'seq',
  'utc',
  'mono_ms',
  'type',
  'requestId',
  'actor',
  'credential',
  'operation',
  'key',
  'publicKey',
  'slot',
  'engine',
  'custody',
  'kind',
  'message',
  'transaction',
  'summary',
  'policies',
  'decision',
  'rules',
  'approvals',
  'charges',
  'intent',
  'outcome',
  'code',
  'signature',
  'idempotency',
  'detail',
  'prev',
] as const satisfies readonly (keyof AuditRecord)[];

/**
 * The line of a record, without its line feed. Written out, in the order of `recordFields`: an object of one shape
 * is turned into JSON in a third of the time, and every record that is written or checked pays for it.
 */
export function canonicalLine(record: AuditRecord): string {
  return JSON.stringify({
    v: record.v,
    node: record.node,
    boot: record.boot,
    seq: record.seq,
    utc: record.utc,
    mono_ms: record.mono_ms,
    type: record.type,
    requestId: record.requestId,
    actor: record.actor,
    credential: record.credential,
    operation: record.operation,
    key: record.key,
    publicKey: record.publicKey,
    slot: record.slot,
    engine: record.engine,
    custody: record.custody,
    kind: record.kind,
    message: record.message,
    transaction: record.transaction,
    summary: record.summary,
    policies: record.policies,
    decision: record.decision,
    rules: record.rules,
    approvals: record.approvals,
    charges: record.charges,
    intent: record.intent,
    outcome: record.outcome,
    code: record.code,
    signature: record.signature,
    idempotency: record.idempotency,
    detail: record.detail,
    prev: record.prev,
  });
}

/** What the next record's `prev` says, and what a receipt names. */
export const lineHash = (line: string | Uint8Array): Buffer => createHash('sha256').update(line).digest();

/** Where a signature stands in the log; what a reply carries. */
export interface Receipt {
  readonly node: string;
  readonly seq: number;
  /** `lineHash` of the record, in hexadecimal. */
  readonly hash: string;
}

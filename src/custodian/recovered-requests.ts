import type { AuditRecord, Receipt } from '../audit/record.ts';

/**
 * Signings of before this start, which a gateway that lost its custodian sends again: what was charged is not
 * charged twice, and what was signed is not written down twice. Bounded: the newest are kept, for ten minutes.
 */
export class RecoveredRequests {
  readonly #found = new Map<string, Found>();
  readonly #max: number;

  constructor(max = recovered_max) {
    this.#max = max;
  }

  /** A record of the log, in order; results come with the intent that they close. */
  replay(record: AuditRecord, hash: Uint8Array, intent?: OpenIntent): void {
    if (record.type === 'intent') this.#begun(openIntent(record));
    if (record.type === 'result' && intent) this.#ended(record, hash, intent);
  }

  /** A record of this start: only what was found before is brought up to date. */
  follow(record: AuditRecord, hash: Uint8Array, intent: OpenIntent): void {
    if (record.outcome === 'ok' && this.#found.size > 0) this.#ended(record, hash, intent);
  }

  get(request: RepeatedRequest, now_ms: number): Recorded | { readonly charged: true } | undefined {
    if (this.#found.size === 0) return undefined;
    const found = this.#found.get(nameOf(request));
    if (!found || found.at_ms < now_ms - recovered_ms) return undefined;
    return found.recorded ?? { charged: true };
  }

  #begun(intent: OpenIntent): void {
    const name = nameOf(intent);
    if (intent.requestId === undefined || this.#found.has(name)) return;
    this.#found.set(name, { intent: intent.seq, at_ms: intent.at_ms });
    for (const oldest of this.#found.keys()) {
      if (this.#found.size <= this.#max) break;
      this.#found.delete(oldest);
    }
  }

  #ended(record: AuditRecord, hash: Uint8Array, intent: OpenIntent): void {
    const name = nameOf(intent);
    const found = this.#found.get(name);
    if (!found) return;
    const recorded = recordedOf(record, hash);
    if (recorded) this.#found.set(name, { ...found, recorded });
    // A repeat that failed takes nothing back: the charge is that of the intent before it.
    else if (failed(record) && found.intent === intent.seq) this.#found.delete(name);
  }
}

/** A signature and where it stands in the log. */
export interface Recorded {
  readonly signature: Uint8Array;
  readonly receipt: Receipt;
}

/** Who asked for which signature, under which request id. */
export interface RepeatedRequest {
  readonly requestId?: string | undefined;
  readonly actor?: string | undefined;
  readonly key?: string | undefined;
  /** SHA-256 of the signed bytes, in hexadecimal. */
  readonly message?: string | undefined;
}

/** What is kept of an intent until its result. */
export interface OpenIntent extends RepeatedRequest {
  readonly seq: number;
  readonly at_ms: number;
  readonly operation?: string | undefined;
  readonly charges?: AuditRecord['charges'];
  readonly idempotency?: string | undefined;
}

export const openIntent = (record: AuditRecord): OpenIntent => ({
  seq: record.seq,
  at_ms: Date.parse(record.utc),
  requestId: record.requestId,
  actor: record.actor,
  operation: record.operation,
  key: record.key,
  message: record.message,
  charges: record.charges,
  idempotency: record.idempotency,
});

export const recordedOf = (record: AuditRecord, hash: Uint8Array): Recorded | undefined =>
  record.outcome === 'ok' && record.signature !== undefined
    ? {
        signature: Uint8Array.from(Buffer.from(record.signature, 'base64')),
        receipt: { node: record.node, seq: record.seq, hash: Buffer.from(hash).toString('hex') },
      }
    : undefined;

/** Nothing was released and nothing can be: what was charged is given back. */
export const failed = ({ outcome }: AuditRecord): boolean => outcome === 'failed' || outcome === 'refused';

interface Found {
  readonly intent: number;
  readonly at_ms: number;
  readonly recorded?: Recorded;
}

const nameOf = ({ requestId, actor, key, message }: RepeatedRequest): string =>
  JSON.stringify([requestId, actor, key, message]);

export const recovered_ms = 10 * 60_000;
export const recovered_max = 20_000;

import { createHash } from 'node:crypto';
import { setImmediate as turn } from 'node:timers/promises';
import type { AuditLine, AuditLog } from '../audit/audit-log.ts';
import { type AuditCharge, type AuditRecord, lineHash, type Receipt } from '../audit/record.ts';
import type { Clock } from '../foundation/clock.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { Charge } from '../policy/verdict.ts';
import { buckets_per_window, type SlidingWindows } from '../policy/windows.ts';
import type { CounterChange, CounterRows, Position } from '../store/counters.ts';
import type { IdempotencyRow, IdempotencyRows } from '../store/idempotency.ts';
import { InFlightRepeats, refuseOther } from './in-flight-repeats.ts';
import {
  failed,
  type OpenIntent,
  openIntent,
  type Recorded,
  RecoveredRequests,
  type RepeatedRequest,
  recordedOf,
  recovered_ms,
} from './recovered-requests.ts';

/**
 * What policies and repeats stand on, as a projection of the audit log.
 *
 * There are two counts. `live` is what a policy sees: charged the moment it allowed something, refunded when no
 * signature came of it. The settled one is what durable records say; it is written to the store every two seconds
 * together with the position up to which the log was counted, and never inside a signature. At a start the log
 * is counted on from that position, so a kill at any moment loses nothing and counts nothing twice.
 *
 * `Ledger` first, then the log with `apply` as its observer, then `recover` with the log.
 */
export class Ledger implements AsyncDisposable {
  readonly #world: LedgerWorld;
  readonly #repeats = new InFlightRepeats<Recorded>();
  readonly #recovered = new RecoveredRequests();
  /** Intents without a result, by seq, the oldest first. */
  readonly #open = new Map<number, OpenIntent>();
  #position: Position = { next: 0, hash: Buffer.alloc(32) };
  #saved = 0;
  #changes = new Map<string, CounterChange>();
  /** Signatures that repeats ask for and the store does not have yet, by id. */
  readonly #unsaved = new Map<string, IdempotencyRow>();
  #early: { readonly record: AuditRecord; readonly hash: Uint8Array }[] | undefined = [];
  #timer: NodeJS.Timeout | undefined;
  #flushing: Promise<void> | undefined;
  #isBehind = false;
  #hasGap = false;

  constructor(world: LedgerWorld) {
    this.#world = world;
  }

  /** What was spent, as a policy is to see it. */
  get live(): SlidingWindows {
    return this.#world.windows;
  }

  /** Right after the verdict, with nothing awaited in between. */
  charge(charges: readonly Charge[], at_ms: number): void {
    this.live.charge(charges, at_ms);
  }

  /** With the time of the charge, when certainly no signature came of it. */
  refund(charges: readonly Charge[], at_ms: number): void {
    this.live.refund(charges, at_ms);
  }

  /**
   * Signs once under an id: a repeat within the retention gets the signature of the first, without a charge and
   * without a record. A failure is not kept: a repeat is judged anew. IDEMPOTENCY_CONFLICT when the id was used
   * for other bytes, another key or operation; STORE_FAILED while the store takes no results.
   */
  async once(id: string, request: SigningRequest, work: () => Promise<Recorded>): Promise<Recorded> {
    const digest = digestOf(request);
    return this.#repeats.join(id, digest, async () => {
      const kept = await this.#kept(id);
      if (kept) {
        refuseOther(kept.digest, digest);
        return keptResult(kept);
      }
      if (this.#unsaved.size >= (this.#world.unsaved_max ?? unsaved_max)) throw storeBehind();
      const recorded = await work();
      this.#remember(id, digest, recorded, this.#world.clock.utc().getTime());
      return recorded;
    });
  }

  /**
   * What became of this request before the custodian started again, for ten minutes: its signature, or that it
   * was charged and nobody knows whether it was signed. It may be signed then without a second charge.
   */
  recovered(request: RepeatedRequest): Recorded | { readonly charged: true } | undefined {
    return this.#recovered.get(request, this.#world.clock.utc().getTime());
  }

  /**
   * The observer of the log: every durable record, in order, with its hash, which is kept as it is. It never throws:
   * behind a gap nothing is settled any more, and the next start counts it from the log.
   */
  readonly apply = (record: AuditRecord, hash: Uint8Array): void => {
    if (this.#early) {
      this.#early.push({ record, hash });
      return;
    }
    if (record.seq < this.#position.next) return;
    if (record.seq > this.#position.next) {
      this.#lost(record.seq);
      return;
    }
    const intent = record.type === 'result' ? this.#open.get(record.intent ?? -1) : undefined;
    if (intent) this.#recovered.follow(record, hash, intent);
    this.#count(record, hash);
    if (this.#changes.size >= changes_max && !this.#isBehind) this.#flushLater();
  };

  /**
   * Counts what the log holds behind the stored position, and from then on what it observes. AUDIT_TAMPERED when
   * the log ends before the position, or does not lead on from it: it was rolled back, replaced or edited.
   */
  async recover(audit: Pick<AuditLog, 'status' | 'read'>): Promise<void> {
    const stored = await this.#world.counters.position(this.#world.node);
    const { first, size } = audit.status();
    if (stored) await refuseOtherLog(stored, audit);
    this.#position = stored ?? (await beginning(first, audit));
    this.#saved = stored?.next ?? 0;
    await this.#restore();
    for (
      let from = Math.min(await this.#lookBack(audit), this.#position.next);
      from < audit.status().size;
    ) {
      const lines = await audit.read(from, page_records);
      if (lines.length === 0) throw tampered(`record ${from} cannot be read`);
      for (const line of lines) await this.#replay(line, audit);
      if (this.#changes.size + this.#unsaved.size >= changes_max) await this.flush();
      from += lines.length;
    }
    this.#world.log.info({ from: stored?.next ?? first, to: size }, 'the audit log was counted');
    const early = this.#early ?? [];
    this.#early = undefined;
    for (const { record, hash } of early) this.apply(record, hash);
    this.#timer = setInterval(() => this.#flushLater(), this.#world.flush_ms ?? flush_ms).unref();
  }

  /** Writes what was counted since the last time. STORE_FAILED: it stays counted, for the next attempt. */
  flush(): Promise<void> {
    this.#flushing ??= this.#write().finally(() => {
      this.#flushing = undefined;
    });
    return this.#flushing;
  }

  /** What a store that fails costs is a longer count at the next start: the log has it all. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#flushing?.catch(error => this.#behind(error));
    if (!this.#early) await this.flush().catch(error => this.#behind(error));
  }

  #count(record: AuditRecord, hash: Uint8Array): void {
    if (record.type === 'intent') this.#begun(openIntent(record));
    if (record.type === 'result') this.#ended(record, hash);
    this.#position = { next: record.seq + 1, hash };
  }

  #begun(intent: OpenIntent): void {
    this.#settle(intent, 1n);
    this.#keepOpen(intent);
  }

  /** An `unknown` outcome keeps its charges: the signature may exist. */
  #ended(record: AuditRecord, hash: Uint8Array): void {
    const intent = this.#open.get(record.intent ?? -1);
    if (!intent) return;
    this.#open.delete(intent.seq);
    if (failed(record)) this.#settle(intent, -1n);
    const recorded = recordedOf(record, hash);
    const id = record.idempotency ?? intent.idempotency;
    if (!recorded || id === undefined) return;
    this.#remember(id, digestOf(intent), recorded, Date.parse(record.utc));
  }

  #keepOpen(intent: OpenIntent): void {
    this.#open.set(intent.seq, intent);
    if (this.#open.size <= open_max) return;
    const oldest = this.#open.keys().next().value;
    if (oldest !== undefined) this.#open.delete(oldest);
  }

  /** In the buckets of the windows, so that they can be filled again from what is stored. */
  #settle(intent: OpenIntent, sign: 1n | -1n): void {
    for (const { counter, window_ms, amount } of chargesOf(intent.charges)) {
      const bucket_ms = Math.max(1, Math.ceil(window_ms / buckets_per_window));
      const start_ms = intent.at_ms - (intent.at_ms % bucket_ms);
      this.#change({ counter, window_ms, start_ms, amount: sign * amount });
    }
  }

  #change(change: CounterChange): void {
    const { counter, window_ms, start_ms, amount } = change;
    const name = `${window_ms} ${start_ms} ${counter}`;
    const held = this.#changes.get(name);
    this.#changes.set(name, held ? { ...change, amount: held.amount + amount } : change);
  }

  #remember(id: string, digest: Uint8Array, { signature, receipt }: Recorded, created_ms: number): void {
    this.#unsaved.set(id, {
      id: Buffer.from(id, 'hex'),
      digest,
      output: receipt,
      bytes: [signature],
      created_ms,
      expires_ms: created_ms + (this.#world.retention_ms ?? retention_ms),
    });
  }

  async #kept(id: string): Promise<IdempotencyRow | undefined> {
    const now_ms = this.#world.clock.utc().getTime();
    const unsaved = this.#unsaved.get(id);
    if (unsaved) return unsaved.expires_ms > now_ms ? unsaved : undefined;
    return this.#world.idempotency.get(Buffer.from(id, 'hex'), now_ms);
  }

  // Written in the order that a kill between two steps forgives: a result that the store has before its position
  // is written again with the same bytes.
  async #write(): Promise<void> {
    const { counters, idempotency, node } = this.#world;
    const position = this.#position;
    const changes = this.#changes;
    this.#changes = new Map();
    try {
      await this.#save([...this.#unsaved]);
      if (position.next !== this.#saved) {
        await counters.settle(node, { from: this.#saved, to: position, changes: [...changes.values()] });
        this.#saved = position.next;
      }
      this.#isBehind = false;
    } catch (thrown) {
      for (const change of changes.values()) this.#change(change);
      throw thrown;
    }
    const now_ms = this.#world.clock.utc().getTime();
    while ((await idempotency.expire(now_ms, rows_max)) === rows_max) await turn();
    while ((await counters.expire(now_ms, rows_max)) === rows_max) await turn();
  }

  /** A part at a time: signatures go on in between. */
  async #save(results: readonly (readonly [string, IdempotencyRow])[]): Promise<void> {
    for (let at = 0; at < results.length; at += rows_max) {
      const part = results.slice(at, at + rows_max);
      await this.#world.idempotency.put(part.map(([, row]) => row));
      for (const [id, row] of part) if (this.#unsaved.get(id) === row) this.#unsaved.delete(id);
      await turn();
    }
  }

  #lost(seq: number): void {
    if (!this.#hasGap)
      this.#world.log.error({ seq }, 'the ledger missed records; the next start counts them');
    this.#hasGap = true;
  }

  #flushLater(): void {
    this.flush().catch(error => this.#behind(error));
  }

  #behind(error: unknown): void {
    this.#isBehind = true;
    this.#world.log.error({ err: error }, 'the counters could not be written; they stay counted in memory');
  }

  async #restore(): Promise<void> {
    const rows = await this.#world.counters.all();
    this.live.restore(rows.map(row => ({ ...row, amount: String(row.amount) })));
  }

  /** Where the last ten minutes of the log begin, or so many records that no more would be kept. */
  async #lookBack(audit: Pick<AuditLog, 'status' | 'read'>): Promise<number> {
    const { first, size } = audit.status();
    const since_ms = this.#world.clock.utc().getTime() - recovered_ms;
    let from = size;
    while (from > first && size - from < lookBack_records) {
      from = Math.max(first, from - page_records);
      const [line] = await audit.read(from, 1);
      if (!line || Date.parse(line.record.utc) < since_ms) break;
    }
    return from;
  }

  async #replay(line: AuditLine, audit: Pick<AuditLog, 'read' | 'status'>): Promise<void> {
    const { record } = line;
    const hash = lineHash(line.line);
    const counted = record.seq < this.#position.next;
    if (!counted) {
      refuseGap(record, this.#position);
      await this.#findIntent(record, audit);
    }
    const intent = this.#open.get(record.intent ?? -1);
    this.#recovered.replay(record, hash, intent);
    if (!counted) {
      if (record.type === 'intent') this.charge(chargesOf(record.charges), Date.parse(record.utc));
      if (intent && failed(record)) this.refund(chargesOf(intent.charges), intent.at_ms);
      this.#count(record, hash);
    } else if (record.type === 'intent') this.#keepOpen(openIntent(record));
    else if (intent) this.#open.delete(intent.seq);
  }

  /** The intent of a result may stand far before it, where it was counted already. */
  async #findIntent(record: AuditRecord, audit: Pick<AuditLog, 'read' | 'status'>): Promise<void> {
    const { intent, type } = record;
    if (type !== 'result' || intent === undefined || this.#open.has(intent)) return;
    if (intent < audit.status().first || intent >= record.seq) return;
    const [line] = await audit.read(intent, 1);
    if (line?.record.type === 'intent') this.#keepOpen(openIntent(line.record));
  }
}

export interface LedgerWorld {
  readonly node: string;
  /** Empty; the ledger fills it. */
  readonly windows: SlidingWindows;
  readonly counters: CounterRows;
  readonly idempotency: IdempotencyRows;
  readonly clock: Clock;
  readonly log: Log;
  /** How long results of signatures are kept for repeats; default: a day. */
  readonly retention_ms?: number;
  readonly flush_ms?: number;
  /** Results that may wait for a store that takes none. */
  readonly unsaved_max?: number;
}

/** What a repeat has in common with the first, beside its id; as the records of the log name it. */
export interface SigningRequest {
  readonly operation?: string | undefined;
  readonly key?: string | undefined;
  /** SHA-256 of the signed bytes, in hexadecimal. */
  readonly message?: string | undefined;
}

/** The id of a signature that its caller named by an Idempotency-Key; `item` is its place in a batch. */
export const namedSigning = (identity: string, idempotencyKey: string, item = 0): string =>
  sha256('signing', identity, idempotencyKey, item).toString('hex');

/** The id of a signature that is named by what it is and by the id of its request; it has no conflicts. */
export const naturalSigning = ({ requestId, actor, key, message }: RepeatedRequest): string =>
  sha256('natural', actor, requestId, key, message).toString('hex');

/** Charges as a record has them: in seconds, and decimal. */
export const auditCharges = (charges: readonly Charge[]): readonly AuditCharge[] =>
  charges.map(({ counter, window_ms, amount }) => ({
    counter,
    window_s: window_ms / 1_000,
    amount: String(amount),
  }));

const chargesOf = (charges: readonly AuditCharge[] = []): readonly Charge[] =>
  charges.map(({ counter, window_s, amount }) => ({
    counter,
    window_ms: Math.round(window_s * 1_000),
    amount: BigInt(amount),
  }));

const digestOf = ({ operation, key, message }: SigningRequest): Buffer => sha256(operation, key, message);

const sha256 = (...parts: readonly unknown[]): Buffer =>
  createHash('sha256').update(JSON.stringify(parts)).digest();

const keptResult = ({ bytes, output }: IdempotencyRow): Recorded => ({
  signature: Uint8Array.from(bytes[0] ?? []),
  receipt: output as Receipt,
});

/** Where counting begins without a stored position: at the oldest record that is still here. */
async function beginning(first: number, audit: Pick<AuditLog, 'read'>): Promise<Position> {
  const [line] = first === 0 ? [] : await audit.read(first, 1);
  return { next: first, hash: line ? Buffer.from(line.record.prev, 'hex') : Buffer.alloc(32) };
}

async function refuseOtherLog(stored: Position, audit: Pick<AuditLog, 'status' | 'read'>): Promise<void> {
  const { first, size } = audit.status();
  if (stored.next > size) throw tampered(`it has ${size} records, and ${stored.next} were counted`);
  if (stored.next < first) throw tampered(`records ${stored.next} to ${first - 1} were not counted yet`);
  if (stored.next === first) return; // record `first` is held against the position when it is counted
  const [line] = await audit.read(stored.next - 1, 1);
  if (line && Buffer.compare(lineHash(line.line), stored.hash) === 0) return;
  throw tampered(`record ${stored.next - 1} is another than was counted`);
}

function refuseGap(record: AuditRecord, position: Position): void {
  const prev = Buffer.from(position.hash).toString('hex');
  if (record.seq !== position.next || record.prev !== prev) {
    throw tampered(`record ${record.seq} does not follow on what was counted`);
  }
}

const tampered = (what: string) =>
  new KeyslotError('AUDIT_TAMPERED', `The audit log is not the one that was counted: ${what}.`);

const storeBehind = () =>
  new KeyslotError('STORE_FAILED', 'Results cannot be kept for repeats: the store has taken none for long.', {
    retryAfter_s: 5,
  });

const retention_ms = 24 * 60 * 60_000;
const flush_ms = 2_000;
/** Changed buckets that are written at once, rather than after the time is over. */
const changes_max = 1_000;
/** Rows of one transaction: a few milliseconds, in which nothing else is done. */
const rows_max = 250;
const unsaved_max = 100_000;
const open_max = 65_536;
const page_records = 1_000;
const lookBack_records = 50_000;

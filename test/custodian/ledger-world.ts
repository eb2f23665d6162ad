import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { AuditLine, AuditStatus } from '../../src/audit/audit-log.ts';
import { type AuditEntry, type AuditRecord, canonicalLine, lineHash } from '../../src/audit/record.ts';
import { Ledger, type LedgerWorld } from '../../src/custodian/ledger.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { SlidingWindows } from '../../src/policy/windows.ts';
import { CounterRows } from '../../src/store/counters.ts';
import { IdempotencyRows } from '../../src/store/idempotency.ts';
import { Store } from '../../src/store/store.ts';

export const day_ms = 24 * 60 * 60_000;
export const start_ms = Date.parse('2026-01-02T03:04:05.678Z');

/** A log whose records the test makes durable one by one; it outlives the ledgers that count it. */
export class Log {
  readonly lines: AuditLine[] = [];
  first = 0;
  boot = 'boot-0';
  observer: (record: AuditRecord, hash: Buffer) => void = () => undefined;
  persist: (line: string) => void = () => undefined;
  readonly #node: string;

  constructor(node = 'keyslot') {
    this.#node = node;
  }

  append(entry: AuditEntry, utc_ms: number): AuditRecord {
    const seq = this.lines.length;
    const last = this.lines.at(-1);
    const record: AuditRecord = {
      v: 1,
      node: this.#node,
      boot: this.boot,
      seq,
      utc: new Date(utc_ms).toISOString(),
      mono_ms: seq,
      ...entry,
      prev: last ? lineHash(last.line).toString('hex') : '0'.repeat(64),
    };
    const line = canonicalLine(record);
    this.persist(line);
    this.lines.push({ record: JSON.parse(line) as AuditRecord, line });
    this.observer(record, lineHash(line));
    return record;
  }

  /** A line of before. */
  take(line: string): void {
    this.lines.push({ record: JSON.parse(line) as AuditRecord, line });
  }

  hashOf(seq: number): string {
    return lineHash(this.lines[seq]?.line ?? '').toString('hex');
  }

  /** What the charges of all intents come to that did not fail. */
  chargedByHand(): bigint {
    const records = this.lines.map(({ record }) => record);
    const failures = records.filter(({ outcome }) => outcome === 'failed' || outcome === 'refused');
    const failed = new Set(failures.map(({ intent }) => intent));
    return records
      .filter(({ type, seq }) => type === 'intent' && !failed.has(seq))
      .reduce((sum, { charges = [] }) => sum + BigInt(charges[0]?.amount ?? 0), 0n);
  }

  status(): AuditStatus {
    return {
      node: this.#node,
      boot: this.boot,
      state: 'ok',
      size: this.lines.length,
      first: this.first,
      checkpointed: 0,
      witnessed: 0,
      tamperEvidence: 'chain',
      witnesses: [],
    };
  }

  async read(from: number, limit: number): Promise<readonly AuditLine[]> {
    if (from < this.first) throw new RangeError(`Record ${from} was pruned.`);
    return this.lines.slice(from, Math.min(from + limit, from + 7));
  }
}

/** One appliance that is started and killed over one folder and one log. */
export class World implements AsyncDisposable {
  readonly folder: string;
  readonly log: Log;
  now_ms = start_ms;
  store: Store;
  ledger: Ledger | undefined;
  readonly #isMine: boolean;

  /** In a folder of its own, or in another's, which that one removes. */
  constructor(log = new Log(), folder?: string) {
    this.log = log;
    this.#isMine = folder === undefined;
    this.folder = folder ?? mkdtempSync(join(tmpdir(), 'keyslot-ledger-'));
    this.store = this.#opened();
  }

  get clock() {
    return { monotonic_ms: () => this.now_ms, utc: () => new Date(this.now_ms) };
  }

  get running(): Ledger {
    if (!this.ledger) throw new TypeError('The ledger was not started.');
    return this.ledger;
  }

  /** The timer is the test's: what is flushed is flushed by name. */
  async start(more: Partial<LedgerWorld> = {}): Promise<Ledger> {
    this.ledger = new Ledger({
      node: 'keyslot',
      windows: new SlidingWindows(() => this.now_ms),
      counters: new CounterRows(this.store),
      idempotency: new IdempotencyRows(this.store),
      clock: this.clock,
      log: silentLog,
      flush_ms: 3_600_000,
      ...more,
    });
    this.log.observer = this.ledger.apply;
    await this.ledger.recover(this.log);
    return this.ledger;
  }

  /** Over the same log as it stands. */
  async restart(more: Partial<LedgerWorld> = {}): Promise<Ledger> {
    this.store[Symbol.dispose]();
    await this.ledger?.[Symbol.asyncDispose]();
    this.store = this.#opened();
    return this.start(more);
  }

  forgetStore(): void {
    this.store[Symbol.dispose]();
    for (const name of ['', '-wal', '-shm']) rmSync(join(this.folder, `keyslot.db${name}`), { force: true });
  }

  /** As a kill leaves it: nothing is written any more, and intents without a result are closed as unknown. */
  async kill(more: Partial<LedgerWorld> = {}): Promise<Ledger> {
    this.store[Symbol.dispose]();
    await this.ledger?.[Symbol.asyncDispose]();
    this.store = this.#opened();
    this.log.observer = () => undefined;
    this.log.boot = `boot-${this.log.lines.length}`;
    const closed = new Set(this.log.lines.map(({ record }) => record.intent));
    const open = this.log.lines.filter(({ record }) => record.type === 'intent' && !closed.has(record.seq));
    this.log.append({ type: 'boot' }, this.now_ms);
    for (const { record } of open) {
      this.log.append({ type: 'result', intent: record.seq, outcome: 'unknown' }, this.now_ms);
    }
    return this.start(more);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.ledger?.[Symbol.asyncDispose]();
    this.store[Symbol.dispose]();
    if (this.#isMine) rmSync(this.folder, { recursive: true, force: true });
  }

  #opened(): Store {
    return new Store(join(this.folder, 'keyslot.db'));
  }
}

export async function code(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return 'none';
  } catch (thrown) {
    if (isKeyslotError(thrown)) return thrown.code;
    throw thrown;
  }
}

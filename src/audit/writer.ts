import { hash } from 'node:crypto';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';

import type { Clock } from '../foundation/clock.ts';
import { KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { AuditObserver } from './audit-log.ts';
import { type DurableFile, type FileSeam, failedFile, newDurableFile } from './log-file.ts';
import { type MerkleTree, treeRoot } from './merkle.ts';
import type { AuditEntry, Receipt } from './record.ts';
import { headerLine, logNodes, SegmentIndex, segmentName } from './segment.ts';

/**
 * The one place that writes records. Group commit with a single flight: whatever waits when a commit is done is
 * the next commit, one write and one fdatasync. Place and chain are given when a batch is put together, so a
 * batch that fails leaves no hole, and the next one stands where it would have stood.
 */
export class AuditWriter {
  readonly node: string;
  readonly boot: string;
  /** Records in a full segment. */
  readonly records: number;
  readonly #settings: WriterSettings;
  readonly #head: string;
  readonly #boot_ms: number;
  /** The roots of the full segments. */
  readonly #tops: MerkleTree;
  readonly #open: Set<number>;
  #segment: SegmentIndex;
  #file: DurableFile;
  #chain: string;
  #queue: Waiting[] = [];
  #queue_bytes = 0;
  #batch: readonly Waiting[] = [];
  #buffer = Buffer.allocUnsafe(256 * 1024);
  #flight: Promise<void> | undefined;
  #full = false;
  #failure: KeyslotError | undefined;
  #now = { utc_ms: Number.NaN, text: '' };
  #closed = false;
  #durable: () => void = () => undefined;

  constructor(settings: WriterSettings, place: LogPlace) {
    this.node = settings.node;
    this.boot = settings.boot;
    this.records = place.records;
    this.#settings = settings;
    this.#head = `{"v":1,"node":${JSON.stringify(settings.node)},"boot":${JSON.stringify(settings.boot)},"seq":`;
    this.#boot_ms = settings.clock.monotonic_ms();
    this.#tops = place.tops;
    this.#segment = place.segment;
    this.#file = place.file;
    this.#chain = place.chain;
    this.#open = place.open;
  }

  /** Durable records. */
  get size(): number {
    return this.#segment.first + this.#segment.count;
  }

  /** The hash of the last durable line. */
  get chain(): string {
    return this.#chain;
  }

  get segment(): SegmentIndex {
    return this.#segment;
  }

  get tops(): MerkleTree {
    return this.#tops;
  }

  get state(): 'ok' | 'full' | 'failed' {
    if (this.#failure) return 'failed';
    return this.#full ? 'full' : 'ok';
  }

  /** What a checkpoint of everything that is durable now says. */
  snapshot(): { readonly size: number; readonly root: Buffer; readonly chain: string } {
    const nodes = logNodes(this.records, this.#tops, [this.#segment]);
    return { size: this.size, root: treeRoot(nodes, this.size), chain: this.#chain };
  }

  /** Records that are not written yet. */
  get waiting(): number {
    return this.#queue.length + this.#batch.length;
  }

  /** The oldest intent that has no result yet. */
  get oldestOpen(): number | undefined {
    return this.#open.values().next().value;
  }

  /** Has this called whenever more is durable. */
  onDurable(call: () => void): void {
    this.#durable = call;
  }

  /** Not async: one promise a record. AUDIT_UNAVAILABLE, AUDIT_FAILED. */
  append(entry: AuditEntry): Promise<Receipt> {
    return new Promise((resolve, reject) => {
      const refusal = this.#refusal();
      if (refusal) throw refusal;
      const body = this.#bodyOf(entry);
      const body_bytes = Buffer.byteLength(body);
      if (this.#queue_bytes + body_bytes > queue_bytes_max || body_bytes > record_bytes_max) throw tooMuch();
      this.#queue.push({ entry, utc: this.#now.text, body, body_bytes, resolve, reject });
      this.#queue_bytes += body_bytes;
      this.#flight ??= this.#fly();
    });
  }

  /** Takes nothing more, for the life of this process; whoever waits gets the same error. */
  fail(error: KeyslotError): void {
    if (this.#failure) return;
    this.#failure = error;
    this.#settings.log.error(
      { err: error },
      'the audit log has failed: nothing is signed until the next start',
    );
    this.#refuseAll(error);
  }

  /** Writes what is waiting, then takes nothing more. A commit that hangs is not waited for. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#flight;
    // Behind a commit that hangs the file stays open: closing it would hang as well.
    if (!this.#failure) await this.#file.close();
  }

  #refusal(): KeyslotError | undefined {
    if (this.#failure) return this.#failure;
    if (this.#closed)
      return new KeyslotError('AUDIT_UNAVAILABLE', 'The audit log is closed.', { retryAfter_s: 5 });
    return this.#queue.length >= queue_records_max ? tooMuch() : undefined;
  }

  /** Everything of the line but place and chain, which it has only when it is written. */
  #bodyOf(entry: AuditEntry): string {
    return JSON.stringify({
      utc: this.#utc(),
      mono_ms: Math.floor(this.#settings.clock.monotonic_ms() - this.#boot_ms),
      type: entry.type,
      requestId: entry.requestId,
      actor: entry.actor,
      credential: entry.credential,
      operation: entry.operation,
      key: entry.key,
      publicKey: entry.publicKey,
      slot: entry.slot,
      engine: entry.engine,
      custody: entry.custody,
      kind: entry.kind,
      message: entry.message,
      transaction: entry.transaction,
      summary: entry.summary,
      policies: entry.policies,
      decision: entry.decision,
      rules: entry.rules,
      approvals: entry.approvals,
      charges: entry.charges,
      intent: entry.intent,
      outcome: entry.outcome,
      code: entry.code,
      signature: entry.signature,
      idempotency: entry.idempotency,
      detail: entry.detail,
    }).slice(1, -1);
  }

  /** Records of one millisecond share the text. */
  #utc(): string {
    const utc = this.#settings.clock.utc();
    if (utc.getTime() !== this.#now.utc_ms) this.#now = { utc_ms: utc.getTime(), text: utc.toISOString() };
    return this.#now.text;
  }

  async #fly(): Promise<void> {
    await undefined; // what is appended in the same turn goes along
    while (this.#queue.length > 0 && !this.#failure) {
      if (this.#open.size >= crowd && this.#queue.length < this.#open.size) await turn();
      if (this.#queue.length === 0 || this.#failure) break;
      const watch = setTimeout(() => this.#hangs(), this.#settings.commit_ms);
      try {
        await this.#commit();
      } catch (thrown) {
        this.#refuse(toKeyslotError(thrown));
      } finally {
        clearTimeout(watch);
      }
    }
    this.#flight = undefined;
  }

  async #commit(): Promise<void> {
    if (this.#segment.count === this.records) await this.#rotate();
    if (this.#failure) return;
    const { bytes, lines } = this.#assemble();
    const began_ms = performance.now();
    await this.#file.append(bytes);
    this.#settings.committed?.(lines.length, performance.now() - began_ms);
    if (this.#failure) return; // it hung, and whoever waited was told so
    const batch = this.#batch;
    this.#batch = [];
    this.#full = false;
    const seq = this.size;
    lines.forEach((line, at) => {
      this.#segment.append(line.leaf, line.line_bytes);
      const waiting = batch[at];
      if (waiting?.entry.type === 'intent') this.#open.add(seq + at);
      else if (waiting?.entry.intent !== undefined) this.#open.delete(waiting.entry.intent);
    });
    this.#tellObserver(batch, lines, seq);
    this.#chain = lines.at(-1)?.hash ?? this.#chain;
    if (this.#segment.count === this.records) this.#tops.append(this.#segment.tree.root());
    lines.forEach(({ hash }, at) => {
      batch[at]?.resolve({ node: this.node, seq: seq + at, hash });
    });
    this.#durable();
  }

  #tellObserver(batch: readonly Waiting[], lines: readonly AssembledLine[], seq: number): void {
    const { observe } = this.#settings;
    if (!observe) return;
    let prev = this.#chain;
    try {
      lines.forEach(({ hash }, at) => {
        const { entry, utc } = batch[at] ?? {};
        if (entry && utc) {
          const place = {
            v: 1,
            node: this.node,
            boot: this.boot,
            seq: seq + at,
            utc,
            mono_ms: 0,
            prev,
          } as const;
          observe({ ...entry, ...place }, Buffer.from(hash, 'hex'));
        }
        prev = hash;
      });
    } catch (thrown) {
      // What was written is durable and acknowledged; whoever keeps count of it has lost it, and nothing more is taken.
      this.fail(toKeyslotError(thrown));
    }
  }

  /** The lines of the next batch, in one buffer that is used again and again: there is only one flight. */
  #assemble(): { bytes: Buffer; lines: readonly AssembledLine[] } {
    const batch = this.#take();
    let seq = this.size;
    let prev = this.#chain;
    let at = 1; // before each line is a byte in which the 0x00 of its leaf hash can stand for a moment
    const lines = batch.map(({ body, body_bytes }): AssembledLine => {
      this.#reserve(at + body_bytes + around_bytes + this.#head.length * 3, at);
      const buffer = this.#buffer;
      const line_bytes = buffer.write(`${this.#head}${seq},${body},"prev":"${prev}"}`, at);
      const before = buffer[at - 1] ?? 0;
      buffer[at - 1] = 0x00;
      const leaf = hash('sha256', buffer.subarray(at - 1, at + line_bytes), 'buffer');
      buffer[at - 1] = before;
      prev = hash('sha256', buffer.subarray(at, at + line_bytes), 'hex');
      buffer[at + line_bytes] = 0x0a;
      at += line_bytes + 1;
      seq += 1;
      return { leaf, hash: prev, line_bytes: line_bytes + 1 };
    });
    return { bytes: this.#buffer.subarray(1, at), lines };
  }

  #take(): readonly Waiting[] {
    const count = Math.min(this.records - this.#segment.count, batch_records_max, this.#queue.length);
    let taken = 0;
    for (let bytes = 0; taken < count && bytes < batch_bytes_max; taken += 1) {
      bytes += this.#queue[taken]?.body_bytes ?? 0;
    }
    this.#batch = this.#queue.splice(0, taken);
    for (const { body_bytes } of this.#batch) this.#queue_bytes -= body_bytes;
    return this.#batch;
  }

  #reserve(length: number, used: number): void {
    if (length <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafe(length * 2);
    this.#buffer.copy(larger, 0, 0, used);
    this.#buffer = larger;
  }

  /** A new segment behind the full one, as durable as its records will be. */
  async #rotate(): Promise<void> {
    const { folder, seam, log } = this.#settings;
    const first = this.size;
    const path = join(folder, segmentName(first));
    const line = headerLine({
      'keyslot-audit': 1,
      node: this.node,
      first,
      records: this.records,
      prev: this.#chain,
      roots: Array.from({ length: this.#tops.size }, (_, at) => this.#tops.node(0, at).toString('hex')),
      open: [...this.#open],
    });
    const header = Buffer.from(`${line}\n`, 'utf8');
    const file = await newDurableFile(folder, path, header, seam);
    const full = this.#file;
    this.#file = file;
    this.#segment = new SegmentIndex(first, header.length);
    // Its records are durable: that it cannot be closed loses nothing.
    full.close().catch((err: unknown) => log.warn({ err }, 'a full segment could not be closed'));
  }

  #refuse(error: KeyslotError): void {
    if (this.#failure) return;
    if (error.code !== 'AUDIT_UNAVAILABLE') {
      this.fail(error);
      return;
    }
    if (!this.#full) this.#settings.log.error({ err: error }, 'the audit log has no room: nothing is signed');
    this.#full = true;
    this.#refuseAll(error);
  }

  #refuseAll(error: KeyslotError): void {
    const waiting = [...this.#batch, ...this.#queue];
    this.#batch = [];
    this.#queue = [];
    this.#queue_bytes = 0;
    for (const { reject } of waiting) reject(error);
  }

  #hangs(): void {
    const { commit_ms } = this.#settings;
    this.#refuseAll(
      new KeyslotError('AUDIT_UNAVAILABLE', `The disk took longer than ${commit_ms} ms.`, {
        retryAfter_s: 5,
      }),
    );
    this.fail(failedFile(this.#file.path, `written within ${commit_ms} ms`, undefined));
    this.#flight = undefined; // nobody waits for it any more
  }
}

export interface WriterSettings {
  readonly folder: string;
  readonly node: string;
  readonly boot: string;
  /** How long a commit may take before the log counts as failed. */
  readonly commit_ms: number;
  readonly clock: Clock;
  readonly log: Log;
  readonly seam: FileSeam | undefined;
  /** Told of each commit: how many records it wrote, and how long the disk took. */
  readonly committed?: ((records: number, took_ms: number) => void) | undefined;
  /** Told of each record once it is durable; its `mono_ms` is left at 0. */
  readonly observe?: AuditObserver | undefined;
}

/** Where the log stands when the writer takes it over. */
export interface LogPlace {
  readonly records: number;
  readonly tops: MerkleTree;
  readonly segment: SegmentIndex;
  readonly file: DurableFile;
  readonly chain: string;
  readonly open: Set<number>;
}

interface Waiting {
  readonly entry: AuditEntry;
  readonly utc: string;
  readonly body: string;
  readonly body_bytes: number;
  readonly resolve: (receipt: Receipt) => void;
  readonly reject: (error: KeyslotError) => void;
}

interface AssembledLine {
  readonly leaf: Buffer;
  readonly hash: string;
  readonly line_bytes: number;
}

/**
 * A commit costs as much for one record as for a hundred. While so many signatures are being made, a turn of the event
 * loop brings more of their results, and waiting for it makes one commit of several; nobody waits for a fixed time, and
 * a caller who is alone for nothing.
 */
const crowd = 16;

/** What waits while the disk is slow. */
const queue_records_max = 65_536;
const queue_bytes_max = 64 * 1024 * 1024;
/** A record is read back as a line: no single one may be larger than readers take. */
const record_bytes_max = 512 * 1024;
/** Putting a batch together holds the event loop: about five milliseconds at the most. */
const batch_records_max = 1_024;
const batch_bytes_max = 1024 * 1024;
/** Of a line, beside its body and head: seq, `,"prev":"…"}` and the line feed. */
const around_bytes = 128;

const tooMuch = (): KeyslotError =>
  new KeyslotError('AUDIT_UNAVAILABLE', 'More is to be recorded than the disk takes.', { retryAfter_s: 1 });

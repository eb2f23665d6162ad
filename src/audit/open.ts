import { randomBytes } from 'node:crypto';
import { encodeBase64 } from '../foundation/base64.ts';
import { type Clock, systemClock } from '../foundation/clock.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import { rememberAuditKey } from './audit-key.ts';
import type {
  AuditFigures,
  AuditLine,
  AuditLog,
  AuditObserver,
  AuditStatus,
  CheckpointSigner,
  ConsistencyProof,
  InclusionProof,
} from './audit-log.ts';
import { CheckpointFiles, type StoredCheckpoint } from './checkpoint-files.ts';
import { Checkpointer } from './checkpointer.ts';
import { takeFolder } from './folder.ts';
import type { FileSeam } from './log-file.ts';
import { consistencyPath, inclusionPath, treeRoot } from './merkle.ts';
import { parseNote } from './note.ts';
import { pruneSegments } from './pruning.ts';
import { SegmentReader } from './reader.ts';
import { type AuditEntry, type AuditRecord, lineHash, type Receipt } from './record.ts';
import { recoverPlace, segmentFirsts } from './recovery.ts';
import { parseRecord } from './segment.ts';
import type { WitnessSettings } from './witness.ts';
import { Witnesses } from './witnesses.ts';
import { AuditWriter } from './writer.ts';

/**
 * Opens the log in a folder, or begins one, and goes on where it stands: a `boot` record, and behind it a
 * `result` of outcome `unknown` for each intent that never had one. Both are durable when this resolves.
 *
 * AUDIT_FAILED when another process writes this log or the folder cannot be used, AUDIT_UNAVAILABLE when there
 * is no room, AUDIT_TAMPERED when the last segment, the newest checkpoint and the witnesses do not agree. Only
 * the last segment is read: `keyslot audit verify` reads all of them.
 */
export async function openAuditLog(
  options: AuditLogOptions,
): Promise<AuditLog & { readonly recovered: Recovered }> {
  const log = await RunningLog.open(options);
  try {
    await log.begin();
    return log;
  } catch (error) {
    await log[Symbol.asyncDispose]();
    throw error;
  }
}

export interface AuditLogOptions {
  readonly folder: string;
  /** Names the log, in every record and checkpoint; the same over all of its boots. */
  readonly node: string;
  /** Of a new log: how many records a segment has, a power of two. */
  readonly segment_records?: number | undefined;
  readonly checkpoint: { readonly every_ms: number; readonly records: number };
  /**
   * Asked until it gives the audit key, whose slot may open later; meanwhile no checkpoints are made. Left
   * out when there is no audit key: then checkpoints are not signed.
   */
  readonly signer?: (() => Promise<CheckpointSigner | undefined>) | undefined;
  readonly witnesses: readonly WitnessSettings[];
  readonly clock?: Clock | undefined;
  readonly log: Log;
  /** What the `boot` record says beside what the log itself knows: version, platform. */
  readonly detail?: AuditEntry['detail'];
  /** How long one commit may take before the log counts as failed. */
  readonly commit_ms?: number | undefined;
  /** How long to wait before a witness is tried again. */
  readonly retry_ms?: number | undefined;
  /** Told of each record of this boot once it is durable, in order. */
  readonly observe?: AuditObserver | undefined;
  /** Told of each commit: how many records it wrote, and how long the disk took. */
  readonly committed?: ((records: number, took_ms: number) => void) | undefined;
  /** Sees every file that records and checkpoints are written to. */
  readonly file?: FileSeam | undefined;
}

/** What was found at the start. */
export interface Recovered {
  /** Intents of earlier boots without a result; each has one of outcome `unknown` now. */
  readonly unsettled: readonly AuditRecord[];
  /** What an interrupted write had left behind the last record; nobody was told of it. */
  readonly tornTail_bytes: number;
  /** Every record that was durable before this boot, from a place on (the oldest that is here, when it is later). */
  records(from: number): AsyncIterable<AuditRecord>;
}

class RunningLog implements AuditLog {
  readonly recovered: Recovered;
  readonly #options: AuditLogOptions;
  readonly #lock: Disposable;
  readonly #writer: AuditWriter;
  readonly #files: CheckpointFiles;
  readonly #reader: SegmentReader;
  readonly #witnesses: Witnesses;
  readonly #checkpointer: Checkpointer;
  readonly #clock: Clock;
  #first: number;
  #pruning: Promise<unknown> = Promise.resolve();
  #ending: Promise<void> | undefined;

  private constructor(parts: LogParts) {
    this.recovered = parts.recovered(this);
    this.#options = parts.options;
    this.#lock = parts.lock;
    this.#writer = parts.writer;
    this.#files = parts.files;
    this.#reader = parts.reader;
    this.#witnesses = parts.witnesses;
    this.#clock = parts.clock;
    this.#first = parts.first;
    this.#checkpointer = new Checkpointer({
      ...parts,
      signer: parts.options.signer,
      learned: publicKey => rememberAuditKey(parts.options, publicKey, parts.clock),
      every_ms: parts.options.checkpoint.every_ms,
      records: parts.options.checkpoint.records,
      log: parts.options.log,
    });
    this.#writer.onDurable(() => this.#checkpointer.durable());
  }

  static async open(options: AuditLogOptions): Promise<RunningLog> {
    const { folder, node, log, file: seam } = options;
    const clock = options.clock ?? systemClock;
    await using opened = new AsyncDisposableStack(); // closes what was opened when the start is refused
    const lock = opened.use(await takeFolder(folder));
    const files = await CheckpointFiles.open(folder, node, seam);
    opened.defer(() => files.close());
    const segment_records = options.segment_records ?? 2 ** 16;
    const { place, first, intents, tornTail_bytes } = await recoverPlace({
      folder,
      node,
      segment_records,
      files,
      seam,
    });
    opened.defer(() => place.file.close());
    const boot = randomBytes(8).toString('hex');
    const writer = new AuditWriter(
      {
        folder,
        node,
        boot,
        commit_ms: options.commit_ms ?? 10_000,
        clock,
        log,
        seam,
        observe: options.observe,
        committed: options.committed,
      },
      place,
    );
    const reader = new SegmentReader(folder, writer);
    const agrees = (checkpoint: StoredCheckpoint) => agreesWith(checkpoint, first, writer, reader);
    if (files.newest && !(await agrees(files.newest))) {
      const says = `The newest checkpoint is of ${files.newest.size} records`;
      throw new KeyslotError(
        'AUDIT_TAMPERED',
        `${says}; the log in ${folder} has ${writer.size}, or others.`,
      );
    }
    const witnesses = await Witnesses.open({
      folder,
      witnesses: options.witnesses,
      consistent: agrees,
      tampered: error => writer.fail(error),
      retry_ms: options.retry_ms ?? 1_000,
      log,
    });
    await witnesses.check(writer.size);
    const unsettled = await intentsOf(intents, first, reader);
    const size = writer.size;
    const recovered = (self: AuditLog): Recovered => ({
      unsettled,
      tornTail_bytes,
      records: from => records(self, from, size),
    });
    opened.move(); // from here on the log closes them itself
    return new RunningLog({ options, lock, writer, files, reader, witnesses, clock, first, recovered });
  }

  /** The first records of this boot. */
  async begin(): Promise<void> {
    const { unsettled, tornTail_bytes } = this.recovered;
    const detail = { ...this.#options.detail, tornTail_bytes, unsettled: unsettled.length };
    await this.append({ type: 'boot', detail });
    for (let at = 0; at < unsettled.length; at += page_records) {
      await Promise.all(
        unsettled.slice(at, at + page_records).map(intent => this.append(unknownResult(intent))),
      );
    }
    if (this.#files.newest) this.#witnesses.offer(this.#files.newest); // it may not have reached all of them
  }

  append(entry: AuditEntry): Promise<Receipt> {
    return this.#writer.append(entry);
  }

  status(): AuditStatus {
    const { node, boot, state, size } = this.#writer;
    const newest = this.#files.newest;
    const witnessed = Math.min(this.#witnesses.size, size);
    return {
      node,
      boot,
      state,
      size,
      first: this.#first,
      checkpointed: newest?.size ?? 0,
      witnessed,
      tamperEvidence: newest?.signed ? (witnessed > 0 ? 'witnessed' : 'local') : 'chain',
      witnesses: this.#witnesses.status(),
    };
  }

  figures(): AuditFigures {
    const { newest } = this.#files;
    const { waiting } = this.#writer;
    if (!newest) return { waiting };
    return { waiting, checkpointedAt: parseNote(newest.note).checkpoint.time };
  }

  async read(from: number, limit: number): Promise<readonly AuditLine[]> {
    if (from < this.#first) throw pruned(from);
    const { records } = this.#writer;
    const to = Math.min(from + limit, this.#writer.size);
    const found: AuditLine[] = [];
    for (let at = from; at < to; ) {
      const end = Math.min(to, (Math.floor(at / records) + 1) * records);
      for (const line of await this.#reader.lines(at, end)) found.push(auditLine(line));
      at = end;
    }
    return found;
  }

  async inclusionProof(seq: number, size?: number): Promise<InclusionProof> {
    if (!Number.isSafeInteger(seq) || seq < 0 || seq >= this.#writer.size) throw unknownRecord(seq);
    if (seq < this.#first) throw pruned(seq);
    const note = await this.#checkpointOver(seq, size);
    const { checkpoint } = parseNote(note);
    const nodes = await this.#reader.nodes([seq], [checkpoint.size]);
    return {
      seq,
      size: checkpoint.size,
      leaf: encodeBase64(nodes.node(0, seq)),
      path: inclusionPath(nodes, seq, checkpoint.size).map(encodeBase64),
      checkpoint: note,
    };
  }

  async consistencyProof(from: number, to: number): Promise<ConsistencyProof> {
    if (!(0 <= from && from <= to && to <= this.#writer.size)) throw unknownSize(from, to);
    const { records } = this.#writer;
    const gone = [from, to].find(size => size % records !== 0 && size < this.#first);
    if (gone !== undefined) throw pruned(gone);
    const nodes = await this.#reader.nodes([], [from, to]);
    return { from, to, path: consistencyPath(nodes, from, to).map(encodeBase64) };
  }

  checkpoints(from: number, limit: number): Promise<readonly string[]> {
    return this.#files.list(from, limit, this.#writer.records);
  }

  checkpoint(): Promise<string | undefined> {
    return this.#checkpointer.make();
  }

  prune(below: number): Promise<{ readonly removed: readonly string[]; readonly first: number }> {
    const next = this.#pruning.then(() => this.#prune(below));
    this.#pruning = next.catch(() => undefined); // whoever asked for it hears of it
    return next;
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#ending ??= this.#end();
    return this.#ending;
  }

  async #prune(below: number): Promise<{ readonly removed: readonly string[]; readonly first: number }> {
    const { witnessed } = this.status();
    if (below > witnessed) {
      throw new KeyslotError('AUDIT_UNWITNESSED', `Witnesses have seen ${witnessed} records, not ${below}.`);
    }
    const { records, segment, oldestOpen } = this.#writer;
    const end = Math.min(below, oldestOpen ?? below, segment.first);
    const firsts = (await segmentFirsts(this.#options.folder)).filter(first => first + records <= end);
    const parts = {
      folder: this.#options.folder,
      files: this.#files,
      shape: this.#writer,
      reader: this.#reader,
    };
    // From here on nobody is told of what is about to go.
    this.#first = Math.max(this.#first, (firsts.at(-1) ?? -records) + records);
    const removed = await pruneSegments(firsts, { ...parts, clock: this.#clock });
    return { removed, first: this.#first };
  }

  async #checkpointOver(seq: number, size: number | undefined): Promise<string> {
    if (size === undefined) {
      if (seq >= (this.#files.newest?.size ?? 0)) await this.#checkpointer.make();
      const newest = this.#files.newest;
      if (newest && seq < newest.size) return newest.note;
      throw new KeyslotError('AUDIT_RECORD_UNKNOWN', `No checkpoint covers record ${seq} yet.`);
    }
    const [note] = await this.checkpoints(size, 1);
    if (note === undefined || parseNote(note).checkpoint.size !== size || seq >= size) {
      throw new KeyslotError('AUDIT_RECORD_UNKNOWN', `No checkpoint of size ${size} covers record ${seq}.`);
    }
    return note;
  }

  async #end(): Promise<void> {
    await this.#pruning;
    await this.#writer.close();
    await this.#checkpointer.stop();
    await this.#witnesses.stop();
    if (this.#writer.state !== 'failed') await this.#files.close();
    this.#lock[Symbol.dispose]();
  }
}

interface LogParts {
  readonly options: AuditLogOptions;
  readonly lock: Disposable;
  readonly writer: AuditWriter;
  readonly files: CheckpointFiles;
  readonly reader: SegmentReader;
  readonly witnesses: Witnesses;
  readonly clock: Clock;
  readonly first: number;
  readonly recovered: (self: AuditLog) => Recovered;
}

/** Whether the log has this checkpoint's root and chain; below what was pruned nobody can tell any more. */
async function agreesWith(
  { size, root, chain }: StoredCheckpoint,
  first: number,
  writer: AuditWriter,
  reader: SegmentReader,
): Promise<boolean> {
  if (size > writer.size) return false;
  if (size < first && size % writer.records !== 0) return true;
  if (!treeRoot(await reader.nodes([], [size]), size).equals(root)) return false;
  if (size <= first) return true;
  const [line = ''] = await reader.lines(size - 1, size);
  return lineHash(line).toString('hex') === chain;
}

/** The records of intents, as far as they are still here. */
async function intentsOf(
  intents: ReadonlyMap<number, AuditRecord | undefined>,
  first: number,
  reader: SegmentReader,
): Promise<readonly AuditRecord[]> {
  const found: AuditRecord[] = [];
  for (const [seq, record] of intents) {
    if (record) found.push(record);
    else if (seq >= first)
      found.push(...(await reader.lines(seq, seq + 1)).map(line => auditLine(line).record));
  }
  return found;
}

/** Names what its intent named, so that whoever looks for a key or a request finds both. */
function unknownResult(intent: AuditRecord): AuditEntry {
  const { requestId, actor, operation, key, publicKey, slot, kind, message, idempotency } = intent;
  const same = { requestId, actor, operation, key, publicKey, slot, kind, message, idempotency };
  return { type: 'result', ...same, intent: intent.seq, outcome: 'unknown' };
}

async function* records(log: AuditLog, from: number, to: number): AsyncIterable<AuditRecord> {
  for (let at = Math.max(from, log.status().first); at < to; at += page_records) {
    for (const { record } of await log.read(at, Math.min(page_records, to - at))) yield record;
  }
}

const page_records = 1_024;

function auditLine(line: string): AuditLine {
  const record = parseRecord(line);
  if (!record) throw new KeyslotError('AUDIT_TAMPERED', 'A line of the audit log is not as it was written.');
  return { record, line };
}

const pruned = (seq: number): KeyslotError =>
  new KeyslotError('AUDIT_PRUNED', `Record ${seq} is not here any more.`);
const unknownRecord = (seq: number): KeyslotError =>
  new KeyslotError('AUDIT_RECORD_UNKNOWN', `There is no record ${seq}.`);
const unknownSize = (from: number, to: number): KeyslotError =>
  new KeyslotError('AUDIT_RECORD_UNKNOWN', `The log had no sizes ${from} and ${to} in this order.`);

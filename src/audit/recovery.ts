import { readdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { CheckpointFiles } from './checkpoint-files.ts';
import { DurableFile, errnoOf, type FileSeam, failedFile, newDurableFile, openLogFile } from './log-file.ts';
import { leafHash, MerkleTree } from './merkle.ts';
import { zeroHash } from './note.ts';
import { eachLine, tampered } from './reader.ts';
import { type AuditRecord, lineHash } from './record.ts';
import {
  headerLine,
  isWhole,
  parseHeader,
  parseRecord,
  type SegmentHeader,
  SegmentIndex,
  segmentFirst,
  segmentName,
} from './segment.ts';
import type { LogPlace } from './writer.ts';

/**
 * Where a log stands, from its last segment alone. What an interrupted write left at the end, and nobody was told
 * of, is cut off; everything else that is not as it was written is AUDIT_TAMPERED, with file and line.
 */
export async function recoverPlace(options: RecoveryOptions): Promise<RecoveredPlace> {
  const firsts = await segmentFirsts(options.folder);
  const last = firsts.at(-1);
  if (last === undefined) return await newLog(options);
  const scan = await scanSegment(options, last);
  if (!scan) return await withoutUnbegun(options, firsts);
  refuseGaps(options.folder, firsts, scan.header.records);
  const path = join(options.folder, segmentName(last));
  const file = await cutBack(path, scan, options.seam);
  const tops = new MerkleTree();
  for (const root of scan.header.roots) tops.append(Buffer.from(root, 'hex'));
  if (scan.segment.count === scan.header.records) tops.append(scan.segment.tree.root());
  const { segment, chain, open } = scan;
  return {
    place: { records: scan.header.records, tops, segment, file, chain, open: new Set(open.keys()) },
    first: firsts[0] ?? 0,
    intents: open,
    tornTail_bytes: scan.torn_bytes,
  };
}

export interface RecoveryOptions {
  readonly folder: string;
  readonly node: string;
  /** For a new log; one that exists keeps what it has. */
  readonly segment_records: number;
  readonly files: CheckpointFiles;
  readonly seam: FileSeam | undefined;
}

export interface RecoveredPlace {
  readonly place: LogPlace;
  /** The oldest record that is here. */
  readonly first: number;
  /** Intents without a result, each with its record when that is in the last segment. */
  readonly intents: ReadonlyMap<number, AuditRecord | undefined>;
  readonly tornTail_bytes: number;
}

/** The first seq of each segment file, in order. */
export async function segmentFirsts(folder: string): Promise<readonly number[]> {
  const names = await readdir(folder);
  return names
    .map(segmentFirst)
    .filter(first => first !== undefined)
    .sort((a, b) => a - b);
}

async function newLog(options: RecoveryOptions): Promise<RecoveredPlace> {
  const { folder, node, files, seam } = options;
  const records = options.segment_records;
  if (files.newest)
    throw tampered(folder, undefined, `has no records, but a checkpoint of ${files.newest.size}`);
  const line = headerLine({
    'keyslot-audit': 1,
    node,
    first: 0,
    records,
    prev: zeroHash,
    roots: [],
    open: [],
  });
  const header = Buffer.from(`${line}\n`, 'utf8');
  const file = await newDurableFile(folder, join(folder, segmentName(0)), header, seam);
  const segment = new SegmentIndex(0, header.length);
  return {
    place: { records, tops: new MerkleTree(), segment, file, chain: zeroHash, open: new Set() },
    first: 0,
    intents: new Map(),
    tornTail_bytes: 0,
  };
}

/** The process ended while it began the last segment: nothing is in it, and it is begun again when it is needed. */
async function withoutUnbegun(options: RecoveryOptions, firsts: readonly number[]): Promise<RecoveredPlace> {
  const path = join(options.folder, segmentName(firsts.at(-1) ?? 0));
  const previous = firsts.at(-2);
  if (previous !== undefined) {
    const scan = await scanSegment(options, previous);
    if (scan?.segment.count !== scan?.header.records || scan?.torn_bytes !== 0) {
      throw tampered(path, undefined, 'follows a segment that is not full');
    }
  }
  await unlink(path);
  return await recoverPlace(options);
}

interface Scan {
  readonly header: SegmentHeader;
  readonly segment: SegmentIndex;
  readonly chain: string;
  readonly open: Map<number, AuditRecord | undefined>;
  readonly torn_bytes: number;
}

/** Reads and checks every line; `undefined` when not even the header was finished. */
async function scanSegment({ folder, node }: RecoveryOptions, first: number): Promise<Scan | undefined> {
  const path = join(folder, segmentName(first));
  let header: SegmentHeader | undefined;
  let segment = new SegmentIndex(first, 0);
  let chain = zeroHash;
  let open = new Map<number, AuditRecord | undefined>();
  let torn: { line: number; bytes: number } | undefined;
  let number = 0;
  const tail = await eachLine(path, bytes => {
    number += 1;
    const line = bytes.toString('utf8');
    if (torn) throw tampered(path, torn.line, 'was edited: it is no record, and others follow');
    if (!header) {
      header = checkedHeader(path, line, first, node);
      segment = new SegmentIndex(first, bytes.length + 1);
      chain = header.prev;
      open = new Map(header.open.map(seq => [seq, undefined]));
      return;
    }
    if (segment.count === header.records) throw tampered(path, number, 'is one more than a segment has');
    if (!isWhole(line)) {
      torn = { line: number, bytes: bytes.length + 1 };
      return;
    }
    const record = checkedRecord(path, number, line, { node, seq: first + segment.count, prev: chain });
    segment.append(leafHash(bytes), bytes.length + 1);
    chain = lineHash(bytes).toString('hex');
    if (record.type === 'intent') open.set(record.seq, record);
    else if (record.intent !== undefined) open.delete(record.intent);
  });
  if (!header) return undefined;
  return { header, segment, chain, open, torn_bytes: (torn?.bytes ?? 0) + tail.bytes };
}

function checkedHeader(path: string, line: string, first: number, node: string): SegmentHeader {
  const header = parseHeader(line);
  if (header?.first !== first) throw tampered(path, 1, 'was edited: it is not the header of this segment');
  if (header.node !== node)
    throw tampered(path, 1, `is of another log: it says ${JSON.stringify(header.node)}`);
  return header;
}

function checkedRecord(
  path: string,
  number: number,
  line: string,
  expected: { node: string; seq: number; prev: string },
): AuditRecord {
  const record = parseRecord(line);
  if (!record) throw tampered(path, number, 'was edited: it is not in its canonical form');
  if (record.node !== expected.node) throw tampered(path, number, 'is of another log');
  if (record.seq !== expected.seq) {
    throw tampered(path, number, `has seq ${record.seq} in place of ${expected.seq}: deleted or reordered`);
  }
  if (record.prev !== expected.prev)
    throw tampered(path, number, 'does not follow the line before: one was edited');
  return record;
}

function refuseGaps(folder: string, firsts: readonly number[], records: number): void {
  const gap = firsts.find((first, at) => at > 0 && first - (firsts[at - 1] ?? 0) !== records);
  if (gap !== undefined)
    throw tampered(join(folder, segmentName(gap)), undefined, 'does not follow the one before');
}

/** The file behind its last whole record, durable. AUDIT_FAILED when it cannot be cut. */
async function cutBack(path: string, scan: Scan, seam: FileSeam | undefined): Promise<DurableFile> {
  try {
    const file = await openLogFile(path, 'existing', seam);
    if (scan.torn_bytes > 0) await file.truncate(scan.segment.end);
    await file.datasync(); // whatever an earlier process had not synced is part of the log from here on
    return new DurableFile(path, file, scan.segment.end);
  } catch (cause) {
    throw failedFile(path, `opened for writing (${errnoOf(cause)})`, cause);
  }
}

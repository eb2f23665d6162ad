import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { encodeBase64 } from '../foundation/base64.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { InclusionProof } from './audit-log.ts';
import { parseStored, type StoredCheckpoint } from './checkpoint-files.ts';
import { inclusionPath, leafHash, MerkleTree } from './merkle.ts';
import { eachLine, SegmentReader, tampered } from './reader.ts';
import { checkpointsFirst, parseHeader, SegmentIndex, segmentFirst } from './segment.ts';

/** Where records are read from: a folder, or an appliance. */
export interface AuditSource {
  /** Lines of records from a place on (the oldest that is here, when it is later), in order. */
  lines(from: number): AsyncIterable<string>;
  /** That the record is in the log, under a checkpoint. */
  proof(seq: number): Promise<InclusionProof>;
  /** Records that are there now, and those that the newest checkpoint covers. */
  size(): Promise<{ readonly size: number; readonly checkpointed: number }>;
}

/**
 * Reads the log of a folder without the appliance, which may be writing it. Nothing is verified but what a proof
 * needs. AUDIT_RECORD_UNKNOWN when there is no log, AUDIT_TAMPERED when it cannot be read as one.
 */
export async function openFolderSource(folder: string): Promise<AuditSource> {
  const { reader, segment, first, records } = await shapeOf(folder);
  const size = segment.first + segment.count;
  return {
    size: async () => ({ size, checkpointed: (await newestCheckpoint(folder, size))?.size ?? 0 }),
    async *lines(from) {
      for (let at = Math.max(from, first); at < size; ) {
        const end = Math.min(size, at + page_records, (Math.floor(at / records) + 1) * records);
        yield* await reader.lines(at, end);
        at = end;
      }
    },
    async proof(seq) {
      const checkpoint = await newestCheckpoint(folder, size);
      if (seq < first || !checkpoint || seq >= checkpoint.size) {
        throw new KeyslotError('AUDIT_RECORD_UNKNOWN', `No checkpoint in ${folder} covers record ${seq}.`);
      }
      const nodes = await reader.nodes([seq], [checkpoint.size]);
      return {
        seq,
        size: checkpoint.size,
        leaf: encodeBase64(nodes.node(0, seq)),
        path: inclusionPath(nodes, seq, checkpoint.size).map(encodeBase64),
        checkpoint: checkpoint.note,
      };
    },
  };

  async function shapeOf(path: string) {
    const firsts = numbersIn(path, segmentFirst);
    const newest = firsts.at(-1);
    if (newest === undefined)
      throw new KeyslotError('AUDIT_RECORD_UNKNOWN', `There is no audit log at ${path}.`);
    const file = join(path, nameOf('segment', newest));
    let growing: SegmentIndex | undefined;
    let records = 0;
    const tops = new MerkleTree();
    await eachLine(file, line => {
      if (growing) return growing.append(leafHash(line), line.length + 1);
      const header = parseHeader(line.toString('utf8'));
      if (!header) throw tampered(file, 1, 'is no header');
      records = header.records;
      for (const root of header.roots) tops.append(Buffer.from(root, 'hex'));
      growing = new SegmentIndex(newest, line.length + 1);
    });
    if (!growing) throw tampered(file, 1, 'is no header');
    const segment: SegmentIndex = growing;
    if (segment.count === records) tops.append(segment.tree.root());
    const shape = { records, tops, segment };
    return { ...shape, first: firsts[0] ?? 0, reader: new SegmentReader(path, shape) };
  }
}

/** The newest checkpoint that the records reach; a signed one, if there is any. */
async function newestCheckpoint(folder: string, size: number): Promise<StoredCheckpoint | undefined> {
  for (const first of numbersIn(folder, checkpointsFirst).toReversed()) {
    let newest: StoredCheckpoint | undefined;
    await eachLine(join(folder, nameOf('checkpoints', first)), line => {
      const stored = parseStored(line.toString('utf8'));
      if (stored && stored.size <= size && (stored.signed || !newest?.signed)) newest = stored;
    });
    if (newest) return newest;
  }
  return undefined;
}

function numbersIn(folder: string, firstOf: (name: string) => number | undefined): number[] {
  try {
    return readdirSync(folder)
      .map(firstOf)
      .filter(first => first !== undefined)
      .sort((one, other) => one - other);
  } catch (cause) {
    throw new KeyslotError('AUDIT_RECORD_UNKNOWN', `There is no audit log at ${folder}.`, { cause });
  }
}

const nameOf = (kind: 'segment' | 'checkpoints', first: number): string =>
  `${kind}-${String(first).padStart(12, '0')}.jsonl`;

const page_records = 1_024;

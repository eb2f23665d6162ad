import { type MerkleNodes, MerkleTree } from './merkle.ts';
import { type AuditRecord, canonicalLine } from './record.ts';

/**
 * A segment is a file of the log: a header line, then exactly `records` lines of records (a power of two, so
 * that a full segment is a perfect subtree of the log's Merkle tree); the last segment may still be growing.
 * A header is no record and no leaf. It says what is needed to go on from this segment alone.
 */
export interface SegmentHeader {
  readonly 'keyslot-audit': 1;
  readonly node: string;
  /** The seq of its first record. */
  readonly first: number;
  /** How many records a full segment of this log has; the same in all of its segments. */
  readonly records: number;
  /** The hash of the last line of the segment before, in hexadecimal; 64 zeros in the first. */
  readonly prev: string;
  /** The Merkle root of each segment before, from the very first, in hexadecimal. */
  readonly roots: readonly string[];
  /** The intents (seq) before this segment whose result had not been written when it began. */
  readonly open: readonly number[];
}

/** The canonical header line, without its line feed: these fields in this order. */
export function headerLine(header: SegmentHeader): string {
  const { node, first, records, prev, roots, open } = header;
  return JSON.stringify({ 'keyslot-audit': 1, node, first, records, prev, roots, open });
}

/** The header, or `undefined` when the line is not exactly what `headerLine` writes for it. */
export function parseHeader(line: string): SegmentHeader | undefined {
  const header = parsedObject(line) as Partial<SegmentHeader> | undefined;
  if (header?.['keyslot-audit'] !== 1 || typeof header.node !== 'string') return undefined;
  const { first, records, prev, roots, open } = header;
  if (!isCount(first) || !isCount(records) || Math.log2(records) % 1 !== 0 || first % records !== 0)
    return undefined;
  if (typeof prev !== 'string' || !isHex(prev)) return undefined;
  if (!Array.isArray(roots) || !roots.every(isHex) || roots.length !== first / records) return undefined;
  if (!Array.isArray(open) || !open.every(isCount)) return undefined;
  const found = header as SegmentHeader;
  return headerLine(found) === line ? found : undefined;
}

export const segmentName = (first: number): string => `segment-${numbered(first)}.jsonl`;
export const checkpointsName = (first: number): string => `checkpoints-${numbered(first)}.jsonl`;

/** The first seq that a file's name tells, or `undefined` when the file is no segment (no file of checkpoints). */
export const segmentFirst = (name: string): number | undefined => numberIn(name, 'segment');
export const checkpointsFirst = (name: string): number | undefined => numberIn(name, 'checkpoints');

/** The file that keeps the checkpoints of a size: that of the segment with the last record. */
export const checkpointsFirstOf = (size: number, records: number): number =>
  size === 0 ? 0 : Math.floor((size - 1) / records) * records;

/** The record of a line, or `undefined` when the line is not the canonical line of a record. */
export function parseRecord(line: string): AuditRecord | undefined {
  const record = parsedObject(line) as AuditRecord | undefined;
  return record?.v === 1 && canonicalLine(record) === line ? record : undefined;
}

/** Where the lines of a segment are in its file, and their Merkle tree. */
export class SegmentIndex {
  readonly first: number;
  readonly tree = new MerkleTree();
  /** Where each record begins; behind the last one, where the next will begin. */
  readonly #offsets: number[];

  constructor(first: number, header_bytes: number) {
    this.first = first;
    this.#offsets = [header_bytes];
  }

  get count(): number {
    return this.tree.size;
  }

  get end(): number {
    return this.#offsets.at(-1) ?? 0;
  }

  /** A line of so many bytes with its line feed. */
  append(leaf: Uint8Array, line_bytes: number): void {
    this.#offsets.push(this.end + line_bytes);
    this.tree.append(leaf);
  }

  /** The bytes [start, end) of the records [from, to), by seq. */
  range(from: number, to: number): { start: number; end: number } {
    return { start: this.#offsets[from - this.first] ?? 0, end: this.#offsets[to - this.first] ?? 0 };
  }
}

/** The nodes of the whole tree: the tops from full segments, what is below from the segments that are held. */
export function logNodes(records: number, tops: MerkleTree, held: readonly SegmentIndex[]): MerkleNodes {
  const height = Math.log2(records);
  return {
    node(level, index) {
      if (level >= height) return tops.node(level - height, index);
      const first = Math.floor((index * 2 ** level) / records) * records;
      const found = held.find(segment => segment.first === first);
      if (!found) throw new RangeError(`The segment of node ${index} at level ${level} is not held.`);
      return found.tree.node(level, index - first / 2 ** level);
    },
  };
}

/** Whether a line is a JSON object, of whatever content: what is left of an unfinished write is none. */
export const isWhole = (line: string): boolean => parsedObject(line) !== undefined;

function parsedObject(line: string): object | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

const numbered = (first: number): string => String(first).padStart(12, '0');

function numberIn(name: string, kind: 'segment' | 'checkpoints'): number | undefined {
  const digits = new RegExp(`^${kind}-([0-9]{12,16})\\.jsonl$`).exec(name)?.[1];
  if (digits === undefined) return undefined;
  const first = Number(digits);
  return Number.isSafeInteger(first) && numbered(first) === digits ? first : undefined;
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const isHex = (value: unknown): value is string => typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);

import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { KeyslotError } from '../foundation/errors.ts';
import { errnoOf } from './log-file.ts';
import { leafHash, type MerkleNodes, type MerkleTree } from './merkle.ts';
import { logNodes, SegmentIndex, segmentName } from './segment.ts';

/** What is there of the log: full segments by their roots, and the one that is growing. */
export interface LogShape {
  readonly records: number;
  readonly tops: MerkleTree;
  readonly segment: SegmentIndex;
}

/**
 * Reads segments of a log that is being written. The growing one is known by heart; of the older ones, the last
 * two that were asked for are. An older segment whose Merkle root is not the one that the log remembers is
 * AUDIT_TAMPERED.
 */
export class SegmentReader {
  readonly #folder: string;
  readonly #shape: LogShape;
  readonly #loaded = new Map<number, Promise<SegmentIndex>>();

  constructor(folder: string, shape: LogShape) {
    this.#folder = folder;
    this.#shape = shape;
  }

  /** The segment that holds the record. */
  segmentOf(seq: number): Promise<SegmentIndex> {
    const { records, segment } = this.#shape;
    const first = Math.floor(seq / records) * records;
    if (first === segment.first) return Promise.resolve(segment);
    const known = this.#loaded.get(first);
    this.#loaded.delete(first);
    const loading = known ?? this.#load(first);
    this.#loaded.set(first, loading); // the newest at the end
    for (const old of [...this.#loaded.keys()].slice(0, -loaded_max)) this.#loaded.delete(old);
    return loading;
  }

  /** The lines of records [from, to), which are durable and in one segment. */
  async lines(from: number, to: number): Promise<readonly string[]> {
    const segment = await this.segmentOf(from);
    const { start, end } = segment.range(from, to);
    const path = join(this.#folder, segmentName(segment.first));
    const bytes = Buffer.allocUnsafe(end - start);
    await using file = await opened(path);
    let done = 0;
    while (done < bytes.length) {
      const { bytesRead } = await file.read(bytes, done, bytes.length - done, start + done);
      if (bytesRead === 0) throw tampered(path, undefined, 'is shorter than it was');
      done += bytesRead;
    }
    return bytes.toString('utf8').split('\n').slice(0, -1);
  }

  /** The nodes of the whole tree that proofs of these records, and roots of these sizes, are made of. */
  async nodes(seqs: readonly number[], sizes: readonly number[]): Promise<MerkleNodes> {
    const { records, tops, segment } = this.#shape;
    const held = [segment];
    const cut = sizes.filter(size => size % records !== 0).map(size => size - 1); // no segment is cut at its end
    for (const seq of [...seqs, ...cut]) held.push(await this.segmentOf(seq));
    return logNodes(records, tops, held);
  }

  forget(first: number): void {
    this.#loaded.delete(first);
  }

  #load(first: number): Promise<SegmentIndex> {
    const loading = this.#read(first);
    // What could not be read may be readable the next time.
    loading.catch(() => this.#loaded.delete(first));
    return loading;
  }

  async #read(first: number): Promise<SegmentIndex> {
    const { records, tops } = this.#shape;
    const path = join(this.#folder, segmentName(first));
    let segment: SegmentIndex | undefined;
    const tail = await eachLine(path, line => {
      if (!segment) segment = new SegmentIndex(first, line.length + 1);
      else if (segment.count < records) segment.append(leafHash(line), line.length + 1);
    });
    const root = tops.node(0, first / records);
    if (tail.bytes !== 0 || segment?.count !== records || !segment.tree.root().equals(root)) {
      throw tampered(path, undefined, 'does not have the Merkle root that later segments say');
    }
    return segment;
  }
}

/** What is behind the last line feed of a file. */
export interface Tail {
  readonly start: number;
  readonly bytes: number;
}

/**
 * Calls for each line that ends with a line feed, without it; reads in pieces, so that a large file does not
 * stop the event loop. The line is lent for the time of the call. AUDIT_TAMPERED for a line that no record can
 * be, AUDIT_FAILED when the file cannot be read.
 */
export async function eachLine(path: string, call: (line: Buffer) => void): Promise<Tail> {
  await using file = await opened(path);
  let rest = Buffer.alloc(0);
  let start = 0;
  for (let at = 0; ; ) {
    const piece = Buffer.allocUnsafe(piece_bytes);
    const { bytesRead } = await reading(path, () => file.read(piece, 0, piece.length, at));
    if (bytesRead === 0) return { start, bytes: rest.length };
    at += bytesRead;
    const bytes = Buffer.concat([rest, piece.subarray(0, bytesRead)]);
    let from = 0;
    for (let end = bytes.indexOf(0x0a); end >= 0; end = bytes.indexOf(0x0a, from)) {
      call(bytes.subarray(from, end));
      from = end + 1;
    }
    start += from;
    rest = bytes.subarray(from);
    if (rest.length > line_bytes_max)
      throw tampered(path, undefined, 'has a line that is too long for a record');
  }
}

export const tampered = (path: string, line: number | undefined, what: string): KeyslotError =>
  new KeyslotError('AUDIT_TAMPERED', `${path}${line === undefined ? '' : `, line ${line},`} ${what}.`);

async function opened(path: string) {
  return await reading(path, () => open(path, 'r'));
}

async function reading<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw new KeyslotError('AUDIT_FAILED', `${path} cannot be read (${errnoOf(cause)}).`, { cause });
  }
}

const loaded_max = 2;
const piece_bytes = 256 * 1024;
/** Headers grow by 67 bytes a segment; this is room for a quarter of a million segments. */
const line_bytes_max = 16 * 1024 * 1024;

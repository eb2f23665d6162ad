import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, readFile, truncate, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../foundation/clock.ts';
import type { CheckpointFiles } from './checkpoint-files.ts';
import { errnoOf, failedFile, syncFolder } from './log-file.ts';
import type { LogShape, SegmentReader } from './reader.ts';
import { lineHash } from './record.ts';
import { checkpointsFirst, segmentName } from './segment.ts';

/** What `pruned.jsonl` keeps of a segment that was removed, so that what is left can still be checked. */
export interface PrunedSegment {
  readonly segment: string;
  readonly first: number;
  readonly last: number;
  /** The Merkle root of its records, in hexadecimal. */
  readonly root: string;
  /** The hash of its last line, in hexadecimal. */
  readonly lastHash: string;
  /** SHA-256 of the whole file, to know it again in an archive. */
  readonly sha256: string;
  readonly at: string;
}

/**
 * Removes segments from the oldest on. First all that is needed of one is durable in the manifest, then its file
 * goes; a prune that was interrupted is finished by the next one.
 */
export async function pruneSegments(
  firsts: readonly number[],
  parts: PruningParts,
): Promise<readonly string[]> {
  const { folder, files, shape } = parts;
  const removed: string[] = [];
  try {
    const known = await manifestSegments(folder);
    for (const first of firsts) {
      const name = segmentName(first);
      if (!known.has(name)) await remember(await prunedSegment(first, parts), folder);
      await unlink(join(folder, name));
      parts.reader.forget(first);
      removed.push(name);
    }
    const end = (firsts.at(-1) ?? 0) + shape.records;
    const newest = files.newest?.size ?? 0;
    for (const name of removed.length > 0 ? await files.filesBelow(end, shape.records) : []) {
      // The newest checkpoint stays, whichever records it is of.
      if ((checkpointsFirst(name) ?? 0) + shape.records < newest) await unlink(join(folder, name));
    }
    await syncFolder(folder);
  } catch (cause) {
    if (errnoOf(cause) === 'unknown' || errnoOf(cause).startsWith('AUDIT_')) throw cause;
    throw failedFile(folder, 'pruned', cause);
  }
  return removed;
}

export interface PruningParts {
  readonly folder: string;
  readonly files: CheckpointFiles;
  readonly shape: LogShape;
  readonly reader: SegmentReader;
  readonly clock: Clock;
}

async function prunedSegment(
  first: number,
  { folder, shape, reader, clock }: PruningParts,
): Promise<PrunedSegment> {
  const { records } = shape;
  const segment = await reader.segmentOf(first); // AUDIT_TAMPERED when it is not what its root says
  const [line = ''] = await reader.lines(first + records - 1, first + records);
  return {
    segment: segmentName(first),
    first,
    last: first + records - 1,
    root: segment.tree.root().toString('hex'),
    lastHash: lineHash(line).toString('hex'),
    sha256: await fileHash(join(folder, segmentName(first))),
    at: clock.utc().toISOString(),
  };
}

async function remember(pruned: PrunedSegment, folder: string): Promise<void> {
  await using file = await open(join(folder, manifestName), 'a', 0o600);
  await file.appendFile(`${JSON.stringify(pruned)}\n`);
  await file.sync();
  await syncFolder(folder);
}

/** The segments that it has; a line that was never finished is cut off. */
async function manifestSegments(folder: string): Promise<ReadonlySet<string>> {
  const path = join(folder, manifestName);
  const text = await textOf(path);
  const whole = text.slice(0, text.lastIndexOf('\n') + 1);
  if (whole.length < text.length) await truncate(path, Buffer.byteLength(whole));
  const lines = whole.split('\n').slice(0, -1);
  return new Set(lines.map(line => (JSON.parse(line) as PrunedSegment).segment));
}

async function textOf(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return '';
    throw error;
  }
}

async function fileHash(path: string): Promise<string> {
  const sha256 = createHash('sha256');
  for await (const piece of createReadStream(path)) sha256.update(piece as Buffer);
  return sha256.digest('hex');
}

export const manifestName = 'pruned.jsonl';

import type { FileHandle } from 'node:fs/promises';
import { auditKeyName } from '../audit/audit-key.ts';
import { manifestName } from '../audit/pruning.ts';
import { lineHash } from '../audit/record.ts';
import { checkpointsFirst, parseHeader, parseRecord, segmentFirst } from '../audit/segment.ts';
import { KeyslotError } from '../foundation/errors.ts';

/** The files of an audit log that is being written, and how far they can be copied. */

export const isSegment = (name: string): boolean => segmentFirst(name) !== undefined;
export const isCheckpoints = (name: string): boolean => checkpointsFirst(name) !== undefined;
export const isSmallAuditFile = (name: string): boolean => small.has(name);
export const isAuditFile = (name: string): boolean =>
  isSegment(name) || isCheckpoints(name) || isSmallAuditFile(name);

const small: ReadonlySet<string> = new Set([auditKeyName, manifestName, 'witnesses.json']);

/** How much of a file is copied, and the last line of it where it has lines. */
export type Extent = (file: FileHandle) => Promise<{ readonly bytes: number; readonly last?: Buffer }>;

export const wholeFile: Extent = async file => ({ bytes: (await file.stat()).size });

/** Up to the last line feed that is there now: what stands behind it is still being written. */
export const wholeLines: Extent = async file => {
  const { size } = await file.stat();
  for (let length = Math.min(size, tail_bytes); ; length = Math.min(size, length * 2)) {
    const tail = Buffer.alloc(length);
    await file.read(tail, 0, length, size - length);
    const end = tail.lastIndexOf(lineFeed);
    const begin = end > 0 ? tail.lastIndexOf(lineFeed, end - 1) : -1;
    if (begin < 0 && length < size) continue;
    if (end < 0) return { bytes: 0 };
    return { bytes: size - length + end + 1, last: tail.subarray(begin + 1, end) };
  }
};

/** How many records a log has that ends with this line, and the hash that the next one names. */
export function headOf(line: Buffer): { readonly size: number; readonly head: string } {
  const text = line.toString('utf8');
  const record = parseRecord(text);
  if (record) return { size: record.seq + 1, head: lineHash(line).toString('hex') };
  const header = parseHeader(text);
  if (header) return { size: header.first, head: header.prev };
  throw new KeyslotError('AUDIT_TAMPERED', 'The last line of the audit log is not as it was written.');
}

/** The note in a line of a file of checkpoints. */
export function noteOf(line: Buffer): string {
  const { note } = JSON.parse(line.toString('utf8')) as { note?: unknown };
  return typeof note === 'string' ? note : '';
}

const lineFeed = 0x0a;
const tail_bytes = 64 * 1024;

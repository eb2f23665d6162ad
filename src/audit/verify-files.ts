import { createReadStream, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { KeyslotError } from '../foundation/errors.ts';

/** The files of a log, wherever they are; each may be larger than the memory. */
export interface AuditFiles {
  readonly names: readonly string[];
  /** Of all files together, to say how far a reader has come. */
  readonly bytes: number;
  read(name: string): AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
}

export interface FileLine {
  /** Without the line feed. */
  readonly bytes: Uint8Array;
  /** From 1. */
  readonly number: number;
  /** False for what stands behind the last line feed. */
  readonly ended: boolean;
}

/** The files of a folder as they are now. AUDIT_RECORD_UNKNOWN when it cannot be read. */
export function folderFiles(folder: string): AuditFiles {
  const names = namesIn(folder);
  return {
    names,
    bytes: names.reduce((sum, name) => sum + statSync(join(folder, name)).size, 0),
    read: name => createReadStream(join(folder, name), { highWaterMark: chunk_bytes }),
  };
}

/** Files that are in memory. */
export function memoryFiles(files: ReadonlyMap<string, Uint8Array>): AuditFiles {
  return {
    names: [...files.keys()].sort(),
    bytes: files.values().reduce((sum, file) => sum + file.length, 0),
    read: name => [files.get(name) ?? new Uint8Array()],
  };
}

/** The lines of a file, as many at a time as were read at once. A line that is too long is cut. */
export async function* linesOf(files: AuditFiles, name: string): AsyncGenerator<readonly FileLine[]> {
  let rest: Uint8Array = new Uint8Array();
  let number = 0;
  for await (const chunk of files.read(name)) {
    const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    const lines: FileLine[] = [];
    let from = 0;
    for (let end = bytes.indexOf(lineFeed); end >= 0; end = bytes.indexOf(lineFeed, from)) {
      number += 1;
      lines.push({ bytes: bytes.subarray(from, end), number, ended: true });
      from = end + 1;
    }
    // What is longer than any line is kept only so far that it is seen to be none.
    rest = bytes.subarray(from, Math.min(bytes.length, from + line_bytes_max));
    if (lines.length > 0) yield lines;
  }
  if (rest.length > 0) yield [{ bytes: rest, number: number + 1, ended: false }];
}

/** All lines of a small file. */
export async function allLinesOf(files: AuditFiles, name: string): Promise<FileLine[]> {
  const all: FileLine[] = [];
  if (files.names.includes(name)) for await (const lines of linesOf(files, name)) all.push(...lines);
  return all;
}

const lineFeed = 0x0a;
const chunk_bytes = 1024 * 1024;
/** The header of a segment grows by 67 bytes a segment. */
const line_bytes_max = 16 * 1024 * 1024;

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter(entry => entry.isFile())
      .map(entry => entry.name)
      .sort();
  } catch (cause) {
    throw new KeyslotError('AUDIT_RECORD_UNKNOWN', `There is no audit log at ${folder}.`, { cause });
  }
}

import { readdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { DurableFile, type FileSeam, newDurableFile, openLogFile } from './log-file.ts';
import { NoteError, noteHash, originOf, parseNote, zeroHash } from './note.ts';
import { eachLine, tampered } from './reader.ts';
import { checkpointsFirst, checkpointsFirstOf, checkpointsName } from './segment.ts';

/**
 * The checkpoints of a log, one JSON object a line, in a file beside the segment that holds their last record.
 * A checkpoint is durable here before anybody else hears of it.
 */
export class CheckpointFiles {
  readonly #folder: string;
  readonly #seam: FileSeam | undefined;
  #file: { readonly first: number; readonly durable: DurableFile } | undefined;
  #newest: StoredCheckpoint | undefined;

  private constructor(folder: string, seam: FileSeam | undefined) {
    this.#folder = folder;
    this.#seam = seam;
  }

  /** Cuts off a line that was never finished, and so never given to anybody. AUDIT_TAMPERED for any other flaw. */
  static async open(folder: string, node: string, seam: FileSeam | undefined): Promise<CheckpointFiles> {
    const files = new CheckpointFiles(folder, seam);
    const firsts = await files.#firsts();
    for (const first of firsts.toReversed()) {
      await files.#recover(first, originOf(node));
      if (files.#newest) break; // a file without a whole line is gone now: the process ended while it made it
    }
    return files;
  }

  get newest(): StoredCheckpoint | undefined {
    return this.#newest;
  }

  /** What the next checkpoint's `previous` says. */
  get previous(): string {
    return this.#newest ? noteHash(this.#newest.note) : zeroHash;
  }

  /** AUDIT_UNAVAILABLE, AUDIT_FAILED. One call at a time. */
  async add(checkpoint: StoredCheckpoint, records: number): Promise<void> {
    const first = checkpointsFirstOf(checkpoint.size, records);
    const line = Buffer.from(`${JSON.stringify({ note: checkpoint.note })}\n`, 'utf8');
    if (this.#file?.first === first) await this.#file.durable.append(line);
    else await this.#begin(first, line);
    this.#newest = checkpoint;
  }

  /** Notes of at least this size, in their order, at most so many. */
  async list(from: number, limit: number, records: number): Promise<readonly string[]> {
    const found: string[] = [];
    for (const first of await this.#firsts()) {
      if (found.length >= limit) break;
      if (first + records < from) continue;
      await eachLine(join(this.#folder, checkpointsName(first)), line => {
        if (found.length >= limit) return;
        const stored = parseStored(line.toString('utf8'));
        if (stored && stored.size >= from) found.push(stored.note);
      });
    }
    return found;
  }

  /** The files of checkpoints whose records are all below a seq. */
  async filesBelow(seq: number, records: number): Promise<readonly string[]> {
    const firsts = await this.#firsts();
    return firsts.filter(first => first + records <= seq).map(checkpointsName);
  }

  async close(): Promise<void> {
    await this.#file?.durable.close();
    this.#file = undefined;
  }

  async #firsts(): Promise<readonly number[]> {
    const names = await readdir(this.#folder);
    return names
      .map(checkpointsFirst)
      .filter(first => first !== undefined)
      .sort((a, b) => a - b);
  }

  async #recover(first: number, origin: string): Promise<void> {
    const path = join(this.#folder, checkpointsName(first));
    let number = 0;
    let end = 0;
    let unparsed: { line: number; start: number } | undefined;
    const tail = await eachLine(path, line => {
      number += 1;
      if (unparsed) throw tampered(path, unparsed.line, 'is no checkpoint');
      const stored = parseStored(line.toString('utf8'));
      if (!stored) unparsed = { line: number, start: end };
      else if (stored.origin !== origin) throw tampered(path, number, 'is of another log');
      else if (this.#newest && stored.size <= this.#newest.size) throw tampered(path, number, 'goes back');
      this.#newest = stored ?? this.#newest;
      end += line.length + 1;
    });
    const whole_bytes = unparsed?.start ?? tail.start;
    if (whole_bytes === 0) {
      await unlink(path);
      return;
    }
    const file = await openLogFile(path, 'existing', this.#seam);
    if (tail.start + tail.bytes > whole_bytes) {
      await file.truncate(whole_bytes);
      await file.datasync();
    }
    this.#file = { first, durable: new DurableFile(path, file, whole_bytes) };
  }

  async #begin(first: number, line: Buffer): Promise<void> {
    const path = join(this.#folder, checkpointsName(first));
    const durable = await newDurableFile(this.#folder, path, line, this.#seam);
    await this.close();
    this.#file = { first, durable };
  }
}

export interface StoredCheckpoint {
  readonly note: string;
  readonly origin: string;
  readonly size: number;
  readonly root: Buffer;
  readonly chain: string;
  readonly signed: boolean;
}

/** The checkpoint of a note, or `undefined` when it is none of ours. */
export function storedCheckpoint(note: string): StoredCheckpoint | undefined {
  try {
    const { checkpoint, signatures } = parseNote(note);
    const { origin, size, root, chain } = checkpoint;
    return { note, origin, size, root, chain, signed: signatures.length > 0 };
  } catch (error) {
    if (error instanceof NoteError) return undefined;
    throw error;
  }
}

/** A line `{"note":"…"}`, as checkpoint files and file witnesses have it. */
export function parseStored(line: string): StoredCheckpoint | undefined {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value !== 'object' || value === null || !('note' in value)) return undefined;
    return typeof value.note === 'string' ? storedCheckpoint(value.note) : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

import * as fs from 'node:fs';
import { unlink } from 'node:fs/promises';
import { promisify } from 'node:util';
import { KeyslotError } from '../foundation/errors.ts';

/** A file as the log uses it. The callbacks of `node:fs` and not its FileHandle, which costs more a call. */
export interface LogFile {
  /** All of the bytes, at this place. */
  write(bytes: Uint8Array, position: number): Promise<void>;
  datasync(): Promise<void>;
  truncate(length: number): Promise<void>;
  close(): Promise<void>;
}

/** Sees every file that the log writes to, and may put itself in front of it. */
export type FileSeam = (file: LogFile, path: string) => LogFile;

/** A new file (EEXIST when there is one) or an existing one (ENOENT when there is none), never a symbolic link. */
export async function openLogFile(path: string, kind: 'new' | 'existing', seam?: FileSeam): Promise<LogFile> {
  const { O_CREAT, O_EXCL, O_NOFOLLOW, O_RDWR } = fs.constants;
  const flags = O_RDWR | O_NOFOLLOW | (kind === 'new' ? O_CREAT | O_EXCL : 0);
  const file = new RawFile(await openFile(path, flags, 0o600));
  return seam ? seam(file, path) : file;
}

/**
 * A file that only grows, and of which is known how far it is durable. What does not fit leaves no trace:
 * AUDIT_UNAVAILABLE, with the file cut back to its durable length, and the same bytes may be tried again. After
 * every other failure nobody knows what is on the disk (a failed fsync is never repeated: the system may have
 * dropped what it could not write): AUDIT_FAILED, then and for ever.
 */
export class DurableFile {
  readonly path: string;
  readonly #file: LogFile;
  #length: number;
  #failed: KeyslotError | undefined;

  constructor(path: string, file: LogFile, length: number) {
    this.path = path;
    this.#file = file;
    this.#length = length;
  }

  get length(): number {
    return this.#length;
  }

  /** Durable when this resolves. One call at a time. AUDIT_UNAVAILABLE, AUDIT_FAILED. */
  async append(bytes: Uint8Array): Promise<void> {
    if (this.#failed) throw this.#failed;
    try {
      await this.#file.write(bytes, this.#length);
    } catch (cause) {
      if (!isFull(cause)) throw this.#fail('written', cause);
      await this.#cutBack();
      throw noRoom(this.path, cause);
    }
    try {
      await this.#file.datasync();
    } catch (cause) {
      throw this.#fail('synced', cause);
    }
    this.#length += bytes.length;
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  async #cutBack(): Promise<void> {
    try {
      await this.#file.truncate(this.#length);
    } catch (cause) {
      throw this.#fail('cut back', cause);
    }
  }

  #fail(what: string, cause: unknown): KeyslotError {
    this.#failed = failedFile(this.path, what, cause);
    return this.#failed;
  }
}

/**
 * A new file with its first bytes; they are durable, and so is its name. What does not fit leaves no file behind.
 * AUDIT_UNAVAILABLE, AUDIT_FAILED.
 */
export async function newDurableFile(
  folder: string,
  path: string,
  bytes: Uint8Array,
  seam: FileSeam | undefined,
): Promise<DurableFile> {
  const file = await openedNew(path, seam);
  try {
    await file.append(bytes);
    await syncFolder(folder);
    return file;
  } catch (error) {
    if (!(error instanceof KeyslotError)) throw failedFile(folder, 'synced', error);
    if (error.code === 'AUDIT_UNAVAILABLE') await removed(path, file);
    throw error;
  }
}

/** Makes the entries of a folder durable: a file that was made or removed in it. */
export async function syncFolder(path: string): Promise<void> {
  const folder = new RawFile(await openFile(path, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY, 0));
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** No room now, and maybe room later: the disk, the user's quota, the size that a file may have. */
export const isFull = (error: unknown): boolean => ['ENOSPC', 'EDQUOT', 'EFBIG'].includes(errnoOf(error));

export const errnoOf = (error: unknown): string =>
  error instanceof Error && 'code' in error ? String(error.code) : 'unknown';

export const noRoom = (path: string, cause: unknown): KeyslotError =>
  new KeyslotError('AUDIT_UNAVAILABLE', `There is no room to write ${path} (${errnoOf(cause)}).`, {
    cause,
    retryAfter_s: 5,
  });

export const failedFile = (path: string, what: string, cause: unknown): KeyslotError =>
  new KeyslotError('AUDIT_FAILED', `${path} could not be ${what} (${errnoOf(cause)}).`, { cause });

async function openedNew(path: string, seam: FileSeam | undefined): Promise<DurableFile> {
  try {
    return new DurableFile(path, await openLogFile(path, 'new', seam), 0);
  } catch (cause) {
    // Too many open files is as passing as a full disk: nothing was written.
    const passing = isFull(cause) || ['EMFILE', 'ENFILE'].includes(errnoOf(cause));
    throw passing ? noRoom(path, cause) : failedFile(path, 'made', cause);
  }
}

async function removed(path: string, file: DurableFile): Promise<void> {
  try {
    await file.close();
    await unlink(path);
  } catch (cause) {
    throw failedFile(path, 'removed', cause);
  }
}

class RawFile implements LogFile {
  readonly #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  write(bytes: Uint8Array, position: number): Promise<void> {
    return new Promise((resolve, reject) => {
      // A disk that fills up, or a limit on the size of a file, takes a part first and fails at the next try.
      const from = (done: number): void =>
        fs.write(this.#fd, bytes, done, bytes.length - done, position + done, (error, written) => {
          if (error) reject(error);
          else if (written === 0) reject(new Error('The file took nothing and said nothing.'));
          else if (done + written === bytes.length) resolve();
          else from(done + written);
        });
      from(0);
    });
  }

  datasync(): Promise<void> {
    return new Promise((resolve, reject) =>
      fs.fdatasync(this.#fd, error => (error ? reject(error) : resolve())),
    );
  }

  sync(): Promise<void> {
    return new Promise((resolve, reject) => fs.fsync(this.#fd, error => (error ? reject(error) : resolve())));
  }

  truncate(length: number): Promise<void> {
    return new Promise((resolve, reject) =>
      fs.ftruncate(this.#fd, length, error => (error ? reject(error) : resolve())),
    );
  }

  close(): Promise<void> {
    return new Promise((resolve, reject) => fs.close(this.#fd, error => (error ? reject(error) : resolve())));
  }
}

const openFile = promisify(fs.open);

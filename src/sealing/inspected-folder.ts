import { constants } from 'node:fs';
import { type FileHandle, lstat, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { KeyslotError } from '../foundation/errors.ts';
import type { HeaderFolder } from './keyslot-form.ts';

/**
 * A folder of key files that is looked at and never changed. Unlike a `KeyFolder` it takes files of every mode
 * and owner, and counts those that others can read or replace. Symbolic links are not followed.
 */
export class InspectedFolder implements HeaderFolder {
  readonly path: string;
  readonly #loose = new Set<string>();

  constructor(path: string) {
    this.path = path;
  }

  /** How many of the files read so far others than their owner can read or change. */
  get loose(): number {
    return this.#loose.size;
  }

  /** Names of everything but folders. HOME_INVALID when it is no folder or cannot be read. */
  async list(): Promise<readonly string[]> {
    try {
      const entries = await readdir(this.path, { withFileTypes: true });
      return entries.filter(entry => !entry.isDirectory()).map(entry => entry.name);
    } catch (cause) {
      throw new KeyslotError('HOME_INVALID', `${this.path} cannot be read as a folder.`, { cause });
    }
  }

  async has(name: string): Promise<boolean> {
    try {
      await lstat(join(this.path, name));
      return true;
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return false;
      throw unsafe(name, 'cannot be looked at', error);
    }
  }

  /** KEY_FILE_UNSAFE for what is no plain file, KEY_FILE_MALFORMED for what is too large to be a key file. */
  async read(name: string): Promise<Buffer | undefined> {
    let file: FileHandle;
    try {
      const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK; // a FIFO would wait for ever
      file = await open(join(this.path, name), flags);
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return undefined;
      throw unsafe(name, codeOf(error) === 'ELOOP' ? 'is a symbolic link' : 'cannot be opened', error);
    }
    await using _ = file;
    const found = await file.stat();
    if (!found.isFile()) throw unsafe(name, 'is not a file');
    if ((found.mode & 0o077) !== 0) this.#loose.add(name);
    if (found.size > file_bytes_max) {
      throw new KeyslotError('KEY_FILE_MALFORMED', `${name} has ${found.size} bytes: that is no key file.`);
    }
    return await file.readFile();
  }

  /** Nothing is made in a folder that is looked at. */
  create(name: string): Promise<void> {
    return Promise.reject(new KeyslotError('KEY_FILE_UNWRITABLE', `${name} is not made by an inspection.`));
  }
}

const file_bytes_max = 64 * 1024;

const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? 'unknown';

const unsafe = (name: string, what: string, cause?: unknown) =>
  new KeyslotError('KEY_FILE_UNSAFE', `${name} ${what}.`, { cause });

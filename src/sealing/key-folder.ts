import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, link, lstat, mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { KeyslotError } from '../foundation/errors.ts';

/**
 * The key files of one slot. A file is there whole or not at all, whatever kills the process or the power: it
 * is written beside its place, synced, put in place in one step, and the folder is synced too. Only its owner
 * may read a file (0600) or enter the folder (0700); looser ones are refused and never mended silently, because
 * somebody may have read or replaced what is in them. Symbolic links are not followed.
 */
export class KeyFolder {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /**
   * Makes the folder when it is missing, and sweeps what interrupted writes left behind. KEY_FILE_UNSAFE,
   * KEY_FILE_UNWRITABLE.
   */
  static async open(path: string): Promise<KeyFolder> {
    await writing(path, () => makeFolder(path));
    const found = await lstat(path);
    if (!found.isDirectory()) throw unsafe(path, 'is not a folder');
    refuseLoose(path, found);
    const folder = new KeyFolder(path);
    await folder.#sweep();
    return folder;
  }

  /** Names of all that is there, files or not, in no particular order. KEY_FILE_UNSAFE. */
  async list(): Promise<readonly string[]> {
    try {
      return await readdir(this.path);
    } catch (error) {
      throw unsafe(this.path, 'cannot be read', error);
    }
  }

  async has(name: string): Promise<boolean> {
    try {
      await lstat(this.#pathOf(name));
      return true;
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return false;
      throw unsafe(this.#pathOf(name), 'cannot be looked at', error);
    }
  }

  /** The content, or nothing when there is no such file. KEY_FILE_UNSAFE, KEY_FILE_MALFORMED when it is too large. */
  async read(name: string): Promise<Buffer | undefined> {
    const path = this.#pathOf(name);
    let file: FileHandle;
    try {
      // O_NONBLOCK: opening a FIFO that somebody put there would wait for ever.
      file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return undefined;
      if (codeOf(error) === 'ELOOP') throw unsafe(path, 'is a symbolic link');
      throw unsafe(path, 'cannot be opened', error);
    }
    await using _ = file;
    const found = await file.stat();
    if (!found.isFile()) throw unsafe(path, 'is not a file');
    refuseLoose(path, found);
    if (found.size > file_bytes_max) {
      throw new KeyslotError('KEY_FILE_MALFORMED', `${path} has ${found.size} bytes: that is no key file.`);
    }
    return await file.readFile();
  }

  /** A new file, durable when this resolves. KEY_EXISTS, KEY_FILE_UNWRITABLE. */
  async create(name: string, content: Uint8Array): Promise<void> {
    const path = this.#pathOf(name);
    await writing(path, async () => {
      // Whoever opens the folder meanwhile sweeps away what is being written: then it is written again.
      for (let left = 3; !(await this.#place(path, content)); left -= 1) {
        if (left === 0) throw new KeyslotError('KEY_FILE_UNWRITABLE', `${path} was swept away each time.`);
      }
    });
  }

  /** Removes the file for ever; one that is not there is removed already. KEY_FILE_UNWRITABLE. */
  async remove(name: string): Promise<void> {
    const path = this.#pathOf(name);
    await writing(path, async () => {
      await rm(path, { force: true });
      await synced(this.path);
    });
  }

  /** Gives the file another name in this folder or in one below it, in one step. KEY_FILE_UNWRITABLE. */
  async move(from: string, to: string, below?: KeyFolder): Promise<void> {
    const target = below ?? this;
    const path = this.#pathOf(from);
    await writing(path, async () => {
      try {
        await rename(path, target.#pathOf(to));
      } catch (error) {
        // Somebody else has moved it there meanwhile: then it is where it should be.
        if (codeOf(error) !== 'ENOENT' || !(await target.has(to))) throw error;
      }
      await synced(target.path);
      await synced(this.path);
    });
  }

  #pathOf(name: string): string {
    if (name === '' || name.includes('/') || name.includes('\0') || name === '.' || name === '..') {
      throw new KeyslotError('KEY_ID_INVALID', 'A file name has no separators.');
    }
    return join(this.path, name);
  }

  /** False when what was written was gone before it had its name. */
  async #place(path: string, content: Uint8Array): Promise<boolean> {
    const written = await this.#write(content);
    let placed = false;
    try {
      await link(written, path); // unlike a rename, it never replaces a file that is there
      placed = true;
      await synced(this.path);
      return true;
    } catch (error) {
      if (codeOf(error) === 'EEXIST') throw new KeyslotError('KEY_EXISTS', `${path} exists.`);
      if (codeOf(error) === 'ENOENT' && !placed) return false;
      if (placed) await rm(path, { force: true });
      throw error;
    } finally {
      await rm(written, { force: true });
    }
  }

  /** The content beside its place, synced to the disk. */
  async #write(content: Uint8Array): Promise<string> {
    const path = join(this.path, `${leftover}${randomBytes(8).toString('hex')}`);
    try {
      await using file = await open(path, 'wx', 0o600);
      await file.writeFile(content);
      await file.sync();
    } catch (error) {
      await rm(path, { force: true });
      throw error;
    }
    return path;
  }

  async #sweep(): Promise<void> {
    for (const name of await this.list()) {
      if (!name.startsWith(leftover)) continue;
      try {
        await rm(join(this.path, name), { force: true });
      } catch (error) {
        // A leftover does no harm, and the keys of a folder that cannot be written go on signing.
        if (!unremovable.has(codeOf(error))) throw unsafe(join(this.path, name), 'cannot be removed', error);
      }
    }
  }
}

/** How the files begin that are being written; no key id begins so. */
const leftover = '.keyslot-writing-';
const unremovable: ReadonlySet<string> = new Set(['EROFS', 'EACCES', 'EPERM']);
const file_bytes_max = 64 * 1024;

function refuseLoose(path: string, { mode, uid }: { mode: number; uid: number }): void {
  if (uid !== process.geteuid?.()) throw unsafe(path, 'belongs to another user');
  if ((mode & 0o077) !== 0) throw unsafe(path, `has mode ${(mode & 0o777).toString(8)}`);
}

/** With its parents, each entry durable. Not `recursive: true`: below /proc that never comes back. */
async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o700 });
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return;
    if (codeOf(error) !== 'ENOENT' || dirname(path) === path) throw error;
    await makeFolder(dirname(path));
    await mkdir(path, { mode: 0o700 });
  }
  await synced(dirname(path));
}

async function synced(path: string): Promise<void> {
  await using folder = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  await folder.sync();
}

/** Whatever the file system refuses while something is written becomes KEY_FILE_UNWRITABLE. */
async function writing<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (cause instanceof KeyslotError) throw cause;
    throw new KeyslotError('KEY_FILE_UNWRITABLE', `${path} cannot be written (${codeOf(cause)}).`, { cause });
  }
}

const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? 'unknown';

const unsafe = (path: string, what: string, cause?: unknown) =>
  new KeyslotError('KEY_FILE_UNSAFE', `${path} ${what}.`, { cause });

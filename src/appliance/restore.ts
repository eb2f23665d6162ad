import { createHash, randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, lstat, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { KeyslotError } from '../foundation/errors.ts';
import { Secret } from '../foundation/secret.ts';
import { type ArchiveEntry, readArchive } from './backup-archive.ts';
import { elsewhere } from './backup-contents.ts';
import { errnoOf, explained } from './backup-failure.ts';
import {
  type BackupManifest,
  files_max,
  manifest_bytes_max,
  manifestEntry,
  parseManifest,
} from './backup-manifest.ts';

/**
 * Reads a whole backup and holds every file against its hash; writes nothing. BACKUP_UNREADABLE, BACKUP_INVALID,
 * REQUEST_ABORTED.
 */
export const inspectBackup = (options: ReadOptions): Promise<Restored> => readBackup(options, undefined);

/**
 * Restores a backup into a state folder that does not exist yet or is empty. It appears there when every file was
 * written, synced and found to be what the manifest says; until then, and when anything goes wrong, nothing does.
 * HOME_INVALID when something is there already, and as `inspectBackup`; BACKUP_FAILED when there is no room.
 */
export async function restoreBackup(options: ReadOptions & { readonly into: string }): Promise<Restored> {
  const into = resolve(options.into);
  await refuseOccupied(into);
  const draft = `${into}.${randomBytes(4).toString('hex')}.part`;
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(draft, { recursive: true, force: true }));
  try {
    await mkdir(draft, { mode: 0o700 });
    const restored = await readBackup(options, draft);
    await rename(draft, into); // takes the place of an empty folder, and of nothing else
    await synced(dirname(into));
    return restored;
  } catch (thrown) {
    throw explained(thrown, into, options.signal);
  }
}

export interface ReadOptions {
  readonly archive: string;
  /** The content of an identity file of age. */
  readonly identities: Secret;
  readonly signal?: AbortSignal | undefined;
  readonly progress?: ((done_bytes: number, of_bytes: number) => void) | undefined;
}

export interface Restored {
  readonly manifest: BackupManifest;
  /** Of the archive, in hexadecimal. */
  readonly sha256: string;
  /** Files that were outside the state folder and are not put there: by their name in the restored one. */
  readonly outside: readonly string[];
}

/** What opens backups, which nobody but its owner may read. SECRET_UNREADABLE. */
export async function readIdentities(path: string): Promise<Secret> {
  const unreadable = (what: string, cause?: unknown) =>
    new KeyslotError('SECRET_UNREADABLE', `The identity file ${path} ${what}.`, { cause });
  let content: Buffer;
  try {
    const { mode } = await stat(path);
    if ((mode & 0o077) !== 0) throw unreadable(`has mode ${(mode & 0o777).toString(8)}`);
    content = await readFile(path);
  } catch (cause) {
    if (cause instanceof KeyslotError) throw cause;
    throw unreadable('cannot be read', cause);
  }
  return Secret.fromBytes(content, { wipe: true });
}

async function readBackup(
  { archive, identities, signal, progress }: ReadOptions,
  into: string | undefined,
): Promise<Restored> {
  await using file = await openedArchive(archive);
  const { size } = await file.stat();
  const found = new Map<string, Found>();
  let manifest: BackupManifest | undefined;
  const options = { signal, progress: (done: number) => progress?.(done, size) };
  for await (const entry of readArchive(file, identities, options)) {
    if (manifest) throw invalid('Something follows its manifest.');
    if (entry.name === manifestEntry) manifest = parseManifest(await textOf(entry));
    else if (found.size >= files_max) throw invalid(`It has more than ${files_max} files.`);
    else found.set(entry.name, into ? await write(entry, into) : await digested(entry));
  }
  if (!manifest) throw invalid('It has no manifest: it was cut off, or is of another program.');
  refuseDifferences(manifest, found);
  if (into) await syncFolders(into, found.keys());
  return {
    manifest,
    sha256: await hashOf(file),
    outside: [...found.keys()].filter(name => name.startsWith(`${elsewhere}/`)),
  };
}

interface Found {
  readonly bytes: number;
  readonly sha256: string;
}

/** Every file that the manifest names is there as it was, and nothing else is. */
function refuseDifferences(manifest: BackupManifest, found: ReadonlyMap<string, Found>): void {
  for (const { name, bytes, sha256 } of manifest.files) {
    const here = found.get(name);
    if (!here) throw invalid(`${name} is missing in it.`);
    if (here.bytes !== bytes || here.sha256 !== sha256) throw invalid(`${name} is not what was backed up.`);
  }
  if (new Set(manifest.files.map(({ name }) => name)).size !== found.size) {
    throw invalid('It has files that its manifest does not name.');
  }
}

async function write(entry: ArchiveEntry, into: string): Promise<Found> {
  const path = join(into, entry.name);
  await makeFolders(into, dirname(path));
  await using file = await newFile(path);
  const found = await digested(entry, async piece => file.appendFile(piece));
  await file.sync();
  return found;
}

async function digested(
  { bytes, body }: ArchiveEntry,
  write?: (piece: Uint8Array) => Promise<void>,
): Promise<Found> {
  const sha256 = createHash('sha256');
  for await (const piece of body) {
    sha256.update(piece);
    await write?.(piece);
  }
  return { bytes, sha256: sha256.digest('hex') };
}

async function textOf({ bytes, body }: ArchiveEntry): Promise<string> {
  if (bytes > manifest_bytes_max) throw invalid('Its manifest is too large.');
  const pieces: Uint8Array[] = [];
  for await (const piece of body) pieces.push(piece);
  return Buffer.concat(pieces).toString('utf8');
}

/** Private, as the folders of a state folder are; a file where a folder has to be is an archive that lies. */
async function makeFolders(top: string, folder: string): Promise<void> {
  if (folder === top) return;
  await makeFolders(top, dirname(folder));
  try {
    await mkdir(folder, { mode: 0o700 });
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error;
    if (!(await lstat(folder)).isDirectory()) throw invalid('One of its files is also a folder.');
  }
}

async function newFile(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'wx', 0o600);
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') throw invalid('One of its files is also a folder, or there twice.');
    throw error;
  }
}

async function syncFolders(into: string, names: Iterable<string>): Promise<void> {
  const folders = new Set([into]);
  for (const name of names) {
    for (let folder = dirname(join(into, name)); !folders.has(folder); folder = dirname(folder)) {
      folders.add(folder);
    }
  }
  for (const folder of folders) await synced(folder);
}

async function synced(folder: string): Promise<void> {
  await using handle = await open(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  await handle.sync();
}

async function refuseOccupied(into: string): Promise<void> {
  try {
    if ((await readdir(into)).length === 0) return;
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') return;
    throw new KeyslotError('HOME_INVALID', `${into} is not a folder that can be read.`, { cause });
  }
  throw new KeyslotError('HOME_INVALID', `${into} is not empty: a backup is restored into a new folder.`);
}

async function openedArchive(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r');
  } catch (cause) {
    throw new KeyslotError('BACKUP_INVALID', `${path} cannot be read.`, { cause });
  }
}

async function hashOf(file: FileHandle): Promise<string> {
  const sha256 = createHash('sha256');
  for await (const piece of file.createReadStream({ start: 0, autoClose: false })) sha256.update(piece);
  return sha256.digest('hex');
}

const invalid = (what: string) => new KeyslotError('BACKUP_INVALID', what);

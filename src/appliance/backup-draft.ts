import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { encodeBase58 } from '../foundation/base58.ts';
import { countedRecords, type RegisteredKey, registeredKeys } from '../store/snapshot.ts';
import { ArchiveWriter } from './backup-archive.ts';
import {
  type Extent,
  headOf,
  isAuditFile,
  isCheckpoints,
  isSegment,
  isSmallAuditFile,
  noteOf,
  wholeFile,
  wholeLines,
} from './backup-audit.ts';
import {
  archiveName,
  type BackedUp,
  broughtSeparately,
  configurationFiles,
  keyFiles,
} from './backup-contents.ts';
import { aborted, errnoOf, failed } from './backup-failure.ts';
import { type BackupManifest, files_max, manifestEntry } from './backup-manifest.ts';
import { type Config, inHome } from './config.ts';

/** The archive while it is written. */
export class BackupDraft {
  readonly #config: Config;
  readonly #options: BackupOptions;
  readonly #path: string;
  readonly #files: BackupManifest['files'] = [];
  #done_bytes = 0;
  #of_bytes = 0;

  constructor(config: Config, options: BackupOptions, path: string) {
    this.#config = config;
    this.#options = options;
    this.#path = path;
  }

  async write(store: string, snapshot: string): Promise<Backup> {
    const { recipients, signal } = this.#options;
    await using file = await open(this.#path, 'wx', 0o600);
    const sha256 = createHash('sha256');
    let bytes = 0;
    const archive = await ArchiveWriter.begin(
      recipients,
      async piece => {
        if (signal?.aborted) throw aborted();
        await file.appendFile(piece);
        sha256.update(piece);
        bytes += piece.length;
      },
      signal,
    );
    try {
      const manifest = await this.#fill(archive, store, snapshot);
      await archive.finish();
      await file.sync();
      return { manifest, bytes, sha256: sha256.digest('hex') };
    } catch (thrown) {
      await archive.abandon(thrown);
      throw thrown;
    }
  }

  async #fill(archive: ArchiveWriter, store: string, snapshot: string): Promise<BackupManifest> {
    const config = this.#config;
    const { files: configuration, left } = await configurationFiles(config);
    const keys = registeredKeys(snapshot);
    const audit = inHome(config, config.audit.folder);
    const sealed = await keyFiles(config);
    this.#of_bytes = await sizeOf([
      snapshot,
      ...sealed.map(({ path }) => path),
      ...(await namesIn(audit, isAuditFile)).map(name => join(audit, name)),
    ]);

    await this.#addAll(archive, configuration);
    await this.#add(archive, { name: storeName, path: snapshot });
    await this.#addAll(archive, sealed);
    refuseMoved(keys, registeredKeys(store));
    const counted = countedRecords(snapshot, config.audit.node);
    const head = await this.#addAudit(archive, audit, counted);

    const manifest: BackupManifest = {
      'keyslot-backup': 1,
      version: this.#options.version,
      node: config.audit.node,
      created: new Date().toISOString(),
      home: config.home,
      ...(head ? { audit: head } : {}),
      keys: keys.map(({ publicKey, ...key }) => ({
        ...key,
        ...(publicKey ? { publicKey: encodeBase58(publicKey) } : {}),
      })),
      files: this.#files,
      separately: [...broughtSeparately(config), ...left],
    };
    const text = Buffer.from(JSON.stringify(manifest), 'utf8');
    await archive.add(manifestEntry, text.length, only(text));
    return manifest;
  }

  /** What is small first, then checkpoints, then the records: none of them is ahead of what follows it. */
  async #addAudit(
    archive: ArchiveWriter,
    folder: string,
    counted: number,
  ): Promise<BackupManifest['audit'] | undefined> {
    let checkpoint: Buffer | undefined;
    let last: Buffer | undefined;
    for (const name of await namesIn(folder, isSmallAuditFile)) await this.#addLines(archive, folder, name);
    for (const name of await namesIn(folder, isCheckpoints)) {
      checkpoint = (await this.#addLines(archive, folder, name)) ?? checkpoint;
    }
    for (const name of await namesIn(folder, isSegment)) {
      last = (await this.#addLines(archive, folder, name)) ?? last;
    }
    const head = last && headOf(last);
    if ((head?.size ?? 0) < counted) {
      throw failed(
        `the audit log has ${head?.size ?? 0} records, but the store has counted ${counted} of them`,
      );
    }
    return head && { ...head, counted, ...(checkpoint ? { checkpoint: noteOf(checkpoint) } : {}) };
  }

  /** A file of the log up to its last whole line, which is returned. */
  async #addLines(archive: ArchiveWriter, folder: string, name: string): Promise<Buffer | undefined> {
    const path = join(folder, name);
    const file = { name: archiveName(this.#config.home, path), path };
    return await this.#add(archive, file, name.endsWith('.jsonl') ? wholeLines : wholeFile);
  }

  async #addAll(archive: ArchiveWriter, files: readonly BackedUp[]): Promise<void> {
    for (const file of files) await this.#add(archive, file);
  }

  async #add(
    archive: ArchiveWriter,
    { name, path }: BackedUp,
    extent: Extent = wholeFile,
  ): Promise<Buffer | undefined> {
    if (this.#files.length >= files_max) throw failed(`there are more than ${files_max} files`);
    await using file = await opened(path);
    const { bytes, last } = await extent(file);
    const sha256 = await archive.add(name, bytes, this.#counting(pieces(file, bytes, path)));
    this.#files.push({ name, bytes, sha256 });
    return last;
  }

  async *#counting(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const piece of body) {
      if (this.#options.signal?.aborted) throw aborted();
      this.#done_bytes += piece.length;
      this.#options.progress?.(
        Math.min(this.#done_bytes, this.#of_bytes),
        Math.max(this.#done_bytes, this.#of_bytes),
      );
      yield piece;
    }
  }
}

export interface BackupOptions {
  readonly output: string;
  /** Public keys of which `isRecipient` holds. */
  readonly recipients: readonly string[];
  /** Of this Keyslot. */
  readonly version: string;
  readonly signal?: AbortSignal | undefined;
  readonly progress?: ((done_bytes: number, of_bytes: number) => void) | undefined;
}

export interface Backup {
  readonly manifest: BackupManifest;
  readonly bytes: number;
  /** Of the archive, in hexadecimal: kept elsewhere, it tells this backup from another one. */
  readonly sha256: string;
}

const storeName = 'state/keyslot.db';

/** A key that was moved or destroyed while its file was copied may be nowhere in the copy. */
function refuseMoved(before: readonly RegisteredKey[], now: readonly RegisteredKey[]): void {
  const places = new Map(now.map(key => [key.id, key]));
  const moved = before.find(({ id, slot, state }) => {
    const found = places.get(id);
    return found?.slot !== slot || (found.state === 'destroyed' && state !== 'destroyed');
  });
  if (moved) throw failed(`the key ${moved.id} was moved or removed meanwhile`);
}

async function namesIn(folder: string, wanted: (name: string) => boolean): Promise<readonly string[]> {
  try {
    return (await readdir(folder)).filter(wanted).sort();
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') return [];
    throw failed(`${folder} cannot be read`, cause);
  }
}

async function sizeOf(paths: readonly string[]): Promise<number> {
  let bytes = 0;
  for (const path of paths) bytes += (await stat(path).catch(ignoreGone))?.size ?? 0;
  return bytes;
}

function ignoreGone(error: unknown): undefined {
  if (errnoOf(error) !== 'ENOENT') throw error;
}

/** Symbolic links are followed nowhere but in the configuration, where the appliance follows them too. */
async function opened(path: string): Promise<FileHandle> {
  try {
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    if ((await file.stat()).isFile()) return file;
    await file.close();
  } catch (cause) {
    throw failed(`${path} cannot be read, or has gone meanwhile`, cause);
  }
  throw failed(`${path} is not a file`);
}

async function* pieces(file: FileHandle, bytes: number, path: string): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes; ) {
    const wanted = Math.min(piece_bytes, bytes - at);
    const { bytesRead, buffer } = await file.read(new Uint8Array(wanted), 0, wanted, at);
    if (bytesRead === 0) throw failed(`${path} became shorter meanwhile`);
    at += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

const piece_bytes = 256 * 1024;

async function* only(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

import { constants } from 'node:fs';
import { lstat, mkdtemp, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout } from 'node:timers/promises';
import type { Adoptable, AdoptionSource } from '../custodian/adoption.ts';
import { isId, type KeyId } from '../custody/ids.ts';
import { isKeyslotError, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import { KeyFolder } from '../sealing/key-folder.ts';

/**
 * The data folder of the agentic-wallet program, to be taken into a slot: its key files in `keys/` and what it
 * wrote down of them in `wallet-engine.sqlite`. Nothing in it is changed, made or locked, not even while the
 * other program runs: the database is copied with its WAL, and the copy is read.
 *
 * CONFIG_INVALID when the folder or its database cannot be read: keys whose addresses cannot be checked are not
 * adopted. A single file that is wrong is said in the log and left alone.
 */
export async function adoptionSource(options: {
  /** The data folder of the other program. */
  from: string;
  /** Where its database is, if not under its name in that folder. */
  database?: string | undefined;
  /** What the names of the slot's key files end with. */
  suffix: string;
  /** Where the slot keeps its own. */
  folder: string;
  log: Log;
}): Promise<AdoptionSource> {
  const { from, database = join(from, databaseName), suffix, folder, log } = options;
  const [rows, files] = await reading(from, async () => {
    if (!(await stat(from)).isDirectory()) throw new Error('not a folder');
    return [await readRows(from, database), await keyFiles(join(from, 'keys'), suffix, log)] as const;
  });
  warnOfReaders(files, from, log);
  const wallets: Adoptable[] = [];
  for (const file of files) {
    try {
      wallets.push(await adoptable(file, rows.get(file.id)));
    } catch (thrown) {
      const { code } = toKeyslotError(thrown);
      log.error({ file: file.path, code, err: thrown }, 'a wallet was not adopted');
    }
  }
  const known = new Set<string>(files.map(({ id }) => id));
  for (const id of rows.keys()) {
    if (!known.has(id))
      log.warn({ key: id, from }, 'a wallet has no key file of this slot and was not adopted');
  }
  const places = new Map(files.map(file => [file.id, file]));
  return { wallets, place: placing(places, folder) };
}

interface KeyFile {
  readonly id: KeyId;
  readonly name: string;
  readonly path: string;
  readonly mode: number;
  readonly changedAt: Date;
}

interface Row {
  readonly publicKey: string;
  readonly createdAt: string;
  readonly label: string | undefined;
}

async function reading<T>(from: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw new KeyslotError('CONFIG_INVALID', `compat.adopt: ${from} cannot be read as a data folder.`, {
      cause,
    });
  }
}

async function keyFiles(folder: string, suffix: string, log: Log): Promise<readonly KeyFile[]> {
  const files: KeyFile[] = [];
  for (const name of await namesIn(folder)) {
    const id = name.slice(0, -suffix.length);
    if (!name.endsWith(suffix) || id.includes('.')) continue;
    const path = join(folder, name);
    const found = await lstat(path);
    if (isId(id) && found.isFile()) {
      files.push({ id: id as KeyId, name, path, mode: found.mode, changedAt: found.mtime });
    } else log.error({ file: path }, 'a key file is a link or has another name than wallets have; it stays');
  }
  return files;
}

async function namesIn(folder: string): Promise<readonly string[]> {
  try {
    return (await readdir(folder)).toSorted();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

function warnOfReaders(files: readonly KeyFile[], from: string, log: Log): void {
  const count = files.filter(({ mode }) => (mode & 0o077) !== 0).length;
  if (count > 0) log.warn({ from, files: count }, 'key files of the adopted folder can be read by others');
}

/** The row knows best; without one, the file itself says when it was made, or the file system does. */
async function adoptable(file: KeyFile, row: Row | undefined): Promise<Adoptable> {
  const { id, changedAt } = file;
  if (!row) return { id, createdAt: dateOf(stated((await contentOf(file)).toString('utf8'))) ?? changedAt };
  const { publicKey, createdAt, label } = row;
  return {
    id,
    publicKey,
    createdAt: dateOf(createdAt) ?? changedAt,
    ...(label === undefined ? {} : { label }),
  };
}

/** The envelopes of kms, hsm and mpc files say when they were made. */
function stated(text: string): unknown {
  try {
    return fieldsOf(JSON.parse(text)).createdAt;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined; // its slot will say by which code it does not open
    throw error;
  }
}

/** Byte for byte and durable; a file of this name that is there already stays. KEY_FILE_UNSAFE, KEY_FILE_UNWRITABLE. */
function placing(files: ReadonlyMap<KeyId, KeyFile>, folder: string): AdoptionSource['place'] {
  let own: KeyFolder | undefined;
  return async id => {
    const file = files.get(id);
    if (!file) throw new TypeError('Only what the source lists can be placed.');
    own ??= await KeyFolder.open(folder);
    try {
      await own.create(file.name, await contentOf(file));
    } catch (thrown) {
      if (!isKeyslotError(thrown) || thrown.code !== 'KEY_EXISTS') throw thrown;
    }
  };
}

/** KEY_FILE_UNSAFE for what is no plain file any more, KEY_FILE_MALFORMED for what is too large to be one. */
async function contentOf({ path }: KeyFile): Promise<Buffer> {
  try {
    await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const found = await file.stat();
    if (!found.isFile()) throw new KeyslotError('KEY_FILE_UNSAFE', `${path} is not a file.`);
    if (found.size > file_bytes_max) {
      throw new KeyslotError('KEY_FILE_MALFORMED', `${path} has ${found.size} bytes: that is no key file.`);
    }
    return await file.readFile();
  } catch (cause) {
    if (cause instanceof KeyslotError) throw cause;
    throw new KeyslotError('KEY_FILE_UNSAFE', `${path} cannot be read.`, { cause });
  }
}

const file_bytes_max = 64 * 1024;

/** By wallet id. From the database, or, when its table is empty or missing, from the older `wallets.json`. */
async function readRows(from: string, database: string): Promise<ReadonlyMap<string, Row>> {
  const rows = (await namesIn(dirname(database))).includes(basename(database))
    ? await databaseRows(database)
    : [];
  if (rows.length > 0) return new Map(rows);
  const names = await namesIn(from);
  return new Map(names.includes(olderStore) ? await olderRows(join(from, olderStore)) : []);
}

const databaseName = 'wallet-engine.sqlite';
const olderStore = 'wallets.json';

/** A copy in a private folder: opening the original, even to read, would write beside it. */
async function databaseRows(database: string): Promise<readonly (readonly [string, Row])[]> {
  const copy = await mkdtemp(join(tmpdir(), 'keyslot-adopt-'));
  try {
    await copyDatabase(database, join(copy, databaseName));
    using opened = new DatabaseSync(join(copy, databaseName));
    const tables = opened.prepare("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'wallets'");
    if (!tables.get()) return [];
    return opened
      .prepare('SELECT * FROM wallets')
      .all()
      .map(row => rowOf(row.id, row.public_key, row.created_at, row.label, payloadOf(row.payload)));
  } finally {
    await rm(copy, { recursive: true, force: true });
  }
}

/**
 * Database and WAL of one moment. Read twice: when both readings are the same, nothing was written from the end of
 * the first one's database to the start of the second one's WAL. While the other program writes, it is tried again.
 */
async function copyDatabase(source: string, target: string): Promise<void> {
  for (let tries = 0; tries < tries_max; tries += 1) {
    const files = await filesOfDatabase(source);
    const again = await filesOfDatabase(source);
    if (files.every((content, at) => content.equals(again[at] ?? empty))) {
      const [content = empty, wal = empty] = files;
      await writeFile(target, content, { mode: 0o600 });
      if (wal.length > 0) await writeFile(`${target}-wal`, wal, { mode: 0o600 });
      return;
    }
    await setTimeout(pause_ms);
  }
  throw new Error('the database is being written all the time');
}

const tries_max = 40;
const pause_ms = 25;
const empty = Buffer.alloc(0);

async function filesOfDatabase(source: string): Promise<readonly Buffer[]> {
  const content = await readFile(source);
  return [content, await readFile(`${source}-wal`).catch(missingAsEmpty)];
}

function missingAsEmpty(error: NodeJS.ErrnoException): Buffer {
  if (error.code === 'ENOENT') return empty;
  throw error;
}

async function olderRows(path: string): Promise<readonly (readonly [string, Row])[]> {
  const { wallets } = fieldsOf(JSON.parse(await readFile(path, 'utf8')));
  if (!Array.isArray(wallets)) throw new Error(`${path} has no list of wallets`);
  return wallets
    .map(fieldsOf)
    .map(({ id, publicKey, createdAt, label }) => rowOf(id, publicKey, createdAt, label, {}));
}

/** The columns, and the payload for what older tables have no column for. */
function rowOf(
  id: unknown,
  publicKey: unknown,
  createdAt: unknown,
  label: unknown,
  payload: Readonly<Record<string, unknown>>,
): readonly [string, Row] {
  const row = {
    publicKey: String(publicKey),
    createdAt: String(createdAt ?? payload.createdAt),
    label: labelOf(label ?? payload.label),
  };
  return [String(id), row];
}

const labelOf = (label: unknown): string | undefined =>
  typeof label === 'string' && label.length >= 1 && label.length <= 128 ? label : undefined;

/** A payload that does not parse loses a label at most; the columns say what matters. */
function payloadOf(text: unknown): Readonly<Record<string, unknown>> {
  try {
    return fieldsOf(JSON.parse(String(text)));
  } catch (error) {
    if (error instanceof SyntaxError) return {};
    throw error;
  }
}

const fieldsOf = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null ? { ...value } : {};

function dateOf(text: unknown): Date | undefined {
  const date = new Date(typeof text === 'string' ? text : Number.NaN);
  return Number.isNaN(date.getTime()) ? undefined : date;
}

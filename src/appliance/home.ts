import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { KeyslotError } from '../foundation/errors.ts';

/**
 * The state folder of a running appliance, taken for this process alone. The lock is SQLite's own on a file, so
 * it ends with the process however the process ends, and no stale lock is ever left to be removed by hand.
 */
export class Home implements Disposable {
  readonly path: string;
  readonly storeFile: string;
  readonly socketFile: string;
  readonly #lock: DatabaseSync;
  readonly #runFolder: string;

  /** HOME_INVALID, HOME_IN_USE. */
  constructor(path: string) {
    this.path = path;
    const state = privateFolder(join(path, 'state'));
    this.#lock = takenLock(join(state, 'appliance.lock'), path);
    this.storeFile = join(state, 'keyslot.db');
    this.#runFolder = runFolder(path);
    this.socketFile = join(this.#runFolder, 'custodian.sock');
    rmSync(this.socketFile, { force: true });
  }

  /** Tells the commands of this machine where the appliance listens. */
  announce(running: Running): void {
    const file = runningFile(this.path);
    writeFileSync(`${file}.new`, JSON.stringify(running), { mode: 0o600 });
    renameSync(`${file}.new`, file);
  }

  [Symbol.dispose](): void {
    rmSync(runningFile(this.path), { force: true });
    rmSync(this.socketFile, { force: true });
    if (!this.#runFolder.startsWith(this.path)) rmSync(this.#runFolder, { recursive: true, force: true });
    this.#lock.close();
  }
}

export interface Running {
  readonly url: string;
  readonly opsUrl: string;
  readonly pid: number;
}

/** What a running appliance announced of itself, if one did. */
export function runningAppliance(home: string): Running | undefined {
  const file = runningFile(home);
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Running) : undefined;
}

const runningFile = (home: string): string => join(home, 'state', 'running.json');

/** A folder that only its owner can enter. HOME_INVALID when it is not, or belongs to somebody else. */
export function privateFolder(path: string): string {
  try {
    makeFolder(path);
    const found = statSync(path);
    if (!found.isDirectory()) throw new KeyslotError('HOME_INVALID', `${path} is not a folder.`);
    if (found.uid !== process.getuid?.()) {
      throw new KeyslotError('HOME_INVALID', `${path} belongs to another user.`);
    }
    if ((found.mode & 0o077) !== 0) chmodSync(path, 0o700);
    return path;
  } catch (cause) {
    if (cause instanceof KeyslotError) throw cause;
    throw new KeyslotError('HOME_INVALID', `${path} cannot be made or entered.`, { cause });
  }
}

/** With its parents. Not `recursive: true`: below /proc that never comes back. */
function makeFolder(path: string): void {
  if (existsSync(path)) return;
  if (dirname(path) !== path) makeFolder(dirname(path));
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error; // somebody else was faster
  }
}

function takenLock(file: string, home: string): DatabaseSync {
  let lock: DatabaseSync | undefined;
  try {
    lock = new DatabaseSync(file, { timeout: 0 });
    lock.exec('PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; CREATE TABLE IF NOT EXISTS held (at TEXT);');
    return lock;
  } catch (cause) {
    if (lock?.isOpen) lock.close();
    const busy = cause instanceof Error && 'errcode' in cause && cause.errcode === sqliteBusy;
    if (busy) throw new KeyslotError('HOME_IN_USE', `Another appliance is using ${home}.`, { cause });
    throw new KeyslotError('HOME_INVALID', `${file} cannot be written.`, { cause });
  }
}

const sqliteBusy = 5; // SQLITE_BUSY

/** Unix socket paths end at 107 bytes (unix(7)): a deep state folder gets its socket in a temporary one. */
function runFolder(home: string): string {
  const folder = join(home, 'run');
  if (Buffer.byteLength(join(folder, 'custodian.sock')) <= 107) return privateFolder(folder);
  return mkdtempSync(join(tmpdir(), 'keyslot-'));
}

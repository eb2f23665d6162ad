import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { KeyslotError } from '../foundation/errors.ts';
import { errnoOf, failedFile, syncFolder } from './log-file.ts';

/**
 * The folder of a log, taken for this process alone: two writers would fork it. The lock is SQLite's own on a
 * file, so it ends with the process however that ends. AUDIT_FAILED.
 */
export async function takeFolder(path: string): Promise<Disposable> {
  try {
    await makeFolder(path);
  } catch (cause) {
    throw failedFile(path, 'made', cause);
  }
  let lock: DatabaseSync | undefined;
  try {
    lock = new DatabaseSync(join(path, lockName), { timeout: 0 });
    lock.exec('PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE;');
  } catch (cause) {
    lock?.close();
    const busy = cause instanceof Error && 'errcode' in cause && cause.errcode === sqliteBusy;
    if (!busy) throw failedFile(join(path, lockName), 'taken', cause);
    throw new KeyslotError('AUDIT_FAILED', `Another process is writing the audit log in ${path}.`, { cause });
  }
  const taken = lock;
  return {
    [Symbol.dispose]: () => {
      if (taken.isOpen) taken.close();
    },
  };
}

/** With its parents, each entry durable. Not `recursive: true`: below /proc that never comes back. */
async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o700 });
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return;
    if (errnoOf(error) !== 'ENOENT' || dirname(path) === path) throw error;
    await makeFolder(dirname(path));
    await mkdir(path, { mode: 0o700 });
  }
  await syncFolder(dirname(path));
}

export const lockName = 'writer.lock';
const sqliteBusy = 5; // SQLITE_BUSY

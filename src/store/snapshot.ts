import { backup, DatabaseSync } from 'node:sqlite';
import { KeyslotError } from '../foundation/errors.ts';

/**
 * A copy of the store of an appliance, which may be running: of one moment, whole, and checked. The original is only
 * read. STORE_FAILED, also when the copy finds damage; then the file at `to` is worth nothing.
 */
export async function snapshotStore(from: string, to: string): Promise<void> {
  try {
    using source = new DatabaseSync(from, { readOnly: true, timeout: busy_ms });
    await backup(source, to, { rate: pages_max }); // in one step: steps begin anew whenever the appliance writes
    using copy = new DatabaseSync(to);
    copy.exec('PRAGMA journal_mode = DELETE'); // one file, without the companions of WAL
    const found = copy.prepare('PRAGMA integrity_check(1)').all()[0]?.integrity_check;
    if (found !== 'ok') throw new Error(`integrity_check: ${String(found)}`);
  } catch (cause) {
    throw new KeyslotError('STORE_FAILED', `${from} could not be copied.`, { cause });
  }
}

/** The keys as the registry of a store file has them, which is only read; by id. STORE_FAILED. */
export const registeredKeys = (path: string): readonly RegisteredKey[] =>
  reading(path, database =>
    database
      .prepare('SELECT id, slot, state, custody, public_key FROM keys ORDER BY id')
      .all()
      .map(({ id, slot, state, custody, public_key }) => ({
        id: String(id),
        slot: String(slot),
        state: String(state),
        ...(typeof custody === 'string' ? { custody } : {}),
        ...(public_key instanceof Uint8Array ? { publicKey: public_key } : {}),
      })),
  );

export interface RegisteredKey {
  readonly id: string;
  readonly slot: string;
  readonly state: string;
  /** Not while the key is being made. */
  readonly custody?: string;
  readonly publicKey?: Uint8Array;
}

/** Up to which record a store file has counted the audit log of a node; it is only read. STORE_FAILED. */
export const countedRecords = (path: string, node: string): number =>
  reading(path, database =>
    Number(database.prepare('SELECT next FROM positions WHERE node = ?').get(node)?.next ?? 0),
  );

function reading<T>(path: string, read: (database: DatabaseSync) => T): T {
  try {
    using database = new DatabaseSync(path, { readOnly: true, timeout: busy_ms });
    return read(database);
  } catch (cause) {
    throw new KeyslotError('STORE_FAILED', `${path} could not be read.`, { cause });
  }
}

const busy_ms = 10_000;
/** More than a store has. */
const pages_max = 2 ** 30;

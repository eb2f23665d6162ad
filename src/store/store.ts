import { DatabaseSync } from 'node:sqlite';
import { KeyslotError } from '../foundation/errors.ts';

/**
 * The durable state of one appliance in one SQLite file: WAL, and synchronous FULL, so that what was
 * acknowledged survives a power cut. Calls are synchronous and belong to rare events (a key, a latch), never
 * to a signature.
 */
export class Store implements Disposable {
  readonly #database: DatabaseSync;

  /** Opens or creates the file and migrates it forward. STORE_NEWER, STORE_FAILED. */
  constructor(path: string) {
    this.#database = guarded(() => new DatabaseSync(path));
    try {
      guarded(() => this.#database.exec(settings));
      this.#migrate(path);
    } catch (error) {
      this.#database.close();
      throw error;
    }
  }

  all(sql: string, ...values: readonly SqlValue[]): readonly Row[] {
    return guarded(() => this.#database.prepare(sql).all(...values));
  }

  run(sql: string, ...values: readonly SqlValue[]): void {
    guarded(() => this.#database.prepare(sql).run(...values));
  }

  [Symbol.dispose](): void {
    if (this.#database.isOpen) this.#database.close();
  }

  #migrate(path: string): void {
    const version = Number(this.all('PRAGMA user_version')[0]?.user_version);
    if (version > migrations.length) {
      throw new KeyslotError(
        'STORE_NEWER',
        `${path} has schema ${version}; this Keyslot knows ${migrations.length}.`,
      );
    }
    migrations.slice(version).forEach((sql, at) => {
      guarded(() => {
        this.#database.exec(`BEGIN; ${sql}; PRAGMA user_version = ${version + at + 1}; COMMIT;`);
      });
    });
  }
}

export type SqlValue = string | number | null | Uint8Array;
export type Row = Readonly<Record<string, unknown>>;

const settings = `
  PRAGMA journal_mode = WAL;
  PRAGMA synchronous = FULL;
  PRAGMA foreign_keys = ON;
  PRAGMA busy_timeout = 2000;
`;

/** One step a version, never edited after it was released. */
const migrations: readonly string[] = [
  `CREATE TABLE keys (
     id TEXT PRIMARY KEY,
     slot TEXT NOT NULL,
     public_key BLOB,
     custody TEXT,
     exportable INTEGER NOT NULL DEFAULT 0,
     attributes TEXT,
     origin TEXT NOT NULL CHECK (origin IN ('generated', 'imported')),
     state TEXT NOT NULL CHECK (state IN ('pending', 'active', 'disabled', 'pending-deletion', 'destroyed')),
     created_at TEXT NOT NULL
   ) STRICT;
   CREATE INDEX keys_by_slot ON keys (slot, id);
   CREATE TABLE latches (
     slot TEXT PRIMARY KEY,
     salt BLOB NOT NULL,
     digest BLOB NOT NULL,
     at TEXT NOT NULL
   ) STRICT`,
];

function guarded<T>(work: () => T): T {
  try {
    return work();
  } catch (cause) {
    throw new KeyslotError('STORE_FAILED', 'The durable state could not be read or written.', { cause });
  }
}

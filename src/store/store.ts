import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { KeyslotError } from '../foundation/errors.ts';

/**
 * The durable state of one appliance in one SQLite file: WAL, and synchronous FULL, so that what was
 * acknowledged survives a power cut. Calls are synchronous and belong to rare events (a key, a latch). A
 * signature never waits for a write; one that may be a repeat costs one look-up.
 */
export class Store implements Disposable {
  readonly #database: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();

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
    return guarded(() => this.#prepared(sql).all(...values));
  }

  run(sql: string, ...values: readonly SqlValue[]): void {
    this.change(sql, ...values);
  }

  /** As `run`; how many rows it changed. */
  change(sql: string, ...values: readonly SqlValue[]): number {
    return guarded(() => Number(this.#prepared(sql).run(...values).changes));
  }

  /** What the work writes is there as a whole afterwards, or not at all. The work is synchronous and never nested. */
  transaction<T>(work: () => T): T {
    guarded(() => this.#database.exec('BEGIN IMMEDIATE'));
    try {
      const result = work();
      guarded(() => this.#database.exec('COMMIT'));
      return result;
    } catch (thrown) {
      if (this.#database.isTransaction) guarded(() => this.#database.exec('ROLLBACK'));
      throw thrown;
    }
  }

  /** How large it is, and where. */
  get size(): { readonly file: string; readonly bytes: number } {
    const pages = Number(this.all('PRAGMA page_count')[0]?.page_count);
    const page_bytes = Number(this.all('PRAGMA page_size')[0]?.page_size);
    return { file: this.#database.location() ?? '', bytes: pages * page_bytes };
  }

  [Symbol.dispose](): void {
    if (this.#database.isOpen) this.#database.close();
  }

  /** Prepared once and kept: the texts are constants of this room, never put together from values. */
  #prepared(sql: string): StatementSync {
    const kept = this.#statements.get(sql);
    if (kept) return kept;
    const statement = this.#database.prepare(sql);
    this.#statements.set(sql, statement);
    return statement;
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
  `CREATE TABLE migrations (
     id TEXT PRIMARY KEY,
     source TEXT NOT NULL,
     target TEXT NOT NULL,
     created_at TEXT NOT NULL,
     created_by TEXT NOT NULL
   ) STRICT;
   CREATE TABLE migration_keys (
     migration TEXT NOT NULL REFERENCES migrations (id),
     key TEXT NOT NULL,
     public_key BLOB NOT NULL,
     step TEXT NOT NULL CHECK (step IN
       ('planned', 'imported', 'proven', 'switched', 'kept', 'destroyed', 'rolled-back', 'cleared')),
     custody_before TEXT NOT NULL,
     custody_after TEXT,
     times TEXT NOT NULL,
     proof TEXT,
     error TEXT,
     PRIMARY KEY (migration, key)
   ) STRICT;
   CREATE INDEX migration_keys_by_key ON migration_keys (key);
   CREATE UNIQUE INDEX migration_keys_unsettled ON migration_keys (key)
     WHERE step IN ('planned', 'imported', 'proven')`,
  `CREATE TABLE wallets (
     id TEXT PRIMARY KEY,
     label TEXT NOT NULL
   ) STRICT`,
  `ALTER TABLE keys ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';
   CREATE TABLE policies (
     name TEXT NOT NULL,
     version INTEGER NOT NULL,
     source TEXT NOT NULL CHECK (source IN ('configuration', 'api')),
     document TEXT NOT NULL,
     created_at TEXT NOT NULL,
     created_by TEXT NOT NULL,
     deleted_at TEXT,
     PRIMARY KEY (name, version)
   ) STRICT;
   CREATE TABLE identities (
     name TEXT PRIMARY KEY,
     roles TEXT NOT NULL,
     grants TEXT NOT NULL,
     recognised_by TEXT,
     created_at TEXT NOT NULL,
     created_by TEXT NOT NULL
   ) STRICT;
   CREATE TABLE api_tokens (
     id TEXT PRIMARY KEY,
     identity TEXT NOT NULL,
     label TEXT NOT NULL,
     hash BLOB NOT NULL UNIQUE,
     created_at TEXT NOT NULL,
     created_by TEXT NOT NULL,
     expires_at TEXT NOT NULL,
     revoked_at TEXT
   ) STRICT;
   CREATE INDEX api_tokens_by_identity ON api_tokens (identity);
   CREATE TABLE freezes (
     id TEXT PRIMARY KEY,
     scope TEXT NOT NULL CHECK (scope IN ('appliance', 'slot', 'key')),
     target TEXT,
     reason TEXT NOT NULL,
     since TEXT NOT NULL,
     by TEXT NOT NULL
   ) STRICT;
   CREATE TABLE counters (
     counter TEXT NOT NULL,
     window_ms INTEGER NOT NULL,
     bucket_ms INTEGER NOT NULL,
     amount TEXT NOT NULL,
     PRIMARY KEY (counter, window_ms, bucket_ms)
   ) STRICT, WITHOUT ROWID;
   CREATE INDEX counters_by_end ON counters (bucket_ms + 2 * window_ms);
   CREATE TABLE positions (
     node TEXT PRIMARY KEY,
     next INTEGER NOT NULL,
     hash BLOB NOT NULL
   ) STRICT;
   CREATE TABLE idempotency (
     id BLOB PRIMARY KEY,
     digest BLOB NOT NULL,
     output TEXT NOT NULL,
     bytes BLOB NOT NULL,
     created_ms INTEGER NOT NULL,
     expires_ms INTEGER NOT NULL
   ) STRICT;
   CREATE INDEX idempotency_by_expiry ON idempotency (expires_ms)`,
];

function guarded<T>(work: () => T): T {
  try {
    return work();
  } catch (cause) {
    throw new KeyslotError('STORE_FAILED', 'The durable state could not be read or written.', { cause });
  }
}

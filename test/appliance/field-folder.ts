import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { DatabaseSync } from 'node:sqlite';

const vectors = resolve(import.meta.dirname, '..', 'vectors', 'agentic-wallet');

export interface Vector {
  readonly backend: 'encrypted-file' | 'kms' | 'hsm' | 'mpc';
  readonly walletId: string;
  readonly publicKey: string;
}

/** The secrets and the wallets of the vectors. */
export const expected = JSON.parse(readFileSync(join(vectors, 'expected.json'), 'utf8')) as {
  readonly config: {
    readonly encryptionSecret: string;
    readonly kmsMasterSecret: string;
    readonly kmsKeyId: string;
    readonly hsmPin: string;
    readonly hsmModuleSecret: string;
    readonly hsmSlotId: string;
    readonly mpcNodeSecrets: readonly string[];
  };
  readonly deployed: readonly Vector[];
  readonly documented: readonly Vector[];
};

export const deployed = (backend: Vector['backend']): readonly Vector[] =>
  expected.deployed.filter(vector => vector.backend === backend);

/** When the wallets were made, as the other program wrote it down. */
export const createdAtOf = (at: number): string => new Date(Date.UTC(2024, 2, 1 + at)).toISOString();

export interface FieldRow {
  readonly walletId: string;
  readonly publicKey: string;
  readonly label?: string;
}

/** A data folder as the agentic-wallet program leaves it, with its key files readable for everybody. */
export class FieldFolder implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), 'keyslot-field-'));
  readonly keys = join(this.path, 'keys');
  #database: DatabaseSync | undefined;
  #writes = 0;

  constructor(form: 'deployed' | 'documented' = 'deployed') {
    mkdirSync(this.keys, { mode: 0o755 });
    const from = join(vectors, form, 'keys');
    for (const name of readdirSync(from)) {
      copyFileSync(join(from, name), join(this.keys, name));
      chmodSync(join(this.keys, name), 0o644);
    }
  }

  fileOf(name: string): string {
    return join(this.keys, name);
  }

  /** Writes rows into the WAL and leaves them there, with the database open as it is in a running program. */
  database(rows: readonly FieldRow[], variant: 'current' | 'older' = 'current'): void {
    const database = new DatabaseSync(join(this.path, 'wallet-engine.sqlite'));
    this.#database = database;
    database.exec('PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;');
    const more = variant === 'current' ? 'provider TEXT NOT NULL, label TEXT,' : '';
    database.exec(
      `CREATE TABLE wallets (id TEXT PRIMARY KEY, public_key TEXT NOT NULL, ${more} created_at TEXT NOT NULL, payload TEXT NOT NULL)`,
    );
    this.write(rows, variant);
  }

  /** More rows in one transaction, and now and then a checkpoint, which begins the WAL anew. */
  write(rows: readonly FieldRow[], variant: 'current' | 'older' = 'current'): void {
    const database = this.#database;
    if (!database) throw new TypeError('There is no database yet.');
    database.exec('BEGIN');
    for (const [at, { walletId, publicKey, label }] of rows.entries()) {
      const createdAt = createdAtOf(at);
      const payload = JSON.stringify({ id: walletId, publicKey, createdAt, status: 'active', label });
      const common = [walletId, publicKey, createdAt, payload];
      if (variant === 'older') {
        database
          .prepare('INSERT INTO wallets (id, public_key, created_at, payload) VALUES (?, ?, ?, ?)')
          .run(...common);
      } else {
        database
          .prepare(
            "INSERT INTO wallets (id, public_key, created_at, payload, provider, label) VALUES (?, ?, ?, ?, 'local-dev', ?)",
          )
          .run(...common, label ?? null);
      }
    }
    database.exec('COMMIT');
    this.#writes += 1;
    if (this.#writes % 3 === 0) database.exec('PRAGMA wal_checkpoint(FULL)');
  }

  /** The store of still older versions. */
  olderStore(rows: readonly FieldRow[]): void {
    const wallets = rows.map(({ walletId, publicKey, label }, at) => ({
      id: walletId,
      publicKey,
      createdAt: createdAtOf(at),
      ...(label === undefined ? {} : { label }),
    }));
    writeFileSync(join(this.path, 'wallets.json'), JSON.stringify({ wallets }));
  }

  /** Everything below the folder with its mode, times and content: what an adoption must leave as it was. */
  listing(): string[] {
    return readdirSync(this.path, { recursive: true, encoding: 'utf8' })
      .toSorted()
      .concat('.')
      .map(name => {
        const path = join(this.path, name);
        const { mode, mtimeNs, ctimeNs, size, ino } = lstatSync(path, { bigint: true });
        return `${name} ${mode} ${mtimeNs} ${ctimeNs} ${size} ${ino} ${contentOf(path)}`;
      });
  }

  [Symbol.dispose](): void {
    this.#database?.close();
    rmSync(this.path, { recursive: true, force: true });
  }
}

function contentOf(path: string): string {
  const found = lstatSync(path);
  if (found.isSymbolicLink()) return readlinkSync(path);
  return found.isFile() ? createHash('sha256').update(readFileSync(path)).digest('hex') : '';
}

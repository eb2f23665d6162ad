import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { keyId } from '../../src/custody/ids.ts';
import { KeyRegistry } from '../../src/store/key-registry.ts';
import { MigrationsJournal } from '../../src/store/migrations-journal.ts';
import { StoredPolicies } from '../../src/store/policies.ts';
import { Store } from '../../src/store/store.ts';
import { WalletLabels } from '../../src/store/wallets.ts';

/** What the releases before this one wrote, as they wrote it: a schema a version, and rows in each table. */
const releases: readonly string[] = [
  `CREATE TABLE keys (id TEXT PRIMARY KEY, slot TEXT NOT NULL, public_key BLOB, custody TEXT,
     exportable INTEGER NOT NULL DEFAULT 0, attributes TEXT,
     origin TEXT NOT NULL CHECK (origin IN ('generated', 'imported')),
     state TEXT NOT NULL CHECK (state IN ('pending', 'active', 'disabled', 'pending-deletion', 'destroyed')),
     created_at TEXT NOT NULL) STRICT;
   CREATE INDEX keys_by_slot ON keys (slot, id);
   CREATE TABLE latches (slot TEXT PRIMARY KEY, salt BLOB NOT NULL, digest BLOB NOT NULL, at TEXT NOT NULL) STRICT;
   INSERT INTO keys VALUES ('wallet', 'main', x'${'07'.repeat(32)}', 'memory', 1, '{"token":true}', 'generated',
     'active', '2026-01-02T03:04:05.678Z');
   INSERT INTO keys VALUES ('half', 'main', NULL, NULL, 0, NULL, 'imported', 'pending', '2026-01-02T03:04:05.678Z');
   INSERT INTO latches VALUES ('main', x'${'01'.repeat(16)}', x'${'02'.repeat(32)}', '2026-01-02T03:04:05.678Z')`,
  `CREATE TABLE migrations (id TEXT PRIMARY KEY, source TEXT NOT NULL, target TEXT NOT NULL,
     created_at TEXT NOT NULL, created_by TEXT NOT NULL) STRICT;
   CREATE TABLE migration_keys (migration TEXT NOT NULL REFERENCES migrations (id), key TEXT NOT NULL,
     public_key BLOB NOT NULL, step TEXT NOT NULL CHECK (step IN
       ('planned', 'imported', 'proven', 'switched', 'kept', 'destroyed', 'rolled-back', 'cleared')),
     custody_before TEXT NOT NULL, custody_after TEXT, times TEXT NOT NULL, proof TEXT, error TEXT,
     PRIMARY KEY (migration, key)) STRICT;
   CREATE INDEX migration_keys_by_key ON migration_keys (key);
   CREATE UNIQUE INDEX migration_keys_unsettled ON migration_keys (key)
     WHERE step IN ('planned', 'imported', 'proven');
   INSERT INTO migrations VALUES ('m-0000000001', 'main', 'spare', '2026-01-02T03:04:05.678Z', 'operator');
   INSERT INTO migration_keys VALUES ('m-0000000001', 'wallet', x'${'07'.repeat(32)}', 'proven', 'memory', NULL,
     '{"planned":"2026-01-02T03:04:05.678Z"}', NULL, NULL)`,
  `CREATE TABLE wallets (id TEXT PRIMARY KEY, label TEXT NOT NULL) STRICT;
   INSERT INTO wallets VALUES ('wallet', 'Treasury')`,
];

let folder: string;
let file: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keyslot-old-'));
  file = join(folder, 'keyslot.db');
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

function writtenBy(version: number): void {
  const database = new DatabaseSync(file);
  for (const schema of releases.slice(0, version)) database.exec(schema);
  database.exec(`PRAGMA user_version = ${version}`);
  database.close();
}

describe('a store that an older Keyslot wrote', () => {
  it.each(releases.map((_schema, at) => at + 1))(
    'at schema %i is taken forward with all it holds',
    async version => {
      writtenBy(version);
      using store = new Store(file);
      const registry = new KeyRegistry(store);
      expect(registry.get(keyId('wallet'))).toMatchObject({
        slot: 'main',
        state: 'active',
        custody: 'memory',
        exportable: true,
        attributes: { token: true },
        createdAt: '2026-01-02T03:04:05.678Z',
        tags: [],
      });
      expect(Buffer.from(registry.get(keyId('wallet'))?.publicKey ?? [])).toEqual(Buffer.alloc(32, 7));
      expect(registry.get(keyId('half'))).toMatchObject({ state: 'pending', tags: [] });
      expect(store.all('SELECT slot FROM latches')).toEqual([{ slot: 'main' }]);
      expect(new MigrationsJournal(store).unsettledOf(keyId('wallet'))).toBe(
        version >= 2 ? 'm-0000000001' : undefined,
      );
      expect(new WalletLabels(store).get(keyId('wallet'))).toBe(version >= 3 ? 'Treasury' : undefined);
      expect(await new StoredPolicies(store).current()).toEqual([]);
      registry.setTags(keyId('wallet'), ['treasury']);
    },
  );

  it('has the schema of one that was made today, and is taken forward once', () => {
    const schemaOf = (path: string) => {
      using store = new Store(path);
      return store.all('SELECT type, name, tbl_name FROM sqlite_schema ORDER BY name');
    };
    writtenBy(1);
    const taken = schemaOf(file);
    expect(taken).toEqual(schemaOf(join(folder, 'new.db')));
    expect(schemaOf(file)).toEqual(taken);
  });
});

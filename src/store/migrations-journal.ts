import { randomBytes } from 'node:crypto';
import type { CustodyLabel } from '../custody/engine.ts';
import {
  type KeyId,
  keyId,
  type PublicKeyBytes,
  publicKeyBytes,
  type SlotId,
  slotId,
} from '../custody/ids.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Row, Store } from './store.ts';

/**
 * What was done of every migration, a row a key. A step is written down after it was done, except the switch,
 * which is written in the same transaction as the registry: so whoever reads a step may rely on it, and
 * whoever resumes must expect that the next one has happened already.
 */
export class MigrationsJournal {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  /** MIGRATION_RUNNING when another migration has not settled one of the keys; then nothing is written. */
  begin(order: {
    readonly from: SlotId;
    readonly to: SlotId;
    readonly by: string;
    readonly at: Date;
    readonly keys: readonly Pick<MigrationKey, 'key' | 'publicKey' | 'custodyBefore'>[];
  }): Migration {
    const at = order.at.toISOString();
    const id = `m-${randomBytes(5).toString('hex')}`;
    this.#store.transaction(() => {
      this.#store.run(
        'INSERT INTO migrations (id, source, target, created_at, created_by) VALUES (?, ?, ?, ?, ?)',
        id,
        order.from,
        order.to,
        at,
        order.by,
      );
      for (const { key, publicKey, custodyBefore } of order.keys) {
        const other = this.unsettledOf(key);
        if (other) throw alreadyMoving(key, other);
        this.#store.run(
          `INSERT INTO migration_keys (migration, key, public_key, step, custody_before, times)
           VALUES (?, ?, ?, 'planned', ?, ?)`,
          id,
          key,
          publicKey,
          custodyBefore,
          JSON.stringify({ planned: at }),
        );
      }
    });
    return { id, from: order.from, to: order.to, createdAt: at, createdBy: order.by };
  }

  get(id: string): Migration | undefined {
    const [row] = this.#store.all('SELECT * FROM migrations WHERE id = ?', id);
    return row && migrationOf(row);
  }

  /** The latest first. */
  all(): readonly Migration[] {
    return this.#store
      .all('SELECT * FROM migrations ORDER BY created_at DESC, rowid DESC')
      .map(row => migrationOf(row));
  }

  /** By key id, after the cursor. */
  keys(id: string, after = ''): readonly MigrationKey[] {
    return this.#store
      .all('SELECT * FROM migration_keys WHERE migration = ? AND key > ? ORDER BY key', id, after)
      .map(row => keyOf(row));
  }

  /** How many keys stand at which step. */
  counts(id: string): Readonly<Record<MigrationStep, number>> {
    const rows = this.#store.all(
      'SELECT step, count(*) AS keys FROM migration_keys WHERE migration = ? GROUP BY step',
      id,
    );
    const found = new Map(rows.map(row => [row.step, Number(row.keys)]));
    const counts = migrationSteps.map(step => [step, found.get(step) ?? 0] as const);
    return Object.fromEntries(counts) as Record<MigrationStep, number>;
  }

  /** Keys whose last attempt failed. */
  failed(id: string): number {
    const [row] = this.#store.all(
      'SELECT count(*) AS keys FROM migration_keys WHERE migration = ? AND error IS NOT NULL',
      id,
    );
    return Number(row?.keys);
  }

  /** The migration that has begun to move this key and neither switched it nor given it up. */
  unsettledOf(key: KeyId): string | undefined {
    const [row] = this.#store.all(
      "SELECT migration FROM migration_keys WHERE key = ? AND step IN ('planned', 'imported', 'proven')",
      key,
    );
    return row && String(row.migration);
  }

  /** Keys of which a migration left a copy in this slot, or may have when it was stopped. */
  copiesIn(slot: SlotId): ReadonlyMap<string, PublicKeyBytes> {
    const rows = this.#store.all(
      `SELECT key, public_key FROM migration_keys JOIN migrations ON migrations.id = migration_keys.migration
       WHERE (source = ? AND step IN ('switched', 'kept'))
          OR (target = ? AND step IN ('planned', 'imported', 'proven', 'rolled-back'))`,
      slot,
      slot,
    );
    return new Map(rows.map(row => [String(row.key), bytesOf(row.public_key)]));
  }

  /** The key has come this far: earlier failures are forgotten, and the time is written down. */
  reached(key: MigrationKey, step: MigrationStep, at: Date, more: Reached = {}): MigrationKey {
    const { error: _overcome, ...held } = key;
    const next: MigrationKey = { ...held, ...more, step, times: { ...key.times, [step]: at.toISOString() } };
    this.#write(next);
    return next;
  }

  /** The key proved itself again, where it is. */
  verified(key: MigrationKey, at: Date, proof: MigrationProof): MigrationKey {
    const { error: _overcome, ...held } = key;
    const next: MigrationKey = { ...held, proof, times: { ...key.times, verified: at.toISOString() } };
    this.#write(next);
    return next;
  }

  /** What stopped the last attempt; the step stays, so that the next attempt goes on from there. */
  stopped(key: MigrationKey, error: MigrationKey['error']): void {
    this.#store.run(
      'UPDATE migration_keys SET error = ? WHERE migration = ? AND key = ?',
      error ? JSON.stringify(error) : null,
      key.migration,
      key.key,
    );
  }

  #write(key: MigrationKey): void {
    this.#store.run(
      `UPDATE migration_keys SET step = ?, custody_after = ?, times = ?, proof = ?, error = NULL
       WHERE migration = ? AND key = ?`,
      key.step,
      key.custodyAfter ?? null,
      JSON.stringify(key.times),
      key.proof ? JSON.stringify(key.proof) : null,
      key.migration,
      key.key,
    );
  }
}

export const alreadyMoving = (key: KeyId, migration: string) =>
  new KeyslotError('MIGRATION_RUNNING', `Migration ${migration} has not settled the key ${key}.`);

/**
 * `planned → imported → proven → switched → kept → destroyed`; back from any of the first five to
 * `rolled-back`, and from there, without the target's copy, to `cleared`.
 */
export const migrationSteps = [
  'planned',
  'imported',
  'proven',
  'switched',
  'kept',
  'destroyed',
  'rolled-back',
  'cleared',
] as const;
export type MigrationStep = (typeof migrationSteps)[number];

export interface Migration {
  readonly id: string;
  readonly from: SlotId;
  readonly to: SlotId;
  readonly createdAt: string;
  readonly createdBy: string;
}

export interface MigrationKey {
  readonly migration: string;
  readonly key: KeyId;
  readonly publicKey: PublicKeyBytes;
  readonly step: MigrationStep;
  readonly custodyBefore: CustodyLabel;
  readonly custodyAfter?: CustodyLabel;
  /** When each step was reached, and when the key was last verified. */
  readonly times: Readonly<Record<string, string>>;
  /** The last one. */
  readonly proof?: MigrationProof;
  /** Why the last attempt failed. */
  readonly error?: { readonly code: string; readonly detail: string };
}

/** A challenge that the key signed in a slot, which anybody can check with its public key. */
export interface MigrationProof {
  readonly slot: string;
  readonly at: string;
  /** base64. */
  readonly challenge: string;
  /** In hexadecimal. */
  readonly challengeSha256: string;
  /** base64. */
  readonly signature: string;
}

type Reached = Partial<Pick<MigrationKey, 'custodyAfter' | 'proof'>>;

const migrationOf = (row: Row): Migration => ({
  id: String(row.id),
  from: slotId(String(row.source)),
  to: slotId(String(row.target)),
  createdAt: String(row.created_at),
  createdBy: String(row.created_by),
});

// The file is our own and guarded by its schema: a row that does not fit is a broken store, not an input.
const keyOf = (row: Row): MigrationKey => ({
  migration: String(row.migration),
  key: keyId(String(row.key)),
  publicKey: bytesOf(row.public_key),
  step: row.step as MigrationStep,
  custodyBefore: row.custody_before as CustodyLabel,
  ...(row.custody_after === null ? {} : { custodyAfter: row.custody_after as CustodyLabel }),
  times: JSON.parse(String(row.times)) as MigrationKey['times'],
  ...(row.proof === null ? {} : { proof: JSON.parse(String(row.proof)) as MigrationProof }),
  ...(row.error === null ? {} : { error: JSON.parse(String(row.error)) as { code: string; detail: string } }),
});

const bytesOf = (value: unknown): PublicKeyBytes =>
  publicKeyBytes(value instanceof Uint8Array ? value : new Uint8Array());

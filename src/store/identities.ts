import { KeyslotError } from '../foundation/errors.ts';
import type { Row, Store } from './store.ts';

/** Identities that were made through the API; those of the configuration stay in its file. */
export class StoredIdentities {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  /** By name. */
  async all(): Promise<readonly StoredIdentity[]> {
    return this.#store.all('SELECT * FROM identities ORDER BY name').map(identityOf);
  }

  /** IDENTITY_EXISTS. */
  async put(identity: StoredIdentity): Promise<void> {
    const { name, roles, grants, recognisedBy, createdAt, createdBy } = identity;
    const written = this.#store.change(
      `INSERT OR IGNORE INTO identities (name, roles, grants, recognised_by, created_at, created_by)
       VALUES (?, ?, ?, ?, ?, ?)`,
      name,
      JSON.stringify(roles),
      JSON.stringify(grants),
      recognisedBy === undefined ? null : JSON.stringify(recognisedBy),
      createdAt,
      createdBy,
    );
    if (written === 0) throw new KeyslotError('IDENTITY_EXISTS', `There is an identity ${name} already.`);
  }

  /** With its tokens, so that they do not come back to life for another of this name. IDENTITY_UNKNOWN. */
  async remove(name: string): Promise<void> {
    this.#store.transaction(() => {
      if (this.#store.change('DELETE FROM identities WHERE name = ?', name) === 0) {
        throw new KeyslotError('IDENTITY_UNKNOWN', `There is no identity ${name}.`);
      }
      this.#store.run('DELETE FROM api_tokens WHERE identity = ?', name);
    });
  }
}

export interface StoredIdentity {
  readonly name: string;
  readonly roles: readonly string[];
  /** As they were given; whoever uses them parses them. */
  readonly grants: readonly unknown[];
  readonly recognisedBy?: unknown;
  readonly createdAt: string;
  readonly createdBy: string;
}

const identityOf = (row: Row): StoredIdentity => ({
  name: String(row.name),
  roles: JSON.parse(String(row.roles)) as readonly string[],
  grants: JSON.parse(String(row.grants)) as readonly unknown[],
  ...(row.recognised_by === null ? {} : { recognisedBy: JSON.parse(String(row.recognised_by)) as unknown }),
  createdAt: String(row.created_at),
  createdBy: String(row.created_by),
});

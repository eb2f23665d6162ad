import { KeyslotError } from '../foundation/errors.ts';
import type { Row, Store } from './store.ts';

/** Policy documents, every version for ever: what was decided under one can be read again. */
export class StoredPolicies {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  /** The newest version of each policy that is not deleted, by name. */
  async current(): Promise<readonly StoredPolicy[]> {
    return this.#current();
  }

  #current(): readonly StoredPolicy[] {
    return this.#store
      .all(
        `SELECT * FROM policies AS each WHERE deleted_at IS NULL
           AND version = (SELECT max(version) FROM policies WHERE name = each.name) ORDER BY name`,
      )
      .map(policyOf);
  }

  /** The version that is named, deleted or not; otherwise the newest one, unless the policy is deleted. */
  async get(name: string, version?: number): Promise<StoredPolicy | undefined> {
    if (version === undefined) return this.#newest(name);
    const [row] = this.#store.all('SELECT * FROM policies WHERE name = ? AND version = ?', name, version);
    return row && policyOf(row);
  }

  /** The newest first. */
  async versions(name: string): Promise<readonly StoredPolicy[]> {
    return this.#store.all('SELECT * FROM policies WHERE name = ? ORDER BY version DESC', name).map(policyOf);
  }

  /**
   * Keeps the document as the next version; versions go on behind a deleted one. The document that the policy has
   * already, from the same source, makes none. POLICY_CHANGED when the newest version is not the `expected` one
   * (0: there is no such policy).
   */
  async put(change: PolicyChange): Promise<StoredPolicy> {
    return this.#store.transaction(() => this.#put(change));
  }

  /** What was deleted; its versions stay to be read. POLICY_UNKNOWN. */
  async remove(name: string, at: Date): Promise<StoredPolicy> {
    return this.#store.transaction(() => this.#remove(name, at));
  }

  /**
   * Takes the documents of the configuration as new versions where they changed, and deletes those that it does not
   * have any more; all of it or nothing. All policies that there are then, by name.
   */
  async putConfigured(
    documents: ReadonlyMap<string, StoredPolicy['document']>,
    at: Date,
  ): Promise<readonly StoredPolicy[]> {
    return this.#store.transaction(() => {
      for (const [name, document] of documents) {
        this.#put({ name, source: 'configuration', document: { ...document }, at, by: 'configuration' });
      }
      for (const { name, source } of this.#current()) {
        if (source === 'configuration' && !documents.has(name)) this.#remove(name, at);
      }
      return this.#current();
    });
  }

  #put(change: PolicyChange): StoredPolicy {
    const { name, source, expected } = change;
    const document = JSON.stringify(change.document);
    const held = this.#newest(name);
    if (expected !== undefined && expected !== (held?.version ?? 0)) throw changed(name, held);
    if (held?.source === source && JSON.stringify(held.document) === document) return held;
    const version = this.#latest(name) + 1;
    this.#store.run(
      `INSERT INTO policies (name, version, source, document, created_at, created_by)
       VALUES (?, ?, ?, ?, ?, ?)`,
      name,
      version,
      source,
      document,
      change.at.toISOString(),
      change.by,
    );
    return stored(this.#newest(name), name);
  }

  #remove(name: string, at: Date): StoredPolicy {
    const held = stored(this.#newest(name), name);
    this.#store.run(
      'UPDATE policies SET deleted_at = ? WHERE name = ? AND version = ?',
      at.toISOString(),
      name,
      held.version,
    );
    return { ...held, deletedAt: at.toISOString() };
  }

  #newest(name: string): StoredPolicy | undefined {
    const [row] = this.#store.all(
      'SELECT * FROM policies WHERE name = ? ORDER BY version DESC LIMIT 1',
      name,
    );
    return row && row.deleted_at === null ? policyOf(row) : undefined;
  }

  #latest(name: string): number {
    const [row] = this.#store.all('SELECT max(version) AS version FROM policies WHERE name = ?', name);
    return Number(row?.version ?? 0);
  }
}

export interface StoredPolicy {
  readonly name: string;
  readonly version: number;
  readonly source: 'configuration' | 'api';
  /** As it was given; whoever uses it parses it. */
  readonly document: Readonly<Record<string, unknown>>;
  readonly createdAt: string;
  readonly createdBy: string;
  readonly deletedAt?: string;
}

export interface PolicyChange extends Pick<StoredPolicy, 'name' | 'source' | 'document'> {
  readonly at: Date;
  readonly by: string;
  readonly expected?: number | undefined;
}

function stored(policy: StoredPolicy | undefined, name: string): StoredPolicy {
  if (policy) return policy;
  throw new KeyslotError('POLICY_UNKNOWN', `There is no policy ${name}.`);
}

const changed = (name: string, held: StoredPolicy | undefined) =>
  new KeyslotError(
    'POLICY_CHANGED',
    held ? `The policy ${name} is at version ${held.version}.` : `There is no policy ${name}.`,
  );

// The file is our own and guarded by its schema: a row that does not fit is a broken store, not an input.
const policyOf = (row: Row): StoredPolicy => ({
  name: String(row.name),
  version: Number(row.version),
  source: row.source as StoredPolicy['source'],
  document: JSON.parse(String(row.document)) as StoredPolicy['document'],
  createdAt: String(row.created_at),
  createdBy: String(row.created_by),
  ...(row.deleted_at === null ? {} : { deletedAt: String(row.deleted_at) }),
});

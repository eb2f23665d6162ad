import { KeyslotError } from '../foundation/errors.ts';
import type { Row, Store } from './store.ts';

/** API tokens, as keyed hashes: nobody who reads this file can use one. */
export class StoredApiTokens {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  /** Revoked and expired ones too, the oldest first. */
  async all(): Promise<readonly StoredApiToken[]> {
    return this.#store.all('SELECT * FROM api_tokens ORDER BY created_at, id').map(tokenOf);
  }

  async insert(token: StoredApiToken): Promise<void> {
    this.#store.run(
      `INSERT INTO api_tokens (id, identity, label, hash, created_at, created_by, expires_at, revoked_at)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
      token.id,
      token.identity,
      token.label,
      token.hash,
      token.createdAt,
      token.createdBy,
      token.expiresAt,
      token.revokedAt ?? null,
    );
  }

  /** A token that was revoked before keeps its time. API_TOKEN_UNKNOWN. */
  async revoke(id: string, at: Date): Promise<void> {
    const revoked = this.#store.change(
      'UPDATE api_tokens SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?',
      at.toISOString(),
      id,
    );
    if (revoked === 0) throw new KeyslotError('API_TOKEN_UNKNOWN', `There is no API token ${id}.`);
  }
}

export interface StoredApiToken {
  readonly id: string;
  readonly identity: string;
  readonly label: string;
  readonly hash: Uint8Array;
  readonly createdAt: string;
  readonly createdBy: string;
  readonly expiresAt: string;
  readonly revokedAt?: string;
}

const tokenOf = (row: Row): StoredApiToken => ({
  id: String(row.id),
  identity: String(row.identity),
  label: String(row.label),
  hash: row.hash instanceof Uint8Array ? row.hash : new Uint8Array(),
  createdAt: String(row.created_at),
  createdBy: String(row.created_by),
  expiresAt: String(row.expires_at),
  ...(row.revoked_at === null ? {} : { revokedAt: String(row.revoked_at) }),
});

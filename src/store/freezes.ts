import { KeyslotError } from '../foundation/errors.ts';
import type { Row, Store } from './store.ts';

/** What is frozen: the appliance, a slot or a key, each at most once. */
export class Freezes {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  /** The oldest first. */
  async all(): Promise<readonly Freeze[]> {
    return this.#store.all('SELECT * FROM freezes ORDER BY since, id').map(freezeOf);
  }

  /** The freeze that holds: what is frozen already stays frozen as it was. */
  async put(freeze: Freeze): Promise<Freeze> {
    const { id, scope, target, reason, since, by } = freeze;
    this.#store.run(
      'INSERT OR IGNORE INTO freezes (id, scope, target, reason, since, by) VALUES (?, ?, ?, ?, ?, ?)',
      id,
      scope,
      target ?? null,
      reason,
      since,
      by,
    );
    const [row] = this.#store.all('SELECT * FROM freezes WHERE id = ?', id);
    return row ? freezeOf(row) : freeze;
  }

  /** What was lifted. FREEZE_UNKNOWN. */
  async remove(id: string): Promise<Freeze> {
    const [row] = this.#store.all('DELETE FROM freezes WHERE id = ? RETURNING *', id);
    if (row) return freezeOf(row);
    throw new KeyslotError('FREEZE_UNKNOWN', `There is no freeze ${id}.`);
  }
}

export interface Freeze {
  /** `appliance`, `slot/<id>` or `key/<id>`. */
  readonly id: string;
  readonly scope: 'appliance' | 'slot' | 'key';
  readonly target?: string;
  readonly reason: string;
  readonly since: string;
  readonly by: string;
}

const freezeOf = (row: Row): Freeze => ({
  id: String(row.id),
  scope: row.scope as Freeze['scope'],
  ...(row.target === null ? {} : { target: String(row.target) }),
  reason: String(row.reason),
  since: String(row.since),
  by: String(row.by),
});

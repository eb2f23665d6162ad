import type { KeyId } from '../custody/ids.ts';
import type { Store } from './store.ts';

/**
 * What people call their wallets. A wallet is a key whose id is a UUID; a label may be written down before its
 * key is begun, so the ones whose key never came to be are swept at the start.
 */
export class WalletLabels {
  readonly #store: Store;
  readonly #labels = new Map<string, string>();

  constructor(store: Store) {
    this.#store = store;
    store.run('DELETE FROM wallets WHERE id NOT IN (SELECT id FROM keys)');
    for (const { id, label } of store.all('SELECT id, label FROM wallets')) {
      this.#labels.set(String(id), String(label));
    }
  }

  get(id: KeyId): string | undefined {
    return this.#labels.get(id);
  }

  set(id: KeyId, label: string): void {
    this.#store.run('INSERT OR REPLACE INTO wallets (id, label) VALUES (?, ?)', id, label);
    this.#labels.set(id, label);
  }

  remove(id: KeyId): void {
    this.#store.run('DELETE FROM wallets WHERE id = ?', id);
    this.#labels.delete(id);
  }
}

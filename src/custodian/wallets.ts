import { randomUUID } from 'node:crypto';
import { keyId, type SlotId } from '../custody/ids.ts';
import { provenanceOf } from '../custody/provenance.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { KeyRecord, KeyRegistry } from '../store/key-registry.ts';
import type { WalletLabels } from '../store/wallets.ts';
import type { KeyView, WalletView } from '../wire/views.ts';
import { type KeyLifecycle, keyView } from './keys.ts';
import type { SlotKeeper } from './slot-keeper.ts';

/** Wallets: the keys whose ids are UUIDs, in whichever slot they are, each with a label if it was given one. */
export class Wallets {
  readonly #registry: KeyRegistry;
  readonly #labels: WalletLabels;
  readonly #keys: KeyLifecycle;

  constructor(options: { registry: KeyRegistry; labels: WalletLabels; keys: KeyLifecycle }) {
    this.#registry = options.registry;
    this.#labels = options.labels;
    this.#keys = options.keys;
  }

  /**
   * The label first, then the key: a crash in between leaves a label that no wallet shows and the next start
   * sweeps, and a wallet that was acknowledged has both. Fails as `KeyLifecycle.generate` does.
   */
  async create(label: string | undefined, keeper: SlotKeeper): Promise<WalletView> {
    const id = keyId(randomUUID());
    if (label !== undefined) this.#labels.set(id, label);
    try {
      return shown(await this.#keys.generate(id, keeper), label);
    } catch (error) {
      // A key that may have been made after all keeps its label for when the slot finds it.
      if (label !== undefined && !this.#registry.get(id)) this.#labels.remove(id);
      throw error;
    }
  }

  /** The oldest first. QUERY_INVALID for a cursor that is no wallet of these slots. */
  page(options: { slots: Iterable<SlotId>; publicKey?: string | undefined; cursor?: string | undefined }): {
    wallets: WalletView[];
    next?: string;
  } {
    const all = [...options.slots]
      .flatMap(slot => this.#registry.ofSlot(slot))
      .filter(isWallet)
      .sort(byAge);
    const rest = all.slice(this.#after(all, options.cursor)).map(record => this.view(record));
    const found = options.publicKey ? rest.filter(({ publicKey }) => publicKey === options.publicKey) : rest;
    const wallets = found.slice(0, limits.wallets_items_max);
    const last = found.length > wallets.length ? wallets.at(-1)?.id : undefined;
    return { wallets, ...(last === undefined ? {} : { next: last }) };
  }

  view(record: KeyRecord): WalletView {
    return shown(keyView(record), this.#labels.get(record.id));
  }

  #after(all: readonly KeyRecord[], cursor: string | undefined): number {
    if (cursor === undefined) return 0;
    const at = all.findIndex(({ id }) => id === cursor);
    if (at >= 0) return at + 1;
    throw new KeyslotError('QUERY_INVALID', 'The parameter cursor is not one that a listing gave out.');
  }
}

/** RFC 9562 §4, of any version, as the text of a key id can hold it: in lower case. */
const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

const isWallet = ({ id, state }: KeyRecord): boolean => uuid.test(id) && state !== 'pending';

const byAge = (one: KeyRecord, other: KeyRecord): number => {
  const [a, b] = [`${one.createdAt} ${one.id}`, `${other.createdAt} ${other.id}`];
  return a < b ? -1 : Number(a > b);
};

const shown = (
  { id, publicKey, custody, state, createdAt }: KeyView,
  label: string | undefined,
): WalletView => ({
  id,
  publicKey,
  custody,
  keyProvenance: provenanceOf(custody),
  status: state === 'active' ? 'active' : 'disabled',
  createdAt,
  ...(label === undefined ? {} : { label }),
});

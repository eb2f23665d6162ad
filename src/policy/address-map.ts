import { isKeyAt } from '../solana/public-key.ts';

/**
 * Addresses as bytes, found without a copy and without a string: the hot path asks with subarrays of a
 * transaction. Filled from what an administrator wrote, never from what a caller sent, so nobody can choose
 * addresses that fall together.
 */
export class AddressMap<V> {
  readonly #places = new Map<number, { readonly key: Uint8Array; value: V }[]>();

  get(key: Uint8Array): V | undefined {
    const place = this.#places.get(head(key));
    if (place === undefined) return undefined;
    for (const entry of place) if (isKeyAt(key, 0, entry.key)) return entry.value;
    return undefined;
  }

  has(key: Uint8Array): boolean {
    return this.get(key) !== undefined;
  }

  set(key: Uint8Array, value: V): this {
    const place = this.#places.get(head(key));
    const entry = place?.find(one => isKeyAt(key, 0, one.key));
    if (entry) entry.value = value;
    else if (place) place.push({ key, value });
    else this.#places.set(head(key), [{ key, value }]);
    return this;
  }
}

/** A set of addresses. */
export function addressSet(keys: Iterable<Uint8Array>): AddressMap<true> {
  const set = new AddressMap<true>();
  for (const key of keys) set.set(key, true);
  return set;
}

// Not the first bytes: well-known addresses begin alike.
const head = (key: Uint8Array): number =>
  (key[8] ?? 0) | ((key[13] ?? 0) << 8) | ((key[19] ?? 0) << 16) | ((key[27] ?? 0) << 24);

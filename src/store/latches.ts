import { randomBytes, scrypt, timingSafeEqual } from 'node:crypto';
import type { SlotId } from '../custody/ids.ts';
import type { Secret } from '../foundation/secret.ts';
import type { Store } from './store.ts';

/**
 * PINs that a token has refused, so that a restart does not spend another attempt on the same one. Kept as
 * scrypt digests (RFC 7914, N = 2^15): a PIN is short, and this file may be stolen.
 */
export class Latches {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  async set(slot: SlotId, pin: Secret, at: Date): Promise<void> {
    const salt = randomBytes(16);
    const digest = await pinDigest(pin, salt);
    this.#store.run(
      'INSERT OR REPLACE INTO latches (slot, salt, digest, at) VALUES (?, ?, ?, ?)',
      slot,
      salt,
      digest,
      at.toISOString(),
    );
  }

  clear(slot: SlotId): void {
    this.#store.run('DELETE FROM latches WHERE slot = ?', slot);
  }

  /** Whether the slot's token refused exactly this PIN and nobody has cleared the latch since. */
  async holds(slot: SlotId, pin: Secret): Promise<boolean> {
    const [row] = this.#store.all('SELECT salt, digest FROM latches WHERE slot = ?', slot);
    if (!(row?.salt instanceof Uint8Array) || !(row.digest instanceof Uint8Array)) return false;
    return timingSafeEqual(await pinDigest(pin, row.salt), row.digest);
  }
}

function pinDigest(pin: Secret, salt: Uint8Array): Promise<Buffer> {
  const cost = { N: 2 ** 15, r: 8, p: 1, maxmem: 64 * 1024 * 1024 };
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  pin.use(bytes => scrypt(bytes, salt, 32, cost, (error, key) => (error ? reject(error) : resolve(key))));
  return promise;
}

import type { Session, Slot } from '../custody/engine.ts';
import type { KeyId } from '../custody/ids.ts';
import { encodeBase58 } from '../foundation/base58.ts';
import { KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { KeyRegistry } from '../store/key-registry.ts';
import type { WalletLabels } from '../store/wallets.ts';

/** Keys that another program left behind, and what it wrote down of them. */
export interface AdoptionSource {
  readonly wallets: readonly Adoptable[];
  /** Copies the key into the place that the slot reads, unless one of this id is there. KEY_FILE_*. */
  place(id: KeyId): Promise<void>;
}

export interface Adoptable {
  readonly id: KeyId;
  readonly createdAt: Date;
  /** The address that the other program knew the key by. */
  readonly publicKey?: string;
  readonly label?: string;
}

/**
 * The slot, which takes foreign keys in whenever it opens: those whose ids the registry does not know. A key
 * that fails is said in the log by its code and left alone, and every other one is taken. A key that has moved
 * to another slot since, or was destroyed, has its record and never comes back.
 */
export function adopting(slot: Slot, source: AdoptionSource, world: AdoptionWorld): Slot {
  return {
    id: slot.id,
    describe: () => slot.describe(),
    open: async (pin, signal) => {
      const placed = await placedOf(slot, source, world);
      const session = await slot.open(pin, signal);
      // A few at a time: unsealing a foreign key file is a derivation on another thread.
      for (let at = 0; at < placed.length; at += atOnce) {
        await Promise.all(placed.slice(at, at + atOnce).map(each => take(each, session, world)));
      }
      return session;
    },
  };
}

export interface AdoptionWorld {
  readonly registry: KeyRegistry;
  readonly labels: WalletLabels;
  readonly log: Log;
}

const atOnce = 4;

async function placedOf(slot: Slot, source: AdoptionSource, world: AdoptionWorld): Promise<Adoptable[]> {
  const placed: Adoptable[] = [];
  for (const wallet of source.wallets) {
    if (world.registry.get(wallet.id)) continue;
    try {
      await source.place(wallet.id);
      placed.push(wallet);
    } catch (thrown) {
      notAdopted(wallet, slot.id, thrown, world.log);
    }
  }
  return placed;
}

/** The label, then the record: whatever a crash leaves in between, the next opening completes. */
async function take(wallet: Adoptable, session: Session, world: AdoptionWorld): Promise<void> {
  const { registry, labels, log } = world;
  const { id, label, createdAt } = wallet;
  try {
    const { key } = await session.signer(id);
    const publicKey = encodeBase58(key.publicKey);
    if (wallet.publicKey !== undefined && wallet.publicKey !== publicKey) {
      throw new KeyslotError('KEY_MISMATCH', `The file of ${id} holds another key than its wallet had.`);
    }
    if (label !== undefined) labels.set(id, label);
    registry.begin(id, session.slot, 'imported', createdAt);
    registry.complete(key);
    log.info({ slot: session.slot, key: id, publicKey }, 'a wallet was adopted');
  } catch (thrown) {
    notAdopted(wallet, session.slot, thrown, log);
  }
}

function notAdopted({ id }: Adoptable, slot: string, thrown: unknown, log: Log): void {
  const error = toKeyslotError(thrown);
  log.error({ slot, key: id, code: error.code, err: error }, 'a wallet was not adopted');
}

import type { SlotId } from '../custody/ids.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Door } from './door.ts';
import type { Operations } from './operation.ts';
import type { Wallets } from './wallets.ts';

/** The wallets of the wallet engine's routes: keys of one slot, with labels. */
export function walletOperations(
  door: Door,
  wallets: Wallets,
  slot: SlotId | undefined,
): Operations<'create-wallet' | 'list-wallets' | 'show-wallet'> {
  return {
    'create-wallet': async ({ input }, _call, identity) => {
      if (!slot) throw new KeyslotError('SLOT_UNKNOWN', 'No slot is configured for wallets.');
      const keeper = door.slotForKeys(slot, identity, 'generate');
      return { output: await keeper.watched(wallets.create(input.label, keeper)) };
    },
    'list-wallets': async ({ input }, call, identity) => {
      const slots = [...door.keepers.keys()].filter(id => door.mayReadKey({ slot: id }, identity, call));
      return { output: wallets.page({ slots, ...input }) };
    },
    'show-wallet': async ({ input }, call, identity) => ({
      output: wallets.view(door.visibleKey(input.key, identity, call)),
    }),
  };
}

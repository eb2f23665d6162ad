import type { Engine } from '../../custody/engine.ts';
import type { SlotId } from '../../custody/ids.ts';
import { oneSlotEngine } from '../../custody/one-slot-engine.ts';
import type { Log } from '../../foundation/log.ts';
import type { MpcSettings } from './settings.ts';
import { mpcSlot } from './slot.ts';

/**
 * Keys in three shares, each sealed under the secret of its node; any two open a key, all three make one. The
 * key is whole in this process for the time of a signature: who holds two secrets and the files, or rules the
 * host while the slot is open, has the keys.
 */
export const createMpcEngine = (
  id: SlotId,
  settings: MpcSettings & { readonly folder: string },
  log: Log,
): Engine => oneSlotEngine('mpc', mpcSlot(id, settings, log));

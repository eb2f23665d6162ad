import type { Engine } from '../../custody/engine.ts';
import type { SlotId } from '../../custody/ids.ts';
import { oneSlotEngine } from '../../custody/one-slot-engine.ts';
import type { Log } from '../../foundation/log.ts';
import type { Secret } from '../../foundation/secret.ts';
import type { HsmSimSettings } from './settings.ts';
import { hsmSimSlot } from './slot.ts';

/**
 * The simulated HSM of the agentic-wallet page: key files sealed under a module secret, a slot name and a PIN
 * together. It has the words of an HSM and none of its protection, and every reply says so: `simulated-hsm`.
 */
export const createHsmSimEngine = (
  id: SlotId,
  settings: HsmSimSettings & { readonly folder: string },
  /** Reads the module secret anew at each opening; the engine disposes it. */
  readModuleSecret: () => Promise<Secret>,
  log: Log,
): Engine => oneSlotEngine('hsm-sim', hsmSimSlot(id, settings, readModuleSecret, log));

import type { SlotId } from '../../custody/ids.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import type { Log } from '../../foundation/log.ts';
import type { Secret } from '../../foundation/secret.ts';
import { hsmForm, hsmSecret } from '../../sealing/page-forms.ts';
import { unlockPageOrOwn } from '../../sealing/page-or-own.ts';
import { SealedSlot } from '../../sealing/sealed-slot.ts';
import type { HsmSimSettings } from './settings.ts';

export function hsmSimSlot(
  id: SlotId,
  settings: HsmSimSettings & { readonly folder: string },
  /** Reads the module secret anew at each opening; the engine disposes it. */
  readModuleSecret: () => Promise<Secret>,
  log: Log,
): SealedSlot {
  const { folder, envelope, unwrapCache_ms, slot: name } = settings;
  log.warn(
    { slot: id, custody: 'simulated-hsm' },
    'this slot simulates an HSM: its keys are files of this host',
  );
  return new SealedSlot({
    id,
    engine: 'hsm-sim',
    custody: 'simulated-hsm',
    folder,
    summary: `A simulated HSM slot ${name}: key files of this host, no hardware.`,
    details: { simulated: true, simulatedSlot: name, envelope },
    unwrapCache_ms,
    log,
    unlock: async (files, pin, signal) => {
      using moduleSecret = await readModuleSecret();
      if (pin.length === 0 || moduleSecret.length === 0) {
        throw new KeyslotError('SLOT_PIN_REQUIRED', `Slot ${id} needs a PIN and a module secret.`);
      }
      using secret = hsmSecret({ slot: name, moduleSecret, pin });
      const place = { engine: 'hsm-sim', slot: id };
      const page = hsmForm({ slot: name, moduleSecret, pin, writes: 'deployed' });
      const lock = { secrets: [secret], needed: 1 };
      return await unlockPageOrOwn({ folder: files, place, page, lock, envelope }, signal);
    },
  });
}

import type { Slot } from '../../custody/engine.ts';
import type { SlotId } from '../../custody/ids.ts';
import type { Log } from '../../foundation/log.ts';
import { kmsForm, kmsSecret } from '../../sealing/page-forms.ts';
import { unlockPageOrOwn } from '../../sealing/page-or-own.ts';
import { SealedSlot } from '../../sealing/sealed-slot.ts';
import type { SimulatedKmsSettings } from './settings.ts';

/**
 * The simulated KMS of the agentic-wallet page: key files sealed under a master secret and the name of a key.
 * No KMS is asked, and every reply says so: `simulated-kms`.
 */
export function simulatedSlot(
  id: SlotId,
  settings: SimulatedKmsSettings & { readonly folder: string },
  log: Log,
): Slot & AsyncDisposable {
  const { folder, envelope, unwrapCache_ms, keyId } = settings;
  log.warn(
    { slot: id, custody: 'simulated-kms' },
    'this slot simulates a KMS: its keys are files of this host',
  );
  return new SealedSlot({
    id,
    engine: 'kms',
    custody: 'simulated-kms',
    folder,
    summary: `A simulated KMS key ${keyId}: key files of this host, no KMS.`,
    details: { mode: 'simulated', simulated: true, keyId, envelope },
    unwrapCache_ms,
    log,
    unlock: async (files, pin, signal) => {
      using secret = kmsSecret({ keyId, masterSecret: pin });
      const page = kmsForm({ keyId, masterSecret: pin, writes: 'deployed' });
      const lock = { secrets: [pin.length === 0 ? pin : secret], needed: 1 };
      const place = { engine: 'kms', slot: id };
      return await unlockPageOrOwn({ folder: files, place, page, lock, envelope }, signal);
    },
  });
}

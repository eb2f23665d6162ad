import type { SlotId } from '../../custody/ids.ts';
import type { Log } from '../../foundation/log.ts';
import { encryptedFileForm } from '../../sealing/page-forms.ts';
import { unlockPageOrOwn } from '../../sealing/page-or-own.ts';
import { SealedSlot } from '../../sealing/sealed-slot.ts';
import type { EncryptedFileSettings } from './settings.ts';

export function encryptedFileSlot(
  id: SlotId,
  settings: EncryptedFileSettings & { readonly folder: string },
  log: Log,
): SealedSlot {
  const { folder, envelope, unwrapCache_ms } = settings;
  return new SealedSlot({
    id,
    engine: 'encrypted-file',
    custody: 'encrypted-file',
    folder,
    summary: 'Key files of this host, sealed under the PIN of the slot.',
    details: { envelope },
    unwrapCache_ms,
    log,
    unlock: (files, pin, signal) => {
      const place = { engine: 'encrypted-file', slot: id };
      const page = encryptedFileForm({ secret: pin, writes: 'deployed' });
      const lock = { secrets: [pin], needed: 1 };
      return unlockPageOrOwn({ folder: files, place, page, lock, envelope }, signal);
    },
  });
}

import type { Engine } from '../../custody/engine.ts';
import type { SlotId } from '../../custody/ids.ts';
import { oneSlotEngine } from '../../custody/one-slot-engine.ts';
import type { Log } from '../../foundation/log.ts';
import type { EncryptedFileSettings } from './settings.ts';
import { encryptedFileSlot } from './slot.ts';

/**
 * Keys as files of one folder, sealed under the PIN. They are safe from whoever copies the disk, as far as the
 * PIN is hard to guess, and not from whoever rules the host: each signature unseals its key in this process.
 */
export const createEncryptedFileEngine = (
  id: SlotId,
  settings: EncryptedFileSettings & { readonly folder: string },
  log: Log,
): Engine => oneSlotEngine('encrypted-file', encryptedFileSlot(id, settings, log));

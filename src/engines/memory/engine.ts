import type { Engine } from '../../custody/engine.ts';
import type { SlotId } from '../../custody/ids.ts';
import { oneSlotEngine } from '../../custody/one-slot-engine.ts';
import { MemorySlot } from './slot.ts';

/**
 * Keys in the memory of this process, for tests and for trying Keyslot out. Nothing reaches the disk.
 *
 * The first opening sets the PIN; the keys outlive the session, and end with the engine. Disposing the engine
 * ends the open sessions, wipes the seeds and the PIN, and leaves the slot answering TOKEN_UNAVAILABLE.
 */
export function createMemoryEngine(id: SlotId): Engine {
  return oneSlotEngine('memory', new MemorySlot(id));
}

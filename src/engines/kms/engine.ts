import type { Engine, Slot } from '../../custody/engine.ts';
import type { SlotId } from '../../custody/ids.ts';
import type { Log } from '../../foundation/log.ts';
import type { KmsSettings } from './settings.ts';
import { simulatedSlot } from './simulated.ts';
import { type InFolder, KmsSlot } from './slot.ts';

/**
 * Keys in AWS KMS (`aws-native`), in files that AWS KMS opens (`aws-envelope`), or in files that a simulation of
 * a KMS opens (`simulated`). Disposing the engine ends the open session and the connections.
 */
export function createKmsEngine(id: SlotId, settings: KmsSettings & InFolder, log: Log): Engine {
  const slot = slotOf(id, settings, log);
  return {
    name: 'kms',
    slots: async () => [slot],
    [Symbol.asyncDispose]: () => slot[Symbol.asyncDispose](),
  };
}

function slotOf(id: SlotId, settings: KmsSettings & InFolder, log: Log): Slot & AsyncDisposable {
  switch (settings.mode) {
    case 'simulated':
      return simulatedSlot(id, settings, log);
    case 'aws-envelope':
    case 'aws-native':
      return new KmsSlot(id, settings, log);
  }
}

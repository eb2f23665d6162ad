import type { CustodyLabel, Engine, EngineName } from '../custody/engine.ts';
import { type SlotId, slotId } from '../custody/ids.ts';
import { createMemoryEngine } from '../engines/memory/index.ts';
import { createPkcs11Engine } from '../engines/pkcs11/index.ts';
import type { Log } from '../foundation/log.ts';
import type { SlotConfig } from './config.ts';

/** Every custody technology that a slot can be configured with. */
export const catalogue: { readonly [N in EngineName]: Maker<N> } = {
  pkcs11: (id, { settings }, log) => createPkcs11Engine(id, settings, log),
  memory: id => createMemoryEngine(id),
};

/** The label of the keys of each engine, known also when the engine itself cannot be asked. */
export const custodyOf: { readonly [N in EngineName]: CustodyLabel } = {
  pkcs11: 'hsm-native',
  memory: 'memory',
};

/** The engine of one configured slot. Fails with the engine's start-up errors. */
export function createEngine(slot: SlotConfig, log: Log): Engine {
  const id = slotId(slot.id);
  switch (slot.engine) {
    case 'pkcs11':
      return catalogue.pkcs11(id, slot, log);
    case 'memory':
      return catalogue.memory(id, slot, log);
  }
}

type Maker<N extends EngineName> = (id: SlotId, slot: Extract<SlotConfig, { engine: N }>, log: Log) => Engine;

import type { CustodyLabel, Engine, EngineName } from '../custody/engine.ts';
import { type SlotId, slotId } from '../custody/ids.ts';
import type { Log } from '../foundation/log.ts';
import { type Config, checksModule, keyFolderOf, type SlotConfig } from './config.ts';
import { readSecret } from './secrets.ts';

/**
 * Every custody technology that a slot can be configured with. An engine is loaded when a slot has it: a custodian
 * without a token loads no native addon, and one without KMS no AWS library.
 */
export const catalogue: { readonly [N in EngineName]: Maker<N> } = {
  pkcs11: async (id, { settings }, { config, folder, log }) => {
    const { createPkcs11Engine, refuseForeignModule } = await import('../engines/pkcs11/index.ts');
    if (checksModule(config, settings.module)) refuseForeignModule(settings.module);
    return createPkcs11Engine(id, { ...settings, folder }, log);
  },
  'encrypted-file': async (id, { settings }, { folder, log }) => {
    const { createEncryptedFileEngine } = await import('../engines/encrypted-file/index.ts');
    return createEncryptedFileEngine(id, { ...settings, folder }, log);
  },
  'hsm-sim': async (id, { settings, moduleSecret }, { config, folder, log }) => {
    const { createHsmSimEngine } = await import('../engines/hsm-sim/index.ts');
    const readModuleSecret = () => readSecret(config, moduleSecret, `slots.${id}.moduleSecret`);
    return createHsmSimEngine(id, { ...settings, folder }, readModuleSecret, log);
  },
  kms: async (id, { settings }, { folder, log }) => {
    const { createKmsEngine } = await import('../engines/kms/index.ts');
    return createKmsEngine(id, { ...settings, folder }, log);
  },
  mpc: async (id, { settings }, { folder, log }) => {
    const { createMpcEngine } = await import('../engines/mpc/index.ts');
    return createMpcEngine(id, { ...settings, folder }, log);
  },
  memory: async id => {
    const { createMemoryEngine } = await import('../engines/memory/index.ts');
    return createMemoryEngine(id);
  },
};

/** The label of the keys of a slot, known also when the engine itself cannot be asked. */
export function custodyOf({ engine, settings }: SlotConfig): CustodyLabel {
  switch (engine) {
    case 'pkcs11':
      return settings.mode === 'wrapped' ? 'hsm-wrapped' : 'hsm-native';
    case 'encrypted-file':
      return 'encrypted-file';
    case 'hsm-sim':
      return 'simulated-hsm';
    case 'kms':
      return custodyOfKms[settings.mode];
    case 'mpc':
      return 'shamir-envelope';
    case 'memory':
      return 'memory';
  }
}

const custodyOfKms = {
  simulated: 'simulated-kms',
  'aws-envelope': 'kms-envelope',
  'aws-native': 'kms-native',
} as const satisfies Record<string, CustodyLabel>;

/** The engine of one configured slot. Fails with the engine's start-up errors. */
export function createEngine(config: Config, slot: SlotConfig, log: Log): Promise<Engine> {
  const id = slotId(slot.id);
  const place = { config, folder: keyFolderOf(config, slot), log };
  switch (slot.engine) {
    case 'pkcs11':
      return catalogue.pkcs11(id, slot, place);
    case 'encrypted-file':
      return catalogue['encrypted-file'](id, slot, place);
    case 'hsm-sim':
      return catalogue['hsm-sim'](id, slot, place);
    case 'kms':
      return catalogue.kms(id, slot, place);
    case 'mpc':
      return catalogue.mpc(id, slot, place);
    case 'memory':
      return catalogue.memory(id, slot, place);
  }
}

type Maker<N extends EngineName> = (
  id: SlotId,
  slot: Extract<SlotConfig, { engine: N }>,
  place: Place,
) => Promise<Engine>;

interface Place {
  readonly config: Config;
  /** Where the slot keeps key files, for the engines that have any; an absolute path. */
  readonly folder: string;
  readonly log: Log;
}

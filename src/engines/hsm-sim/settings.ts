import { z } from 'zod';
import { envelopeSetting, folderSetting, unwrapCacheSetting } from '../../sealing/settings.ts';

/** What one `slots:` entry with `engine: hsm-sim` says. Its module secret and PIN stand beside the settings. */
export const hsmSimSettings = z.strictObject({
  slot: z
    .string()
    .min(1)
    .max(63)
    .default('slot-0')
    .describe('Name of the simulated HSM slot, as the key files of the agentic-wallet program hold it.'),
  folder: folderSetting,
  envelope: envelopeSetting,
  unwrapCache_ms: unwrapCacheSetting,
});

export type HsmSimSettings = z.infer<typeof hsmSimSettings>;

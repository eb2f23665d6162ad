import { z } from 'zod';

/** What a slot of key files can be told, whatever seals them; engines take of it what fits. */

export const folderSetting = z
  .string()
  .min(1)
  .optional()
  .describe('Folder of the key files; default: keys/<slot id>.');

export const envelopeSetting = z
  .enum(['keyslot', 'agentic-wallet'])
  .default('keyslot')
  .describe('Form of new key files; both forms are read.');

export const unwrapCacheSetting = z
  .int()
  .min(0)
  .max(3_600_000)
  .default(0)
  .describe('How long an unsealed key may stay in memory; 0 unseals it for each signature.');

import { z } from 'zod';
import { envelopeSetting, folderSetting, unwrapCacheSetting } from '../../sealing/settings.ts';

/** What one `slots:` entry with `engine: mpc` says. The three node secrets are its PIN. */
export const mpcSettings = z.strictObject({
  mode: z
    .literal('shamir')
    .default('shamir')
    .describe('shamir: each key in three shares, any two of which open it in this process.'),
  folder: folderSetting,
  envelope: envelopeSetting,
  unwrapCache_ms: unwrapCacheSetting,
});

export type MpcSettings = z.infer<typeof mpcSettings>;

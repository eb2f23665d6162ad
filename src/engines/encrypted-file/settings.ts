import { z } from 'zod';
import { envelopeSetting, folderSetting, unwrapCacheSetting } from '../../sealing/settings.ts';

/** What one `slots:` entry with `engine: encrypted-file` says. The PIN is the secret the files are sealed with. */
export const encryptedFileSettings = z.strictObject({
  folder: folderSetting,
  envelope: envelopeSetting,
  unwrapCache_ms: unwrapCacheSetting,
});

export type EncryptedFileSettings = z.infer<typeof encryptedFileSettings>;

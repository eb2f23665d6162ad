import { z } from 'zod';
import { KeyslotError } from '../foundation/errors.ts';

/** What a backup says of itself; the last entry of its archive, because it names all others with their hashes. */
const manifestSchema = z.strictObject({
  'keyslot-backup': z.literal(1),
  /** Of the Keyslot that made it. */
  version: z.string(),
  node: z.string(),
  created: z.iso.datetime(),
  /** The state folder it was made of. */
  home: z.string(),
  audit: z
    .strictObject({
      /** Records in the log. */
      size: z.int().min(0),
      /** The hash of the last one. */
      head: z.string().regex(/^[0-9a-f]{64}$/),
      /** Up to which record the store has counted; never more than `size`. */
      counted: z.int().min(0),
      /** The newest checkpoint, as the note that witnesses have. */
      checkpoint: z.string().optional(),
    })
    .optional(),
  keys: z.array(
    z.strictObject({
      id: z.string(),
      slot: z.string(),
      state: z.string(),
      custody: z.string().optional(),
      publicKey: z.string().optional(),
    }),
  ),
  files: z.array(
    z.strictObject({
      name: z.string(),
      bytes: z.int().min(0),
      sha256: z.string().regex(/^[0-9a-f]{64}$/),
    }),
  ),
  /** What the backup does not hold and a restored appliance needs. */
  separately: z.array(z.strictObject({ setting: z.string(), what: z.string() })),
});

export type BackupManifest = z.infer<typeof manifestSchema>;

export const manifestEntry = 'manifest.json';
export const manifest_bytes_max = 128 * 1024 * 1024;
export const files_max = 500_000;

/** BACKUP_INVALID. */
export function parseManifest(text: string): BackupManifest {
  try {
    return manifestSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new KeyslotError('BACKUP_INVALID', 'Its manifest is not one that this Keyslot reads.', { cause });
  }
}

import { isAbsolute } from 'node:path';
import { z } from 'zod';

/** What one `slots:` entry with `engine: pkcs11` says. Secrets are not here: the PIN is handed in at opening. */
export const pkcs11Settings = z
  .strictObject({
    module: z
      .string()
      .refine(isAbsolute, 'must be an absolute path of a PKCS#11 library')
      .describe('Absolute path of the vendor library.'),
    tokenLabel: z.string().min(1).max(32).optional().describe('CKA label of the token; must be unique.'),
    tokenSerial: z.string().min(1).max(16).optional().describe('Serial number of the token.'),
    mode: z.literal('native').default('native').describe('native: the private key never leaves the token.'),
    sessions: z
      .int()
      .min(1)
      .max(1024)
      .default(8)
      .describe('Sessions that sign at the same time; a slow token wants more, a fast one few.'),
    sessionMode: z
      .enum(['read-only', 'read-write'])
      .default('read-only')
      .describe('How signing sessions are opened; AWS CloudHSM refuses read-only ones.'),
    environment: z
      .record(z.string().regex(/^[A-Z][A-Z0-9_]*$/), z.string())
      .default({})
      .describe('Variables that the library reads in the custodian process, such as SOFTHSM2_CONF.'),
  })
  .refine(settings => settings.tokenLabel !== undefined || settings.tokenSerial !== undefined, {
    message: 'needs tokenLabel or tokenSerial: slot numbers change and are never used',
  });

export type Pkcs11Settings = z.infer<typeof pkcs11Settings>;

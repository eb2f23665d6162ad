import { isAbsolute } from 'node:path';
import { z } from 'zod';
import type { CustodyLabel } from '../../custody/engine.ts';
import { profileNames } from './profile.ts';

/** What one `slots:` entry with `engine: pkcs11` says. Secrets are not here: the PIN is handed in at opening. */
export const pkcs11Settings = z
  .strictObject({
    module: z
      .string()
      .refine(isAbsolute, 'must be an absolute path of a PKCS#11 library')
      .describe('Absolute path of the vendor library.'),
    moduleSha256: z
      .string()
      .regex(/^[0-9a-f]{64}$/, 'must be SHA-256 in hexadecimal')
      .optional()
      .describe('What the SHA-256 of that file must be; it is not loaded when it is another.'),
    profile: z
      .union([
        z.enum(profileNames),
        z
          .string()
          .refine(isAbsolute, `must be one of ${profileNames.join(', ')}, or an absolute path of a file`),
      ])
      .optional()
      .describe(
        'Device profile: a name of hsm-config, or the absolute path of one of your own; default generic.',
      ),
    tokenLabel: z.string().min(1).max(32).optional().describe('CKA label of the token; must be unique.'),
    tokenSerial: z.string().min(1).max(16).optional().describe('Serial number of the token.'),
    mode: z
      .enum(['native', 'wrapped'])
      .default('native')
      .describe(
        'native: the private key never leaves the token. wrapped: for tokens without EdDSA; an AES key of the ' +
          'token seals the seeds, which are in process memory while they sign.',
      ),
    wrappingKey: z
      .string()
      .regex(/^[\x21-\x7e]{1,32}$/, 'must be 1 to 32 visible ASCII characters')
      .optional()
      .describe('mode wrapped: label of the AES key of the token, default keyslot-wrapping.'),
    gcmIv: z
      .enum(['random', 'device'])
      .optional()
      .describe('mode wrapped: who makes the IV of AES-GCM, default as in the profile.'),
    folder: z.string().min(1).optional().describe('mode wrapped: where the sealed seeds are.'),
    unwrapCache_ms: z
      .int()
      .min(0)
      .max(3_600_000)
      .optional()
      .describe('mode wrapped: how long an opened seed may stay in memory, default 0: for one signature.'),
    sessions: z
      .int()
      .min(1)
      .max(1024)
      .optional()
      .describe(
        'Sessions that sign at the same time, default as in the profile; a slow token wants more, a fast one few.',
      ),
    callLimit_ms: z
      .int()
      .min(100)
      .max(25_000)
      .optional()
      .describe(
        'How long one call that signs may take, default 15,000; then its request fails and its session is written off.',
      ),
    sessionMode: z
      .enum(['read-only', 'read-write'])
      .optional()
      .describe('How signing sessions are opened, default as in the profile.'),
    libraryParameters: z
      .string()
      .regex(/^[\x20-\x7e]{1,4096}$/, 'must be visible ASCII characters')
      .optional()
      .describe('What C_Initialize is given for libraries that ask for it, such as NSS softoken.'),
    environment: z
      .record(z.string().regex(/^[A-Z][A-Z0-9_]*$/), z.string())
      .default({})
      .describe('Variables that the library reads in the custodian process, such as SOFTHSM2_CONF.'),
  })
  .refine(settings => settings.tokenLabel !== undefined || settings.tokenSerial !== undefined, {
    message: 'needs tokenLabel or tokenSerial: slot numbers change and are never used',
  })
  .superRefine((settings, context) => {
    if (settings.mode === 'wrapped') return;
    for (const name of wrappedOnly) {
      if (settings[name] === undefined) continue;
      context.addIssue({ code: 'custom', path: [name], message: 'is a setting of mode: wrapped only' });
    }
  });

export type Pkcs11Settings = z.infer<typeof pkcs11Settings>;

const wrappedOnly = ['wrappingKey', 'gcmIv', 'folder', 'unwrapCache_ms'] as const;

/** The label of the keys of a slot. */
export const custodyOfMode: { readonly [M in Pkcs11Settings['mode']]: CustodyLabel } = {
  native: 'hsm-native',
  wrapped: 'hsm-wrapped',
};

export type GcmIvPolicy = NonNullable<Pkcs11Settings['gcmIv']>;

/** What a slot has that names no profile. */
export const defaultProfile = 'generic' satisfies (typeof profileNames)[number];

export const defaultWrappingKey = 'keyslot-wrapping';

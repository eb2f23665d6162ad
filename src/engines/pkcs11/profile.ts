import { readFileSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { KeyslotError } from '../../foundation/errors.ts';
import { limits } from '../../foundation/limits.ts';

/**
 * How one kind of token wants to be talked to, as data: `hsm-config/<name>.json`, or a file of the operator's.
 *
 * A profile says what a token is given and how it is read, never what a key may do: the value of every attribute
 * is the engine's (`device.ts`), and what the token made of it is read back. A profile can make a token refuse,
 * not make a key exportable.
 */
export const profileForm = z.strictObject({
  $schema: z.string().optional(),
  device: z.string().min(1).describe('The device and the versions of it that are meant.'),
  testedOnHardware: z
    .union([z.literal(false), z.string().min(1)])
    .describe('false, or where it was: nothing is assumed to work because it is written here.'),
  modules: z
    .array(z.string().refine(isAbsolute, 'must be an absolute path'))
    .describe('Where distributions and vendors put the PKCS#11 library.'),
  keyPair: z
    .strictObject({
      mechanisms: z
        .array(z.enum(['CKM_EC_EDWARDS_KEY_PAIR_GEN', 'CKM_EC_KEY_PAIR_GEN']))
        .min(1)
        .describe('Mechanisms that make an Ed25519 pair, tried in this order.'),
      curveForms: z
        .array(z.enum(['oid', 'printable-string']))
        .min(1)
        .describe('CKA_EC_PARAMS: the OID 1.3.101.112 or the PrintableString "edwards25519", in this order.'),
      keyTypes: z
        .array(z.enum(['CKK_EC_EDWARDS', 'CKK_EC']))
        .min(1)
        .describe('CKA_KEY_TYPE under which such keys are found; the first is given at an import.'),
      publicAttributes: z
        .array(z.enum(['TOKEN', 'PRIVATE', 'VERIFY']))
        .describe('What the public half is given besides CKA_ID, CKA_LABEL and CKA_EC_PARAMS.'),
      privateAttributes: z
        .array(z.enum(['TOKEN', 'PRIVATE', 'SENSITIVE', 'EXTRACTABLE', 'SIGN', 'DERIVE']))
        .describe('What the private half is given besides CKA_ID and CKA_LABEL.'),
      import: z.boolean().describe('Whether C_CreateObject takes a private key from outside.'),
    })
    .describe('Keys of mode native.'),
  wrappingKey: z
    .strictObject({
      attributes: z
        .array(
          z.enum([
            'TOKEN',
            'PRIVATE',
            'SENSITIVE',
            'EXTRACTABLE',
            'ENCRYPT',
            'DECRYPT',
            'WRAP',
            'UNWRAP',
            'SIGN',
            'VERIFY',
            'DERIVE',
          ]),
        )
        .describe('What the AES key is given besides CKA_ID, CKA_LABEL and CKA_VALUE_LEN.'),
      gcmIv: z
        .enum(['random', 'device'])
        .describe('Who makes the IV of AES-GCM: Keyslot on this host (random), or the device.'),
    })
    .optional()
    .describe('Mode wrapped; absent where the device has no AES-GCM.'),
  keyId: z
    .enum(['text', 'two-bytes'])
    .describe(
      'CKA_ID. text: the key id, by which keys are found. two-bytes: a free number; keys are found by CKA_LABEL.',
    ),
  label: z
    .strictObject({
      bytes_max: z.int().min(1).max(255),
      pattern: z.string().max(200).refine(isPattern, 'must be a regular expression'),
    })
    .describe('CKA_LABEL: the longest one and the characters it takes. Key ids have at most 63 characters.'),
  sessions: z
    .strictObject({
      count: z.int().min(1).max(1024).describe('Sessions that sign, unless the slot says otherwise.'),
      count_max: z.int().min(1).max(1024).describe('More are refused.'),
      mode: z.enum(['read-only', 'read-write']).describe('How signing sessions are opened.'),
    })
    .describe('Sessions of one slot.'),
  threads: z
    .int()
    .min(1)
    .max(1024)
    .describe('Value of custodian.threads with which that many sessions sign at the same time: a hint.'),
  message_bytes_max: z.int().min(1).max(limits.message_bytes_max).describe('The largest message to sign.'),
  errors: z
    .array(
      z.strictObject({
        code: z
          .string()
          .regex(/^0x[0-9a-f]{1,8}$/, 'is written as 0x31')
          .refine(code => !pinCodes.has(Number(code)), 'is about the PIN: a refused PIN stays refused'),
        name: z.string().regex(/^CKR_[A-Z0-9_]+$/),
        class: z.enum([
          'caller',
          'capability',
          'stale-handle',
          'session',
          'login',
          'capacity',
          'transient',
          'device',
        ]),
        meaning: z.string().min(1),
      }),
    )
    .describe('CKR codes that mean something of their own here: their class, and what to tell the operator.'),
  pin: z
    .strictObject({
      form: z.string().min(1).describe('The form in words, for people.'),
      pattern: z
        .string()
        .max(200)
        .refine(isPattern, 'must be a regular expression')
        .describe('The form as a regular expression of the whole PIN; another PIN never reaches the token.'),
      attempts_max: z
        .int()
        .min(1)
        .nullable()
        .describe('Wrong PINs until the device locks; null: never, or not on record.'),
    })
    .describe('The PIN of the user.'),
  notes: z.array(z.string().min(1)).describe('What an operator has to know.'),
  sources: z.array(z.string().min(1)).min(1).describe('The public documents that this was read in.'),
});

export type Profile = Readonly<z.infer<typeof profileForm>>;

export const profileNames = [
  'generic',
  'softhsm2',
  'aws-cloudhsm',
  'yubihsm2',
  'thales-luna',
  'entrust-nshield',
  'nethsm',
  'kryoptic',
] as const;

/** A profile by its name, or by the absolute path of a file of one's own. CONFIG_INVALID names what is wrong. */
export function readProfile(nameOrPath: string): Profile {
  const path = isAbsolute(nameOrPath)
    ? nameOrPath
    : fileURLToPath(new URL(`${nameOrPath}.json`, profileFolder));
  const parsed = profileForm.safeParse(jsonOf(path));
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const field = issue?.path.join('.') || 'the profile';
  throw new KeyslotError('CONFIG_INVALID', `The device profile ${path}: ${field}: ${issue?.message}.`, {
    cause: parsed.error,
  });
}

// Beside src/ and dist/ alike.
const profileFolder = new URL('../../../hsm-config/', import.meta.url);

// CKR_PIN_INCORRECT to CKR_PIN_LOCKED, CKR_USER_PIN_NOT_INITIALIZED (PKCS#11 v3.1 §3.6)
const pinCodes: ReadonlySet<number> = new Set([0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0x102]);

function jsonOf(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch (cause) {
    throw new KeyslotError('CONFIG_INVALID', `The device profile ${path} cannot be read as JSON.`, { cause });
  }
}

function isPattern(text: string): boolean {
  try {
    return new RegExp(text, 'u') !== undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return false;
    throw error;
  }
}

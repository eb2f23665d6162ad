import { z } from 'zod';

/** What Keyslot shows of slots, keys and sessions: the shapes of its replies, the same on the socket and in HTTP. */

const custodyLabel = z.enum([
  'hsm-native',
  'hsm-wrapped',
  'kms-native',
  'kms-envelope',
  'threshold',
  'shamir-envelope',
  'simulated-hsm',
  'encrypted-file',
  'memory',
]);

export const slotState = z.enum(['locked', 'open', 'degraded', 'failed', 'latched']);
export const accessMode = z.enum(['session', 'identity', 'both']);

/** A difference between the registry and the token, found when the slot was opened. Never repaired silently. */
const keyFinding = z.object({ key: z.string(), problem: z.enum(['missing', 'unknown', 'mismatch']) });

export const slotView = z.object({
  id: z.string(),
  engine: z.string(),
  custody: custodyLabel,
  state: slotState,
  /** Why the slot is not open, as an error code and a sentence. */
  reason: z.object({ code: z.string(), detail: z.string() }).optional(),
  access: accessMode,
  attended: z.boolean(),
  summary: z.string(),
  details: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
  findings: z.array(keyFinding),
});

export const keyView = z.object({
  id: z.string(),
  slot: z.string(),
  /** The Solana address: base58 of the public key. */
  publicKey: z.string(),
  publicKeyBase64: z.string(),
  custody: custodyLabel,
  exportable: z.boolean(),
  state: z.enum(['active', 'disabled', 'pending-deletion', 'destroyed']),
  origin: z.enum(['generated', 'imported']),
  createdAt: z.string(),
  /** As the custody itself reports them (PKCS#11 v3.1 §4.9); absent where it has none to report. */
  attributes: z.record(z.string(), z.boolean()).optional(),
});

export const sessionView = z.object({
  slot: z.string(),
  expiresAt: z.string(),
  idle_s: z.number(),
});

export const health = z.object({
  ready: z.boolean(),
  checks: z.array(z.object({ id: z.string(), ok: z.boolean(), state: z.string() })),
});

export type SlotView = z.infer<typeof slotView>;
export type SlotState = z.infer<typeof slotState>;
export type AccessMode = z.infer<typeof accessMode>;
export type KeyView = z.infer<typeof keyView>;
export type SessionView = z.infer<typeof sessionView>;
export type Health = z.infer<typeof health>;

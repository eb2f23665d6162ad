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
  'simulated-kms',
  'encrypted-file',
  'memory',
]);

export const slotState = z.enum(['locked', 'open', 'degraded', 'failed', 'latched']);
export const accessMode = z.enum(['session', 'identity', 'both']);

/**
 * A difference between the registry and the token, found when the slot was opened. Never repaired silently.
 * `kept-copy` is none that anybody has to look into: a migration left the key here on purpose.
 */
const keyFinding = z.object({
  key: z.string(),
  problem: z.enum(['missing', 'damaged', 'unknown', 'mismatch', 'kept-copy']),
});

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
  /** By which policies and grants may name it together with others. */
  tags: z.array(z.string()),
  origin: z.enum(['generated', 'imported']),
  createdAt: z.string(),
  /** As the custody itself reports them (PKCS#11 v3.1 §4.9); absent where it has none to report. */
  attributes: z.record(z.string(), z.boolean()).optional(),
});

/** A key whose id is a UUID, as the wallet routes show it. */
export const walletView = z.object({
  id: z.string(),
  publicKey: z.string(),
  custody: custodyLabel,
  /** Where the key is in the words of the agentic-wallet page. */
  keyProvenance: z.object({
    backend: z.enum(['encrypted-file', 'memory', 'kms', 'hsm', 'mpc']),
    custody: z.enum(['local', 'external']),
    deterministicAddressing: z.literal(false),
  }),
  status: z.enum(['active', 'disabled']),
  createdAt: z.string(),
  label: z.string().optional(),
});

export const sessionView = z.object({
  slot: z.string(),
  expiresAt: z.string(),
  idle_s: z.number(),
});

/** What shows that an open slot signs: its canary key, and the signatures of callers that verified. */
export const canaryView = z.object({
  /** Whether the state is `proven`. */
  ok: z.boolean(),
  /**
   * `proven`: a signature verified within the last three intervals. `unverified`: the last one of the canary was
   * wrong. `unavailable`: the slot takes no canary key, which says nothing of the keys that it has.
   */
  state: z.enum(['proven', 'unproven', 'unverified', 'unavailable']),
  every_s: z.number(),
  /** Since the last signature, of the canary or a caller, that verified. */
  age_s: z.number().optional(),
  /** Of the canary, since the slot was opened. */
  signatures: z.int(),
  failures: z.int(),
  unverified: z.int(),
  lastError: z.object({ code: z.string(), at: z.string() }).optional(),
});

/** One attempt of a canary. */
export const trialView = z.object({
  ok: z.boolean(),
  took_ms: z.number(),
  at: z.string(),
  error: z.object({ code: z.string(), detail: z.string() }).optional(),
});

export const health = z.object({
  /** Whether every check is ok that is required. */
  ready: z.boolean(),
  /** `custody`: what the keys of the slot are behind, said here too because a simulation must not look like an HSM. */
  checks: z.array(
    z.object({
      id: z.string(),
      ok: z.boolean(),
      state: z.string(),
      custody: custodyLabel.optional(),
      /** Since when it has been in this state. */
      since: z.string().optional(),
      /** False for what is shown and does not count for `ready`. */
      required: z.boolean().optional(),
      /** Of a slot: the group through which it is judged. */
      group: z.string().optional(),
      /** Of a slot: how many differences between registry and token there are, and how many keep a key from signing. */
      findings: z.object({ all: z.int(), harmful: z.int() }).optional(),
      canary: canaryView.optional(),
      /** Of a group: its slots, and whether each could do it all alone. */
      members: z.array(z.object({ slot: z.string(), ok: z.boolean() })).optional(),
      /** Of the audit log: against whom it speaks. */
      tamperEvidence: z.enum(['chain', 'local', 'witnessed']).optional(),
      /** Of an AWS CloudHSM cluster, which does not count for `ready`: what was asked, and when. */
      preflight: z.record(z.string(), z.enum(['ok', 'unknown', 'warn', 'fail'])).optional(),
      askedAt: z.string().optional(),
    }),
  ),
});

export type CanaryView = z.infer<typeof canaryView>;
export type TrialView = z.infer<typeof trialView>;
export type HealthCheck = z.infer<typeof health>['checks'][number];

const reason = z.object({ code: z.string(), detail: z.string() });

/** What of a migration is possible, key by key; making it changed nothing. */
export const migrationPlanView = z.object({
  from: z.string(),
  to: z.string(),
  possible: z.int(),
  impossible: z.int(),
  /** Why no key at all can go this way. */
  obstacle: reason.optional(),
  /** What callers would notice of it: other access, or no grant of the target. */
  notes: z.array(z.string()),
  /** The impossible ones first, and no more than a page; the counts are of all. */
  keys: z.array(
    z.object({
      key: z.string(),
      publicKey: z.string().optional(),
      possible: z.boolean(),
      reason: reason.optional(),
    }),
  ),
});

const migrationStep = z.enum([
  'planned',
  'imported',
  'proven',
  'switched',
  'kept',
  'destroyed',
  'rolled-back',
  'cleared',
]);

export const migrationView = z.object({
  id: z.string(),
  from: z.string(),
  to: z.string(),
  createdAt: z.string(),
  createdBy: z.string(),
  /** `unfinished`: there are keys that are not moved yet. */
  state: z.enum(['unfinished', 'finished']),
  /** How many keys stand at which step. */
  counts: z.record(migrationStep, z.int()),
  /** Keys whose last attempt failed. */
  failed: z.int(),
});

export const migrationKeyView = z.object({
  key: z.string(),
  publicKey: z.string(),
  step: migrationStep,
  custodyBefore: custodyLabel,
  custodyAfter: custodyLabel.optional(),
  times: z.record(z.string(), z.string()),
  /** The last challenge that the key signed for this migration; anybody can check it with the public key. */
  proof: z
    .object({
      slot: z.string(),
      at: z.string(),
      challenge: z.string(),
      challengeSha256: z.string(),
      signature: z.string(),
    })
    .optional(),
  error: reason.optional(),
});

export type MigrationPlanView = z.infer<typeof migrationPlanView>;
export type MigrationView = z.infer<typeof migrationView>;
export type MigrationKeyView = z.infer<typeof migrationKeyView>;
export type SlotView = z.infer<typeof slotView>;
export type SlotState = z.infer<typeof slotState>;
export type AccessMode = z.infer<typeof accessMode>;
export type KeyView = z.infer<typeof keyView>;
export type WalletView = z.infer<typeof walletView>;
export type SessionView = z.infer<typeof sessionView>;
export type Health = z.infer<typeof health>;

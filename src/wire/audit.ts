import { z } from 'zod';
import { nothing, once, operation, repeatable } from './operation.ts';

/** The audit log through the API. */

/** Where a signature stands in the audit log: the seq and the SHA-256 of the record, and where its proof is. */
export const receipt = z.object({ node: z.string(), seq: z.int(), hash: z.string(), proof: z.string() });
export type ReceiptView = z.infer<typeof receipt>;

export const auditStatusView = z.object({
  node: z.string(),
  boot: z.string(),
  state: z.enum(['ok', 'full', 'failed']),
  size: z.int(),
  first: z.int(),
  checkpointed: z.int(),
  witnessed: z.int(),
  tamperEvidence: z.enum(['chain', 'local', 'witnessed']),
  witnesses: z.array(z.object({ id: z.string(), size: z.int(), error: z.string().optional() })),
  /** The audit key, in base58; absent while checkpoints are not signed. */
  publicKey: z.string().optional(),
});

export type AuditStatus = z.infer<typeof auditStatusView>;

export const auditOperations = {
  'audit-status': operation(nothing, auditStatusView, repeatable),
  /** The lines as they stand in the log; the verifier wants every byte. */
  'read-audit': operation(
    z.strictObject({ from: z.int().min(0), limit: z.int().min(1) }),
    z.object({ lines: z.array(z.string()), next: z.int().optional(), size: z.int() }),
    repeatable,
  ),
  'prove-audit': operation(
    z.strictObject({ seq: z.int().min(0), size: z.int().min(1).optional() }),
    z.object({
      seq: z.int(),
      size: z.int(),
      leaf: z.string(),
      path: z.array(z.string()),
      checkpoint: z.string(),
    }),
    repeatable,
  ),
  'audit-consistency': operation(
    z.strictObject({ from: z.int().min(0), to: z.int().min(0) }),
    z.object({ from: z.int(), to: z.int(), path: z.array(z.string()) }),
    repeatable,
  ),
  'list-checkpoints': operation(
    z.strictObject({ from: z.int().min(0), limit: z.int().min(1) }),
    z.object({ checkpoints: z.array(z.string()) }),
    repeatable,
  ),
  'prune-audit': operation(
    z.strictObject({ below: z.int().min(1) }),
    z.object({ removed: z.array(z.string()), first: z.int() }),
    once,
  ),
} as const;

import { z } from 'zod';
import { id, nothing, once, operation, repeatable } from './operation.ts';

/** Policies, freezes and approvals: what gateway and custodian say of them. */

/** A policy document as it was given; its own schema is the custodian's (policy/document.ts). */
const document = z.record(z.string(), z.unknown());

export const policyView = z.object({
  name: z.string(),
  version: z.int(),
  /** Where it is kept: a file of the configuration, or the store, through the API. */
  source: z.enum(['configuration', 'api']),
  /** Whether it lets everything through that its keys can sign. */
  permissive: z.boolean(),
  document,
  createdAt: z.string(),
  createdBy: z.string(),
});
export type PolicyView = z.infer<typeof policyView>;

const verdictView = z.object({
  allowed: z.boolean(),
  /** `name@version` of every policy that was asked. */
  policies: z.array(z.string()),
  violations: z.array(z.object({ rule: z.string(), reason: z.string(), instruction: z.int().optional() })),
  /** Each rule's verdict, in the order of the documents. */
  rules: z.array(
    z.object({
      rule: z.string(),
      verdict: z.enum(['allow', 'deny', 'skip']),
      reason: z.string(),
      instruction: z.int().optional(),
    }),
  ),
  /** What would count against limits. */
  charges: z.array(z.object({ counter: z.string(), window_s: z.number(), amount: z.string() })),
  /** What the request would do, decoded. */
  decoded: z.looseObject({ kind: z.string() }),
});
export type VerdictView = z.infer<typeof verdictView>;

export const freezeScope = z.enum(['appliance', 'slot', 'key']);
export const freezeView = z.object({
  /** `appliance`, `slot/<id>` or `key/<id>`. */
  id: z.string(),
  scope: freezeScope,
  target: z.string().optional(),
  reason: z.string(),
  since: z.string(),
  by: z.string(),
});
export type FreezeView = z.infer<typeof freezeView>;

export const approvalView = z.object({
  id: z.string(),
  operation: z.string(),
  /** Exactly what will be done: the input of the operation. */
  input: z.record(z.string(), z.unknown()),
  /** SHA-256 of operation, input and requester, in hexadecimal: what approvers say yes to. */
  digest: z.string(),
  requestedBy: z.string(),
  reason: z.string(),
  needed: z.int(),
  approvedBy: z.array(z.string()),
  rejectedBy: z.array(z.string()),
  state: z.enum(['pending', 'approved', 'rejected', 'used', 'expired']),
  expiresAt: z.string(),
});
export type ApprovalView = z.infer<typeof approvalView>;

export const policyOperations = {
  'list-policies': operation(nothing, z.object({ policies: z.array(policyView) }), repeatable),
  /** The newest version, or the one that is named. */
  'show-policy': operation(
    z.strictObject({ policy: id, version: z.int().min(1).optional() }),
    policyView,
    repeatable,
  ),
  /** `expected`: the version that the change was made from; 0 for a policy that must not exist yet. */
  'put-policy': operation(
    z.strictObject({ policy: id, document, expected: z.int().min(0).optional() }),
    policyView,
    once,
  ),
  'delete-policy': operation(z.strictObject({ policy: id }), policyView, once),
  /** bytes: the wire transaction or the message. `document`: a candidate that is asked in place of the policies. */
  'evaluate-policy': operation(
    z.strictObject({ key: id, kind: z.enum(['transaction', 'message']), document: document.optional() }),
    verdictView,
    repeatable,
  ),
  'list-freezes': operation(nothing, z.object({ freezes: z.array(freezeView) }), repeatable),
  freeze: operation(
    z.strictObject({ scope: freezeScope, target: id.optional(), reason: z.string().min(1).max(500) }),
    freezeView,
    once,
  ),
  /** `freeze`: `appliance`, `slot/<id>` or `key/<id>`. */
  thaw: operation(z.strictObject({ freeze: id, reason: z.string().min(1).max(500) }), freezeView, once),
  'list-approvals': operation(nothing, z.object({ approvals: z.array(approvalView) }), repeatable),
  'show-approval': operation(z.strictObject({ approval: id }), approvalView, repeatable),
  'request-approval': operation(
    z.strictObject({
      operation: z.string().max(40),
      input: z.record(z.string(), z.unknown()),
      reason: z.string().min(1).max(500),
    }),
    approvalView,
    once,
  ),
  /** `digest`: what the approver read, so that nobody approves what was swapped under their eyes. */
  'decide-approval': operation(
    z.strictObject({ approval: id, decision: z.enum(['approve', 'reject']), digest: z.string().length(64) }),
    approvalView,
    once,
  ),
} as const;

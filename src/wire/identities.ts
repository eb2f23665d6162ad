import { z } from 'zod';
import { id, nothing, once, operation, repeatable } from './operation.ts';

/** Who may ask for what: the shapes of identities, their grants and their tokens, in the API and in the configuration. */

export const roles = ['admin', 'operator', 'signer', 'approver', 'auditor', 'metrics', 'backup'] as const;
export const grantOperations = [
  'sign-transaction',
  'sign-message',
  'raw',
  'generate',
  'import',
  'export',
  'manage',
] as const;

/**
 * What an identity may do with which keys; a role says what it may do at all. Keys by id, by tag, or all those
 * of a slot; a slot's own operations (open, generate) take a grant of the slot.
 */
export const grant = z.strictObject({
  keys: z.array(id).optional(),
  tags: z.array(id).optional(),
  slots: z.union([z.literal('*'), z.array(id)]).optional(),
  operations: z.union([z.literal('*'), z.array(z.enum(grantOperations))]),
});
export type GrantShape = z.infer<typeof grant>;

const digest = z.string().regex(/^[0-9a-f]{64}$/, 'must be SHA-256 in hexadecimal');
/** `dns:host`, `uri:spiffe://…`, `email:…` */
const subjectAltName = z.string().regex(/^(dns|uri|email|ip):.{1,512}$/);

/** How an identity is recognised. Absent for one that has API tokens alone. */
export const recognition = z.union([
  z.strictObject({ spki: digest }),
  /** `ca`: the SPKI of the CA that issued it; without it, any CA that the listener trusts. */
  z.strictObject({ san: subjectAltName, ca: digest.optional() }),
  z.strictObject({
    /** The name of a configured issuer. */
    jwt: z.string(),
    subject: z.string().min(1).max(255),
    /** Claims that must have exactly these values, or hold them in a list. */
    claims: z.record(z.string(), z.string()).optional(),
  }),
]);
export type Recognition = z.infer<typeof recognition>;

/** Public-key algorithms alone: with HS256 whoever knows the public key could make tokens, with none anybody. */
export const jwtAlgorithms = [
  'EdDSA',
  'Ed25519',
  'ES256',
  'ES384',
  'ES512',
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
] as const;
export type JwtAlgorithm = (typeof jwtAlgorithms)[number];

export const identityShape = z.strictObject({
  roles: z.array(z.enum(roles)).min(1),
  grants: z.array(grant).max(100).default([]),
  recognisedBy: recognition.optional(),
});

export const identityView = z.object({
  name: z.string(),
  roles: z.array(z.enum(roles)),
  grants: z.array(grant),
  /** In words: `certificate <spki>`, `san uri:…`, `jwt corporate/alice`, `token`, `role id`, `API tokens`. */
  recognisedBy: z.string(),
  source: z.enum(['configuration', 'api']),
  createdAt: z.string().optional(),
  createdBy: z.string().optional(),
});
export type IdentityView = z.infer<typeof identityView>;

export const apiTokenView = z.object({
  id: z.string(),
  identity: z.string(),
  label: z.string(),
  createdAt: z.string(),
  createdBy: z.string(),
  expiresAt: z.string(),
  state: z.enum(['active', 'expired', 'revoked']),
});
export type ApiTokenView = z.infer<typeof apiTokenView>;

export const identityOperations = {
  'who-am-i': operation(nothing, identityView, repeatable),
  'list-identities': operation(nothing, z.object({ identities: z.array(identityView) }), repeatable),
  'create-identity': operation(z.strictObject({ identity: id, shape: identityShape }), identityView, once),
  'delete-identity': operation(z.strictObject({ identity: id }), identityView, once),
  'list-tokens': operation(
    z.strictObject({ identity: id.optional() }),
    z.object({ tokens: z.array(apiTokenView) }),
    repeatable,
  ),
  /** Answer bytes: the token, as text; it is shown once and kept as a keyed hash. */
  'issue-token': operation(
    z.strictObject({ identity: id, label: z.string().max(100), expires_s: z.int().min(1).max(31_536_000) }),
    apiTokenView,
    once,
  ),
  'revoke-token': operation(z.strictObject({ token: id }), apiTokenView, once),
} as const;

/** The bodies of their routes. A token lives for 90 days, unless it is said otherwise. */
export const identityBodies = {
  createIdentity: identityShape.extend({ name: id }),
  issueToken: z.strictObject({
    identity: id,
    label: z.string().max(100).default(''),
    expiresIn_s: z
      .int()
      .min(1)
      .max(31_536_000)
      .default(90 * 86_400),
  }),
} as const;

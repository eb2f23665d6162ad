import { z } from 'zod';
import { type ErrorCode, errorTable } from '../../foundation/errors.ts';
import { receipt } from '../audit.ts';
import { operations } from '../custodian.ts';
import { apiTokenView } from '../identities.ts';
import { keyView, sessionView, walletView } from '../views.ts';

/** Answers that the gateway puts together: the JSON of the custodian, and beside it what came as bytes. */

const codes = Object.keys(errorTable) as [ErrorCode, ...ErrorCode[]];
export const errorCode = z.enum(codes);
export const violation = z.object({ rule: z.string(), reason: z.string() });
const violations = z
  .array(violation)
  .optional()
  .meta({ description: 'The rules that refused, where a policy did.' });

/** RFC 9457 */
export const problem = z.object({
  type: z.string(),
  title: z.string(),
  status: z.int(),
  detail: z.string(),
  code: errorCode,
  remedy: z.string(),
  retryable: z
    .boolean()
    .meta({ description: 'Whether the same request may succeed later without anybody changing it.' }),
  requestId: z.string(),
  violations,
});

const signature = { signature: z.string(), signatureBase64: z.string() };
const by = { publicKey: z.string(), custody: z.string() };
const message = { ...signature, kind: z.enum(['bytes', 'offchain', 'raw-transaction']), receipt };
const transaction = {
  signedTransaction: z.string(),
  ...signature,
  version: z.enum(['legacy', 'v0', 'v1']),
  receipt,
};

export const signedMessage = z.object({ ...message, ...by });
export const signedTransaction = z.object({ ...transaction, ...by });
export const signedBatch = z.object({
  results: z
    .array(z.union([z.object(message), z.object(transaction), z.object({ error: problem })]))
    .meta({ description: 'An item each, in order.' }),
  ...by,
});

export const openedSession = sessionView.extend({ token: z.string() });
export const exportedKey = keyView.extend({ secretKey: z.array(z.int().min(0).max(255)).length(64) });
export const issuedToken = apiTokenView.extend({ token: z.string() });
export const nothing = operations['close-session'].output;

export const alive = z.object({ status: z.literal('ok') });
export const exposition = z.string().meta({ description: 'The text format of Prometheus, version 0.0.4.' });
export const openApi = z.looseObject({ openapi: z.string() });

/** The wallet routes: answers are `{data}`, failures `{error}` with the code beside it. */
export const wallet = walletView.omit({ custody: true }).extend({
  provider: z.enum(['local-dev', 'local-memory', 'kms', 'hsm', 'mpc']),
  custodyLabel: walletView.shape.custody,
});
export const walletReplies = {
  one: z.object({ data: wallet }),
  list: z.object({ data: z.array(wallet), next: z.string().optional() }),
  signed: z.object({
    data: z.union([
      z.object({ signatureBase64: z.string(), signatureBase58: z.string(), receipt }),
      z.object({
        signedTransaction: z.string(),
        signature: z.string(),
        txVersion: z.enum(['legacy', 'v0', 'v1']),
        receipt,
      }),
    ]),
  }),
  balance: z.object({
    data: z.object({ walletId: z.string(), publicKey: z.string(), lamports: z.number(), sol: z.number() }),
  }),
  tokens: z.object({
    data: z.object({
      walletId: z.string(),
      tokens: z.array(
        z.object({
          mint: z.string(),
          amount: z.string(),
          decimals: z.int(),
          uiAmount: z.number().nullable(),
          program: z.string(),
        }),
      ),
    }),
  }),
  alive: z.object({ status: z.literal('ok'), service: z.literal('wallet-engine') }),
  failure: z.looseObject({
    error: z.union([
      z.string(),
      z.object({ formErrors: z.array(z.string()), fieldErrors: z.record(z.string(), z.array(z.string())) }),
    ]),
    code: errorCode,
    requestId: z.string(),
    violations,
  }),
} as const;

/** Vault's answers. */
const vaultEnvelope = {
  request_id: z.string(),
  lease_id: z.string(),
  renewable: z.boolean(),
  lease_duration: z.int(),
  wrap_info: z.null(),
  warnings: z.array(z.string()).nullable(),
};
const vaultData = <D extends z.ZodType>(data: D) => z.object({ ...vaultEnvelope, data, auth: z.null() });
const reference = { reference: z.string().optional() };
const vaultBatch = <I extends z.ZodObject>(item: I) =>
  z.union([
    item,
    z.object({
      batch_results: z.array(
        z.union([item.extend(reference), z.object({ error: z.string(), ...reference })]),
      ),
    }),
  ]);

export const vaultReplies = {
  signed: vaultData(
    vaultBatch(z.object({ signature: z.string().regex(/^vault:v1:/), key_version: z.literal(1), receipt })),
  ),
  verified: vaultData(vaultBatch(z.object({ valid: z.boolean() }))),
  keys: vaultData(z.object({ keys: z.array(z.string()) })),
  key: vaultData(
    z.object({
      name: z.string(),
      type: z.literal('ed25519'),
      keys: z.record(
        z.string(),
        z.object({ creation_time: z.string(), name: z.string(), public_key: z.string() }),
      ),
      latest_version: z.literal(1),
      min_available_version: z.int(),
      min_decryption_version: z.int(),
      min_encryption_version: z.int(),
      supports_signing: z.boolean(),
      supports_encryption: z.literal(false),
      supports_decryption: z.literal(false),
      supports_derivation: z.literal(false),
      derived: z.literal(false),
      exportable: z.literal(false),
      allow_plaintext_backup: z.literal(false),
      deletion_allowed: z.literal(false),
      auto_rotate_period: z.int(),
      imported_key: z.literal(false),
    }),
  ),
  login: z.object({
    ...vaultEnvelope,
    data: z.null(),
    auth: z.object({
      client_token: z.string(),
      accessor: z.string(),
      policies: z.array(z.string()),
      token_policies: z.array(z.string()),
      metadata: z.object({ role_name: z.string() }),
      lease_duration: z.number(),
      renewable: z.literal(false),
      entity_id: z.string(),
      token_type: z.literal('service'),
      orphan: z.literal(true),
      mfa_requirement: z.null(),
      num_uses: z.int(),
    }),
  }),
  health: z.object({
    initialized: z.literal(true),
    sealed: z.boolean(),
    standby: z.literal(false),
    performance_standby: z.literal(false),
    replication_performance_mode: z.string(),
    replication_dr_mode: z.string(),
    version: z.string(),
    server_time_utc: z.int(),
    cluster_name: z.string(),
    cluster_id: z.string(),
  }),
  failure: z.object({ errors: z.array(z.string()) }),
} as const;

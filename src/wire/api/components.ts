import { z } from 'zod';
import { auditStatusView, receipt } from '../audit.ts';
import { operations } from '../custodian.ts';
import { checkNode } from '../health-tree.ts';
import { bodies } from '../http.ts';
import { apiTokenView, grant, identityBodies, identityView, recognition } from '../identities.ts';
import { approvalView, freezeView, policyView } from '../policies.ts';
import { vaultBodies } from '../vault-transit.ts';
import {
  health,
  keyView,
  migrationKeyView,
  migrationPlanView,
  migrationView,
  slotView,
  trialView,
} from '../views.ts';
import { walletBodies } from '../wallets.ts';
import * as replies from './replies.ts';

/**
 * The shapes that have a name in the document. A name is for ever: whoever generates a client has a type of it.
 * What is used twice or is a body or an answer stands here; a test finds the ones that are missing.
 */
export const components = {
  // What is shown.
  ErrorCode: replies.errorCode,
  Problem: replies.problem,
  Violation: replies.violation,
  Receipt: receipt,
  Key: keyView,
  KeyPage: operations['list-keys'].output,
  ExportedKey: replies.exportedKey,
  Slot: slotView,
  Slots: operations['list-slots'].output,
  SlotGroups: operations['list-groups'].output,
  SlotTrial: trialView,
  OpenedSession: replies.openedSession,
  Nothing: bodies.nothing,
  ClosedSession: replies.nothing,
  SignedMessage: replies.signedMessage,
  SignedTransaction: replies.signedTransaction,
  SignedBatch: replies.signedBatch,
  Verification: operations.verify.output,
  MigrationPlan: migrationPlanView,
  Migration: migrationView,
  StartedMigration: operations['start-migration'].output,
  Migrations: operations['list-migrations'].output,
  MigrationKey: migrationKeyView,
  MigrationPart: operations['run-migration'].output,
  Policy: policyView,
  Policies: operations['list-policies'].output,
  Verdict: operations['evaluate-policy'].output,
  Freeze: freezeView,
  Freezes: operations['list-freezes'].output,
  Approval: approvalView,
  Approvals: operations['list-approvals'].output,
  AuditLines: operations['read-audit'].output,
  AuditStatus: auditStatusView,
  Checkpoints: operations['list-checkpoints'].output,
  ConsistencyProof: operations['audit-consistency'].output,
  InclusionProof: operations['prove-audit'].output,
  Pruned: operations['prune-audit'].output,
  Identity: identityView,
  Identities: operations['list-identities'].output,
  Grant: grant,
  Recognition: recognition,
  ApiToken: apiTokenView,
  ApiTokens: operations['list-tokens'].output,
  IssuedToken: replies.issuedToken,
  Alive: replies.alive,
  Health: health,
  Check: checkNode,
  Exposition: replies.exposition,
  Drained: operations.drain.output,
  Reloaded: operations.reload.output,
  LastReload: operations['show-reload'].output,
  OpenApi: replies.openApi,

  // What is sent.
  DrainOrder: bodies.drain,
  OpenSlot: bodies.openSlot,
  OpenSession: bodies.openSession,
  GenerateKey: bodies.generateKey,
  ImportKey: bodies.importKey,
  AdoptKey: bodies.adoptKey,
  TagKey: bodies.tagKey,
  SignMessage: bodies.signMessage,
  SignTransaction: bodies.signTransaction,
  SignBatch: bodies.signBatch,
  Verify: bodies.verify,
  MigrationRoute: bodies.migrationRoute,
  MigrationBatch: bodies.migrationBatch,
  DestroyCopies: bodies.destroyCopies,
  PutPolicy: bodies.putPolicy,
  EvaluatePolicy: bodies.evaluatePolicy,
  FreezeOrder: bodies.freeze,
  Thaw: bodies.thaw,
  RequestApproval: bodies.requestApproval,
  DecideApproval: bodies.decideApproval,
  PruneAudit: bodies.pruneAudit,
  CreateIdentity: identityBodies.createIdentity,
  IssueToken: identityBodies.issueToken,

  // The other programs'.
  Wallet: replies.wallet,
  OneWallet: replies.walletReplies.one,
  Wallets: replies.walletReplies.list,
  WalletSignature: replies.walletReplies.signed,
  WalletBalance: replies.walletReplies.balance,
  WalletTokens: replies.walletReplies.tokens,
  WalletEngineAlive: replies.walletReplies.alive,
  WalletFailure: replies.walletReplies.failure,
  CreateWallet: walletBodies.create,
  SignWithWallet: walletBodies.sign,
  VaultSignature: replies.vaultReplies.signed,
  VaultVerification: replies.vaultReplies.verified,
  VaultKeys: replies.vaultReplies.keys,
  VaultKey: replies.vaultReplies.key,
  VaultLogin: replies.vaultReplies.login,
  VaultHealth: replies.vaultReplies.health,
  VaultErrors: replies.vaultReplies.failure,
  VaultSign: vaultBodies.sign,
  VaultVerify: vaultBodies.verify,
  VaultLoginOrder: vaultBodies.login,
} as const satisfies Record<string, z.ZodType>;

const names = new Map<z.ZodType, string>(Object.entries(components).map(([name, schema]) => [schema, name]));

/** A reference to the component of a shape. A TypeError for one that has no name. */
export function componentRef(schema: z.ZodType): { readonly $ref: string } {
  const name = names.get(schema);
  if (name === undefined)
    throw new TypeError('A body or an answer of the HTTP API is not among the components.');
  return { $ref: refOf(name) };
}

const refOf = (name: string): string => `#/components/schemas/${name}`;

/** As JSON Schema 2020-12, the dialect of OpenAPI 3.1. */
export function componentSchemas(): Record<string, JsonSchema> {
  const registry = z.registry<{ id: string }>();
  for (const [schema, id] of names) registry.add(schema, { id });
  // What is shown may have more fields one day, so an open object stays open here.
  const { schemas } = z.toJSONSchema(registry, { ...dialect, uri: refOf });
  return Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, withoutIds(schema)]));
}

/** The schema of something small, such as a parameter. */
export const inlineSchema = (schema: z.ZodType): JsonSchema => withoutIds(z.toJSONSchema(schema, dialect));

const dialect = { io: 'input', target: 'draft-2020-12', unrepresentable: 'any' } as const;

export type JsonSchema = Readonly<Record<string, unknown>>;

const withoutIds = ({
  $schema: _dialect,
  $id: _name,
  '~standard': _own,
  ...schema
}: JsonSchema): JsonSchema => schema;

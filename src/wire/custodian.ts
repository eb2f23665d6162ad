import { z } from 'zod';
import type { AccountTaker } from './account.ts';
import { auditOperations, receipt } from './audit.ts';
import { groupOperations } from './groups.ts';
import { healthTreeOperations } from './health-tree.ts';
import { identityOperations } from './identities.ts';
import { metricsOperations } from './metrics.ts';
import { id, nothing, once, operation, repeatable } from './operation.ts';
import { policyOperations } from './policies.ts';
import { reloadOperations } from './reload.ts';
import {
  health,
  keyView,
  migrationKeyView,
  migrationPlanView,
  migrationView,
  sessionView,
  slotView,
  trialView,
  walletView,
} from './views.ts';

/**
 * The boundary between the process that parses the network and the process that holds the keys.
 *
 * `Custodian` has two bindings: a direct call in one process, and the unix socket. Nothing above knows which.
 * An operation is a small JSON input, a list of byte strings beside it (messages, PINs, seeds: never inside
 * the JSON), and the same for its answer. Failures are KeyslotErrors.
 */
export interface Custodian {
  call<N extends OperationName>(name: N, request: Request<N>, call: Call): Promise<Reply<N>>;
}

/** Who asks, as far as the gateway could establish it; what that allows is decided by the custodian. */
export interface Call {
  readonly requestId: string;
  readonly credential?: Credential | undefined;
  /** SHA-256 of the token of a PIN session, in hexadecimal. The token itself stays in the gateway. */
  readonly session?: string | undefined;
  /** Whether the caller chose the request id: then it names this request, and a repeat of it is the same one. */
  readonly requestIdGiven?: boolean | undefined;
  /** As the caller chose it: a repeat of the call under the same key gets the same answer, and nothing more happens. */
  readonly idempotencyKey?: string | undefined;
  /** The id of an approval, for an operation that takes one. */
  readonly approval?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Who is told what came of the call, besides its answer. */
  readonly account?: AccountTaker | undefined;
}

const digest = z.string().regex(/^[0-9a-f]{64}$/);

/**
 * What the gateway saw. Digests are SHA-256 in hexadecimal: of the certificate's SubjectPublicKeyInfo, of its
 * issuer's, of the bearer token. A JWT goes on whole: its signature is checked by the custodian.
 */
export const credential = z.union([
  z.strictObject({
    certificate: digest,
    issuer: digest.optional(),
    /** `dns:…`, `uri:…`, `email:…`, `ip:…` */
    names: z.array(z.string().max(520)).max(32).optional(),
  }),
  z.strictObject({ token: digest }),
  z.strictObject({ jwt: z.string().max(8_192) }),
]);
export type Credential = z.infer<typeof credential>;

export interface Request<N extends OperationName> {
  readonly input: z.infer<(typeof operations)[N]['input']>;
  readonly bytes?: readonly Uint8Array[];
}

export interface Reply<N extends OperationName> {
  readonly output: z.infer<(typeof operations)[N]['output']>;
  readonly bytes?: readonly Uint8Array[];
}

const walletLabel = z.string().min(1).max(128);
const tags = z.array(id).max(32).optional();
const signedMessage = z.object({ kind: z.enum(['bytes', 'offchain', 'raw-transaction']), receipt });
const signedTransaction = z.object({ version: z.enum(['legacy', 'v0', 'v1']), receipt });
const violations = z.array(z.object({ rule: z.string(), reason: z.string() })).optional();
const refusedItem = z.object({ code: z.string(), detail: z.string(), violations });
const signedBy = z.object({ publicKey: z.string(), custody: z.string() });

const someKeys = z.array(id).min(1).optional();
const route = z.strictObject({ from: id, to: id, keys: someKeys });
/** All keys of a migration or those that are named, behind a cursor, at most so many. */
const batch = z.strictObject({
  migration: id,
  keys: someKeys,
  after: z.string().max(200).optional(),
  max: z.int(),
});
const batchDone = z.object({
  migration: migrationView,
  keys: z.array(migrationKeyView),
  /** The cursor to go on behind; absent when every key has had its turn. */
  next: z.string().optional(),
});

/**
 * Every operation. `repeatable` ones may be sent again when the custodian was lost before it answered:
 * reading changes nothing, and an Ed25519 signature of the same bytes is the same signature.
 */
export const operations = {
  'list-slots': operation(nothing, z.object({ slots: z.array(slotView) }), repeatable),
  'show-slot': operation(z.strictObject({ slot: id }), slotView, repeatable),
  /** bytes: the PIN, or none to read the configured source. */
  'open-slot': operation(z.strictObject({ slot: id }), slotView, once),
  'lock-slot': operation(z.strictObject({ slot: id }), slotView, once),
  'clear-latch': operation(z.strictObject({ slot: id }), slotView, once),
  /** Has the canary of the slot sign now, or joins the attempt that is under way. */
  'try-slot': operation(z.strictObject({ slot: id }), trialView, repeatable),
  /** bytes: the PIN. Answer bytes: the session token, as text. */
  'open-session': operation(z.strictObject({ slot: id }), sessionView, once),
  'close-session': operation(nothing, nothing, once),
  'list-keys': operation(
    z.strictObject({ slot: id.optional(), cursor: z.string().max(200).optional(), limit: z.int() }),
    z.object({ keys: z.array(keyView), next: z.string().optional() }),
    repeatable,
  ),
  'show-key': operation(z.strictObject({ key: id }), keyView, repeatable),
  'generate-key': operation(z.strictObject({ key: id, slot: id, tags }), keyView, once),
  /** bytes: the 32-byte seed. */
  'import-key': operation(z.strictObject({ key: id, slot: id, tags }), keyView, once),
  /** `reference` names the key in the custody's own words; without it, it is the slot's key of this id. */
  'adopt-key': operation(
    z.strictObject({ key: id, slot: id, reference: z.string().min(1).max(2_048).optional(), tags }),
    keyView,
    once,
  ),
  /** Tags choose policies, so giving them is an admin's act. */
  'tag-key': operation(z.strictObject({ key: id, tags: z.array(id).max(32) }), keyView, once),
  'disable-key': operation(z.strictObject({ key: id }), keyView, once),
  'enable-key': operation(z.strictObject({ key: id }), keyView, once),
  /** Takes an approval. Answer bytes: the 32-byte seed. */
  'export-key': operation(z.strictObject({ key: id }), keyView, once),
  /** Takes an approval. The key is removed from its slot for good; its id is never used again. */
  'destroy-key': operation(z.strictObject({ key: id }), keyView, once),
  /** bytes: the message. Answer bytes: the signature. `raw` bytes may be a transaction's: it takes the raw right. */
  'sign-message': operation(
    z.strictObject({ key: id, raw: z.boolean().optional() }),
    signedBy.extend(signedMessage.shape),
    repeatable,
  ),
  /** bytes: the wire transaction. Answer bytes: the signature, the signed wire transaction. */
  'sign-transaction': operation(
    z.strictObject({ key: id }),
    signedBy.extend(signedTransaction.shape),
    repeatable,
  ),
  /**
   * bytes: one byte string an item. Answer: a result an item, in the same order; the bytes of the signed ones
   * follow one another, a signature for a message, a signature and a wire transaction for a transaction.
   */
  'sign-batch': operation(
    z.strictObject({ key: id, items: z.array(z.enum(['message', 'transaction'])) }),
    signedBy.extend({
      results: z.array(z.union([signedMessage, signedTransaction, refusedItem])),
    }),
    repeatable,
  ),
  /**
   * bytes: one byte string an item, each signed as what it is: a message of a transaction, or any other. Answer: a
   * result an item, in the same order; the bytes are the signatures of the signed ones.
   */
  'sign-bytes': operation(
    z.strictObject({ key: id }),
    signedBy.extend({
      results: z.array(
        z.union([z.object({ kind: z.enum(['bytes', 'offchain', 'transaction']), receipt }), refusedItem]),
      ),
    }),
    repeatable,
  ),
  /** bytes: the message, the signature. */
  verify: operation(z.strictObject({ key: id }), z.object({ valid: z.boolean() }), repeatable),
  /** Generates a key under a new UUID in the slot that is configured for it. */
  'create-wallet': operation(z.strictObject({ label: walletLabel.optional() }), walletView, once),
  /** By age. `cursor` is the id of the last wallet of the answer before. */
  'list-wallets': operation(
    z.strictObject({ publicKey: z.string().max(64).optional(), cursor: z.string().max(63).optional() }),
    z.object({ wallets: z.array(walletView), next: z.string().optional() }),
    repeatable,
  ),
  'show-wallet': operation(z.strictObject({ key: id }), walletView, repeatable),
  'plan-migration': operation(route, migrationPlanView, repeatable),
  'start-migration': operation(route, migrationView.extend({ leftOut: migrationPlanView.shape.keys }), once),
  'list-migrations': operation(nothing, z.object({ migrations: z.array(migrationView) }), repeatable),
  'show-migration': operation(
    z.strictObject({ migration: id, cursor: z.string().max(200).optional(), limit: z.int() }),
    batchDone,
    repeatable,
  ),
  'run-migration': operation(batch, batchDone, once),
  'verify-migration': operation(batch, batchDone, once),
  'rollback-migration': operation(batch, batchDone, once),
  'destroy-copies': operation(batch, batchDone, once),
  /** bytes: the secret id. Answer bytes: the token, as text; it is a credential until the lease is over. */
  login: operation(
    z.strictObject({ roleId: z.string().max(128) }),
    z.object({ identity: z.string(), lease_s: z.number() }),
    once,
  ),
  ...groupOperations,
  ...policyOperations,
  ...identityOperations,
  ...auditOperations,
  health: operation(nothing, health, repeatable),
  ...healthTreeOperations,
  ...metricsOperations,
  ...reloadOperations,
  /** Nothing but its record: what takes leave of its callers is the gateway. */
  drain: operation(z.strictObject({ drain: z.boolean() }), z.object({ draining: z.boolean() }), once),
} as const;

export type OperationName = keyof typeof operations;

export const isOperation = (name: string): name is OperationName => Object.hasOwn(operations, name);

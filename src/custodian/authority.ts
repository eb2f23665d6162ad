import { KeyslotError } from '../foundation/errors.ts';
import type { OperationName } from '../wire/custodian.ts';
import type { AccessMode } from '../wire/views.ts';
import type { CallerSessions } from './caller-sessions.ts';
import { type GrantOperation, mayRead, mayUse, type Role, type Target } from './grants.ts';
import type { Identity } from './identities.ts';

/** What an operation takes. */
export interface Right {
  /** Any of these roles; `anyone` is any authenticated identity, `nobody` needs none. */
  readonly roles: readonly Role[] | 'anyone' | 'nobody';
  /**
   * Which grant of the key or slot that it names. Of several, any one lets the caller in, and each item of the
   * request then takes its own. Without one, whoever may know of the target may ask.
   */
  readonly grants?: readonly GrantOperation[];
}

const operators: readonly Role[] = ['operator'];
const signers: readonly Role[] = ['signer'];
const admins: readonly Role[] = ['admin'];
const overseers: readonly Role[] = ['admin', 'auditor'];
/** Who has to do with slots and keys at all. To scrape metrics or make backups takes no look at them. */
const readers: readonly Role[] = ['admin', 'operator', 'signer', 'approver', 'auditor'];

/** Every operation. No role implies another: somebody who does two kinds of work has two roles. */
export const rights: Readonly<Record<OperationName, Right>> = {
  'list-slots': { roles: readers },
  'list-groups': { roles: readers },
  'show-slot': { roles: readers },
  'open-slot': { roles: operators, grants: ['manage'] },
  'lock-slot': { roles: operators, grants: ['manage'] },
  'clear-latch': { roles: operators, grants: ['manage'] },
  'try-slot': { roles: operators, grants: ['manage'] },
  'open-session': { roles: signers },
  'close-session': { roles: signers },
  'list-keys': { roles: readers },
  'show-key': { roles: readers },
  'generate-key': { roles: operators, grants: ['generate'] },
  'import-key': { roles: operators, grants: ['import'] },
  'adopt-key': { roles: operators, grants: ['import'] },
  // Tags choose policies and grants, so whoever sets them decides who may sign what.
  'tag-key': { roles: admins },
  'disable-key': { roles: operators, grants: ['manage'] },
  // As with a freeze: stopping is for whoever sees the danger, and starting again is not.
  'enable-key': { roles: admins },
  'export-key': { roles: operators, grants: ['export'] },
  'destroy-key': { roles: operators, grants: ['manage'] },
  'sign-message': { roles: signers, grants: ['sign-message', 'raw'] },
  'sign-transaction': { roles: signers, grants: ['sign-transaction'] },
  'sign-batch': { roles: signers, grants: ['sign-transaction', 'sign-message'] },
  'sign-bytes': { roles: signers, grants: ['sign-transaction', 'sign-message'] },
  verify: { roles: readers },
  'create-wallet': { roles: operators, grants: ['generate'] },
  'list-wallets': { roles: readers },
  'show-wallet': { roles: readers },
  'plan-migration': { roles: operators, grants: ['manage'] },
  'start-migration': { roles: operators, grants: ['manage'] },
  'list-migrations': { roles: operators, grants: ['manage'] },
  'show-migration': { roles: operators, grants: ['manage'] },
  'run-migration': { roles: operators, grants: ['manage'] },
  'verify-migration': { roles: operators, grants: ['manage'] },
  'rollback-migration': { roles: operators, grants: ['manage'] },
  'destroy-copies': { roles: operators, grants: ['manage'] },
  login: { roles: 'nobody' },
  'list-policies': { roles: overseers },
  'show-policy': { roles: overseers },
  'put-policy': { roles: admins },
  'delete-policy': { roles: admins },
  'evaluate-policy': { roles: ['signer', 'admin', 'auditor'] },
  'list-freezes': { roles: readers },
  freeze: { roles: ['operator', 'approver', 'auditor', 'admin'] },
  thaw: { roles: admins },
  'list-approvals': { roles: ['operator', 'approver', 'auditor', 'admin'] },
  'show-approval': { roles: ['operator', 'approver', 'auditor', 'admin'] },
  'request-approval': { roles: ['operator', 'admin'] },
  'decide-approval': { roles: ['approver'] },
  'who-am-i': { roles: 'anyone' },
  'list-identities': { roles: overseers },
  'create-identity': { roles: admins },
  'delete-identity': { roles: admins },
  'list-tokens': { roles: overseers },
  'issue-token': { roles: admins },
  'revoke-token': { roles: admins },
  'audit-status': { roles: ['auditor', 'admin', 'operator', 'metrics', 'backup'] },
  'read-audit': { roles: ['auditor'] },
  // Whoever holds a receipt may have its proof: it shows digests of the neighbours and nothing else.
  'prove-audit': { roles: readers },
  'audit-consistency': { roles: readers },
  'list-checkpoints': { roles: [...readers, 'metrics', 'backup'] },
  'prune-audit': { roles: admins },
  health: { roles: 'nobody' },
  'show-health': { roles: 'nobody' },
  metrics: { roles: 'nobody' },
  drain: { roles: operators },
  // What it says was written by whoever may write the files: to have it read takes no more than operating.
  reload: { roles: ['operator', 'admin'] },
  'show-reload': { roles: ['operator', 'admin', 'auditor'] },
};

/** PERMISSION_DENIED when the identity has none of the roles that the operation takes. */
export function requireRole(identity: Identity, operation: OperationName): void {
  const { roles } = rights[operation];
  if (typeof roles === 'string' || roles.some(role => identity.roles.includes(role))) return;
  const several = roles.length === 1 ? `the role ${roles[0]}` : `any of the roles ${roles.join(', ')}`;
  throw new KeyslotError(
    'PERMISSION_DENIED',
    `${identity.name} does not have ${several} that ${operation} takes.`,
  );
}

/**
 * Whether an identity may do something with a key or a slot. False when the target is to look as if it did not
 * exist; PERMISSION_DENIED when the identity may know of it, and not do this with it.
 */
export function mayDo(identity: Identity, operations: readonly GrantOperation[], target: Target): boolean {
  if (operations.length === 0) return mayRead(identity, target);
  if (operations.some(operation => mayUse(identity, operation, target))) return true;
  if (!mayRead(identity, target)) return false;
  throw new KeyslotError(
    'PERMISSION_DENIED',
    `${identity.name} has no grant for ${operations.join(' or ')} of ${target.key ?? `slot ${target.slot}`}.`,
  );
}

/**
 * Whether an identity may sign with a key, by the `access` of its slot: `identity` asks for a grant, `session` for a
 * PIN session on the slot, `both` for both. False and PERMISSION_DENIED as in `mayDo`; whoever knows the PIN may
 * sign transactions and messages, and needs a grant for raw bytes all the same.
 */
export function mayEnter(
  identity: Identity,
  operations: readonly GrantOperation[],
  target: Target,
  at: {
    readonly access: AccessMode;
    readonly session: string | undefined;
    readonly sessions: CallerSessions;
  },
): boolean {
  const byPin = at.access === 'session' && operations.some(operation => operation !== 'raw');
  if (!byPin && !mayDo(identity, operations, target)) return false;
  if (at.access !== 'identity') at.sessions.require(at.session, identity, target.slot);
  return true;
}

import type { SlotId } from '../custody/ids.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { OperationName } from '../wire/custodian.ts';
import type { AccessMode } from '../wire/views.ts';
import type { CallerSessions } from './caller-sessions.ts';
import { type Identity, mayUseSlot, type Role } from './identities.ts';

/** The role that each operation takes; `anyone` is any authenticated identity, `nobody` needs none. */
export const roleOf: Readonly<Record<OperationName, Role | 'anyone' | 'nobody'>> = {
  'list-slots': 'anyone',
  'show-slot': 'anyone',
  'open-slot': 'operator',
  'lock-slot': 'operator',
  'clear-latch': 'operator',
  'open-session': 'signer',
  'close-session': 'signer',
  'list-keys': 'anyone',
  'show-key': 'anyone',
  'generate-key': 'operator',
  'import-key': 'operator',
  'adopt-key': 'operator',
  'sign-message': 'signer',
  'sign-transaction': 'signer',
  'sign-batch': 'signer',
  'sign-bytes': 'signer',
  verify: 'anyone',
  'plan-migration': 'operator',
  'start-migration': 'operator',
  'list-migrations': 'operator',
  'show-migration': 'operator',
  'run-migration': 'operator',
  'verify-migration': 'operator',
  'rollback-migration': 'operator',
  'destroy-copies': 'operator',
  'create-wallet': 'operator',
  'list-wallets': 'anyone',
  'show-wallet': 'anyone',
  login: 'nobody',
  health: 'nobody',
};

/** PERMISSION_DENIED when the identity lacks the role of the operation. */
export function requireRole(identity: Identity, operation: OperationName): void {
  const role = roleOf[operation];
  if (role === 'anyone' || role === 'nobody' || identity.roles.includes(role)) return;
  throw new KeyslotError(
    'PERMISSION_DENIED',
    `${identity.name} does not have the role ${role} that ${operation} takes.`,
  );
}

/**
 * Whether an identity may sign in a slot, by the slot's `access`: `identity` asks for a grant of the slot,
 * `session` for a PIN session on it, `both` for both. False when the slot is to look as if it did not exist.
 */
export function mayEnter(
  identity: Identity,
  slot: { readonly id: SlotId; readonly access: AccessMode },
  session: string | undefined,
  sessions: CallerSessions,
): boolean {
  if (slot.access !== 'session' && !mayUseSlot(identity, slot.id)) return false;
  if (slot.access !== 'identity') sessions.require(session, identity, slot.id);
  return true;
}

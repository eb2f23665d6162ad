import type { KeyId, SlotId } from '../custody/ids.ts';
import type { GrantShape, grantOperations, roles } from '../wire/identities.ts';

/**
 * What an identity may do with which keys. A role says what somebody may do at all, a grant with what: both are
 * needed, and what no grant covers does not exist for its asker.
 */
export type Grant = Readonly<GrantShape>;
export type Role = (typeof roles)[number];
export type GrantOperation = (typeof grantOperations)[number];

/** Whose rights are asked for. */
export interface Grantee {
  readonly roles: readonly Role[];
  readonly grants: readonly Grant[];
}

/**
 * A slot, or a key in it. An operation of a slot itself (opening it, making a key in it) names no key, so that
 * only a grant of the slot covers it: a key that does not exist yet has no tags to go by.
 */
export interface Target {
  readonly slot: SlotId;
  readonly key?: KeyId;
  readonly tags?: readonly string[];
}

/** The old way to write grants: the slots of an identity, for everything that `'*'` stands for. */
export const grantsOf = (slots: '*' | readonly string[]): readonly Grant[] =>
  slots !== '*' && slots.length === 0 ? [] : [{ slots: slots === '*' ? '*' : [...slots], operations: '*' }];

/** Whether a grant covers the target for this operation. */
export const mayUse = ({ grants }: Grantee, operation: GrantOperation, target: Target): boolean =>
  grants.some(grant => allows(grant, operation) && covers(grant, target));

/**
 * Whether somebody may know of the target: whoever has a grant of it for anything, and those whose work is the
 * whole appliance. For anybody else it looks as if it did not exist.
 */
export const mayRead = (grantee: Grantee, target: Target): boolean =>
  readsEverything(grantee) || grantee.grants.some(grant => covers(grant, target));

/** An auditor reads every name in the audit log anyway, and an admin writes them into policies and grants. */
export const readsEverything = ({ roles }: Pick<Grantee, 'roles'>): boolean =>
  roles.includes('auditor') || roles.includes('admin');

/** A key belongs to a grant by its id, by a tag or by its slot; one of them is enough. */
function covers({ keys, tags, slots }: Grant, target: Target): boolean {
  if (slots === '*' || slots?.includes(target.slot)) return true;
  if (target.key === undefined) return false;
  return keys?.includes(target.key) === true || target.tags?.some(tag => tags?.includes(tag)) === true;
}

/** `'*'` leaves out what takes a key away, or signs without having been read: whoever grants those names them. */
const allows = ({ operations }: Grant, operation: GrantOperation): boolean =>
  operations === '*' ? !neverMeant.includes(operation) : operations.includes(operation);

export const neverMeant: readonly GrantOperation[] = ['raw', 'export'];

import type { PolicyDocument } from './document.ts';

/**
 * Whether a policy leaves its keys without protection, where each program may take whatever amount anywhere, or bytes of a
 * transaction may be signed as a message. Rules about who, when and how often do not change that.
 */
export function permissive({ transactions, messages }: PolicyDocument): boolean {
  if (messages !== 'none' && messages.raw) return true;
  if (transactions?.programs !== 'any' || transactions.destinations !== 'any') return false;
  const { perTransaction, windows } = transactions.caps;
  const lamportsFree = perTransaction.lamports === undefined && windows.every(cap => cap.mint !== undefined);
  const tokensFree = perTransaction.tokens.length === 0 && windows.every(cap => cap.mint === undefined);
  return lamportsFree || (transactions.mints === 'any' && tokensFree);
}

/** A policy that lets everything through, for development, and says so. */
export const everythingAllowed = (
  name: string,
  appliesTo: { keys?: string[]; tags?: string[]; slots?: string[] } | 'all',
) => ({
  name,
  description: 'Lets every transaction and every message through. For development only.',
  appliesTo,
  transactions: {
    programs: 'any',
    destinations: 'any',
    mints: 'any',
    fees: 'any',
    feePayer: 'any',
    durableNonce: 'allow',
    authorityChanges: 'any',
    createAccounts: 'any',
    lookupTables: 'any',
  },
  messages: { offchain: true, bytes: 'any', raw: true },
});

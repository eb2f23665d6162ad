import type { Call } from './instruction.ts';

/**
 * The instructions in a batch (255): each with its number of accounts, the length of its data, and the data; the
 * accounts stand in the same order. `undefined` when they do not fit exactly, or when a batch is in the batch, which
 * the program refuses.
 */
export function splitBatch({ accounts, data }: Call): readonly Call[] | undefined {
  const parts: Call[] = [];
  let account = 0;
  let at = 1;
  while (at < data.length) {
    const accountsEnd = account + (data[at] ?? 0);
    const dataEnd = at + 2 + (data[at + 1] ?? 0);
    if (accountsEnd > accounts.length || dataEnd > data.length || data[at + 2] === 255) return undefined;
    parts.push({ accounts: accounts.slice(account, accountsEnd), data: data.subarray(at + 2, dataEnd) });
    account = accountsEnd;
    at = dataEnd;
  }
  return account === accounts.length ? parts : undefined;
}

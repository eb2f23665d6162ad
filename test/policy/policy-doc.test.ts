import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { decodeBase58 } from '../../src/foundation/base58.ts';
import { associatedAccounts } from '../../src/policy/associated-accounts.ts';
import { compilePolicy } from '../../src/policy/compile.ts';
import { parsePolicy } from '../../src/policy/document.ts';
import { evaluate } from '../../src/policy/evaluate.ts';
import { programKey, programNames } from '../../src/policy/named-programs.ts';
import {
  address,
  factsOf,
  type Instruction,
  nothingSpent,
  self,
  subject,
  tokens,
  transfer,
  unitPrice,
} from './lab.ts';

const root = resolve(import.meta.dirname, '../..');
const page = readFileSync(join(root, 'docs/policy.md'), 'utf8');
const blocks = [...page.matchAll(/```yaml\n(.*?)```/gs)].map(([, block]) => parse(block ?? ''));

describe('the treasury of docs/policy.md', () => {
  const document = blocks[0];
  const policy = compilePolicy(parsePolicy(document), 1);
  const key = (text: string) => decodeBase58(text) ?? new Uint8Array();
  const usdc = key(document.transactions.mints[0]);
  const supplier = key(document.transactions.destinations[1]);
  const [account = supplier] = associatedAccounts(supplier, usdc);
  const mine = address('the usdc account of the treasury');
  const who = { ...subject, identity: 'finance-payouts' };

  const makeAccount = (owner: Uint8Array, at: Uint8Array): Instruction => ({
    program: programKey('associated-token'),
    accounts: [
      { key: self, signer: true, writable: true },
      { key: at, writable: true },
      { key: owner },
      { key: usdc },
      { key: programKey('system') },
      { key: programKey('token') },
    ],
    data: Buffer.of(1),
  });

  const refusals = (instructions: Instruction[], at = who.at) => {
    const verdict = evaluate([policy], factsOf(instructions), { ...who, at }, nothingSpent);
    return [...new Set(verdict.violations.map(({ rule }) => rule))];
  };

  it('pays a supplier, and makes the token account on the way', () => {
    const paying = [makeAccount(supplier, account), tokens(mine, account, 5_000_000_000n, usdc)];
    expect(refusals(paying)).toEqual([]);
  });

  it('refuses what it says it refuses', () => {
    const mallory = address('mallory');
    const [theirs = mallory] = associatedAccounts(mallory, usdc);
    expect(refusals([tokens(mine, theirs, 1n, usdc)])).toEqual(['treasury/destinations']);
    expect(refusals([makeAccount(mallory, theirs)])).toEqual(['treasury/destinations']);
    expect(refusals([tokens(mine, account, 5_000_000_001n, usdc)])[0]).toContain('treasury/caps.transaction');
    expect(refusals([transfer(supplier, 1n)])).toEqual(['treasury/programs']);
    expect(refusals([tokens(mine, account, 1n, usdc), unitPrice(10n ** 9n)])).toContain('treasury/fees.max');
    expect(refusals([tokens(mine, account, 1n, usdc)], new Date('2026-03-07T10:00:00Z'))).toEqual([
      'treasury/times',
    ]);
  });
});

describe('docs/policy.md', () => {
  it('has no example that a policy would refuse', () => {
    const parts = blocks.slice(1);
    expect(parts.length).toBeGreaterThan(3);
    for (const part of parts) {
      const wrapped = part.messages ? part : { transactions: part };
      const destinations = part.programs ? { destinations: 'any', mints: 'any' } : {};
      const transactions = wrapped.transactions && { ...destinations, ...wrapped.transactions };
      const document = { name: 'p', appliesTo: 'all', ...wrapped, ...(transactions ? { transactions } : {}) };
      expect(() => parsePolicy(document), JSON.stringify(document)).not.toThrow();
    }
  });

  it('names every rule that refuses, and every program that has a name', () => {
    const folder = join(root, 'src/policy');
    const sources = readdirSync(folder).filter(name => name.endsWith('.ts'));
    const text = sources.map(name => readFileSync(join(folder, name), 'utf8')).join('\n');
    const rules = [...text.matchAll(/deny\(\s*policy,\s*'([a-z.-]+)'/g)].map(([, rule]) => rule);
    expect(rules.length).toBeGreaterThan(12);
    for (const rule of rules) expect(page).toContain(`| \`${rule}\``);
    for (const name of programNames) expect(page).toContain(`\`${name}\``);
  });
});

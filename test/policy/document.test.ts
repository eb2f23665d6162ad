import { PublicKey } from '@solana/web3.js';
import { describe, expect, it } from 'vitest';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { associatedAccounts } from '../../src/policy/associated-accounts.ts';
import { compilePolicy, listedAddresses } from '../../src/policy/compile.ts';
import { parsePolicy } from '../../src/policy/document.ts';
import { associatedTokenProgram, programKey, programNames } from '../../src/policy/named-programs.ts';
import { everythingAllowed, permissive } from '../../src/policy/permissive.ts';
import { address, compiled } from './lab.ts';

const base58 = encodeBase58;
const alice = base58(address('alice'));
const mint = base58(address('mint'));

/** The error of a document: its code, and the text that names the field. */
function refusal(document: unknown): string {
  try {
    compilePolicy(parsePolicy(document), 1);
  } catch (thrown) {
    if (thrown instanceof KeyslotError && thrown.code === 'POLICY_INVALID') return thrown.message;
    throw thrown;
  }
  return 'none';
}

const whole = { name: 'p', appliesTo: 'all' };
const spending = (transactions: unknown) => refusal({ ...whole, transactions });

describe('a policy document', () => {
  it('needs a name and what it applies to, and nothing else', () => {
    expect(refusal(whole)).toBe('none');
    expect(refusal({ appliesTo: 'all' })).toContain('name');
    expect(refusal({ name: 'p' })).toContain('appliesTo');
    expect(refusal({ name: 'No Id', appliesTo: 'all' })).toContain('name');
    expect(refusal({ name: 'p', appliesTo: {} })).toContain('appliesTo');
  });

  it('refuses a field that it does not know, wherever it stands, and names it', () => {
    expect(refusal({ ...whole, colour: 1 })).toContain('colour');
    expect(spending({ program: 'any' })).toContain('transactions.program');
    expect(spending({ caps: { perTransaction: { lamport: 1 } } })).toContain(
      'transactions.caps.perTransaction.lamport',
    );
    expect(spending({ fees: { maxLamports: 1 } })).toContain('transactions.fees.maxLamports');
    expect(spending({ programs: [{ program: 'system', opague: true }] })).toContain(
      'transactions.programs.0.opague',
    );
    expect(refusal({ ...whole, messages: { text: true } })).toContain('messages.text');
  });

  it('refuses what is not a document at all', () => {
    for (const it of [undefined, null, 7, 'any', [], new Date()]) expect(refusal(it)).not.toBe('none');
  });

  it('takes amounts as numbers and as digits, and no others', () => {
    const cap = (lamports: unknown) => spending({ caps: { perTransaction: { lamports } } });
    for (const good of [0, 5, 2 ** 53 - 1, '18446744073709551615']) expect(cap(good)).toBe('none');
    for (const bad of [-1, 0.5, 2 ** 53, '18446744073709551616', '1e9', '-5', '', null, Number.NaN]) {
      expect(cap(bad), String(bad)).toContain('transactions.caps.perTransaction.lamports');
    }
  });

  it('takes durations up to a month', () => {
    const rate = (window: unknown) => refusal({ ...whole, rate: [{ max: 1, window }] });
    for (const good of ['1s', '90s', '15m', '24h', '31d']) expect(rate(good)).toBe('none');
    for (const bad of ['0s', '32d', '1w', 'h', '1.5h', 60, '9999999s'])
      expect(rate(bad)).toContain('rate.0.window');
  });

  it('takes addresses and names of programs, and says which names there are', () => {
    const program = (text: string) => spending({ programs: [{ program: text }] });
    for (const name of programNames) expect(program(name)).toBe('none');
    expect(program(alice)).toBe('none');
    expect(program('sytem')).toContain('transactions.programs.0.program');
    expect(program(alice.slice(3))).toContain('transactions.programs.0.program');
    expect(spending({ destinations: ['alice'] })).toContain('transactions.destinations.0');
  });

  it('takes time zones and hours that there are', () => {
    const hours = { days: ['mon'], from: '08:00', to: '17:30', zone: 'Europe/Zurich' };
    const times = (change: object) => refusal({ ...whole, times: [{ ...hours, ...change }] });
    expect(times({})).toBe('none');
    expect(times({ zone: 'Europe/Zuerich' })).toContain('times.0.zone');
    expect(times({ from: '8:00' })).toContain('times.0.from');
    expect(times({ to: '24:01' })).toContain('times.0.to');
    expect(times({ to: '08:00' })).toContain('times.0');
    expect(times({ days: ['Monday'] })).toContain('times.0.days.0');
  });

  it('wants one asset a limit, and an id of its own for each', () => {
    const windows = (...caps: object[]) => spending({ caps: { windows: caps } });
    expect(windows({ window: '1h', lamports: 1 })).toBe('none');
    expect(windows({ window: '1h', mint, amount: 1 })).toBe('none');
    expect(windows({ window: '1h' })).toContain('transactions.caps.windows.0');
    expect(windows({ window: '1h', mint })).toContain('transactions.caps.windows.0');
    expect(windows({ window: '1h', lamports: 1, mint, amount: 1 })).toContain('transactions.caps.windows.0');
    expect(windows({ window: '1h', lamports: 1 }, { window: '1h', lamports: 2 })).toContain('caps.window.1h');
    expect(windows({ window: '1h', lamports: 1 }, { window: '1h', lamports: 2, id: 'b' })).toBe('none');
  });

  it('does not hand powers to anybody where destinations or amounts are limited', () => {
    const authorityChanges = [{ powers: 'any', to: 'any' }];
    expect(spending({ authorityChanges })).toContain('transactions.authorityChanges');
    const capped = { destinations: 'any', caps: { perTransaction: { lamports: 1 } } };
    expect(spending({ ...capped, authorityChanges: 'any' })).toContain('transactions.authorityChanges');
    expect(spending({ destinations: 'any', authorityChanges })).toBe('none');
    expect(spending({ authorityChanges: [{ powers: ['stake.stake'], to: [alice] }] })).toContain(
      'transactions.authorityChanges.0.powers.0',
    );
  });

  it('is bounded in size', () => {
    const many = Array.from({ length: 501 }, (_, index) => base58(address(`destination ${index}`)));
    expect(spending({ destinations: many })).toContain('transactions.destinations');
    expect(spending({ destinations: many.slice(0, 300), mints: [alice, mint] })).toContain(
      'transactions.destinations',
    );
  });
});

describe('a compiled policy', () => {
  it('derives associated token accounts as the chain does', () => {
    const owner = address('an owner');
    const derived = associatedAccounts(owner, address('mint')).map(base58);
    const asTheChainDoes = ['token', 'token-2022'].map(program =>
      PublicKey.findProgramAddressSync(
        [owner, programKey(program), address('mint')],
        new PublicKey(associatedTokenProgram),
      )[0].toBase58(),
    );
    expect(derived).toEqual(asTheChainDoes);
  });

  it('tells the addresses of the lookup tables that it lists', () => {
    const lookupTables = [{ table: alice, addresses: [mint] }, { table: mint }];
    const policies = [compiled({}), compiled({ transactions: { lookupTables } })];
    expect(listedAddresses(policies, address('alice'))).toEqual([address('mint')]);
    expect(listedAddresses(policies, address('mint'))).toBeUndefined();
    expect(listedAddresses(policies, address('other'))).toBeUndefined();
  });
});

describe('a permissive policy', () => {
  const isPermissive = (document: object) => permissive(parsePolicy({ ...whole, ...document }));
  const open = { programs: 'any', destinations: 'any', mints: 'any' };
  const capped = (caps: object) => isPermissive({ transactions: { ...open, caps } });

  it('lets any program take anything anywhere, or signs bytes that are transactions', () => {
    expect(isPermissive(everythingAllowed('demo', 'all'))).toBe(true);
    expect(isPermissive({ transactions: open })).toBe(true);
    expect(isPermissive({ messages: { raw: true } })).toBe(true);
  });

  it('is still permissive when only some of it is capped', () => {
    expect(capped({ perTransaction: { lamports: 1 } })).toBe(true);
    expect(capped({ windows: [{ window: '1h', mint, amount: 1 }] })).toBe(true);
    expect(capped({ perTransaction: { lamports: 1, tokens: [{ mint, amount: 1 }] } })).toBe(false);
  });

  it('is not one that lists programs or destinations', () => {
    expect(isPermissive({})).toBe(false);
    expect(isPermissive({ transactions: { ...open, programs: [{ program: 'system' }] } })).toBe(false);
    expect(isPermissive({ transactions: { ...open, destinations: [alice] } })).toBe(false);
    expect(isPermissive({ messages: { offchain: true, bytes: 'any' } })).toBe(false);
  });
});

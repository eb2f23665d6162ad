import { describe, expect, it } from 'vitest';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { associatedAccounts } from '../../src/policy/associated-accounts.ts';
import { evaluate } from '../../src/policy/evaluate.ts';
import { readMessageFacts } from '../../src/policy/read-facts.ts';
import {
  address,
  advanceNonce,
  approve,
  assign,
  authorizeNonce,
  authorizeStake,
  burn,
  closeAccount,
  compiled,
  createAccount,
  createWithSeed,
  factsOf,
  initializeNonce,
  memo,
  nothingSpent,
  refusals,
  self,
  setOwner,
  subject,
  tokens,
  transfer,
  transferWithSeed,
  uncheckedTokens,
  unitLimit,
  unitPrice,
  unknown,
  usdc,
  withdrawNonce,
  withdrawStake,
  wrappedSol,
} from './lab.ts';

const alice = address('alice');
const mallory = address('mallory');
const mine = address('a token account of the key');
const someProgram = address('some program');
const base58 = encodeBase58;
const allowed: string[] = [];

describe('which policies are asked', () => {
  const facts = factsOf([transfer(alice, 5n)]);
  const rulesOf = (documents: Record<string, unknown>[], who = subject) =>
    evaluate(
      documents.map(document => compiled(document)),
      facts,
      who,
      nothingSpent,
    );
  const open = { transactions: { programs: 'any', destinations: 'any' } };

  it('refuses when no policy applies to the key', () => {
    expect(rulesOf([])).toMatchObject({ allowed: false, violations: [{ rule: 'no-policy' }], policies: [] });
    expect(rulesOf([{ ...open, appliesTo: { keys: ['other'] } }]).violations[0]?.rule).toBe('no-policy');
  });

  it('finds its keys by id, by tag and by slot', () => {
    for (const appliesTo of [{ keys: ['treasury'] }, { tags: ['hot'] }, { slots: ['main'] }, 'all']) {
      expect(rulesOf([{ ...open, appliesTo }]), JSON.stringify(appliesTo)).toMatchObject({ allowed: true });
    }
  });

  it('asks every policy that applies, and one refusal is enough', () => {
    const verdict = rulesOf([open, { name: 'second', messages: { offchain: true } }]);
    expect(verdict).toMatchObject({ allowed: false, policies: ['p@1', 'second@1'], charges: [] });
    expect(verdict.violations.map(({ rule }) => rule)).toEqual(['second/transactions']);
  });

  it('lets nothing through that is not mentioned', () => {
    const verdict = rulesOf([{ transactions: {} }]);
    expect(new Set(verdict.violations.map(({ rule }) => rule))).toEqual(
      new Set(['p/programs', 'p/destinations']),
    );
  });

  it('knows who may ask, and in which custody the key must be', () => {
    expect(rulesOf([{ ...open, identities: ['payouts'] }]).allowed).toBe(true);
    expect(rulesOf([{ ...open, identities: ['other'] }]).violations[0]?.rule).toBe('p/identities');
    expect(rulesOf([{ ...open, custody: ['hsm-native'] }]).allowed).toBe(true);
    expect(rulesOf([{ ...open, custody: ['kms-native'] }]).violations[0]?.rule).toBe('p/custody');
  });

  it('explains every rule, and says the same as without explaining', () => {
    const policy = compiled(open);
    const explained = evaluate([policy], facts, subject, nothingSpent, { explain: true });
    expect(explained.allowed).toBe(true);
    const rules = explained.rules?.map(({ rule }) => rule) ?? [];
    for (const rule of ['identities', 'times', 'programs', 'destinations', 'fees', 'durable-nonce']) {
      expect(rules).toContain(`p/${rule}`);
    }
    expect(evaluate([policy], facts, subject, nothingSpent).rules).toBeUndefined();
  });
});

describe('office hours', () => {
  const hours = {
    days: ['mon', 'tue', 'wed', 'thu', 'fri'],
    from: '08:00',
    to: '18:00',
    zone: 'Europe/Zurich',
  };
  const opens = (time: Partial<typeof hours>, at: string): boolean => {
    const policy = compiled({ times: [{ ...hours, ...time }], messages: { bytes: 'any' } });
    const who = { ...subject, at: new Date(at) };
    return evaluate([policy], readMessageFacts(Buffer.from('x')), who, nothingSpent).allowed;
  };

  it('begin and end by the clocks of the place', () => {
    expect(opens({}, '2026-03-04T06:59:59Z')).toBe(false);
    expect(opens({}, '2026-03-04T07:00:00Z')).toBe(true);
    expect(opens({}, '2026-03-04T16:59:59Z')).toBe(true);
    expect(opens({}, '2026-03-04T17:00:00Z')).toBe(false);
    expect(opens({}, '2026-03-07T10:00:00Z')).toBe(false); // a Saturday
  });

  it('follow daylight saving time', () => {
    expect(opens({}, '2026-07-01T06:00:00Z')).toBe(true);
    expect(opens({}, '2026-07-01T16:00:00Z')).toBe(false);
  });

  it('go on past midnight and belong to the day on which they began', () => {
    const night = { days: ['fri'], from: '22:00', to: '06:00' };
    expect(opens(night, '2026-03-06T21:30:00Z')).toBe(true);
    expect(opens(night, '2026-03-07T04:59:00Z')).toBe(true);
    expect(opens(night, '2026-03-07T05:00:00Z')).toBe(false);
    expect(opens(night, '2026-03-06T04:00:00Z')).toBe(false); // the night that began on Thursday
  });

  it('may last until 24:00', () => {
    expect(opens({ to: '24:00' }, '2026-03-04T22:59:00Z')).toBe(true);
    expect(opens({ to: '24:00' }, '2026-03-04T23:00:00Z')).toBe(false);
  });
});

describe('programs and instructions', () => {
  it('are refused unless they are listed, by name or by address', () => {
    const programs = [{ program: 'system' }];
    expect(refusals({ programs }, [transfer(alice, 1n)])).toEqual(allowed);
    expect(refusals({ programs }, [transfer(alice, 1n), memo('hello')])).toEqual(['programs']);
    expect(refusals({ programs: [{ program: base58(someProgram) }] }, [transfer(alice, 1n)])).toEqual([
      'programs',
    ]);
  });

  it('are refused when the program is listed without this instruction', () => {
    const programs = [{ program: 'system', instructions: ['advance-nonce-account'] }];
    expect(refusals({ programs }, [transfer(alice, 1n)])).toEqual(['instructions']);
  });

  it('that cannot be read are refused unless their program is opaque', () => {
    const listed = (opaque: boolean) => [{ program: base58(someProgram), opaque }];
    expect(refusals({ programs: listed(false) }, [unknown(someProgram)])).toEqual(['instructions']);
    expect(refusals({ programs: listed(true) }, [unknown(someProgram)])).toEqual(allowed);
  });

  it('that cannot be read are refused where anything is capped or listed, opaque or not', () => {
    const programs = [{ program: base58(someProgram), opaque: true }];
    const it = [unknown(someProgram)];
    expect(refusals({ programs, caps: { perTransaction: { lamports: 100 } } }, it)).toEqual([
      'caps.transaction.lamports',
    ]);
    expect(refusals({ programs, destinations: [base58(alice)] }, it)).toEqual(['destinations']);
    expect(refusals({ programs, mints: [base58(usdc)] }, it)).toEqual(['mints']);
  });

  it('with bytes behind their end are not taken for what they begin like', () => {
    const honest = transfer(alice, 1n);
    const longer = { ...honest, data: Buffer.concat([honest.data, Buffer.of(0)]) };
    expect(refusals({ programs: [{ program: 'system' }] }, [longer])).toEqual(['instructions']);
  });
});

describe('destinations', () => {
  const destinations = [base58(alice)];
  const mints = [base58(usdc)];
  const [aliceUsdc = alice, aliceUsdc2022 = alice] = associatedAccounts(alice, usdc);

  it('are held to the list by every instruction that moves lamports, not only by the first', () => {
    expect(refusals({ destinations }, [transfer(alice, 1n)])).toEqual(allowed);
    expect(refusals({ destinations }, [transfer(alice, 1n), transfer(mallory, 1n)])).toEqual([
      'destinations',
    ]);
  });

  it('are held to the list however the lamports get there', () => {
    const ways = [
      createAccount(mallory, 1n, someProgram),
      createWithSeed(mallory, 1n, someProgram),
      transferWithSeed(mine, mallory, 1n),
      withdrawNonce(mine, mallory, 1n),
      withdrawStake(mine, mallory, 1n),
      closeAccount(mine, mallory),
    ];
    for (const way of ways) expect(refusals({ destinations }, [way])).toEqual(['destinations']);
  });

  it('stand for their associated token accounts of the listed mints', () => {
    for (const to of [aliceUsdc, aliceUsdc2022]) {
      expect(refusals({ destinations, mints }, [tokens(mine, to, 1n)])).toEqual(allowed);
    }
    expect(refusals({ destinations, mints }, [tokens(mine, mallory, 1n)])).toEqual(['destinations']);
    expect(refusals({ destinations }, [tokens(mine, aliceUsdc, 1n)])).toEqual(['destinations']);
  });

  it('may be the key itself and its token accounts, when they say self', () => {
    const own = associatedAccounts(self, usdc)[0] ?? self;
    expect(refusals({ destinations: ['self'], mints }, [tokens(mine, own, 1n), transfer(self, 1n)])).toEqual(
      allowed,
    );
    expect(refusals({ destinations, mints }, [tokens(mine, own, 1n)])).toEqual(['destinations']);
  });

  it('are nobody for what is burned', () => {
    expect(refusals({ destinations, mints }, [burn(mine, 1n)])).toEqual(['destinations']);
    expect(refusals({ destinations: ['nobody'], mints }, [burn(mine, 1n)])).toEqual(allowed);
  });

  it('that a lookup table hides are refused', () => {
    const lookups = [{ table: someProgram, writable: [0], readonly: [] }];
    const hidden = {
      ...transfer(alice, 1n),
      accounts: [{ key: self, signer: true, writable: true }, { loaded: 0 }],
    };
    expect(refusals({ destinations }, [hidden], { lookups })).toEqual(['destinations']);
    const shown = [{ addresses: [alice], resolved: 'rpc' as const }];
    expect(refusals({ destinations }, [hidden], { lookups }, shown)).toEqual(allowed);
    expect(
      refusals({ destinations }, [hidden], { lookups }, [{ addresses: [mallory], resolved: 'rpc' }]),
    ).toEqual(['destinations']);
  });
});

describe('mints', () => {
  it('are refused unless they are listed', () => {
    expect(refusals({ mints: [base58(usdc)] }, [tokens(mine, alice, 1n)])).toEqual(allowed);
    expect(refusals({ mints: [base58(usdc)] }, [tokens(mine, alice, 1n, address('other'))])).toEqual([
      'mints',
    ]);
  });

  it('must be said by the instruction', () => {
    expect(refusals({ mints: [base58(usdc)] }, [uncheckedTokens(mine, alice, 1n)])).toEqual(['mints']);
    expect(refusals({ mints: 'any' }, [uncheckedTokens(mine, alice, 1n)])).toEqual(allowed);
  });
});

describe('caps', () => {
  const lamports = (max: number) => ({ caps: { perTransaction: { lamports: max } } });
  const ofUsdc = { caps: { perTransaction: { tokens: [{ mint: base58(usdc), amount: 10 }] } } };
  const rule = ['caps.transaction.lamports'];

  it('add up all that a transaction moves, and the fee when the key pays it', () => {
    const twice = [transfer(alice, 5n), transfer(mallory, 5n)];
    expect(refusals(lamports(5_010), twice)).toEqual(allowed);
    expect(refusals(lamports(5_009), twice)).toEqual(rule);
    expect(refusals(lamports(10), twice, { payer: mallory })).toEqual(allowed);
  });

  it('count accounts that are made, withdrawn from stake and from nonces, and moved with a seed', () => {
    const ways = [
      createAccount(mallory, 11n, someProgram),
      createWithSeed(mallory, 11n, someProgram),
      transferWithSeed(mine, mallory, 11n),
      withdrawNonce(mine, mallory, 11n),
      withdrawStake(mine, mallory, 11n),
      tokens(mine, mallory, 11n, wrappedSol),
    ];
    for (const way of ways) {
      expect(refusals(lamports(10), [way], { payer: alice })).toEqual(rule);
      expect(refusals(lamports(11), [way], { payer: alice })).toEqual(allowed);
    }
  });

  it('refuse what they cannot count', () => {
    expect(refusals(lamports(1_000_000), [closeAccount(mine, mallory)])).toEqual(rule);
    expect(refusals(lamports(1_000_000), [uncheckedTokens(mine, mallory, 1n)])).toEqual(rule);
    expect(refusals(ofUsdc, [uncheckedTokens(mine, mallory, 1n)])).toEqual([
      `caps.transaction.${base58(usdc)}`,
    ]);
    expect(refusals(lamports(1_000_000), [unitPrice(1n), unitPrice(1n)])).toEqual(rule);
  });

  it('let an account be closed towards the key itself', () => {
    expect(refusals(lamports(1_000_000), [closeAccount(mine, self)])).toEqual(allowed);
  });

  it('cap the tokens of a mint', () => {
    expect(refusals(ofUsdc, [tokens(mine, alice, 4n), tokens(mine, mallory, 6n)])).toEqual(allowed);
    expect(refusals(ofUsdc, [tokens(mine, alice, 5n), burn(mine, 6n)])).toEqual([
      `caps.transaction.${base58(usdc)}`,
    ]);
  });

  it('do not overflow at the greatest amounts', () => {
    const most = 2n ** 64n - 1n;
    expect(refusals(lamports(10), [transfer(alice, most), transfer(alice, most)], { payer: alice })).toEqual(
      rule,
    );
  });

  it('over a window charge what is moved, for the policy, the key or the identity', () => {
    const windows = [
      { window: '24h', lamports: 100_000 },
      { window: '1h', mint: base58(usdc), amount: 50, per: 'key' },
      { id: 'each', window: '7d', lamports: 100_000, per: 'identity' },
    ];
    const policy = compiled({
      transactions: { programs: 'any', destinations: 'any', mints: 'any', caps: { windows } },
    });
    const facts = factsOf([transfer(alice, 7n), tokens(mine, alice, 3n)]);
    const verdict = evaluate([policy], facts, subject, nothingSpent);
    expect(verdict.charges).toEqual([
      { counter: 'p/caps.window.24h-lamports-policy/lamports', window_ms: 86_400_000, amount: 5_007n },
      { counter: 'p/caps.window.each/lamports/identity:payouts', window_ms: 604_800_000, amount: 5_007n },
      {
        counter: `p/caps.window.1h-${base58(usdc)}-key/${base58(usdc)}/key:treasury`,
        window_ms: 3_600_000,
        amount: 3n,
      },
    ]);
    const spent = (amount: bigint) => evaluate([policy], facts, subject, { spent: () => amount });
    expect(spent(47n).allowed).toBe(true);
    expect(spent(48n)).toMatchObject({ allowed: false, charges: [] });
    expect(spent(48n).violations.map(one => one.rule)).toEqual([`p/caps.window.1h-${base58(usdc)}-key`]);
  });
});

describe('rates', () => {
  it('count every request, transaction or message', () => {
    const policy = compiled({
      rate: [{ max: 3, window: '1m', per: 'identity' }],
      messages: { bytes: 'any' },
    });
    const ask = (spent: bigint) =>
      evaluate([policy], readMessageFacts(Buffer.from('hello')), subject, { spent: () => spent });
    expect(ask(2n).charges).toEqual([
      { counter: 'p/rate.1m-identity/identity:payouts', window_ms: 60_000, amount: 1n },
    ]);
    expect(ask(3n).violations.map(({ rule }) => rule)).toEqual(['p/rate.1m-identity']);
  });
});

describe('fees', () => {
  const paying = (price: bigint) => [unitLimit(1_000_000), unitPrice(price), transfer(alice, 1n)];

  it('are the base fee alone unless more is allowed', () => {
    expect(refusals({ fees: undefined }, [transfer(alice, 1n)])).toEqual(allowed);
    expect(refusals({ fees: undefined }, paying(1n))).toEqual(['fees.priority']);
  });

  it('are capped in all and for priority', () => {
    expect(refusals({ fees: { max_lamports: 5_010 } }, paying(10n))).toEqual(allowed);
    expect(refusals({ fees: { max_lamports: 5_009 } }, paying(10n))).toEqual(['fees.max']);
    expect(refusals({ fees: { priority_max_lamports: 9 } }, paying(10n))).toEqual(['fees.priority']);
    expect(refusals({ fees: { max_lamports: 9_999_999 } }, [...paying(1n), unitPrice(2n)])).toEqual([
      'fees.priority',
    ]);
  });

  it('that somebody else pays are theirs', () => {
    expect(refusals({ fees: undefined }, paying(10_000n), { payer: alice })).toEqual(allowed);
  });

  it('are paid by the key, unless others are listed', () => {
    expect(refusals({ feePayer: 'self' }, [transfer(alice, 1n)])).toEqual(allowed);
    expect(refusals({ feePayer: 'self' }, [transfer(alice, 1n)], { payer: alice })).toEqual(['fee-payer']);
    const feePayer = [base58(alice)];
    expect(refusals({ feePayer }, [transfer(alice, 1n)], { payer: alice })).toEqual(allowed);
    expect(refusals({ feePayer }, [transfer(alice, 1n)])).toEqual(['fee-payer']);
  });
});

describe('powers over accounts', () => {
  const ways = [
    assign(mallory),
    setOwner(mine, mallory),
    approve(mine, mallory, 1n),
    authorizeStake(mine, mallory, 0),
    authorizeStake(mine, mallory, 1),
    authorizeNonce(mine, mallory),
    initializeNonce(mine, mallory),
  ];

  it('are not handed on unless that is allowed', () => {
    for (const way of ways) expect(refusals({}, [way])).toEqual(['authority-changes']);
    for (const way of ways) expect(refusals({ authorityChanges: 'any' }, [way])).toEqual(allowed);
  });

  it('are handed on to whom the list says, and nobody else', () => {
    const to = (key: Uint8Array) => ({ authorityChanges: [{ powers: 'any', to: [base58(key)] }] });
    for (const way of ways) expect(refusals(to(mallory), [way])).toEqual(allowed);
    for (const way of ways) expect(refusals(to(alice), [way])).toEqual(['authority-changes']);
  });

  it('are handed on over the listed accounts, and no others', () => {
    const over = (key: Uint8Array) => ({
      authorityChanges: [{ powers: 'any', accounts: [base58(key)], to: [base58(mallory)] }],
    });
    expect(refusals(over(mine), [setOwner(mine, mallory)])).toEqual(allowed);
    expect(refusals(over(alice), [setOwner(mine, mallory)])).toEqual(['authority-changes']);
  });

  it('are told apart by their names', () => {
    const power = (instruction: ReturnType<typeof assign>): string => {
      const [effect] = factsOf([instruction]).instructions[0]?.effects ?? [];
      return effect?.kind === 'authority' ? effect.power : '';
    };
    const powers = [power(setOwner(mine, mallory))];
    const authorityChanges = [{ powers, to: [base58(mallory)] }];
    expect(refusals({ authorityChanges }, [setOwner(mine, mallory)])).toEqual(allowed);
    expect(refusals({ authorityChanges }, [approve(mine, mallory, 1n)])).toEqual(['authority-changes']);
  });

  it('may come to the key over an account that is new', () => {
    expect(refusals({}, [initializeNonce(mine, self)])).toEqual(allowed);
  });
});

describe('accounts that are made', () => {
  it('are given to the listed programs only', () => {
    const making = [createAccount(mine, 1n, someProgram)];
    expect(refusals({ createAccounts: 'none' }, making)).toEqual(['create-accounts']);
    expect(refusals({ createAccounts: ['token'] }, making)).toEqual(['create-accounts']);
    expect(refusals({ createAccounts: [base58(someProgram)] }, making)).toEqual(allowed);
  });
});

describe('durable nonces', () => {
  it('are refused unless they are allowed', () => {
    const durable = [advanceNonce(mine), transfer(alice, 1n)];
    expect(refusals({ durableNonce: 'refuse' }, durable)).toEqual(['durable-nonce']);
    expect(refusals({ durableNonce: 'allow' }, durable)).toEqual(allowed);
  });
});

describe('lookup tables', () => {
  const table = address('a table');
  const lookups = [{ table, writable: [0], readonly: [] }];
  const loading = [memo('hello')];
  const known = (addresses: Uint8Array[]) => [{ addresses, resolved: 'rpc' as const }];

  it('are refused, or must be seen through, or must be listed', () => {
    expect(refusals({ lookupTables: 'refuse' }, loading, { lookups }, known([alice]))).toEqual([
      'lookup-tables',
    ]);
    expect(refusals({ lookupTables: 'resolved' }, loading, { lookups })).toEqual(['lookup-tables']);
    expect(refusals({ lookupTables: 'resolved' }, loading, { lookups }, known([alice]))).toEqual(allowed);
    expect(
      refusals({ lookupTables: [{ table: base58(mallory) }] }, loading, { lookups }, known([alice])),
    ).toEqual(['lookup-tables']);
    expect(
      refusals({ lookupTables: [{ table: base58(table) }] }, loading, { lookups }, known([alice])),
    ).toEqual(allowed);
  });

  it('that are listed with their addresses load no others', () => {
    const lookupTables = [{ table: base58(table), addresses: [base58(alice)] }];
    expect(refusals({ lookupTables }, loading, { lookups }, known([alice]))).toEqual(allowed);
    expect(refusals({ lookupTables }, loading, { lookups }, known([mallory]))).toEqual(['lookup-tables']);
  });
});

describe('messages', () => {
  const ask = (messages: unknown, bytes: Uint8Array, form?: 'raw-transaction') => {
    const facts = readMessageFacts(bytes);
    const policy = compiled({ messages });
    return evaluate([policy], form ? { ...facts, form } : facts, subject, nothingSpent).allowed;
  };
  const offchain = Buffer.concat([
    Buffer.from('\xffsolana offchain\x00', 'latin1'),
    Buffer.alloc(32),
    Buffer.of(0, 1),
    self,
    Buffer.of(2, 0),
    Buffer.from('hi'),
  ]);

  it('are refused unless they are allowed', () => {
    expect(ask('none', Buffer.from('hello'))).toBe(false);
    expect(ask('none', offchain)).toBe(false);
    expect(ask({ offchain: true }, offchain)).toBe(true);
    expect(ask({ offchain: true }, Buffer.from('hello'))).toBe(false);
    expect(ask({ bytes: 'any' }, Buffer.from('hello'))).toBe(true);
    expect(ask({ bytes: 'any' }, offchain)).toBe(false);
  });

  it('may have to begin with a listed text, and be text', () => {
    const messages = { bytes: { prefixes: ['Login: '] } };
    expect(ask(messages, Buffer.from('Login: alice'))).toBe(true);
    expect(ask(messages, Buffer.from('login: alice'))).toBe(false);
    expect(ask(messages, Buffer.from('Login:'))).toBe(false);
    expect(ask(messages, Buffer.from('Login: \xff\xfe', 'latin1'))).toBe(false);
  });

  it('that are transactions need raw', () => {
    const bytes = Buffer.from('stands for a transaction');
    expect(ask({ bytes: 'any', offchain: true }, bytes, 'raw-transaction')).toBe(false);
    expect(ask({ raw: true }, bytes, 'raw-transaction')).toBe(true);
  });
});

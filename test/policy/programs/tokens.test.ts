import { PublicKey, SystemProgram, type TransactionInstruction } from '@solana/web3.js';
import { describe, expect, it } from 'vitest';
import { bytesOf, described, instruction, keyOf, type Role, read, signs, u64 } from './lab.ts';

const token = new PublicKey('TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA');
const token2022 = new PublicKey('TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb');
const associated = new PublicKey('ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL');

const [wallet, from, to, mint, owner] = [keyOf(1), keyOf(2), keyOf(3), keyOf(4), keyOf(5)];
const [cosigner, rent, hook] = [keyOf(6), keyOf(7), keyOf(8)];
const u64_max = 2n ** 64n - 1n;
const none = new Array<number>(32).fill(0);
const other = { kind: 'other' };
const initial = { initial: true };

const b58 = (key: PublicKey | null): string | null => key?.toBase58() ?? null;
const moved = (source: PublicKey, target: PublicKey, amount: bigint | 'all') => ({
  kind: 'lamports',
  from: b58(source),
  to: b58(target),
  amount: String(amount),
});
const power = (name: string, account: PublicKey, target: PublicKey | null, more: object = {}) => ({
  kind: 'authority',
  power: name,
  account: b58(account),
  to: b58(target),
  ...more,
});
const tokens = (
  program: string,
  of: PublicKey | null,
  source: PublicKey | null,
  target: PublicKey | null,
  amount: bigint | 'all',
  decimals?: number,
) => ({
  kind: 'tokens',
  program,
  mint: b58(of),
  ...(decimals !== undefined && { decimals }),
  from: b58(source),
  to: b58(target),
  authority: b58(wallet),
  amount: String(amount),
});

describe.each([
  ['token', token],
  ['token-2022', token2022],
] as const)('the base instructions of %s', (name, program) => {
  const call = (roles: readonly Role[], data: readonly number[]): readonly [string, ...object[]] =>
    read(instruction(program, roles, data));
  const signer = signs(wallet);

  it('say what moves, from where, to whom, and of which mint where the bytes tell', () => {
    expect(call([from, to, signer], [3, ...u64(u64_max)])).toEqual([
      `${name}.transfer`,
      tokens(name, null, from, to, u64_max),
    ]);
    expect(call([from, mint, to, signer], [12, ...u64(5n), 6])).toEqual([
      `${name}.transfer-checked`,
      tokens(name, mint, from, to, 5n, 6),
    ]);
    expect(call([from, mint, from, signer], [12, ...u64(0n), 0])).toEqual([
      `${name}.transfer-checked`,
      tokens(name, mint, from, from, 0n, 0),
    ]);
    expect(call([mint, to, signer], [7, ...u64(5n)])).toEqual([
      `${name}.mint-to`,
      tokens(name, mint, null, to, 5n),
    ]);
    expect(call([mint, to, signer], [14, ...u64(5n), 2])).toEqual([
      `${name}.mint-to-checked`,
      tokens(name, mint, null, to, 5n, 2),
    ]);
    expect(call([from, mint, signer], [8, ...u64(5n)])).toEqual([
      `${name}.burn`,
      tokens(name, mint, from, null, 5n),
    ]);
    expect(call([from, mint, signer], [15, ...u64(5n), 2])).toEqual([
      `${name}.burn-checked`,
      tokens(name, mint, from, null, 5n, 2),
    ]);
    expect(call([from, to, signer], [9])).toEqual([`${name}.close-account`, moved(from, to, 'all')]);
    expect(call([from, to, signer], [38])).toEqual([
      `${name}.withdraw-excess-lamports`,
      moved(from, to, 'all'),
    ]);
    expect(call([from, to, signer], [45, 0])).toEqual([`${name}.unwrap-lamports`, moved(from, to, 'all')]);
    expect(call([from, to, signer], [45, 1, ...u64(3n)])).toEqual([
      `${name}.unwrap-lamports`,
      moved(from, to, 3n),
    ]);
  });

  it('say who gets power', () => {
    expect(call([from, to, signer], [4, ...u64(9n)])).toEqual([
      `${name}.approve`,
      power('token.delegate', from, to, { limit: '9' }),
    ]);
    expect(call([from, mint, to, signer], [13, ...u64(9n), 2])).toEqual([
      `${name}.approve-checked`,
      power('token.delegate', from, to, { limit: '9' }),
    ]);
    expect(call([from, signer], [5])).toEqual([`${name}.revoke`, power('token.delegate', from, null)]);
    for (const [type, what] of ['token.mint', 'token.freeze', 'token.owner', 'token.close'].entries()) {
      expect(call([from, signer], [6, type, 1, ...bytesOf(to)])).toEqual([
        `${name}.set-authority`,
        power(what, from, to),
      ]);
      expect(call([from, signer], [6, type, 0])).toEqual([`${name}.set-authority`, power(what, from, null)]);
      expect(call([from, signer], [6, type, 0, ...none])).toEqual([
        `${name}.set-authority`,
        power(what, from, null),
      ]);
    }
  });

  it('say who has power over what is initialised', () => {
    const owns = power('token.owner', from, owner, initial);
    expect(call([from, mint, owner, rent], [1])).toEqual([`${name}.initialize-account`, owns]);
    expect(call([from, mint, rent], [16, ...bytesOf(owner)])).toEqual([`${name}.initialize-account2`, owns]);
    expect(call([from, mint], [18, ...bytesOf(owner)])).toEqual([`${name}.initialize-account3`, owns]);
    const mints = power('token.mint', mint, owner, initial);
    const freezes = power('token.freeze', mint, to, initial);
    expect(call([mint, rent], [0, 6, ...bytesOf(owner), 0])).toEqual([`${name}.initialize-mint`, mints]);
    expect(call([mint], [20, 6, ...bytesOf(owner), 1, ...bytesOf(to)])).toEqual([
      `${name}.initialize-mint2`,
      mints,
      freezes,
    ]);
    const multisig = [to, owner].map(one => power('token.multisig', from, one, initial));
    expect(call([from, rent, to, owner], [2, 1])).toEqual([`${name}.initialize-multisig`, ...multisig]);
    expect(call([from, to, owner], [19, 1])).toEqual([`${name}.initialize-multisig2`, ...multisig]);
  });

  it('say when nothing moves', () => {
    expect(
      [
        call([from, mint, signer], [10]),
        call([from, mint, signer], [11]),
        call([from], [17]),
        call([mint], [21, 7, 0]),
        call([from], [22]),
        call([mint], [23, ...u64(1n)]),
        call([mint], [24, 0x31]),
      ].map(([what, ...effects]) => [what.slice(name.length + 1), ...effects]),
    ).toEqual(
      [
        'freeze-account',
        'thaw-account',
        'sync-native',
        'get-account-data-size',
        'initialize-immutable-owner',
        'amount-to-ui-amount',
        'ui-amount-to-amount',
      ].map(what => [what, other]),
    );
  });

  it('are understood when several sign for a multisignature authority', () => {
    const [what] = call([from, mint, to, owner, signer, signs(cosigner)], [12, ...u64(5n), 6]);
    expect(what).toBe(`${name}.transfer-checked`);
  });

  it('are not understood when data is left over or missing, or when a value is not known', () => {
    for (const [roles, data] of [
      [
        [from, to, signer],
        [3, ...u64(1n), 0],
      ],
      [
        [from, to, signer],
        [3, ...u64(1n).slice(1)],
      ],
      [
        [from, signer],
        [3, ...u64(1n)],
      ],
      [
        [from, mint, to, signer],
        [12, ...u64(1n)],
      ],
      [
        [from, signer],
        [6, 2, 1, ...bytesOf(to).slice(1)],
      ],
      [
        [from, signer],
        [6, 2, 2],
      ],
      [
        [from, signer],
        [6, 2, 0, ...bytesOf(to)],
      ],
      [
        [from, signer],
        [6, 99, 0],
      ],
      [
        [from, to, signer],
        [45, 1],
      ],
      [[from, to, signer], [200]],
      [[from, to, signer], []],
    ] as const) {
      const [what, ...effects] = call(roles, data);
      expect(what).toMatch(/\?$/);
      expect(effects).toEqual([]);
    }
  });

  it('are read within a batch, where all of it must be understood and add up', () => {
    const pay = [3, ...u64(5n)];
    const part = (accounts: number, data: readonly number[]): number[] => [accounts, data.length, ...data];
    const roles = [from, to, signer, to, owner, signer];
    expect(call(roles, [255, ...part(3, pay), ...part(3, [9])])).toEqual([
      `${name}.batch`,
      tokens(name, null, from, to, 5n),
      moved(to, owner, 'all'),
    ]);
    for (const wrong of [
      [255],
      [255, ...part(3, pay)],
      [255, ...part(3, pay), ...part(4, [9])],
      [255, ...part(3, pay), 3, 2, 9],
      [255, ...part(3, pay), ...part(3, [255, ...part(3, [9])])],
      [255, ...part(3, pay), ...part(3, [200])],
    ]) {
      expect(call(roles, wrong)[0]).toBe(`${name}.batch?`);
    }
  });
});

describe('token-2022', () => {
  const call = (roles: readonly Role[], ...data: readonly number[]): readonly [string, ...object[]] =>
    read(instruction(token2022, roles, data));
  const signer = signs(wallet);

  it('is not understood where a transfer hook may be called with other accounts', () => {
    const transfer = [12, ...u64(5n), 6];
    const roles = [from, mint, to, signer];
    expect(call([...roles, hook], ...transfer)).toEqual([
      'token-2022.transfer-checked?',
      tokens('token-2022', mint, from, to, 5n, 6),
    ]);
    expect(call([...roles, signs(cosigner), hook], ...transfer)[0]).toBe('token-2022.transfer-checked?');
    expect(read(instruction(token, [...roles, hook], transfer))[0]).toBe('token.transfer-checked');
  });

  it('says what its transfer fees move', () => {
    const all = (source: PublicKey) => tokens('token-2022', mint, source, to, 'all');
    expect(call([from, mint, to, signer], 26, 1, ...u64(5n), 6, ...u64(1n))).toEqual([
      'token-2022.transfer-checked-with-fee',
      tokens('token-2022', mint, from, to, 5n, 6),
    ]);
    expect(call([mint, to, signer], 26, 2)).toEqual([
      'token-2022.withdraw-withheld-tokens-from-mint',
      all(mint),
    ]);
    expect(call([mint, to, signer, signs(cosigner), from, owner], 26, 3, 2)).toEqual([
      'token-2022.withdraw-withheld-tokens-from-accounts',
      all(from),
      all(owner),
    ]);
    expect(call([mint, to, signer], 26, 3, 1)[0]).toMatch(/\?$/);
    expect(call([mint, from], 26, 4)).toEqual(['token-2022.harvest-withheld-tokens-to-mint', other]);
    expect(call([mint, signer], 26, 5, 1, 0, ...u64(1n))).toEqual(['token-2022.set-transfer-fee', other]);
  });

  it('says who has power over its extensions', () => {
    const config = power('token.transfer-fee-config', mint, owner, initial);
    const withdraw = power('token.withheld-withdraw', mint, to, initial);
    const fee = [1, 0, ...u64(1n)];
    const init = (name: string): string => `token-2022.initialize-${name}`;
    expect(call([mint], 26, 0, 1, ...bytesOf(owner), 1, ...bytesOf(to), ...fee)).toEqual([
      init('transfer-fee-config'),
      config,
      withdraw,
    ]);
    expect(call([mint], 26, 0, 0, 1, ...bytesOf(to), ...fee)).toEqual([
      init('transfer-fee-config'),
      other,
      withdraw,
    ]);
    expect(call([mint], 26, 0, 1, ...bytesOf(owner), 0, ...fee)).toEqual([
      init('transfer-fee-config'),
      config,
      other,
    ]);
    expect(call([mint], 25, 1, ...bytesOf(owner))).toEqual([
      init('mint-close-authority'),
      power('token.close-mint', mint, owner, initial),
    ]);
    expect(call([mint], 35, ...bytesOf(owner))).toEqual([
      init('permanent-delegate'),
      power('token.permanent-delegate', mint, owner, initial),
    ]);
    expect(call([mint], 36, 0, ...bytesOf(owner), ...bytesOf(hook))).toEqual([
      init('transfer-hook'),
      power('token.transfer-hook-program', mint, owner, initial),
      power('token.transfer-hook', mint, hook, initial),
    ]);
    expect(call([mint, signer], 36, 1, ...bytesOf(hook))).toEqual([
      'token-2022.update-transfer-hook',
      power('token.transfer-hook', mint, hook),
    ]);
    for (const [tag, size, name, what] of [
      [33, 36, 'interest-bearing-mint', 'token.interest-rate'],
      [39, 66, 'metadata-pointer', 'token.metadata-pointer'],
      [40, 66, 'group-pointer', 'token.group-pointer'],
      [41, 66, 'group-member-pointer', 'token.group-member-pointer'],
      [43, 42, 'scaled-ui-amount', 'token.scaled-ui-amount'],
      [44, 34, 'pausable', 'token.pause'],
    ] as const) {
      const rest = new Array<number>(size - 34).fill(1);
      expect(call([mint], tag, 0, ...bytesOf(owner), ...rest)).toEqual([
        init(name),
        power(what, mint, owner, initial),
      ]);
      expect(call([mint], tag, 0, ...none, ...rest)).toEqual([init(name), other]);
      expect(call([mint], tag, 0, ...bytesOf(owner), ...rest, 1)[0]).toMatch(/\?$/);
    }
    const authority = [8, 17].map(type => call([mint, signer], 6, type, 1, ...bytesOf(owner)));
    expect(authority).toEqual([
      ['token-2022.set-authority', power('token.permanent-delegate', mint, owner)],
      ['token-2022.set-authority', power('token.permissioned-burn', mint, owner)],
    ]);
    expect(read(instruction(token, [mint, signer], [6, 8, 1, ...bytesOf(owner)]))[0]).toBe(
      'token.set-authority?',
    );
  });

  it('counts the rent that its accounts grow by', () => {
    expect(call([from, signer, rent, signer], 29, 8, 0, 11, 0)).toEqual([
      'token-2022.reallocate',
      moved(wallet, from, 11n * 6_960n),
    ]);
    expect(call([from, signer, rent, signer], 29, 1, 0)).toEqual(['token-2022.reallocate?']);
    expect(call([signer, mint, rent], 31)).toEqual([
      'token-2022.create-native-mint',
      moved(wallet, mint, 1_461_600n),
    ]);
  });

  it('reads its switches, and does not claim to read what is hidden', () => {
    const names = [
      [28, 0, 2],
      [28, 1, 2],
      [30, 0],
      [30, 1],
      [32],
      [33, 1, 1, 0],
      [34, 0],
      [34, 1],
      [39, 1, ...none],
      [43, 1, ...new Array<number>(16).fill(1)],
      [44, 1],
      [44, 2],
      [27, 5, 1],
      [37, 0],
      [42, 1],
      [46, 1],
      [210, 225, 30, 162, 88, 184, 77, 141],
    ].map(data => call([from, signer], ...data)[0]);
    expect(names).toEqual([
      ...[
        'initialize-default-account-state',
        'update-default-account-state',
        'enable-memo-transfers',
        'disable-memo-transfers',
        'initialize-non-transferable-mint',
        'update-interest-rate',
        'enable-cpi-guard',
        'disable-cpi-guard',
        'update-metadata-pointer',
        'update-scaled-ui-amount',
        'pause',
        'resume',
        'confidential-transfer?',
        'confidential-transfer-fee?',
        'confidential-mint-burn?',
        'permissioned-burn?',
      ].map(name => `token-2022.${name}`),
      'unknown?',
    ]);
  });
});

describe('the associated token account program', () => {
  const roles = (program: PublicKey): Role[] => [
    signs(wallet),
    to,
    owner,
    mint,
    SystemProgram.programId,
    program,
  ];
  const created = (program: PublicKey, rent_lamports: bigint, space: number) => [
    moved(wallet, to, rent_lamports),
    {
      kind: 'create-account',
      account: b58(to),
      owner: b58(program),
      space_bytes: String(space),
      wallet: b58(owner),
      mint: b58(mint),
    },
  ];
  const create = (program: PublicKey, ...data: readonly number[]): TransactionInstruction =>
    instruction(associated, roles(program), data);

  it('says whose account it makes, of which mint, and what it costs at most', () => {
    expect(read(create(token))).toEqual(['associated-token.create', ...created(token, 2_039_280n, 165)]);
    expect(read(create(token, 0))).toEqual(['associated-token.create', ...created(token, 2_039_280n, 165)]);
    expect(read(create(token2022, 1))).toEqual([
      'associated-token.create-idempotent',
      ...created(token2022, 2_248_080n, 195),
    ]);
  });

  it('says what the recovery of a nested account moves', () => {
    const nested = instruction(associated, [from, mint, to, owner, rent, signs(wallet), token], [2]);
    expect(read(nested)).toEqual([
      'associated-token.recover-nested',
      tokens('token', mint, from, to, 'all'),
      moved(from, wallet, 'all'),
    ]);
  });

  it('does not understand another token program, or more data', () => {
    for (const wrong of [create(hook), create(token, 3), create(token, 0, 0), create(hook, 1)]) {
      expect(described(wrong)[0]).toMatchObject({ understood: false, effects: [] });
    }
  });
});

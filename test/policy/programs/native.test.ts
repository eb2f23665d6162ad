import {
  AddressLookupTableProgram,
  Authorized,
  ComputeBudgetProgram,
  Ed25519Program,
  Lockup,
  PublicKey,
  StakeAuthorizationLayout,
  StakeProgram,
  SystemProgram,
  type Transaction,
  type TransactionInstruction,
  VoteAuthorizationLayout,
  VoteInit,
  VoteProgram,
} from '@solana/web3.js';
import { describe, expect, it } from 'vitest';
import { bytesOf, factsOf, instruction, keyOf, read, signs, text, u32, u64 } from './lab.ts';

const [wallet, other, third, base, owner] = [keyOf(1), keyOf(2), keyOf(3), keyOf(4), keyOf(5)];
const b58 = (key: PublicKey): string => key.toBase58();
const u64_max = 2n ** 64n - 1n;

const moved = (from: PublicKey, to: PublicKey, amount: bigint | 'all') => ({
  kind: 'lamports',
  from: b58(from),
  to: b58(to),
  amount: String(amount),
});
const power = (name: string, account: PublicKey, to: PublicKey | null, more: object = {}) => ({
  kind: 'authority',
  power: name,
  account: b58(account),
  to: to && b58(to),
  ...more,
});
const made = (account: PublicKey, program: PublicKey, space: number) => ({
  kind: 'create-account',
  account: b58(account),
  owner: b58(program),
  space_bytes: String(space),
});
const other_ = { kind: 'other' };
const initial = { initial: true };
const last = (transaction: Transaction): TransactionInstruction =>
  transaction.instructions.at(-1) as TransactionInstruction;

describe('the system program', () => {
  it('reads every instruction that web3.js writes', () => {
    const seed = { basePubkey: base, seed: 'savings' };
    const nonce = { noncePubkey: other, authorizedPubkey: wallet };
    expect(
      [
        SystemProgram.transfer({ fromPubkey: wallet, toPubkey: other, lamports: u64_max }),
        SystemProgram.transfer({ fromPubkey: wallet, toPubkey: wallet, lamports: 0 }),
        SystemProgram.transfer({
          fromPubkey: other,
          toPubkey: third,
          lamports: 7n,
          ...seed,
          programId: owner,
        }),
        SystemProgram.createAccount({
          fromPubkey: wallet,
          newAccountPubkey: other,
          lamports: 5,
          space: 9,
          programId: owner,
        }),
        SystemProgram.createAccountWithSeed({
          fromPubkey: wallet,
          newAccountPubkey: other,
          ...seed,
          lamports: 6,
          space: 10,
          programId: owner,
        }),
        SystemProgram.assign({ accountPubkey: wallet, programId: owner }),
        SystemProgram.assign({ accountPubkey: other, ...seed, programId: owner }),
        SystemProgram.allocate({ accountPubkey: wallet, space: 1 }),
        SystemProgram.allocate({ accountPubkey: other, ...seed, space: 1, programId: owner }),
        SystemProgram.nonceAdvance(nonce),
        SystemProgram.nonceWithdraw({ ...nonce, toPubkey: third, lamports: 8 }),
        SystemProgram.nonceAuthorize({ ...nonce, newAuthorizedPubkey: third }),
        last(SystemProgram.createNonceAccount({ ...nonce, fromPubkey: wallet, lamports: 1 })),
      ].map(read),
    ).toEqual([
      ['system.transfer', moved(wallet, other, u64_max)],
      ['system.transfer', moved(wallet, wallet, 0n)],
      ['system.transfer-with-seed', moved(other, third, 7n)],
      ['system.create-account', moved(wallet, other, 5n), made(other, owner, 9)],
      ['system.create-account-with-seed', moved(wallet, other, 6n), made(other, owner, 10)],
      ['system.assign', power('system.owner', wallet, owner)],
      ['system.assign-with-seed', power('system.owner', other, owner)],
      ['system.allocate', power('system.data', wallet, null)],
      ['system.allocate-with-seed', power('system.data', other, null), power('system.owner', other, owner)],
      ['system.advance-nonce-account', other_],
      ['system.withdraw-nonce-account', moved(other, third, 8n)],
      ['system.authorize-nonce-account', power('nonce.authority', other, third)],
      ['system.initialize-nonce-account', power('nonce.authority', other, wallet, initial)],
    ]);
  });

  it('reads what web3.js does not write: upgraded nonces, and accounts made of funded ones', () => {
    const data = [...u32(13), ...u64(3n), ...u64(4n), ...bytesOf(owner)];
    const free = [...u32(13), ...u64(0n), ...u64(4n), ...bytesOf(owner)];
    expect(
      [
        instruction(SystemProgram.programId, [other], u32(12)),
        instruction(SystemProgram.programId, [signs(other), signs(wallet)], data),
        instruction(SystemProgram.programId, [signs(wallet)], free),
        instruction(SystemProgram.programId, [signs(wallet)], data),
      ].map(read),
    ).toEqual([
      ['system.upgrade-nonce-account', other_],
      [
        'system.create-account-allow-prefund',
        moved(wallet, other, 3n),
        made(other, owner, 4),
        power('system.owner', other, owner),
      ],
      ['system.create-account-allow-prefund', made(wallet, owner, 4), power('system.owner', wallet, owner)],
      ['system.create-account-allow-prefund?'],
    ]);
  });

  it('does not claim to understand data that is too long or too short, missing accounts or unknown numbers', () => {
    const { data } = SystemProgram.transfer({ fromPubkey: wallet, toPubkey: other, lamports: 1 });
    const system = SystemProgram.programId;
    for (const wrong of [
      instruction(system, [wallet, other], [...data, 0]),
      instruction(system, [wallet, other], [...data].slice(0, -1)),
      instruction(system, [wallet], [...data]),
      instruction(system, [], []),
      instruction(system, [wallet, other], u32(14)),
      instruction(system, [wallet, other], [2]),
      // a seed that is longer than the data, and one that is longer than any
      instruction(system, [wallet, base], [...u32(10), ...bytesOf(base), ...u64(50n), ...bytesOf(owner)]),
      instruction(
        system,
        [wallet, base],
        [...u32(10), ...bytesOf(base), ...u64(2n ** 40n), ...bytesOf(owner)],
      ),
    ]) {
      expect(read(wrong)[0]).toMatch(/\?$/);
      expect(read(wrong)).toHaveLength(1);
    }
  });
});

describe('the stake program', () => {
  const stake = { stakePubkey: other, authorizedPubkey: wallet };

  it('reads every instruction that web3.js writes', () => {
    const lockup = new Lockup(1, 2, third);
    expect(
      [
        StakeProgram.initialize({ stakePubkey: other, authorized: new Authorized(wallet, third) }),
        StakeProgram.initialize({ stakePubkey: other, authorized: new Authorized(wallet, third), lockup }),
        last(
          StakeProgram.authorize({
            ...stake,
            newAuthorizedPubkey: third,
            stakeAuthorizationType: StakeAuthorizationLayout.Withdrawer,
          }),
        ),
        last(
          StakeProgram.authorizeWithSeed({
            stakePubkey: other,
            authorityBase: base,
            authoritySeed: 'savings',
            authorityOwner: owner,
            newAuthorizedPubkey: third,
            stakeAuthorizationType: StakeAuthorizationLayout.Staker,
          }),
        ),
        last(StakeProgram.delegate({ ...stake, votePubkey: third })),
        last(StakeProgram.split({ ...stake, splitStakePubkey: third, lamports: 9 }, 0)),
        last(StakeProgram.withdraw({ ...stake, toPubkey: third, lamports: 8 })),
        last(StakeProgram.deactivate(stake)),
        last(StakeProgram.merge({ stakePubkey: other, sourceStakePubKey: third, authorizedPubkey: wallet })),
      ].map(read),
    ).toEqual([
      [
        'stake.initialize',
        power('stake.staker', other, wallet, initial),
        power('stake.withdrawer', other, third, initial),
      ],
      [
        'stake.initialize',
        power('stake.staker', other, wallet, initial),
        power('stake.withdrawer', other, third, initial),
        power('stake.custodian', other, third, initial),
      ],
      ['stake.authorize', power('stake.withdrawer', other, third)],
      ['stake.authorize-with-seed', power('stake.staker', other, third)],
      ['stake.delegate', power('stake.delegation', other, third)],
      ['stake.split', moved(other, third, 9n)],
      ['stake.withdraw', moved(other, third, 8n)],
      ['stake.deactivate', other_],
      ['stake.merge', moved(third, other, 'all')],
    ]);
  });

  it('reads the instructions that are newer than web3.js', () => {
    const program = StakeProgram.programId;
    const four = [other, third, signs(wallet), signs(base)];
    expect(
      [
        instruction(program, [other, signs(wallet)], [...u32(6), 0, 0, 0]),
        instruction(program, [other, signs(wallet)], [...u32(6), 1, ...u64(1n), 0, 1, ...bytesOf(third)]),
        instruction(program, [other, signs(wallet)], [...u32(6), 1, ...u64(1n), 0, 1]),
        instruction(program, [other, signs(wallet)], [...u32(6), 2, 0, 0]),
        instruction(program, four, u32(9)),
        instruction(program, four, [...u32(10), ...u32(1)]),
        instruction(program, four, [...u32(10), ...u32(2)]),
        instruction(program, four, [...u32(11), ...u32(0), ...text('savings'), ...bytesOf(owner)]),
        instruction(program, [other, signs(wallet), signs(third)], [...u32(12), 0, 1, ...u64(4n)]),
        instruction(program, [], u32(13)),
        instruction(program, [other, third, base], u32(14)),
        instruction(program, [other, third, base, owner, signs(wallet)], u32(15)),
        instruction(program, [other, third, signs(wallet)], [...u32(16), ...u64(5n)]),
        instruction(program, [other, third, signs(wallet)], [...u32(17), ...u64(6n)]),
      ].map(read),
    ).toEqual([
      ['stake.set-lockup', power('stake.lockup', other, null)],
      ['stake.set-lockup', power('stake.lockup', other, null), power('stake.custodian', other, third)],
      ['stake.set-lockup?'],
      ['stake.set-lockup?'],
      [
        'stake.initialize-checked',
        power('stake.staker', other, wallet, initial),
        power('stake.withdrawer', other, base, initial),
      ],
      ['stake.authorize-checked', power('stake.withdrawer', other, base)],
      ['stake.authorize-checked?'],
      ['stake.authorize-checked-with-seed', power('stake.staker', other, base)],
      [
        'stake.set-lockup-checked',
        power('stake.lockup', other, null),
        power('stake.custodian', other, third),
      ],
      ['stake.get-minimum-delegation', other_],
      ['stake.deactivate-delinquent', other_],
      ['stake.redelegate?'],
      ['stake.move-stake', moved(other, third, 5n)],
      ['stake.move-lamports', moved(other, third, 6n)],
    ]);
  });
});

describe('the vote program', () => {
  it('reads every instruction that web3.js writes', () => {
    const init = new VoteInit(base, wallet, third, 5);
    const vote = { votePubkey: other, newAuthorizedPubkey: third };
    expect(
      [
        VoteProgram.initializeAccount({ votePubkey: other, nodePubkey: base, voteInit: init }),
        last(
          VoteProgram.authorize({
            ...vote,
            authorizedPubkey: wallet,
            voteAuthorizationType: VoteAuthorizationLayout.Withdrawer,
          }),
        ),
        last(
          VoteProgram.authorizeWithSeed({
            ...vote,
            currentAuthorityDerivedKeyBasePubkey: base,
            currentAuthorityDerivedKeyOwnerPubkey: owner,
            currentAuthorityDerivedKeySeed: 'savings',
            voteAuthorizationType: VoteAuthorizationLayout.Voter,
          }),
        ),
        last(
          VoteProgram.withdraw({
            votePubkey: other,
            authorizedWithdrawerPubkey: wallet,
            lamports: 4,
            toPubkey: third,
          }),
        ),
        last(
          VoteProgram.updateValidatorIdentity({
            votePubkey: other,
            nodePubkey: third,
            authorizedWithdrawerPubkey: wallet,
          }),
        ),
      ].map(read),
    ).toEqual([
      [
        'vote.initialize-account',
        power('vote.identity', other, base, initial),
        power('vote.voter', other, wallet, initial),
        power('vote.withdrawer', other, third, initial),
      ],
      ['vote.authorize', power('vote.withdrawer', other, third)],
      ['vote.authorize-with-seed', power('vote.voter', other, third)],
      ['vote.withdraw', moved(other, third, 4n)],
      ['vote.update-validator-identity', power('vote.identity', other, third)],
    ]);
  });

  it('reads the instructions that web3.js does not write', () => {
    const program = VoteProgram.programId;
    const four = [other, third, signs(wallet), signs(base)];
    const bls = [...u32(2), ...new Array<number>(144).fill(7)];
    expect(
      [
        instruction(program, four, [...u32(1), ...bytesOf(third), ...bls]),
        instruction(program, four, [...u32(1), ...bytesOf(third), ...u32(2)]),
        instruction(program, four, [...u32(5), 9]),
        instruction(program, four, [...u32(7), ...u32(1)]),
        instruction(program, four, [...u32(11), ...u32(1), ...bytesOf(owner), ...text('savings')]),
        instruction(program, [other, signs(wallet)], [...u32(14), 1, 2, 3]),
        instruction(program, four, [...u32(16), 1]),
        instruction(program, [other, third, signs(wallet)], [...u32(17), ...u32(0)]),
        instruction(program, [other, third, signs(wallet)], [...u32(17), ...u32(2)]),
        instruction(program, [other, signs(wallet)], [...u32(18), 1, 0, ...u32(0)]),
        instruction(program, four, [...u32(19), ...u64(1n)]),
      ].map(read),
    ).toEqual([
      ['vote.authorize', power('vote.voter', other, third)],
      ['vote.authorize?'],
      ['vote.update-commission', other_],
      ['vote.authorize-checked', power('vote.withdrawer', other, base)],
      ['vote.authorize-checked-with-seed', power('vote.withdrawer', other, base)],
      ['vote.tower-sync', other_],
      ['vote.initialize-account-v2?'],
      ['vote.update-commission-collector', power('vote.inflation-collector', other, third)],
      ['vote.update-commission-collector?'],
      ['vote.update-commission-bps', other_],
      ['vote.deposit-delegator-rewards?'],
    ]);
  });
});

describe('the smaller programs', () => {
  it('reads lookup tables as web3.js writes them', () => {
    const [create, table] = AddressLookupTableProgram.createLookupTable({
      authority: base,
      payer: wallet,
      recentSlot: 1,
    });
    const at = { lookupTable: table, authority: base };
    expect(
      [
        create,
        AddressLookupTableProgram.extendLookupTable({ ...at, payer: wallet, addresses: [other, third] }),
        AddressLookupTableProgram.extendLookupTable({ ...at, addresses: [other] }),
        AddressLookupTableProgram.freezeLookupTable(at),
        AddressLookupTableProgram.deactivateLookupTable(at),
        AddressLookupTableProgram.closeLookupTable({ ...at, recipient: third }),
      ].map(read),
    ).toEqual([
      [
        'address-lookup-table.create',
        moved(wallet, table, 1_280_640n),
        made(table, AddressLookupTableProgram.programId, 56),
        power('table.authority', table, base, initial),
      ],
      ['address-lookup-table.extend', moved(wallet, table, 64n * 6_960n)],
      ['address-lookup-table.extend', other_],
      ['address-lookup-table.freeze', power('table.authority', table, null)],
      ['address-lookup-table.deactivate', other_],
      ['address-lookup-table.close', moved(table, third, 'all')],
    ]);
  });

  it('reads the compute budget and the precompiles as web3.js writes them', () => {
    const budget = ComputeBudgetProgram;
    expect(
      [
        budget.setComputeUnitLimit({ units: 1 }),
        budget.setComputeUnitPrice({ microLamports: 1 }),
        budget.requestHeapFrame({ bytes: 32_768 }),
        instruction(budget.programId, [], [4, ...u32(1)]),
        instruction(budget.programId, [], [0, ...u64(1n)]),
        Ed25519Program.createInstructionWithPrivateKey({
          privateKey: new Uint8Array(64)
            .fill(1)
            .map((_, at) => (at < 32 ? 1 : (bytesOf(wallet)[at - 32] ?? 0))),
          message: new Uint8Array(3),
        }),
      ].map(read),
    ).toEqual([
      ['compute-budget.set-compute-unit-limit', other_],
      ['compute-budget.set-compute-unit-price', other_],
      ['compute-budget.request-heap-frame', other_],
      ['compute-budget.set-loaded-accounts-data-size-limit', other_],
      ['compute-budget.request-units?'],
      ['ed25519.verify', other_],
    ]);
  });

  it('reads who gets power over programs, and where their lamports go', () => {
    const id = new PublicKey('BPFLoaderUpgradeab1e11111111111111111111111');
    expect(
      [
        instruction(id, [other, third], u32(0)),
        instruction(id, [other, signs(wallet)], [...u32(1), ...u32(0), ...u64(2n), 1, 2]),
        instruction(id, [other, signs(wallet)], [...u32(1), ...u32(0), ...u64(3n), 1, 2]),
        instruction(id, [other], [...u32(2), ...u64(1n)]),
        instruction(id, [other, third, base, owner, keyOf(7), keyOf(8), signs(wallet)], u32(3)),
        instruction(id, [other, signs(wallet)], u32(4)),
        instruction(id, [other, signs(wallet), third], u32(4)),
        instruction(id, [other, third, signs(wallet)], u32(5)),
        instruction(id, [other, signs(wallet), signs(third)], u32(7)),
      ].map(read),
    ).toEqual([
      ['bpf-loader-upgradeable.initialize-buffer', power('program.authority', other, third, initial)],
      ['bpf-loader-upgradeable.write', other_],
      ['bpf-loader-upgradeable.write?'],
      ['bpf-loader-upgradeable.deploy-with-max-data-len?'],
      [
        'bpf-loader-upgradeable.upgrade',
        power('program.code', third, base),
        moved(base, owner, 'all'),
        moved(other, owner, 'all'),
      ],
      ['bpf-loader-upgradeable.set-authority', power('program.authority', other, null)],
      ['bpf-loader-upgradeable.set-authority', power('program.authority', other, third)],
      ['bpf-loader-upgradeable.close', power('program.authority', other, null), moved(other, third, 'all')],
      ['bpf-loader-upgradeable.set-authority-checked', power('program.authority', other, third)],
    ]);
  });

  it('finds no nonce account where there is none', () => {
    const transfer = SystemProgram.transfer({ fromPubkey: wallet, toPubkey: other, lamports: 1 });
    const advance = SystemProgram.nonceAdvance({ noncePubkey: other, authorizedPubkey: wallet });
    expect(factsOf(transfer, advance).durableNonce).toBe(false);
    expect(factsOf(advance, transfer).durableNonce).toBe(true);
  });
});

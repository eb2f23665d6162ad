import { createHash } from 'node:crypto';
import { address, getTransactionDecoder, lamports } from '@solana/kit';
import {
  Authorized,
  Keypair,
  PublicKey,
  StakeProgram,
  SystemProgram,
  Transaction,
  type TransactionInstruction,
} from '@solana/web3.js';
import { FailedTransactionMetadata, LiteSVM } from 'litesvm';
import { beforeEach, describe, expect, it } from 'vitest';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import type { Account, Effect, TransactionFacts } from '../../src/policy/facts.ts';
import { readFacts } from '../../src/policy/read-facts.ts';
import { parseTransaction } from '../../src/solana/transaction.ts';
import { bytesOf, instruction, signs, u32, u64 } from './programs/lab.ts';

/** Each transaction is executed, and the balances of all its accounts must change exactly as its effects say. */

const token = new PublicKey('TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA');
const token2022 = new PublicKey('TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb');
const associated = new PublicKey('ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL');
const nativeMint = new PublicKey('So11111111111111111111111111111111111111112');

let svm: LiteSVM;
let wallet: Keypair;
const signers = new Map<string, Keypair>();

beforeEach(() => {
  svm = new LiteSVM().withNativeMints();
  wallet = person();
  svm.airdrop(address(wallet.publicKey.toBase58()), lamports(100_000_000_000n));
});

describe('what the effects say is what happens', () => {
  it('for transfers and accounts of the system program', () => {
    const [account, friend] = [person(), person()];
    execute(
      SystemProgram.createAccount({
        fromPubkey: wallet.publicKey,
        newAccountPubkey: account.publicKey,
        lamports: 2_000_000,
        space: 10,
        programId: token,
      }),
      SystemProgram.transfer({
        fromPubkey: wallet.publicKey,
        toPubkey: friend.publicKey,
        lamports: 5_000_000,
      }),
      SystemProgram.transfer({
        fromPubkey: friend.publicKey,
        toPubkey: wallet.publicKey,
        lamports: 1_000_000,
      }),
      SystemProgram.transfer({ fromPubkey: wallet.publicKey, toPubkey: wallet.publicKey, lamports: 9 }),
    );
    const seed = { basePubkey: wallet.publicKey, seed: 'savings', programId: SystemProgram.programId };
    const derived = derivedKey('savings', SystemProgram.programId);
    execute(
      SystemProgram.transfer({ fromPubkey: wallet.publicKey, toPubkey: derived, lamports: 5_000_000 }),
      SystemProgram.transfer({
        fromPubkey: derived,
        toPubkey: friend.publicKey,
        lamports: 4_000_000n,
        ...seed,
      }),
    );
  });

  it('for nonce accounts', () => {
    const [nonce, friend] = [person(), person()];
    execute(
      ...SystemProgram.createNonceAccount({
        fromPubkey: wallet.publicKey,
        noncePubkey: nonce.publicKey,
        authorizedPubkey: wallet.publicKey,
        lamports: 5_000_000,
      }).instructions,
    );
    execute(
      SystemProgram.nonceWithdraw({
        noncePubkey: nonce.publicKey,
        authorizedPubkey: wallet.publicKey,
        toPubkey: friend.publicKey,
        lamports: 1_000_000,
      }),
    );
  });

  it('for stake that is split, moved, merged and withdrawn', () => {
    const [stake, split, friend] = [person(), person(), person()];
    const authorizedPubkey = wallet.publicKey;
    const rent = Number(svm.minimumBalanceForRentExemption(200n));
    execute(
      ...StakeProgram.createAccount({
        fromPubkey: wallet.publicKey,
        stakePubkey: stake.publicKey,
        authorized: new Authorized(wallet.publicKey, wallet.publicKey),
        lamports: rent + 3_000_000_000,
      }).instructions,
    );
    execute(
      ...StakeProgram.split(
        {
          stakePubkey: stake.publicKey,
          authorizedPubkey,
          splitStakePubkey: split.publicKey,
          lamports: 1_000_000_000,
        },
        rent,
      ).instructions,
    );
    execute(
      instruction(
        StakeProgram.programId,
        [stake.publicKey, split.publicKey, signs(wallet.publicKey)],
        [...u32(17), ...u64(500_000_000n)],
      ),
    );
    execute(
      ...StakeProgram.withdraw({
        stakePubkey: stake.publicKey,
        authorizedPubkey,
        toPubkey: friend.publicKey,
        lamports: 700_000_000,
      }).instructions,
    );
    execute(
      ...StakeProgram.merge({
        stakePubkey: stake.publicKey,
        sourceStakePubKey: split.publicKey,
        authorizedPubkey,
      }).instructions,
    );
  });

  it.each([
    ['SPL Token', token],
    ['Token-2022', token2022],
  ])('for tokens of %s', (_, program) => {
    const mint = person();
    const friend = person();
    const [own, theirs] = [wallet, friend].map(one => associatedKey(one.publicKey, mint.publicKey, program));
    if (!own || !theirs) throw new Error('Both have an account.');
    const authority = signs(wallet.publicKey);
    execute(
      SystemProgram.createAccount({
        fromPubkey: wallet.publicKey,
        newAccountPubkey: mint.publicKey,
        lamports: Number(svm.minimumBalanceForRentExemption(82n)),
        space: 82,
        programId: program,
      }),
      instruction(program, [mint.publicKey], [20, 6, ...bytesOf(wallet.publicKey), 0]),
    );
    // The most that Token-2022 may need is more than it needs here.
    const rent_lamports = program === token2022 ? (195n - 170n) * 6_960n : 0n;
    executeSaving(
      [{ account: own, rent_lamports }],
      [create(own, wallet.publicKey, mint.publicKey, program, 0)],
    );
    executeSaving(
      [{ account: theirs, rent_lamports }],
      [create(theirs, friend.publicKey, mint.publicKey, program, 1)],
    );
    execute(
      instruction(program, [mint.publicKey, own, authority], [7, ...u64(1_000n)]),
      instruction(program, [own, mint.publicKey, theirs, authority], [12, ...u64(300n), 6]),
      instruction(program, [own, theirs, authority], [3, ...u64(20n)]),
      instruction(program, [own, mint.publicKey, authority], [8, ...u64(5n)]),
      instruction(program, [own, theirs, authority], [4, ...u64(50n)]),
      instruction(program, [own, own, authority], [3, ...u64(7n)]),
    );
    execute(
      instruction(program, [own, mint.publicKey, theirs, authority], [12, ...u64(675n), 6]),
      instruction(program, [own, friend.publicKey, authority], [9]),
    );
    expect(svm.getBalance(address(friend.publicKey.toBase58()))).toBeGreaterThan(2_000_000n);
  });

  it('for an associated account that is there already, which costs nothing', () => {
    const own = associatedKey(wallet.publicKey, nativeMint, token);
    execute(create(own, wallet.publicKey, nativeMint, token, 1));
    executeSaving(
      [{ account: own, rent_lamports: 2_039_280n }],
      [create(own, wallet.publicKey, nativeMint, token, 1)],
    );
  });

  it('for wrapped SOL that goes back with its account', () => {
    const own = associatedKey(wallet.publicKey, nativeMint, token);
    const friend = person();
    execute(
      create(own, wallet.publicKey, nativeMint, token, 0),
      SystemProgram.transfer({ fromPubkey: wallet.publicKey, toPubkey: own, lamports: 5_000_000 }),
    );
    execute(instruction(token, [own, friend.publicKey, signs(wallet.publicKey)], [9]));
    expect(svm.getBalance(address(friend.publicKey.toBase58()))).toBe(7_039_280n);
  });
});

/** What a transaction costs less than its effects say at most, as rent of an account. */
interface Saving {
  readonly account: PublicKey;
  readonly rent_lamports: bigint;
}

const execute = (...instructions: readonly TransactionInstruction[]): void => executeSaving([], instructions);

function executeSaving(savings: readonly Saving[], instructions: readonly TransactionInstruction[]): void {
  svm.expireBlockhash();
  const transaction = new Transaction({
    feePayer: wallet.publicKey,
    recentBlockhash: svm.latestBlockhash(),
  }).add(...instructions);
  const names = transaction.compileMessage().accountKeys.map(key => key.toBase58());
  const signing = names.flatMap(name => signers.get(name) ?? []);
  const required = transaction.compileMessage().header.numRequiredSignatures;
  transaction.sign(...signing.filter(one => names.indexOf(one.publicKey.toBase58()) < required));
  const wire = transaction.serialize();
  const facts = readFacts(parseTransaction(wire));
  expect(facts.instructions.map(one => one.understood)).not.toContain(false);

  const expected = new Balances(names);
  expected.apply(facts);
  for (const saving of savings) expected.save(saving);
  const result = svm.sendTransaction(getTransactionDecoder().decode(wire));
  expect(result instanceof FailedTransactionMetadata ? result.meta().logs() : []).toEqual([]);
  expect(expected).toEqual(new Balances(names));
}

/** Lamports and token units of accounts, as the chain has them now, and as effects change them. */
class Balances {
  readonly lamports = new Map<string, bigint>();
  readonly tokens = new Map<string, bigint>();

  constructor(names: readonly string[]) {
    for (const name of names) {
      const account = svm.getAccount(address(name));
      this.lamports.set(name, account.exists ? account.lamports : 0n);
      const isToken =
        account.exists &&
        [token, token2022].some(one => one.toBase58() === account.programAddress) &&
        account.data.length >= 165;
      // Amounts stand at byte 64; those of wrapped SOL follow the lamports, which are compared already.
      const isNative = isToken && Buffer.from(account.data.subarray(0, 32)).equals(nativeMint.toBuffer());
      this.tokens.set(name, isToken && !isNative ? Buffer.from(account.data).readBigUInt64LE(64) : 0n);
    }
  }

  apply(facts: TransactionFacts): void {
    this.#move(this.lamports, facts.feePayer, undefined, facts.fees.base_lamports);
    for (const effect of facts.instructions.flatMap(one => one.effects)) this.#apply(effect);
  }

  save({ account, rent_lamports }: Saving): void {
    for (const [key, change] of [
      [wallet.publicKey, rent_lamports],
      [account, -rent_lamports],
    ] as const) {
      this.lamports.set(key.toBase58(), (this.lamports.get(key.toBase58()) ?? 0n) + change);
    }
  }

  #apply(effect: Effect): void {
    if (effect.kind === 'lamports') this.#move(this.lamports, effect.from, effect.to, effect.amount);
    if (effect.kind === 'tokens') this.#move(this.tokens, effect.from, effect.to, effect.amount);
  }

  #move(
    balances: Map<string, bigint>,
    from: Account | undefined,
    to: Account | undefined,
    amount: bigint | 'all',
  ): void {
    const moving = amount === 'all' ? (balances.get(nameOf(from)) ?? 0n) : amount;
    if (from) balances.set(nameOf(from), (balances.get(nameOf(from)) ?? 0n) - moving);
    if (to) balances.set(nameOf(to), (balances.get(nameOf(to)) ?? 0n) + moving);
  }
}

const nameOf = (account: Account | undefined): string => encodeBase58(account?.key ?? new Uint8Array(32));

function person(): Keypair {
  const keypair = Keypair.generate();
  signers.set(keypair.publicKey.toBase58(), keypair);
  return keypair;
}

const derivedKey = (seed: string, program: PublicKey): PublicKey =>
  new PublicKey(
    createHash('sha256')
      .update(Buffer.concat([wallet.publicKey.toBuffer(), Buffer.from(seed), program.toBuffer()]))
      .digest(),
  );

const associatedKey = (owner: PublicKey, mint: PublicKey, program: PublicKey): PublicKey =>
  PublicKey.findProgramAddressSync([owner.toBuffer(), program.toBuffer(), mint.toBuffer()], associated)[0];

const create = (account: PublicKey, owner: PublicKey, mint: PublicKey, program: PublicKey, kind: 0 | 1) =>
  instruction(
    associated,
    [signs(wallet.publicKey), account, owner, mint, SystemProgram.programId, program],
    [kind],
  );

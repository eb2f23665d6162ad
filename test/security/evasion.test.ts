import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { publicKeyFromSeed } from '../../src/foundation/ed25519.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { programKey } from '../../src/policy/named-programs.ts';
import { refusal } from '../custodian/lab.ts';
import {
  address,
  approve,
  assign,
  closeAccount,
  createAccount,
  createWithSeed,
  type Instruction,
  memo,
  setOwner,
  tokens,
  transfer,
  unknown,
  usdc,
  wireOf,
} from '../policy/lab.ts';
import { seed, World } from './lab.ts';

/** Tricks that get funds past a policy which looks at a part of a transaction only. */

const wallet = publicKeyFromSeed(seed());
const alice = address('alice');
const mallory = address('mallory');
const mine = address('a token account of the key');
const fee = 5_000; // of a signature, which the key pays
const cap = 20_000;

/** Some lamports to alice, and nothing else; the hour has room for a harmless transaction a trick and one payment. */
const strictFor = (count: number) => ({
  name: 'strict',
  appliesTo: 'all',
  transactions: {
    programs: [{ program: 'system', instructions: ['transfer', 'create-account'] }, { program: 'memo' }],
    destinations: [encodeBase58(alice)],
    caps: {
      perTransaction: { lamports: cap },
      windows: [{ id: 'hourly', window: '1h', lamports: count * fee + cap }],
    },
    fees: 'any',
    createAccounts: ['token'],
  },
});

let world: World;

beforeAll(async () => {
  world = await World.open({ policies: { documents: [strictFor(Object.keys(tricks).length)] } });
});

beforeEach(() => {
  world.device.asked.length = 0;
});

afterAll(() => world[Symbol.asyncDispose]());

/** The same instruction of the key of this world: what `policy/lab.ts` encodes is of another one. */
const own = ({ program, accounts, data }: Instruction): Instruction => ({
  program,
  data,
  accounts: accounts.map(account =>
    account.signer && account.key !== mallory ? { ...account, key: wallet } : account,
  ),
});

const wire = (...instructions: readonly Instruction[]) => wireOf(instructions.map(own), { payer: wallet });
const pay = (to: Uint8Array, lamports: bigint) => transfer(to, lamports, wallet);
const unlisted = address('a program of mallory’s');

const tricks: Readonly<Record<string, { readonly wire: Uint8Array; readonly rule: RegExp }>> = {
  'a second transfer behind the one that is allowed': {
    wire: wire(pay(alice, 1n), pay(mallory, 1n)),
    rule: /^strict\/destinations/,
  },
  'a transfer hidden between memos and allowed transfers': {
    wire: wire(memo('rent'), pay(alice, 1n), memo('salary'), pay(mallory, 5n), pay(alice, 1n)),
    rule: /^strict\/destinations/,
  },
  'many small transfers that add up to more than the cap': {
    wire: wire(...Array.from({ length: 11 }, () => pay(alice, 2_000n))),
    rule: /^strict\/caps/,
  },
  'two amounts that overflow to a small sum': {
    wire: wire(pay(alice, 2n ** 63n), pay(alice, 2n ** 63n)),
    rule: /^strict\/caps/,
  },
  'an account that is made with the lamports instead of a transfer': {
    wire: wireOf([own({ ...createAccount(mallory, 50_000n, programKey('token')) })].map(withSecond), {
      payer: wallet,
    }),
    rule: /^strict\/(destinations|caps)/,
  },
  'an account that is made for a program of one’s own': {
    wire: wireOf([own(createAccount(mallory, 1n, unlisted))].map(withSecond), { payer: wallet }),
    rule: /^strict\/(create-accounts|destinations)/,
  },
  'an account with a seed, which takes no second signature': {
    wire: wire(createWithSeed(mallory, 1n, programKey('token'))),
    rule: /^strict\//,
  },
  'the whole account handed to a program': { wire: wire(assign(unlisted)), rule: /^strict\// },
  'tokens through the token program, which is not listed': {
    wire: wire(tokens(mine, mallory, 1n)),
    rule: /^strict\/programs/,
  },
  'tokens through a program that nobody knows': {
    wire: wire(pay(alice, 1n), { ...tokens(mine, mallory, 1n, usdc), program: unlisted }),
    rule: /^strict\/programs/,
  },
  'an allowance over a token account': { wire: wire(approve(mine, mallory, 1n)), rule: /^strict\/programs/ },
  'a token account with another owner': { wire: wire(setOwner(mine, mallory)), rule: /^strict\/programs/ },
  'a token account that is closed towards somebody': {
    wire: wire(closeAccount(mine, mallory)),
    rule: /^strict\/programs/,
  },
  'an unknown program that is handed the key': { wire: wire(unknown(unlisted)), rule: /^strict\/programs/ },
  'an address that a lookup table hides': {
    wire: wireOf(
      [
        {
          program: programKey('system'),
          accounts: [{ key: wallet, signer: true, writable: true }, { loaded: 0 }],
          data: pay(alice, 1n).data,
        },
      ],
      { payer: wallet, lookups: [{ table: address('table'), writable: [0], readonly: [] }] },
    ),
    rule: /^strict\/(lookup-tables|destinations)/,
  },
};

/** The new account of create-account signs too. */
function withSecond(instruction: Instruction): Instruction {
  const [payer = {}] = instruction.accounts;
  return { ...instruction, accounts: [payer, { key: mallory, signer: true, writable: true }] };
}

describe.each(Object.entries(tricks))('%s', (_name, trick) => {
  it('is refused with the rule, alone and in a batch, recorded, and neither signed nor charged', async () => {
    const before = (await world.records()).length;
    const error = await world.signTransaction(trick.wire).then(
      () => undefined,
      thrown => thrown,
    );
    if (!isKeyslotError(error)) throw new TypeError('It was signed.');
    expect(error.code).toBe('POLICY_DENIED');
    expect(error.violations?.map(({ rule }) => rule).filter(rule => trick.rule.test(rule))).not.toEqual([]);

    const batch = { key: 'wallet', items: ['transaction' as const, 'transaction' as const] };
    const bytes = [trick.wire, wire(memo('harmless'))];
    const { results } = (await world.lab.ask('signer', 'sign-batch', batch, { bytes })).output;
    expect(results).toMatchObject([{ code: 'POLICY_DENIED' }, { version: 'legacy' }]);

    const records = (await world.records()).slice(before);
    const rules = error.violations?.map(({ rule }) => rule);
    const refusals = records.filter(({ type }) => type === 'refusal');
    expect(refusals).toMatchObject(
      Array(2).fill({ code: 'POLICY_DENIED', decision: 'deny', key: 'wallet', outcome: 'refused', rules }),
    );
    expect(records.filter(({ type }) => type === 'intent')).toHaveLength(1); // of the harmless one
    expect(world.signerCalls).toBe(1);
  });
});

it('behind all these tricks all that was not spent is left, and not a lamport more', async () => {
  expect(await refusal(world.signTransaction(wire(pay(alice, BigInt(cap - fee)))))).toBe('none');
  expect(await refusal(world.signTransaction(wire(memo('one more'))))).toBe('POLICY_DENIED');
});

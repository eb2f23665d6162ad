import { expect, it } from 'vitest';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { associatedAccounts } from '../../src/policy/associated-accounts.ts';
import type { CompiledPolicy } from '../../src/policy/compile.ts';
import { evaluate } from '../../src/policy/evaluate.ts';
import type { Facts } from '../../src/policy/facts.ts';
import { programKey } from '../../src/policy/named-programs.ts';
import { readFacts } from '../../src/policy/read-facts.ts';
import { SlidingWindows } from '../../src/policy/windows.ts';
import { parseTransaction } from '../../src/solana/transaction.ts';
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
  type Instruction,
  type Meta,
  memo,
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
  wireOf,
  withdrawNonce,
  withdrawStake,
  wrappedSol,
} from './lab.ts';

/**
 * A hundred thousand transactions of honest people and attackers, held against policies with caps. What is let
 * through is counted a second time, from the raw bytes and by what the chain would do, without any code of the
 * policies; no cap may ever be exceeded, in one transaction or in any hour.
 */

const transactions_count = 100_000;
const seed = 20_260_304;

// What the key has power over, beside itself.
const nonce = address('nonce account of the key');
const stake = address('stake account of the key');
const seeded = address('account that is derived from the key');
const myUsdc = address('usdc account of the key');
const mySol = address('wrapped sol of the key');
const alice = address('alice, whom the policy knows');
const aliceUsdc = associatedAccounts(alice, usdc)[0] ?? alice;
const mallory = address('mallory');
const malloryUsdc = address('usdc account of mallory');
const fresh = address('an account that is made');
const strange = address('an unknown program');
const table = address('a lookup table');
const inTable = [alice, mallory, malloryUsdc, aliceUsdc];

const caps = { lamports: 1_000_000n, usdc: 1_000n, lamportsAnHour: 4_000_000n, usdcAnHour: 3_000n };
const hour_ms = 3_600_000;

const capped = {
  programs: 'any',
  destinations: 'any',
  mints: 'any',
  fees: 'any',
  feePayer: 'any',
  durableNonce: 'allow',
  createAccounts: 'any',
  lookupTables: 'any',
  caps: {
    perTransaction: {
      lamports: Number(caps.lamports),
      tokens: [{ mint: encodeBase58(usdc), amount: Number(caps.usdc) }],
    },
    windows: [
      { window: '1h', lamports: Number(caps.lamportsAnHour) },
      { window: '1h', mint: encodeBase58(usdc), amount: Number(caps.usdcAnHour) },
    ],
  },
};

const listed = {
  ...capped,
  programs: ['system', 'token', 'stake', 'memo', 'compute-budget'].map(program => ({ program })),
  destinations: [encodeBase58(alice), 'self'],
  mints: [encodeBase58(usdc)],
  fees: { max_lamports: 100_000 },
};

it('what a policy lets through never moves more than its caps, by an independent count', () => {
  const anywhere = new Trial('capped', compiled({ transactions: capped }), undefined);
  const known = [alice, aliceUsdc, ...associatedAccounts(alice, usdc)].map(nameOf);
  const somewhere = new Trial('listed', compiled({ transactions: listed }), new Set(known));
  const random = randomFrom(seed);
  let now_ms = subject.at.getTime();
  for (let turn = 0; turn < transactions_count; turn += 1) {
    now_ms += random(240_000);
    const wire = generated(random);
    const failsLater = random(50) === 0;
    const facts = readFacts(parseTransaction(wire), [{ addresses: inTable, resolved: 'rpc' }]);
    for (const trial of [anywhere, somewhere]) trial.run(wire, facts, now_ms, failsLater);
  }
  for (const trial of [anywhere, somewhere]) {
    expect(trial.broken.slice(0, 3), trial.name).toEqual([]);
    // It was no walk-over: much was allowed, much was refused, and the caps were nearly reached.
    expect(trial.allowed).toBeGreaterThan(transactions_count / 50);
    expect(trial.refused).toBeGreaterThan(transactions_count / 50);
    expect(trial.most.lamports).toBeGreaterThan((caps.lamportsAnHour * 9n) / 10n);
    expect(trial.most.usdc).toBeGreaterThan((caps.usdcAnHour * 9n) / 10n);
  }
});

class Trial {
  readonly name: string;
  readonly broken: string[] = [];
  readonly most = { lamports: 0n, usdc: 0n };
  allowed = 0;
  refused = 0;
  #now_ms = 0;
  readonly #policy: CompiledPolicy;
  readonly #destinations: ReadonlySet<string> | undefined;
  readonly #windows = new SlidingWindows(() => this.#now_ms);
  readonly #hour: { readonly at_ms: number; readonly lamports: bigint; readonly usdc: bigint }[] = [];
  readonly #sum = { lamports: 0n, usdc: 0n };

  constructor(name: string, policy: CompiledPolicy, destinations: ReadonlySet<string> | undefined) {
    this.name = name;
    this.#policy = policy;
    this.#destinations = destinations;
  }

  run(wire: Uint8Array, facts: Facts, now_ms: number, failsLater: boolean): void {
    this.#now_ms = now_ms;
    const asking = { ...subject, at: new Date(now_ms) };
    const verdict = evaluate([this.#policy], facts, asking, this.#windows);
    if (!verdict.allowed) {
      this.refused += 1;
      return;
    }
    this.allowed += 1;
    this.#windows.charge(verdict.charges, now_ms);
    if (failsLater) this.#windows.refund(verdict.charges, now_ms);
    else this.#hold(wire, counted(wire), now_ms);
  }

  #hold(wire: Uint8Array, { lamports, usdc, loses, to }: Outflow, at_ms: number): void {
    const complain = (what: string) => this.broken.push(`${what}: ${Buffer.from(wire).toString('hex')}`);
    if (loses) complain(loses);
    if (lamports > caps.lamports) complain(`${lamports} lamports at once`);
    if (usdc > caps.usdc) complain(`${usdc} tokens at once`);
    if (this.#destinations && to.some(one => !this.#destinations?.has(one))) complain('another destination');
    this.#hour.push({ at_ms, lamports, usdc });
    this.#sum.lamports += lamports;
    this.#sum.usdc += usdc;
    for (let first = this.#hour[0]; first && first.at_ms < at_ms - hour_ms; first = this.#hour[0]) {
      this.#sum.lamports -= first.lamports;
      this.#sum.usdc -= first.usdc;
      this.#hour.shift();
    }
    if (this.#sum.lamports > caps.lamportsAnHour) complain(`${this.#sum.lamports} lamports in an hour`);
    if (this.#sum.usdc > caps.usdcAnHour) complain(`${this.#sum.usdc} tokens in an hour`);
    if (this.#sum.lamports > this.most.lamports) this.most.lamports = this.#sum.lamports;
    if (this.#sum.usdc > this.most.usdc) this.most.usdc = this.#sum.usdc;
  }
}

type Random = (below: number) => number;

/** Mulberry32: the same numbers in every run. */
function randomFrom(start: number): Random {
  let state = start;
  return below => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

function generated(random: Random): Uint8Array {
  const honest = random(3) > 0;
  const count = honest ? 1 + random(2) : 1 + random(4);
  const instructions = Array.from({ length: count }, () =>
    honest || random(2) === 0 ? ordinary(random) : tricky(random),
  );
  const payer = random(4) === 0 ? mallory : self;
  if (random(12) > 0) return wireOf(instructions, { payer });
  const last = instructions.at(-1) ?? memo('');
  const accounts = last.accounts.map(meta => fromTable(meta, random));
  instructions[instructions.length - 1] = { ...last, accounts };
  return wireOf(instructions, { payer, lookups: [{ table, writable: [0, 1, 2, 3], readonly: [] }] });
}

const fromTable = (meta: Meta, random: Random): Meta =>
  meta.signer || random(2) === 0 ? meta : { loaded: random(inTable.length), writable: true };

const lamportsOf = (random: Random): bigint =>
  pick(random, [0n, 1n, 990_000n, 1_000_000n, 1_000_001n, 2n ** 64n - 1n, ...small(random, 900_000)]);
const usdcOf = (random: Random): bigint =>
  pick(random, [0n, 1n, 1_000n, 1_001n, 2n ** 64n - 1n, ...small(random, 1_000)]);
const small = (random: Random, below: number): bigint[] => [1, 2, 3, 4].map(() => BigInt(random(below)));
const pick = <T>(random: Random, choices: readonly T[]): T => choices[random(choices.length)] as T;

function ordinary(random: Random): Instruction {
  const to = pick(random, [alice, alice, alice, self, mallory]);
  const tokenTo = pick(random, [aliceUsdc, aliceUsdc, aliceUsdc, malloryUsdc]);
  return pick(random, [
    () => transfer(to, lamportsOf(random)),
    () => tokens(myUsdc, tokenTo, usdcOf(random)),
    () => memo('thank you'),
    () => pick(random, [unitPrice(BigInt(random(90_000))), unitLimit(random(300_000))]),
  ])();
}

function tricky(random: Random): Instruction {
  const to = pick(random, [mallory, alice, self, fresh]);
  const tokenTo = pick(random, [malloryUsdc, aliceUsdc]);
  const lamports = lamportsOf(random);
  const amount = usdcOf(random);
  const made: readonly (() => Instruction)[] = [
    () => createAccount(fresh, lamports, strange),
    () => createWithSeed(pick(random, [fresh, mallory, alice]), lamports, strange),
    () => transferWithSeed(seeded, to, lamports),
    () => transfer(to, lamports, mallory),
    () => withdrawNonce(nonce, to, lamports),
    () => advanceNonce(nonce),
    () => withdrawStake(stake, to, lamports),
    () => assign(strange),
    () => authorizeNonce(nonce, mallory),
    () => authorizeStake(stake, mallory, random(2) === 0 ? 0 : 1),
    () => uncheckedTokens(pick(random, [myUsdc, mySol]), tokenTo, amount),
    () => tokens(mySol, tokenTo, lamports, wrappedSol),
    () => tokens(myUsdc, tokenTo, amount, address('another mint')),
    () => burn(myUsdc, amount),
    () => approve(pick(random, [myUsdc, mySol]), mallory, amount),
    () => setOwner(pick(random, [myUsdc, mySol]), mallory),
    () => closeAccount(pick(random, [myUsdc, mySol]), to),
    () => unknown(pick(random, [strange, address('another program')])),
    () => mangled(random, ordinary(random)),
    () => mangled(random, transfer(to, lamports)),
    () => ({
      ...tokens(myUsdc, tokenTo, amount),
      program: pick(random, [strange, programKey('token-2022')]),
    }),
    () => unitPrice(2n ** BigInt(random(64))),
    () => unitLimit(2 ** random(32)),
  ];
  return pick(random, made)();
}

/** Cut off, made longer, without its last account, or with one bit turned. */
function mangled(random: Random, { program, accounts, data }: Instruction): Instruction {
  const bytes = Buffer.from(data);
  if (bytes.length > 0) bytes[random(bytes.length)] = (bytes[0] ?? 0) ^ (1 << random(8));
  return pick(random, [
    { program, accounts, data: data.subarray(0, random(data.length + 1)) },
    { program, accounts, data: Buffer.concat([data, Buffer.alloc(1 + random(4))]) },
    { program, accounts: accounts.slice(0, -1), data },
    { program, accounts, data: bytes },
  ]);
}

// The second count. It reads the bytes itself, knows whose accounts are whose, and takes each program at what it
// would do if it went through; where the key would lose control, `loses` says how.

interface Outflow {
  lamports: bigint;
  usdc: bigint;
  loses: string;
  /** Everything but the key that receives. */
  readonly to: string[];
}

function counted(wire: Uint8Array): Outflow {
  const bytes = Buffer.from(wire.buffer, wire.byteOffset, wire.length);
  const out: Outflow = { lamports: 0n, usdc: 0n, loses: '', to: [] };
  const signatures = bytes[0] ?? 0;
  let at = 1 + signatures * 64;
  const isV0 = bytes[at] === 0x80;
  if (isV0) at += 1;
  const keyCount = bytes[at + 3] ?? 0;
  const keys = Array.from({ length: keyCount }, (_, place) =>
    bytes.toString('latin1', at + 4 + place * 32, at + 36 + place * 32),
  );
  if (isV0) keys.push(...inTable.map(nameOf));
  at += 4 + keyCount * 32 + 32;
  const instructionCount = bytes[at++] ?? 0;
  const budget = { price: 0n, units: -1n, others: 0n };
  for (let place = 0; place < instructionCount; place += 1) {
    const program = keys[bytes[at] ?? 0] ?? '';
    const accountCount = bytes[at + 1] ?? 0;
    const accounts = [...bytes.subarray(at + 2, at + 2 + accountCount)].map(index => keys[index] ?? '');
    const dataAt = at + 3 + accountCount;
    const length = bytes[dataAt - 1] ?? 0;
    const data = bytes.subarray(dataAt, dataAt + length);
    at = dataAt + length;
    if (program !== names.budget) budget.others += 200_000n;
    countInstruction(out, program, accounts, data, budget);
  }
  if (keys[0] === names.self) {
    const units = budget.units < 0n ? budget.others : budget.units;
    const bounded = units > 1_400_000n ? 1_400_000n : units;
    out.lamports += BigInt(signatures) * 5_000n + (bounded * budget.price + 999_999n) / 1_000_000n;
  }
  return out;
}

function nameOf(key: Uint8Array): string {
  return Buffer.from(key).toString('latin1');
}

const names = {
  self: nameOf(self),
  system: nameOf(programKey('system')),
  token: nameOf(programKey('token')),
  token2022: nameOf(programKey('token-2022')),
  stake: nameOf(programKey('stake')),
  budget: nameOf(programKey('compute-budget')),
  memo: nameOf(programKey('memo')),
  myUsdc: nameOf(myUsdc),
  mySol: nameOf(mySol),
  usdc: nameOf(usdc),
  wrappedSol: nameOf(wrappedSol),
};
const mine = new Set([self, nonce, stake, seeded, myUsdc, mySol].map(nameOf));

/** The token program compares the mint with the account's own; a transaction that lies about it fails. */
const isMintOf = (account: string, mint: string): boolean =>
  mint === (account === names.mySol ? names.wrappedSol : names.usdc);

function countInstruction(
  out: Outflow,
  program: string,
  accounts: readonly string[],
  data: Buffer,
  budget: { price: bigint; units: bigint },
): void {
  const [first = '', second = '', third = ''] = accounts;
  const u64At = (offset: number): bigint => (data.length >= offset + 8 ? data.readBigUInt64LE(offset) : 0n);
  const tag = data.length >= 4 ? data.readUInt32LE(0) : -1;
  const lamports = (from: string, to: string, amount: bigint): void => {
    if (!mine.has(from) || to === names.self) return;
    out.lamports += amount;
    out.to.push(to);
  };
  const token = (from: string, to: string | undefined, amount: bigint): void => {
    if (from === names.mySol) out.lamports += amount;
    else if (from === names.myUsdc) out.usdc += amount;
    else return;
    if (to !== undefined) out.to.push(to);
  };
  const lose = (account: string, what: string): void => {
    if (mine.has(account)) out.loses = what;
  };
  switch (program) {
    case names.system:
      if (tag === 0 || tag === 2) lamports(first, second, u64At(4));
      if (tag === 1) lose(first, 'assign');
      if (tag === 3) lamports(first, second, u64At(4 + 32 + 8 + 4));
      if (tag === 5) lamports(first, second, u64At(4));
      if (tag === 7) lose(first, 'authorize nonce');
      if (tag === 8 || tag === 9 || tag === 10) lose(first, 'allocate or assign');
      if (tag === 11) lamports(first, third, u64At(4));
      return;
    case names.stake:
      if (tag === 1) lose(first, 'authorize stake');
      if (tag === 3 || tag === 4) lamports(first, second, u64At(4));
      return;
    case names.token:
    case names.token2022: {
      const kind = data[0];
      if (kind === 3) token(first, second, u64At(1));
      if (kind === 12 && isMintOf(first, second)) token(first, third, u64At(1));
      if ((kind === 8 || kind === 15) && isMintOf(first, second)) token(first, undefined, u64At(1));
      if (kind === 4 || kind === 13) lose(first, 'approve');
      if (kind === 6) lose(first, 'set-authority');
      if (kind === 9 && second !== names.self) lose(first, 'close-account');
      return;
    }
    case names.budget:
      if (data[0] === 3) budget.price = u64At(1);
      if (data[0] === 2 && data.length >= 5) budget.units = BigInt(data.readUInt32LE(1));
      return;
    case names.memo:
      return;
    default:
      if (accounts.includes(names.self)) out.loses = 'an unknown program gets the key';
  }
}

import { createHash } from 'node:crypto';
import { compilePolicy } from '../../src/policy/compile.ts';
import { parsePolicy } from '../../src/policy/document.ts';
import { evaluate } from '../../src/policy/evaluate.ts';
import type { KnownTables } from '../../src/policy/lookup-tables.ts';
import { programKey } from '../../src/policy/named-programs.ts';
import { readFacts } from '../../src/policy/read-facts.ts';
import type { Counters, Subject } from '../../src/policy/verdict.ts';
import { parseTransaction } from '../../src/solana/transaction.ts';

/** Transactions and policies for the tests of rules; instructions are encoded by hand, from the programs' layouts. */

export interface Meta {
  /** Absent for an account that a lookup table loads; then `loaded` is its place among those. */
  readonly key?: Uint8Array;
  readonly loaded?: number;
  readonly signer?: boolean;
  readonly writable?: boolean;
}

export interface Instruction {
  readonly program: Uint8Array;
  readonly accounts: readonly Meta[];
  readonly data: Uint8Array;
}

export interface Lookup {
  readonly table: Uint8Array;
  readonly writable: readonly number[];
  readonly readonly: readonly number[];
}

/** An address that is the same in every run. */
export const address = (name: string): Uint8Array =>
  new Uint8Array(createHash('sha256').update(name).digest());

export const self = address('the key that signs');
export const usdc = address('the mint of a token');
export const wrappedSol = decode('069b8857feab8184fb687f634618c035dac439dc1aeb3b5598a0f00000000001');

const sysvar = address('some sysvar');
const signing = (key: Uint8Array): Meta => ({ key, signer: true, writable: true });
const writing = (key: Uint8Array): Meta => ({ key, writable: true });
const reading = (key: Uint8Array): Meta => ({ key });

/** The wire transaction, legacy, or v0 where it has lookups; unsigned. */
export function wireOf(
  instructions: readonly Instruction[],
  options: { payer?: Uint8Array; lookups?: readonly Lookup[] } = {},
): Uint8Array {
  const flags = new Map<string, { key: Uint8Array; signer: boolean; writable: boolean }>();
  const note = ({ key, signer = false, writable = false }: Meta): void => {
    if (!key) return;
    const known = flags.get(nameOf(key));
    if (known) {
      known.signer ||= signer;
      known.writable ||= writable;
    } else flags.set(nameOf(key), { key, signer, writable });
  };
  note(signing(options.payer ?? self));
  for (const { program, accounts } of instructions) {
    for (const account of accounts) note(account);
    note(reading(program));
  }
  const all = [...flags.values()];
  const rank = (one: { signer: boolean; writable: boolean }) => (one.signer ? 0 : 2) + (one.writable ? 0 : 1);
  const keys = [0, 1, 2, 3].flatMap(wanted => all.filter(one => rank(one) === wanted));
  const places = new Map(keys.map(({ key }, index) => [nameOf(key), index]));
  const placeOf = ({ key, loaded = 0 }: Meta) =>
    key ? (places.get(nameOf(key)) ?? 0) : keys.length + loaded;
  const count = (wanted: number) => keys.filter(one => rank(one) === wanted).length;
  const required = count(0) + count(1);
  const lookups = options.lookups ?? [];
  return Buffer.concat([
    Buffer.of(required),
    Buffer.alloc(required * 64),
    Buffer.from(lookups.length > 0 ? [0x80] : []),
    Buffer.of(required, count(1), count(3), keys.length),
    ...keys.map(({ key }) => key),
    Buffer.alloc(32, 7),
    Buffer.of(instructions.length),
    ...instructions.flatMap(({ program, accounts, data }) => [
      Buffer.of(placeOf({ key: program }), accounts.length, ...accounts.map(placeOf), data.length),
      data,
    ]),
    ...(lookups.length > 0 ? [Buffer.of(lookups.length)] : []),
    ...lookups.flatMap(({ table, writable, readonly }) => [
      table,
      Buffer.of(writable.length, ...writable, readonly.length, ...readonly),
    ]),
  ]);
}

const nameOf = (key: Uint8Array): string => Buffer.from(key.buffer, key.byteOffset, 32).toString('latin1');

export const factsOf = (
  instructions: readonly Instruction[],
  options?: Parameters<typeof wireOf>[1],
  tables?: KnownTables,
) => readFacts(parseTransaction(wireOf(instructions, options)), tables);

export const subject: Subject = {
  key: { id: 'treasury', publicKey: self, slot: 'main', tags: ['hot'], custody: 'hsm-native' },
  identity: 'payouts',
  at: new Date('2026-03-04T10:00:00Z'), // a Wednesday
};

export const nothingSpent: Counters = { spent: () => 0n };

export const compiled = (document: Record<string, unknown>, version = 1) =>
  compilePolicy(parsePolicy({ name: 'p', appliesTo: 'all', ...document }), version);

/** Allows everything but what the test is about. */
export const lenient = {
  programs: 'any',
  destinations: 'any',
  mints: 'any',
  fees: 'any',
  feePayer: 'any',
  durableNonce: 'allow',
  createAccounts: 'any',
  lookupTables: 'any',
};

/** The rules that refuse these instructions, without the name of the policy; none when it is allowed. */
export function refusals(
  transactions: Record<string, unknown>,
  instructions: readonly Instruction[],
  options?: Parameters<typeof wireOf>[1],
  tables?: KnownTables,
): string[] {
  const policy = compiled({ transactions: { ...lenient, ...transactions } });
  const verdict = evaluate([policy], factsOf(instructions, options, tables), subject, nothingSpent);
  return [...new Set(verdict.violations.map(({ rule }) => rule.slice('p/'.length)))];
}

export function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

const concat = (...parts: Uint8Array[]): Uint8Array => Buffer.concat(parts);
function decode(hex: string): Uint8Array {
  return Buffer.from(hex, 'hex');
}

const system = programKey('system');
const token = programKey('token');
const stake = programKey('stake');
const budget = programKey('compute-budget');

export const transfer = (to: Uint8Array, lamports: bigint, from = self): Instruction => ({
  program: system,
  accounts: [signing(from), writing(to)],
  data: concat(u32(2), u64(lamports)),
});

export const createAccount = (account: Uint8Array, lamports: bigint, owner: Uint8Array): Instruction => ({
  program: system,
  accounts: [signing(self), signing(account)],
  data: concat(u32(0), u64(lamports), u64(165n), owner),
});

/** The account is derived from the key itself, whose signature is enough. */
export const createWithSeed = (account: Uint8Array, lamports: bigint, owner: Uint8Array): Instruction => ({
  program: system,
  accounts: [signing(self), writing(account)],
  data: concat(u32(3), self, u64(4n), Buffer.from('seed'), u64(lamports), u64(165n), owner),
});

export const transferWithSeed = (from: Uint8Array, to: Uint8Array, lamports: bigint): Instruction => ({
  program: system,
  accounts: [writing(from), { key: self, signer: true }, writing(to)],
  data: concat(u32(11), u64(lamports), u64(4n), Buffer.from('seed'), system),
});

export const assign = (owner: Uint8Array): Instruction => ({
  program: system,
  accounts: [signing(self)],
  data: concat(u32(1), owner),
});

export const advanceNonce = (nonce: Uint8Array): Instruction => ({
  program: system,
  accounts: [writing(nonce), reading(sysvar), { key: self, signer: true }],
  data: u32(4),
});

export const withdrawNonce = (nonce: Uint8Array, to: Uint8Array, lamports: bigint): Instruction => ({
  program: system,
  accounts: [
    writing(nonce),
    writing(to),
    reading(sysvar),
    reading(address('rent')),
    { key: self, signer: true },
  ],
  data: concat(u32(5), u64(lamports)),
});

export const authorizeNonce = (nonce: Uint8Array, to: Uint8Array): Instruction => ({
  program: system,
  accounts: [writing(nonce), { key: self, signer: true }],
  data: concat(u32(7), to),
});

export const initializeNonce = (nonce: Uint8Array, authority: Uint8Array): Instruction => ({
  program: system,
  accounts: [writing(nonce), reading(sysvar), reading(address('rent'))],
  data: concat(u32(6), authority),
});

export const withdrawStake = (account: Uint8Array, to: Uint8Array, lamports: bigint): Instruction => ({
  program: stake,
  accounts: [
    writing(account),
    writing(to),
    reading(sysvar),
    reading(address('history')),
    { key: self, signer: true },
  ],
  data: concat(u32(4), u64(lamports)),
});

/** Kind 0 hands over the staker, 1 the withdrawer. */
export const authorizeStake = (account: Uint8Array, to: Uint8Array, kind: 0 | 1): Instruction => ({
  program: stake,
  accounts: [writing(account), reading(sysvar), { key: self, signer: true }],
  data: concat(u32(1), to, u32(kind)),
});

export const tokens = (from: Uint8Array, to: Uint8Array, amount: bigint, mint = usdc): Instruction => ({
  program: token,
  accounts: [writing(from), reading(mint), writing(to), { key: self, signer: true }],
  data: concat(Buffer.of(12), u64(amount), Buffer.of(6)),
});

/** Does not say its mint. */
export const uncheckedTokens = (from: Uint8Array, to: Uint8Array, amount: bigint): Instruction => ({
  program: token,
  accounts: [writing(from), writing(to), { key: self, signer: true }],
  data: concat(Buffer.of(3), u64(amount)),
});

export const burn = (from: Uint8Array, amount: bigint): Instruction => ({
  program: token,
  accounts: [writing(from), writing(usdc), { key: self, signer: true }],
  data: concat(Buffer.of(15), u64(amount), Buffer.of(6)),
});

export const approve = (account: Uint8Array, delegate: Uint8Array, amount: bigint): Instruction => ({
  program: token,
  accounts: [writing(account), reading(delegate), { key: self, signer: true }],
  data: concat(Buffer.of(4), u64(amount)),
});

export const setOwner = (account: Uint8Array, to: Uint8Array): Instruction => ({
  program: token,
  accounts: [writing(account), { key: self, signer: true }],
  data: concat(Buffer.of(6, 2, 1), to),
});

export const closeAccount = (account: Uint8Array, to: Uint8Array): Instruction => ({
  program: token,
  accounts: [writing(account), writing(to), { key: self, signer: true }],
  data: Buffer.of(9),
});

export const memo = (text: string): Instruction => ({
  program: programKey('memo'),
  accounts: [],
  data: Buffer.from(text),
});

export const unitPrice = (microLamports: bigint): Instruction => ({
  program: budget,
  accounts: [],
  data: concat(Buffer.of(3), u64(microLamports)),
});

export const unitLimit = (units: number): Instruction => ({
  program: budget,
  accounts: [],
  data: concat(Buffer.of(2), u32(units)),
});

/** A program that nobody knows, which is handed the key. */
export const unknown = (program: Uint8Array): Instruction => ({
  program,
  accounts: [signing(self)],
  data: Buffer.of(1, 2, 3),
});

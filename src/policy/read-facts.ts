import { classifyMessage } from '../solana/message-kind.ts';
import type { TransactionView } from '../solana/transaction.ts';
import type {
  Account,
  Facts,
  InstructionFacts,
  LookupTable,
  MessageFacts,
  TransactionFacts,
} from './facts.ts';
import { Budget } from './fees.ts';
import { holds, type KnownTables } from './lookup-tables.ts';
import { type Call, u32At } from './programs/instruction.ts';
import { programOf } from './programs/programs.ts';
import { system } from './programs/system.ts';

/**
 * Reads what a transaction would do. Total: whatever `parseTransaction` accepts has facts, and what is not
 * understood in it says so. Nothing is copied, so `view.wire` must not change while the facts are used.
 *
 * Without `tables`, the accounts that lookup tables load have no keys; see `resolveTables`.
 *
 * @example
 * const facts = readFacts(parseTransaction(wire));
 * if (facts.instructions.some(one => !one.understood)) refuse();
 */
export function readFacts(view: TransactionView, tables: KnownTables = []): TransactionFacts {
  const accounts = readAccounts(view, tables);
  const instructions: InstructionFacts[] = [];
  const budget = new Budget();
  for (const { programIndex, accounts: places, data } of view.instructions) {
    const program = accountOf(accounts, programIndex);
    const decoder = program.key && programOf(program.key);
    const call: Call = { accounts: accountsOf(accounts, places), data };
    const { name, understood, effects } = decoder ? decoder.decode(call) : unknown;
    instructions.push({
      index: instructions.length,
      program,
      name,
      understood,
      accounts: call.accounts,
      data,
      effects,
    });
    budget.take(decoder, data);
  }
  return {
    kind: 'transaction',
    view,
    accounts,
    feePayer: accountOf(accounts, 0),
    instructions,
    fees: budget.fees(view),
    durableNonce: beginsWithNonce(instructions[0]),
    tables: view.loadedAccountCount === 0 ? [] : readTables(view, tables),
  };
}

/**
 * Reads what signing a message would mean. Throws OFFCHAIN_MESSAGE_INVALID for bytes that begin as an off-chain
 * message and are not one.
 */
export function readMessageFacts(bytes: Uint8Array): MessageFacts {
  const message = classifyMessage(bytes);
  switch (message.kind) {
    case 'offchain':
      return { kind: 'message', form: 'offchain', bytes, offchain: message };
    case 'transaction':
      return { kind: 'message', form: 'raw-transaction', bytes };
    case 'bytes':
      return { kind: 'message', form: 'bytes', bytes };
  }
}

/** For the record: an instruction a line, `system.transfer 1000000`, and no more than twenty. */
export function summaryOf(facts: Facts): string[] {
  if (facts.kind === 'message') return [`message.${facts.form} ${facts.bytes.length} bytes`];
  const { instructions } = facts;
  const lines = instructions.slice(0, summary_max).map(summaryLine);
  if (instructions.length > summary_max) lines.push(`… and ${instructions.length - summary_max} more`);
  return lines;
}

const summary_max = 20;
const unknown = { name: 'unknown', understood: false, effects: [] } as const;

function summaryLine({ name, understood, effects }: InstructionFacts): string {
  if (!understood) return name === 'unknown' ? name : `${name} (not understood)`;
  for (const effect of effects) {
    if (effect.kind === 'lamports' || effect.kind === 'tokens') return `${name} ${effect.amount}`;
  }
  return name;
}

function readAccounts(view: TransactionView, tables: KnownTables): readonly Account[] {
  const { requiredSignatures, readonlySigned, readonlyUnsigned } = view.header;
  const count = view.accountKeyCount;
  const accounts: Account[] = [];
  for (let index = 0; index < count; index += 1) {
    const signer = index < requiredSignatures;
    const writable = signer ? index < requiredSignatures - readonlySigned : index < count - readonlyUnsigned;
    accounts.push({ index, key: view.accountKey(index), signer, writable });
  }
  if (view.loadedAccountCount > 0) addLoaded(accounts, view, tables);
  return accounts;
}

// The runtime's order: the writable accounts of all tables, then the read-only ones of all tables.
function addLoaded(accounts: Account[], view: TransactionView, tables: KnownTables): void {
  for (const writable of [true, false]) {
    for (const [table, lookup] of view.addressTableLookups.entries()) {
      for (const place of writable ? lookup.writableIndexes : lookup.readonlyIndexes) {
        const key = tables[table]?.addresses[place];
        accounts.push({ index: accounts.length, key, signer: false, writable, table: lookup.tableKey });
      }
    }
  }
}

const readTables = (view: TransactionView, tables: KnownTables): readonly LookupTable[] =>
  view.addressTableLookups.map((lookup, index) => {
    const known = tables[index];
    const resolved = known && holds(known, lookup) ? known.resolved : 'unresolved';
    return { key: lookup.tableKey, resolved };
  });

// A loop: `Array.from` takes ten times as long.
function accountsOf(accounts: readonly Account[], places: Uint8Array): readonly Account[] {
  const list: Account[] = [];
  for (let at = 0; at < places.length; at += 1) list.push(accountOf(accounts, places[at] ?? 0));
  return list;
}

function accountOf(accounts: readonly Account[], index: number): Account {
  const account = accounts[index];
  if (account === undefined) throw new RangeError(`There is no account ${index}.`);
  return account;
}

// What the runtime looks at (`get_durable_nonce` of solana-message): the program and the number of the instruction.
function beginsWithNonce(first: InstructionFacts | undefined): boolean {
  if (first?.program.key === undefined || programOf(first.program.key) !== system) return false;
  return first.data.length >= 4 && u32At(first.data, 0) === advanceNonce;
}

const advanceNonce = 4;

import { KeyslotError } from '../foundation/errors.ts';
import { AddressMap, addressSet } from './address-map.ts';
import { associatedAccounts } from './associated-accounts.ts';
import { duration_ms, type MessageRules, type PolicyDocument, type TransactionRules } from './document.ts';
import { keyOf, programKey } from './named-programs.ts';
import { OfficeHours } from './office-hours.ts';
import { permissive } from './permissive.ts';
import type { Subject } from './verdict.ts';

/** A policy ready to be asked: addresses as bytes, durations in milliseconds, associated accounts derived. */
export interface CompiledPolicy {
  readonly name: string;
  readonly version: number;
  readonly document: PolicyDocument;
  readonly permissive: boolean;
  readonly scope: 'all' | Scope;
  readonly identities: ReadonlySet<string> | undefined;
  readonly custody: ReadonlySet<string> | undefined;
  readonly times: readonly OfficeHours[] | undefined;
  readonly rates: readonly Limit[];
  readonly transactions: CompiledTransactions | undefined;
  readonly messages: CompiledMessages | undefined;
}

interface Scope {
  readonly keys: ReadonlySet<string>;
  readonly tags: ReadonlySet<string>;
  readonly slots: ReadonlySet<string>;
}

/** A bound on what a counter may hold. */
export interface Limit {
  readonly rule: string;
  /** Names the counter, but for whose it is. */
  readonly counter: string;
  readonly max: bigint;
  readonly window_ms: number;
  readonly window: string;
  readonly per: 'policy' | 'key' | 'identity';
}

export interface CompiledTransactions {
  readonly programs: 'any' | AddressMap<CompiledProgram>;
  readonly destinations: 'any' | Destinations;
  readonly mints: 'any' | AddressMap<true>;
  readonly lamports_max: bigint | undefined;
  readonly tokens_max: readonly TokenCap[];
  readonly lamportWindows: readonly Limit[];
  readonly tokenWindows: readonly (Limit & { readonly mint: Uint8Array })[];
  readonly fees: TransactionRules['fees'];
  readonly feePayer: 'any' | KeysOrSelf;
  readonly durableNonce: boolean;
  readonly authorityChanges: 'any' | readonly CompiledAuthorityChange[];
  readonly createAccounts: 'any' | AddressMap<true>;
  readonly lookupTables: 'refuse' | 'resolved' | 'any' | AddressMap<CompiledTable>;
}

export interface CompiledProgram {
  readonly instructions: 'any' | ReadonlySet<string>;
  readonly opaque: boolean;
}

export interface TokenCap {
  readonly rule: string;
  readonly mint: Uint8Array;
  readonly max: bigint;
}

export interface KeysOrSelf {
  readonly keys: AddressMap<true>;
  readonly self: boolean;
  readonly nobody: boolean;
}

export interface CompiledAuthorityChange {
  readonly powers: 'any' | ReadonlySet<string>;
  readonly accounts: 'any' | AddressMap<true>;
  readonly to: 'any' | KeysOrSelf;
}

/** What may be loaded from a table; everything when the document names no addresses. */
export interface CompiledTable {
  readonly addresses: readonly Uint8Array[] | undefined;
  readonly set: AddressMap<true> | undefined;
}

export interface CompiledMessages {
  readonly offchain: boolean;
  readonly bytes: 'none' | 'any' | readonly Uint8Array[];
  readonly raw: boolean;
}

/**
 * Costs milliseconds for each pair of a destination and a mint, whose associated token accounts it derives: done
 * when a policy is read, not when it is asked. Throws POLICY_INVALID when two limits have one id.
 */
export function compilePolicy(document: PolicyDocument, version: number): CompiledPolicy {
  const policy: CompiledPolicy = {
    name: document.name,
    version,
    document,
    permissive: permissive(document),
    scope: scopeOf(document),
    identities: document.identities && new Set(document.identities),
    custody: document.custody && new Set(document.custody),
    times: document.times?.map(hours => new OfficeHours(hours)),
    rates: ratesOf(document),
    transactions: document.transactions && transactionsOf(document.name, document.transactions),
    messages: messagesOf(document.messages),
  };
  checkIds(policy);
  return policy;
}

/** Whether the policy has a say in what this key signs. */
export function appliesTo(policy: CompiledPolicy, key: Subject['key']): boolean {
  const { scope } = policy;
  if (scope === 'all') return true;
  return scope.keys.has(key.id) || scope.slots.has(key.slot) || key.tags.some(tag => scope.tags.has(tag));
}

/** The addresses of a lookup table, when one of the policies lists them: then no node has to be asked. */
export function listedAddresses(
  policies: readonly CompiledPolicy[],
  table: Uint8Array,
): readonly Uint8Array[] | undefined {
  for (const { transactions } of policies) {
    if (typeof transactions?.lookupTables !== 'object') continue;
    const addresses = transactions.lookupTables.get(table)?.addresses;
    if (addresses) return addresses;
  }
  return undefined;
}

/** Whom lamports and tokens may go to: addresses, and the token accounts that belong to them. */
export class Destinations {
  readonly nobody: boolean;
  readonly #keys: AddressMap<true>;
  readonly #self: boolean;
  readonly #mints: readonly Uint8Array[];
  readonly #ownAccounts = new AddressMap<AddressMap<true>>();
  #ownAccounts_count = 0;

  constructor(listed: readonly string[], mints: 'any' | readonly string[]) {
    const wallets = listed.filter(isAddress).map(keyOf);
    this.nobody = listed.includes('nobody');
    this.#self = listed.includes('self');
    this.#mints = mints === 'any' ? [] : mints.map(keyOf);
    this.#keys = addressSet([...wallets, ...wallets.flatMap(wallet => this.#accountsOf(wallet))]);
  }

  /** `self` is the key that signs. */
  includes(to: Uint8Array, self: Uint8Array): boolean {
    return this.#keys.has(to) || (this.#self && this.#own(self).has(to));
  }

  // Derived when the key first asks, since the document does not know it, and kept.
  #own(self: Uint8Array): AddressMap<true> {
    const known = this.#ownAccounts.get(self);
    if (known) return known;
    const key = self.slice();
    const own = addressSet([key, ...this.#accountsOf(key)]);
    if (this.#ownAccounts_count < ownAccounts_max) {
      this.#ownAccounts_count += 1;
      this.#ownAccounts.set(key, own);
    }
    return own;
  }

  #accountsOf(owner: Uint8Array): readonly Uint8Array[] {
    return this.#mints.flatMap(mint => associatedAccounts(owner, mint));
  }
}

const ownAccounts_max = 10_000;

const isAddress = (entry: string): boolean => entry !== 'self' && entry !== 'nobody';

function keysOrSelf(listed: readonly string[]): KeysOrSelf {
  return {
    keys: addressSet(listed.filter(isAddress).map(keyOf)),
    self: listed.includes('self'),
    nobody: listed.includes('nobody'),
  };
}

function scopeOf({ appliesTo }: PolicyDocument): CompiledPolicy['scope'] {
  if (appliesTo === 'all') return 'all';
  return { keys: new Set(appliesTo.keys), tags: new Set(appliesTo.tags), slots: new Set(appliesTo.slots) };
}

function ratesOf({ name, rate }: PolicyDocument): Limit[] {
  return rate.map(({ id, max, window, per }) => {
    const rule = `rate.${id ?? `${window}-${per}`}`;
    return {
      rule,
      counter: `${name}/${rule}`,
      max: BigInt(max),
      window,
      window_ms: duration_ms(window),
      per,
    };
  });
}

function transactionsOf(name: string, rules: TransactionRules): CompiledTransactions {
  const { destinations, mints, authorityChanges, createAccounts, lookupTables, feePayer } = rules;
  return {
    programs: rules.programs === 'any' ? 'any' : programsOf(rules.programs),
    destinations: destinations === 'any' ? 'any' : new Destinations(destinations, mints),
    mints: mints === 'any' ? 'any' : addressSet(mints.map(keyOf)),
    ...capsOf(name, rules.caps),
    fees: rules.fees,
    feePayer: feePayer === 'any' ? 'any' : keysOrSelf(feePayer === 'self' ? ['self'] : feePayer),
    durableNonce: rules.durableNonce === 'allow',
    authorityChanges: authorityChanges === 'any' ? 'any' : authorityChangesOf(authorityChanges),
    createAccounts:
      createAccounts === 'any'
        ? 'any'
        : addressSet(createAccounts === 'none' ? [] : createAccounts.map(programKey)),
    lookupTables: typeof lookupTables === 'string' ? lookupTables : tablesOf(lookupTables),
  };
}

function programsOf(listed: Exclude<TransactionRules['programs'], 'any'>): AddressMap<CompiledProgram> {
  const programs = new AddressMap<CompiledProgram>();
  for (const { program, instructions, opaque } of listed) {
    const key = programKey(program);
    const earlier = programs.get(key); // named twice: both count
    programs.set(key, {
      instructions:
        instructions === 'any' || earlier?.instructions === 'any'
          ? 'any'
          : new Set([...(earlier?.instructions ?? []), ...instructions]),
      opaque: opaque || earlier?.opaque === true,
    });
  }
  return programs;
}

function capsOf(name: string, caps: TransactionRules['caps']) {
  const windows = caps.windows.map(cap => {
    const asset = cap.mint ?? 'lamports';
    const rule = `caps.window.${cap.id ?? `${cap.window}-${asset}-${cap.per}`}`;
    return {
      rule,
      // The asset is part of the name: a limit that is put on something else begins at nothing.
      counter: `${name}/${rule}/${asset}`,
      max: cap.lamports ?? cap.amount ?? 0n,
      window: cap.window,
      window_ms: duration_ms(cap.window),
      per: cap.per,
      mint: cap.mint === undefined ? undefined : keyOf(cap.mint),
    };
  });
  return {
    lamports_max: caps.perTransaction.lamports,
    tokens_max: caps.perTransaction.tokens.map(({ mint, amount }) => ({
      rule: `caps.transaction.${mint}`,
      mint: keyOf(mint),
      max: amount,
    })),
    lamportWindows: windows.filter(cap => cap.mint === undefined),
    tokenWindows: windows.flatMap(cap => (cap.mint === undefined ? [] : [{ ...cap, mint: cap.mint }])),
  };
}

function authorityChangesOf(
  listed: Exclude<TransactionRules['authorityChanges'], 'any'>,
): CompiledAuthorityChange[] {
  if (listed === 'none') return [];
  return listed.map(({ powers, accounts, to }) => ({
    powers: powers === 'any' ? 'any' : new Set(powers),
    accounts: accounts === 'any' ? 'any' : addressSet(accounts.map(keyOf)),
    to: to === 'any' ? 'any' : keysOrSelf(to),
  }));
}

function tablesOf(listed: Exclude<TransactionRules['lookupTables'], string>): AddressMap<CompiledTable> {
  const tables = new AddressMap<CompiledTable>();
  for (const { table, addresses } of listed) {
    const keys = addresses?.map(keyOf);
    tables.set(keyOf(table), { addresses: keys, set: keys && addressSet(keys) });
  }
  return tables;
}

function messagesOf(rules: MessageRules): CompiledMessages | undefined {
  if (rules === 'none') return undefined;
  const { offchain, bytes, raw } = rules;
  return {
    offchain,
    raw,
    bytes: typeof bytes === 'string' ? bytes : bytes.prefixes.map(prefix => Buffer.from(prefix, 'utf8')),
  };
}

function checkIds({ rates, transactions }: CompiledPolicy): void {
  const limits = [...rates, ...(transactions?.lamportWindows ?? []), ...(transactions?.tokenWindows ?? [])];
  const rules = limits.map(limit => limit.rule);
  const twice = rules.find((rule, index) => rules.indexOf(rule) !== index);
  if (twice !== undefined) {
    throw new KeyslotError(
      'POLICY_INVALID',
      `${twice}: two limits have this id; give each an id of its own.`,
    );
  }
}

import { encodeBase58 } from '../foundation/base58.ts';
import { judgeCaps } from './caps.ts';
import type { CompiledAuthorityChange, CompiledPolicy, CompiledTransactions, KeysOrSelf } from './compile.ts';
import type { Account, Effect, InstructionFacts, TransactionFacts } from './facts.ts';
import { isSelf, type Movement } from './movement.ts';
import type { Counters, Findings, Subject } from './verdict.ts';

/** Holds a transaction against every rule of a policy. No rule spares another: all are asked. */
export function judgeTransaction(
  policy: CompiledPolicy,
  facts: TransactionFacts,
  movement: Movement,
  subject: Subject,
  counters: Counters,
  findings: Findings,
): void {
  const rules = policy.transactions;
  if (rules === undefined) {
    findings.deny(policy, 'transactions', 'transactions are not allowed');
    return;
  }
  const judging: Judging = { policy, rules, facts, self: subject.key.publicKey, findings };
  judged(judging, 'lookup-tables', judgeLookupTables);
  judged(judging, 'programs', judgePrograms);
  judged(judging, 'destinations', judgeDestinations);
  judged(judging, 'mints', judgeMints);
  judged(judging, 'authority-changes', judgeAuthorityChanges);
  judged(judging, 'create-accounts', judgeCreatedAccounts);
  judged(judging, 'fee-payer', judgeFeePayer);
  judged(judging, 'fees', judgeFees);
  judged(judging, 'durable-nonce', judgeDurableNonce);
  judgeCaps(policy, rules, movement, subject, counters, findings);
}

interface Judging {
  readonly policy: CompiledPolicy;
  readonly rules: CompiledTransactions;
  readonly facts: TransactionFacts;
  /** The key that signs. */
  readonly self: Uint8Array;
  readonly findings: Findings;
}

/** A rule refuses by itself and says why; here it is noted when it did not. */
function judged(judging: Judging, rule: string, judge: (judging: Judging) => void): void {
  const { findings, policy } = judging;
  const before = findings.rules?.length;
  judge(judging);
  if (before !== undefined && findings.rules?.length === before)
    findings.allow(policy, rule, 'nothing against it');
}

function judgeLookupTables({ policy, rules: { lookupTables }, facts, findings }: Judging): void {
  if (lookupTables === 'any') return;
  for (const { key, resolved } of facts.tables) {
    const entry = typeof lookupTables === 'object' ? lookupTables.get(key) : undefined;
    if (lookupTables === 'refuse') {
      findings.deny(policy, 'lookup-tables', `the lookup table ${named(key)} is used, and none is allowed`);
    } else if (typeof lookupTables === 'object' && entry === undefined) {
      findings.deny(policy, 'lookup-tables', `the lookup table ${named(key)} is not listed`);
    } else if (resolved === 'unresolved') {
      findings.deny(policy, 'lookup-tables', `the lookup table ${named(key)} cannot be seen through`);
    }
  }
  if (typeof lookupTables !== 'object') return;
  for (const account of facts.accounts) {
    const listed = account.table && lookupTables.get(account.table)?.set;
    if (!listed || (account.key && listed.has(account.key))) continue;
    findings.deny(policy, 'lookup-tables', `${accountName(account)} is not listed for its lookup table`);
  }
}

function judgePrograms({ policy, rules: { programs }, facts, findings }: Judging): void {
  if (programs === 'any') return;
  for (const { program, name, understood, index } of facts.instructions) {
    const entry = program.key && programs.get(program.key);
    if (!entry) {
      findings.deny(policy, 'programs', `the program ${accountName(program)} is not listed`, index);
    } else if (!understood) {
      if (entry.opaque) continue;
      findings.deny(policy, 'instructions', `${name} cannot be read, and its program is not opaque`, index);
    } else if (entry.instructions !== 'any' && !entry.instructions.has(shortName(name))) {
      findings.deny(policy, 'instructions', `${name} is not listed`, index);
    }
  }
}

const shortName = (name: string): string => name.slice(name.indexOf('.') + 1);

function judgeDestinations(judging: Judging): void {
  const { policy, rules, self, findings } = judging;
  const { destinations } = rules;
  if (destinations === 'any') return;
  forEachEffect(judging, 'destinations', (effect, { index, name }) => {
    if (effect.kind !== 'lamports' && effect.kind !== 'tokens') return;
    const { to } = effect;
    if (to === undefined) {
      if (!destinations.nobody)
        findings.deny(policy, 'destinations', `${name} burns, and nobody is not listed`, index);
    } else if (to.key === undefined) {
      findings.deny(policy, 'destinations', `${accountName(to)} receives and cannot be seen`, index);
    } else if (!destinations.includes(to.key, self)) {
      findings.deny(policy, 'destinations', `${accountName(to)} is not listed`, index);
    }
  });
}

function judgeMints(judging: Judging): void {
  const { policy, rules, findings } = judging;
  const { mints } = rules;
  if (mints === 'any') return;
  forEachEffect(judging, 'mints', (effect, { index, name }) => {
    if (effect.kind !== 'tokens') return;
    const mint = effect.mint?.key;
    if (mint === undefined) {
      findings.deny(
        policy,
        'mints',
        `${name} does not say which token it moves; its checked form does`,
        index,
      );
    } else if (!mints.has(mint)) {
      findings.deny(policy, 'mints', `the mint ${named(mint)} is not listed`, index);
    }
  });
}

/** Visits what is understood; what is not cannot be held to a list, and is refused. */
function forEachEffect(
  { policy, facts, findings }: Judging,
  rule: string,
  visit: (effect: Effect, instruction: InstructionFacts) => void,
): void {
  for (const instruction of facts.instructions) {
    if (instruction.understood) {
      for (const effect of instruction.effects) visit(effect, instruction);
    } else {
      findings.deny(
        policy,
        rule,
        `${instruction.name} cannot be read, so the list cannot be kept`,
        instruction.index,
      );
    }
  }
}

function judgeAuthorityChanges({ policy, rules, facts, self, findings }: Judging): void {
  const { authorityChanges } = rules;
  if (authorityChanges === 'any') return;
  for (const { effects, index } of facts.instructions) {
    for (const effect of effects) {
      if (effect.kind !== 'authority') continue;
      if (effect.initial && isSelf(effect.toKey, self)) continue; // nothing is handed on: the key receives
      if (authorityChanges.some(change => permits(change, effect, self))) continue;
      const { power, account, toKey, unseen } = effect;
      const holder = toKey ? named(toKey) : unseen ? 'somebody who cannot be seen' : 'nobody';
      const reason = `the power ${power} over ${accountName(account)} may not go to ${holder}`;
      findings.deny(policy, 'authority-changes', reason, index);
    }
  }
}

function permits(change: CompiledAuthorityChange, effect: AuthorityEffect, self: Uint8Array): boolean {
  const { powers, accounts, to } = change;
  const { power, account, toKey, unseen } = effect;
  if (powers !== 'any' && !powers.has(power)) return false;
  if (accounts !== 'any' && (account.key === undefined || !accounts.has(account.key))) return false;
  return to === 'any' || (unseen !== true && mayHold(to, toKey, self));
}

type AuthorityEffect = Extract<Effect, { kind: 'authority' }>;

function mayHold(to: KeysOrSelf, holder: Uint8Array | undefined, self: Uint8Array): boolean {
  if (holder === undefined) return to.nobody;
  return to.keys.has(holder) || (to.self && isSelf(holder, self));
}

function judgeCreatedAccounts({ policy, rules: { createAccounts }, facts, findings }: Judging): void {
  if (createAccounts === 'any') return;
  for (const { effects, index } of facts.instructions) {
    for (const effect of effects) {
      if (effect.kind !== 'create-account' || createAccounts.has(effect.owner)) continue;
      const reason = `an account of the program ${named(effect.owner)} may not be made`;
      findings.deny(policy, 'create-accounts', reason, index);
    }
  }
}

function judgeFeePayer({ policy, rules: { feePayer }, facts, self, findings }: Judging): void {
  if (feePayer === 'any' || mayHold(feePayer, facts.feePayer.key, self)) return;
  findings.deny(policy, 'fee-payer', `${accountName(facts.feePayer)} may not pay the fee`);
}

/** Only what the key pays itself: others may spend on fees what they like. */
function judgeFees({ policy, rules: { fees }, facts, self, findings }: Judging): void {
  if (!isSelf(facts.feePayer.key, self)) {
    findings.skip(policy, 'fees', 'another account pays');
    return;
  }
  if (fees === 'any') return;
  const { base_lamports, priority_lamports } = facts.fees;
  if (priority_lamports === undefined) {
    findings.deny(policy, 'fees.priority', 'the priority fee is contradictory');
    return;
  }
  const total = base_lamports + priority_lamports;
  const { max_lamports, priority_max_lamports } = fees;
  if (max_lamports !== undefined && total > max_lamports) {
    findings.deny(policy, 'fees.max', `the fee of up to ${total} lamports is more than ${max_lamports}`);
  }
  if (priority_max_lamports !== undefined && priority_lamports > priority_max_lamports) {
    const reason = `the priority fee of up to ${priority_lamports} lamports is more than ${priority_max_lamports}`;
    findings.deny(policy, 'fees.priority', reason);
  }
}

function judgeDurableNonce({ policy, rules, facts, findings }: Judging): void {
  if (rules.durableNonce || !facts.durableNonce) return;
  findings.deny(
    policy,
    'durable-nonce',
    'a transaction on a durable nonce does not expire, and is not allowed',
  );
}

const named = (key: Uint8Array): string => encodeBase58(key);

const accountName = ({ key, index }: Account): string => (key ? named(key) : `account ${index}`);

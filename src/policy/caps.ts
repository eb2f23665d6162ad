import type { CompiledPolicy, CompiledTransactions, Limit } from './compile.ts';
import { type Movement, tokensOf, type Uncounted } from './movement.ts';
import { type Counters, type Findings, noRoom, type Subject } from './verdict.ts';

/** Holds what a transaction moves against the caps of a policy, and collects what to charge. */
export function judgeCaps(
  policy: CompiledPolicy,
  rules: CompiledTransactions,
  movement: Movement,
  subject: Subject,
  counters: Counters,
  findings: Findings,
): void {
  const { lamports } = movement;
  if (rules.lamports_max !== undefined) {
    const rule = 'caps.transaction.lamports';
    if (isCounted(policy, rule, movement, 'lamports', findings)) {
      judgeAmount(policy, rule, lamports, rules.lamports_max, findings);
    }
  }
  for (const { rule, mint, max } of rules.tokens_max) {
    if (isCounted(policy, rule, movement, 'tokens', findings)) {
      judgeAmount(policy, rule, tokensOf(movement, mint), max, findings);
    }
  }
  for (const limit of rules.lamportWindows) {
    if (isCounted(policy, limit.rule, movement, 'lamports', findings)) {
      judgeLimit(policy, limit, lamports, subject, counters, findings);
    }
  }
  for (const limit of rules.tokenWindows) {
    if (isCounted(policy, limit.rule, movement, 'tokens', findings)) {
      judgeLimit(policy, limit, tokensOf(movement, limit.mint), subject, counters, findings);
    }
  }
}

/** Holds one amount against several limits: each request counts once against each rate. */
export function limitCharges(
  policy: CompiledPolicy,
  limits: readonly Limit[],
  amount: bigint,
  subject: Subject,
  counters: Counters,
  findings: Findings,
): void {
  for (const limit of limits) judgeLimit(policy, limit, amount, subject, counters, findings);
}

/** What could not be counted refuses: an unknown mint may be any token's, wrapped SOL included. */
function isCounted(
  policy: CompiledPolicy,
  rule: string,
  movement: Movement,
  asset: 'lamports' | 'tokens',
  findings: Findings,
): boolean {
  const matters = ({ what }: Uncounted): boolean => what === 'anything' || asset === 'lamports';
  let counted = true;
  for (const one of movement.uncounted) {
    if (!matters(one)) continue;
    counted = false;
    findings.deny(policy, rule, one.reason, one.instruction);
  }
  return counted;
}

function judgeAmount(
  policy: CompiledPolicy,
  rule: string,
  amount: bigint,
  max: bigint,
  findings: Findings,
): void {
  if (amount > max) findings.deny(policy, rule, `${amount} is more than ${max}`);
  else if (findings.rules) findings.allow(policy, rule, `${amount} of at most ${max}`);
}

function judgeLimit(
  policy: CompiledPolicy,
  limit: Limit,
  amount: bigint,
  subject: Subject,
  counters: Counters,
  findings: Findings,
): void {
  const { rule, max, window, window_ms } = limit;
  if (amount === 0n) {
    findings.skip(policy, rule, 'nothing to count');
    return;
  }
  const counter = counterOf(limit, subject);
  const spent = counters.spent(counter, window_ms);
  if (spent >= noRoom) {
    findings.deny(policy, rule, 'too many counters are in use to begin another');
    return;
  }
  if (spent + amount > max) {
    findings.deny(policy, rule, `${amount} more than the ${spent} of the last ${window} would exceed ${max}`);
    return;
  }
  if (findings.rules) findings.allow(policy, rule, `${spent} + ${amount} of at most ${max} in ${window}`);
  findings.charges.push({ counter, window_ms, amount });
}

function counterOf({ counter, per }: Limit, { key, identity }: Subject): string {
  switch (per) {
    case 'policy':
      return counter;
    case 'key':
      return `${counter}/key:${key.id}`;
    case 'identity':
      return `${counter}/identity:${identity}`;
  }
}

import { limitCharges } from './caps.ts';
import { appliesTo, type CompiledPolicy } from './compile.ts';
import type { Facts } from './facts.ts';
import { judgeMessage } from './message-rules.ts';
import { type Movement, movementOf } from './movement.ts';
import { judgeTransaction } from './transaction-rules.ts';
import { type Counters, Findings, type Subject, type Verdict } from './verdict.ts';

export interface EvaluateOptions {
  /** Says of each rule of each policy what it found, not only of those that refuse. */
  readonly explain?: boolean;
}

/**
 * Whether the policies let a request through: every policy that applies to the key must, and when none applies it
 * is refused. Nothing is changed and nothing awaited. The caller adds the charges to the counters before anything
 * else happens, so that no other request is judged in between, and takes them back when nothing was signed.
 *
 * Facts lend the bytes of the transaction, so the caller owns them: what is signed afterwards must be the bytes
 * that were judged, in a buffer that nobody else can write to.
 *
 * @example
 * const verdict = evaluate(policies, readFacts(parseTransaction(wire)), subject, windows);
 * if (verdict.allowed) windows.charge(verdict.charges, subject.at.getTime());
 */
export function evaluate(
  policies: readonly CompiledPolicy[],
  facts: Facts,
  subject: Subject,
  counters: Counters,
  options: EvaluateOptions = {},
): Verdict {
  const findings = new Findings(options.explain === true);
  const asked: string[] = [];
  let movement: Movement | undefined;
  for (const policy of policies) {
    if (!appliesTo(policy, subject.key)) continue;
    asked.push(`${policy.name}@${policy.version}`);
    judgeSubject(policy, subject, findings);
    limitCharges(policy, policy.rates, 1n, subject, counters, findings);
    if (facts.kind === 'transaction') {
      movement ??= movementOf(facts, subject.key.publicKey);
      judgeTransaction(policy, facts, movement, subject, counters, findings);
    } else {
      judgeMessage(policy, facts, findings);
    }
  }
  return verdictOf(asked, findings);
}

function judgeSubject(policy: CompiledPolicy, subject: Subject, findings: Findings): void {
  const { identities, custody, times } = policy;
  const { key, identity, at } = subject;
  if (identities === undefined) findings.skip(policy, 'identities', 'anybody may ask');
  else if (identities.has(identity)) findings.allow(policy, 'identities', 'the identity is listed');
  else findings.deny(policy, 'identities', 'the identity is not listed');

  if (custody === undefined) findings.skip(policy, 'custody', 'any custody will do');
  else if (custody.has(key.custody)) findings.allow(policy, 'custody', `${key.custody} is listed`);
  else findings.deny(policy, 'custody', `the key is kept in ${key.custody}, which is not listed`);

  if (times === undefined) findings.skip(policy, 'times', 'at any time');
  else if (times.some(hours => hours.includes(at))) findings.allow(policy, 'times', 'within the hours');
  else findings.deny(policy, 'times', `${at.toISOString()} is outside the hours`);
}

function verdictOf(policies: string[], findings: Findings): Verdict {
  const none = { rule: 'no-policy', reason: 'no policy applies to the key' };
  if (policies.length === 0) {
    const explained = findings.rules ? { rules: [{ ...none, verdict: 'deny' as const }] } : {};
    return { allowed: false, policies, violations: [none], charges: [], ...explained };
  }
  return {
    allowed: !findings.denied,
    policies,
    violations: findings.violations,
    charges: findings.denied ? [] : findings.charges,
    ...(findings.rules ? { rules: findings.rules } : {}),
  };
}

import { appliesTo, type CompiledPolicy } from './compile.ts';
import { evaluate } from './evaluate.ts';
import type { Facts } from './facts.ts';
import type { RuleViolation, Subject } from './verdict.ts';
import { SlidingWindows } from './windows.ts';

/** A request of the past, as the audit log tells it. */
export interface PastRequest {
  readonly seq: number;
  readonly subject: Subject;
  readonly was: 'allow' | 'deny';
  /** Absent when the log does not hold the bytes, or they cannot be read. */
  readonly facts: Facts | undefined;
}

export interface Replay {
  /** How many requests were judged anew. */
  readonly judged: number;
  /** How many could not be, because what they asked for is not in the log. */
  readonly unreadable: number;
  readonly changes: readonly ReplayedChange[];
}

export interface ReplayedChange {
  readonly seq: number;
  readonly was: 'allow' | 'deny';
  readonly now: 'allow' | 'deny';
  /** Why the candidates refuse. */
  readonly violations: readonly RuleViolation[];
}

/**
 * What candidates would have said to the requests of the past, in their order and each at its time, and where
 * that is not what was said then. Limits begin at nothing and count what the candidates allow. Requests of keys
 * that no candidate applies to are left out.
 */
export function replay(requests: Iterable<PastRequest>, candidates: readonly CompiledPolicy[]): Replay {
  const changes: ReplayedChange[] = [];
  let now_ms = 0;
  let judged = 0;
  let unreadable = 0;
  const windows = new SlidingWindows(() => now_ms, { counters_max: Number.MAX_SAFE_INTEGER });
  for (const { seq, subject, was, facts } of requests) {
    if (!candidates.some(policy => appliesTo(policy, subject.key))) continue;
    if (facts === undefined) {
      unreadable += 1;
      continue;
    }
    judged += 1;
    now_ms = subject.at.getTime();
    const { allowed, violations, charges } = evaluate(candidates, facts, subject, windows);
    windows.charge(charges, now_ms);
    const now = allowed ? 'allow' : 'deny';
    if (now !== was) changes.push({ seq, was, now, violations });
  }
  return { judged, unreadable, changes };
}

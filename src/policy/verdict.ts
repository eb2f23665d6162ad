import type { CustodyLabel } from '../custody/engine.ts';

/** Who asks for a signature of which key, and when. */
export interface Subject {
  readonly key: {
    readonly id: string;
    readonly publicKey: Uint8Array;
    readonly slot: string;
    readonly tags: readonly string[];
    readonly custody: CustodyLabel;
  };
  readonly identity: string;
  /** The wall clock, for rules about office hours. */
  readonly at: Date;
}

/** What has been counted. `SlidingWindows` is one. */
export interface Counters {
  /** Everything charged to the counter within the window that ends now. Never less than that, rather more. */
  spent(counter: string, window_ms: number): bigint;
}

/** What counters say that cannot begin another: more than any amount, so that no limit lets it through. */
export const noRoom = 2n ** 100n;

/** What to add to a counter when the request is carried out. */
export interface Charge {
  readonly counter: string;
  readonly window_ms: number;
  readonly amount: bigint;
}

export interface Verdict {
  readonly allowed: boolean;
  /** `name@version` of every policy that was asked. */
  readonly policies: readonly string[];
  /** Why not: empty when it is allowed, and cut off at a hundred. */
  readonly violations: readonly RuleViolation[];
  /** Every rule's verdict in the order of the documents; only when it was to be explained. */
  readonly rules?: readonly RuleVerdict[];
  /** Empty when it is refused. */
  readonly charges: readonly Charge[];
}

export interface RuleViolation {
  /** `policy/rule`, as `docs/policy.md` lists them; `no-policy` stands alone. */
  readonly rule: string;
  readonly reason: string;
  readonly instruction?: number;
}

export interface RuleVerdict extends RuleViolation {
  readonly verdict: 'allow' | 'deny' | 'skip';
}

/** Collects what the rules say. Texts are made for refusals and explanations only, never for what passes. */
export class Findings {
  readonly violations: RuleViolation[] = [];
  readonly rules: RuleVerdict[] | undefined;
  readonly charges: Charge[] = [];
  denied = false;

  constructor(explain: boolean) {
    this.rules = explain ? [] : undefined;
  }

  deny(policy: Named, rule: string, reason: string, instruction?: number): void {
    this.denied = true;
    const violation = finding(policy, rule, reason, instruction);
    if (this.violations.length < violations_max) this.violations.push(violation);
    this.rules?.push({ ...violation, verdict: 'deny' });
  }

  allow(policy: Named, rule: string, reason: string): void {
    this.rules?.push({ ...finding(policy, rule, reason, undefined), verdict: 'allow' });
  }

  skip(policy: Named, rule: string, reason: string): void {
    this.rules?.push({ ...finding(policy, rule, reason, undefined), verdict: 'skip' });
  }
}

/** What a finding is told as: `name/rule`. */
type Named = { readonly name: string };

const violations_max = 100;

const finding = (policy: Named, rule: string, reason: string, instruction: number | undefined) => ({
  rule: `${policy.name}/${rule}`,
  reason,
  ...(instruction === undefined ? {} : { instruction }),
});

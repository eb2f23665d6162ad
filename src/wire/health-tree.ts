import { z } from 'zod';
import { nothing, operation, repeatable } from './operation.ts';

/** The tree of checks behind `/v1/health`, for people and for what watches on their behalf. */

export const checkStatus = z.enum(['ok', 'warn', 'fail']);
export type CheckStatus = z.infer<typeof checkStatus>;

export interface CheckNode {
  readonly id: string;
  /** `warn`: it works, and somebody should look. */
  readonly status: CheckStatus;
  /** Since when it has been so, as far back as this process remembers. */
  readonly since: string;
  readonly data: Readonly<Record<string, string | number | boolean>>;
  readonly checks?: readonly CheckNode[] | undefined;
}

export const checkNode: z.ZodType<CheckNode> = z.object({
  id: z.string(),
  status: checkStatus,
  since: z.string(),
  data: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
  get checks() {
    return z.array(checkNode).optional();
  },
});

export const healthTreeOperations = {
  /** What the custodian knows of itself: as `health`, and of what it stands on. Nothing is signed for it. */
  'show-health': operation(
    nothing,
    z.object({
      ready: z.boolean(),
      /** Whether there is a key that callers could sign with. */
      initialised: z.boolean(),
      checks: z.array(checkNode),
    }),
    repeatable,
  ),
};

/** A check without its history. */
export type Check = Omit<CheckNode, 'since' | 'checks'> & {
  readonly since?: string;
  readonly checks?: readonly Check[];
};

/** A check that stands for others is as bad as the worst of them. */
export const branch = (id: string, checks: readonly Check[], data: Check['data'] = {}): Check => ({
  id,
  status: worst(checks),
  data,
  checks,
});

export const worst = (checks: readonly { readonly status: CheckStatus }[]): CheckStatus => {
  if (checks.some(({ status }) => status === 'fail')) return 'fail';
  return checks.some(({ status }) => status === 'warn') ? 'warn' : 'ok';
};

/** Remembers since when each check has been as it is; what says so itself is believed. */
export class CheckHistory {
  readonly #known = new Map<string, { status: CheckStatus; since: string }>();
  readonly #now: () => Date;

  constructor(now: () => Date) {
    this.#now = now;
  }

  dated({ checks, ...check }: Check): CheckNode {
    const since = check.since ?? this.#since(check);
    return { ...check, since, ...(checks ? { checks: checks.map(each => this.dated(each)) } : {}) };
  }

  #since({ id, status }: Check): string {
    const known = this.#known.get(id);
    if (known?.status === status) return known.since;
    const since = this.#now().toISOString();
    this.#known.set(id, { status, since });
    return since;
  }
}

import { z } from 'zod';

/**
 * What the custodian tells of a call besides its answer, for whoever asks for it: the line of the request, and its
 * trace. Names of things that there are, verdicts and times; nothing of what was signed, opened or presented.
 */

/** The stages of a signature, in their order. */
export const stageNames = ['decode', 'policy', 'intent', 'sign', 'verify', 'result'] as const;
export type Stage = (typeof stageNames)[number];

const time_ms = z.number().min(0);
const name = z.string().max(200);

const stage = z.object({
  stage: z.enum(stageNames),
  /** Since the call began. */
  from_ms: time_ms,
  took_ms: time_ms,
  slot: name.optional(),
  code: name.optional(),
});
export type StageView = z.infer<typeof stage>;

/** At most so many stages of one call are told one by one; a batch has more. */
export const trail_items_max = 120;

export const callAccount = z.object({
  operation: name,
  /** Who asked, when that is known. */
  identity: name.optional(),
  /** A key and a slot that there are; of signatures, the slot that made the last one. */
  key: name.optional(),
  slot: name.optional(),
  /** What the policies said; `deny` when they refused one item of a batch. */
  verdict: z.enum(['allow', 'deny']).optional(),
  /** Of a batch: its items, and how many of them were not signed. */
  items: z.int().optional(),
  unsigned: z.int().optional(),
  took_ms: time_ms,
  /** In the order of `stageNames`, in milliseconds; those of the items of a batch are added up. */
  stages: z.array(time_ms).length(stageNames.length).optional(),
  /** Stage by stage, when the call is traced. */
  trail: z.array(stage).max(trail_items_max).optional(),
});
export type CallAccount = z.infer<typeof callAccount>;

/** Where the accounts of a request's calls go. */
export interface AccountTaker {
  /** Whether the stages are wanted one by one. */
  readonly traced: boolean;
  /** When a call has been answered, whichever way; `asked_ms` is when it was asked, on the monotonic clock. */
  take(account: CallAccount, asked_ms: number): void;
}

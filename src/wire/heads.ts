import { z } from 'zod';
import { isErrorCode, KeyslotError } from '../foundation/errors.ts';
import { type CallAccount, callAccount } from './account.ts';
import { credential, isOperation, type OperationName, operations, type Request } from './custodian.ts';
import { FrameError } from './frames.ts';

/** The heads of the frames between gateway and custodian, checked: neither side trusts what the other sends. */

export interface CallHead<N extends OperationName = OperationName> {
  readonly operation: N;
  readonly input: Request<N>['input'];
  readonly requestId: string;
  readonly credential?: z.infer<typeof credential> | undefined;
  readonly session?: string | undefined;
  readonly requestIdGiven?: boolean | undefined;
  readonly idempotencyKey?: string | undefined;
  readonly approval?: string | undefined;
  /** Whether the answer carries the account of the call, and whether stage by stage. */
  readonly account?: 'whole' | 'traced' | undefined;
}

const callHead = z.strictObject({
  operation: z.string().refine(isOperation),
  input: z.unknown(),
  requestId: z.string().max(100),
  credential: credential.optional(),
  session: z.string().max(100).optional(),
  requestIdGiven: z.boolean().optional(),
  idempotencyKey: z.string().max(255).optional(),
  approval: z.string().max(100).optional(),
  account: z.enum(['whole', 'traced']).optional(),
});

/** FrameError when it is no call at all; BODY_INVALID when only the input of its operation is wrong. */
export function parseCallHead(head: unknown): CallHead {
  const parsed = callHead.safeParse(head);
  if (!parsed.success)
    throw new FrameError('The head of a call does not have its shape.', { cause: parsed.error });
  const { operation } = parsed.data;
  const input = operations[operation].input.safeParse(parsed.data.input);
  if (input.success) return { ...parsed.data, operation, input: input.data };
  throw new KeyslotError('BODY_INVALID', `The input of ${operation} does not have its shape.`, {
    cause: input.error,
  });
}

/** The output in the head of a reply to a call that asked for its account: they stand beside each other. */
export const outputIn = (head: unknown): unknown =>
  typeof head === 'object' && head !== null && 'output' in head ? head.output : undefined;

/** The account that came with an answer. One that does not have its shape is none: no request fails for it. */
export function accountIn(head: unknown): CallAccount | undefined {
  if (typeof head !== 'object' || head === null || !('account' in head)) return undefined;
  const parsed = callAccount.safeParse(head.account);
  return parsed.success ? parsed.data : undefined;
}

const failureHead = z.object({
  code: z.string().refine(isErrorCode),
  detail: z.string(),
  retryAfter_s: z.number().optional(),
  violations: z.array(z.object({ rule: z.string(), reason: z.string() })).optional(),
});

/** The failure that the custodian answered with. FrameError when it is none. */
export function parseFailureHead(head: unknown): KeyslotError {
  const parsed = failureHead.safeParse(head);
  if (!parsed.success)
    throw new FrameError('The head of a failure does not have its shape.', { cause: parsed.error });
  const { code, detail, retryAfter_s, violations } = parsed.data;
  return new KeyslotError(code, detail, {
    ...(retryAfter_s === undefined ? {} : { retryAfter_s }),
    ...(violations === undefined ? {} : { violations }),
  });
}

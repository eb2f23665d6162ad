import { createHash, randomBytes } from 'node:crypto';
import type { Clock } from '../foundation/clock.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { OperationName } from '../wire/custodian.ts';
import type { ApprovalView } from '../wire/policies.ts';

/**
 * Dual control: what no single person may do alone. Somebody requests exactly one operation with exactly one
 * input, others approve it, and the requester performs it, once. Kept in memory only and timed by the monotonic
 * clock: a restart ends all of them, and no step of the wall clock revives one.
 */
export class Approvals {
  #needed: ReadonlyMap<OperationName, number>;
  readonly #clock: Clock;
  readonly #approvals = new Map<string, Approval>();

  constructor(needed: ReadonlyMap<OperationName, number>, clock: Clock) {
    this.#needed = needed;
    this.#clock = clock;
  }

  /** From now on; a request that is under way goes by what was needed when it was made, if that is more. */
  require(needed: ReadonlyMap<OperationName, number>): void {
    this.#needed = needed;
  }

  /** How many people besides the requester an operation takes; 0 for one that anybody with the role may do alone. */
  needed(operation: OperationName): number {
    return this.#needed.get(operation) ?? 0;
  }

  /** APPROVAL_UNUSABLE for an operation that takes none; IDENTITY_LOCKED_OUT is never: old requests make room. */
  request(by: string, operation: OperationName, input: Input, reason: string): ApprovalView {
    const needed = this.needed(operation);
    if (needed === 0) throw new KeyslotError('APPROVAL_UNUSABLE', `${operation} takes no approval.`);
    this.#sweep();
    this.#makeRoom(by);
    const approval: Approval = {
      id: `a-${randomBytes(9).toString('hex')}`,
      operation,
      input: { ...input },
      digest: digestOf(by, operation, input),
      requestedBy: by,
      reason,
      needed,
      approvedBy: new Set(),
      rejectedBy: new Set(),
      used: false,
      until_ms: this.#clock.monotonic_ms() + life_ms,
      expiresAt: new Date(this.#clock.utc().getTime() + life_ms).toISOString(),
    };
    this.#approvals.set(approval.id, approval);
    return this.#view(approval);
  }

  all(): readonly ApprovalView[] {
    this.#sweep();
    return [...this.#approvals.values()].map(approval => this.#view(approval));
  }

  /** APPROVAL_UNKNOWN. */
  show(id: string): ApprovalView {
    return this.#view(this.#get(id));
  }

  /** APPROVAL_UNKNOWN; APPROVAL_UNUSABLE for one's own, for one that is over, and for another digest than its own. */
  decide(id: string, by: string, decision: 'approve' | 'reject', digest: string): ApprovalView {
    const approval = this.#get(id);
    const refuse = (why: string): never => {
      throw new KeyslotError('APPROVAL_UNUSABLE', `The approval ${id} ${why}.`);
    };
    if (approval.requestedBy === by) refuse('was requested by you: somebody else decides');
    const state = this.#stateOf(approval);
    if (state !== 'pending' && state !== 'approved') refuse(`is ${state}`);
    if (approval.digest !== digest) refuse('is of another request than the digest says');
    approval.approvedBy.delete(by);
    approval.rejectedBy.delete(by);
    (decision === 'approve' ? approval.approvedBy : approval.rejectedBy).add(by);
    return this.#view(approval);
  }

  /**
   * Takes the approval for the operation that is about to be done; it is used up whatever becomes of that. Answers
   * who approved. APPROVAL_REQUIRED without one, APPROVAL_UNUSABLE for one that is not of exactly this request.
   */
  take(id: string | undefined, by: string, operation: OperationName, input: Input): readonly string[] {
    const needed = this.needed(operation);
    if (needed === 0) return [];
    if (id === undefined) {
      const people = needed === 1 ? 'one other person' : `${needed} other people`;
      throw new KeyslotError('APPROVAL_REQUIRED', `${operation} takes the approval of ${people}.`);
    }
    const approval = this.#get(id);
    const state = this.#stateOf(approval);
    const refuse = (why: string): never => {
      throw new KeyslotError('APPROVAL_UNUSABLE', `The approval ${id} ${why}.`);
    };
    if (state !== 'approved') refuse(`is ${state}`);
    if (approval.digest !== digestOf(by, operation, input)) refuse('is of another request');
    if (approval.approvedBy.size < needed) refuse(`is of fewer people than the ${needed} that it takes now`);
    approval.used = true;
    return [...approval.approvedBy];
  }

  /** Somebody who is no identity any more has approved nothing. */
  forget(identity: string): void {
    for (const approval of this.#approvals.values()) approval.approvedBy.delete(identity);
  }

  #get(id: string): Approval {
    const approval = this.#approvals.get(id);
    if (approval) return approval;
    throw new KeyslotError('APPROVAL_UNKNOWN', `There is no approval ${id.slice(0, 80)}.`);
  }

  #stateOf(approval: Approval): ApprovalView['state'] {
    if (approval.used) return 'used';
    if (this.#clock.monotonic_ms() >= approval.until_ms) return 'expired';
    if (approval.rejectedBy.size > 0) return 'rejected';
    return approval.approvedBy.size >= approval.needed ? 'approved' : 'pending';
  }

  #view(approval: Approval): ApprovalView {
    const { used: _used, until_ms: _until, approvedBy, rejectedBy, ...rest } = approval;
    const state = this.#stateOf(approval);
    return { ...rest, approvedBy: [...approvedBy], rejectedBy: [...rejectedBy], state };
  }

  #sweep(): void {
    const longAgo_ms = this.#clock.monotonic_ms() - kept_ms;
    for (const [id, { until_ms }] of this.#approvals) if (until_ms < longAgo_ms) this.#approvals.delete(id);
  }

  /** Who requests without end pushes out its own oldest request, nobody else's. */
  #makeRoom(by: string): void {
    const own = [...this.#approvals.values()].filter(approval => approval.requestedBy === by);
    if (own.length >= requests_max) this.#approvals.delete(own[0]?.id ?? '');
  }
}

type Input = Readonly<Record<string, unknown>>;

interface Approval {
  readonly id: string;
  readonly operation: OperationName;
  readonly input: Record<string, unknown>;
  readonly digest: string;
  readonly requestedBy: string;
  readonly reason: string;
  readonly needed: number;
  readonly approvedBy: Set<string>;
  readonly rejectedBy: Set<string>;
  readonly until_ms: number;
  readonly expiresAt: string;
  used: boolean;
}

/** Of a request that everybody writes the same way: the names of its fields in order. */
function digestOf(by: string, operation: string, input: Input): string {
  const fields = Object.keys(input)
    .filter(name => input[name] !== undefined)
    .sort()
    .map(name => [name, input[name]]);
  return createHash('sha256')
    .update(JSON.stringify([operation, by, fields]))
    .digest('hex');
}

const life_ms = 15 * 60_000;
const kept_ms = 60 * 60_000; // after it is over, so that people can see what became of it
const requests_max = 20; // per identity

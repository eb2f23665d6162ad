import { z } from 'zod';
import { nothing, operation, repeatable } from './operation.ts';
import { slotState } from './views.ts';

/** Groups of slots that hold the same keys: what gateway and custodian say of them. */

export const groupState = z.enum(['serving', 'degraded', 'down']);

export const groupMemberView = z.object({
  slot: z.string(),
  /** Of the signatures, relative to the other members; 0 signs only when no other can. */
  weight: z.int(),
  state: slotState,
  /** `open`: the group does not ask it for now; `half-open`: the next request finds out. */
  circuit: z.enum(['closed', 'open', 'half-open']),
  /** When the circuit was opened or closed for the last time. */
  since: z.string(),
  /** The code of its last failure. */
  lastError: z.string().optional(),
  /**
   * How many keys of the group are registered here, have a copy here, have none here, and have another key under
   * their id here, as far as it is known; absent before the slot was opened for the first time.
   */
  keys: z.object({ home: z.int(), copies: z.int(), missing: z.int(), mismatched: z.int() }).optional(),
});

export const groupView = z.object({
  id: z.string(),
  /** `serving`: every member signs; `degraded`: not every one; `down`: none. */
  state: groupState,
  /** Those that the caller may see. */
  members: z.array(groupMemberView),
});

export type GroupState = z.infer<typeof groupState>;
export type GroupMemberView = z.infer<typeof groupMemberView>;
export type GroupView = z.infer<typeof groupView>;

export const groupOperations = {
  'list-groups': operation(nothing, z.object({ groups: z.array(groupView) }), repeatable),
};

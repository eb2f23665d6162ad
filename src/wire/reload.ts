import { z } from 'zod';
import { nothing, once, operation, repeatable } from './operation.ts';

/** Taking a changed configuration without a restart: what gateway and custodian say of it. */

/** By names. What was changed is neither added nor removed. */
const changes = z.object({
  added: z.array(z.string()),
  changed: z.array(z.string()),
  removed: z.array(z.string()),
});
export type Changes = z.infer<typeof changes>;

export const reloadDiff = z.object({
  slots: changes,
  groups: changes,
  identities: changes,
  jwtIssuers: changes,
  policies: changes,
  certificates: z.array(z.enum(['server', 'client-ca'])),
  /** All other settings that changed, by their names in keyslot.yaml. */
  settings: z.array(z.string()),
});
export type ReloadDiff = z.infer<typeof reloadDiff>;

export const reloaded = z.object({
  /** Whether anything was different. */
  changed: z.boolean(),
  diff: reloadDiff,
  /** Registered keys that their open slots do not hold as they should: they sign nothing. */
  keysGone: z.array(z.object({ slot: z.string(), key: z.string() })),
});
export type Reloaded = z.infer<typeof reloaded>;

export const reloadView = z.object({
  at: z.string(),
  /** An identity, or `signal`. */
  by: z.string(),
  outcome: z.enum(['ok', 'refused']),
  /** Why it was refused; nothing was changed then. */
  code: z.string().optional(),
  detail: z.string().optional(),
  result: reloaded.optional(),
});
export type ReloadView = z.infer<typeof reloadView>;

export const reloadOperations = {
  reload: operation(nothing, reloaded, once),
  /** The last one since the custodian started. */
  'show-reload': operation(
    nothing,
    z.object({ running: z.boolean(), last: reloadView.optional() }),
    repeatable,
  ),
};

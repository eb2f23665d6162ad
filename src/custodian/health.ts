import type { AuditLog } from '../audit/audit-log.ts';
import type { SlotId } from '../custody/ids.ts';
import type { Health, HealthCheck } from '../wire/views.ts';
import { isHarmless } from './reconciliation.ts';
import type { SlotKeeper } from './slot-keeper.ts';

/**
 * Whether the appliance can do its work, from what is known: nothing is signed for the answer. It is ready when every
 * required check is ok. A slot that is in a group is judged through its group and is shown all the same.
 */
export function healthOf(world: HealthWorld): Health {
  const slots = [...world.keepers.values()].map(keeper => slotCheck(keeper, world.groups));
  const checks = [...slots, ...world.groups.map(group => groupCheck(group, slots)), auditCheck(world.audit)];
  return { ready: checks.every(({ ok, required }) => ok || required === false), checks };
}

export interface HealthWorld {
  readonly keepers: ReadonlyMap<SlotId, JudgedSlot>;
  readonly groups: readonly GroupHealth[];
  readonly audit: Pick<AuditLog, 'status'>;
}

export type JudgedSlot = Pick<
  SlotKeeper,
  'id' | 'state' | 'since' | 'custody' | 'required' | 'findings' | 'canary'
>;

/** What is known of the slots that hold the same keys. */
export interface GroupHealth {
  readonly id: string;
  readonly state: 'serving' | 'degraded' | 'down';
  readonly members: readonly {
    readonly slot: SlotId;
    /** Whether it answers and holds every key of the group, so that it could do all alone. */
    readonly ok: boolean;
  }[];
}

/**
 * Ok is a slot that is open, has every key that is registered there as it was registered, and has shown lately that
 * it signs. One without a canary key cannot show it: it counts as its state says.
 */
function slotCheck(keeper: JudgedSlot, groups: readonly GroupHealth[]): HealthCheck {
  const { id, state, custody, since, findings, canary } = keeper;
  const harmful = findings.filter(finding => !isHarmless(finding)).length;
  const serves = state === 'open' || state === 'degraded';
  const signs = canary === undefined || canary.state === 'proven' || canary.state === 'unavailable';
  const group = groups.find(({ members }) => members.some(({ slot }) => slot === id));
  return {
    id: `slot/${id}`,
    ok: serves && signs && harmful === 0,
    state,
    custody,
    since: since.toISOString(),
    required: keeper.required && group === undefined,
    ...(group ? { group: group.id } : {}),
    findings: { all: findings.length, harmful },
    ...(canary ? { canary } : {}),
  };
}

/** One slot that is well and holds every key is enough; that it is not all of them is said: `degraded`. */
function groupCheck({ id, state, members }: GroupHealth, slots: readonly HealthCheck[]): HealthCheck {
  const shown = members.map(({ slot, ok }) => ({
    slot,
    ok: ok && slots.some(check => check.id === `slot/${slot}` && check.ok),
  }));
  const whole = shown.every(({ ok }) => ok);
  return {
    id: `group/${id}`,
    ok: shown.some(({ ok }) => ok),
    state: state === 'serving' && !whole ? 'degraded' : state,
    required: true,
    members: shown,
  };
}

function auditCheck(audit: HealthWorld['audit']): HealthCheck {
  const { state, tamperEvidence } = audit.status();
  return { id: 'audit', ok: state === 'ok', state, required: true, tamperEvidence };
}

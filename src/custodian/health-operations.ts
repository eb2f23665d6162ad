import type { SlotId } from '../custody/ids.ts';
import type { Clock } from '../foundation/clock.ts';
import { CheckHistory } from '../wire/health-tree.ts';
import { healthOf } from './health.ts';
import { healthTree } from './health-tree.ts';
import type { CustodianMetrics, MetricsWorld } from './metrics.ts';
import type { Operations } from './operation.ts';

/** How the custodian is, in three forms: ready or not, as a tree, and in numbers. */
export function healthOperations({
  metrics,
  seen,
  clock,
  reserved,
}: HealthOperationsWorld): Operations<'health' | 'show-health' | 'metrics'> {
  const history = new CheckHistory(() => clock.utc());
  const judged = () => healthOf({ keepers: seen.keepers, groups: seen.groups.health(), audit: seen.audit });
  const initialised = () =>
    [...seen.keepers.keys()].some(
      slot => slot !== reserved && seen.keysOf(slot).some(({ state }) => state === 'active'),
    );
  return {
    health: async () => ({ output: judged() }),
    'show-health': async () => {
      const health = judged();
      const checks = await healthTree(seen, health, check => history.dated(check));
      return { output: { ready: health.ready, initialised: initialised(), checks: [...checks] } };
    },
    metrics: async () => ({ output: { series: await metrics.read(seen) } }),
  };
}

export interface HealthOperationsWorld {
  readonly metrics: CustodianMetrics;
  readonly seen: MetricsWorld;
  readonly clock: Clock;
  /** The slot of the audit key, whose key signs for nobody. */
  readonly reserved: SlotId | undefined;
}

import type { AuditLog } from '../audit/audit-log.ts';
import { branch, type Check, type CheckNode, type CheckStatus } from '../wire/health-tree.ts';
import type { CanaryView, Health } from '../wire/views.ts';
import { figuresOf, type MetricsWorld } from './metrics.ts';
import type { SlotKeeper } from './slot-keeper.ts';
import type { Surroundings } from './surroundings.ts';

/**
 * Everything that is worth a look, as a tree. Only what `health` requires decides whether the appliance is ready; a
 * full disk or a clock that was set says so here before it stops anything.
 */
export async function healthTree(
  world: MetricsWorld,
  { checks: judged }: Health,
  dated: (check: Check) => CheckNode,
): Promise<readonly CheckNode[]> {
  const keepers = [...world.keepers.values()];
  const kms = keepers.filter(({ engine }) => engine === 'kms');
  const groups = judged.filter(({ id }) => id.startsWith('group/'));
  const checks: readonly Check[] = [
    branch(
      'slots',
      keepers.map(keeper =>
        slotCheck(keeper, judged.find(({ id }) => id === `slot/${keeper.id}`)?.ok ?? false),
      ),
    ),
    ...(groups.length > 0
      ? [
          branch(
            'groups',
            groups.map(({ id, ok, state }) => ({ id, status: groupStatus(ok, state), data: { state } })),
          ),
        ]
      : []),
    ...(kms.length > 0 ? [kmsCheck(kms)] : []),
    auditCheck(world.audit),
    ...(await surroundingChecks(world.surroundings)),
  ];
  return checks.map(dated);
}

function slotCheck(keeper: SlotKeeper, ok: boolean): Check {
  const { id, state, engine, custody, since, findings, required, reason, canary } = keeper;
  const checks = [...sessionCheck(keeper), ...(canary ? [canaryCheck(id, canary)] : [])];
  const spared = ok || !required;
  return {
    id: `slot/${id}`,
    status: ok && state === 'open' ? 'ok' : spared ? 'warn' : 'fail',
    since: since.toISOString(),
    data: {
      state,
      engine,
      custody,
      required,
      findings: findings.length,
      ...(reason ? { reason: reason.code } : {}),
    },
    ...(checks.length > 0 ? { checks } : {}),
  };
}

function sessionCheck(keeper: SlotKeeper): readonly Check[] {
  const figures = figuresOf(keeper);
  if (!figures) return [];
  const { places_max, busy, waiting, writtenOff } = figures;
  const crowded = keeper.crowded_ms !== undefined || writtenOff > 0;
  return [
    {
      id: `slot/${keeper.id}/sessions`,
      status: writtenOff >= places_max ? 'fail' : crowded ? 'warn' : 'ok',
      data: { max: places_max, busy, waiting, writtenOff },
    },
  ];
}

function canaryCheck(slot: string, { ok, state, every_s, age_s, lastError }: CanaryView): Check {
  return {
    id: `slot/${slot}/canary`,
    status: ok ? 'ok' : state === 'unavailable' ? 'warn' : 'fail',
    data: {
      state,
      every_s,
      ...(age_s === undefined ? {} : { age_s }),
      ...(lastError ? { lastError: lastError.code, lastErrorAt: lastError.at } : {}),
    },
  };
}

const groupStatus = (ok: boolean, state: string): CheckStatus => {
  if (!ok) return 'fail';
  return state === 'serving' ? 'ok' : 'warn';
};

/** What is reached over the network is one service, whichever slots depend on it. */
function kmsCheck(keepers: readonly SlotKeeper[]): Check {
  const away = keepers.filter(({ state }) => state !== 'open' && state !== 'locked');
  const [first] = away;
  return {
    id: 'kms',
    status: !first ? 'ok' : away.length < keepers.length ? 'warn' : 'fail',
    data: {
      slots: keepers.length,
      away: away.length,
      ...(first?.reason ? { reason: first.reason.code } : {}),
    },
  };
}

function auditCheck(audit: AuditLog): Check {
  const { state, size, checkpointed, witnessed, witnesses, tamperEvidence } = audit.status();
  const { waiting, checkpointedAt } = audit.figures();
  const written: Check = {
    id: 'audit/log',
    status: state === 'ok' ? 'ok' : 'fail',
    data: { state, records: size, waiting },
  };
  const checkpoints: Check = {
    id: 'audit/checkpoints',
    status: 'ok',
    data: {
      tamperEvidence,
      records: checkpointed,
      ...(checkpointedAt === undefined ? {} : { at: checkpointedAt }),
    },
  };
  // Their names are addresses and paths, which are not for everybody: by their place in the configuration.
  const told = witnesses.map(
    ({ size: seen, error }, at): Check => ({
      id: `audit/witness/${at + 1}`,
      status: error === undefined ? 'ok' : 'warn',
      data: { records: seen },
    }),
  );
  return branch('audit', [written, checkpoints, ...told], { witnessed });
}

async function surroundingChecks(surroundings: Surroundings): Promise<readonly Check[]> {
  const offset_s = Math.round(surroundings.clockOffset_ms()) / 1_000;
  const disks = await surroundings.disks();
  const store_bytes = surroundings.store_bytes();
  return [
    store_bytes === undefined
      ? { id: 'store', status: 'fail', data: { reason: 'STORE_FAILED' } }
      : { id: 'store', status: 'ok', data: { size_bytes: store_bytes } },
    branch(
      'disk',
      disks.map(({ place, free_bytes, size_bytes }) => ({
        id: `disk/${place}`,
        status: diskStatus(free_bytes, size_bytes),
        data: { free_bytes, size_bytes },
      })),
    ),
    { id: 'clock', status: Math.abs(offset_s) > offset_s_max ? 'warn' : 'ok', data: { offset_s } },
  ];
}

function diskStatus(free_bytes: number, size_bytes: number): CheckStatus {
  if (free_bytes < free_bytes_min) return 'fail';
  return free_bytes < Math.min(size_bytes * free_ratio, free_bytes_enough) ? 'warn' : 'ok';
}

/** Limits are not counted by the machine's clock once it is further off than this. */
const offset_s_max = 30;
const free_bytes_min = 64 * 1024 * 1024;
const free_bytes_enough = 4 * 1024 * 1024 * 1024;
const free_ratio = 0.1;

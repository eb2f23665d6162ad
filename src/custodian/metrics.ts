import type { AuditLog } from '../audit/audit-log.ts';
import { measures, type SessionFigures } from '../custody/engine.ts';
import type { SlotId } from '../custody/ids.ts';
import { errorTable, type KeyslotError } from '../foundation/errors.ts';
import type { Verdict } from '../policy/verdict.ts';
import type { KeyRecord } from '../store/key-registry.ts';
import { type Stage, stageNames } from '../wire/account.ts';
import type { Credential, OperationName } from '../wire/custodian.ts';
import { type Counter, type Histogram, Meters, reading, stateReadings } from '../wire/meters.ts';
import type { Series } from '../wire/metrics.ts';
import { ProcessReadings } from '../wire/process-readings.ts';
import { slotState } from '../wire/views.ts';
import type { SlotGroups } from './slot-groups.ts';
import type { SlotKeeper } from './slot-keeper.ts';
import type { SignatureStages } from './stages.ts';
import type { Surroundings } from './surroundings.ts';

/**
 * What the custodian counts while it works, and what it sees when it is asked. A signature adds to counters that were
 * found before it: it makes no label and takes no lock.
 */
export class CustodianMetrics implements Disposable {
  readonly #meters = new Meters();
  readonly #process = new ProcessReadings('custodian');
  readonly #operations = new Map<OperationName, Outcomes>();
  readonly #signing = new Map<SlotId, SlotSigning>();
  readonly #stages: Readonly<Record<Stage, Histogram>>;
  readonly #allowed: Counter;
  readonly #commits: Histogram;
  readonly #records: Counter;
  readonly #engineOf: (slot: SlotId) => string;

  constructor(engineOf: (slot: SlotId) => string) {
    const meters = this.#meters;
    this.#engineOf = engineOf;
    this.#stages = Object.fromEntries(
      stageNames.map(stage => [stage, meters.histogram('keyslot_sign_stage_duration_seconds', { stage })]),
    ) as Record<Stage, Histogram>;
    this.#allowed = meters.counter('keyslot_policy_decisions_total', { decision: 'allow', rule: '' });
    this.#commits = meters.histogram('keyslot_audit_commit_duration_seconds', {});
    this.#records = meters.counter('keyslot_audit_records_total', {});
  }

  /** A call has ended. */
  answered(operation: OperationName, error: KeyslotError | undefined): void {
    let outcomes = this.#operations.get(operation);
    if (!outcomes) {
      const meters = this.#meters;
      outcomes = outcomesOf(outcome => meters.counter('keyslot_requests_total', { operation, outcome }));
      this.#operations.set(operation, outcomes);
    }
    outcomes[outcomeOf(error?.code ?? 'ok')].add();
  }

  /** Somebody is nobody. */
  refusedCredential(credential: Credential | undefined, { code }: KeyslotError): void {
    const method = credential ? Object.keys(methods).find(each => each in credential) : undefined;
    this.#meters.counter('keyslot_auth_failures_total', { method: method ?? 'none', reason: code }).add();
  }

  /** A signature has ended, made or not; an item of a batch is one. */
  signed({ operation, slot, outcome, times }: SignatureStages): void {
    const signing = this.#signing.get(slot) ?? this.#signingOf(slot);
    signing.kinds[kindOf(operation)][outcomeOf(outcome)].add();
    let whole_ms = 0;
    for (const stage of stageNames) {
      const took_ms = times[stage];
      if (took_ms === 0) continue; // not reached
      whole_ms += took_ms;
      this.#stages[stage].observe(took_ms / 1_000);
    }
    // A repeat is answered with the signature that was made before.
    if (outcome === 'ok' && times.sign > 0) signing.duration.observe(whole_ms / 1_000);
  }

  /** Policies have decided on a signature. */
  decided({ allowed, violations }: Verdict): void {
    if (allowed) this.#allowed.add();
    for (const rule of new Set(violations.map(violation => ruleKind(violation.rule)))) {
      this.#meters.counter('keyslot_policy_decisions_total', { decision: 'deny', rule }).add();
    }
  }

  committed(records: number, took_ms: number): void {
    this.#records.add(records);
    this.#commits.observe(took_ms / 1_000);
  }

  async read(world: MetricsWorld): Promise<Series[]> {
    const keepers = [...world.keepers.values()];
    return [
      ...this.#meters.read(),
      ...this.#process.read(),
      ...keepers.flatMap(keeper => slotReadings(keeper, world.keysOf(keeper.id))),
      ...groupReadings(world.groups),
      ...auditReadings(world.audit),
      ...(await surroundingReadings(world.surroundings)),
    ];
  }

  [Symbol.dispose](): void {
    this.#process[Symbol.dispose]();
  }

  #signingOf(slot: SlotId): SlotSigning {
    const labels = { engine: this.#engineOf(slot), slot };
    const meters = this.#meters;
    const kinds = Object.fromEntries(
      signatureKinds.map(kind => [
        kind,
        outcomesOf(outcome => meters.counter('keyslot_sign_requests_total', { ...labels, kind, outcome })),
      ]),
    ) as Record<SignatureKind, Outcomes>;
    const signing = { kinds, duration: meters.histogram('keyslot_sign_duration_seconds', labels) };
    this.#signing.set(slot, signing);
    return signing;
  }
}

export interface MetricsWorld {
  readonly keepers: ReadonlyMap<SlotId, SlotKeeper>;
  readonly keysOf: (slot: SlotId) => readonly KeyRecord[];
  readonly groups: SlotGroups;
  readonly audit: AuditLog;
  readonly surroundings: Surroundings;
}

const outcomes = ['ok', 'refused', 'failed'] as const;
type Outcome = (typeof outcomes)[number];
type Outcomes = Readonly<Record<Outcome, Counter>>;

interface SlotSigning {
  readonly kinds: Readonly<Record<SignatureKind, Outcomes>>;
  readonly duration: Histogram;
}

const outcomesOf = (counterOf: (outcome: Outcome) => Counter): Outcomes => ({
  ok: counterOf('ok'),
  refused: counterOf('refused'),
  failed: counterOf('failed'),
});

/** What the caller can mend is refused; everything else has failed. */
const outcomeOf = (code: 'ok' | keyof typeof errorTable): Outcome => {
  if (code === 'ok') return 'ok';
  return errorTable[code].status < 500 ? 'refused' : 'failed';
};

const signatureKinds = ['transaction', 'message', 'batch', 'bytes'] as const;
type SignatureKind = (typeof signatureKinds)[number];

/** As it was asked for. */
function kindOf(operation: OperationName): SignatureKind {
  switch (operation) {
    case 'sign-transaction':
      return 'transaction';
    case 'sign-message':
      return 'message';
    case 'sign-batch':
      return 'batch';
    default:
      return 'bytes';
  }
}

const methods = { certificate: true, token: true, jwt: true } as const;

/** `policy/rule.detail` → `rule`: names of policies, and what a rule is about, are no labels. */
const ruleKind = (rule: string): string => {
  const kind = rule.slice(rule.lastIndexOf('/') + 1).split('.')[0] ?? '';
  return /^[A-Za-z-]{1,32}$/.test(kind) ? kind : 'other';
};

function slotReadings(keeper: SlotKeeper, keys: readonly KeyRecord[]): Series[] {
  const { id: slot, engine, state, required, findings, canary } = keeper;
  const kept = findings.filter(({ problem }) => problem === 'kept-copy' || problem === 'unknown').length;
  return [
    ...stateReadings('keyslot_slot_state', slotState.options, state, each => ({ slot, engine, state: each })),
    reading('keyslot_slot_required', required ? 1 : 0, { slot }),
    reading('keyslot_slot_findings', kept, { slot, harm: 'none' }),
    reading('keyslot_slot_findings', findings.length - kept, { slot, harm: 'key' }),
    ...(['active', 'disabled'] as const).map(each =>
      reading('keyslot_keys', keys.filter(key => key.state === each).length, { slot, engine, state: each }),
    ),
    ...(canary ? canaryReadings(slot, canary) : []),
    ...sessionReadings(slot, figuresOf(keeper)),
  ];
}

/** What is known of the session of a slot; nothing while it is locked, or where its engine counts nothing. */
export function figuresOf(keeper: SlotKeeper): SessionFigures | undefined {
  if (!keeper.holdsSession) return undefined;
  const session = keeper.session();
  return measures(session) ? session.figures : undefined;
}

function canaryReadings(slot: string, canary: NonNullable<SlotKeeper['canary']>): Series[] {
  const { age_s, ok, state, signatures, failures, unverified } = canary;
  return [
    ...(age_s === undefined ? [] : [reading('keyslot_canary_age_seconds', age_s, { slot })]),
    ...(state === 'unavailable' ? [] : [reading('keyslot_canary_proven', ok ? 1 : 0, { slot })]),
    reading('keyslot_canary_attempts_total', signatures, { slot, result: 'ok' }),
    reading('keyslot_canary_attempts_total', failures, { slot, result: 'failed' }),
    reading('keyslot_canary_attempts_total', unverified, { slot, result: 'wrong' }),
  ];
}

function sessionReadings(slot: string, figures: SessionFigures | undefined): Series[] {
  if (!figures) return [];
  const { places_max, busy, waiting, writtenOff, writtenOffTotal, recovered, unrecovered } = figures;
  const sessions = {
    busy: busy - writtenOff,
    'written-off': writtenOff,
    idle: Math.max(0, places_max - busy),
  };
  return [
    ...Object.entries(sessions).map(([state, count]) =>
      reading('keyslot_pkcs11_sessions', count, { slot, state }),
    ),
    reading('keyslot_pkcs11_sessions_max', places_max, { slot }),
    reading('keyslot_pkcs11_requests_waiting', waiting, { slot }),
    reading('keyslot_pkcs11_calls_written_off_total', writtenOffTotal, { slot }),
    ...[...figures.errors].map(([ckr, count]) =>
      reading('keyslot_pkcs11_errors_total', count, { slot, ckr }),
    ),
    ...[...figures.outages].map(([kind, count]) =>
      reading('keyslot_pkcs11_outages_total', count, { slot, class: kind }),
    ),
    reading('keyslot_pkcs11_recovery_attempts_total', recovered, { slot, result: 'ok' }),
    reading('keyslot_pkcs11_recovery_attempts_total', unrecovered, { slot, result: 'failed' }),
  ];
}

const groupReadings = (groups: SlotGroups): Series[] =>
  groups.all().flatMap(({ id: group, state, members }) => [
    ...stateReadings('keyslot_group_state', ['serving', 'degraded', 'down'], state, each => ({
      group,
      state: each,
    })),
    ...members.flatMap(({ slot, circuit }) =>
      stateReadings('keyslot_group_member_circuit', ['closed', 'half-open', 'open'], circuit.state, each => ({
        group,
        slot,
        state: each,
      })),
    ),
  ]);

function auditReadings(audit: AuditLog): Series[] {
  const { state, size, checkpointed, witnessed, witnesses } = audit.status();
  const { waiting, checkpointedAt } = audit.figures();
  const unwitnessed = Math.max(0, size - witnessed);
  return [
    ...stateReadings('keyslot_audit_state', ['ok', 'full', 'failed'], state, each => ({ state: each })),
    reading('keyslot_audit_last_seq', size - 1, {}),
    reading('keyslot_audit_backlog_records', waiting, {}),
    reading('keyslot_audit_uncheckpointed_records', Math.max(0, size - checkpointed), {}),
    ...(witnesses.length > 0 ? [reading('keyslot_audit_unwitnessed_records', unwitnessed, {})] : []),
    ...(checkpointedAt === undefined
      ? []
      : [
          reading(
            'keyslot_audit_checkpoint_timestamp_seconds',
            new Date(checkpointedAt).getTime() / 1_000,
            {},
          ),
        ]),
    // By their place: what witnesses are called is an address or a path.
    ...witnesses.map(({ error }, at) =>
      reading('keyslot_audit_witness_up', error === undefined ? 1 : 0, { witness: String(at + 1) }),
    ),
  ];
}

async function surroundingReadings(surroundings: Surroundings): Promise<Series[]> {
  const store_bytes = surroundings.store_bytes();
  return [
    ...(store_bytes === undefined ? [] : [reading('keyslot_store_size_bytes', store_bytes, {})]),
    ...(await surroundings.disks()).flatMap(({ place, free_bytes, size_bytes }) => [
      reading('keyslot_disk_free_bytes', free_bytes, { place }),
      reading('keyslot_disk_size_bytes', size_bytes, { place }),
    ]),
    reading('keyslot_clock_offset_seconds', surroundings.clockOffset_ms() / 1_000, {}),
  ];
}

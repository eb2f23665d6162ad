import { isDeepStrictEqual } from 'node:util';
import { KeyslotError } from '../foundation/errors.ts';
import type { Changes, ReloadDiff } from '../wire/reload.ts';
import { asksAws, type Config, moduleEnvironment, secretVariables, walletSlot } from './config.ts';
import { takesTokens } from './identities.ts';
import type { Snapshot, Tls } from './snapshot.ts';

/** What is different, by names. RELOAD_NEEDS_RESTART when something is that processes are built on. */
export function differences(before: Snapshot, after: Snapshot): ReloadDiff {
  refuseRestart(before, after);
  const { config: old } = before;
  const { config: now } = after;
  const settings = Object.keys({ ...old, ...now }).filter(name => !named.has(name)) as (keyof Config)[];
  return {
    slots: changes(old.slots, now.slots, ({ id }) => id),
    groups: changes(old.groups, now.groups, ({ id }) => id),
    identities: changes(before.identities, after.identities, ({ name }) => name),
    jwtIssuers: changes(old.jwtIssuers, now.jwtIssuers, ({ name }) => name),
    policies: changes(before.policies, after.policies, ({ name }) => String(name)),
    certificates: certificatesChanged(before.tls, after.tls),
    settings: settings.flatMap(name => pathsChanged(name, old[name], now[name])),
  };
}

/** What a running appliance cannot change: it would have to be another one. */
function refuseRestart({ config: old }: Snapshot, { config: now }: Snapshot): void {
  const reasons = [
    ...fixed.flatMap(name => pathsChanged(name, old[name], now[name])),
    ...(takesTokens(old) === takesTokens(now) ? [] : ['identities (connections without a certificate)']),
    ...(isDeepStrictEqual(moduleEnvironment(old), moduleEnvironment(now))
      ? []
      : ['slots.*.settings.environment']),
    ...(asksAws(now) && !asksAws(old) ? ['slots (the first that asks AWS)'] : []),
    ...secretVariables(now)
      .filter(name => !secretVariables(old).includes(name))
      .map(name => `the variable ${name}`),
    ...(walletSlot(old) === walletSlot(now) ? [] : ['compat.slot']),
    ...(isDeepStrictEqual(auditSlot(old), auditSlot(now)) ? [] : [`slots.${now.audit.slot}`]),
  ];
  if (reasons.length === 0) return;
  throw new KeyslotError(
    'RELOAD_NEEDS_RESTART',
    `Not without a restart: ${[...new Set(reasons)].join(', ')}.`,
  );
}

const fixed = [
  'profile',
  'listen',
  'ops',
  'audit',
  'custodian',
  'supervision',
  'cloudhsm',
  'compat',
  'tracing',
  'idempotency',
  'solanaRpcUrl',
] as const satisfies readonly (keyof Config)[];

const auditSlot = ({ slots, audit }: Config) => slots.find(({ id }) => id === audit.slot);

/** What is told by the names of its parts. */
const named: ReadonlySet<string> = new Set(['slots', 'groups', 'identities', 'jwtIssuers', 'home']);

function changes<T>(before: readonly T[], after: readonly T[], nameOf: (each: T) => string): Changes {
  const old = new Map(before.map(each => [nameOf(each), each]));
  const now = new Map(after.map(each => [nameOf(each), each]));
  return {
    added: [...now.keys()].filter(name => !old.has(name)),
    changed: [...now.keys()].filter(
      name => old.has(name) && !isDeepStrictEqual(old.get(name), now.get(name)),
    ),
    removed: [...old.keys()].filter(name => !now.has(name)),
  };
}

/** `sessions.idle_s` where one of its settings changed, `exports` where it is one thing. */
function pathsChanged(name: string, before: unknown, after: unknown): readonly string[] {
  if (isDeepStrictEqual(before, after)) return [];
  if (!isRecord(before) || !isRecord(after)) return [name];
  return Object.keys({ ...before, ...after })
    .filter(part => !isDeepStrictEqual(before[part], after[part]))
    .map(part => `${name}.${part}`);
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const certificatesChanged = (before: Tls, after: Tls): ReloadDiff['certificates'] => [
  ...(before.cert === after.cert && before.key === after.key ? [] : (['server'] as const)),
  ...(before.ca === after.ca ? [] : (['client-ca'] as const)),
];

import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { stripVTControlCharacters, styleText } from 'node:util';
import type { Command } from 'commander';
import { type Config, inHome } from '../../appliance/config.ts';
import { type Running, runningAppliance } from '../../appliance/home.ts';
import { openFolderSource } from '../../audit/inspect.ts';
import { isKeyslotError, type KeyslotError } from '../../foundation/errors.ts';
import { limits } from '../../foundation/limits.ts';
import type { AuditStatus } from '../../wire/audit.ts';
import type { GroupView } from '../../wire/groups.ts';
import type { IdentityView } from '../../wire/identities.ts';
import type { FreezeView } from '../../wire/policies.ts';
import type { Health, HealthCheck, KeyView, SlotView } from '../../wire/views.ts';
import { Connection, configOf, type SharedOptions } from '../connection.ts';
import { readinessOf } from '../ops.ts';
import { print, printJson, refused } from '../output.ts';

type Options = SharedOptions & { readonly watch?: true | number };

/** Status 0 when the appliance is ready, 1 when it is not, or does not run. */
export function addStatus(program: Command, shared: (command: Command) => Command): void {
  const version = program.version() ?? '';
  shared(program.command('status'))
    .description('the appliance at a glance: slots, keys, canaries, audit log, freezes, readiness')
    .option('--watch', 'look again every two seconds, until Ctrl-C')
    .action((options: Options) => (options.watch ? watch(options, version) : once(options, version)));
}

/** What is known of an appliance. What the caller may not see is not there, and named in `hidden`. */
export interface Status {
  readonly home: string;
  readonly profile: Config['profile'];
  readonly running: boolean;
  /** Of this command, and of the appliance when both come from the same place. */
  readonly version: string;
  readonly url?: string;
  readonly pid?: number;
  readonly since?: string | undefined;
  readonly as?: string;
  readonly ready?: boolean;
  readonly reasons?: readonly string[];
  readonly slots?: readonly SlotStatus[];
  readonly groups?: readonly GroupView[];
  readonly keys?: { readonly all: number; readonly custody: Readonly<Record<string, number>> };
  readonly audit?: AuditStatus;
  readonly freezes?: readonly FreezeView[];
  readonly hidden?: readonly string[];
  /** What the state folder shows while nothing runs. */
  readonly last?: {
    readonly slots: readonly string[];
    readonly used?: string;
    readonly auditRecords?: number;
  };
}

type SlotStatus = Pick<SlotView, 'id' | 'engine' | 'custody' | 'state' | 'reason'> &
  Partial<Pick<HealthCheck, 'ok' | 'canary' | 'findings'>>;

async function once(options: Options, version: string): Promise<void> {
  const status = await statusOf(options, version);
  if (!status.ready) process.exitCode = refused;
  if (options.json) printJson(status);
  else print(statusText(status));
}

/** On a terminal each look takes the place of the one before. */
async function watch(options: Options, version: string): Promise<void> {
  const stop = new AbortController();
  const stopped = () => stop.abort();
  process.once('SIGINT', stopped);
  process.once('SIGTERM', stopped);
  try {
    while (!stop.signal.aborted) {
      const status = await statusOf(options, version);
      if (options.json) print(JSON.stringify(status));
      else print(`${process.stdout.isTTY ? '\x1b[H\x1b[J' : ''}${statusText(status)}\n`);
      await delay(watch_ms, undefined, { signal: stop.signal });
    }
  } catch (error) {
    if (!stop.signal.aborted) throw error;
  } finally {
    process.off('SIGINT', stopped);
    process.off('SIGTERM', stopped);
  }
}

export async function statusOf(options: SharedOptions, version: string): Promise<Status> {
  const config = configOf(options);
  const { home, profile } = config;
  const running = runningAppliance(home);
  const known = { home, profile, version };
  if (!running) return { ...known, running: false, last: await lastState(config) };
  const connection = new Connection(config); // says what it lacks before anybody is said not to answer
  const health = await answerOf(() => readinessOf(running, config));
  if (isFailure(health)) {
    if (health.code !== 'APPLIANCE_UNREACHABLE') throw health;
    return { ...known, running: false, reasons: [unanswered(running)], last: await lastState(config) };
  }
  return { ...known, ...(await seen(connection, home, running, health)) };
}

const unanswered = ({ url, pid }: Running): string =>
  `It said that it serves ${url} as process ${pid}, and does not answer there.`;

async function seen(connection: Connection, home: string, running: Running, health: Health) {
  const asked = {
    who: await answerOf(() => connection.get<IdentityView>('/v1/whoami')),
    slots: await answerOf(() => connection.get<{ slots: SlotView[] }>('/v1/slots')),
    groups: await answerOf(() => connection.get<{ groups: GroupView[] }>('/v1/groups')),
    keys: await answerOf(() => keysOf(connection)),
    audit: await answerOf(() => connection.get<AuditStatus>('/v1/audit/status')),
    freezes: await answerOf(() => connection.get<{ freezes: FreezeView[] }>('/v1/freezes')),
  };
  const hidden = Object.entries(asked).flatMap(([name, answer]) =>
    isFailure(answer) ? [`${name} (${answer.code})`] : [],
  );
  const { who, slots, groups, keys, audit, freezes } = asked;
  return {
    running: true,
    url: running.url,
    pid: running.pid,
    since: startOf(home),
    ready: health.ready,
    reasons: health.checks.filter(({ ok, required }) => !ok && required !== false).map(reasonOf),
    ...(isFailure(who) ? {} : { as: who.name }),
    ...(isFailure(slots) ? {} : { slots: slots.slots.map(slot => slotStatus(slot, health)) }),
    ...(isFailure(groups) ? {} : { groups: groups.groups }),
    ...(isFailure(keys) ? {} : { keys }),
    ...(isFailure(audit) ? {} : { audit }),
    ...(isFailure(freezes) ? {} : { freezes: freezes.freezes }),
    hidden,
  };
}

/** A refusal is an answer: what the caller may not see is left out and named. */
async function answerOf<T>(ask: () => Promise<T>): Promise<T | KeyslotError> {
  try {
    return await ask();
  } catch (thrown) {
    if (!isKeyslotError(thrown)) throw thrown;
    return thrown;
  }
}

const isFailure = (answer: unknown): answer is KeyslotError => isKeyslotError(answer);

async function keysOf(connection: Connection): Promise<NonNullable<Status['keys']>> {
  const custody: Record<string, number> = {};
  let all = 0;
  let cursor: string | undefined;
  do {
    const query = new URLSearchParams({
      limit: String(limits.page_items_max),
      ...(cursor ? { cursor } : {}),
    });
    const page = await connection.get<{ keys: KeyView[]; next?: string }>(`/v1/keys?${query}`);
    for (const key of page.keys) custody[key.custody] = (custody[key.custody] ?? 0) + 1;
    all += page.keys.length;
    cursor = page.next;
  } while (cursor);
  return { all, custody };
}

function slotStatus({ id, engine, custody, state, reason }: SlotView, { checks }: Health): SlotStatus {
  const check = checks.find(each => each.id === `slot/${id}`);
  return {
    id,
    engine,
    custody,
    state,
    ...(reason ? { reason } : {}),
    ...(check ? { ok: check.ok } : {}),
    ...(check?.canary ? { canary: check.canary } : {}),
    ...(check?.findings ? { findings: check.findings } : {}),
  };
}

function reasonOf({ id, state, canary, findings }: HealthCheck): string {
  if (findings && findings.harmful > 0)
    return `${id} is ${state}; ${findings.harmful} keys are not as registered`;
  return canary && !canary.ok ? `${id} is ${state}; its canary is ${canary.state}` : `${id} is ${state}`;
}

/** The announcement is written once, when everything serves. */
const startOf = (home: string): string | undefined =>
  statSync(join(home, 'state', 'running.json'), { throwIfNoEntry: false })?.mtime.toISOString();

async function lastState(config: Config): Promise<NonNullable<Status['last']>> {
  const slots = config.slots.map(({ id }) => id);
  const store = join(config.home, 'state', 'keyslot.db');
  if (!existsSync(store)) return { slots };
  const log = await answerOf(() => openFolderSource(inHome(config, config.audit.folder)));
  return {
    slots,
    used: statSync(store).mtime.toISOString(),
    ...(isFailure(log) ? {} : { auditRecords: (await log.size()).size }),
  };
}

/** In colour where standard output is a terminal that wants it (NO_COLOR, and what Node knows besides). */
export function statusText(status: Status): string {
  const { home, profile, version, running, last, reasons = [] } = status;
  const head = [`Keyslot ${version}`, profile, ...(running ? headOf(status) : [home])].join(' · ');
  const rows = running
    ? [...readyRows(status), ...slotRows(status), ...groupRows(status), ...otherRows(status)]
    : [
        row('appliance', mark('bad', 'not running'), ...reasons),
        ...(last ? [row('slots', '', last.slots.join(', '))] : []),
        row('last used', '', last?.used ?? 'never'),
        ...(last?.auditRecords === undefined ? [] : [row('audit', '', `${last.auditRecords} records`)]),
        row('to do', '', `keyslot serve --home ${home}`),
      ];
  return [head, '', ...rows].join('\n');
}

const headOf = ({ url = '', since, as }: Status): readonly string[] => [
  url,
  ...(since === undefined ? [] : [`up ${age((Date.now() - Date.parse(since)) / 1000)}`]),
  ...(as === undefined ? [] : [`as ${as}`]),
];

const readyRows = ({ ready = false, reasons = [] }: Status): readonly string[] => [
  row('ready', ready ? mark('good', 'yes') : mark('bad', 'NO'), reasons.join('; ')),
];

const slotRows = ({ slots }: Status): readonly string[] =>
  (slots ?? []).map(slot => {
    const { id, state, custody, canary, reason, findings } = slot;
    return row(
      `slot ${id}`,
      mark(slot.ok === false ? 'bad' : state === 'open' ? 'good' : 'poor', state),
      custody,
      canaryText(state, canary),
      findings && findings.harmful > 0 ? `${findings.harmful} keys not as registered` : '',
      reason ? `${reason.code}: ${reason.detail}` : '',
    );
  });

/** A slot that is not open has nothing to show. */
function canaryText(slotState: SlotStatus['state'], canary: SlotStatus['canary']): string {
  if (!canary) return slotState === 'open' ? 'no canary' : '';
  const { state, age_s } = canary;
  return `canary ${state}${age_s === undefined ? '' : `, ${age(age_s)} ago`}`;
}

const groupRows = ({ groups }: Status): readonly string[] =>
  (groups ?? []).map(({ id, state, members }) =>
    row(
      `group ${id}`,
      mark(state === 'serving' ? 'good' : state === 'degraded' ? 'poor' : 'bad', state),
      members.map(({ slot, circuit }) => (circuit === 'closed' ? slot : `${slot} (${circuit})`)).join(', '),
    ),
  );

function otherRows({ keys, audit, freezes, hidden = [] }: Status): readonly string[] {
  return [
    ...(keys ? [row('keys', String(keys.all), custodyText(keys.custody))] : []),
    ...(audit ? [auditRow(audit)] : []),
    ...(freezes ? freezeRows(freezes) : []),
    ...(hidden.length > 0
      ? [row('hidden', mark('poor', 'partly'), `not for you to see: ${hidden.join(', ')}`)]
      : []),
  ];
}

const custodyText = (custody: Readonly<Record<string, number>>): string =>
  Object.entries(custody)
    .map(([label, count]) => `${count} ${label}`)
    .join(', ');

function auditRow({ state, size, checkpointed, witnessed, tamperEvidence }: AuditStatus): string {
  const texts = [`${size} records`, `signed up to ${checkpointed}`, `witnessed up to ${witnessed}`];
  const evidence = `tamper evidence: ${tamperEvidence}`;
  return row('audit', mark(state === 'ok' ? 'good' : 'bad', state), ...texts, evidence);
}

const freezeRows = (freezes: readonly FreezeView[]): readonly string[] =>
  freezes.length === 0
    ? [row('freezes', 'none')]
    : freezes.map(({ id, since, by, reason }) =>
        row('FROZEN', mark('bad', id), `since ${since}`, `by ${by}`, reason),
      );

/** A name, a state, and whatever there is to say. */
function row(name: string, state: string, ...texts: readonly string[]): string {
  const wide = Math.max(0, state_width - stripVTControlCharacters(state).length);
  return `${name.padEnd(name_width)}  ${state}${' '.repeat(wide)}  ${texts.filter(Boolean).join(', ')}`.trimEnd();
}

const colours = { good: 'green', poor: 'yellow', bad: 'red' } as const;
const mark = (how: keyof typeof colours, text: string): string => styleText(colours[how], text);

function age(seconds: number): string {
  if (seconds < 120) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3_600)} h` : `${Math.round(seconds / 86_400)} d`;
}

const name_width = 12;
const state_width = 11;
const watch_ms = 2_000;

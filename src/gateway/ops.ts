import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Express, RequestHandler, Response } from 'express';
import { KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { Custodian } from '../wire/custodian.ts';
import { branch, type Check, CheckHistory, type CheckNode, worst } from '../wire/health-tree.ts';
import { reading } from '../wire/meters.ts';
import { expositionType, type Series } from '../wire/metrics.ts';
import type { Health, HealthCheck } from '../wire/views.ts';
import { Drain } from './drain.ts';
import { closed, lean } from './exchange.ts';
import { type Expiry, expiryReadings, exposition, GatewayMetrics } from './metrics.ts';
import { answer } from './problem.ts';

/** The listener for whoever operates the appliance: no keys, no signatures, no credentials needed, and no changes. */
export function createOps(custodian: Custodian, log: Log, seen: OpsView = {}): Express {
  const app = withHealth(lean(), custodian, seen);
  const { gauges = new GatewayMetrics(), drain = new Drain(), history = newHistory() } = seen;
  getOnly(app, '/v1/health', async (_request, response) => {
    const { status, body } = await healthOf(custodian, { ...seen, drain }, check => history.dated(check));
    answer(response, status, body);
  });
  getOnly(app, '/metrics', async (_request, response) => {
    const text = exposition([...gauges.read(), ...(await seenReadings(custodian, { ...seen, drain }))]);
    answerText(response, text);
  });
  return closed(app, log);
}

/** What the listeners know besides the custodian. */
export interface OpsView {
  /** Checks that are shown and do not count: what somebody else knows of things that no signature waits for. */
  readonly beside?: Beside | undefined;
  readonly drain?: Drain | undefined;
  readonly gauges?: GatewayMetrics | undefined;
  /** Since when checks have been as they are. */
  readonly history?: CheckHistory | undefined;
  /** How often each process has ended by itself and was started anew. */
  readonly restarts?: (() => Readonly<Record<string, number>>) | undefined;
  readonly expiries?: readonly Expiry[] | undefined;
  /** Open connections of each listener. */
  readonly connections?: (() => Promise<Readonly<Record<string, number>>>) | undefined;
}

export const newHistory = () => new CheckHistory(() => new Date());

export type Beside = () => readonly HealthCheck[];

/** `/healthz`: the process answers. `/readyz`: every slot can sign, as far as the custodian knows. */
export function withHealth(
  app: Express,
  custodian: Custodian,
  { beside = () => [], drain }: OpsView = {},
): Express {
  getOnly(app, '/healthz', (_request, response) => answer(response, 200, { status: 'ok' }));
  getOnly(app, '/readyz', async (_request, response) => {
    const { ready, checks } = await readiness(custodian);
    const leaving: readonly HealthCheck[] = drain?.draining
      ? [{ id: 'drain', ok: false, state: 'draining' }]
      : [];
    const whole = ready && leaving.length === 0;
    answer(response, whole ? 200 : 503, { ready: whole, checks: [...checks, ...leaving, ...beside()] });
  });
  return app;
}

/** Any other method is METHOD_NOT_ALLOWED. */
export function getOnly(app: Express, path: string, handler: RequestHandler): void {
  const route = app.route(path);
  route.get(handler);
  route.all((_request, response) => {
    response.setHeader('Allow', 'GET');
    throw new KeyslotError('METHOD_NOT_ALLOWED', 'This route takes GET.');
  });
}

/** A custodian that does not answer is not ready, and that is an answer too. */
export async function readiness(custodian: Custodian): Promise<Health> {
  try {
    return (await custodian.call('health', { input: {} }, brief())).output;
  } catch (thrown) {
    const { code } = toKeyslotError(thrown);
    return { ready: false, checks: [{ id: 'custodian', ok: false, state: code }] };
  }
}

const brief = () => ({ requestId: randomUUID(), signal: AbortSignal.timeout(readiness_ms) });
const readiness_ms = 2_000;

/**
 * 200: it does its work. 501: it has no key that a caller could sign with. 503: something that is required is locked,
 * away or draining. As OpenBao has them, in its order; a custodian that does not answer says nothing of its keys.
 */
async function healthOf(
  custodian: Custodian,
  seen: OpsView,
  dated: (check: Check) => CheckNode,
): Promise<{ readonly status: number; readonly body: object }> {
  const known = await custodian
    .call('show-health', { input: {} }, brief())
    .then(({ output }) => output, toKeyslotError);
  const draining = seen.drain?.draining ?? false;
  const lost = known instanceof KeyslotError;
  const own = ownChecks(seen, lost ? known : undefined).map(dated);
  const checks = [...(lost ? [] : known.checks), ...own];
  const ready = !lost && known.ready && !draining;
  const initialised = lost || known.initialised;
  const status = ready ? (worst(checks) === 'ok' ? 'ok' : 'warn') : 'fail';
  const { since } = dated({ id: 'appliance', status, data: {} });
  const data = { ready, draining, ...(lost ? {} : { initialised }), version };
  const body: CheckNode = { id: 'appliance', status, since, data, checks };
  return { status: initialised ? (ready ? 200 : 503) : 501, body };
}

function ownChecks(seen: OpsView, lost: KeyslotError | undefined): readonly Check[] {
  const { drain, expiries = [], restarts = () => ({}), beside = () => [] } = seen;
  return [
    lost
      ? { id: 'custodian', status: 'fail', data: { reason: lost.code } }
      : { id: 'custodian', status: 'ok', data: {} },
    { id: 'processes', status: 'ok', data: { ...restarts() } },
    { id: 'drain', status: drain?.draining ? 'warn' : 'ok', data: { draining: drain?.draining ?? false } },
    ...(expiries.length > 0 ? [branch('certificates', expiries.map(expiryCheck))] : []),
    ...beside().map(({ id, ok, state }): Check => ({ id, status: ok ? 'ok' : 'warn', data: { state } })),
  ];
}

function expiryCheck({ certificate, at }: Expiry): Check {
  const id = `certificate/${certificate}`;
  const left_s = Math.floor((at.getTime() - Date.now()) / 1_000);
  if (Number.isNaN(left_s)) return { id, status: 'warn', data: { reason: 'unreadable' } };
  const status = left_s <= 0 ? 'fail' : left_s < expiry_s_min ? 'warn' : 'ok';
  return { id, status, data: { expiresAt: at.toISOString(), left_s } };
}

const expiry_s_min = 21 * 86_400;

/** What is known at this moment; a custodian that does not answer in time is one that is not up. */
async function seenReadings(custodian: Custodian, seen: OpsView): Promise<Series[]> {
  const { drain, restarts = () => ({}), expiries = [], connections = async () => ({}) } = seen;
  const [counted, { ready }, open] = await Promise.all([
    custodian.call('metrics', { input: {} }, brief()).then(({ output }) => output.series, toKeyslotError),
    readiness(custodian),
    connections(),
  ]);
  const lost = counted instanceof KeyslotError;
  const draining = drain?.draining ?? false;
  return [
    ...(lost ? [] : counted),
    reading('keyslot_build_info', 1, { version, node: process.version }),
    reading('keyslot_ready', ready && !draining ? 1 : 0, {}),
    reading('keyslot_draining', draining ? 1 : 0, {}),
    reading('keyslot_custodian_up', lost ? 0 : 1, {}),
    ...Object.entries<number>({ custodian: 0, gateway: 0, ...restarts() }).map(([name, count]) =>
      reading('keyslot_process_restarts_total', count, { process: name }),
    ),
    ...Object.entries<number>(open).map(([listener, count]) =>
      reading('keyslot_http_connections', count, { listener }),
    ),
    ...expiryReadings(expiries),
  ];
}

function answerText(response: Response, text: string): void {
  response.writeHead(200, {
    'Content-Type': expositionType,
    'Content-Length': Buffer.byteLength(text),
    'Cache-Control': 'no-store',
  });
  response.end(text);
}

const packageFile = new URL('../../package.json', import.meta.url);
const { version } = JSON.parse(readFileSync(packageFile, 'utf8')) as { version: string };

import { randomUUID } from 'node:crypto';
import type { Express } from 'express';
import { type KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { Custodian } from '../wire/custodian.ts';
import type { Health, HealthCheck } from '../wire/views.ts';
import { closed, lean } from './exchange.ts';
import { answer } from './problem.ts';

/** The listener for whoever operates the appliance: no keys, no signatures, no credentials needed. */
export function createOps(custodian: Custodian, log: Log, beside?: Beside): Express {
  return closed(withHealth(lean(), custodian, beside), log);
}

/** Checks that are shown and do not count: what somebody else knows of things that no signature waits for. */
export type Beside = () => readonly HealthCheck[];

/** `/healthz`: the process answers. `/readyz`: every slot can sign, as far as the custodian knows. */
export function withHealth(app: Express, custodian: Custodian, beside: Beside = () => []): Express {
  app.get('/healthz', (_request, response) => answer(response, 200, { status: 'ok' }));
  app.get('/readyz', async (_request, response) => {
    const { ready, checks } = await readiness(custodian);
    answer(response, ready ? 200 : 503, { ready, checks: [...checks, ...beside()] });
  });
  return app;
}

/** A custodian that does not answer is not ready, and that is an answer too. */
export async function readiness(custodian: Custodian): Promise<Health> {
  try {
    const call = { requestId: randomUUID(), signal: AbortSignal.timeout(readiness_ms) };
    return (await custodian.call('health', { input: {} }, call)).output;
  } catch (thrown) {
    const { code }: KeyslotError = toKeyslotError(thrown);
    return { ready: false, checks: [{ id: 'custodian', ok: false, state: code }] };
  }
}

const readiness_ms = 2_000;

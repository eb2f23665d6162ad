import { randomUUID } from 'node:crypto';
import type { Express } from 'express';
import { type KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { Custodian } from '../wire/custodian.ts';
import type { Health } from '../wire/views.ts';
import { closed, lean } from './exchange.ts';
import { answer } from './problem.ts';

/** The listener for whoever operates the appliance: no keys, no signatures, no credentials needed. */
export function createOps(custodian: Custodian, log: Log): Express {
  return closed(withHealth(lean(), custodian), log);
}

/** `/healthz`: the process answers. `/readyz`: every slot can sign, as far as the custodian knows. */
export function withHealth(app: Express, custodian: Custodian): Express {
  app.get('/healthz', (_request, response) => answer(response, 200, { status: 'ok' }));
  app.get('/readyz', async (_request, response) => {
    const health = await readiness(custodian);
    answer(response, health.ready ? 200 : 503, health);
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

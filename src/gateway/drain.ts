import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Express } from 'express';
import { KeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { Custodian } from '../wire/custodian.ts';
import { bodies } from '../wire/http.ts';
import { mount } from './exchange.ts';
import { answerProblem } from './problem.ts';
import { givenRequestId } from './request-terms.ts';

/**
 * Taking leave of callers before a stop. `/readyz` says so at once; requests are still answered for a while, so that
 * whoever spreads them has time to hear of it, and are then refused: SHUTTING_DOWN. What is in flight finishes.
 */
export class Drain {
  #grace_ms: number;
  readonly #now_ms: () => number;
  readonly #listeners = new Set<(draining: boolean) => void>();
  #since_ms: number | undefined;

  constructor(grace_ms = ordinaryGrace_ms, now_ms: () => number = () => performance.now()) {
    this.#grace_ms = grace_ms;
    this.#now_ms = now_ms;
  }

  /** How long requests are answered once it begins. */
  set grace_ms(grace_ms: number) {
    this.#grace_ms = grace_ms;
  }

  get draining(): boolean {
    return this.#since_ms !== undefined;
  }

  /** Whether requests are refused already. */
  get refusing(): boolean {
    return this.#since_ms !== undefined && this.#now_ms() - this.#since_ms >= this.#grace_ms;
  }

  /** Begins, or ends it. What it is already it stays, with its time. */
  set(draining: boolean): void {
    if (draining === this.draining) return;
    this.#since_ms = draining ? this.#now_ms() : undefined;
    for (const listener of this.#listeners) listener(draining);
  }

  /** Calls the listener at every change. */
  onChange(listener: (draining: boolean) => void): void {
    this.#listeners.add(listener);
  }

  /** True for a request that is let in; every other one has its answer, and its connection ends with it. */
  admits(request: IncomingMessage, response: ServerResponse): boolean {
    if (!this.draining) return true;
    response.setHeader('Connection', 'close'); // the next request of this caller is to go elsewhere
    if (!this.refusing || spared.has((request.url ?? '').split('?', 1)[0] ?? '')) return true;
    const requestId = givenRequestId(request) ?? 'draining';
    response.setHeader('Request-Id', requestId);
    const error = new KeyslotError('SHUTTING_DOWN', 'The appliance takes no more requests.', {
      retryAfter_s,
    });
    answerProblem(response, error, requestId);
    return false;
  }
}

/** `POST /v1/drain`: the custodian says who may, and writes it down. */
export function withDrain(app: Express, custodian: Custodian, drain: Drain, log: Log): Express {
  mount(app, {
    '/v1/drain': {
      post: async ({ call, body }) => {
        const { drain: wanted = true } = await body(bodies.drain);
        const { output } = await custodian.call('drain', { input: { drain: wanted } }, call);
        if (output.draining !== drain.draining) {
          log.warn({ requestId: call.requestId, draining: output.draining }, 'draining begins or ends');
        }
        drain.set(output.draining);
        return { body: output };
      },
    },
  });
  return app;
}

/** Answered all the same: how the appliance is, and what ends the draining. */
const spared: ReadonlySet<string> = new Set(['/healthz', '/readyz', '/health', '/v1/drain']);

const ordinaryGrace_ms = 5_000;
const retryAfter_s = 5;

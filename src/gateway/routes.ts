import type { Express } from 'express';
import type { Log } from '../foundation/log.ts';
import { Secret } from '../foundation/secret.ts';
import type { Custodian } from '../wire/custodian.ts';
import { bodies } from '../wire/http.ts';
import { auditRoutes } from './audit-routes.ts';
import { closed, type Handler, lean, mount, plain, type Routes } from './exchange.ts';
import { identityRoutes } from './identity-routes.ts';
import { keyRoutes } from './key-routes.ts';
import { withOpenApi } from './openapi.ts';
import { policyRoutes } from './policy-routes.ts';
import { pageOf } from './query.ts';
import { signingRoutes } from './signing-routes.ts';

/** The HTTP API: each route parses its body, asks the custodian one question, and shapes the answer. */
export function createApi(
  custodian: Custodian,
  log: Log,
  more: (app: Express) => Express = app => app,
): Express {
  const app = lean();
  for (const routesOf of tables) mount(app, routesOf(custodian));
  withOpenApi(app);
  return closed(more(app), log);
}

/** The hot ones first: express looks through its routes in order. */
const tables: readonly ((custodian: Custodian) => Routes)[] = [
  signingRoutes,
  keyRoutes,
  slotRoutes,
  migrationRoutes,
  policyRoutes,
  auditRoutes,
  identityRoutes,
  serviceRoutes,
];

function slotRoutes(custodian: Custodian): Routes {
  const ask = custodian.call.bind(custodian);
  return {
    '/v1/groups': {
      get: async ({ call }) => plain(ask('list-groups', { input: {} }, call)),
    },
    '/v1/slots': {
      get: async ({ call }) => plain(ask('list-slots', { input: {} }, call)),
    },
    '/v1/slots/:slot': {
      get: async ({ call, params }) => plain(ask('show-slot', { input: { slot: params.slot ?? '' } }, call)),
    },
    '/v1/slots/:slot/open': {
      post: async ({ call, params, body }) => {
        const { pin } = await body(bodies.openSlot);
        const input = { slot: params.slot ?? '' };
        if (pin === undefined) return plain(ask('open-slot', { input }, call));
        using secret = Secret.fromText(pin);
        return await plain(ask('open-slot', { input, bytes: [secret.use(lent)] }, call));
      },
    },
    '/v1/slots/:slot/lock': {
      post: async ({ call, params, body }) => {
        await body(bodies.nothing);
        return plain(ask('lock-slot', { input: { slot: params.slot ?? '' } }, call));
      },
    },
    '/v1/slots/:slot/clear-latch': {
      post: async ({ call, params, body }) => {
        await body(bodies.nothing);
        return plain(ask('clear-latch', { input: { slot: params.slot ?? '' } }, call));
      },
    },
    '/v1/slots/:slot/try': {
      post: async ({ call, params, body }) => {
        await body(bodies.nothing);
        return plain(ask('try-slot', { input: { slot: params.slot ?? '' } }, call));
      },
    },
    '/v1/slots/:slot/sessions': {
      post: async ({ call, params, body }) => {
        const { pin } = await body(bodies.openSession);
        using secret = Secret.fromText(pin);
        const input = { slot: params.slot ?? '' };
        const reply = await ask('open-session', { input, bytes: [secret.use(lent)] }, call);
        const token = Buffer.from(reply.bytes?.[0] ?? []).toString('latin1');
        return { status: 201, body: { token, ...reply.output } };
      },
    },
    '/v1/sessions/current': {
      delete: async ({ call }) => plain(ask('close-session', { input: {} }, call)),
    },
  };
}

function serviceRoutes(custodian: Custodian): Routes {
  const ask = custodian.call.bind(custodian);
  return {
    '/v1/reload': {
      get: async ({ call }) => plain(ask('show-reload', { input: {} }, call)),
      post: async ({ call, body }) => {
        await body(bodies.nothing);
        return plain(ask('reload', { input: {} }, call));
      },
    },
  };
}

function migrationRoutes(custodian: Custodian): Routes {
  const ask = custodian.call.bind(custodian);
  /** A part of a migration: as many keys as one request has time for, and none begun for a client that has gone. */
  const migrating =
    (
      operation: 'run-migration' | 'verify-migration' | 'rollback-migration' | 'destroy-copies',
      schema: typeof bodies.migrationBatch | typeof bodies.destroyCopies,
    ): Handler =>
    async ({ call, params, body, gone }) => {
      const { keys, after, max = migrationBatch_items } = await body(schema);
      const input = { migration: params.id ?? '', keys, after, max };
      return plain(ask(operation, { input }, { ...call, signal: gone() }));
    };

  return {
    '/v1/migrations/plan': {
      post: async ({ call, body }) =>
        plain(ask('plan-migration', { input: await body(bodies.migrationRoute) }, call)),
    },
    '/v1/migrations': {
      get: async ({ call }) => plain(ask('list-migrations', { input: {} }, call)),
      post: async ({ call, body }) =>
        plain(ask('start-migration', { input: await body(bodies.migrationRoute) }, call), 201),
    },
    '/v1/migrations/:id': {
      get: async ({ call, params, query }) => {
        const input = { migration: params.id ?? '', ...pageOf(query) };
        return plain(ask('show-migration', { input }, call));
      },
    },
    '/v1/migrations/:id/run': { post: migrating('run-migration', bodies.migrationBatch) },
    '/v1/migrations/:id/verify': { post: migrating('verify-migration', bodies.migrationBatch) },
    '/v1/migrations/:id/rollback': { post: migrating('rollback-migration', bodies.migrationBatch) },
    '/v1/migrations/:id/destroy-copies': { post: migrating('destroy-copies', bodies.destroyCopies) },
  };
}

const migrationBatch_items = 25;

// The bytes stay valid until the Secret is disposed, which is after the call has been answered.
const lent = (bytes: Uint8Array): Uint8Array => bytes;

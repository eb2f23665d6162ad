import { Validator } from '@seriousme/openapi-schema-validator';
import type { Express } from 'express';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { rights } from '../../src/custodian/authority.ts';
import { traceOf } from '../../src/custodian/recorder.ts';
import { type ErrorCode, errorTable } from '../../src/foundation/errors.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { createOps } from '../../src/gateway/ops.ts';
import type { Listener } from '../../src/wire/api/http-operation.ts';
import { httpApi } from '../../src/wire/api/table.ts';
import { isOperation } from '../../src/wire/custodian.ts';
import { type Content, document, documented, resolved, validatorOf } from './api-document.ts';
import { everyRoute, OpenHouse, send } from './open-house.ts';

/** The document and the gateway: the same routes, the same operations, and no word of either without the other. */

let house: OpenHouse;
let url: string;
let ops: string;

beforeAll(async () => {
  house = await OpenHouse.open();
  url = await house.serve();
  ops = await house.serveOps();
});

afterAll(() => house[Symbol.asyncDispose]());

it('is OpenAPI 3.1', async () => {
  const { valid, errors } = await new Validator().validate({ ...structuredClone(document) });
  expect({ valid, errors }).toEqual({ valid: true, errors: undefined });
});

it('is served to whoever asks, and is the one in docs', async () => {
  const answered = await send(url, { method: 'GET', path: '/v1/openapi.json' });
  expect(answered.status).toBe(200);
  expect(answered.headers).toMatchObject({ 'content-type': 'application/json', 'cache-control': 'no-store' });
  const { info, ...served } = answered.json as typeof document & { info: { version: string } };
  expect({ ...served, info: { ...info, version: '0.0.0' } }).toEqual(document);
});

describe('the routes', () => {
  interface Layer {
    readonly route?: { readonly path: string; readonly stack: readonly { readonly method?: string }[] };
  }

  const routesOf = (app: Express): string[] =>
    (app.router.stack as unknown as readonly Layer[])
      .flatMap(({ route }) => (route ? [route] : []))
      .flatMap(({ path, stack }) => stack.flatMap(({ method }) => (method ? [`${method} ${path}`] : [])))
      .map(route => route.replaceAll(/:(\w+)/g, '{$1}'))
      .sort();

  const describedFor = (listener: Listener): string[] =>
    httpApi
      .filter(({ listeners = ['api'] }) => listeners.includes(listener))
      .map(({ method, path }) => `${method} ${path}`)
      .sort();

  it('of the gateway are those of the document, every one', () => {
    const described = describedFor('api');
    expect(routesOf(everyRoute(house.lab.custodian))).toEqual(described);
    expect(new Set(described).size).toBe(described.length);
  });

  it('of the ops listener are those of which the document says that they are there', () => {
    expect(routesOf(createOps(house.lab.custodian, silentLog))).toEqual(describedFor('ops'));
    const [, elsewhere] = document.paths['/healthz']?.servers ?? [];
    expect(document.paths['/metrics']?.servers).toEqual([elsewhere]);
  });

  it('take no other method than they say, and say which', async () => {
    for (const [path, { servers, ...methods }] of Object.entries(document.paths)) {
      const allowed = Object.keys(methods).map(method => method.toUpperCase());
      const at = servers?.length === 1 ? ops : url;
      for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
        if (allowed.includes(method)) continue;
        const answered = await send(at, { method, path: path.replaceAll(/[{}]/g, '') });
        const said = String(answered.headers.allow).split(', ').sort();
        expect({ status: answered.status, said }, `${method} ${path}`).toEqual({
          status: 405,
          said: allowed.sort(),
        });
      }
    }
  });
});

describe('an operation', () => {
  it('has an id of its own, and the parameters of its path', () => {
    expect(new Set(httpApi.map(({ id }) => id)).size).toBe(httpApi.length);
    for (const { id, path, parameters } of httpApi) {
      const inPath = parameters.filter(each => each.in === 'path').map(({ name }) => name);
      expect(
        [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name),
        id,
      ).toEqual(inPath);
    }
  });

  it('of the custodian leaves behind what the custodian says, and is refused to whom it says', () => {
    const known = httpApi.filter(({ id }) => isOperation(id));
    expect(known.length).toBeGreaterThan(50);
    for (const { id, effect, codes } of known) {
      if (!isOperation(id)) continue;
      const { roles } = rights[id];
      expect({ id, effect, denied: codes.includes('PERMISSION_DENIED') }).toEqual({
        id,
        effect: traceOf[id],
        denied: typeof roles !== 'string',
      });
    }
  });

  it('has an example of its body and of its parameters that fit', () => {
    for (const { operation, described } of documented) {
      for (const each of described.parameters ?? []) {
        const { schema, example } = resolved<{ schema: Content[string]['schema']; example?: unknown }>(each);
        if (example !== undefined)
          expect(validatorOf(schema)(example), `${operation.id} ${each.$ref}`).toBe(true);
      }
      const { schema, example } = described.requestBody?.content['application/json'] ?? {};
      if (schema) expect(validatorOf(schema)(example), operation.id).toBe(true);
    }
  });

  it('has an example of its answer that fits, where it has one', () => {
    const withExamples = documented.flatMap(({ operation, described }) => {
      const { content } = resolved<{ content: Content }>(
        described.responses[operation.status] as { content: Content },
      );
      const { schema, example } = content['application/json'] ?? {};
      return schema && example !== undefined ? [{ id: operation.id, schema, example }] : [];
    });
    expect(withExamples.length).toBeGreaterThan(5);
    for (const { id, schema, example } of withExamples) expect(validatorOf(schema)(example), id).toBe(true);
  });
});

describe('the document', () => {
  it('has no component that nothing refers to', () => {
    const text = JSON.stringify(document);
    for (const [kind, components] of Object.entries(document.components)) {
      if (kind === 'securitySchemes') continue;
      for (const name of Object.keys(components)) expect(text).toContain(`"#/components/${kind}/${name}"`);
    }
  });

  it('says of every code of the error table where it is met', () => {
    const met = new Set(httpApi.flatMap(({ codes }) => codes));
    const missing = (Object.keys(errorTable) as ErrorCode[]).filter(code => !met.has(code));
    expect(missing.sort()).toEqual([...elsewhere].sort());
  });
});

/** Codes that no call of the API is answered with. */
const elsewhere: readonly ErrorCode[] = [
  // Of a route that takes another method.
  'METHOD_NOT_ALLOWED',
  // Refusals at start, and what the command line says of itself.
  'APPLIANCE_UNREACHABLE',
  'CERTIFICATE_EXPIRED',
  'HOME_INVALID',
  'HOME_IN_USE',
  'PORT_IN_USE',
  'STORE_NEWER',
  'BACKUP_FAILED',
  'BACKUP_INVALID',
  'BACKUP_UNREADABLE',
  // Of one key among others, in an answer.
  'MIGRATION_UNPROVEN',
];

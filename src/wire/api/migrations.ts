import { errorTable } from '../../foundation/errors.ts';
import { operations } from '../custodian.ts';
import { bodies } from '../http.ts';
import { groups, type HttpOperation, native } from './http-operation.ts';
import { page, parameters } from './parameters.ts';

const route = { from: 'main', to: 'spare' };
const between = [
  'SLOT_ID_INVALID',
  'SLOT_UNKNOWN',
  'KEY_ID_INVALID',
  // What a slot cannot do stands in the plan; this is what goes wrong while it is asked.
  ...groups.custody.filter(code => errorTable[code].status === 503),
] as const;
const working = [
  'MIGRATION_UNKNOWN',
  'MIGRATION_STATE',
  'MIGRATION_RUNNING',
  'KEY_ID_INVALID',
  'KEY_UNKNOWN',
  'SLOT_UNKNOWN',
] as const;
const atMigration = { method: 'post', tag: 'migrations', parameters: [parameters.migration] } as const;

export const migrationOperations: readonly HttpOperation[] = [
  native({
    id: 'plan-migration',
    method: 'post',
    path: '/v1/migrations/plan',
    tag: 'migrations',
    summary: 'Says which keys could move from slot to slot',
    description: 'Changes nothing.',
    effect: 'read',
    body: bodies.migrationRoute,
    reply: operations['plan-migration'].output,
    codes: between,
    example: { body: route },
  }),
  native({
    id: 'start-migration',
    method: 'post',
    path: '/v1/migrations',
    tag: 'migrations',
    summary: 'Writes a migration down; nothing has moved yet',
    body: bodies.migrationRoute,
    status: 201,
    reply: operations['start-migration'].output,
    codes: [...between, 'MIGRATION_IMPOSSIBLE', 'MIGRATION_RUNNING'],
    example: { body: { ...route, keys: ['movable'] } },
  }),
  native({
    id: 'list-migrations',
    method: 'get',
    path: '/v1/migrations',
    tag: 'migrations',
    summary: 'Lists migrations, the latest first',
    reply: operations['list-migrations'].output,
  }),
  native({
    id: 'show-migration',
    method: 'get',
    path: '/v1/migrations/{id}',
    tag: 'migrations',
    summary: 'Shows a migration and its keys',
    parameters: [parameters.migration, ...page],
    reply: operations['show-migration'].output,
    codes: ['QUERY_INVALID', 'MIGRATION_UNKNOWN'],
  }),
  native({
    id: 'run-migration',
    path: '/v1/migrations/{id}/run',
    ...atMigration,
    summary: 'Moves keys, as many as one request has time for',
    description: 'A key that failed is listed with its `error` while the others go on.',
    body: bodies.migrationBatch,
    bodyOptional: true,
    reply: operations['run-migration'].output,
    codes: working,
    example: { body: { max: 25 } },
  }),
  native({
    id: 'verify-migration',
    path: '/v1/migrations/{id}/verify',
    ...atMigration,
    summary: 'Has every moved key prove itself again',
    body: bodies.migrationBatch,
    bodyOptional: true,
    reply: operations['verify-migration'].output,
    codes: working,
    example: { body: { max: 25 } },
  }),
  native({
    id: 'rollback-migration',
    path: '/v1/migrations/{id}/rollback',
    ...atMigration,
    summary: 'Moves keys back to the source',
    body: bodies.migrationBatch,
    bodyOptional: true,
    reply: operations['rollback-migration'].output,
    codes: working,
    example: { body: {} },
  }),
  native({
    id: 'destroy-copies',
    path: '/v1/migrations/{id}/destroy-copies',
    ...atMigration,
    summary: 'Removes the copies that are not in use, for good',
    body: bodies.destroyCopies,
    reply: operations['destroy-copies'].output,
    codes: working,
    example: { body: { confirm: true } },
  }),
];

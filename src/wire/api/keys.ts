import { operations } from '../custodian.ts';
import { bodies } from '../http.ts';
import { keyView } from '../views.ts';
import { exampleAddress, otherAddress, otherSeed } from './examples.ts';
import { groups, type HttpOperation, native } from './http-operation.ts';
import { page, parameters } from './parameters.ts';
import { exportedKey } from './replies.ts';

const treasury = {
  id: 'treasury',
  slot: 'main',
  publicKey: exampleAddress,
  publicKeyBase64: '11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=',
  custody: 'memory',
  exportable: true,
  state: 'active',
  tags: [],
  origin: 'imported',
  createdAt: '2026-01-01T00:16:40.000Z',
};
const imported = {
  ...treasury,
  id: 'payments',
  publicKey: otherAddress,
  publicKeyBase64: 'PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=',
};

const named = ['KEY_ID_INVALID', 'KEY_UNKNOWN'] as const;
const inSlot = ['SLOT_ID_INVALID', 'SLOT_UNKNOWN', 'SLOT_FAILED'] as const;
/** Where a key is made or taken in. */
const making = [
  'KEY_ID_INVALID',
  ...inSlot,
  'KEY_EXISTS',
  'KEY_UNVERIFIED',
  'POWER_MISSING',
  ...groups.openSlot,
  ...groups.custody,
  ...groups.login,
] as const;
const atKey = { tag: 'keys', parameters: [parameters.key], reply: keyView } as const;

export const keyOperations: readonly HttpOperation[] = [
  native({
    id: 'list-keys',
    method: 'get',
    path: '/v1/keys',
    tag: 'keys',
    summary: 'Lists the keys that the caller may know of',
    session: true,
    parameters: [parameters.ofSlot, ...page],
    reply: operations['list-keys'].output,
    codes: ['QUERY_INVALID', 'SLOT_ID_INVALID', 'SLOT_UNKNOWN'],
    example: { parameters: { slot: 'main', limit: 100 } },
  }),
  native({
    id: 'generate-key',
    method: 'post',
    path: '/v1/keys',
    tag: 'keys',
    summary: 'Generates a key inside a slot',
    body: bodies.generateKey,
    status: 201,
    reply: keyView,
    codes: making,
    example: { body: { id: 'generated', slot: 'main', tags: ['new'] } },
  }),
  native({
    id: 'show-key',
    method: 'get',
    path: '/v1/keys/{id}',
    ...atKey,
    summary: 'Shows a key',
    session: true,
    codes: named,
    example: { reply: treasury },
  }),
  native({
    id: 'import-key',
    method: 'post',
    path: '/v1/keys/{id}/import',
    ...atKey,
    summary: 'Imports a key',
    description: 'Exactly one of `seed` and `secretKey` is given.',
    body: bodies.importKey,
    status: 201,
    codes: [...making, 'KEY_MATERIAL_INVALID'],
    example: { parameters: { id: 'payments' }, body: { slot: 'main', seed: otherSeed }, reply: imported },
  }),
  native({
    id: 'adopt-key',
    method: 'post',
    path: '/v1/keys/{id}/adopt',
    ...atKey,
    summary: 'Takes in a key that is in the custody already',
    body: bodies.adoptKey,
    status: 201,
    codes: [...making, 'KEY_UNKNOWN'],
    example: { parameters: { id: 'found' }, body: { slot: 'main' } },
  }),
  native({
    id: 'tag-key',
    method: 'put',
    path: '/v1/keys/{id}/tags',
    ...atKey,
    summary: 'Sets all tags of a key anew',
    body: bodies.tagKey,
    codes: named,
    example: { body: { tags: ['cold'] } },
  }),
  native({
    id: 'disable-key',
    method: 'post',
    path: '/v1/keys/{id}/disable',
    ...atKey,
    summary: 'Disables a key: it signs nothing until it is enabled',
    body: bodies.nothing,
    bodyOptional: true,
    codes: named,
    example: { body: {}, reply: { ...treasury, state: 'disabled' } },
  }),
  native({
    id: 'enable-key',
    method: 'post',
    path: '/v1/keys/{id}/enable',
    ...atKey,
    summary: 'Enables a key',
    body: bodies.nothing,
    bodyOptional: true,
    codes: named,
    example: { body: {}, reply: treasury },
  }),
  native({
    id: 'export-key',
    method: 'post',
    path: '/v1/keys/{id}/export',
    ...atKey,
    summary: 'Exports a key as the numbers of a Solana key file',
    description: 'Off unless the configuration says `exports.enabled`, and it takes an approval.',
    body: bodies.nothing,
    bodyOptional: true,
    reply: exportedKey,
    codes: [
      ...named,
      'EXPORT_DISABLED',
      'KEY_NOT_EXPORTABLE',
      ...groups.openSlot,
      ...groups.custody,
      ...groups.login,
    ],
    example: { body: {} },
  }),
  native({
    id: 'destroy-key',
    method: 'post',
    path: '/v1/keys/{id}/destroy',
    ...atKey,
    summary: 'Removes a key from its slot for good',
    description: 'Takes an approval.',
    body: bodies.nothing,
    bodyOptional: true,
    codes: [...named, 'POWER_MISSING', ...groups.openSlot, ...groups.custody, ...groups.login],
    example: { parameters: { id: 'worn-out' }, body: {} },
  }),
];

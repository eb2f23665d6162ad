import { operations } from '../custodian.ts';
import { checkNode } from '../health-tree.ts';
import { bodies } from '../http.ts';
import { expositionType } from '../metrics.ts';
import { health } from '../views.ts';
import { type HttpOperation, native } from './http-operation.ts';
import { alive, exposition, openApi } from './replies.ts';

const open = {
  method: 'get',
  tag: 'service',
  door: 'anybody',
  session: false,
  effect: 'read',
  parameters: [],
  bodyOptional: false,
  status: 200,
  failure: 'problem',
  codes: [],
} as const;

/** What is answered to whoever asks. */
export const serviceOperations: readonly HttpOperation[] = [
  {
    ...open,
    id: 'healthz',
    path: '/healthz',
    summary: 'Says that the process answers',
    description: 'On the ops listener too.',
    listeners: ['api', 'ops'],
    reply: alive,
    example: { reply: { status: 'ok' } },
  },
  {
    ...open,
    id: 'readyz',
    path: '/readyz',
    summary: 'Says whether every slot can sign',
    description: 'On the ops listener too.',
    listeners: ['api', 'ops'],
    reply: health,
    otherStatuses: { 503: 'Not ready.' },
    example: {},
  },
  {
    ...open,
    id: 'show-health',
    path: '/v1/health',
    summary: 'Shows a check for all that the appliance stands on, with its status and since when',
    description: 'On the ops listener alone. Nothing is signed for it.',
    listeners: ['ops'],
    reply: checkNode,
    otherStatuses: {
      501: 'There is no key that callers could sign with.',
      503: 'Something that is required is locked, away or draining, or the custodian does not answer.',
    },
    example: {},
  },
  {
    ...open,
    id: 'metrics',
    path: '/metrics',
    summary: 'Shows numbers as Prometheus reads them',
    description: 'On the ops listener alone. No key, identity or address is among them.',
    listeners: ['ops'],
    reply: exposition,
    replyType: expositionType,
    example: {},
  },
  {
    ...open,
    id: 'openapi',
    path: '/v1/openapi.json',
    summary: 'Describes this API',
    reply: openApi,
    example: {},
  },
  native({
    id: 'show-reload',
    method: 'get',
    path: '/v1/reload',
    tag: 'service',
    summary: 'Says what came of reading the configuration again, since the custodian started',
    reply: operations['show-reload'].output,
    example: { reply: { running: false } },
  }),
  native({
    id: 'reload',
    method: 'post',
    path: '/v1/reload',
    tag: 'service',
    summary: 'Has the configuration read again, and taken as a whole or not at all',
    description:
      'Settings, certificates, policies and identities. What went away signs no more when the answer is there. On any failure everything goes on as before.',
    body: bodies.nothing,
    bodyOptional: true,
    reply: operations.reload.output,
    codes: ['RELOAD_BUSY', 'RELOAD_NEEDS_RESTART', 'RELOAD_REFUSED'],
    example: { body: {} },
  }),
  native({
    id: 'drain',
    method: 'post',
    path: '/v1/drain',
    tag: 'service',
    summary: 'Takes leave of callers, before a stop, or ends that',
    description:
      'Without a body it begins. /readyz answers 503 at once; after a while of grace every other request is refused with SHUTTING_DOWN.',
    effect: 'event',
    body: bodies.drain,
    bodyOptional: true,
    reply: operations.drain.output,
    example: { body: { drain: false }, reply: { draining: false } },
  }),
];

import { operations } from '../custodian.ts';
import { bodies } from '../http.ts';
import { health } from '../views.ts';
import { type HttpOperation, native } from './http-operation.ts';
import { alive, openApi } from './replies.ts';

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
    reply: alive,
    example: { reply: { status: 'ok' } },
  },
  {
    ...open,
    id: 'readyz',
    path: '/readyz',
    summary: 'Says whether every slot can sign',
    description: 'On the ops listener too.',
    reply: health,
    otherStatus: 503,
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

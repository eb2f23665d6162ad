import { KeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { Custodian } from '../wire/custodian.ts';
import { base64Field, bodies } from '../wire/http.ts';
import { type Handler, plain, type Routes } from './exchange.ts';

/** What decides over signatures besides who asks: policies, freezes, and the approvals of others. */
export function policyRoutes(custodian: Custodian): Routes {
  const ask = custodian.call.bind(custodian);
  /** What the approver read is said again, so that nobody approves what was swapped under their eyes. */
  const deciding =
    (decision: 'approve' | 'reject'): Handler =>
    async ({ call, params, body }) => {
      const { digest } = await body(bodies.decideApproval);
      const input = { approval: params.id ?? '', decision, digest };
      return plain(ask('decide-approval', { input }, call));
    };

  return {
    '/v1/policies': {
      get: async ({ call }) => plain(ask('list-policies', { input: {} }, call)),
    },
    '/v1/policies/evaluate': {
      post: async ({ call, body, gone }) => {
        const { key, document, ...what } = await body(bodies.evaluatePolicy, document_bytes_max);
        const { kind, bytes } = subjectOf(what);
        const request = { input: { key, kind, document }, bytes: [bytes] };
        return plain(ask('evaluate-policy', request, { ...call, signal: gone() }));
      },
    },
    '/v1/policies/:name': {
      get: async ({ call, params }) =>
        plain(ask('show-policy', { input: { policy: params.name ?? '' } }, call)),
      put: async ({ call, params, body }) => {
        const change = await body(bodies.putPolicy, document_bytes_max);
        return plain(ask('put-policy', { input: { policy: params.name ?? '', ...change } }, call));
      },
      delete: async ({ call, params }) =>
        plain(ask('delete-policy', { input: { policy: params.name ?? '' } }, call)),
    },
    '/v1/policies/:name/versions/:version': {
      get: async ({ call, params }) => {
        const input = { policy: params.name ?? '', version: versionOf(params.version) };
        return plain(ask('show-policy', { input }, call));
      },
    },
    '/v1/freezes': {
      get: async ({ call }) => plain(ask('list-freezes', { input: {} }, call)),
      post: async ({ call, body }) => plain(ask('freeze', { input: await body(bodies.freeze) }, call), 201),
    },
    // The id of a freeze has a slash in it, so it stands in the body.
    '/v1/freezes/thaw': {
      post: async ({ call, body }) => plain(ask('thaw', { input: await body(bodies.thaw) }, call)),
    },
    '/v1/approvals': {
      get: async ({ call }) => plain(ask('list-approvals', { input: {} }, call)),
      post: async ({ call, body }) => {
        const input = await body(bodies.requestApproval, document_bytes_max);
        return plain(ask('request-approval', { input }, call), 201);
      },
    },
    '/v1/approvals/:id': {
      get: async ({ call, params }) =>
        plain(ask('show-approval', { input: { approval: params.id ?? '' } }, call)),
    },
    '/v1/approvals/:id/approve': { post: deciding('approve') },
    '/v1/approvals/:id/reject': { post: deciding('reject') },
  };
}

/** The largest documents list a thousand keys and five hundred addresses. */
const document_bytes_max = limits.batchBody_bytes_max;

function subjectOf({
  transaction,
  message,
}: {
  transaction?: string | undefined;
  message?: string | undefined;
}) {
  if ((transaction === undefined) === (message === undefined)) {
    throw new KeyslotError('BODY_INVALID', 'Exactly one of transaction and message must be given.');
  }
  return transaction === undefined
    ? { kind: 'message' as const, bytes: base64Field('message', message ?? '') }
    : { kind: 'transaction' as const, bytes: base64Field('transaction', transaction) };
}

/** POLICY_UNKNOWN for what no version can be. */
function versionOf(text = ''): number {
  if (/^[1-9]\d{0,14}$/.test(text)) return Number(text);
  throw new KeyslotError('POLICY_UNKNOWN', `No version is ${JSON.stringify(text.slice(0, 20))}.`);
}

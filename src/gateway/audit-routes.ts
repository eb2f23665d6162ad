import { KeyslotError } from '../foundation/errors.ts';
import type { Custodian } from '../wire/custodian.ts';
import { bodies } from '../wire/http.ts';
import { plain, type Routes } from './exchange.ts';
import { numberOf, onlyParameters, requiredNumber, stretchOf } from './query.ts';

/** The audit log: its lines as they stand, where it is, and the proofs that nobody changed it. */
export function auditRoutes(custodian: Custodian): Routes {
  const ask = custodian.call.bind(custodian);
  return {
    '/v1/audit': {
      get: async ({ call, query }) => plain(ask('read-audit', { input: stretchOf(query) }, call)),
    },
    '/v1/audit/status': {
      get: async ({ call }) => plain(ask('audit-status', { input: {} }, call)),
    },
    '/v1/audit/checkpoints': {
      get: async ({ call, query }) => plain(ask('list-checkpoints', { input: stretchOf(query) }, call)),
    },
    '/v1/audit/consistency': {
      get: async ({ call, query }) => {
        onlyParameters(query, ['from', 'to']);
        const input = { from: requiredNumber(query, 'from'), to: requiredNumber(query, 'to') };
        return plain(ask('audit-consistency', { input }, call));
      },
    },
    '/v1/audit/prune': {
      post: async ({ call, body }) =>
        plain(ask('prune-audit', { input: await body(bodies.pruneAudit) }, call)),
    },
    '/v1/audit/:seq/proof': {
      get: async ({ call, params, query }) => {
        onlyParameters(query, ['size']);
        const input = { seq: seqOf(params.seq), size: numberOf(query, 'size', { min: 1 }) };
        return plain(ask('prove-audit', { input }, call));
      },
    },
  };
}

/** AUDIT_RECORD_UNKNOWN for what no record's number can be. */
function seqOf(text = ''): number {
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new KeyslotError('AUDIT_RECORD_UNKNOWN', `No record is ${JSON.stringify(text.slice(0, 20))}.`);
}

import { auditStatusView } from '../audit.ts';
import { operations } from '../custodian.ts';
import { bodies } from '../http.ts';
import { type HttpOperation, native } from './http-operation.ts';
import { parameters, stretch } from './parameters.ts';

const unknown = ['AUDIT_RECORD_UNKNOWN', 'AUDIT_PRUNED'] as const;

export const auditOperations: readonly HttpOperation[] = [
  native({
    id: 'read-audit',
    method: 'get',
    path: '/v1/audit',
    tag: 'audit',
    summary: 'Reads the lines of the audit log as they stand there',
    parameters: stretch,
    reply: operations['read-audit'].output,
    codes: ['QUERY_INVALID', ...unknown],
    example: { parameters: { from: 0, limit: 10 } },
  }),
  native({
    id: 'audit-status',
    method: 'get',
    path: '/v1/audit/status',
    tag: 'audit',
    summary: 'Says where the audit log is, and who has witnessed it',
    reply: auditStatusView,
  }),
  native({
    id: 'list-checkpoints',
    method: 'get',
    path: '/v1/audit/checkpoints',
    tag: 'audit',
    summary: 'Lists the signed checkpoints of at least a size',
    parameters: stretch,
    reply: operations['list-checkpoints'].output,
    codes: ['QUERY_INVALID'],
  }),
  native({
    id: 'audit-consistency',
    method: 'get',
    path: '/v1/audit/consistency',
    tag: 'audit',
    summary: 'Proves that the log of one size goes on from the log of another',
    parameters: [parameters.oldSize, parameters.newSize],
    reply: operations['audit-consistency'].output,
    codes: ['QUERY_INVALID', ...unknown],
    example: { parameters: { from: 1, to: 2 } },
  }),
  native({
    id: 'prove-audit',
    method: 'get',
    path: '/v1/audit/{seq}/proof',
    tag: 'audit',
    summary: 'Proves that a record is in the log',
    parameters: [parameters.record, parameters.size],
    reply: operations['prove-audit'].output,
    codes: ['QUERY_INVALID', ...unknown],
    example: { parameters: { seq: 0 } },
  }),
  native({
    id: 'prune-audit',
    method: 'post',
    path: '/v1/audit/prune',
    tag: 'audit',
    summary: 'Removes whole segments below a witnessed checkpoint',
    body: bodies.pruneAudit,
    reply: operations['prune-audit'].output,
    codes: ['AUDIT_UNWITNESSED'],
    example: { body: { below: 1 } },
  }),
];

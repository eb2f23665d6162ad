import type { Span } from '../foundation/tracing.ts';
import type { CallSeen, RequestNotes, RequestSeen } from './request-notes.ts';

/**
 * The spans of a request: of the gateway, of each call to the custodian, and of each stage of a signature, of which
 * one is the call to the module. They are made here, of what the custodian tells beside its answer: the process that
 * holds keys speaks to no collector and loads no code for it.
 */
export function traceOf(span: Span, seen: RequestSeen, notes: RequestNotes): void {
  if (span.recorded) for (const call of notes.calls) traceCall(span, call);
  const failed = seen.status === undefined || seen.status >= 500;
  span.end({
    name: seen.route === undefined ? seen.method : `${seen.method} ${seen.route}`,
    ended_ms: seen.ended_ms,
    attributes: {
      'http.request.method': seen.method,
      'http.route': seen.route,
      'http.response.status_code': seen.status,
      'keyslot.request_id': notes.requestId,
      'keyslot.code': notes.code,
      'error.type': failed ? (notes.code ?? 'aborted') : undefined,
    },
    failure: failed ? (notes.code ?? 'aborted') : undefined,
  });
}

function traceCall(parent: Span, { account, asked_ms, answered_ms }: CallSeen): void {
  // Two processes have no clock in common: what the custodian took stands in the middle of what the gateway waited.
  const took_ms = Math.min(account.took_ms, answered_ms - asked_ms);
  const began_ms = asked_ms + (answered_ms - asked_ms - took_ms) / 2;
  const span = parent.part(`custodian ${account.operation}`, {
    began_ms,
    ended_ms: began_ms + took_ms,
    attributes: {
      'keyslot.operation': account.operation,
      'keyslot.identity': account.identity,
      'keyslot.key': account.key,
      'keyslot.slot': account.slot,
      'keyslot.verdict': account.verdict,
      'keyslot.items': account.items,
    },
  });
  for (const { stage, from_ms, took_ms, slot, code } of account.trail ?? []) {
    const isModule = stage === 'sign';
    span.part(isModule ? 'module sign' : stage, {
      began_ms: began_ms + from_ms,
      ended_ms: began_ms + from_ms + took_ms,
      attributes: isModule ? { 'keyslot.slot': slot } : {},
      failure: code,
      outbound: isModule,
    });
  }
}

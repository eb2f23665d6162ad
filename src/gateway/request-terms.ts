import type { IncomingMessage } from 'node:http';
import { KeyslotError } from '../foundation/errors.ts';
import type { Call } from '../wire/custodian.ts';

/**
 * What a caller says about its request in headers: under which key a repeat of it is the same one, which approval
 * it uses, and how it calls the request itself. None of them says who asks.
 */
export type Terms = Pick<Call, 'idempotencyKey' | 'approval' | 'requestIdGiven'>;

/**
 * The terms of a request whose own name is `requestId`, when it has one. What only reads has none: nothing of it
 * could be done twice. IDEMPOTENCY_KEY_INVALID; APPROVAL_UNKNOWN for what cannot be the id of one.
 */
export function termsOf({ method, headers }: IncomingMessage, requestId: string | undefined): Terms {
  if (method === 'GET' || method === 'HEAD') return {};
  return {
    ...(requestId === undefined ? {} : { requestIdGiven: true }),
    ...idempotencyOf(headers['idempotency-key']),
    ...approvalOf(headers['keyslot-approval']),
  };
}

/**
 * `Request-Id`, or `X-Request-Id` as proxies have it: the caller's own name for its request, which the answer and
 * the logs then have too. One that is longer or has other characters is passed over, and the request gets one of
 * ours: a proxy whose ids look different is no reason to refuse a signature.
 */
export function givenRequestId({ headers }: IncomingMessage): string | undefined {
  const given = headers['request-id'] ?? headers['x-request-id'];
  return typeof given === 'string' && /^[A-Za-z0-9._:-]{1,100}$/.test(given) ? given : undefined;
}

function idempotencyOf(key: string | string[] | undefined): Terms {
  if (key === undefined) return {};
  if (typeof key === 'string' && /^[\x20-\x7e]{1,255}$/.test(key)) return { idempotencyKey: key };
  throw new KeyslotError(
    'IDEMPOTENCY_KEY_INVALID',
    'The Idempotency-Key is empty, too long, or not printable ASCII.',
  );
}

function approvalOf(approval: string | string[] | undefined): Terms {
  if (approval === undefined) return {};
  if (typeof approval === 'string' && /^[A-Za-z0-9-]{1,100}$/.test(approval)) return { approval };
  throw new KeyslotError('APPROVAL_UNKNOWN', 'Keyslot-Approval does not hold the id of an approval.');
}

import type { ServerResponse } from 'node:http';
import type { KeyslotError } from '../foundation/errors.ts';
import { isUnknownKey, vaultStatus } from '../wire/vault-transit.ts';
import { answer } from './problem.ts';

/**
 * Failures as Vault says them: `{errors: [text]}` and its few statuses. The code of the error table stands at the
 * end of the text, so that docs/errors.md can be asked what to do.
 */
export function answerVaultErrors(response: ServerResponse, error: KeyslotError): void {
  const status = vaultStatus(error.code, response.req.method ?? '');
  const { retryable } = error.entry;
  const retryAfter_s = error.retryAfter_s ?? (status === 503 && retryable ? 1 : undefined);
  if (retryAfter_s !== undefined) response.setHeader('Retry-After', String(retryAfter_s));
  answer(response, status, { errors: textsOf(error, status) });
}

/** A login that is refused is no lack of permission to Vault, and says nothing of which half was wrong. */
export function answerLoginErrors(response: ServerResponse, error: KeyslotError): void {
  if (error.code !== 'CREDENTIAL_UNKNOWN') answerVaultErrors(response, error);
  else answer(response, 400, { errors: ['invalid role or secret ID'] });
}

function textsOf({ code, message, entry }: KeyslotError, status: number): readonly string[] {
  if (isUnknownKey(code)) return status === 404 ? [] : ['signing key not found'];
  if (code === 'CREDENTIAL_MISSING' || code === 'CREDENTIAL_UNKNOWN') return ['permission denied'];
  if (code === 'PIN_RATE_LIMITED' || code === 'IDENTITY_LOCKED_OUT') return ['too many failed logins'];
  const text = `${message} (${code})`;
  return entry.status === 401 || entry.status === 403 ? ['permission denied', text] : [text];
}

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { kmsError, knownNames } from '../../../src/engines/kms/errors.ts';
import { KeyslotError } from '../../../src/foundation/errors.ts';

/** What the SDK declares for an operation, from its type declarations. */
function declaredErrors(operation: string): string[] {
  const entry = createRequire(import.meta.url).resolve('@aws-sdk/client-kms');
  const declarations = join(dirname(entry), '..', 'dist-types', 'commands', `${operation}Command.d.ts`);
  const names = readFileSync(declarations, 'utf8').matchAll(/@throws \{@link (\w+)\}/g);
  return [...names].map(([, name = '']) => name);
}

/** Thrown as the SDK throws it: a name, and what came over the wire. */
function thrown(name: string, more: object = {}): Error {
  return Object.assign(new Error('text from below'), { name, ...more });
}

const codeOf = (error: unknown) => kmsError(error, 'Sign').code;

describe('the translation of what KMS answers', () => {
  it.each([
    'CreateKey',
    'DescribeKey',
    'GetPublicKey',
    'Sign',
    'GenerateDataKey',
    'Decrypt',
    'ScheduleKeyDeletion',
  ])('knows every error that the SDK declares for %s', operation => {
    const declared = declaredErrors(operation).filter(name => name !== 'KMSServiceException'); // the base of all
    expect(declared).toContain('KMSInternalException');
    expect(declared.filter(name => !knownNames.has(name))).toEqual([]);
  });

  it.each([
    ['ThrottlingException', 'KMS_THROTTLED'],
    ['LimitExceededException', 'KMS_THROTTLED'],
    ['KMSInternalException', 'KMS_UNAVAILABLE'],
    ['DependencyTimeoutException', 'KMS_UNAVAILABLE'],
    ['KeyUnavailableException', 'KMS_UNAVAILABLE'],
    ['TimeoutError', 'KMS_UNAVAILABLE'],
    ['SyntaxError', 'KMS_UNAVAILABLE'],
    ['AccessDeniedException', 'KMS_DENIED'],
    ['UnrecognizedClientException', 'KMS_DENIED'],
    ['ExpiredTokenException', 'KMS_DENIED'],
    ['InvalidSignatureException', 'KMS_DENIED'],
    ['CredentialsProviderError', 'KMS_DENIED'],
    ['DisabledException', 'KMS_KEY_UNUSABLE'],
    ['KMSInvalidStateException', 'KMS_KEY_UNUSABLE'],
    ['NotFoundException', 'KMS_KEY_UNKNOWN'],
    ['InvalidArnException', 'KMS_KEY_UNKNOWN'],
    ['InvalidKeyUsageException', 'KMS_KEY_UNSUITABLE'],
    ['UnsupportedOperationException', 'KMS_KEY_UNSUITABLE'],
    ['InvalidCiphertextException', 'KEY_FILE_TAMPERED'],
    ['IncorrectKeyException', 'KEY_FILE_TAMPERED'],
  ])('takes %s for %s', (name, code) => {
    expect(codeOf(thrown(name))).toBe(code);
  });

  it.each(['ECONNREFUSED', 'ECONNRESET', 'ENOTFOUND', 'EAI_AGAIN', 'EPIPE', 'CERT_HAS_EXPIRED'])(
    'takes the network error %s for a KMS that cannot be reached',
    code => {
      expect(codeOf(thrown('Error', { code }))).toBe('KMS_UNAVAILABLE');
      expect(codeOf(thrown('AggregateError', { cause: { code } }))).toBe('KMS_UNAVAILABLE');
    },
  );

  it('judges a name that it does not know by its status, and calls what never left the house internal', () => {
    const withStatus = (httpStatusCode: number) => thrown('NewException', { $metadata: { httpStatusCode } });
    expect([429, 401, 403, 400, 500, 503].map(status => codeOf(withStatus(status)))).toEqual([
      'KMS_THROTTLED',
      'KMS_DENIED',
      'KMS_DENIED',
      'KMS_UNAVAILABLE',
      'KMS_UNAVAILABLE',
      'KMS_UNAVAILABLE',
    ]);
    for (const odd of [thrown('TypeError'), undefined, null, 'text', 7, {}, thrown('toString')]) {
      expect(codeOf(odd)).toBe('INTERNAL');
    }
  });

  it('leaves an error that is ours as it is', () => {
    const ours = new KeyslotError('REQUEST_ABORTED', 'Enough.');
    expect(kmsError(ours, 'Sign')).toBe(ours);
  });

  it('keeps as the cause what helps, and neither the reply nor a text that may quote it', () => {
    const $metadata = { httpStatusCode: 400, requestId: 'request-7', attempts: 3 };
    const $response = { body: 'canary' };
    const quoting = Object.assign(new SyntaxError('Unexpected end of canary'), { $metadata, $response });
    const signed = thrown('InvalidSignatureException', { message: 'x-amz-security-token:canary', $response });
    for (const error of [quoting, signed]) {
      const translated = kmsError(error, 'Decrypt');
      expect(inspect(translated, { depth: 10, showHidden: true })).not.toContain('canary');
    }
    expect(kmsError(quoting, 'Decrypt').cause).toMatchObject({
      name: 'SyntaxError',
      status: 400,
      requestId: 'request-7',
      attempts: 3,
    });
    const denied = kmsError(thrown('AccessDeniedException', { message: 'no kms:Sign for you' }), 'Sign');
    expect(denied.cause).toMatchObject({ message: 'no kms:Sign for you' });
    expect(denied.message).not.toContain('kms:Sign');
  });
});

import { operations } from '../custodian.ts';
import { bodies } from '../http.ts';
import {
  exampleAddress,
  exampleMessage,
  exampleReceipt,
  exampleSignature,
  exampleSignatureBase64,
  exampleSignedTransaction,
  exampleTransaction,
  exampleTransactionSignature,
  exampleTransactionSignatureBase64,
} from './examples.ts';
import { groups, type HttpOperation, native } from './http-operation.ts';
import { parameters } from './parameters.ts';
import { signedBatch, signedMessage, signedTransaction } from './replies.ts';

const by = { publicKey: exampleAddress, custody: 'memory' };
const ofMessage = {
  signature: exampleSignature,
  signatureBase64: exampleSignatureBase64,
  kind: 'bytes',
  receipt: exampleReceipt,
};
const ofTransaction = {
  signedTransaction: exampleSignedTransaction,
  signature: exampleTransactionSignature,
  signatureBase64: exampleTransactionSignatureBase64,
  version: 'legacy',
  receipt: exampleReceipt,
};

/** What every signature may fail with, whatever is signed. */
const entering = [
  'KEY_ID_INVALID',
  'KEY_UNKNOWN',
  'KEY_DISABLED',
  'BASE64_INVALID',
  ...groups.pinSession,
  ...groups.openSlot,
  ...groups.custody,
  ...groups.login,
] as const;

export const signingOperations: readonly HttpOperation[] = [
  native({
    id: 'sign-transaction',
    method: 'post',
    path: '/v1/keys/{id}/sign-transaction',
    tag: 'signing',
    summary: 'Signs a wire transaction',
    description:
      'The signature is put into the place of the key; other signatures are kept, and the message is never serialised again.',
    effect: 'sign',
    session: true,
    parameters: [parameters.key],
    body: bodies.signTransaction,
    reply: signedTransaction,
    codes: [...entering, ...groups.transaction, 'FROZEN', 'POLICY_DENIED'],
    example: { body: { transaction: exampleTransaction }, reply: { ...ofTransaction, ...by } },
  }),
  native({
    id: 'sign-message',
    method: 'post',
    path: '/v1/keys/{id}/sign-message',
    tag: 'signing',
    summary: 'Signs a message',
    description:
      'Bytes that a validator could read as a transaction message are refused, unless `raw` says that they may be one.',
    effect: 'sign',
    session: true,
    parameters: [parameters.key],
    body: bodies.signMessage,
    reply: signedMessage,
    codes: [...entering, ...groups.message, 'FROZEN', 'POLICY_DENIED'],
    example: { body: { message: exampleMessage }, reply: { ...ofMessage, ...by } },
  }),
  native({
    id: 'sign-batch',
    method: 'post',
    path: '/v1/keys/{id}/sign-batch',
    tag: 'signing',
    summary: 'Signs up to a hundred messages and transactions',
    description: 'An item that failed has an `error`; the others are signed.',
    effect: 'sign',
    session: true,
    parameters: [parameters.key],
    body: bodies.signBatch,
    reply: signedBatch,
    codes: [...entering, 'BATCH_TOO_LARGE'],
    example: {
      body: { items: [{ message: exampleMessage }, { transaction: exampleTransaction }, { message: '' }] },
      reply: {
        results: [
          ofMessage,
          ofTransaction,
          {
            error: {
              type: 'urn:keyslot:error:MESSAGE_EMPTY',
              title: 'The message is empty',
              status: 400,
              detail: 'The message has no bytes.',
              code: 'MESSAGE_EMPTY',
              remedy: 'Send at least one byte; tokens refuse empty messages.',
              retryable: false,
              requestId: 'a1b2c3d4e5f6-1',
            },
          },
        ],
        ...by,
      },
    },
  }),
  native({
    id: 'verify',
    method: 'post',
    path: '/v1/keys/{id}/verify',
    tag: 'signing',
    summary: 'Checks a signature',
    description: 'Works while the slot is locked.',
    effect: 'read',
    session: true,
    parameters: [parameters.key],
    body: bodies.verify,
    reply: operations.verify.output,
    codes: ['KEY_ID_INVALID', 'KEY_UNKNOWN', 'BASE64_INVALID', 'SIGNATURE_ENCODING_INVALID'],
    example: { body: { message: exampleMessage, signature: exampleSignature }, reply: { valid: true } },
  }),
];

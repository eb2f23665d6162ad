import { encodeBase58 } from '../foundation/base58.ts';
import { encodeBase64 } from '../foundation/base64.ts';
import { isErrorCode, KeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { Call, Custodian } from '../wire/custodian.ts';
import { base64Field, bodies, type parseBody, signatureField } from '../wire/http.ts';
import { plain, type Routes } from './exchange.ts';
import { problemOf } from './problem.ts';

/** Signatures, and their check. What is signed is answered with where it stands in the audit log: its receipt. */
export function signingRoutes(custodian: Custodian): Routes {
  const ask = custodian.call.bind(custodian);
  return {
    '/v1/keys/:id/sign-transaction': {
      post: async ({ call, params, body }) => {
        const { transaction } = await body(bodies.signTransaction);
        const bytes = [base64Field('transaction', transaction)];
        const reply = await ask('sign-transaction', { input: { key: params.id ?? '' }, bytes }, call);
        const { version, ...by } = reply.output;
        return { body: { ...signedTransaction(reply.bytes ?? []), version, ...by } };
      },
    },
    '/v1/keys/:id/sign-message': {
      post: async ({ call, params, body }) => {
        const { message, raw } = await body(bodies.signMessage);
        const bytes = [base64Field('message', message)];
        const reply = await ask('sign-message', { input: { key: params.id ?? '', raw }, bytes }, call);
        return { body: { ...signedMessage(reply.bytes ?? []), ...reply.output } };
      },
    },
    '/v1/keys/:id/sign-batch': {
      post: async ({ call, params, body }) => {
        const { items } = await body(bodies.signBatch, limits.batchBody_bytes_max);
        if (items.length === 0 || items.length > limits.batch_items_max) {
          throw new KeyslotError('BATCH_TOO_LARGE', `A batch has 1 to ${limits.batch_items_max} items.`);
        }
        return { body: await signBatch(custodian, params.id ?? '', items, call) };
      },
    },
    '/v1/keys/:id/verify': {
      post: async ({ call, params, body }) => {
        const { message, signature } = await body(bodies.verify);
        const bytes = [base64Field('message', message), signatureField(signature)];
        return plain(ask('verify', { input: { key: params.id ?? '' }, bytes }, call));
      },
    },
  };
}

async function signBatch(
  custodian: Custodian,
  key: string,
  items: ReturnType<typeof parseBody<typeof bodies.signBatch>>['items'],
  call: Call,
) {
  const kinds = items.map(item => ('message' in item ? 'message' : 'transaction'));
  const bytes = items.map((item, at) =>
    'message' in item
      ? base64Field(`items.${at}.message`, item.message)
      : base64Field(`items.${at}.transaction`, item.transaction),
  );
  const reply = await custodian.call('sign-batch', { input: { key, items: kinds }, bytes }, call);
  const { results, ...by } = reply.output;
  const signed = (reply.bytes ?? []).values();
  const take = (count: number) => [...signed.take(count)];
  return {
    ...by,
    results: results.map(result => {
      if ('version' in result) {
        const { version, receipt } = result;
        return { ...signedTransaction(take(2)), version, receipt };
      }
      if ('kind' in result) return { ...signedMessage(take(1)), kind: result.kind, receipt: result.receipt };
      const code = isErrorCode(result.code) ? result.code : 'INTERNAL';
      return { error: problemOf(code, result.detail, call.requestId, result.violations) };
    }),
  };
}

function signedMessage([signature]: readonly Uint8Array[]) {
  const bytes = signature ?? missing();
  return { signature: encodeBase58(bytes), signatureBase64: encodeBase64(bytes) };
}

function signedTransaction([signature, transaction]: readonly Uint8Array[]) {
  return {
    signedTransaction: encodeBase64(transaction ?? missing()),
    ...signedMessage([signature ?? missing()]),
  };
}

function missing(): never {
  throw new KeyslotError('INTERNAL', 'The custodian answered without the bytes of a signature.');
}

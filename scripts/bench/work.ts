import { decodeBase58 } from '../../src/foundation/base58.ts';
import { postRequest } from './exchange.ts';

/** What is asked for: one transaction, one message, or a batch of a hundred transactions. */
export type Mode = 'single' | 'message' | 'batch';
export const modes: readonly Mode[] = ['single', 'message', 'batch'];

export const batch_items = 100;

// A wire transaction begins with the count and the place of its one signature; the message is the rest.
export const transferMessage_at = 1 + 64;

/** One prepared request, and what its answer has to hold. */
export interface Work {
  readonly request: Buffer;
  /** The bytes that each signature of the answer covers. */
  readonly messages: readonly Uint8Array[];
  /** The signatures of an answer, in order. Throws when it belongs to another key or to other bytes. */
  signaturesIn(answer: unknown, publicKey: string): readonly Uint8Array[];
}

/** The requests of a mode, no two alike: an answer that somebody remembered would not pass for a signature. */
export function workOf(
  mode: Mode,
  url: string,
  key: string,
  transfers_base64: readonly string[],
): readonly Work[] {
  const transfers = transfers_base64.map(text => Buffer.from(text, 'base64'));
  const path = (operation: string) => `/v1/keys/${key}/${operation}`;
  switch (mode) {
    case 'single':
      return transfers.map(transfer => ({
        request: postRequest(url, path('sign-transaction'), { transaction: transfer.toString('base64') }),
        messages: [transfer.subarray(transferMessage_at)],
        signaturesIn: (answer, publicKey) => [signedTransfer(ofKey(answer, publicKey), transfer)],
      }));
    case 'message':
      return transfers.map(transfer => messageWork(url, path('sign-message'), transfer));
    case 'batch':
      return chunks(transfers).map(items => ({
        request: postRequest(url, path('sign-batch'), {
          items: items.map(item => ({ transaction: item.toString('base64') })),
        }),
        messages: items.map(item => item.subarray(transferMessage_at)),
        signaturesIn: (answer, publicKey) => batchSignatures(ofKey(answer, publicKey), items),
      }));
  }
}

function messageWork(url: string, path: string, transfer: Buffer): Work {
  // Text, so that nobody could take it for a transaction, and as long as the transfer.
  const message = Buffer.from(transfer.toString('hex').slice(-transfer.length));
  return {
    request: postRequest(url, path, { message: message.toString('base64') }),
    messages: [message],
    signaturesIn: (answer, publicKey) => [signatureOf(ofKey(answer, publicKey))],
  };
}

function chunks(transfers: readonly Buffer[]): readonly (readonly Buffer[])[] {
  const count = Math.floor(transfers.length / batch_items);
  return Array.from({ length: count }, (_, at) => transfers.slice(at * batch_items, (at + 1) * batch_items));
}

interface SignedAnswer {
  readonly publicKey?: string;
  readonly signature?: string;
  readonly signedTransaction?: string;
  readonly results?: readonly SignedAnswer[];
}

function ofKey(answer: unknown, publicKey: string): SignedAnswer {
  const signed = answer as SignedAnswer;
  if (signed.publicKey === publicKey) return signed;
  throw new Error(`An answer names the key ${signed.publicKey}.`);
}

const batchSignatures = ({ results = [] }: SignedAnswer, items: readonly Buffer[]): Uint8Array[] =>
  items.map((item, at) => signedTransfer(results[at] ?? {}, item));

/** The signature, which must also stand in its place in the transaction that was sent. */
function signedTransfer(signed: SignedAnswer, transfer: Buffer): Uint8Array {
  const signature = signatureOf(signed);
  const expected = Buffer.from(transfer);
  expected.set(signature, 1);
  if (signed.signedTransaction === expected.toString('base64')) return signature;
  throw new Error('An answer carries another transaction than the one that was sent.');
}

const signatureOf = ({ signature = '' }: SignedAnswer): Uint8Array =>
  decodeBase58(signature) ?? new Uint8Array();

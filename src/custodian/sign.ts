import type { KeyInfo } from '../custody/engine.ts';
import type { Signature } from '../custody/ids.ts';
import { type KeyslotError, KeyslotError as Refusal, toKeyslotError } from '../foundation/errors.ts';
import { classifyMessage } from '../solana/message-kind.ts';
import { listsSigner } from '../solana/offchain-message.ts';
import {
  parseTransaction,
  signerIndex,
  spliceSignature,
  type TransactionView,
} from '../solana/transaction.ts';
import { unsignedWire } from '../solana/unsigned-wire.ts';
import { type BoundSigner, missingKey } from './slot-keeper.ts';

/**
 * The signing pipeline behind the door: the caller is known and may use the key. Decode → sign → verify →
 * release. The signed bytes are always a slice of what was sent, never serialised again.
 */
export async function signOne(order: Order, key: BoundSigner, signal?: AbortSignal): Promise<Signed> {
  const decoded = decode(order, key.signer.key);
  inFlight += 1;
  try {
    const signature = await key.signer.sign(decoded.message, signal).catch(thrown => {
      throw missingKey(thrown, key.signer.key.id, key.slot);
    });
    await refuseUnverified(key, decoded.message, signature);
    return release(decoded, signature);
  } finally {
    inFlight -= 1;
  }
}

let inFlight = 0;

/**
 * Signs many, a result an item, in order. A batch works on a few items at a time, so that its hundredth item
 * does not stand in the queue before somebody else's first.
 */
export async function signMany(
  orders: readonly Order[],
  key: BoundSigner,
  signal?: AbortSignal,
): Promise<readonly (Signed | KeyslotError)[]> {
  const results: (Signed | KeyslotError)[] = new Array(orders.length);
  let next = 0;
  const lane = async () => {
    for (let at = next++; at < orders.length; at = next++) {
      const order = orders[at];
      if (order) results[at] = await signOne(order, key, signal).catch(toKeyslotError);
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return results;
}

const lanes = 8;

export interface Order {
  /** `bytes`: a transaction's message or any other, for callers that do not say which; it is signed as what it is. */
  readonly kind: 'message' | 'transaction' | 'bytes';
  readonly bytes: Uint8Array;
}

export type Signed =
  | { readonly kind: 'bytes' | 'offchain'; readonly signature: Signature }
  | {
      readonly kind: 'transaction';
      readonly version: TransactionView['version'];
      readonly signature: Signature;
      readonly signedTransaction: Uint8Array;
    };

type Decoded =
  | { readonly kind: 'bytes' | 'offchain'; readonly message: Uint8Array }
  | {
      readonly kind: 'transaction';
      readonly message: Uint8Array;
      readonly view: TransactionView;
      readonly place: number;
    };

function decode(order: Order, key: KeyInfo): Decoded {
  switch (order.kind) {
    case 'message':
      return decodeMessage(order.bytes, key);
    case 'transaction':
      return decodeTransaction(order.bytes, key);
    case 'bytes':
      return decodeBytes(order.bytes, key);
  }
}

/**
 * MESSAGE_IS_TRANSACTION: what a validator could read as a transaction is only signed as one. An off-chain
 * envelope that does not list the key is not for it to sign: KEY_NOT_A_SIGNER.
 */
function decodeMessage(bytes: Uint8Array, key: KeyInfo): Decoded {
  const kind = classifyMessage(bytes);
  if (kind.kind === 'transaction') {
    throw new Refusal(
      'MESSAGE_IS_TRANSACTION',
      `The message reads as a ${kind.version} transaction message.`,
    );
  }
  if (kind.kind === 'offchain' && !listsSigner(kind, key.publicKey)) {
    throw new Refusal('KEY_NOT_A_SIGNER', `The off-chain message does not list ${key.id} as a signer.`);
  }
  return { kind: kind.kind, message: bytes };
}

/** What a validator could read as a transaction passes as one, and must be one; all else passes as a message. */
function decodeBytes(bytes: Uint8Array, key: KeyInfo): Decoded {
  return classifyMessage(bytes).kind === 'transaction'
    ? decodeTransaction(unsignedWire(bytes), key)
    : decodeMessage(bytes, key);
}

/** The TRANSACTION_* failures, KEY_NOT_A_SIGNER. */
function decodeTransaction(wire: Uint8Array, key: KeyInfo): Decoded {
  const view = parseTransaction(wire);
  const place = signerIndex(view, key.publicKey);
  if (place < 0)
    throw new Refusal('KEY_NOT_A_SIGNER', `The transaction does not require a signature of ${key.id}.`);
  return { kind: 'transaction', message: view.message, view, place };
}

/**
 * SIGNATURE_WITHHELD: a token that answers wrongly may be faulty, or may be leaking its key (RFC 8032 §8.2).
 * The only signature in flight is checked on the spot, because waking a thread for it takes as long as the
 * check; as soon as there are others, none of them may hold up the event loop.
 */
async function refuseUnverified(key: BoundSigner, message: Uint8Array, signature: Signature): Promise<void> {
  const { verifier, signer } = key;
  const alone = inFlight === 1;
  if (alone ? verifier.verifyNow(message, signature) : await verifier.verify(message, signature)) return;
  throw new Refusal('SIGNATURE_WITHHELD', `The signature made with ${signer.key.id} does not verify.`);
}

function release(decoded: Decoded, signature: Signature): Signed {
  if (decoded.kind !== 'transaction') return { kind: decoded.kind, signature };
  const { view, place } = decoded;
  const signedTransaction = spliceSignature(view, place, signature);
  return { kind: 'transaction', version: view.version, signature, signedTransaction };
}

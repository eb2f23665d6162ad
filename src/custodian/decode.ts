import { hash } from 'node:crypto';
import type { KeyInfo } from '../custody/engine.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { classifyMessage, isWireTransaction } from '../solana/message-kind.ts';
import { listsSigner, type OffchainMessage } from '../solana/offchain-message.ts';
import { parseTransaction, signerIndex, type TransactionView } from '../solana/transaction.ts';
import { unsignedWire } from '../solana/unsigned-wire.ts';

/** Whatever the API can be asked to sign. The failures of what it is; `raw` lets a transaction pass as a message. */
export function decode(order: Order, key: Named, raw: boolean): Decoded {
  switch (order.kind) {
    case 'message':
      return decodeMessage(order.bytes, key, raw);
    case 'transaction':
      return decodeTransaction(order.bytes, key);
    case 'bytes':
      return decodeBytes(order.bytes, key);
  }
}

/**
 * MESSAGE_IS_TRANSACTION: what a validator could read as a transaction is only signed as one, or under the raw
 * right. An off-chain envelope that does not list the key is not for it to sign: KEY_NOT_A_SIGNER.
 */
function decodeMessage(bytes: Uint8Array, key: Named, raw: boolean): Decoded {
  const kind = classifyMessage(bytes);
  const whole = { message: bytes, digest: sha256(bytes) };
  if (kind.kind === 'transaction' || (kind.kind === 'bytes' && isWireTransaction(bytes))) {
    if (raw) return { kind: 'raw-transaction', ...whole };
    const what = kind.kind === 'transaction' ? `a ${kind.version} transaction message` : 'a wire transaction';
    throw new KeyslotError('MESSAGE_IS_TRANSACTION', `The message reads as ${what}.`);
  }
  if (kind.kind === 'bytes') return { kind: 'bytes', ...whole };
  if (!listsSigner(kind, key.publicKey)) {
    throw new KeyslotError('KEY_NOT_A_SIGNER', `The off-chain message does not list ${key.id} as a signer.`);
  }
  return { kind: 'offchain', offchain: kind, ...whole };
}

/** What a validator could read as a transaction passes as one, and must be one; all else passes as a message. */
function decodeBytes(bytes: Uint8Array, key: Named): Decoded {
  return classifyMessage(bytes).kind === 'transaction'
    ? decodeTransaction(unsignedWire(bytes), key)
    : decodeMessage(bytes, key, false);
}

/** The TRANSACTION_* failures, KEY_NOT_A_SIGNER. */
function decodeTransaction(wire: Uint8Array, key: Named): Decoded {
  const view = parseTransaction(wire);
  const place = signerIndex(view, key.publicKey);
  if (place < 0)
    throw new KeyslotError('KEY_NOT_A_SIGNER', `The transaction does not require a signature of ${key.id}.`);
  return { kind: 'transaction', message: view.message, digest: sha256(view.message), view, place };
}

export interface Order {
  /** `bytes`: a transaction's message or any other, for callers that do not say which; it is signed as what it is. */
  readonly kind: 'message' | 'transaction' | 'bytes';
  /** The order's own: nobody else writes to them while they are judged and signed. */
  readonly bytes: Uint8Array;
}

/** An order that was read: what is signed, and what that is. */
export type Decoded = {
  readonly message: Uint8Array;
  /** SHA-256 of the message, in hexadecimal. */
  readonly digest: string;
} & (
  | { readonly kind: 'bytes' | 'raw-transaction' }
  | { readonly kind: 'offchain'; readonly offchain: OffchainMessage }
  | { readonly kind: 'transaction'; readonly view: TransactionView; readonly place: number }
);

/** The key that is to sign, as far as reading an order needs it. */
type Named = Pick<KeyInfo, 'id' | 'publicKey'>;

const sha256 = (bytes: Uint8Array): string => hash('sha256', bytes, 'hex');

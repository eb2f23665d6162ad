import { signature_bytes } from '../foundation/ed25519.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import { messageFirstLayout } from './message-first.ts';
import { isKeyAt } from './public-key.ts';
import { signaturesFirstLayout } from './signatures-first.ts';
import { TransactionView } from './transaction-view.ts';
import { v1_prefix } from './wire-layout.ts';

export type { TransactionView } from './transaction-view.ts';

/**
 * Reads a wire transaction (legacy, v0, or v1 of SIMD-0385) without copying it: the view lends subarrays of
 * `wire`, which must not be changed while the view is used. Signatures are not verified and may be missing
 * (zeros).
 *
 * As strict as a validator, because what no validator would execute is not worth a signature. Throws
 * TRANSACTION_TRUNCATED, TRANSACTION_TRAILING_BYTES, TRANSACTION_TOO_LARGE, TRANSACTION_VERSION_UNSUPPORTED,
 * TRANSACTION_SIGNERS_INVALID, COMPACT_U16_INVALID and TRANSACTION_MALFORMED.
 *
 * @example
 * const view = parseTransaction(wire);
 * const place = signerIndex(view, publicKey);
 * const signed = spliceSignature(view, place, await signMessage(key, view.message));
 */
export function parseTransaction(wire: Uint8Array): TransactionView {
  const first = wire[0];
  if (first === undefined) throw new KeyslotError('TRANSACTION_TRUNCATED', 'The transaction is empty.');
  if (first === v1_prefix) {
    checkSize(wire, limits.transactionV1_bytes_max);
    return new TransactionView(wire, messageFirstLayout(wire));
  }
  checkVersion(first);
  checkSize(wire, limits.transaction_bytes_max);
  return new TransactionView(wire, signaturesFirstLayout(wire));
}

/** The place of a public key among the required signers, or -1. */
export function signerIndex(view: TransactionView, publicKey: Uint8Array): number {
  for (let index = 0; index < view.header.requiredSignatures; index += 1) {
    if (isKeyAt(view.wire, view.accountKeyOffset(index), publicKey)) return index;
  }
  return -1;
}

/**
 * A copy of the wire bytes with one signature put into its place. Every other byte stays as it came,
 * signatures of others included. Throws a RangeError for a wrong place or length: a programming error.
 */
export function spliceSignature(view: TransactionView, index: number, signature: Uint8Array): Uint8Array {
  if (!Number.isInteger(index) || index < 0 || index >= view.signatureCount) {
    throw new RangeError(`There is no signature place ${index} among ${view.signatureCount}.`);
  }
  if (signature.length !== signature_bytes) {
    throw new RangeError(`A signature has ${signature_bytes} bytes, not ${signature.length}.`);
  }
  const signed = new Uint8Array(view.wire);
  signed.set(signature, view.signaturesOffset + index * signature_bytes);
  return signed;
}

// From version 1 on a transaction begins with its message, so a later version shows in the first byte. 0x80
// and 0xff stay with the signature count: v0 never begins a transaction, and 0xff begins off-chain messages.
function checkVersion(first: number): void {
  if (first <= v1_prefix || first === 0xff) return;
  throw new KeyslotError(
    'TRANSACTION_VERSION_UNSUPPORTED',
    `The transaction begins like version ${first & 0x7f}; legacy, 0 and 1 are supported.`,
  );
}

function checkSize(wire: Uint8Array, bytes_max: number): void {
  if (wire.length <= bytes_max) return;
  throw new KeyslotError(
    'TRANSACTION_TOO_LARGE',
    `The transaction has ${wire.length} bytes, and ${bytes_max} is the most for its version.`,
  );
}

import { publicKey_bytes } from '../foundation/ed25519.ts';

/** Whether the 32 bytes at `offset` are this public key. In place: the hot path neither copies nor encodes. */
export function isKeyAt(bytes: Uint8Array, offset: number, publicKey: Uint8Array): boolean {
  if (publicKey.length !== publicKey_bytes) return false;
  return areEqual(bytes, offset, publicKey, 0);
}

/** Whether two public keys that stand in the same bytes are the same. */
export const areKeysEqual = (bytes: Uint8Array, offset: number, other: number): boolean =>
  areEqual(bytes, offset, bytes, other);

// A loop and not Buffer.compare: different keys part at the first byte, long before a call has paid off.
function areEqual(left: Uint8Array, leftOffset: number, right: Uint8Array, rightOffset: number): boolean {
  for (let i = 0; i < publicKey_bytes; i += 1) {
    if (left[leftOffset + i] !== right[rightOffset + i]) return false;
  }
  return true;
}

import { signature_bytes } from '../foundation/ed25519.ts';
import { checkSignatureCount, v0_prefix, v1_prefix } from './wire-layout.ts';

/**
 * The wire transaction of a transaction message, with zeros in the places of its signatures. Nothing but the
 * number of signers is read here: whoever goes on with it parses it, and finds the very same message in it.
 * Throws TRANSACTION_SIGNERS_INVALID.
 */
export function unsignedWire(message: Uint8Array): Uint8Array {
  const version = message[0] ?? 0;
  const required = message[version < v0_prefix ? 0 : 1] ?? 0;
  checkSignatureCount(required); // so few that their number is one byte
  const signatures = new Uint8Array(required * signature_bytes);
  return version === v1_prefix
    ? Buffer.concat([message, signatures])
    : Buffer.concat([Uint8Array.of(required), signatures, message]);
}

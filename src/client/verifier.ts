import { decodeBase58 } from '../foundation/base58.ts';

/** Checks signatures of an address with the runtime's own Ed25519. `undefined` for what is no address. */
export async function verifierOf(
  address: string,
): Promise<
  ((message: Uint8Array<ArrayBuffer>, signature: Uint8Array<ArrayBuffer>) => Promise<boolean>) | undefined
> {
  const bytes = decodeBase58(address);
  if (bytes?.length !== 32) return undefined;
  const key = await crypto.subtle.importKey('raw', Uint8Array.from(bytes), 'Ed25519', false, ['verify']);
  return (message, signature) => crypto.subtle.verify('Ed25519', key, signature, message);
}

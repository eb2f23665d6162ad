import { decodeBase58 } from '../foundation/base58.ts';

/** The programs that a policy may call by name; all others by address. */
const programAddresses = {
  system: '11111111111111111111111111111111',
  token: 'TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA',
  'token-2022': 'TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb',
  'associated-token': 'ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL',
  stake: 'Stake11111111111111111111111111111111111111',
  vote: 'Vote111111111111111111111111111111111111111',
  memo: 'MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr',
  'memo-v1': 'Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo',
  'compute-budget': 'ComputeBudget111111111111111111111111111111',
  'address-lookup-table': 'AddressLookupTab1e1111111111111111111111111',
  ed25519: 'Ed25519SigVerify111111111111111111111111111',
  secp256k1: 'KeccakSecp256k11111111111111111111111111111',
  secp256r1: 'Secp256r1SigVerify1111111111111111111111111',
  'bpf-loader-upgradeable': 'BPFLoaderUpgradeab1e11111111111111111111111',
} as const;

export const programNames: readonly string[] = Object.keys(programAddresses);

/** Of a name or an address that the document's schema has let through. */
export function programKey(nameOrAddress: string): Uint8Array {
  return keyOf(new Map<string, string>(Object.entries(programAddresses)).get(nameOrAddress) ?? nameOrAddress);
}

/** Throws a RangeError for text that is no address: the document's schema lets none through. */
export function keyOf(address: string): Uint8Array {
  const key = decodeBase58(address, 44);
  if (key?.length !== 32) throw new RangeError('An address has 32 bytes.');
  return key;
}

export const tokenPrograms: readonly Uint8Array[] = [
  keyOf(programAddresses.token),
  keyOf(programAddresses['token-2022']),
];
export const associatedTokenProgram: Uint8Array = keyOf(programAddresses['associated-token']);

/** Wrapped SOL of the two token programs: an amount of it is lamports. */
export const nativeMints: readonly Uint8Array[] = [
  keyOf('So11111111111111111111111111111111111111112'),
  keyOf('9pan9bMn5HatX4EJdBwg9VgCa7Uz5HL8N1m5D3NdXej9'),
];

/**
 * The types of Solana Kit that a signer speaks, written out, so that whoever signs with another library does not
 * install Kit for its types. They are structurally Kit's own; `test/client/signer-types.ts` has the compiler hold
 * them against the real packages.
 */

type Nominal<K extends string, M extends string> = { readonly [N in `__${K}:@solana/kit`]: M };
type Brand<T, N extends string> = Nominal<'brand', N> & T;

/** A public key in base58. */
export type Address<A extends string = string> = Brand<Nominal<'stringEncoding', 'base58'> & A, 'Address'>;
export type SignatureBytes = Brand<Uint8Array, 'SignatureBytes'>;
export type SignatureDictionary = Readonly<Record<Address, SignatureBytes>>;

/** As much of a transaction as is signed: the compiled message. */
export interface SignableTransaction {
  readonly messageBytes: ReadonlyBytes;
}
export interface SignableMessage {
  readonly content: Uint8Array;
}

/** Bytes of which nobody here changes one: Kit's `ReadonlyUint8Array`, and every `Uint8Array`. */
export type ReadonlyBytes = Pick<Uint8Array, 'length' | 'slice'> & { readonly [at: number]: number };

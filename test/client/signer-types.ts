import type { SolanaSigner } from '@solana/keychain-core';
import type {
  Address,
  MessagePartialSigner,
  SignableMessage,
  SignatureBytes,
  SignatureDictionary,
  Transaction,
  TransactionPartialSigner,
  TransactionSigner,
} from '@solana/kit';
import type { Transaction as LegacyTransaction, PublicKey, VersionedTransaction } from '@solana/web3.js';
import type {
  Fetch,
  KeyslotSigner,
  Address as OurAddress,
  SignableMessage as OurSignableMessage,
  SignableTransaction as OurSignableTransaction,
  SignatureBytes as OurSignatureBytes,
  SignatureDictionary as OurSignatureDictionary,
} from '../../src/client/index.ts';
import type { MtlsFetch } from '../../src/client/node.ts';
import type { Web3Wallet } from '../../src/client/web3-wallet.ts';

/** The compiler is the test: this file holds our types against those of the real packages. */

declare const signer: KeyslotSigner<'9xQeWvG816bUx9EPjHmaT23yvVM2ZWbrrpZb9PusVFin'>;
declare const someSigner: KeyslotSigner;
type A = '9xQeWvG816bUx9EPjHmaT23yvVM2ZWbrrpZb9PusVFin';

// Kit, with and without the address in the type.
signer satisfies TransactionPartialSigner<A>;
signer satisfies MessagePartialSigner<A>;
signer satisfies TransactionSigner<A>;
someSigner satisfies TransactionPartialSigner & MessagePartialSigner;

// Solana Keychain 1.4.
signer satisfies SolanaSigner<A>;
someSigner satisfies SolanaSigner;

/**
 * Solana Keychain 2, which is not published: a signer of transactions is Kit's partial signer with `isAvailable`,
 * a signer of messages its own type beside it, and nothing has to carry methods that it does not have.
 */
type SolanaTransactionSigner<T extends string = string> = TransactionPartialSigner<T> & {
  isAvailable(): Promise<boolean>;
};
type SolanaMessageSigner<T extends string = string> = MessagePartialSigner<T> & {
  isAvailable(): Promise<boolean>;
};
signer satisfies SolanaTransactionSigner<A> & SolanaMessageSigner<A>;
someSigner satisfies SolanaTransactionSigner & SolanaMessageSigner;

// One after the other, so that a mistake says where it is; both ways, so that the copies stay what Kit has.
type Same<X, Y> = [X] extends [Y] ? ([Y] extends [X] ? true : false) : false;
true satisfies Same<Address, OurAddress>;
true satisfies Same<Address<A>, OurAddress<A>>;
true satisfies Same<SignatureBytes, OurSignatureBytes>;
true satisfies Same<SignatureDictionary, OurSignatureDictionary>;
declare const transaction: Transaction;
transaction satisfies OurSignableTransaction;
declare const message: SignableMessage;
message satisfies OurSignableMessage;

// Any fetch will do: the runtime's, undici's, one with a certificate.
globalThis.fetch satisfies Fetch;
declare const undiciFetch: typeof import('undici').fetch;
undiciFetch satisfies Fetch;
declare const mtls: MtlsFetch;
mtls satisfies Fetch;

// Anchor's wallet and that of the wallet adapters.
declare const wallet: Web3Wallet;
wallet satisfies {
  publicKey: PublicKey;
  signTransaction<T extends LegacyTransaction | VersionedTransaction>(transaction: T): Promise<T>;
  signAllTransactions<T extends LegacyTransaction | VersionedTransaction>(transactions: T[]): Promise<T[]>;
};
wallet satisfies { signMessage(message: Uint8Array): Promise<Uint8Array> };

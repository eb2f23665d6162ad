import { PublicKey, type Transaction, type VersionedTransaction } from '@solana/web3.js';
import { areBytesEqual } from './bytes.ts';
import { KeyslotClientError } from './errors.ts';
import type { SignatureDictionary } from './kit-shapes.ts';
import type { KeyslotSigner, SigningConfig } from './signer.ts';

/** The wallet of web3.js 1.x, as Anchor and the wallet adapters know it. */
export interface Web3Wallet {
  readonly publicKey: PublicKey;
  signTransaction<T extends Transaction | VersionedTransaction>(
    transaction: T,
    config?: SigningConfig,
  ): Promise<T>;
  signAllTransactions<T extends Transaction | VersionedTransaction>(
    transactions: T[],
    config?: SigningConfig,
  ): Promise<T[]>;
  signMessage(message: Uint8Array, config?: SigningConfig): Promise<Uint8Array>;
}

/**
 * A signer as a wallet. A transaction comes back as the object that it was, with the signature added and those
 * of others kept; many go to the appliance in one request. One that somebody changed meanwhile gets no
 * signature, and then none of the call does: CLIENT_SIGNATURE_INVALID. Version 1 cannot be signed here, because
 * web3.js reads such a message and does not write it: the signer itself can.
 *
 * @example
 * const wallet = toWeb3Wallet(await createKeyslotSigner({ client, keyId: 'treasury' }));
 * const signed = await wallet.signTransaction(transaction);
 */
export function toWeb3Wallet(signer: KeyslotSigner): Web3Wallet {
  const publicKey = new PublicKey(signer.address);
  const signatureIn = (signed: SignatureDictionary | undefined): Uint8Array =>
    signed?.[signer.address] ?? new Uint8Array();

  const signAll = async <T extends Transaction | VersionedTransaction>(
    transactions: readonly T[],
    config?: SigningConfig,
  ): Promise<T[]> => {
    const all = transactions.map(transaction => ({ transaction, messageBytes: messageOf(transaction) }));
    const signed = await signer.signTransactions(all, config);
    for (const [index, { transaction, messageBytes }] of all.entries()) {
      if (areBytesEqual(messageOf(transaction), messageBytes)) continue;
      const detail = `Transaction ${index} was changed while it was being signed.`;
      throw new KeyslotClientError('CLIENT_SIGNATURE_INVALID', detail, { index });
    }
    for (const [index, { transaction }] of all.entries()) {
      // web3.js makes a Buffer of it where it wants one; not every browser has a global one.
      transaction.addSignature(publicKey, signatureIn(signed[index]) as Buffer);
    }
    return all.map(({ transaction }) => transaction);
  };

  return Object.freeze({
    publicKey,
    signTransaction: async <T extends Transaction | VersionedTransaction>(
      transaction: T,
      config?: SigningConfig,
    ): Promise<T> => {
      await signAll([transaction], config);
      return transaction;
    },
    signAllTransactions: signAll,
    signMessage: async (message: Uint8Array, config?: SigningConfig): Promise<Uint8Array> => {
      const [signed] = await signer.signMessages([{ content: message }], config);
      return signatureIn(signed);
    },
  });
}

const messageOf = (transaction: Transaction | VersionedTransaction): Uint8Array =>
  'message' in transaction ? transaction.message.serialize() : transaction.serializeMessage();

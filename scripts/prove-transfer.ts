import { address, getTransactionDecoder, lamports } from '@solana/kit';
import { Keypair, PublicKey, SystemProgram, Transaction } from '@solana/web3.js';
import { FailedTransactionMetadata, LiteSVM } from 'litesvm';
import { decodeBase58 } from '../src/foundation/base58.ts';
import { createVerifier } from '../src/foundation/ed25519.ts';

export interface TransferProof {
  /** Base58. */
  readonly signature: string;
  /** The signature was checked here, over the bytes that were sent, against the address. */
  readonly verified: boolean;
  /** The Solana runtime accepted the transaction and moved the money. */
  readonly executed: boolean;
}

/** Has a system-program transfer from this address signed, and executes it in a Solana runtime of this process. */
export async function proveTransfer(
  from: string,
  sign: (transaction: string) => Promise<{ signature: string; signedTransaction: string }>,
): Promise<TransferProof> {
  const runtime = new LiteSVM();
  runtime.airdrop(address(from), lamports(1_000_000_000n));
  const to = Keypair.generate().publicKey;
  const transaction = transfer(new PublicKey(from), to, runtime.latestBlockhash());
  const unsigned = transaction.serialize({ requireAllSignatures: false });
  const { signature, signedTransaction } = await sign(unsigned.toString('base64'));
  const signatureBytes = decodeBase58(signature) ?? new Uint8Array();
  const verified = await createVerifier(new PublicKey(from).toBytes()).verify(
    transaction.serializeMessage(),
    signatureBytes,
  );
  const wire = getTransactionDecoder().decode(Buffer.from(signedTransaction, 'base64'));
  const outcome = runtime.sendTransaction(wire);
  const moved = runtime.getBalance(address(to.toBase58())) === lamports(transfer_lamports);
  return { signature, verified, executed: !(outcome instanceof FailedTransactionMetadata) && moved };
}

const transfer_lamports = 10_000_000n;

const transfer = (from: PublicKey, to: PublicKey, blockhash: string): Transaction =>
  new Transaction({ feePayer: from, recentBlockhash: blockhash }).add(
    SystemProgram.transfer({ fromPubkey: from, toPubkey: to, lamports: transfer_lamports }),
  );

import { randomBytes } from 'node:crypto';
import { Keypair, PublicKey, SystemProgram, Transaction } from '@solana/web3.js';
import { encodeBase58 } from '../../src/foundation/base58.ts';

/** Legacy transfers as a wallet sends them: the key pays the fee, no two are the same, none is signed yet. */
export function unsignedTransfers(from: string, count: number): Buffer[] {
  const feePayer = new PublicKey(from);
  return Array.from({ length: count }, (_, at) =>
    new Transaction({ feePayer, recentBlockhash: encodeBase58(randomBytes(32)) })
      .add(
        SystemProgram.transfer({
          fromPubkey: feePayer,
          toPubkey: Keypair.generate().publicKey,
          lamports: 1_000_000 + at,
        }),
      )
      .serialize({ requireAllSignatures: false }),
  );
}

import { Keypair, PublicKey, Transaction, TransactionInstruction } from '@solana/web3.js';
import { describeFacts, type InstructionDescription } from '../../../src/policy/describe-facts.ts';
import type { TransactionFacts } from '../../../src/policy/facts.ts';
import { readFacts } from '../../../src/policy/read-facts.ts';
import { parseTransaction } from '../../../src/solana/transaction.ts';

/** Instructions as their programs read them, written apart from the decoders, and their facts in plain form. */

export const keyOf = (seed: number): PublicKey => Keypair.fromSeed(new Uint8Array(32).fill(seed)).publicKey;

export const payer = Keypair.fromSeed(new Uint8Array(32).fill(1));

export function factsOf(...instructions: readonly TransactionInstruction[]): TransactionFacts {
  const transaction = new Transaction({
    feePayer: payer.publicKey,
    recentBlockhash: keyOf(99).toBase58(),
  }).add(...instructions);
  return readFacts(
    parseTransaction(transaction.serialize({ requireAllSignatures: false, verifySignatures: false })),
  );
}

export function described(
  ...instructions: readonly TransactionInstruction[]
): readonly InstructionDescription[] {
  const facts = describeFacts(factsOf(...instructions));
  if (facts.kind !== 'transaction') throw new Error('A transaction is described as one.');
  return facts.instructions;
}

/** The name of an instruction that is understood, and what it does. */
export function read(instruction: TransactionInstruction): readonly [string, ...object[]] {
  const [only] = described(instruction);
  if (!only) throw new Error('There is one instruction.');
  return [only.understood ? only.name : `${only.name}?`, ...only.effects];
}

export type Role = PublicKey | { readonly key: PublicKey; readonly signer: boolean };

export const signs = (key: PublicKey): Role => ({ key, signer: true });

export function instruction(program: PublicKey, roles: readonly Role[], data: readonly number[]) {
  return new TransactionInstruction({
    programId: program,
    keys: roles.map(role =>
      role instanceof PublicKey
        ? { pubkey: role, isSigner: false, isWritable: true }
        : { pubkey: role.key, isSigner: role.signer, isWritable: true },
    ),
    data: Buffer.from(data),
  });
}

export function u64(value: bigint): number[] {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return [...bytes];
}

export const u32 = (value: number): number[] => u64(BigInt(value)).slice(0, 4);

export const bytesOf = (key: PublicKey): number[] => [...key.toBytes()];

export const text = (value: string): number[] => [...u64(BigInt(value.length)), ...Buffer.from(value)];

import { getCompiledTransactionMessageDecoder, getTransactionDecoder } from '@solana/kit';
import { type MessageV1, VersionedTransaction } from '@solana/web3.js';
import { expect } from 'vitest';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import type { TransactionView } from '../../src/solana/transaction-view.ts';

/** A transaction in one plain form, so that two readings of it can be compared with one `toEqual`. */
export interface Reading {
  readonly version: string;
  readonly header: readonly number[];
  readonly keys: readonly string[];
  readonly blockhash: string;
  readonly instructions: readonly (readonly [number, readonly number[], readonly number[]])[];
  readonly lookups: readonly (readonly [string, readonly number[], readonly number[]])[];
  readonly config: readonly (string | undefined)[];
  readonly signatures: readonly (readonly number[])[];
}

const noConfig = [undefined, undefined, undefined, undefined];

export function ourReading(view: TransactionView): Reading {
  const { header, config } = view;
  return {
    version: view.version,
    header: [header.requiredSignatures, header.readonlySigned, header.readonlyUnsigned],
    keys: Array.from({ length: view.accountKeyCount }, (_, index) => encodeBase58(view.accountKey(index))),
    blockhash: encodeBase58(view.recentBlockhash),
    instructions: view.instructions.map(one => [one.programIndex, [...one.accounts], [...one.data]] as const),
    lookups: view.addressTableLookups.map(
      one => [encodeBase58(one.tableKey), [...one.writableIndexes], [...one.readonlyIndexes]] as const,
    ),
    config:
      config === undefined
        ? noConfig
        : [
            config.priorityFee,
            config.computeUnitLimit,
            config.loadedAccountsDataSizeLimit,
            config.heapSize,
          ].map(text),
    signatures: Array.from({ length: view.signatureCount }, (_, index) => {
      const from = view.signaturesOffset + index * 64;
      return [...view.wire.subarray(from, from + 64)];
    }),
  };
}

export function web3Reading(wire: Uint8Array): Reading {
  const transaction = VersionedTransaction.deserialize(wire);
  const { message } = transaction;
  const config = (message as MessageV1).transactionConfig;
  return {
    version: message.version === 'legacy' ? 'legacy' : `v${message.version}`,
    header: [
      message.header.numRequiredSignatures,
      message.header.numReadonlySignedAccounts,
      message.header.numReadonlyUnsignedAccounts,
    ],
    keys: message.staticAccountKeys.map(one => one.toBase58()),
    blockhash: message.recentBlockhash,
    instructions: message.compiledInstructions.map(
      one => [one.programIdIndex, [...one.accountKeyIndexes], [...one.data]] as const,
    ),
    lookups: message.addressTableLookups.map(
      one => [one.accountKey.toBase58(), [...one.writableIndexes], [...one.readonlyIndexes]] as const,
    ),
    config:
      message.version === 1
        ? [
            config.priorityFee,
            config.computeUnitLimit,
            config.loadedAccountsDataSizeLimit,
            config.heapSize,
          ].map(text)
        : noConfig,
    signatures: transaction.signatures.map(one => [...one]),
  };
}

/** kit's reading of a message; it leaves the config as a list of values, so only their order is compared. */
export function kitReading(message: Uint8Array): Omit<Reading, 'signatures'> {
  const compiled = getCompiledTransactionMessageDecoder().decode(message);
  const { header } = compiled;
  return {
    version: compiled.version === 'legacy' ? 'legacy' : `v${compiled.version}`,
    header: [header.numSignerAccounts, header.numReadonlySignerAccounts, header.numReadonlyNonSignerAccounts],
    keys: [...compiled.staticAccounts],
    blockhash: compiled.lifetimeToken,
    instructions:
      compiled.version === 1
        ? compiled.instructionHeaders.map(
            (one, index) =>
              [
                one.programAccountIndex,
                [...(compiled.instructionPayloads[index]?.instructionAccountIndices ?? [])],
                [...(compiled.instructionPayloads[index]?.instructionData ?? [])],
              ] as const,
          )
        : compiled.instructions.map(
            one => [one.programAddressIndex, [...(one.accountIndices ?? [])], [...(one.data ?? [])]] as const,
          ),
    lookups:
      compiled.version === 0
        ? (compiled.addressTableLookups ?? []).map(
            one => [one.lookupTableAddress, [...one.writableIndexes], [...one.readonlyIndexes]] as const,
          )
        : [],
    config: compiled.version === 1 ? compiled.configValues.map(one => text(one.value)) : [],
  };
}

/** Both libraries must read the wire bytes as we do. */
export function expectSameReadings(view: TransactionView): void {
  const ours = ourReading(view);
  // web3.js keeps the fee in a number, and gives up when it does not fit.
  if ((view.config?.priorityFee ?? 0n) <= BigInt(Number.MAX_SAFE_INTEGER)) {
    expect(web3Reading(view.wire)).toEqual(ours);
  }
  const { signatures: _, ...message } = ours;
  expect(kitReading(view.message)).toEqual({
    ...message,
    config: message.config.filter(value => value !== undefined),
  });
  expect(Buffer.from(getTransactionDecoder().decode(view.wire).messageBytes).compare(view.message)).toBe(0);
}

const text = (value: number | bigint | null | undefined): string | undefined =>
  value === null || value === undefined ? undefined : String(value);

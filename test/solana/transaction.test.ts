import { createPublicKey, verify } from 'node:crypto';
import {
  AccountRole,
  address,
  appendTransactionMessageInstructions,
  type Blockhash,
  blockhash,
  compileTransaction,
  compressTransactionMessageUsingAddressLookupTables,
  createTransactionMessage,
  getTransactionDecoder,
  getTransactionEncoder,
  lamports,
  setTransactionMessageConfig,
  setTransactionMessageFeePayer,
  setTransactionMessageLifetimeUsingBlockhash,
  type V1TransactionConfig,
} from '@solana/kit';
import {
  AddressLookupTableAccount,
  Keypair,
  PublicKey,
  SystemProgram,
  Transaction,
  type TransactionInstruction,
  TransactionMessage,
  VersionedTransaction,
} from '@solana/web3.js';
import fc from 'fast-check';
import { FailedTransactionMetadata, LiteSVM } from 'litesvm';
import { describe, expect, it } from 'vitest';
import { privateKeyFromSeed, signMessage } from '../../src/foundation/ed25519.ts';
import { parseTransaction, signerIndex, spliceSignature } from '../../src/solana/transaction.ts';
import { compiledMessages, key, plain, plainV0, plainV1, wireBytes } from './compiled.ts';
import { expectSameReadings, web3Reading } from './oracles.ts';

const [payer, second, third] = [1, 2, 3].map(seed => Keypair.fromSeed(new Uint8Array(32).fill(seed))) as [
  Keypair,
  Keypair,
  Keypair,
];
const recentBlockhash = Keypair.fromSeed(new Uint8Array(32).fill(99)).publicKey.toBase58();

const feePayer = address(payer.publicKey.toBase58());

const fullConfig = {
  priorityFeeLamports: 2n ** 40n + 7n,
  computeUnitLimit: 20_000,
  loadedAccountsDataSizeLimit: 2 ** 31 + 5,
  heapSize: 64 * 1024,
};

const transfer = (from: Keypair, to: PublicKey, amount = 1_000_000): TransactionInstruction =>
  SystemProgram.transfer({ fromPubkey: from.publicKey, toPubkey: to, lamports: amount });

const manySigners = [
  transfer(payer, key32(50)),
  transfer(second, key32(51)),
  transfer(third, payer.publicKey),
];

describe('parseTransaction', () => {
  it('reads a legacy transaction as web3.js and kit do', () => {
    const view = parseTransaction(legacyWire(manySigners));
    expect(view.version).toBe('legacy');
    expect(view.signatureCount).toBe(3);
    expect(view.config).toBeUndefined();
    expectSameReadings(view);
  });

  it('reads a v0 transaction with and without lookup tables', () => {
    const table = new AddressLookupTableAccount({
      key: key32(60),
      state: {
        deactivationSlot: 2n ** 64n - 1n,
        lastExtendedSlot: 0,
        lastExtendedSlotStartIndex: 0,
        addresses: [key32(52), key32(51), key32(50)],
      },
    });
    for (const tables of [[], [table]]) {
      const message = new TransactionMessage({
        payerKey: payer.publicKey,
        recentBlockhash,
        instructions: manySigners,
      }).compileToV0Message(tables);
      const view = parseTransaction(new VersionedTransaction(message).serialize());
      expect(view.version).toBe('v0');
      expect(view.loadedAccountCount).toBe(tables.length * 2);
      expect(view.addressTableLookups).toHaveLength(tables.length);
      expectSameReadings(view);
    }
  });

  it('reads a v0 transaction that kit compressed with a lookup table', () => {
    const message = compressTransactionMessageUsingAddressLookupTables(kitMessage(0, manySigners), {
      [address(key32(60).toBase58())]: [address(key32(50).toBase58()), address(key32(51).toBase58())],
    });
    const view = parseTransaction(kitWire(message));
    expect(view.loadedAccountCount).toBe(2);
    expectSameReadings(view);
  });

  it('reads a v1 transaction with every config value and with none', () => {
    const full = parseTransaction(kitWire(kitV1Message(manySigners)));
    expect(full.version).toBe('v1');
    expect(full.config).toEqual({
      priorityFee: 2n ** 40n + 7n,
      computeUnitLimit: 20_000,
      loadedAccountsDataSizeLimit: 2 ** 31 + 5,
      heapSize: 64 * 1024,
    });
    expectSameReadings(full);

    const empty = parseTransaction(kitWire(kitV1Message(manySigners, {})));
    expect(Object.values(empty.config ?? {})).toEqual([undefined, undefined, undefined, undefined]);
    expectSameReadings(empty);
  });

  it('reads each single config value from its own place', () => {
    for (const config of [
      { priorityFeeLamports: 2n ** 64n - 1n },
      { computeUnitLimit: 77 },
      { loadedAccountsDataSizeLimit: 78 },
      { heapSize: 256 * 1024 },
    ]) {
      const message = kitV1Message(manySigners, config);
      const view = parseTransaction(kitWire(message));
      expect(Object.values(view.config ?? {}).filter(value => value !== undefined)).toEqual(
        Object.values(config),
      );
      expectSameReadings(view);
    }
  });

  it('reads any valid message of any version as both libraries do', () => {
    fc.assert(
      fc.property(compiledMessages, parts => {
        const wire = wireBytes(parts);
        fc.pre(parts.version === 'v1' || wire.length <= 1232);
        expectSameReadings(parseTransaction(wire));
      }),
      { numRuns: 300 },
    );
  });

  it('lends subarrays of the wire bytes and copies nothing', () => {
    for (const parts of [plain, plainV0, plainV1]) {
      // A transaction usually comes as a piece of a larger buffer.
      const frame = Buffer.concat([Buffer.alloc(3), wireBytes(parts), Buffer.alloc(5)]);
      const wire = frame.subarray(3, -5);
      const view = parseTransaction(wire);
      const lent = [
        view.message,
        view.recentBlockhash,
        view.accountKey(0),
        ...view.instructions.flatMap(one => [one.accounts, one.data]),
        ...view.addressTableLookups.flatMap(one => [one.tableKey, one.writableIndexes]),
      ];
      expect(view.wire).toBe(wire);
      for (const bytes of lent) expect(bytes.buffer).toBe(wire.buffer);
      expect(view.instructions).toBe(view.instructions);
      expectSameReadings(view);
    }
  });

  it('knows no static account key outside the list', () => {
    const view = parseTransaction(wireBytes(plain));
    expect(view.accountKey(3)).toEqual(key(4));
    for (const index of [-1, 4, 0.5]) expect(() => view.accountKey(index)).toThrow(RangeError);
  });
});

describe('signerIndex', () => {
  it('finds every required signer and nobody else', () => {
    for (const wire of [legacyWire(manySigners), kitWire(kitV1Message(manySigners))]) {
      const view = parseTransaction(wire);
      const found = [payer, second, third].map(one => signerIndex(view, one.publicKey.toBytes()));
      expect(found.toSorted()).toEqual([0, 1, 2]);
      expect(found[0]).toBe(0);
      expect(signerIndex(view, key32(50).toBytes())).toBe(-1); // in the message, but it does not sign
      expect(signerIndex(view, new Uint8Array(32))).toBe(-1); // the system program
    }
  });

  it('does not take a part of a key, or more than a key, for the key', () => {
    const view = parseTransaction(wireBytes(plain));
    expect(signerIndex(view, key(1))).toBe(0);
    expect(signerIndex(view, key(1).subarray(0, 31))).toBe(-1);
    expect(signerIndex(view, Uint8Array.of(...key(1), 0))).toBe(-1);
    expect(signerIndex(view, new Uint8Array())).toBe(-1);
  });
});

describe('spliceSignature', () => {
  it('puts each signature where both libraries look for it, and keeps the others', () => {
    const signature = new Uint8Array(64).fill(0xab);
    for (const parts of [plain, plainV0, plainV1]) {
      const wire = wireBytes(parts);
      const before = wire.slice();
      for (const index of [0, 1]) {
        const signed = spliceSignature(parseTransaction(wire), index, signature);
        const expected = web3Reading(wire).signatures.with(index, [...signature]);
        expect(web3Reading(signed)).toEqual({ ...web3Reading(wire), signatures: expected });
        const { messageBytes, signatures } = getTransactionDecoder().decode(signed);
        expect(messageBytes).toEqual(getTransactionDecoder().decode(wire).messageBytes);
        expect(Object.values(signatures).map(one => [...(one ?? [])])).toEqual(expected);
      }
      expect(wire).toEqual(before);
    }
  });

  it('changes 64 bytes and no other', () => {
    fc.assert(
      fc.property(compiledMessages, fc.nat(3), (parts, place) => {
        const wire = wireBytes(parts);
        fc.pre(place < parts.required && (parts.version === 'v1' || wire.length <= 1232));
        const signed = spliceSignature(parseTransaction(wire), place, new Uint8Array(64).fill(0xff));
        const changed = [...wire.keys()].filter(at => wire[at] !== signed[at]);
        expect(signed).toHaveLength(wire.length);
        expect(changed).toHaveLength(64);
        expect((changed[63] ?? 0) - (changed[0] ?? 0)).toBe(63);
      }),
      { numRuns: 100 },
    );
  });

  it('gives what web3.js gives when several sign one after the other', async () => {
    const message = new TransactionMessage({
      payerKey: payer.publicKey,
      recentBlockhash,
      instructions: manySigners,
    }).compileToV0Message();
    const theirs = new VersionedTransaction(message);
    let ours: Uint8Array = theirs.serialize();
    theirs.sign([payer, second, third]);
    for (const signer of [third, payer, second]) ours = await signed(ours, signer);
    expect(ours).toEqual(theirs.serialize());
  });

  it('refuses a wrong place and a wrong length as programming errors', () => {
    const view = parseTransaction(wireBytes(plain));
    const signature = new Uint8Array(64);
    for (const index of [-1, 2, 0.5, Number.NaN]) {
      expect(() => spliceSignature(view, index, signature)).toThrow(RangeError);
    }
    for (const length of [0, 63, 65]) {
      expect(() => spliceSignature(view, 0, new Uint8Array(length))).toThrow(RangeError);
    }
  });
});

describe('a real Solana runtime', () => {
  it.each(['legacy', 0, 1] as const)(
    'executes a transaction of version %s signed in place',
    async version => {
      const svm = new LiteSVM();
      for (const one of [payer, second]) {
        svm.airdrop(address(one.publicKey.toBase58()), lamports(5_000_000_000n));
      }
      const target = key32(70);
      const affordable = { ...fullConfig, priorityFeeLamports: 5n, loadedAccountsDataSizeLimit: 100_000 };
      const instructions = [transfer(payer, target), transfer(second, target, 2_000_000)];
      const unsigned =
        version === 1
          ? kitWire(kitV1Message(instructions, affordable, svm.latestBlockhash()))
          : kitWire(kitMessage(version, instructions, svm.latestBlockhash()));

      const wire = await signed(await signed(unsigned, second), payer);
      expectValidSignatures(wire, [payer, second]);
      const result = svm.sendTransaction(getTransactionDecoder().decode(wire));
      expect(result).not.toBeInstanceOf(FailedTransactionMetadata);
      expect(svm.getBalance(address(target.toBase58()))).toBe(3_000_000n);
    },
  );
});

function key32(seed: number): PublicKey {
  return new PublicKey(key(seed));
}

function legacyWire(instructions: readonly TransactionInstruction[]): Uint8Array {
  const transaction = new Transaction({
    feePayer: payer.publicKey,
    blockhash: recentBlockhash,
    lastValidBlockHeight: 1,
  });
  transaction.add(...instructions);
  return transaction.serialize({ requireAllSignatures: false, verifySignatures: false });
}

function kitMessage(
  version: 'legacy' | 0,
  instructions: readonly TransactionInstruction[],
  recent?: Blockhash,
) {
  const empty = createTransactionMessage({ version: version as 0 });
  const paid = setTransactionMessageFeePayer(feePayer, empty);
  const timed = setTransactionMessageLifetimeUsingBlockhash(lifetime(recent), paid);
  return appendTransactionMessageInstructions(instructions.map(kitInstruction), timed);
}

function kitV1Message(
  instructions: readonly TransactionInstruction[],
  config: V1TransactionConfig = fullConfig,
  recent?: Blockhash,
) {
  const empty = createTransactionMessage({ version: 1 });
  const paid = setTransactionMessageFeePayer(feePayer, empty);
  const timed = setTransactionMessageLifetimeUsingBlockhash(lifetime(recent), paid);
  const configured = setTransactionMessageConfig(config, timed);
  return appendTransactionMessageInstructions(instructions.map(kitInstruction), configured);
}

const lifetime = (recent = blockhash(recentBlockhash)) => ({ blockhash: recent, lastValidBlockHeight: 10n });

const kitInstruction = (one: TransactionInstruction) => ({
  programAddress: address(one.programId.toBase58()),
  accounts: one.keys.map(({ pubkey, isSigner, isWritable }) => ({
    address: address(pubkey.toBase58()),
    role: role(isSigner, isWritable),
  })),
  data: new Uint8Array(one.data),
});

function role(isSigner: boolean, isWritable: boolean): AccountRole {
  if (isSigner) return isWritable ? AccountRole.WRITABLE_SIGNER : AccountRole.READONLY_SIGNER;
  return isWritable ? AccountRole.WRITABLE : AccountRole.READONLY;
}

const kitWire = (message: Parameters<typeof compileTransaction>[0]): Uint8Array =>
  new Uint8Array(getTransactionEncoder().encode(compileTransaction(message)));

async function signed(wire: Uint8Array, signer: Keypair): Promise<Uint8Array> {
  const view = parseTransaction(wire);
  const privateKey = privateKeyFromSeed(signer.secretKey.subarray(0, 32));
  const place = signerIndex(view, signer.publicKey.toBytes());
  return spliceSignature(view, place, await signMessage(privateKey, view.message));
}

function expectValidSignatures(wire: Uint8Array, signers: readonly Keypair[]): void {
  const view = parseTransaction(wire);
  for (const signer of signers) {
    const from = view.signaturesOffset + 64 * signerIndex(view, signer.publicKey.toBytes());
    const publicKey = createPublicKey({
      key: { kty: 'OKP', crv: 'Ed25519', x: Buffer.from(signer.publicKey.toBytes()).toString('base64url') },
      format: 'jwk',
    });
    expect(verify(null, view.message, publicKey, view.wire.subarray(from, from + 64))).toBe(true);
  }
}

import {
  AddressLookupTableAccount,
  ComputeBudgetProgram,
  Ed25519Program,
  Keypair,
  PublicKey,
  SystemProgram,
  TransactionInstruction,
  TransactionMessage,
  VersionedTransaction,
} from '@solana/web3.js';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { describeFacts } from '../../src/policy/describe-facts.ts';
import { type KnownTables, parseLookupTable, resolveTables } from '../../src/policy/lookup-tables.ts';
import { programKey, programNames } from '../../src/policy/named-programs.ts';
import { readFacts, readMessageFacts, summaryOf } from '../../src/policy/read-facts.ts';
import { parseTransaction } from '../../src/solana/transaction.ts';
import { type Compiled, compiledMessages, plainV1, wireBytes } from '../solana/compiled.ts';
import { factsOf, instruction, keyOf, payer, signs, u32, u64 } from './programs/lab.ts';

const wallet = payer.publicKey;
const transfer = (to: PublicKey, lamports: number): TransactionInstruction =>
  SystemProgram.transfer({ fromPubkey: wallet, toPubkey: to, lamports });
const memo = (text: string): TransactionInstruction =>
  instruction(new PublicKey('MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr'), [], [...Buffer.from(text)]);

describe('the accounts of a transaction', () => {
  it('say who signs and what may be written', () => {
    const facts = factsOf(
      new TransactionInstruction({
        programId: keyOf(9),
        keys: [
          { pubkey: keyOf(2), isSigner: true, isWritable: false },
          { pubkey: keyOf(3), isSigner: false, isWritable: true },
          { pubkey: keyOf(4), isSigner: false, isWritable: false },
        ],
        data: Buffer.of(1),
      }),
    );
    const [only] = facts.instructions;
    expect(only?.accounts.map(({ signer, writable }) => [signer, writable])).toEqual([
      [true, false],
      [false, true],
      [false, false],
    ]);
    expect(facts.feePayer).toMatchObject({ index: 0, signer: true, writable: true });
    expect(new PublicKey(facts.feePayer.key ?? []).equals(wallet)).toBe(true);
    expect(only).toMatchObject({ index: 0, name: 'unknown', understood: false, effects: [] });
  });

  describe('in lookup tables', () => {
    const addresses = [20, 21, 22, 23].map(keyOf);
    const tables = [30, 31].map(
      seed => new AddressLookupTableAccount({ key: keyOf(seed), state: state(seed) }),
    );

    function state(seed: number) {
      return {
        deactivationSlot: 2n ** 64n - 1n,
        lastExtendedSlot: 0,
        lastExtendedSlotStartIndex: 0,
        addresses: seed === 30 ? addresses.slice(0, 2) : addresses.slice(2),
      };
    }

    const loads = new TransactionInstruction({
      programId: keyOf(9),
      keys: [20, 21, 22, 23].map(seed => ({
        pubkey: keyOf(seed),
        isSigner: false,
        isWritable: seed % 2 === 1,
      })),
      data: Buffer.of(1),
    });
    const message = new TransactionMessage({
      payerKey: wallet,
      recentBlockhash: keyOf(99).toBase58(),
      instructions: [loads, transfer(keyOf(21), 7)],
    }).compileToV0Message(tables);
    const view = parseTransaction(new VersionedTransaction(message).serialize());
    const known: KnownTables = tables.map(table => ({
      resolved: 'rpc',
      addresses: table.state.addresses.map(one => one.toBytes()),
    }));

    it('are hidden without the tables, and an amount still goes somewhere', () => {
      const facts = readFacts(view);
      expect(facts.instructions[0]?.accounts.map(one => one.key)).toEqual(new Array(4).fill(undefined));
      expect(facts.tables.map(table => table.resolved)).toEqual(['unresolved', 'unresolved']);
      expect(facts.instructions[1]).toMatchObject({
        understood: true,
        effects: [{ kind: 'lamports', amount: 7n, to: { key: undefined, table: keyOf(30).toBytes() } }],
      });
    });

    it('are found in the order in which the runtime loads them', () => {
      const facts = readFacts(view, known);
      const keys = facts.instructions[0]?.accounts.map(one => Buffer.from(one.key ?? []).toString('hex'));
      expect(keys).toEqual(addresses.map(one => Buffer.from(one.toBytes()).toString('hex')));
      expect(facts.instructions[0]?.accounts.map(one => one.writable)).toEqual([false, true, false, true]);
      expect(facts.tables.map(table => table.resolved)).toEqual(['rpc', 'rpc']);
    });

    it('are hidden where a table is too short', async () => {
      const short: KnownTables = [known[0], { resolved: 'rpc', addresses: [] }];
      expect(readFacts(view, short).tables.map(table => table.resolved)).toEqual(['rpc', 'unresolved']);
      const asked: string[] = [];
      const resolved = await resolveTables(view, async table => {
        asked.push(new PublicKey(table).toBase58());
        return short[asked.length - 1];
      });
      expect(asked).toEqual(tables.map(table => table.key.toBase58()));
      expect(resolved).toEqual([known[0], undefined]);
    });

    it('make a change of authority not understood when they hide who gets it', () => {
      const hidden = parseTransaction(
        new VersionedTransaction(
          new TransactionMessage({
            payerKey: wallet,
            recentBlockhash: keyOf(99).toBase58(),
            instructions: [
              instruction(
                new PublicKey('TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA'),
                [keyOf(2), keyOf(20), signs(wallet)],
                [4, ...u64(5n)],
              ),
            ],
          }).compileToV0Message(tables),
        ).serialize(),
      );
      expect(readFacts(hidden).instructions[0]).toMatchObject({
        name: 'token.approve',
        understood: false,
        effects: [{ kind: 'authority', unseen: true }],
      });
      expect(readFacts(hidden, known).instructions[0]?.understood).toBe(true);
    });

    it('are read from the account of a table as web3.js reads them', () => {
      const data = Buffer.concat([
        Buffer.from([...u32(1), ...u64(2n ** 64n - 1n), ...u64(5n), 0, 1]),
        keyOf(5).toBuffer(),
        Buffer.alloc(2),
        ...addresses.map(one => one.toBuffer()),
      ]);
      expect(parseLookupTable(data)).toEqual(
        AddressLookupTableAccount.deserialize(data).addresses.map(one => Buffer.from(one.toBytes())),
      );
      expect(parseLookupTable(data.subarray(0, 56))).toEqual([]);
      for (const wrong of [
        data.subarray(0, 55),
        data.subarray(0, -1),
        Buffer.concat([data, Buffer.alloc(253 * 32)]),
        Buffer.concat([Buffer.from(u32(0)), data.subarray(4)]),
      ]) {
        expect(parseLookupTable(wrong)).toBeUndefined();
      }
    });
  });
});

describe('the fees of a transaction', () => {
  const limit = (units: number) => ComputeBudgetProgram.setComputeUnitLimit({ units });
  const price = (microLamports: number | bigint) =>
    ComputeBudgetProgram.setComputeUnitPrice({ microLamports });
  const feesOf = (...instructions: readonly TransactionInstruction[]) => factsOf(...instructions).fees;

  it('are 5,000 lamports a signature, those that precompiles verify included', () => {
    expect(feesOf(transfer(keyOf(2), 1))).toEqual({
      base_lamports: 5_000n,
      priority_lamports: 0n,
      computeUnitLimit: undefined,
      computeUnitPrice_microLamports: undefined,
    });
    const checked = Ed25519Program.createInstructionWithPrivateKey({
      privateKey: Keypair.generate().secretKey,
      message: new Uint8Array(3),
    });
    expect(feesOf(checked, checked, instruction(keyOf(9), [signs(keyOf(2))], [])).base_lamports).toBe(
      20_000n,
    );
  });

  it('are limit times price, rounded up, and no more than the largest limit', () => {
    expect(feesOf(limit(300), price(1)).priority_lamports).toBe(1n);
    expect(feesOf(price(5_000_000n), limit(300)).priority_lamports).toBe(1_500n);
    expect(feesOf(limit(2_000_000), price(1_000_000)).priority_lamports).toBe(1_400_000n);
    expect(feesOf(limit(0), price(1_000_000)).priority_lamports).toBe(0n);
    expect(feesOf(limit(1_400_000), price(2n ** 64n - 1n)).priority_lamports).toBe(2n ** 64n - 1n);
    expect(feesOf(limit(300)).priority_lamports).toBe(0n);
  });

  it('assume the largest limit that a validator may assume', () => {
    const many = Array.from({ length: 8 }, (_, index) => transfer(keyOf(40 + index), 1));
    expect(feesOf(price(1_000_000), transfer(keyOf(2), 1)).priority_lamports).toBe(203_000n);
    expect(feesOf(price(1_000_000), ...many).priority_lamports).toBe(1_400_000n);
  });

  it('are not known when instructions contradict one another or cannot be read', () => {
    const { programId } = ComputeBudgetProgram;
    for (const contradiction of [
      [limit(1), limit(1)],
      [price(1), price(2)],
      [instruction(programId, [], [0, ...u64(1n)])],
      [instruction(programId, [], [9])],
      [instruction(programId, [], [])],
      [instruction(programId, [], [3, ...u32(1)])],
    ]) {
      expect(feesOf(...contradiction).priority_lamports).toBeUndefined();
    }
  });

  it('count bytes behind a price, as validators do', () => {
    const longer = instruction(ComputeBudgetProgram.programId, [], [3, ...u64(1_000_000n), 7]);
    const facts = factsOf(limit(5), longer);
    expect(facts.fees.priority_lamports).toBe(5n);
    expect(facts.instructions[1]?.understood).toBe(false);
  });

  it('are in the config of version 1', () => {
    expect(readFacts(parseTransaction(wireBytes(plainV1))).fees).toMatchObject({
      base_lamports: 10_000n,
      priority_lamports: 5n + 2n ** 32n,
      computeUnitLimit: 200_000,
    });
  });
});

describe('the summary for the record', () => {
  it('has a line for each instruction, twenty at most', () => {
    expect(
      summaryOf(factsOf(transfer(keyOf(2), 1_000_000), memo('hello'), instruction(keyOf(9), [], [1]))),
    ).toEqual(['system.transfer 1000000', 'memo.memo', 'unknown']);
    expect(summaryOf(factsOf(instruction(SystemProgram.programId, [wallet], [2, 0, 0, 0])))).toEqual([
      'system.transfer (not understood)',
    ]);
    const many = summaryOf(factsOf(...Array.from({ length: 25 }, (_, index) => memo(`${index}`))));
    expect(many).toHaveLength(21);
    expect(many.at(-1)).toBe('… and 5 more');
  });

  it('never has what was written into a memo or a message', () => {
    expect(JSON.stringify(summaryOf(factsOf(memo('canary'))))).not.toContain('canary');
    expect(summaryOf(readMessageFacts(Buffer.from('canary')))).toEqual(['message.bytes 6 bytes']);
  });
});

describe('messages', () => {
  it('are told apart, and a transaction is always recognised', () => {
    const { view } = factsOf(transfer(keyOf(2), 1));
    expect(readMessageFacts(view.message).form).toBe('raw-transaction');
    expect(readMessageFacts(Buffer.from('hello')).form).toBe('bytes');
    const envelope = Buffer.concat([
      Buffer.from('ff736f6c616e61206f6666636861696e01', 'hex'),
      Buffer.of(1),
      wallet.toBuffer(),
      Buffer.from('hello'),
    ]);
    const facts = readMessageFacts(envelope);
    expect(describeFacts(facts)).toEqual({
      kind: 'message',
      form: 'offchain',
      length_bytes: envelope.length,
      offchain: { version: 1, signers: [wallet.toBase58()], text: 'hello' },
    });
  });

  it('that begin as off-chain messages and are none are refused', () => {
    const broken = Buffer.from('ff736f6c616e61206f6666636861696e09', 'hex');
    expect(() => readMessageFacts(broken)).toThrow(
      expect.objectContaining({ code: 'OFFCHAIN_MESSAGE_INVALID' }),
    );
  });
});

describe('whatever can be parsed', () => {
  const programs = programNames.map(programKey);
  const tags = fc.oneof(fc.nat(46), fc.constantFrom(255, 200));

  // Real programs, and data that begins with numbers that they know, so that decoders are entered.
  const aimed: fc.Arbitrary<Compiled> = fc
    .tuple(
      compiledMessages,
      fc.nat(programs.length - 1),
      fc.array(fc.record({ tag: tags, sub: fc.nat(7), rest: fc.uint8Array({ maxLength: 90 }) }), {
        minLength: 4,
        maxLength: 4,
      }),
    )
    .map(([parts, program, calls]) => ({
      ...parts,
      keys: parts.keys.with(-1, programs[program] ?? new Uint8Array(32)),
      instructions: parts.instructions.map((one, index) => {
        const { tag = 0, sub = 0, rest = [] } = calls[index] ?? {};
        const wide = index % 2 === 0;
        return {
          ...one,
          programIndex: parts.keys.length - 1,
          data: Uint8Array.from([tag, ...(wide ? [0, 0, 0] : [sub]), ...rest]),
        };
      }),
    }));

  it('has facts, a summary and a description', () => {
    fc.assert(
      fc.property(fc.oneof(compiledMessages, aimed), parts => {
        const wire = wireBytes(parts);
        fc.pre(parts.version === 'v1' || wire.length <= 1232);
        const view = parseTransaction(wire);
        const facts = readFacts(view);
        expect(facts.instructions).toHaveLength(view.instructionCount);
        expect(facts.accounts).toHaveLength(view.accountKeyCount + view.loadedAccountCount);
        for (const one of facts.instructions) expect(one.understood && one.effects.length === 0).toBe(false);
        expect(summaryOf(facts)).toHaveLength(view.instructionCount);
        expect(JSON.stringify(describeFacts(facts))).toContain('"instructions"');
      }),
      { numRuns: 1_000 },
    );
  });
});

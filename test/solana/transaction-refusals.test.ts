import { getCompiledTransactionMessageDecoder, getTransactionDecoder } from '@solana/kit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { parseTransaction } from '../../src/solana/transaction.ts';
import {
  type Compiled,
  compactU16,
  compiledMessages,
  key,
  messageBytes,
  plain,
  plainV0,
  plainV1,
  signaturePlaces,
  wireBytes,
} from './compiled.ts';
import { expectSameReadings, web3Reading } from './oracles.ts';

const versions = [plain, plainV0, plainV1];
const keys = (count: number): Uint8Array[] => Array.from({ length: count }, (_, index) => key(index));
const instruction = { programIndex: 1, accounts: [0], data: new Uint8Array() };
const concat = (...parts: (readonly number[] | Uint8Array)[]): Uint8Array =>
  Uint8Array.from(parts.flatMap(part => [...part]));

describe('size', () => {
  it('says that every cut of a transaction is truncated', () => {
    for (const parts of versions) {
      const wire = wireBytes(parts);
      for (let length = 0; length < wire.length; length += 1) {
        expect(refusal(wire.subarray(0, length))).toBe('TRANSACTION_TRUNCATED');
      }
    }
    fc.assert(
      fc.property(
        compiledMessages,
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (parts, at) => {
          const wire = wireBytes(parts);
          fc.pre(parts.version === 'v1' || wire.length <= 1232);
          const cut = wire.subarray(0, Math.floor(wire.length * at));
          expect(refusal(cut)).toBe('TRANSACTION_TRUNCATED');
        },
      ),
      { numRuns: 300 },
    );
  });

  it('refuses a single byte behind the transaction, and many', () => {
    for (const parts of versions) {
      for (const rest of [1, 64, 300]) {
        const wire = concat(wireBytes(parts), new Uint8Array(rest));
        expect(refusal(wire)).toBe('TRANSACTION_TRAILING_BYTES');
      }
    }
  });

  it('takes 1,232 bytes for legacy and v0 and 4,096 for v1, and not one more', () => {
    for (const parts of versions) {
      const most = parts.version === 'v1' ? 4096 : 1232;
      for (const [length, code] of [
        [most, undefined],
        [most + 1, 'TRANSACTION_TOO_LARGE'],
      ] as const) {
        const wire = padded(parts, length);
        expect(wire).toHaveLength(length);
        expect(refusal(wire)).toBe(code);
      }
    }
  });

  it('does not look into what is far too large', () => {
    expect(refusal(new Uint8Array(1_000_000).fill(1))).toBe('TRANSACTION_TOO_LARGE');
    expect(refusal(new Uint8Array(1_000_000).fill(0x81))).toBe('TRANSACTION_TOO_LARGE');
  });
});

describe('signers', () => {
  it('refuses a transaction that nobody signs', () => {
    for (const parts of versions) {
      expect(refusal(wireBytes({ ...parts, required: 0, readonlySigned: 0 }))).toBe(
        'TRANSACTION_SIGNERS_INVALID',
      );
    }
  });

  it('refuses 13, 128 and 255 signers, in the header and in the signature count', () => {
    for (const required of [13, 128, 255]) {
      for (const parts of [plainV0, plainV1]) {
        expect(refusal(wireBytes({ ...parts, required }, signaturePlaces(2)))).toBe(
          'TRANSACTION_SIGNERS_INVALID',
        );
      }
      const announced = concat(compactU16(required), new Uint8Array(64), messageBytes(plain));
      expect(refusal(announced)).toBe('TRANSACTION_SIGNERS_INVALID');
    }
  });

  it('takes 12 signers where they fit', () => {
    const parts = { ...plainV1, keys: keys(13), required: 12, instructions: [] };
    expect(parseTransaction(wireBytes(parts)).signatureCount).toBe(12);
    const legacy = { ...plain, keys: keys(12), required: 12, readonlyUnsigned: 0, instructions: [] };
    expect(parseTransaction(wireBytes(legacy)).signatureCount).toBe(12);
  });

  it('refuses another number of signatures than the header requires', () => {
    for (const parts of [plain, plainV0]) {
      for (const count of [1, 3]) {
        expect(refusal(wireBytes(parts, signaturePlaces(count)))).toBe('TRANSACTION_SIGNERS_INVALID');
      }
    }
    expect(refusal(wireBytes(plainV1, signaturePlaces(1)))).toBe('TRANSACTION_TRUNCATED');
    expect(refusal(wireBytes(plainV1, signaturePlaces(3)))).toBe('TRANSACTION_TRAILING_BYTES');
  });

  it('refuses more signers than keys', () => {
    for (const parts of versions) {
      expect(refusal(wireBytes({ ...parts, keys: [key(1)] }))).toBe('TRANSACTION_SIGNERS_INVALID');
    }
  });
});

describe('versions', () => {
  it('refuses a message of a later version, wherever its signatures are', () => {
    for (const prefix of [0x82, 0x83, 0xc0, 0xfe]) {
      const message = concat([prefix], messageBytes(plain));
      const behind = concat([2], ...signaturePlaces(2), message);
      expect(refusal(behind)).toBe('TRANSACTION_VERSION_UNSUPPORTED');
      expect(refusal(concat(message, ...signaturePlaces(2)))).toBe('TRANSACTION_VERSION_UNSUPPORTED');
    }
  });

  it('refuses an off-chain message in the place of the message', () => {
    const wire = concat([1], new Uint8Array(64), Buffer.from('\xffsolana offchain', 'latin1'));
    expect(refusal(wire)).toBe('TRANSACTION_VERSION_UNSUPPORTED');
  });

  it('refuses a v1 message behind its signatures and a v0 message before them', () => {
    const behind = concat([2], ...signaturePlaces(2), messageBytes(plainV1));
    expect(refusal(behind)).toBe('TRANSACTION_MALFORMED');
    const before = concat(messageBytes(plainV0), ...signaturePlaces(2));
    expect(refusal(before)).toBe('TRANSACTION_SIGNERS_INVALID');
  });
});

describe('compact-u16', () => {
  const bad = [
    [0x80, 0],
    [0x81, 0],
    [0x80, 0x80, 0],
    [0xff, 0x80, 0],
    [0x80, 0x80, 4],
    [0xff, 0xff, 4],
    [0xff, 0xff, 0xff],
    [0xff, 0xff, 0x80],
    [0xff, 0xff, 0xff, 0xff, 0xff],
  ];
  const message = messageBytes(plainV0);
  const places = { keys: 4, instructions: 165, accounts: 167, data: 171, lookups: 173, writable: 206 };

  it('refuses aliases and overflows in every place of a message', () => {
    for (const at of Object.values(places)) {
      for (const encoding of bad) {
        const changed = concat(message.subarray(0, at), encoding, message.subarray(at + 1));
        const wire = concat([2], ...signaturePlaces(2), changed);
        expect(refusal(wire)).toBe('COMPACT_U16_INVALID');
      }
    }
  });

  it('refuses aliases and overflows in the signature count', () => {
    // What begins with 0x81 is a v1 transaction instead.
    for (const encoding of bad.filter(([first]) => first !== 0x81)) {
      const wire = concat(encoding, ...signaturePlaces(2), message);
      expect(refusal(wire)).toBe('COMPACT_U16_INVALID');
    }
  });

  it('reads lengths of two bytes', () => {
    const parts = { ...plain, instructions: [{ ...instruction, data: new Uint8Array(300) }] };
    expect(parseTransaction(wireBytes(parts)).instructions[0]?.data).toHaveLength(300);
  });

  it('says that a transaction is truncated when a length of three bytes reaches beyond it', () => {
    for (const length of [0x4000, 0xffff]) {
      const changed = concat(message.subarray(0, places.data), compactU16(length), message.subarray(172));
      const wire = concat([2], ...signaturePlaces(2), changed);
      expect(refusal(wire)).toBe('TRANSACTION_TRUNCATED');
    }
  });
});

describe('rules of a validator', () => {
  const cases: [string, Partial<Compiled>, (readonly Compiled[])?][] = [
    ['a fee payer that is read-only', { readonlySigned: 2 }],
    ['read-only accounts that reach into the signers', { readonlyUnsigned: 3 }],
    ['a program that is the fee payer', { instructions: [{ ...instruction, programIndex: 0 }] }],
    ['a program that is no static key', { instructions: [{ ...instruction, programIndex: 4 }] }],
    ['an account that is neither a key nor looked up', { instructions: [{ ...instruction, accounts: [7] }] }],
    ['the same key twice', { keys: [key(1), key(2), key(3), key(2)] }],
    ['65 instructions', { instructions: new Array(65).fill(instruction) }],
    [
      '256 accounts in one instruction',
      { instructions: [{ ...instruction, accounts: new Array(256).fill(0) }] },
      [plain, plainV0],
    ],
    ['a lookup that loads nothing', { lookups: [{ table: key(9), writable: [], readonly: [] }] }, [plainV0]],
    [
      '257 accounts, static and looked up',
      {
        instructions: [],
        lookups: [
          { table: key(8), writable: new Array(127).fill(1), readonly: [] },
          { table: key(9), writable: [], readonly: new Array(126).fill(1) },
        ],
      },
      [plainV0],
    ],
    ['65 keys', { keys: keys(65), instructions: [] }, [plainV1]],
    ['half a priority fee', { mask: 0b01, config: [1] }, [plainV1]],
    ['the other half of a priority fee', { mask: 0b10, config: [1] }, [plainV1]],
    ['an unknown config value', { mask: 0b100000, config: [1] }, [plainV1]],
    ['an unknown config value in the last bit', { mask: 0x80000000, config: [1] }, [plainV1]],
    ['a heap that is too small', { mask: 0b10000, config: [31 * 1024] }, [plainV1]],
    ['a heap that is too large', { mask: 0b10000, config: [257 * 1024] }, [plainV1]],
    ['a heap that is no multiple of 1,024', { mask: 0b10000, config: [65_537] }, [plainV1]],
  ];

  it.each(cases)('refuses %s', (_, change, bases = versions) => {
    for (const base of bases) {
      expect(refusal(wireBytes({ ...base, ...change }))).toBe('TRANSACTION_MALFORMED');
    }
  });

  const limits: [string, Compiled][] = [
    ['64 instructions', { ...plain, instructions: new Array(64).fill(instruction) }],
    [
      '255 accounts in one instruction',
      { ...plain, instructions: [{ ...instruction, accounts: new Array(255).fill(0) }] },
    ],
    [
      '256 accounts, static and looked up',
      {
        ...plainV0,
        instructions: [{ ...instruction, accounts: [255] }],
        lookups: [{ table: key(8), writable: new Array(127).fill(1), readonly: new Array(125).fill(2) }],
      },
    ],
    ['64 keys', { ...plainV1, keys: keys(64), instructions: [{ ...instruction, accounts: [63] }] }],
    ['no instruction', { ...plainV1, instructions: [] }],
    [
      'a single key',
      { ...plain, keys: [key(1)], required: 1, readonlySigned: 0, readonlyUnsigned: 0, instructions: [] },
    ],
  ];

  it.each(limits)('takes %s', (_, parts) => {
    expectSameReadings(parseTransaction(wireBytes(parts)));
  });
});

describe('hostile bytes', () => {
  it('never ends in anything but an error of the table with a 4xx status', () => {
    const beginnings = fc.constantFrom([], [1], [2], [0x80], [0x81, 1, 0, 0, 0, 0, 0, 0], [0xff]);
    fc.assert(
      fc.property(beginnings, fc.uint8Array({ maxLength: 1500 }), (beginning, bytes) => {
        refusal(concat(beginning, bytes));
      }),
      { numRuns: 2000 },
    );
  });

  it('reads what is left of a transaction with flipped bits as the libraries do, or refuses it', () => {
    fc.assert(
      fc.property(
        compiledMessages,
        fc.array(fc.tuple(fc.nat(), fc.nat(7)), { minLength: 1, maxLength: 4 }),
        (parts, flips) => {
          const wire = wireBytes(parts);
          for (const [at, bit] of flips) wire[at % wire.length] = (wire[at % wire.length] ?? 0) ^ (1 << bit);
          if (refusal(wire) === undefined) expectSameReadings(parseTransaction(wire));
        },
      ),
      { numRuns: 1000 },
    );
  });

  it('agrees with web3.js wherever web3.js and kit both take the bytes and the rules are kept', () => {
    fc.assert(
      fc.property(compiledMessages, fc.nat(), fc.nat(255), (parts, at, value) => {
        const wire = wireBytes(parts);
        fc.pre(parts.version === 'v1' || wire.length <= 1232);
        wire[at % wire.length] = value;
        const theirs = attempt(() => web3Reading(wire));
        if (theirs === undefined || !kitTakes(wire)) return;
        const code = refusal(wire);
        // The libraries check neither the rules of a validator nor that nothing follows or is encoded twice,
        // and a length that is cut off is 0 to them.
        if (code === undefined) expectSameReadings(parseTransaction(wire));
        else if (code !== 'TRANSACTION_TRUNCATED') expect(code).toMatch(/MALFORMED|SIGNERS|TRAILING|COMPACT/);
        else expect(refusal(concat(wire, [0, 0, 0]))).not.toBe('TRANSACTION_TRUNCATED');
      }),
      { numRuns: 1000 },
    );
  });

  it('is quick with junk, whatever the junk announces', () => {
    const junk = [0x01, 0x0c, 0x7f, 0x80, 0x81, 0xff].map(fill => new Uint8Array(4096).fill(fill));
    const small = versions.map(parts =>
      concat(wireBytes(parts).subarray(0, 150), new Uint8Array(900).fill(3)),
    );
    const begin = performance.now();
    for (let round = 0; round < 1000; round += 1) for (const bytes of [...junk, ...small]) refusal(bytes);
    expect(performance.now() - begin).toBeLessThan(2000);
  });
});

/** The code that the bytes are refused with, or `undefined`. Anything but a 4xx error of the table fails. */
function refusal(wire: Uint8Array): string | undefined {
  try {
    parseTransaction(wire);
    return undefined;
  } catch (error) {
    if (!isKeyslotError(error)) throw error;
    expect(Math.floor(error.entry.status / 100)).toBe(4);
    expect(error.message.length).toBeLessThan(200);
    return error.code;
  }
}

function padded(parts: Compiled, length: number): Uint8Array {
  const data = (bytes: number): Compiled => ({
    ...parts,
    instructions: [{ ...instruction, data: new Uint8Array(bytes) }],
  });
  const room = length - wireBytes(data(200)).length;
  return wireBytes(data(200 + room));
}

const kitTakes = (wire: Uint8Array): boolean =>
  attempt(() =>
    getCompiledTransactionMessageDecoder().decode(getTransactionDecoder().decode(wire).messageBytes),
  ) !== undefined;

function attempt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined; // whatever a library throws: it does not take the bytes
  }
}

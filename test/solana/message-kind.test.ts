import { createHash } from 'node:crypto';
import { getCompiledTransactionMessageDecoder } from '@solana/kit';
import { VersionedMessage } from '@solana/web3.js';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { classifyMessage, isWireTransaction } from '../../src/solana/message-kind.ts';
import {
  type Compiled,
  compiledMessages,
  key,
  messageBytes,
  plain,
  plainV0,
  plainV1,
  wireBytes,
} from './compiled.ts';

const kindOf = (bytes: Uint8Array): string => classifyMessage(bytes).kind;
const concat = (...parts: (readonly number[] | Uint8Array)[]): Uint8Array =>
  Uint8Array.from(parts.flatMap(part => [...part]));
const keys = (count: number): Uint8Array[] =>
  Array.from({ length: count }, (_, index) => new Uint8Array(32).fill(index));

describe('transaction messages', () => {
  it('are recognised in every version, with bytes behind them or without', () => {
    fc.assert(
      fc.property(compiledMessages, fc.uint8Array({ maxLength: 200 }), (parts, rest) => {
        const message = messageBytes(parts);
        const kind = { kind: 'transaction', version: parts.version };
        expect(classifyMessage(message)).toEqual(kind);
        expect(classifyMessage(concat(message, rest))).toEqual(kind);
      }),
      { numRuns: 300 },
    );
  });

  it('are recognised whenever web3.js or kit can decode them, however odd', () => {
    fc.assert(
      fc.property(
        compiledMessages,
        fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 3 }),
        fc.uint8Array({ maxLength: 40 }),
        (parts, changes, rest) => {
          const message = messageBytes(parts);
          for (const [at, value] of changes) message[at % message.length] = value;
          const bytes = concat(message, rest);
          if (isDecodable(bytes)) expect(kindOf(bytes)).toBe('transaction');
        },
      ),
      { numRuns: 2000 },
    );
  });

  it('are recognised in random bytes that kit can decode', () => {
    const small = fc.uint8Array({ minLength: 36, maxLength: 400, max: 3 });
    const prefix = fc.constantFrom([], [0x80], [0x81]);
    fc.assert(
      fc.property(prefix, small, (first, rest) => {
        const bytes = concat(first, rest);
        if (isDecodable(bytes)) expect(kindOf(bytes)).toBe('transaction');
      }),
      { numRuns: 2000 },
    );
  });

  const odd: [string, Compiled][] = [
    ['more signers than keys', { ...plain, required: 127 }],
    ['no signer', { ...plain, required: 0 }],
    ['no instruction', { ...plain, instructions: [] }],
    ['no key', { ...plain, keys: [], instructions: [] }],
    ['the same key twice', { ...plain, keys: [key(1), key(1)] }],
    ['only read-only signers', { ...plain, readonlySigned: 255 }],
    ['an overlapping header', { ...plain, readonlyUnsigned: 255 }],
    [
      'a program that does not exist',
      { ...plain, instructions: [{ programIndex: 200, accounts: [], data: key(1) }] },
    ],
    ['65 instructions', { ...plain, instructions: new Array(65).fill(plain.instructions[0]) }],
    ['more bytes than a packet', { ...plain, keys: keys(60) }],
    ['255 signers in v0', { ...plainV0, required: 255 }],
    ['a lookup of nothing', { ...plainV0, lookups: [{ table: key(9), writable: [], readonly: [] }] }],
    ['65 keys in v1', { ...plainV1, keys: keys(65) }],
    ['255 keys in v1', { ...plainV1, keys: keys(255) }],
    ['255 instructions in v1', { ...plainV1, instructions: new Array(255).fill(plain.instructions[0]) }],
    ['13 signers in v1', { ...plainV1, required: 13 }],
    ['a wrong heap size in v1', { ...plainV1, mask: 0b10000, config: [1] }],
    ['a config value of the future', { ...plainV1, mask: 0b100100, config: [1, 2] }],
    ['a config bit without a value', { ...plainV1, mask: 0x80000100, config: [1] }],
    ['half a priority fee', { ...plainV1, mask: 0b01, config: [1] }],
  ];

  it.each(odd)('are recognised with %s', (_, parts) => {
    expect(classifyMessage(messageBytes(parts))).toEqual({ kind: 'transaction', version: parts.version });
    expect(kindOf(concat(messageBytes(parts), [0, 1, 2]))).toBe('transaction');
  });

  it('are recognised with lengths in longer encodings than needed', () => {
    const message = messageBytes(plain);
    for (const alias of [
      [0x84, 0],
      [0x84, 0x80, 0],
    ]) {
      expect(kindOf(concat(message.subarray(0, 3), alias, message.subarray(4)))).toBe('transaction');
    }
  });

  it('are not recognised when one byte is missing', () => {
    for (const parts of [plain, plainV0, plainV1]) {
      expect(kindOf(messageBytes(parts).subarray(0, -1))).toBe('bytes');
    }
  });

  it('are recognised where a validator could read them, even if nearly all bytes are printable', () => {
    // Nine keys, no instruction.
    const text = concat([0x20, 0x20, 0x20, 9], new Uint8Array(9 * 32 + 32).fill(0x41), [0]);
    expect(kindOf(text)).toBe('transaction');
  });
});

describe('other bytes', () => {
  const siws = `example.com wants you to sign in with your Solana account:
9WzDXwBbmkg8ZTbNMqUxvQRAyrZzDsGYdLVL9zYtAWWM

Click Sign-in to agree to the Terms of Service

URI: https://example.com/login
Version: 1
Chain ID: mainnet
Nonce: oBbLoEldZs
Issued At: 2026-01-01T00:00:00.000Z
Resources:
- https://example.com/claim
- ipfs://Qme7ss3ARVgxv6rXqVPiikMJ8u2NLgmgszg13pYrDKEoiu`;

  const json = JSON.stringify(
    Array.from({ length: 200 }, (_, id) => ({
      id,
      name: `item ${id}`,
      tags: ['a', 'b'],
      nested: { deep: [id] },
    })),
    undefined,
    2,
  );

  const texts: [string, string][] = [
    ['a word', 'hello'],
    ['a sign-in text', siws],
    ['an indented JSON text', json.slice(0, 16_000)],
    ['a JSON text on one line', JSON.stringify(JSON.parse(json))],
    ['a text in Cyrillic', 'Подпишите это сообщение, пожалуйста. '.repeat(150)],
    ['a text with emoji', '🔑 sign 🖊️ '.repeat(500)],
    ['many spaces', ' '.repeat(16_000)],
    ['a table of spaces and bars', `|${' '.repeat(60)}|\n`.repeat(250)],
    ['a text that begins with line breaks', '\n\n\n\nDear reader,\n'.repeat(300)],
    ['a text with tabs', 'a\tb\tc\td\te\n'.repeat(1500)],
    ['hexadecimal', '0123456789abcdef'.repeat(1000)],
    ['a transaction message in base64', Buffer.from(messageBytes(plainV0)).toString('base64')],
    ['a long number', '1'.repeat(16_000)],
    ['Windows line breaks', 'one\r\ntwo\r\n\r\n'.repeat(1000)],
  ];

  it.each(texts)('are bytes: %s', (_, text) => {
    expect(classifyMessage(Buffer.from(text))).toEqual({ kind: 'bytes' });
  });

  it('are bytes: any printable text', () => {
    const unit = fc.constantFrom(...Array.from({ length: 0x5f }, (_, at) => String.fromCharCode(0x20 + at)));
    fc.assert(
      fc.property(fc.string({ unit, maxLength: 6000 }), text => {
        expect(kindOf(Buffer.from(text))).toBe('bytes');
      }),
      { numRuns: 300 },
    );
    fc.assert(
      fc.property(fc.lorem({ maxCount: 600, mode: 'words' }), text => {
        expect(kindOf(Buffer.from(text))).toBe('bytes');
      }),
    );
  });

  it('are bytes: nothing, one byte, and every hash of 20, 28 or 32 bytes', () => {
    expect(kindOf(new Uint8Array())).toBe('bytes');
    for (let byte = 0; byte < 256; byte += 1) expect(kindOf(Uint8Array.of(byte))).toBe('bytes');
    for (let round = 0; round < 2000; round += 1) {
      for (const name of ['ripemd160', 'sha224', 'sha256']) {
        const hash = createHash(name).update(`${round}`).digest();
        expect(kindOf(hash)).toBe('bytes');
      }
    }
  });

  it('are bytes: what begins with a version that no validator knows', () => {
    for (const prefix of [0x82, 0x83, 0xa1, 0xd9, 0xfe, 0xff]) {
      expect(kindOf(concat([prefix], messageBytes(plain)))).toBe('bytes');
      expect(kindOf(concat([prefix], messageBytes(plainV1).subarray(1)))).toBe('bytes');
    }
  });

  it('end in a kind or in OFFCHAIN_MESSAGE_INVALID, and quickly', () => {
    const domain = Buffer.from('\xffsolana offchain', 'latin1');
    const beginnings = fc.constantFrom(
      [],
      [0x80],
      [0x81],
      [0xff],
      [...domain],
      [...domain, 0],
      [...domain, 1],
    );
    fc.assert(
      fc.property(beginnings, fc.uint8Array({ maxLength: 300 }), (beginning, rest) => {
        expectKindOrRefusal(concat(beginning, rest));
      }),
      { numRuns: 2000 },
    );
    const begin = performance.now();
    for (const fill of [0, 1, 2, 3, 0x7f, 0x80, 0x81, 0xff]) {
      const bytes = new Uint8Array(16_000).fill(fill);
      for (let round = 0; round < 100; round += 1) expectKindOrRefusal(bytes);
    }
    expect(performance.now() - begin).toBeLessThan(2000);
  });
});

function expectKindOrRefusal(bytes: Uint8Array): void {
  try {
    expect(['transaction', 'offchain', 'bytes']).toContain(kindOf(bytes));
  } catch (error) {
    if (!isKeyslotError(error)) throw error;
    expect(error.code).toBe('OFFCHAIN_MESSAGE_INVALID');
  }
}

const isDecodable = (bytes: Uint8Array): boolean => web3Decodes(bytes) || kitDecodes(bytes);

function kitDecodes(bytes: Uint8Array): boolean {
  try {
    getCompiledTransactionMessageDecoder().decode(bytes);
    return true;
  } catch {
    return false;
  }
}

// web3.js follows a length for as many bytes as it goes on, which no validator ever did: that does not count.
function web3Decodes(bytes: Uint8Array): boolean {
  if (hasLongLength(bytes)) return false;
  try {
    VersionedMessage.deserialize(bytes);
    return true;
  } catch {
    return false;
  }
}

const hasLongLength = (bytes: Uint8Array): boolean =>
  bytes.some((byte, at) => byte >= 0x80 && (bytes[at + 1] ?? 0) >= 0x80 && (bytes[at + 2] ?? 0) >= 0x80);

describe('wire transactions', () => {
  it('are recognised in every version, signed or not, by their message or as a whole', () => {
    fc.assert(
      fc.property(compiledMessages, parts => {
        const wire = wireBytes(parts);
        expect(isWireTransaction(wire) || kindOf(wire) === 'transaction').toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  it('are not seen in text, hashes, or the messages themselves cut short', () => {
    fc.assert(
      fc.property(fc.string(), text => {
        expect(isWireTransaction(Buffer.from(text.replaceAll(/[^ -~]/g, '.')))).toBe(false);
        expect(isWireTransaction(createHash('sha256').update(text).digest())).toBe(false);
      }),
    );
    expect(isWireTransaction(wireBytes(plain).subarray(0, 100))).toBe(false);
    expect(isWireTransaction(new Uint8Array())).toBe(false);
  });
});

import {
  address,
  getOffchainMessageDecoder,
  getOffchainMessageEncoder,
  OffchainMessageContentFormat,
  offchainMessageApplicationDomain,
} from '@solana/kit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { classifyMessage } from '../../src/solana/message-kind.ts';
import {
  beginsAsOffchainMessage,
  listsSigner,
  type OffchainMessage,
  parseOffchainMessage,
} from '../../src/solana/offchain-message.ts';
import { key } from './compiled.ts';

const domain = Buffer.from('\xffsolana offchain', 'latin1');
const application = new Uint8Array(32).fill(7);
const ascending = [key(1), key(2), key(3)].toSorted(Buffer.compare);

const concat = (...parts: (readonly number[] | Uint8Array | string)[]): Uint8Array =>
  Uint8Array.from(parts.flatMap(part => [...(typeof part === 'string' ? Buffer.from(part) : part)]));

const u16 = (value: number): number[] => [value & 0xff, value >> 8];

function v0(body: string | Uint8Array, format = 0, signers: readonly Uint8Array[] = [key(1)]): Uint8Array {
  const length = u16(concat(body).length);
  return concat(domain, [0], application, [format, signers.length], ...signers, length, body);
}

const v1 = (body: string | Uint8Array, signers: readonly Uint8Array[] = [key(1)]): Uint8Array =>
  concat(domain, [1, signers.length], ...signers, body);

describe('parseOffchainMessage', () => {
  it('reads version 0 in each format as kit writes it', () => {
    for (const [format, text, name] of [
      [OffchainMessageContentFormat.RESTRICTED_ASCII_1232_BYTES_MAX, 'Hello ~!', 'ascii'],
      [OffchainMessageContentFormat.UTF8_1232_BYTES_MAX, 'Grüße\n🔑', 'utf8'],
      [OffchainMessageContentFormat.UTF8_65535_BYTES_MAX, '🔑'.repeat(2000), 'utf8-long'],
    ] as const) {
      const bytes = kitBytes({
        version: 0,
        applicationDomain: offchainMessageApplicationDomain(encodeBase58(application)),
        requiredSignatories: [
          { address: address(encodeBase58(key(2))) },
          { address: address(encodeBase58(key(1))) },
        ],
        content: { format, text },
      });
      expect(parseOffchainMessage(bytes)).toEqual({
        kind: 'offchain',
        version: 0,
        applicationDomain: application,
        format: name,
        signers: [key(2), key(1)],
        body: concat(text),
      });
    }
  });

  it('reads version 1 as kit writes it, whose signers are sorted', () => {
    const bytes = kitBytes({
      version: 1,
      requiredSignatories: [key(3), key(1), key(2)].map(one => ({ address: address(encodeBase58(one)) })),
      content: 'Grüße\n🔑',
    });
    const message = parseOffchainMessage(bytes);
    expect(message).toEqual({ kind: 'offchain', version: 1, signers: ascending, body: concat('Grüße\n🔑') });
    expect(message.body.buffer).toBe(bytes.buffer);
  });

  it('is what classifyMessage answers with', () => {
    for (const bytes of [v0('hi'), v1('hi')])
      expect(classifyMessage(bytes)).toEqual(parseOffchainMessage(bytes));
  });

  it('reads a body that looks like a transaction message as a body', () => {
    expect(classifyMessage(v1(new Uint8Array(200).fill(1))).kind).toBe('offchain');
  });

  const most = 1232 - domain.length - 1 - 32 - 1 - 1 - 32 - 2;

  const malformed: [string, Uint8Array][] = [
    ['only the signing domain', concat(domain)],
    ['version 2', concat(domain, [2], v1('x').subarray(17))],
    ['version 255', concat(domain, [255], 'x')],
    ['no signer in version 0', v0('x', 0, [])],
    ['no signer in version 1', v1('x', [])],
    ['a signer count without signers', concat(domain, [1, 3], key(1))],
    ['an empty body in version 0', v0('')],
    ['an empty body in version 1', v1('')],
    ['an unknown format', v0('x', 3)],
    ['a line break in the ASCII format', v0('a\nb')],
    ['a letter beyond ASCII in the ASCII format', v0('ü')],
    ['a delete character in the ASCII format', v0('\x7f')],
    ['a body that is not UTF-8, short', v0(Uint8Array.of(0xc3), 1)],
    ['a body that is not UTF-8, long', v0(Uint8Array.of(0xed, 0xa0, 0x80), 2)],
    ['a body that is not UTF-8 in version 1', v1(Uint8Array.of(0x41, 0xff))],
    ['one byte behind the body', concat(v0('x'), 'y')],
    ['one byte less than the body', v0('xy').subarray(0, -1)],
    ['signers in descending order', v1('x', ascending.toReversed())],
    ['the same signer twice', v1('x', [key(1), key(1)])],
    ['a short format beyond 1,232 bytes', v0('x'.repeat(most + 1))],
    ['short UTF-8 beyond 1,232 bytes', v0('x'.repeat(most + 1), 1)],
  ];

  it.each(malformed)('refuses %s', (_, bytes) => {
    expect(() => parseOffchainMessage(bytes)).toThrow(
      expect.objectContaining({ code: 'OFFCHAIN_MESSAGE_INVALID' }),
    );
    expect(() => classifyMessage(bytes)).toThrow(
      expect.objectContaining({ code: 'OFFCHAIN_MESSAGE_INVALID' }),
    );
  });

  it('takes 1,232 bytes with the envelope in the short formats, and more in the long one', () => {
    for (const bytes of [v0('x'.repeat(most)), v0('x'.repeat(most), 1), v0('x'.repeat(most + 1), 2)]) {
      expect(parseOffchainMessage(bytes).version).toBe(0);
      expect(kitReads(bytes)).toBe(true);
    }
    expect(kitReads(v0('x'.repeat(most + 1)))).toBe(false);
  });

  it('refuses what does not begin with the signing domain', () => {
    const bytes = v1('x');
    for (let at = 0; at < domain.length; at += 1) {
      const changed = bytes.with(at, (bytes[at] ?? 0) ^ 0x20);
      expect(beginsAsOffchainMessage(changed)).toBe(false);
      expect(() => parseOffchainMessage(changed)).toThrow(
        expect.objectContaining({ code: 'OFFCHAIN_MESSAGE_INVALID' }),
      );
      expect(beginsAsOffchainMessage(bytes.subarray(0, at))).toBe(false);
    }
  });

  it('refuses every cut of version 0, and of version 1 before its body', () => {
    const [zero, one] = [v0('hello', 1, [key(1), key(2)]), v1('hello', ascending)];
    for (let length = domain.length; length < zero.length; length += 1) {
      expect(reading(zero.subarray(0, length))).toBeUndefined();
    }
    for (let length = domain.length; length <= one.length - 5; length += 1) {
      expect(reading(one.subarray(0, length))).toBeUndefined();
    }
  });

  it('takes what kit takes, and reads the same from it', () => {
    const text = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 60 });
    const signers = fc.uniqueArray(fc.nat(30), { minLength: 1, maxLength: 4 }).map(list => list.map(key));
    const envelopes = fc.oneof(
      fc.tuple(text, fc.nat(3), signers).map(([body, format, who]) => v0(body, format, who)),
      fc.tuple(text, signers).map(([body, who]) => v1(body, who.toSorted(Buffer.compare))),
    );
    fc.assert(
      fc.property(envelopes, fc.option(fc.tuple(fc.nat(), fc.nat(255))), (bytes, change) => {
        if (change !== null) bytes[change[0] % bytes.length] = change[1];
        const ours = reading(bytes);
        // kit replaces what is not UTF-8 and drops NUL and byte order marks, so in the body it differs.
        if (ours === undefined) expect(isStrictUtf8(bytes) && kitReads(bytes)).toBe(false);
        else if (!hasDropped(ours.body)) expectKitReads(bytes, ours);
      }),
      { numRuns: 1000 },
    );
  });
});

describe('listsSigner', () => {
  it('finds those who have to sign and nobody else', () => {
    for (const bytes of [v0('x', 0, ascending), v1('x', ascending)]) {
      const message = parseOffchainMessage(bytes);
      for (const one of ascending) expect(listsSigner(message, one)).toBe(true);
      for (const other of [key(4), application, key(1).subarray(1), new Uint8Array()]) {
        expect(listsSigner(message, other)).toBe(false);
      }
    }
  });
});

type KitMessage = Parameters<ReturnType<typeof getOffchainMessageEncoder>['encode']>[0];

/** kit brands each text by a check of its own, which the encoder repeats. */
const kitBytes = (message: unknown): Uint8Array =>
  new Uint8Array(getOffchainMessageEncoder().encode(message as KitMessage));

function reading(bytes: Uint8Array): OffchainMessage | undefined {
  if (!beginsAsOffchainMessage(bytes)) return undefined;
  try {
    return parseOffchainMessage(bytes);
  } catch (error) {
    if (!isKeyslotError(error)) throw error;
    expect(error.code).toBe('OFFCHAIN_MESSAGE_INVALID');
    return undefined;
  }
}

function kitReads(bytes: Uint8Array): boolean {
  try {
    getOffchainMessageDecoder().decode(bytes);
    return true;
  } catch {
    return false;
  }
}

function expectKitReads(bytes: Uint8Array, ours: OffchainMessage): void {
  const theirs = getOffchainMessageDecoder().decode(bytes);
  expect(theirs.version).toBe(ours.version);
  expect(theirs.requiredSignatories.map(one => one.address)).toEqual(ours.signers.map(encodeBase58));
  const text = theirs.version === 0 ? theirs.content.text : theirs.content;
  expect(text).toBe(Buffer.from(ours.body).toString());
}

const hasDropped = (body: Uint8Array): boolean =>
  Buffer.from(body).includes('\ufeff') || Buffer.from(body).includes(0);

// The head of an envelope is not text, so only a change of the body can break this: ours must then refuse.
function isStrictUtf8(bytes: Uint8Array): boolean {
  try {
    const decoded = getOffchainMessageDecoder().decode(bytes);
    const text = decoded.version === 0 ? decoded.content.text : decoded.content;
    return !text.includes('\ufffd');
  } catch {
    return false;
  }
}

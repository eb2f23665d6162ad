import { randomBytes } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { ErrorCode } from '../../src/foundation/errors.ts';
import {
  compactU16,
  key,
  messageBytes,
  plain,
  plainV0,
  plainV1,
  signaturePlaces,
  wireBytes,
} from '../solana/compiled.ts';
import {
  type Appliance,
  base64,
  type Client,
  expectProblem,
  type Home,
  prepareHome,
  type Reply,
  residentMiB,
  serve,
} from './appliance.ts';
import { isSignature, other, readWire, transfers, versions } from './transactions.ts';

let home: Home;
let appliance: Appliance;
let developer: Client;
let nobody: Client;
let address: string;

beforeAll(async () => {
  home = await prepareHome();
  home.configure(config => {
    config.slots.push({
      id: 'guarded',
      engine: 'memory',
      pin: { file: 'secrets/user.pin' },
      access: 'session',
    });
    config.sessions = { idle_s: 1, absolute_s: 60 };
  });
  appliance = await serve(home);
  developer = appliance.client();
  nobody = appliance.client('nobody');
  const { json } = await developer.post('/v1/keys', { id: 'k', slot: 'main' });
  address = json.publicKey ?? '';
  await developer.post('/v1/keys', { id: 'g', slot: 'guarded' });
});

afterAll(async () => {
  developer?.close();
  nobody?.close();
  const exit = await appliance?.stop();
  home?.remove();
  expect(exit?.status).toBe(0);
});

/** Whatever was sent before, a good message and a good transaction are signed. */
async function expectSigns(): Promise<void> {
  const message = randomBytes(32);
  const signed = await developer.post('/v1/keys/k/sign-message', { message: base64(message) });
  expect(await isSignature(address, message, signed.json.signature)).toBe(true);
  const wire = transfers('v0', [address]);
  const { json } = await developer.post('/v1/keys/k/sign-transaction', { transaction: base64(wire) });
  expect(await isSignature(address, readWire(wire).message, json.signature)).toBe(true);
}

afterEach(expectSigns);

const hello = base64('hello');
const post = (path: string, body: unknown) => developer.post(`/v1/keys/k/${path}`, body);
const transaction = (wire: Uint8Array) => post('sign-transaction', { transaction: base64(wire) });
const bytes = (...parts: (readonly number[] | Uint8Array)[]): Buffer =>
  Buffer.concat(parts.map(part => Buffer.from(part)));

type Case = readonly [name: string, status: number, code: ErrorCode, send: () => Promise<Reply>];

const unsigned = [new Uint8Array(64), new Uint8Array(64)];
const mine = { ...plain, keys: [key(1), key(2), key(3), key(4)] };

const cases: readonly Case[] = [
  // base64
  ...[
    'aGVsbG8',
    'aGVsbG8=\n',
    'aGVs bG8=',
    'a',
    '====',
    'aGVsbG9=',
    'aGVsbG8-_w==',
    'héllo===',
    '\u0000AAA',
  ].flatMap((text): Case[] => [
    [
      `a message ${JSON.stringify(text)}`,
      400,
      'BASE64_INVALID',
      () => post('sign-message', { message: text }),
    ],
    [
      `a transaction ${JSON.stringify(text)}`,
      400,
      'BASE64_INVALID',
      () => post('sign-transaction', { transaction: text }),
    ],
  ]),
  [
    'one bad item of a batch',
    400,
    'BASE64_INVALID',
    () => post('sign-batch', { items: [{ message: hello }, { message: '?' }] }),
  ],
  [
    'the message of a verification',
    400,
    'BASE64_INVALID',
    () => post('verify', { message: '?', signature: '1'.repeat(64) }),
  ],
  // signatures
  ...['', '1', '0OIl', 'AAAA', `${'A'.repeat(86)}=`, base64(Buffer.alloc(63)), base64(Buffer.alloc(65))].map(
    (signature): Case => [
      `the signature ${signature}`,
      400,
      'SIGNATURE_ENCODING_INVALID',
      () => post('verify', { message: hello, signature }),
    ],
  ),
  // transactions
  ['an empty transaction', 422, 'TRANSACTION_TRUNCATED', () => transaction(Buffer.alloc(0))],
  [
    'half a transaction',
    422,
    'TRANSACTION_TRUNCATED',
    () => transaction(transfers('v0', [address]).subarray(0, 100)),
  ],
  [
    'half a v1 transaction',
    422,
    'TRANSACTION_TRUNCATED',
    () => transaction(transfers('v1', [address]).subarray(0, 100)),
  ],
  [
    'a transaction and a byte',
    422,
    'TRANSACTION_TRAILING_BYTES',
    () => transaction(bytes(transfers('legacy', [address]), [0])),
  ],
  [
    'a flipped account',
    422,
    'KEY_NOT_A_SIGNER',
    () => transaction(flipped(transfers('legacy', [address]), 1 + 64 + 4 + 7)),
  ],
  [
    'a flipped length',
    422,
    'TRANSACTION_TRUNCATED',
    () => transaction(flipped(transfers('legacy', [address]), 1 + 64 + 3, 6)),
  ],
  [
    'no signers',
    422,
    'TRANSACTION_SIGNERS_INVALID',
    () => transaction(wireBytes({ ...mine, required: 0, readonlySigned: 0 })),
  ],
  [
    '255 signers',
    422,
    'TRANSACTION_SIGNERS_INVALID',
    () => transaction(wireBytes({ ...plainV0, required: 255 }, unsigned)),
  ],
  [
    '255 signers of v1',
    422,
    'TRANSACTION_SIGNERS_INVALID',
    () => transaction(wireBytes({ ...plainV1, required: 255 }, unsigned)),
  ],
  [
    '255 signatures',
    422,
    'TRANSACTION_SIGNERS_INVALID',
    () => transaction(bytes(compactU16(255), signaturePlaces(1)[0] ?? [], messageBytes(mine))),
  ],
  [
    'a compact-u16 of four bytes',
    422,
    'COMPACT_U16_INVALID',
    () => transaction(bytes([0xff, 0xff, 0xff, 0xff], messageBytes(mine))),
  ],
  [
    'a compact-u16 beyond 16 bits',
    422,
    'COMPACT_U16_INVALID',
    () => transaction(bytes([0xff, 0xff, 4], messageBytes(mine))),
  ],
  [
    'a compact-u16 longer than needed',
    422,
    'COMPACT_U16_INVALID',
    () => transaction(bytes([0x80, 0], messageBytes(mine))),
  ],
  [
    'a version of the future',
    422,
    'TRANSACTION_VERSION_UNSUPPORTED',
    () => transaction(bytes([0x82], messageBytes(mine))),
  ],
  [
    '1,233 bytes of transaction',
    422,
    'TRANSACTION_TOO_LARGE',
    () => transaction(bytes([1], Buffer.alloc(1232))),
  ],
  [
    '4,097 bytes of v1 transaction',
    422,
    'TRANSACTION_TOO_LARGE',
    () => transaction(bytes([0x81], Buffer.alloc(4096))),
  ],
  [
    'somebody else’s transaction',
    422,
    'KEY_NOT_A_SIGNER',
    () => transaction(transfers('v0', [other().address])),
  ],
  [
    'a transaction that names the key without its signature',
    422,
    'KEY_NOT_A_SIGNER',
    () => transaction(transfers('legacy', [other().address], address)),
  ],
  // messages
  ['an empty message', 400, 'MESSAGE_EMPTY', () => post('sign-message', { message: '' })],
  [
    'a message of 16,001 bytes',
    413,
    'MESSAGE_TOO_LARGE',
    () => post('sign-message', { message: base64(Buffer.alloc(16_001, 'x')) }),
  ],
  ...versions.map(
    (version): Case => [
      `a ${version} transaction message as a message`,
      422,
      'MESSAGE_IS_TRANSACTION',
      () => post('sign-message', { message: base64(readWire(transfers(version, [address])).message) }),
    ],
  ),
  [
    'a broken off-chain envelope',
    422,
    'OFFCHAIN_MESSAGE_INVALID',
    () => post('sign-message', { message: base64(Buffer.from('\xffsolana offchain', 'latin1')) }),
  ],
  // batches
  ['a batch of none', 400, 'BATCH_TOO_LARGE', () => post('sign-batch', { items: [] })],
  [
    'a batch of 101',
    400,
    'BATCH_TOO_LARGE',
    () => post('sign-batch', { items: Array.from({ length: 101 }, () => ({ message: hello })) }),
  ],
  [
    'a batch of both in one item',
    400,
    'FIELD_UNKNOWN',
    () => post('sign-batch', { items: [{ message: hello, transaction: hello }] }),
  ],
  ['a batch of text', 400, 'BODY_INVALID', () => post('sign-batch', { items: 'none' })],
  ['a batch of an empty item', 400, 'BODY_INVALID', () => post('sign-batch', { items: [{}] })],
  // shapes
  ['no body', 400, 'BODY_INVALID', () => developer.send('POST', '/v1/keys/k/sign-message')],
  ['a number for a message', 400, 'BODY_INVALID', () => post('sign-message', { message: 7 })],
  ['an array for a body', 400, 'BODY_INVALID', () => post('sign-message', [])],
  ['null for a body', 400, 'BODY_INVALID', () => post('sign-message', 'null')],
  ['text for a body', 400, 'BODY_INVALID', () => post('sign-message', '"message"')],
  ['another field', 400, 'FIELD_UNKNOWN', () => post('sign-message', { message: hello, encoding: 'hex' })],
  [
    'a field in another case',
    400,
    'FIELD_UNKNOWN',
    () => post('sign-message', { message: hello, Message: hello }),
  ],
  [
    'a field where none is taken',
    400,
    'FIELD_UNKNOWN',
    () => developer.post('/v1/slots/main/lock', { force: true }),
  ],
  ...['__proto__', 'constructor', 'prototype', 'toString'].map(
    (name): Case => [
      `the field ${name}`,
      400,
      'FIELD_UNKNOWN',
      () => post('sign-message', `{"message":"${hello}","${name}":{"message":"x","admin":true}}`),
    ],
  ),
  [
    '__proto__ in place of the message',
    400,
    'FIELD_UNKNOWN',
    () => post('sign-message', `{"__proto__":{"message":"${hello}"}}`),
  ],
  [
    '__proto__ inside a batch',
    400,
    'FIELD_UNKNOWN',
    () => post('sign-batch', `{"items":[{"message":"${hello}","__proto__":{}}]}`),
  ],
  ['half a JSON', 400, 'BODY_NOT_JSON', () => post('sign-message', '{"message":')],
  ['two JSONs', 400, 'BODY_NOT_JSON', () => post('sign-message', `{"message":"${hello}"}{}`)],
  ['a byte order mark', 400, 'BODY_NOT_JSON', () => post('sign-message', `\ufeff{"message":"${hello}"}`)],
  [
    'bytes that are no text',
    400,
    'BODY_NOT_JSON',
    () => post('sign-message', Buffer.from([0xff, 0xfe, 0, 1])),
  ],
  [
    'a form',
    415,
    'CONTENT_TYPE_UNSUPPORTED',
    () => typed('application/x-www-form-urlencoded', 'message=aGVsbG8='),
  ],
  ['plain text', 415, 'CONTENT_TYPE_UNSUPPORTED', () => typed('text/plain', `{"message":"${hello}"}`)],
  [
    'almost JSON',
    415,
    'CONTENT_TYPE_UNSUPPORTED',
    () => typed('application/jsonp', `{"message":"${hello}"}`),
  ],
  [
    'a compressed body',
    415,
    'CONTENT_TYPE_UNSUPPORTED',
    () => typed('application/json', `{"message":"${hello}"}`, { 'Content-Encoding': 'gzip' }),
  ],
  [
    'arrays 12,000 deep',
    400,
    'BODY_INVALID',
    () => post('sign-message', `${'['.repeat(12_000)}${']'.repeat(12_000)}`),
  ],
  [
    'a message that is 5,000 objects deep',
    400,
    'BODY_INVALID',
    () => post('sign-message', `{"message":${'{"a":'.repeat(5_000)}1${'}'.repeat(5_000)}}`),
  ],
  [
    'arrays 500,000 deep in a batch',
    400,
    'BODY_INVALID',
    () => post('sign-batch', `{"items":${'['.repeat(500_000)}${']'.repeat(500_000)}}`),
  ],
  [
    '50,000 fields',
    400,
    'FIELD_UNKNOWN',
    () => post('sign-batch', `{${Array.from({ length: 50_000 }, (_, at) => `"f${at}":1`)}}`),
  ],
  // sizes
  ...[33_000, 1_000_000].flatMap((size): Case[] =>
    [false, true].map(chunked => [
      `a body of ${size} bytes${chunked ? ' in chunks' : ''}`,
      413,
      'BODY_TOO_LARGE',
      () =>
        developer.send('POST', '/v1/keys/k/sign-message', {
          body: `{"message":"${'A'.repeat(size)}"}`,
          chunked,
        }),
    ]),
  ),
  [
    'a batch body beyond a megabyte',
    413,
    'BODY_TOO_LARGE',
    () => post('sign-batch', { items: [{ message: 'A'.repeat(1_100_000) }] }),
  ],
  ['a body whose announced length is absurd', 413, 'BODY_TOO_LARGE', () => announcing('99999999999999999')],
  // ids
  [
    'an unknown key',
    404,
    'KEY_UNKNOWN',
    () => developer.post('/v1/keys/none/sign-message', { message: hello }),
  ],
  ['the key named constructor', 404, 'KEY_UNKNOWN', () => developer.get('/v1/keys/constructor')],
  ['an unknown slot', 404, 'SLOT_UNKNOWN', () => developer.get('/v1/slots/none')],
  [
    'a key in an unknown slot',
    404,
    'SLOT_UNKNOWN',
    () => developer.post('/v1/keys', { id: 'x', slot: 'none' }),
  ],
  ...[
    '__proto__',
    'K',
    '-k',
    '..',
    '%2e%2e',
    '..%2f..%2fetc%2fpasswd',
    'a%2fb',
    'a%5cb',
    'a%00',
    'k%0a',
    'k%20',
    '%20',
    '%c3%a9',
    'a'.repeat(64),
  ].flatMap((id): Case[] => [
    [
      `the key id ${id}`,
      400,
      'KEY_ID_INVALID',
      () => developer.post(`/v1/keys/${id}/sign-message`, { message: hello }),
    ],
    [`the slot id ${id}`, 400, 'SLOT_ID_INVALID', () => developer.post(`/v1/slots/${id}/lock`, {})],
  ]),
  ...['', 'K', 'a/b', '../../x', 'a'.repeat(64), 'a\u0000b', '\ud800'].flatMap((id): Case[] => [
    [
      `making the key ${JSON.stringify(id)}`,
      400,
      'KEY_ID_INVALID',
      () => developer.post('/v1/keys', { id, slot: 'main' }),
    ],
    [
      `a key in the slot ${JSON.stringify(id)}`,
      400,
      'SLOT_ID_INVALID',
      () => developer.post('/v1/keys', { id: 'x', slot: id }),
    ],
  ]),
  ...['%', '%zz', '%c3', '%ff%fe'].map(
    (id): Case => [`the path ${id}`, 404, 'ROUTE_UNKNOWN', () => developer.get(`/v1/keys/${id}`)],
  ),
  ...['/v1/keys/../keys/k', '//v1/keys', '/v1/keys/k/../../slots', '/V1/KEYS/k/sign', '/v1/keys/a/b'].map(
    (path): Case => [`the path ${path}`, 404, 'ROUTE_UNKNOWN', () => developer.get(path)],
  ),
  [
    'a key id of 10,000 letters',
    400,
    'KEY_ID_INVALID',
    () => developer.get(`/v1/keys/${'a'.repeat(10_000)}`),
  ],
  // queries
  ...[
    'limit=0',
    'limit=501',
    'limit=-1',
    'limit=1.5',
    'limit=x',
    'limit=',
    `cursor=${'x'.repeat(64)}`,
    'page=2',
    '__proto__=1',
  ].map(
    (query): Case => [`the query ${query}`, 400, 'QUERY_INVALID', () => developer.get(`/v1/keys?${query}`)],
  ),
  ['the slot of a query', 400, 'SLOT_ID_INVALID', () => developer.get('/v1/keys?slot=..')],
  // key material
  ...[
    { seed: '' },
    { seed: base64(Buffer.alloc(31)) },
    { seed: base64(Buffer.alloc(33)) },
    { seed: 'not base64' },
    { secretKey: '' },
    { secretKey: [] },
    { secretKey: Array(64).fill(1) },
    { secretKey: Array(63).fill(1) },
    { secretKey: '1'.repeat(64) },
  ].map(
    (material): Case => [
      `the material ${JSON.stringify(material).slice(0, 60)}`,
      400,
      'KEY_MATERIAL_INVALID',
      () => developer.post('/v1/keys/imported/import', { slot: 'main', ...material }),
    ],
  ),
  ...[
    {},
    { seed: hello, secretKey: hello },
    { secretKey: [256] },
    { secretKey: [0.5] },
    { secretKey: ['1'] },
  ].map(
    (material): Case => [
      `the material ${JSON.stringify(material)}`,
      400,
      'BODY_INVALID',
      () => developer.post('/v1/keys/imported/import', { slot: 'main', ...material }),
    ],
  ),
  // sessions and PINs
  [
    'no session',
    401,
    'SESSION_REQUIRED',
    () => developer.post('/v1/keys/g/sign-message', { message: hello }),
  ],
  ...['unknown', '', 'x'.repeat(4000)].map(
    (session): Case => [
      `the session ${session.slice(0, 10)}`,
      401,
      'SESSION_EXPIRED',
      () => developer.post('/v1/keys/g/sign-message', { message: hello }, { 'Keyslot-Session': session }),
    ],
  ),
  ['an empty PIN', 400, 'BODY_INVALID', () => developer.post('/v1/slots/main/open', { pin: '' })],
  [
    'a PIN of 256 letters',
    400,
    'BODY_INVALID',
    () => developer.post('/v1/slots/main/open', { pin: 'x'.repeat(256) }),
  ],
  [
    'a PIN that is a number',
    400,
    'BODY_INVALID',
    () => developer.post('/v1/slots/guarded/sessions', { pin: 1234 }),
  ],
];

describe('refused with its own code:', () => {
  it.each(cases)('%s → %i %s', async (_name, status, code, send) => {
    expectProblem(await send(), status, code);
  });

  it('a session that has expired → 401 SESSION_EXPIRED', async () => {
    const { json } = await developer.post('/v1/slots/guarded/sessions', { pin: home.secret('user.pin') });
    const session = { 'Keyslot-Session': json.token ?? '' };
    const sign = () => developer.post('/v1/keys/g/sign-message', { message: hello }, session);
    expect((await sign()).status).toBe(200);
    await new Promise(done => setTimeout(done, 1_100)); // its idle time is a second
    expectProblem(await sign(), 401, 'SESSION_EXPIRED');
  });

  it('nothing of what was refused was made', async () => {
    const { json } = await developer.get('/v1/keys?limit=500');
    expect(json.keys?.map(({ id }) => id)).toEqual(['g', 'k']);
    expect((await developer.get('/v1/slots/main')).json.findings).toEqual([]);
  });
});

function typed(type: string, body: string, headers: Record<string, string> = {}): Promise<Reply> {
  return developer.post('/v1/keys/k/sign-message', body, { 'Content-Type': type, ...headers });
}

/** Only announces: the answer must come before the body. */
async function announcing(length: string): Promise<Reply> {
  const socket = await developer.raw();
  socket.write(`POST /v1/keys/k/sign-message HTTP/1.1\r\nHost: x\r\nContent-Length: ${length}\r\n\r\n`);
  const text = await received(socket);
  const [head = '', body = ''] = text.split('\r\n\r\n');
  const headers = Object.fromEntries(
    head
      .split('\r\n')
      .slice(1)
      .map(line => [line.split(': ')[0]?.toLowerCase() ?? '', line.split(': ')[1] ?? '']),
  );
  return { status: Number(head.split(' ')[1]), headers, text: body, json: JSON.parse(body) };
}

function flipped(wire: Buffer, at: number, bit = 0): Buffer {
  wire.writeUInt8(wire.readUInt8(at) ^ (1 << bit), at);
  return wire;
}

/** Everything until the other side closes. */
function received(socket: TLSSocket): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  let text = '';
  socket.on('data', chunk => {
    text += String(chunk);
  });
  socket.on('error', () => undefined);
  socket.on('close', () => resolve(text));
  return promise;
}

/** Runs the work for every item, so many at a time. */
async function inFlight<T>(
  items: Iterable<T>,
  lanes: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const queue = items[Symbol.iterator]();
  const lane = async () => {
    for (let next = queue.next(); !next.done; next = queue.next()) await work(next.value);
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}

describe('hostile streams', () => {
  const malformed_count = 10_000;
  const nasties_count = 2_000;
  const growth_MiB_max = 60;

  it(`${malformed_count} malformed transactions and ${nasties_count} malformed requests: no 5xx, no growth`, async () => {
    const processes = [await appliance.child('gateway'), await appliance.child('custodian')];
    await fuzzTransactions(2_000, 1);
    await fuzzHttp(300, 1);
    const before = processes.map(residentMiB);
    const statuses = await fuzzTransactions(malformed_count, 2);
    await fuzzHttp(nasties_count, 2);
    const growth = processes.map((pid, at) => residentMiB(pid) - (before[at] ?? 0));
    expect(Object.keys(statuses).filter(status => Number(status) >= 500)).toEqual([]);
    expect(processes).toEqual([await appliance.child('gateway'), await appliance.child('custodian')]);
    for (const each of growth) expect(each).toBeLessThan(growth_MiB_max);
  });

  async function fuzzTransactions(count: number, seed: number): Promise<Record<number, number>> {
    const statuses: Record<number, number> = {};
    await inFlight(fc.sample(malformedTransaction(), { numRuns: count, seed }), 24, async wire => {
      const { status, json } = await transaction(wire);
      statuses[status] = (statuses[status] ?? 0) + 1;
      // A mutation that left a sound transaction for this key is signed, and then rightly.
      if (status !== 200) expect(json.code).toMatch(/^(TRANSACTION_|COMPACT_U16_INVALID|KEY_NOT_A_SIGNER)/);
      else expect(await isSignature(address, readWire(wire).message, json.signature)).toBe(true);
    });
    return statuses;
  }

  function malformedTransaction(): fc.Arbitrary<Buffer> {
    const sound = versions.flatMap(version => [
      transfers(version, [address]),
      transfers(version, [other().address, address, other().address]),
    ]);
    const one = fc.constantFrom(...sound).map(wire => Buffer.from(wire));
    const at = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
    const place = (wire: Buffer, share: number) => Math.floor(wire.length * share);
    return fc.oneof(
      fc.tuple(one, at).map(([wire, share]) => wire.subarray(0, place(wire, share))),
      fc
        .tuple(one, fc.array(fc.tuple(at, fc.nat(7)), { minLength: 1, maxLength: 6 }))
        .map(([wire, flips]) => {
          for (const [share, bit] of flips) flipped(wire, place(wire, share), bit);
          return wire;
        }),
      fc
        .tuple(one, one, at, at)
        .map(([left, right, from, to]) =>
          bytes(left.subarray(0, place(left, from)), right.subarray(place(right, to))),
        ),
      fc.tuple(one, at, fc.uint8Array({ minLength: 1, maxLength: 40 })).map(([wire, share, junk]) => {
        const split = place(wire, share);
        return bytes(wire.subarray(0, split), junk, wire.subarray(split));
      }),
      // The bytes that are lengths, versions and counts, set to what hurts.
      fc
        .tuple(one, fc.constantFrom(0, 1, 65, 66, 67, 68, 69), fc.constantFrom(0, 0x7f, 0x80, 0x81, 0xff))
        .map(([wire, index, value]) => {
          wire.writeUInt8(value, index);
          return wire;
        }),
      fc.uint8Array({ maxLength: 1_400 }).map(junk => Buffer.from(junk)),
    );
  }

  async function fuzzHttp(count: number, seed: number): Promise<void> {
    const session = await ticket();
    await inFlight(fc.sample(nasty, { numRuns: count, seed }), 16, async ({ content, patience_ms }) => {
      const socket = await nobody.raw({ session });
      const whole = received(socket);
      socket.write(content);
      // What is only half a request is given up by its sender; what is a whole one is answered or cut off.
      if (patience_ms > 0) setTimeout(() => socket.destroy(), patience_ms);
      expect(await whole).not.toMatch(/^HTTP\/1\.1 (5|2(?!00 OK\r\n.*"status":"ok"))/s);
    });
  }

  async function ticket(): Promise<Buffer> {
    const socket = await nobody.raw();
    const given = new Promise<Buffer>(done => socket.once('session', done));
    void received(socket);
    socket.write('GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
    return given;
  }

  const head = (path: string, ...lines: string[]): string =>
    [`POST ${path} HTTP/1.1`, 'Host: localhost', ...lines, '', ''].join('\r\n');
  const sign = '/v1/keys/k/sign-message';
  const body = JSON.stringify({ message: hello });
  const long = fc.integer({ min: 100, max: 40_000 });

  const nasty: fc.Arbitrary<{ content: Buffer; patience_ms: number }> = fc.oneof(
    fc.uint8Array({ minLength: 1, maxLength: 2_000 }).map(junk => given(Buffer.from(junk), 5)),
    fc
      .string({ unit: 'binary-ascii', minLength: 1, maxLength: 500 })
      .map(text => given(`${text}\r\n\r\n`, 5)),
    long.map(length => given(head(sign, `X: ${'x'.repeat(length)}`), 5)),
    long.map(length =>
      given(`GET /${'x'.repeat(length)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`, 5),
    ),
    fc
      .integer({ min: 1, max: 1_500 })
      .map(count =>
        given(head(sign, ...Array.from({ length: count }, (_, at) => `X-${at}: y`), 'Connection: close'), 5),
      ),
    // Two ideas of where the body ends.
    fc
      .constantFrom(
        ['Content-Length: 5', 'Transfer-Encoding: chunked'],
        ['Transfer-Encoding: chunked', 'Content-Length: 5'],
        ['Content-Length: 5', 'Content-Length: 6'],
        ['Content-Length: 5, 6'],
        ['Content-Length: +5'],
        ['Content-Length: -1'],
        ['Content-Length: 0x5'],
        ['Content-Length: 5e0'],
        ['Transfer-Encoding: chunked, identity'],
        ['Transfer-Encoding: xchunked'],
        ['Transfer-Encoding : chunked'],
        ['Transfer-Encoding: gzip'],
        [' Content-Length: 5'],
        ['X: y\rContent-Length: 5'],
        ['X: y\nContent-Length: 5'],
        ['X: \0'],
      )
      .map(lines => given(`${head(sign, ...lines)}0\r\n\r\nGET /v1/slots HTTP/1.1\r\nHost: x\r\n\r\n`, 5)),
    fc
      .constantFrom('zz', '-1', 'ffffffffffffffff', '5;'.padEnd(9_000, 'x'), '5 5', '')
      .map(size => given(`${head(sign, 'Transfer-Encoding: chunked')}${size}\r\nhello\r\n0\r\n\r\n`, 5)),
    // Begun and not finished.
    fc
      .nat(head(sign, `Content-Length: ${body.length}`).length + body.length - 1)
      .map(cut => given(`${head(sign, `Content-Length: ${body.length}`)}${body}`.slice(0, cut), 3)),
    fc
      .constantFrom('OPTIONS *', 'CONNECT localhost:443', 'TRACE /', 'PRI *', 'get /')
      .map(line => given(`${line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`, 5)),
    fc
      .constantFrom('HTTP/0.9', 'HTTP/2.0', 'HTTP/9.9', 'HTTP/1', '')
      .map(version => given(`GET /healthz ${version}\r\nHost: x\r\n\r\n`, 5)),
    fc
      .constantFrom('Upgrade: websocket', 'Upgrade: h2c', 'Expect: 100-continue', 'Expect: nothing')
      .map(line =>
        given(`${head(sign, 'Connection: Upgrade', line, `Content-Length: ${body.length}`)}${body}`, 5),
      ),
    fc
      .integer({ min: 2, max: 40 })
      .map(count => given(`GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n`.repeat(count), 8)),
  );

  function given(content: string | Buffer, patience_ms: number) {
    return { content: Buffer.from(content as string, 'latin1'), patience_ms };
  }

  it('two ideas of where a body ends are refused, and nothing behind them is answered', async () => {
    for (const lines of [
      ['Content-Length: 4', 'Transfer-Encoding: chunked'],
      ['Transfer-Encoding: chunked', 'Content-Length: 4'],
      ['Content-Length: 0', 'Content-Length: 44'],
      ['Transfer-Encoding: chunked, identity'],
    ]) {
      const socket = await developer.raw();
      socket.write(`${head(sign, ...lines)}0\r\n\r\nGET /v1/slots HTTP/1.1\r\nHost: x\r\n\r\n`);
      const answers = await received(socket);
      expect(answers.match(/HTTP\/1\.1 \d+/g)).toEqual(['HTTP/1.1 400']);
    }
  });

  it('many slow half requests do not keep others from being served', async () => {
    const slow = await Promise.all(Array.from({ length: 200 }, () => nobody.raw()));
    for (const socket of slow) {
      socket.on('error', () => undefined);
      socket.write(head(sign, 'Content-Length: 40').slice(0, 60));
    }
    await expectSigns();
    for (const socket of slow) socket.destroy();
  });
});

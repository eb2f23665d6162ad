import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { privateKeyFromSeed, publicKeyFromSeed, signMessage } from '../../src/foundation/ed25519.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { createApi } from '../../src/gateway/routes.ts';
import { withVaultTransit } from '../../src/gateway/vault-transit.ts';
import { classifyMessage } from '../../src/solana/message-kind.ts';
import type { Call, Custodian } from '../../src/wire/custodian.ts';
import { Device } from '../custodian/device.ts';
import { Lab, people, robot, sha256, type Who } from '../custodian/lab.ts';
import {
  type Compiled,
  compiledMessages,
  messageBytes,
  plain,
  plainV0,
  plainV1,
  signaturePlaces,
  wireBytes,
} from '../solana/compiled.ts';

interface Answer {
  readonly data?: Record<string, unknown> & {
    readonly signature?: string;
    readonly batch_results?: readonly Record<string, unknown>[];
  };
  readonly auth?: { readonly client_token: string } | null;
  readonly errors?: readonly string[];
  readonly code?: string;
}

interface Reply {
  readonly status: number;
  readonly headers: Headers;
  readonly json: Answer;
}

// The keys of `compiled.ts`: 1 and 2 are the signers of `plain`, 3 is none.
const seedOf = (number: number): Uint8Array => new Uint8Array(32).fill(number);

let device: Device;
let lab: Lab;
let url: string;
let elsewhere: string;
let off: string;
const servers: Server[] = [];

beforeAll(async () => {
  device = await Device.make();
  lab = await Lab.open({ slot: device.slot });
  for (const number of [1, 2, 3]) {
    const input = { key: `key-${number}`, slot: 'main' };
    await lab.ask('operator', 'import-key', input, { bytes: [seedOf(number)] });
  }
  url = await listen({ mount: 'transit' });
  elsewhere = await listen({ mount: 'team/keys-of-it', namespace: 'prod' });
  off = await listen(undefined);
});

afterAll(async () => {
  for (const server of servers) {
    server.closeAllConnections();
    server.close();
  }
  await lab[Symbol.asyncDispose]();
  await device[Symbol.asyncDispose]();
});

afterEach(() => {
  device.asked.length = 0;
});

/** The API over the lab's custodian, without TLS: people of the lab are known by their own tokens. */
async function listen(facade: { mount: string; namespace?: string } | undefined): Promise<string> {
  const custodian: Custodian = {
    call: (name, request, call) =>
      lab.custodian.call(name, request, {
        ...call,
        credential: credentials.get(digestOf(call)) ?? call.credential,
      }),
  };
  const app = createApi(custodian, silentLog, api => {
    if (facade) withVaultTransit(api, { custodian, log: silentLog, ...facade });
    return api;
  });
  const server = createServer({ keepAliveTimeout: 75_000 }, app);
  servers.push(server);
  await new Promise<void>(done => server.listen(0, '127.0.0.1', done));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** The people of the lab under tokens that a header can carry. */
const tokenOf = (who: Who) => `vault-token-of-${who}`;
const credentials = new Map(
  Object.values(people).flatMap(person =>
    'credential' in person ? [[sha256(`vault-token-of-${person.name}`), person.credential] as const] : [],
  ),
);
const digestOf = ({ credential }: Call) => (credential && 'token' in credential ? credential.token : '');

interface Sent {
  readonly who?: Who | 'nobody';
  readonly body?: unknown;
  readonly headers?: Record<string, string>;
  readonly base?: string;
}

async function send(method: string, path: string, { who = 'both', body, headers, base = url }: Sent = {}) {
  const response = await fetch(`${base}${path}`, {
    method,
    headers: {
      ...(who === 'nobody' ? {} : { 'X-Vault-Token': tokenOf(who) }),
      ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  const text = await response.text();
  const json = (text === '' ? {} : JSON.parse(text)) as Answer;
  return { status: response.status, headers: response.headers, json } satisfies Reply;
}

const base64 = (bytes: string | Uint8Array) => Buffer.from(bytes as Uint8Array).toString('base64');
const hello = { input: base64('hello') };
const sign = (body: unknown, key = 'key-1', more: Sent = {}) =>
  send('POST', `/v1/transit/sign/${key}`, { body, ...more });
const verify = (body: unknown, key = 'key-1', more: Sent = {}) =>
  send('POST', `/v1/transit/verify/${key}`, { body, ...more });

const signatureOf = async (message: string | Uint8Array, number = 1) =>
  `vault:v1:${base64(await signMessage(privateKeyFromSeed(seedOf(number)), Buffer.from(message as Uint8Array)))}`;

/** Where a signature stands in the audit log; not of Vault, whose clients leave it alone. */
const receipt = {
  node: 'lab',
  seq: expect.any(Number),
  hash: expect.stringMatching(/^[0-9a-f]{64}$/),
  proof: expect.stringMatching(/^\/v1\/audit\/\d+\/proof$/),
};

/** In Vault's words, and nothing else in it. */
function expectErrors(reply: Reply, status: number, ...texts: (string | RegExp)[]): void {
  expect({ status: reply.status, json: reply.json }).toEqual({
    status,
    json: { errors: texts.map(text => (typeof text === 'string' ? text : expect.stringMatching(text))) },
  });
  expect(reply.headers.get('content-type')).toBe('application/json');
  expect(reply.headers.get('cache-control')).toBe('no-store');
}

describe('signing', () => {
  it('answers with version 1 of the key over exactly these bytes, in Vault’s envelope', async () => {
    const { status, json, headers } = await sign(hello);
    expect(status).toBe(200);
    expect(json).toEqual({
      request_id: headers.get('request-id'),
      lease_id: '',
      renewable: false,
      lease_duration: 0,
      data: { signature: await signatureOf('hello'), key_version: 1, receipt },
      wrap_info: null,
      warnings: null,
      auth: null,
    });
  });

  it.each([plain, plainV0, plainV1])(
    'takes the message of a $version transaction, for each of its signers',
    async parts => {
      for (const number of [1, 2]) {
        const message = messageBytes(parts);
        const { json } = await sign({ input: base64(message) }, `key-${number}`);
        expect(json.data).toEqual({ signature: await signatureOf(message, number), key_version: 1, receipt });
      }
      const foreign = await sign({ input: base64(messageBytes(parts)) }, 'key-3');
      expectErrors(foreign, 400, /KEY_NOT_A_SIGNER/);
      expect(device.asked).toHaveLength(2);
    },
  );

  it('of a batch answers an item each, in order, with its reference', async () => {
    const batch_input = [
      { input: base64('one'), reference: 'first' },
      { input: base64(messageBytes({ ...plain, keys: [seedOf(9), seedOf(8), seedOf(7), seedOf(6)] })) },
      { input: base64(messageBytes(plain)), reference: '' },
      { input: '', reference: 'empty' },
    ];
    const { status, json } = await sign({ batch_input });
    expect(status).toBe(200);
    expect(json.data?.batch_results).toEqual([
      { signature: await signatureOf('one'), key_version: 1, receipt, reference: 'first' },
      { error: expect.stringContaining('KEY_NOT_A_SIGNER') },
      { signature: await signatureOf(messageBytes(plain)), key_version: 1, receipt, reference: '' },
      { error: expect.stringContaining('MESSAGE_EMPTY'), reference: 'empty' },
    ]);
  });

  it('is the same by POST and PUT, with what changes nothing, and as Vault’s own clients send it', async () => {
    const expected = { signature: await signatureOf('hello'), key_version: 1, receipt };
    const harmless = {
      ...hello,
      prehashed: false,
      hash_algorithm: 'none',
      signature_algorithm: 'ed25519',
      marshaling_algorithm: 'asn1',
      context: '',
      key_version: 0,
      batch_input: null,
    };
    const texts = { ...hello, prehashed: 'false', key_version: '1', hash_algorithm: '' };
    const nulls = { ...hello, prehashed: null, hash_algorithm: null, key_version: null, context: null };
    for (const body of [hello, harmless, texts, nulls]) {
      expect((await sign(body)).json.data).toEqual(expected);
      expect((await send('PUT', '/v1/transit/sign/key-1', { body })).json.data).toEqual(expected);
    }
    expect((await send('POST', '/v1/transit/sign/key-1/none', { body: hello })).json.data).toEqual(expected);
    const headers = { 'Content-Type': 'application/x-www-form-urlencoded', 'X-Vault-Request': 'true' };
    expect((await sign(hello, 'key-1', { headers })).json.data).toEqual(expected);
    const untyped = await fetch(`${url}/v1/transit/sign/key-1`, {
      method: 'PUT',
      headers: { 'X-Vault-Token': tokenOf('both') },
      body: new Uint8Array(Buffer.from(JSON.stringify(hello))), // bytes go out without a type
    });
    expect(((await untyped.json()) as Answer).data).toEqual(expected);
  });

  const refused: readonly (readonly [string, unknown])[] = [
    ['prehashed', { ...hello, prehashed: true }],
    ['prehashed as a text', { ...hello, prehashed: 'true' }],
    ['a hash algorithm', { ...hello, hash_algorithm: 'sha2-256' }],
    ['a hash algorithm by its older name', { ...hello, algorithm: 'sha2-512' }],
    ['a signature algorithm', { ...hello, signature_algorithm: 'pkcs1v15' }],
    ['the prehashed variant', { ...hello, signature_algorithm: 'ed25519ph' }],
    ['a derivation context', { ...hello, context: 'YWJj' }],
    ['a derivation context of an item', { batch_input: [{ ...hello, context: 'YWJj' }] }],
    ['another encoding of signatures', { ...hello, marshaling_algorithm: 'jws' }],
    ['another version of the key', { ...hello, key_version: 2 }],
    ['a version below the first', { ...hello, key_version: -1 }],
    ['a field that nobody knows', { ...hello, salt_length: 'auto' }],
    ['an item with a field that nobody knows', { batch_input: [{ ...hello, key_version: 1 }] }],
    ['no input', {}],
    ['both inputs', { ...hello, batch_input: [hello] }],
    ['an input that is no base64', { input: 'hello' }],
    ['an input of the URL alphabet', { input: '__8=' }],
    ['an input without padding', { input: 'aGk' }],
    ['a batch of none', { batch_input: [] }],
    ['a batch of 101', { batch_input: Array(101).fill(hello) }],
    ['a batch with an item that is no base64', { batch_input: [hello, { input: '?' }] }],
    ['a batch that is a text', { batch_input: JSON.stringify([hello]) }],
    ['a list', [hello]],
    ['no JSON', '{"input"'],
  ];

  it.each(refused)('refuses %s, and the device never hears of it', async (_what, body) => {
    expectErrors(await sign(body), 400, /^.+ \([A-Z0-9_]+\)$/);
    expect(device.asked).toEqual([]);
  });

  it('refuses an input that is empty', async () => {
    expectErrors(await sign({ input: '' }), 400, /MESSAGE_EMPTY/);
  });

  it('refuses a hash in the path, and whatever stands in the query', async () => {
    for (const path of ['key-1/sha2-256', 'key-1/ed25519ph', 'key-1?prehashed=true', 'key-1?key_version=1']) {
      expectErrors(await send('POST', `/v1/transit/sign/${path}`, { body: hello }), 400, /BODY_|QUERY_/);
    }
    expect(device.asked).toEqual([]);
  });

  it('refuses bodies that are too large or of another type', async () => {
    expectErrors(await sign({ input: base64('x'.repeat(16_001)) }), 413, /MESSAGE_TOO_LARGE/);
    expectErrors(await sign(' '.repeat(1_100_000)), 413, /BODY_TOO_LARGE/);
    const xml = { headers: { 'Content-Type': 'text/xml' } };
    expectErrors(await sign(hello, 'key-1', xml), 415, /CONTENT_TYPE_UNSUPPORTED/);
    const zipped = { headers: { 'Content-Encoding': 'gzip' } };
    expectErrors(await sign(hello, 'key-1', zipped), 415, /CONTENT_TYPE_UNSUPPORTED/);
  });

  it('takes a body of another type from nobody whom a web page could speak for', async () => {
    const form = { 'Content-Type': 'application/x-www-form-urlencoded' };
    const bearer = { ...form, Authorization: `Bearer ${'x'.repeat(20)}` };
    for (const headers of [form, bearer]) {
      const reply = await sign(hello, 'key-1', { who: 'nobody', headers });
      expectErrors(reply, 415, /CONTENT_TYPE_UNSUPPORTED/);
    }
  });
});

describe('the verdict on the same bytes', () => {
  const native = async (bytes: Uint8Array, key: string, kind: 'message' | 'transaction') => {
    const operation = `sign-${kind}` as const;
    const reply = await lab.ask('both', operation, { key }, { bytes: [bytes] }).catch(error => error);
    return (reply.code as string | undefined) ?? `vault:v1:${base64(reply.bytes[0])}`;
  };
  const facade = async (bytes: Uint8Array, key: string) => {
    const { json } = await sign({ input: base64(bytes) }, key);
    return json.data?.signature ?? /\(([A-Z0-9_]+)\)$/.exec(json.errors?.[0] ?? '')?.[1];
  };
  const unsigned = (parts: Compiled) =>
    wireBytes(
      parts,
      signaturePlaces(parts.required).map(place => place.fill(0)),
    );
  const offchain = Buffer.concat([
    Buffer.from('ff736f6c616e61206f6666636861696e', 'hex'),
    Uint8Array.of(0),
    new Uint8Array(32).fill(7),
    Uint8Array.of(0, 1),
    publicKeyFromSeed(seedOf(1)),
    Uint8Array.of(5, 0),
    Buffer.from('hello'),
  ]);

  const messages: Readonly<Record<string, Uint8Array>> = {
    text: Buffer.from('hello'),
    'a hash': new Uint8Array(32).fill(0xab),
    'an off-chain envelope': offchain,
    'an off-chain envelope that is cut': offchain.subarray(0, 40),
    'the off-chain domain alone': offchain.subarray(0, 16),
    nothing: new Uint8Array(),
    'too many bytes': new Uint8Array(16_001).fill(120),
    'a wire transaction': wireBytes(plain),
    'a wire transaction of v1': wireBytes(plainV1),
  };

  for (const [what, bytes] of Object.entries(messages)) {
    it(`is the one of sign-message for ${what}`, async () => {
      for (const key of ['key-1', 'key-3']) {
        const expected = await native(bytes, key, 'message');
        const answer = await facade(bytes, key);
        // What only looks like the message of a transaction passes as one, and is none.
        if (expected === 'MESSAGE_IS_TRANSACTION') expect(answer).toMatch(/^TRANSACTION_/);
        else expect(answer).toBe(expected);
      }
    });
  }

  const wrong: readonly (readonly [string, Compiled])[] = [
    ['a plain one', plain],
    ['a v0 one', plainV0],
    ['a v1 one', plainV1],
    ['one with no signer', { ...plain, required: 0, readonlySigned: 0 }],
    ['one with too many signers', { ...plain, required: 13 }],
    ['one with more signers than keys', { ...plain, required: 5 }],
    ['one whose payer is read-only', { ...plain, readonlySigned: 2 }],
    ['one with a key twice', { ...plain, keys: [...plain.keys.slice(0, 3), plain.keys[0] ?? seedOf(0)] }],
    ['one that names an account it has not', { ...plain, instructions: [wrongInstruction(200)] }],
    ['one that is too large', { ...plain, instructions: [wrongInstruction(0, 1_200)] }],
    ['a v1 one with bits nobody knows', { ...plainV1, mask: 0b100000, config: [1] }],
    ['a v0 one with a lookup of nothing', { ...plainV0, lookups: [emptyLookup] }],
  ];

  it.each(wrong)('is the one of sign-transaction for the message of %s', async (_what, parts) => {
    for (const key of ['key-1', 'key-2', 'key-3']) {
      expect(await facade(messageBytes(parts), key)).toBe(await native(unsigned(parts), key, 'transaction'));
    }
  });

  it('is the one of sign-transaction for every message that can be compiled', async () => {
    await fc.assert(
      fc.asyncProperty(compiledMessages, async parts => {
        const key = 'key-1';
        expect(await facade(messageBytes(parts), key)).toBe(
          await native(unsigned(parts), key, 'transaction'),
        );
      }),
      { numRuns: 100 },
    );
  });

  it('is never a signature of what sign-message calls a transaction, unless sign-transaction signs it too', async () => {
    const any = fc.oneof(
      fc.uint8Array({ minLength: 1, maxLength: 300 }),
      compiledMessages.chain(parts => {
        const bytes = messageBytes(parts);
        return fc
          .tuple(fc.nat(bytes.length - 1), fc.nat(255), fc.uint8Array({ maxLength: 3 }))
          .map(([at, value, more]) => Buffer.concat([bytes.with(at, value), more]));
      }),
    );
    await fc.assert(
      fc.asyncProperty(any, async bytes => {
        const verdict = await native(bytes, 'key-1', 'message');
        const answer = await facade(bytes, 'key-1');
        const isMessage =
          verdict === 'MESSAGE_IS_TRANSACTION' && classifyMessage(bytes).kind === 'transaction';
        if (isMessage) expect(answer).not.toBe('MESSAGE_IS_TRANSACTION');
        else expect(answer).toBe(verdict);
        if (verdict !== 'MESSAGE_IS_TRANSACTION' || !answer?.startsWith('vault:')) return;
        const version = bytes[0] ?? 0;
        const required = bytes[version < 0x80 ? 0 : 1] ?? 0;
        const places = new Uint8Array(64 * required);
        const wire =
          version === 0x81
            ? Buffer.concat([bytes, places])
            : Buffer.concat([Uint8Array.of(required), places, bytes]);
        expect(await native(wire, 'key-1', 'transaction')).toBe(answer);
      }),
      { numRuns: 300 },
    );
  });
});

function wrongInstruction(account: number, data_bytes = 1) {
  return { programIndex: 3, accounts: [account], data: new Uint8Array(data_bytes) };
}
const emptyLookup = { table: seedOf(5), writable: [], readonly: [] };

describe('verifying', () => {
  it('says of each signature whether it is one of these bytes', async () => {
    const signature = await signatureOf('hello');
    const other = await signatureOf('hello', 2);
    expect((await verify({ ...hello, signature })).json.data).toEqual({ valid: true });
    expect((await verify({ ...hello, signature: other })).json.data).toEqual({ valid: false });
    expect((await verify({ ...hello, signature: 'vault:v1:AAAA' })).json.data).toEqual({ valid: false });
    const batch_input = [
      { ...hello, signature, reference: 'a' },
      { input: base64('other'), signature },
    ];
    expect((await verify({ batch_input })).json.data).toEqual({
      batch_results: [{ valid: true, reference: 'a' }, { valid: false }],
    });
  });

  it('refuses other forms of signatures, and what signing refuses', async () => {
    const signature = await signatureOf('hello');
    const bare = signature.slice('vault:v1:'.length);
    for (const wrong of ['', bare, `vault:v2:${bare}`, `vault:v1:${bare}=`, undefined]) {
      expectErrors(await verify({ ...hello, signature: wrong }), 400, /SIGNATURE_ENCODING|BODY_INVALID/);
    }
    for (const more of [{ prehashed: true }, { hash_algorithm: 'sha2-256' }, { hmac: 'x' }, { context: 'x' }])
      expectErrors(await verify({ ...hello, signature, ...more }), 400, /BODY_INVALID|FIELD_UNKNOWN/);
    const hashed = await send('POST', '/v1/transit/verify/key-1/sha2-256', { body: { ...hello, signature } });
    expectErrors(hashed, 400, /BODY_INVALID/);
  });
});

describe('reading keys', () => {
  it('shows one as a key of Vault that signs and does nothing else', async () => {
    const { json } = await send('GET', '/v1/transit/keys/key-1');
    expect(json.data).toMatchObject({
      name: 'key-1',
      type: 'ed25519',
      supports_signing: true,
      supports_encryption: false,
      supports_decryption: false,
      supports_derivation: false,
      derived: false,
      exportable: false,
      deletion_allowed: false,
      latest_version: 1,
      min_available_version: 0,
      min_decryption_version: 1,
      keys: {
        1: {
          name: 'ed25519',
          public_key: base64(publicKeyFromSeed(seedOf(1))),
          creation_time: expect.stringMatching(/^\d{4}-\d\d-\d\dT/),
        },
      },
    });
  });

  it('lists their names, or those behind one', async () => {
    for (const query of ['', '?list=true', '?list=true&after=', '?limit=-1']) {
      const { json } = await send('GET', `/v1/transit/keys${query}`);
      expect(json.data).toEqual({ keys: ['key-1', 'key-2', 'key-3'] });
    }
    const page = await send('GET', '/v1/transit/keys?list=true&after=key-1&limit=1');
    expect(page.json).toMatchObject({ data: { keys: ['key-2'] }, warnings: null });
    expectErrors(await send('GET', '/v1/transit/keys?limit=many'), 400, /QUERY_INVALID/);
  });
});

describe('who asks', () => {
  it('is nobody without a token, and with a wrong one', async () => {
    const right = tokenOf('both');
    const wrong = ['', 'short', 'token of both', `${right}x`, `${right}, ${right}`, sha256(right)];
    const tokens = wrong.map(token => ({ 'X-Vault-Token': token }));
    for (const headers of [{}, { Authorization: 'x' }, { 'X-Vault-Namespace': 'root' }, ...tokens]) {
      for (const [method, path] of [
        ['POST', 'sign/key-1'],
        ['POST', 'verify/key-1'],
        ['GET', 'keys'],
        ['GET', 'keys/key-1'],
      ] as const) {
        const body = method === 'POST' ? { body: { ...hello, signature: undefined } } : {};
        if (path.startsWith('verify')) body.body = { ...hello, signature: (await signatureOf('x')) as never };
        const reply = await send(method, `/v1/transit/${path}`, { who: 'nobody', headers, ...body });
        expectErrors(reply, 403, 'permission denied');
      }
    }
  });

  it('is not told a key of somebody else from one that does not exist, or cannot', async () => {
    const signature = await signatureOf('hello');
    const who = 'ungranted';
    for (const key of ['key-1', 'missing', 'NO-KEY', '%2e%2e%2fetc', '__proto__']) {
      expectErrors(await sign(hello, key, { who }), 400, 'signing key not found');
      expectErrors(await sign({ batch_input: [hello] }, key, { who }), 400, 'signing key not found');
      expectErrors(await verify({ ...hello, signature }, key, { who }), 400, 'signing key not found');
      expectErrors(await send('GET', `/v1/transit/keys/${key}`, { who }), 404);
    }
    expectErrors(await send('GET', '/v1/transit/keys', { who }), 404);
    expect(device.asked).toEqual([]);
  });

  it('needs the role of a signer, whatever the key', async () => {
    for (const key of ['key-1', 'missing']) {
      expectErrors(
        await sign(hello, key, { who: 'operator' }),
        403,
        'permission denied',
        /PERMISSION_DENIED/,
      );
    }
  });

  it('may say the token as a bearer token', async () => {
    const { json } = await send('POST', '/v1/auth/approle/login', {
      who: 'nobody',
      body: { role_id: robot.roleId, secret_id: robot.secretId },
    });
    const headers = { Authorization: `Bearer ${json.auth?.client_token}` };
    const reply = await sign(hello, 'key-1', { who: 'nobody', headers });
    expect(reply.json.data?.signature).toBe(await signatureOf('hello'));
  });

  it('is whose token it is, even when another token is a bearer token', async () => {
    const headers = { Authorization: `Bearer ${tokenOf('both')}` };
    expectErrors(await sign(hello, 'key-1', { who: 'ungranted', headers }), 400, 'signing key not found');
    expect((await sign(hello, 'key-1', { who: 'nobody', headers })).status).toBe(200);
  });

  it('is not known by X-Vault-Token outside of these routes', async () => {
    const reply = await send('GET', '/v1/keys');
    expect({ status: reply.status, code: reply.json.code }).toEqual({
      status: 401,
      code: 'CREDENTIAL_MISSING',
    });
  });

  it('has to log in with both halves, and its token ends with its lease', async () => {
    const login = (body: unknown, headers?: Record<string, string>) =>
      send('POST', '/v1/auth/approle/login', { who: 'nobody', body, ...(headers ? { headers } : {}) });
    const right = { role_id: robot.roleId, secret_id: robot.secretId };
    const form = { 'Content-Type': 'application/x-www-form-urlencoded' };
    const { status, json } = await login(right, form);
    expect(status).toBe(200);
    const token = json.auth?.client_token ?? '';
    expect(json.auth).toEqual({
      client_token: expect.stringMatching(/^[A-Za-z0-9_-]{43}$/),
      accessor: '',
      policies: [],
      token_policies: [],
      metadata: { role_name: 'robot' },
      lease_duration: 3_600,
      renewable: false,
      entity_id: '',
      token_type: 'service',
      orphan: true,
      mfa_requirement: null,
      num_uses: 0,
    });
    const headers = { 'X-Vault-Token': token };
    expect((await sign(hello, 'key-1', { headers })).status).toBe(200);
    lab.clock.advance(3_600_000);
    expectErrors(await sign(hello, 'key-1', { headers }), 403, 'permission denied');

    for (const body of [
      {},
      { role_id: robot.roleId },
      { ...right, token_ttl: 1 },
      { ...right, role_id: 1 },
    ]) {
      expectErrors(await login(body), 400, /BODY_INVALID|FIELD_UNKNOWN/);
    }
    expectErrors(await login({ ...right, role_id: 'nobody' }), 400, 'invalid role or secret ID');
    expectErrors(await login({ ...right, secret_id: 'wrong' }), 400, 'invalid role or secret ID');
    const waiting = await login(right);
    expectErrors(waiting, 429, 'too many failed logins');
    expect(waiting.headers.get('retry-after')).toBe('1');
    lab.clock.advance(1_000);
    expect((await login(right)).status).toBe(200);
  });

  it('is asked for its PIN session where the slot takes one', async () => {
    await using own = await Device.make();
    await using inside = await Lab.open({ slot: own.slot, access: 'both' });
    await inside.ask('operator', 'generate-key', { key: 'key-1', slot: 'main' });
    const before = lab;
    lab = inside;
    try {
      const reply = await sign(hello);
      expectErrors(reply, 403, 'permission denied', /SESSION_REQUIRED/);
      const session = await inside.session('both');
      expect((await sign(hello, 'key-1', { headers: { 'Keyslot-Session': session } })).status).toBe(200);
    } finally {
      lab = before;
    }
  });
});

describe('the state', () => {
  const state = async (query = '') => {
    const { status, json } = await send('GET', `/v1/sys/health${query}`, { who: 'nobody' });
    return { status, json };
  };

  it('is told to whoever asks, and is sealed while no slot is open', async () => {
    expect(await state('?standbyok=true')).toEqual({
      status: 200,
      json: {
        initialized: true,
        sealed: false,
        standby: false,
        performance_standby: false,
        replication_performance_mode: 'disabled',
        replication_dr_mode: 'disabled',
        server_time_utc: expect.any(Number),
        version: expect.stringMatching(/^\d+\.\d+\.\d+/),
        cluster_name: 'keyslot',
        cluster_id: '',
      },
    });
    expect((await send('HEAD', '/v1/sys/health')).status).toBe(200);
    await lab.ask('operator', 'lock-slot', { slot: 'main' });
    try {
      expect(await state()).toMatchObject({ status: 503, json: { sealed: true, initialized: true } });
      const locked = await sign(hello);
      expectErrors(locked, 503, /SLOT_LOCKED/);
      expect(locked.headers.get('retry-after')).toBeNull(); // it needs an operator and no patience
      expect((await send('GET', '/v1/transit/keys/key-1')).status).toBe(200);
    } finally {
      await lab.ask('operator', 'open-slot', { slot: 'main' });
    }
    expect((await state()).status).toBe(200);
  });

  it('of a token that fails is 503 and when to come back, and not what failed below', async () => {
    const cause = new TypeError('a text from below');
    try {
      device.onSign = () => Promise.reject(new KeyslotError('TOKEN_ERROR', 'CKR_DEVICE_ERROR.', { cause }));
      const reply = await sign(hello);
      expectErrors(reply, 503, 'CKR_DEVICE_ERROR. (TOKEN_ERROR)');
      expect(reply.headers.get('retry-after')).toBe('1');
      device.onSign = () => Promise.reject(cause);
      expectErrors(await sign(hello), 500, /^An unexpected error stopped this request. \(INTERNAL\)$/);
    } finally {
      device.onSign = ({ honest }) => honest();
    }
  });
});

describe('paths', () => {
  it('that are none of these are refused in Vault’s words', async () => {
    for (const path of [
      '/v1/transit',
      '/v1/transit/encrypt/key-1',
      '/v1/transit/export/signing-key/key-1',
      '/v1/transit/keys/key-1/rotate',
      '/v1/auth/token/create',
      '/v1/sys/seal',
      '/v1/transit/keys/%zz',
    ]) {
      expectErrors(await send('POST', path, { body: {} }), 404, /ROUTE_UNKNOWN/);
    }
    const reply = await send('DELETE', '/v1/transit/keys/key-1');
    expectErrors(reply, 405, /METHOD_NOT_ALLOWED/);
    expect(reply.headers.get('allow')).toBe('GET');
    expectErrors(await send('GET', '/v1/transit/sign/key-1'), 405, /METHOD_NOT_ALLOWED/);
  });

  it('are elsewhere when the engine is mounted elsewhere, and in their namespace alone', async () => {
    const at = { base: elsewhere, body: hello };
    const path = '/v1/team/keys-of-it/sign/key-1';
    for (const namespace of ['prod', 'prod/', '/prod']) {
      const headers = { 'X-Vault-Namespace': namespace };
      expect((await send('POST', path, { ...at, headers })).status).toBe(200);
    }
    for (const headers of [{}, { 'X-Vault-Namespace': 'test' }, { 'X-Vault-Namespace': 'prod/x' }]) {
      expectErrors(await send('POST', path, { ...at, headers }), 403, 'permission denied', /Namespace/);
    }
    expect((await send('POST', '/v1/transit/sign/key-1', at)).json.code).toBe('ROUTE_UNKNOWN');
    expect((await send('GET', '/v1/sys/health', { base: elsewhere })).status).toBe(200);
    expect((await sign(hello, 'key-1', { headers: { 'X-Vault-Namespace': 'anything' } })).status).toBe(200);
  });

  it('do not exist while the facade is off', async () => {
    for (const [method, path] of [
      ['POST', '/v1/transit/sign/key-1'],
      ['GET', '/v1/transit/keys'],
      ['POST', '/v1/auth/approle/login'],
      ['GET', '/v1/sys/health'],
    ] as const) {
      const { status, json } = await send(method, path, { base: off });
      expect({ status, code: json.code }).toEqual({ status: 404, code: 'ROUTE_UNKNOWN' });
    }
  });

  it('leave the native routes as they are', async () => {
    const headers = { Authorization: `Bearer ${'x'.repeat(20)}` };
    const { status, json } = await send('GET', '/v1/keys/key-1', { who: 'nobody', headers });
    expect({ status, code: json.code }).toEqual({ status: 401, code: 'CREDENTIAL_UNKNOWN' });
  });
});

it('a thousand signatures at once are each of their own message', async () => {
  const messages = Array.from({ length: 1_000 }, (_, at) => `message ${at}`);
  const replies = await Promise.all(messages.map(message => sign({ input: base64(message) })));
  expect(replies.map(({ json }) => json.data?.signature)).toEqual(
    await Promise.all(messages.map(message => signatureOf(message))),
  );
});

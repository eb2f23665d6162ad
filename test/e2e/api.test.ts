import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createAuthority } from '../../src/appliance/certificates.ts';
import { decodeBase58, encodeBase58 } from '../../src/foundation/base58.ts';
import { lineValue, parseExposition } from '../gateway/exposition.ts';
import { plain, wireBytes } from '../solana/compiled.ts';
import {
  type Appliance,
  base64,
  Client,
  childrenOf,
  eventually,
  expectProblem,
  type Home,
  prepareHome,
  type Reply,
  root,
  serve,
} from './appliance.ts';
import { Chain, isSignature, other, readWire, signedBy, transfers, versions } from './transactions.ts';

let home: Home;
let appliance: Appliance;
let developer: Client;
let bearer: Client;
let nobody: Client;
let signer: Client;
let outsider: Client;
let pin: string;

beforeAll(async () => {
  home = await prepareHome();
  home.configure(config => {
    for (const access of ['session', 'both']) {
      config.slots.push({ id: access, engine: 'memory', pin: { file: 'secrets/user.pin' }, access });
    }
  });
  const issuedSigner = await home.addIdentity('signer', ['signer'], ['main', 'both']);
  const issuedOutsider = await home.addIdentity('outsider', ['operator', 'signer'], ['both']);
  pin = home.secret('user.pin');
  appliance = await serve(home);
  developer = appliance.client();
  bearer = appliance.client({ token: home.secret('developer.token') });
  nobody = appliance.client('nobody');
  signer = appliance.client(issuedSigner);
  outsider = appliance.client(issuedOutsider);
  for (const slot of ['main', 'session', 'both']) {
    expect((await developer.post('/v1/keys', { id: `in-${slot}`, slot })).status).toBe(201);
  }
});

afterAll(async () => {
  for (const client of [developer, bearer, nobody, signer, outsider]) client?.close();
  const exit = await appliance?.stop();
  home?.remove();
  expect(exit?.status).toBe(0);
});

const hello = base64('hello');
const path = '/v1/keys/in-main';

async function addressOf(key: string): Promise<string> {
  return (await developer.get(`/v1/keys/${key}`)).json.publicKey ?? '';
}

describe('health', () => {
  it('is told on both listeners, to whoever asks', async () => {
    const ops = new Client(appliance.opsUrl, nobody.tls);
    for (const client of [nobody, ops]) {
      expect((await client.get('/healthz')).json).toEqual({ status: 'ok' });
      const ready = await client.get('/readyz');
      expect(ready.status).toBe(200);
      expect(ready.json.ready).toBe(true);
      expect(ready.json.checks?.map(({ id, ok }) => [id, ok])).toEqual([
        ['slot/main', true],
        ['slot/session', true],
        ['slot/both', true],
        ['audit', true],
      ]);
      const canary = expect.objectContaining({ state: 'proven', every_s: 30 });
      expect(ready.json.checks).toContainEqual(expect.objectContaining({ id: 'slot/main', canary }));
    }
    ops.close();
  });

  it('says 503 while a slot is locked, and the ops listener has no keys', async () => {
    const ops = new Client(appliance.opsUrl, developer.tls);
    await developer.post('/v1/slots/both/lock', {});
    const ready = await ops.get('/readyz');
    expect(ready.status).toBe(503);
    expect(ready.json.checks).toContainEqual({
      id: 'slot/both',
      ok: false,
      state: 'locked',
      custody: 'memory',
      since: expect.any(String),
      required: true,
      findings: { all: 0, harmful: 0 },
    });
    expect((await developer.post('/v1/slots/both/open', {})).json.state).toBe('open');
    expect((await ops.get('/readyz')).status).toBe(200);
    expectProblem(await ops.get('/v1/keys'), 404, 'ROUTE_UNKNOWN');
    expectProblem(await ops.post(`${path}/sign-message`, { message: hello }), 404, 'ROUTE_UNKNOWN');
    ops.close();
  });

  it('is told in numbers by both processes, those of the token among them', async () => {
    const ops = new Client(appliance.opsUrl, nobody.tls);
    const { status, text } = await ops.get('/metrics');
    expect(status).toBe(200);
    const families = parseExposition(text);
    for (const process of ['gateway', 'custodian']) {
      expect(lineValue(families, 'process_resident_memory_bytes', { process })).toBeGreaterThan(1e7);
      expect(lineValue(families, 'keyslot_process_restarts_total', { process })).toBe(0);
    }
    const slot = 'main';
    const idle = lineValue(families, 'keyslot_pkcs11_sessions', { slot, state: 'idle' });
    expect(idle).toBe(lineValue(families, 'keyslot_pkcs11_sessions_max', { slot }));
    expect(lineValue(families, 'keyslot_canary_proven', { slot })).toBe(1);
    expect((await ops.get('/v1/health')).status).toBe(200);
    ops.close();
  });

  it('says that it drains after SIGUSR2, until that is ended', async () => {
    const ops = new Client(appliance.opsUrl, nobody.tls);
    process.kill(appliance.pid, 'SIGUSR2');
    let ready = await ops.get('/readyz');
    while (ready.status === 200) ready = await ops.get('/readyz');
    expect(ready.json.checks).toContainEqual({ id: 'drain', ok: false, state: 'draining' });
    expect((await developer.post('/v1/drain', { drain: false })).status).toBe(200);
    expect((await ops.get('/readyz')).status).toBe(200);
    ops.close();
  });
});

describe('slots', () => {
  it('are listed and shown with what they are', async () => {
    const { json } = await developer.get('/v1/slots');
    expect(json.slots?.map(slot => [slot.id, slot.state, slot.access, slot.custody])).toEqual([
      ['main', 'open', 'identity', 'hsm-native'],
      ['session', 'open', 'session', 'memory'],
      ['both', 'open', 'both', 'memory'],
    ]);
    const main = (await developer.get('/v1/slots/main')).json;
    expect(main).toEqual(json.slots?.[0]);
    expect(main.details).toMatchObject({ module: home.module, tokenLabel: 'keyslot', eddsa: true });
    expectProblem(await developer.get('/v1/slots/none'), 404, 'SLOT_UNKNOWN');
  });

  it('are locked and opened: a locked one refuses to sign and still verifies', async () => {
    const signed = (await developer.post(`${path}/sign-message`, { message: hello })).json;
    expect((await developer.post('/v1/slots/main/lock', {})).json.state).toBe('locked');
    expectProblem(await developer.post(`${path}/sign-message`, { message: hello }), 423, 'SLOT_LOCKED');
    expectProblem(await developer.post('/v1/keys', { id: 'locked', slot: 'main' }), 423, 'SLOT_LOCKED');
    expectProblem(await developer.get('/v1/keys/locked'), 404, 'KEY_UNKNOWN');
    const verified = { message: hello, signature: signed.signature };
    expect((await developer.post(`${path}/verify`, verified)).json.valid).toBe(true);
    expect((await developer.post('/v1/slots/main/open', { pin })).json.state).toBe('open');
    expect((await developer.post('/v1/slots/main/open', {})).json.state).toBe('open');
    const again = await developer.post(`${path}/sign-message`, { message: hello });
    expect(again.json.signature).toBe(signed.signature);
  });

  it('answer a wrong PIN on an open slot without telling the token, then slow its sender down', async () => {
    expectProblem(await bearer.post('/v1/slots/main/open', { pin: 'wrong' }), 401, 'PIN_INCORRECT');
    const limited = await bearer.post('/v1/slots/main/open', { pin });
    expectProblem(limited, 429, 'PIN_RATE_LIMITED');
    expect(limited.headers['retry-after']).toBe('1');
    expect(limited.json.retryable).toBe(true);
    expect((await developer.post('/v1/slots/main/open', { pin })).status).toBe(200);
    expect((await developer.get('/v1/slots/main')).json.details?.pinCountLow).toBe(false);
  });
});

describe('sessions', () => {
  it('let whoever has opened one with the PIN sign, until it is closed', async () => {
    const { status, json } = await signer.post('/v1/slots/session/sessions', { pin });
    expect(status).toBe(201);
    expect(json).toMatchObject({ slot: 'session', token: expect.any(String), expiresAt: expect.any(String) });
    const session = { 'Keyslot-Session': json.token ?? '' };
    const sign = (who: Client, headers = {}) =>
      who.post('/v1/keys/in-session/sign-message', { message: hello }, headers);
    expectProblem(await sign(signer), 401, 'SESSION_REQUIRED');
    expect((await sign(signer, session)).status).toBe(200);
    expectProblem(await sign(developer, session), 403, 'SESSION_FOREIGN');
    expectProblem(
      await signer.post('/v1/keys/in-both/sign-message', { message: hello }, session),
      403,
      'SESSION_FOREIGN',
    );
    expectProblem(
      await developer.send('DELETE', '/v1/sessions/current', { headers: session }),
      403,
      'SESSION_FOREIGN',
    );
    expect((await signer.send('DELETE', '/v1/sessions/current', { headers: session })).status).toBe(200);
    expectProblem(await sign(signer, session), 401, 'SESSION_EXPIRED');
  });

  it('may come as the bearer token of who has a certificate, and of nobody else', async () => {
    const { json } = await signer.post('/v1/slots/session/sessions', { pin });
    const authorization = { Authorization: `Bearer ${json.token}` };
    const sign = (who: Client) =>
      who.post('/v1/keys/in-session/sign-message', { message: hello }, authorization);
    expect((await sign(signer)).status).toBe(200);
    expectProblem(await sign(developer), 403, 'SESSION_FOREIGN');
    expectProblem(await sign(nobody), 401, 'CREDENTIAL_UNKNOWN');
  });

  it('are wanted beside the grant where a slot asks for both', async () => {
    const sign = (who: Client, headers = {}) =>
      who.post('/v1/keys/in-both/sign-message', { message: hello }, headers);
    expectProblem(await sign(signer), 401, 'SESSION_REQUIRED');
    const { json } = await signer.post('/v1/slots/both/sessions', { pin });
    const session = { 'Keyslot-Session': json.token ?? '' };
    expect((await sign(signer, session)).status).toBe(200);
    await developer.post('/v1/slots/both/lock', {});
    await developer.post('/v1/slots/both/open', {});
    expectProblem(await sign(signer, session), 401, 'SESSION_EXPIRED');
  });

  it('are not opened with a wrong PIN', async () => {
    const opened = await outsider.post('/v1/slots/both/sessions', { pin: 'nope' });
    expectProblem(opened, 401, 'PIN_INCORRECT');
    expectProblem(await developer.send('DELETE', '/v1/sessions/current'), 401, 'SESSION_REQUIRED');
  });
});

describe('keys', () => {
  it('are generated inside the slot and shown with what the token says of them', async () => {
    const { status, json } = await developer.post('/v1/keys', { id: 'made', slot: 'main' });
    expect(status).toBe(201);
    expect(json).toMatchObject({
      id: 'made',
      slot: 'main',
      custody: 'hsm-native',
      exportable: false,
      state: 'active',
      origin: 'generated',
      attributes: { sensitive: true, extractable: false, local: true, never_extractable: true },
    });
    expect(encodeBase58(Buffer.from(json.publicKeyBase64 ?? '', 'base64'))).toBe(json.publicKey);
    expect((await developer.get('/v1/keys/made')).json).toEqual(json);
    expectProblem(await developer.post('/v1/keys', { id: 'made', slot: 'main' }), 409, 'KEY_EXISTS');
    expectProblem(await developer.post('/v1/keys', { id: 'made', slot: 'both' }), 409, 'KEY_EXISTS');
  });

  it('are imported as a seed, as the numbers of a key file, and as base58', async () => {
    for (const form of ['seed', 'numbers', 'base58'] as const) {
      const { seed, address, sign } = other();
      const secretKey = Buffer.concat([seed, Buffer.from(decodeBase58(address) ?? [])]);
      const body = {
        seed: { seed: base64(seed) },
        numbers: { secretKey: [...secretKey] },
        base58: { secretKey: encodeBase58(secretKey) },
      }[form];
      const { status, json } = await developer.post(`/v1/keys/from-${form}/import`, {
        slot: 'main',
        ...body,
      });
      expect(status).toBe(201);
      expect(json).toMatchObject({
        publicKey: address,
        origin: 'imported',
        attributes: { extractable: false },
      });
      const signed = await developer.post(`/v1/keys/from-${form}/sign-message`, { message: hello });
      expect(signed.json.signatureBase64).toBe(base64(sign(Buffer.from('hello'))));
    }
  });

  it('are listed page by page with a cursor, and by slot', async () => {
    for (const id of ['page-1', 'page-2', 'page-3']) await developer.post('/v1/keys', { id, slot: 'both' });
    const found: string[] = [];
    let cursor = '';
    do {
      const { status, json } = await developer.get(`/v1/keys?limit=2${cursor && `&cursor=${cursor}`}`);
      expect(status).toBe(200);
      expect(json.keys?.length).toBeLessThanOrEqual(2);
      found.push(...(json.keys ?? []).map(key => key.id));
      cursor = json.next ?? '';
    } while (cursor);
    const all = (await developer.get('/v1/keys?limit=500')).json.keys?.map(key => key.id);
    expect(found).toEqual(all);
    expect(found).toEqual([...found].sort());
    const ofSlot = (await developer.get('/v1/keys?slot=both')).json.keys?.map(key => key.id);
    expect(ofSlot).toEqual(['in-both', 'page-1', 'page-2', 'page-3']);
    expectProblem(await developer.get('/v1/keys?slot=none'), 404, 'SLOT_UNKNOWN');
  });
});

describe('a receipt', () => {
  it('says where a signature stands in the audit log, and the record there has its hash', async () => {
    const receipts = [];
    for (const _ of [1, 2]) {
      const { receipt } = (await developer.post(`${path}/sign-message`, { message: hello })).json;
      if (!receipt) throw new Error('There is no receipt.');
      receipts.push(receipt);
      expect(receipt).toMatchObject({ node: 'keyslot', proof: `/v1/audit/${receipt.seq}/proof` });
      const { text } = await developer.get(`/v1/audit?from=${receipt.seq}&limit=1`);
      const [line = ''] = (JSON.parse(text) as { lines: string[] }).lines;
      expect(createHash('sha256').update(line).digest('hex')).toBe(receipt.hash);
      expect(JSON.parse(line)).toMatchObject({ type: 'result', actor: 'developer', key: 'in-main' });
    }
    const [first, second] = receipts.map(({ seq }) => seq);
    expect(second).toBeGreaterThan(first ?? Number.NaN);
  });

  it('is for who may read the log: others get no record', async () => {
    expectProblem(await signer.get('/v1/audit?from=0&limit=1'), 403, 'PERMISSION_DENIED');
  });
});

describe('messages', () => {
  it('are signed, and verified with base58 and base64 signatures', async () => {
    const message = Buffer.from('a message, with ünïcode');
    const { status, json } = await developer.post(`${path}/sign-message`, { message: base64(message) });
    expect(status).toBe(200);
    const publicKey = await addressOf('in-main');
    expect(json).toMatchObject({ kind: 'bytes', publicKey, custody: 'hsm-native' });
    expect(await isSignature(publicKey, message, json.signature)).toBe(true);
    expect(encodeBase58(Buffer.from(json.signatureBase64 ?? '', 'base64'))).toBe(json.signature);

    const valid = async (body: object) => (await developer.post(`${path}/verify`, body)).json;
    for (const signature of [json.signature, json.signatureBase64]) {
      expect(await valid({ message: base64(message), signature })).toEqual({ valid: true });
      expect(await valid({ message: hello, signature })).toEqual({ valid: false });
    }
    const flipped = Buffer.from(json.signatureBase64 ?? '', 'base64');
    flipped.writeUInt8(flipped.readUInt8(5) ^ 1, 5);
    for (const signature of [base64(flipped), encodeBase58(flipped)]) {
      expect(await valid({ message: base64(message), signature })).toEqual({ valid: false });
    }
  });

  it('are signed from 1 to 16,000 bytes', async () => {
    for (const length of [1, 32, 16_000]) {
      const message = Buffer.alloc(length, 'x');
      const { json } = await developer.post(`${path}/sign-message`, { message: base64(message) });
      expect(await isSignature(json.publicKey ?? '', message, json.signature)).toBe(true);
    }
  });

  it('are told apart when they are off-chain messages', async () => {
    const envelope = Buffer.concat([
      Buffer.from('\xffsolana offchain\x00', 'latin1'),
      Buffer.alloc(32, 7),
      Buffer.from([0, 1]),
      Buffer.from(decodeBase58(await addressOf('in-main')) ?? []),
      Buffer.from([5, 0]),
      Buffer.from('hello'),
    ]);
    const { json } = await developer.post(`${path}/sign-message`, { message: base64(envelope) });
    expect(json.kind).toBe('offchain');
    expect(await isSignature(json.publicKey ?? '', envelope, json.signature)).toBe(true);
  });
});

describe('transactions', () => {
  const chain = new Chain();

  it.each(versions.flatMap(version => [1, 2, 3].map(count => [version, count] as const)))(
    'of version %s with %i signers are signed in place and executed',
    async (version, count) => {
      const ours = await addressOf('in-main');
      const others = Array.from({ length: count - 1 }, other);
      const to = other().address;
      for (const place of [0, count - 1]) {
        const signers = others.map(each => each.address).toSpliced(place, 0, ours);
        chain.fund(signers);
        let wire = transfers(version, signers, to, chain.blockhash);
        for (const each of others) wire = signedBy(wire, each);
        const { status, json } = await developer.post(`${path}/sign-transaction`, {
          transaction: base64(wire),
        });
        expect(status).toBe(200);
        expect(json).toMatchObject({ version, publicKey: ours, custody: 'hsm-native' });
        const signed = Buffer.from(json.signedTransaction ?? '', 'base64');
        const { message, signatures } = readWire(signed);
        expect(await isSignature(ours, message, json.signature)).toBe(true);
        expect(encodeBase58(signatures[ours] ?? new Uint8Array())).toBe(json.signature);
        expect({ ...signatures, [ours]: null }).toEqual(readWire(wire).signatures);
        expect(Buffer.compare(message, readWire(wire).message)).toBe(0);
        expect(chain.executes(signed, to)).toBe(true);
        if (count === 1) break; // there is one place only
      }
    },
  );

  it('are signed again to the same bytes', async () => {
    const wire = transfers('v0', [await addressOf('in-main')]);
    const first = await developer.post(`${path}/sign-transaction`, { transaction: base64(wire) });
    const second = await bearer.post(`${path}/sign-transaction`, {
      transaction: first.json.signedTransaction,
    });
    expect(second.json.signedTransaction).toBe(first.json.signedTransaction);
  });
});

describe('batches', () => {
  it('answer each item in its place, the good and the bad', async () => {
    const ours = await addressOf('in-main');
    const wire = (version: (typeof versions)[number]) => transfers(version, [ours]);
    const items = Array.from({ length: 100 }, (_, at) => {
      const kinds = [
        { message: base64(`message ${at}`) },
        { transaction: base64(wire('legacy')) },
        { message: '' },
        { transaction: base64(wire('v0').subarray(0, 90)) },
        { transaction: base64(wire('v1')) },
        { transaction: base64(wireBytes(plain)) },
        { message: base64(readWire(wire('legacy')).message) },
      ];
      return kinds[at % kinds.length] ?? { message: '' };
    });
    const { status, json } = await developer.post(`${path}/sign-batch`, { items });
    expect(status).toBe(200);
    expect(json).toMatchObject({ publicKey: ours, custody: 'hsm-native' });
    expect(json.results).toHaveLength(100);
    const refusals = [
      undefined,
      undefined,
      'MESSAGE_EMPTY',
      'TRANSACTION_TRUNCATED',
      undefined,
      'KEY_NOT_A_SIGNER',
      'MESSAGE_IS_TRANSACTION',
    ];
    for (const [at, result] of (json.results ?? []).entries()) {
      const item = items[at];
      expect(result.error?.code).toBe(refusals[at % refusals.length]);
      if (result.error) expect(result).toEqual({ error: { ...result.error, requestId: expect.any(String) } });
      else if (item && 'message' in item) {
        expect(await isSignature(ours, Buffer.from(item.message, 'base64'), result.signature)).toBe(true);
      } else {
        const sent = readWire(Buffer.from(item?.transaction ?? '', 'base64'));
        const { message, signatures } = readWire(Buffer.from(result.signedTransaction ?? '', 'base64'));
        expect(Buffer.compare(message, sent.message)).toBe(0);
        expect(encodeBase58(signatures[ours] ?? new Uint8Array())).toBe(result.signature);
        expect(await isSignature(ours, message, result.signature)).toBe(true);
      }
    }
  });
});

describe('every answer', () => {
  it('carries a request id of its own and is not cached', async () => {
    const replies: Reply[] = [
      await developer.get('/v1/slots'),
      await developer.post(`${path}/sign-message`, { message: hello }),
      await nobody.get('/v1/slots'),
      await developer.get('/nowhere'),
      await developer.get(`${path}/sign-message`),
    ];
    const ids = replies.map(reply => reply.headers['request-id']);
    expect(new Set(ids).size).toBe(ids.length);
    for (const { headers } of replies) {
      expect(headers['request-id']).toMatch(/^\w+-\w+$/);
      expect(headers['cache-control']).toBe('no-store');
      expect(headers['x-powered-by']).toBeUndefined();
      expect(headers.server).toBeUndefined();
    }
  });

  it('leaves the connection open, refusals included', async () => {
    for (const [method, where] of [
      ['GET', '/v1/slots'],
      ['GET', '/nowhere'],
      ['GET', '/v1/keys/none'],
      ['GET', `${path}/sign-message`],
      ['HEAD', '/v1/slots'],
    ] as const) {
      const { headers } = await developer.send(method, where);
      expect([method, where, headers.connection]).toEqual([method, where, 'keep-alive']);
    }
  });

  it('names the methods that a route takes when it is asked with another', async () => {
    const routes: readonly (readonly [string, string])[] = [
      ['/v1/slots', 'GET'],
      ['/v1/slots/main', 'GET'],
      ['/v1/slots/main/open', 'POST'],
      ['/v1/slots/main/lock', 'POST'],
      ['/v1/slots/main/clear-latch', 'POST'],
      ['/v1/slots/main/try', 'POST'],
      ['/v1/slots/main/sessions', 'POST'],
      ['/v1/sessions/current', 'DELETE'],
      ['/v1/keys', 'GET, POST'],
      [path, 'GET'],
      [`${path}/import`, 'POST'],
      [`${path}/sign-message`, 'POST'],
      [`${path}/sign-transaction`, 'POST'],
      [`${path}/sign-batch`, 'POST'],
      [`${path}/verify`, 'POST'],
    ];
    for (const [route, allowed] of routes) {
      for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
        if (allowed.includes(method)) continue;
        const reply = await developer.send(method, route);
        expectProblem(reply, 405, 'METHOD_NOT_ALLOWED');
        expect(reply.headers.allow).toBe(allowed);
      }
    }
  });

  it('is ROUTE_UNKNOWN where there is no route', async () => {
    for (const where of [
      '/',
      '/v1',
      '/v1/keys/in-main/exports',
      '/v2/keys',
      '/v1/keys/in-main/sign-message/x',
    ]) {
      expectProblem(await developer.get(where), 404, 'ROUTE_UNKNOWN');
    }
  });
});

describe('who is asking', () => {
  it('is known by certificate or by bearer token', async () => {
    expect((await developer.get('/v1/slots')).status).toBe(200);
    expect((await bearer.get('/v1/slots')).status).toBe(200);
  });

  it('is told that a credential is missing', async () => {
    const reply = await nobody.post(`${path}/sign-message`, { message: hello });
    expectProblem(reply, 401, 'CREDENTIAL_MISSING');
    expect(reply.headers['www-authenticate']).toBe('Bearer');
    for (const route of ['/v1/slots', '/v1/keys', path]) {
      expectProblem(await nobody.get(route), 401, 'CREDENTIAL_MISSING');
    }
  });

  it.each([
    'Bearer wrong-token-of-some-length',
    'Bearer short',
    'Basic ZGV2ZWxvcGVyOnNlY3JldA==',
    'Bearer',
    'nonsense',
  ])('is nobody with the header %s', async authorization => {
    const reply = await nobody.get('/v1/slots', { Authorization: authorization });
    expectProblem(reply, 401, 'CREDENTIAL_UNKNOWN');
  });

  it('is nobody with a certificate of another CA, of our CA but not listed, or meant for servers', async () => {
    const foreign = await (await createAuthority('Keyslot test CA')).issueClient('developer');
    const unlisted = await home.authority.issueClient('developer');
    const server = await home.authority.issueServer(['developer']);
    for (const issued of [foreign, unlisted, server]) {
      const client = appliance.client(issued);
      expectProblem(await client.get('/v1/slots'), 401, 'CREDENTIAL_UNKNOWN');
      expectProblem(await client.post(`${path}/sign-message`, { message: hello }), 401, 'CREDENTIAL_UNKNOWN');
      client.close();
    }
  });

  it('is refused what its roles do not allow', async () => {
    expect((await signer.post(`${path}/sign-message`, { message: hello })).status).toBe(200);
    const denied = [
      await signer.post('/v1/keys', { id: 'not-mine', slot: 'main' }),
      await signer.post('/v1/keys/not-mine/import', { slot: 'main', seed: base64(other().seed) }),
      await signer.post('/v1/slots/main/open', { pin }),
      await signer.post('/v1/slots/main/lock', {}),
      await signer.post('/v1/slots/main/clear-latch', {}),
    ];
    for (const reply of denied) expectProblem(reply, 403, 'PERMISSION_DENIED');
    expectProblem(await developer.get('/v1/keys/not-mine'), 404, 'KEY_UNKNOWN');
    expect((await developer.get('/v1/slots/main')).json.state).toBe('open');
  });

  it('does not see slots and keys that it was not granted', async () => {
    expect((await outsider.get('/v1/slots')).json.slots?.map(slot => slot.id)).toEqual(['session', 'both']);
    expectProblem(await outsider.get('/v1/slots/main'), 404, 'SLOT_UNKNOWN');
    for (const verb of ['open', 'lock', 'clear-latch']) {
      expectProblem(await outsider.post(`/v1/slots/main/${verb}`, {}), 404, 'SLOT_UNKNOWN');
    }
    expectProblem(await outsider.post('/v1/slots/main/sessions', { pin }), 404, 'SLOT_UNKNOWN');
    expectProblem(await outsider.post('/v1/keys', { id: 'sneaked', slot: 'main' }), 404, 'SLOT_UNKNOWN');
    const seen = (await outsider.get('/v1/keys?limit=500')).json.keys;
    expect(new Set(seen?.map(key => key.slot))).toEqual(new Set(['both']));
    expectProblem(await outsider.get('/v1/keys?slot=main'), 404, 'SLOT_UNKNOWN');
    expectProblem(await outsider.get(path), 404, 'KEY_UNKNOWN');
    const bodies = {
      'sign-message': { message: hello },
      'sign-transaction': { transaction: base64(transfers('legacy', [await addressOf('in-main')])) },
      'sign-batch': { items: [{ message: hello }] },
      verify: { message: hello, signature: encodeBase58(Buffer.alloc(64, 1)) },
    };
    for (const [verb, body] of Object.entries(bodies)) {
      expectProblem(await outsider.post(`${path}/${verb}`, body), 404, 'KEY_UNKNOWN');
    }
  });
});

describe('TLS', () => {
  it.each(['TLSv1.3', 'TLSv1.2'] as const)('%s resumed sessions carry the identity on', async version => {
    const session = await ticketOf(version, developer);
    const resumed = await request(version, developer, session);
    expect(resumed).toMatchObject({ reused: true, status: 200 });
  });

  it('resumed sessions of a foreign certificate or of none stay nobody', async () => {
    const foreign = appliance.client(await (await createAuthority('Somebody')).issueClient('developer'));
    for (const client of [foreign, nobody]) {
      const resumed = await request('TLSv1.3', client, await ticketOf('TLSv1.3', client));
      expect(resumed).toMatchObject({ reused: true, status: 401 });
    }
    foreign.close();
  });

  it.each(['TLSv1', 'TLSv1.1'] as const)('%s is refused', async version => {
    const refused = developer.raw({ minVersion: version, maxVersion: version, ciphers: 'ALL:@SECLEVEL=0' });
    await expect(refused).rejects.toMatchObject({ code: expect.stringMatching(/^ERR_SSL|ECONNRESET/) });
  });

  it('presents a certificate for localhost and both loopback addresses', async () => {
    const socket = await developer.raw();
    expect(socket.authorized).toBe(true);
    expect(socket.getPeerCertificate().subjectaltname).toBe(
      'DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1',
    );
    socket.destroy();
  });

  /** One request on a connection of its own, with the session of an earlier one. */
  async function request(
    version: 'TLSv1.2' | 'TLSv1.3',
    client: Client,
    session?: Buffer,
  ): Promise<{ reused: boolean; status: number; session: Buffer | undefined }> {
    const { port } = new URL(client.url);
    const { promise, resolve, reject } = Promise.withResolvers<{ text: string; socket: TLSSocket }>();
    let ticket: Buffer | undefined;
    let text = '';
    const socket = connectTls({
      ...client.tls,
      host: '127.0.0.1',
      port: Number(port),
      minVersion: version,
      maxVersion: version,
      ...(session ? { session } : {}),
    });
    socket.on('session', given => {
      ticket = given;
    });
    socket.on('error', reject);
    socket.on('data', chunk => {
      text += String(chunk);
    });
    socket.on('end', () => resolve({ text, socket }));
    socket.write('GET /v1/slots HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n');
    await promise;
    const reused = socket.isSessionReused();
    socket.destroy();
    return { reused, status: Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1]), session: ticket };
  }

  async function ticketOf(version: 'TLSv1.2' | 'TLSv1.3', client: Client): Promise<Buffer> {
    const { session, reused } = await request(version, client);
    expect(reused).toBe(false);
    if (!session) throw new Error('The appliance gave no session to resume.');
    return session;
  }
});

describe('a gateway that somebody has taken over', () => {
  /** Tries what a process with the flags of the gateway may not do, each by itself; how each of them ended. */
  const attempts = `
    const attempt = (what, act) => {
      try { act(); console.log(what, 'done'); } catch (error) { console.log(what, error.code); }
    };
    const { readFileSync, writeFileSync } = require('node:fs');
    attempt('read', () => readFileSync('SECRET'));
    attempt('write', () => writeFileSync('WRITTEN', ''));
    attempt('start', () => require('node:child_process').execFileSync('true'));
    attempt('thread', () => new (require('node:worker_threads').Worker)('', { eval: true }));
    attempt('addon', () => process.dlopen({ exports: {} }, 'MODULE'));
    attempt('own code', () => readFileSync('OWN'));
  `;

  it('reads no secret, writes nothing, starts nothing and loads no addon', async () => {
    const gateway = await appliance.child('gateway');
    const said = readFileSync(`/proc/${gateway}/cmdline`, 'utf8').split('\0');
    const flags = said.slice(
      1,
      said.findIndex(each => each.includes('gateway-process')),
    );
    const script = attempts
      .replace('SECRET', join(home.path, 'secrets', 'user.pin'))
      .replace('WRITTEN', join(home.path, 'written'))
      .replace('MODULE', home.module)
      .replace('OWN', join(root, 'package.json'));
    const run = execFileSync(process.execPath, [...flags, '-e', script], { encoding: 'utf8' });
    const refused = ['read', 'write', 'start', 'thread'].map(what => `${what} ERR_ACCESS_DENIED`);
    expect(run.trim().split('\n')).toEqual([...refused, 'addon ERR_DLOPEN_DISABLED', 'own code done']);
  });
});

describe('somebody on the same host', () => {
  const processes = (): readonly number[] => [appliance.pid, ...childrenOf(appliance.pid)];

  /** The sockets of a process that listen for TCP. */
  function listening(pid: number): readonly string[] {
    const open = readdirSync(`/proc/${pid}/fd`).map(fd => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`);
      } catch {
        return ''; // closed meanwhile
      }
    });
    return ['tcp', 'tcp6']
      .flatMap(family => readFileSync(`/proc/${pid}/net/${family}`, 'utf8').split('\n'))
      .map(line => line.trim().split(/ +/))
      .filter(([, , , state, , , , , , inode]) => state === '0A' && open.includes(`socket:[${inode}]`))
      .map(([, address = '']) => address);
  }

  it('opens no debugger with SIGUSR1, in none of the three processes', async () => {
    const before = processes().map(listening);
    expect(before.map(({ length }) => length).sort()).toEqual([0, 0, 2]);
    // A Node that minds the signal: when it has opened its debugger, the others would have.
    const waiting = 'setInterval(() => {}, 1_000); console.log();';
    const minding = spawn(process.execPath, ['--inspect-port=0', '-e', waiting], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    try {
      await new Promise(done => minding.stdout.once('data', done));
      for (const pid of [...processes(), minding.pid ?? 0]) process.kill(pid, 'SIGUSR1');
      await eventually('a debugger', () => listening(minding.pid ?? 0).length > 0);
    } finally {
      minding.kill();
    }
    expect(processes().map(listening)).toEqual(before);
    expect((await developer.post(`${path}/sign-message`, { message: hello })).status).toBe(200);
  });

  if (process.geteuid?.() === 0)
    it('reads neither memory nor environment of a process as another user, and traces none', () => {
      const nobodys = ['--reuid=65534', '--regid=65534', '--clear-groups', 'head', '-c1'];
      const reads = (file: string): string => {
        try {
          return execFileSync('setpriv', [...nobodys, file], { encoding: 'latin1', stdio: 'pipe' });
        } catch (thrown) {
          return String((thrown as { stderr?: unknown }).stderr);
        }
      };
      expect(reads('/proc/self/environ')).toHaveLength(1);
      // Opening `mem` takes the right to trace the process.
      for (const pid of processes())
        for (const file of ['mem', 'environ', 'auxv', 'maps'])
          expect(reads(`/proc/${pid}/${file}`), file).toMatch(/Permission denied/);
    });
});

import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { isErrorCode } from '../../src/foundation/errors.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { createApi } from '../../src/gateway/routes.ts';
import { withWallets } from '../../src/gateway/wallets.ts';
import type { Call, Custodian } from '../../src/wire/custodian.ts';
import { Device } from '../custodian/device.ts';
import { Lab, people, sha256, type Who } from '../custodian/lab.ts';
import { plain, wireBytes } from '../solana/compiled.ts';
import { RpcNode, token2022Program, tokenAccount, tokenProgram } from './rpc-node.ts';

interface Answer {
  readonly data?: Record<string, unknown> & { readonly id?: string; readonly publicKey?: string };
  readonly error?: unknown;
  readonly code?: string;
  readonly requestId?: string;
}

interface Reply {
  readonly status: number;
  readonly headers: Headers;
  readonly json: Answer;
}

let device: Device;
let lab: Lab;
let node: RpcNode;
const servers: Server[] = [];
let url: string;
let withoutNode: string;

beforeAll(async () => {
  device = await Device.make();
  lab = await Lab.open({ slot: device.slot });
  node = await RpcNode.start();
  url = await listen(node.url);
  withoutNode = await listen(undefined);
});

afterAll(async () => {
  for (const server of servers) {
    server.closeAllConnections();
    server.close();
  }
  await node[Symbol.asyncDispose]();
  await lab[Symbol.asyncDispose]();
  await device[Symbol.asyncDispose]();
});

afterEach(() => {
  node.instead = undefined;
  node.asked.length = 0;
});

/** The API over the lab's custodian, without TLS: the tokens of its people are their credentials. */
async function listen(rpcUrl: string | undefined): Promise<string> {
  const custodian: Custodian = {
    call: (name, request, call) =>
      lab.custodian.call(name, request, {
        ...call,
        credential: credentials.get(digestOf(call)) ?? call.credential,
      }),
  };
  const app = createApi(custodian, silentLog, api => {
    withWallets(api, { custodian, log: silentLog, rpcUrl });
    return api;
  });
  const server = createServer({ keepAliveTimeout: 75_000 }, app);
  servers.push(server);
  await new Promise<void>(done => server.listen(0, '127.0.0.1', done));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** The people of the lab under tokens that a header can carry. */
const bearer = (who: Who) => `bearer-token-of-${who}`;
const credentials = new Map(
  Object.values(people).flatMap(person =>
    'credential' in person ? [[sha256(`bearer-token-of-${person.name}`), person.credential] as const] : [],
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
      ...(who === 'nobody' ? {} : { Authorization: `Bearer ${bearer(who)}` }),
      ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  const reply: Reply = {
    status: response.status,
    headers: response.headers,
    json: (await response.json()) as Answer,
  };
  return reply;
}

const base64 = (bytes: string | Uint8Array) => Buffer.from(bytes as Uint8Array).toString('base64');
const wallets = '/api/v1/wallets';

async function made(label?: string): Promise<{ id: string; publicKey: string }> {
  const { json } = await send('POST', wallets, { body: label === undefined ? {} : { label } });
  const { id = '', publicKey = '' } = json.data ?? {};
  return { id, publicKey };
}

/** A text of ours and its code beside it. */
function expectError(reply: Reply, status: number, code: string): void {
  expect({ status: reply.status, code: reply.json.code }).toEqual({ status, code });
  expect(isErrorCode(code)).toBe(true);
  expect(reply.json.error).toEqual(expect.any(String));
  expect(reply.json.requestId).toBe(reply.headers.get('request-id'));
  expect(reply.headers.get('content-type')).toBe('application/json');
  expect(reply.headers.get('cache-control')).toBe('no-store');
}

/** What is wrong, field by field. */
function expectIssues(reply: Reply, issues: { formErrors?: unknown; fieldErrors?: unknown }): void {
  expect({ status: reply.status, code: reply.json.code }).toEqual({ status: 400, code: 'BODY_INVALID' });
  expect(reply.json.error).toEqual({ formErrors: [], fieldErrors: {}, ...issues });
}

describe('the errors of the wallet routes', () => {
  it('are {error} with the same code and status that a native route answers with', async () => {
    const { id } = await made();
    const hello = { body: { message: base64('hello') } };
    expectError(await send('GET', wallets, { who: 'nobody' }), 401, 'CREDENTIAL_MISSING');
    expectError(
      await send('GET', wallets, { who: 'nobody', headers: { Authorization: `Bearer ${'x'.repeat(20)}` } }),
      401,
      'CREDENTIAL_UNKNOWN',
    );
    expectError(await send('POST', wallets, { who: 'signer', body: {} }), 403, 'PERMISSION_DENIED');
    expectError(
      await send('POST', `${wallets}/${id}/sign`, { who: 'operator', ...hello }),
      403,
      'PERMISSION_DENIED',
    );
    expectError(await send('POST', wallets, { body: '{' }), 400, 'BODY_NOT_JSON');
    expectError(await send('POST', wallets, { body: ' '.repeat(40_000) }), 413, 'BODY_TOO_LARGE');
    const plainText = { body: '{}', headers: { 'Content-Type': 'text/plain' } };
    expectError(await send('POST', wallets, plainText), 415, 'CONTENT_TYPE_UNSUPPORTED');
    expectError(await send('PUT', wallets, { body: {} }), 405, 'METHOD_NOT_ALLOWED');
    expectError(await send('GET', `${wallets}/%zz`), 404, 'ROUTE_UNKNOWN');
  });

  it('say of a missing credential how to present one', async () => {
    const { headers } = await send('GET', wallets, { who: 'nobody' });
    expect(headers.get('www-authenticate')).toBe('Bearer');
  });

  it('of a locked slot are 423 for making and signing, while reading goes on', async () => {
    const { id } = await made();
    await lab.ask('operator', 'lock-slot', { slot: 'main' });
    try {
      const body = { message: base64('hello') };
      expectError(await send('POST', wallets, { body: {} }), 423, 'SLOT_LOCKED');
      expectError(await send('POST', `${wallets}/${id}/sign`, { body }), 423, 'SLOT_LOCKED');
      expect((await send('GET', `${wallets}/${id}`)).status).toBe(200);
    } finally {
      await lab.ask('operator', 'open-slot', { slot: 'main' });
    }
  });

  it.each(['nothing', '..%2F..%2Fetc', '00000000-0000-4000-8000-00000000000g', `${'0'.repeat(36)}`, '%00'])(
    'of the id %s are "Invalid walletId" on every route',
    async id => {
      for (const [method, path] of [
        ['GET', ''],
        ['GET', '/balance'],
        ['GET', '/tokens'],
        ['POST', '/sign'],
      ] as const) {
        const reply = await send(method, `${wallets}/${id}${path}`);
        expectError(reply, 400, 'WALLET_ID_INVALID');
        expect(reply.json.error).toBe('Invalid walletId');
      }
    },
  );

  it('of whatever else stands in the place of an id are "Invalid walletId" too', async () => {
    // A URL tidies dots away, and the path is then another one.
    const ids = fc.string({ unit: 'binary', minLength: 1 }).filter(id => !/^\.{1,2}$/.test(id));
    await fc.assert(
      fc.asyncProperty(ids, async id => {
        expectError(await send('GET', `${wallets}/${encodeURIComponent(id)}`), 400, 'WALLET_ID_INVALID');
      }),
      { numRuns: 200 },
    );
  });

  it('of a wallet that does not exist, or is not granted, are "Wallet not found" on every route', async () => {
    const { id } = await made();
    const unknown = '00000000-0000-4000-8000-000000000000';
    for (const [path, who] of [
      [unknown, 'both'],
      [id, 'ungranted'],
    ] as const) {
      const replies = [
        await send('GET', `${wallets}/${path}`, { who }),
        await send('GET', `${wallets}/${path}/balance`, { who }),
        await send('GET', `${wallets}/${path}/tokens`, { who }),
        await send('POST', `${wallets}/${path}/sign`, { who, body: { message: base64('hello') } }),
      ];
      for (const reply of replies) {
        expectError(reply, 404, 'KEY_UNKNOWN');
        expect(reply.json.error).toBe('Wallet not found');
      }
    }
    expect((await send('GET', wallets, { who: 'ungranted' })).json).toEqual({ data: [] });
  });
});

describe('a body that does not fit', () => {
  it('of a new wallet names its fields, and makes nothing', async () => {
    const before = (await send('GET', wallets)).json.data;
    const wrong: readonly (readonly [unknown, string])[] = [
      [{ label: '' }, 'label'],
      [{ label: 'x'.repeat(129) }, 'label'],
      [{ label: 7 }, 'label'],
      [{ autoFund: 'yes' }, 'autoFund'],
      [{ fundLamports: 0 }, 'fundLamports'],
      [{ fundLamports: 1.5 }, 'fundLamports'],
    ];
    for (const [body, field] of wrong) {
      expectIssues(await send('POST', wallets, { body }), {
        fieldErrors: { [field]: [expect.any(String)] },
      });
    }
    for (const body of ['null', '[]', '"text"']) {
      expectIssues(await send('POST', wallets, { body }), { formErrors: [expect.any(String)] });
    }
    expectError(await send('POST', wallets, { body: { autoFund: true } }), 400, 'AUTOFUND_UNSUPPORTED');
    expect((await send('GET', wallets)).json.data).toEqual(before);
  });

  it('of signing is anything but exactly one of transaction and message', async () => {
    const { id } = await made();
    const sign = (body: unknown) => send('POST', `${wallets}/${id}/sign`, { body });
    const one = { formErrors: ['Provide exactly one of transaction or message'] };
    expectIssues(await sign({}), one);
    expectIssues(await sign({ transaction: 'AA==', message: 'AA==' }), one);
    expectIssues(await send('POST', `${wallets}/${id}/sign`), one);
    expectIssues(await sign({ message: '' }), { fieldErrors: { message: [expect.any(String)] } });
    expectIssues(await sign({ message: 'no base64!' }), { fieldErrors: { message: [expect.any(String)] } });
    expectIssues(await sign({ transaction: 5 }), { fieldErrors: { transaction: [expect.any(String)] } });
    expectIssues(await sign({ transaction: 'AA' }), { fieldErrors: { transaction: [expect.any(String)] } });
  });

  it('keeps none of the native refusals away', async () => {
    const { id } = await made();
    const sign = (body: unknown) => send('POST', `${wallets}/${id}/sign`, { body });
    const wire = wireBytes(plain);
    const message = wire.subarray(1 + 64 * (wire[0] ?? 0));
    expectError(await sign({ message: base64(message) }), 422, 'MESSAGE_IS_TRANSACTION');
    expectError(await sign({ transaction: base64(wire) }), 422, 'KEY_NOT_A_SIGNER');
    expectError(await sign({ transaction: base64(wire.subarray(0, 40)) }), 422, 'TRANSACTION_TRUNCATED');
    expectError(await sign({ message: base64('x'.repeat(16_001)) }), 413, 'MESSAGE_TOO_LARGE');
  });
});

describe('balance and tokens', () => {
  it('come from the node, for both token programs', async () => {
    const { id, publicKey } = await made();
    node.balances.set(publicKey, 1_500_000_000);
    node.accounts.set(`${publicKey} ${tokenProgram}`, [
      tokenAccount('spl-token', 'MintA', '2500000', 2.5),
      ['AAAA', 'base64'],
      { program: 'spl-token', parsed: { type: 'mint', info: {} } },
    ]);
    node.accounts.set(`${publicKey} ${token2022Program}`, [tokenAccount('spl-token-2022', 'MintB', '7')]);
    expect((await send('GET', `${wallets}/${id}/balance`)).json).toEqual({
      data: { walletId: id, publicKey, lamports: 1_500_000_000, sol: 1.5 },
    });
    expect((await send('GET', `${wallets}/${id}/tokens`)).json).toEqual({
      data: {
        walletId: id,
        tokens: [
          { mint: 'MintA', amount: '2500000', decimals: 6, uiAmount: 2.5 },
          { mint: 'MintB', amount: '7', decimals: 6, uiAmount: null },
        ],
      },
    });
    expect(node.asked.map(({ method }) => method)).toEqual([
      'getBalance',
      'getTokenAccountsByOwner',
      'getTokenAccountsByOwner',
    ]);
  });

  it('without a node are a problem that says so, to those who may see the wallet', async () => {
    const { id } = await made();
    for (const path of ['balance', 'tokens']) {
      const reply = await send('GET', `${wallets}/${id}/${path}`, { base: withoutNode });
      expect({ status: reply.status, code: reply.json.code }).toEqual({
        status: 501,
        code: 'RPC_NOT_CONFIGURED',
      });
      expect(reply.headers.get('content-type')).toBe('application/problem+json');
      expect(reply.json.error).toEqual(expect.any(String));
      const foreign = { base: withoutNode, who: 'ungranted' } as const;
      expectError(await send('GET', `${wallets}/${id}/${path}`, foreign), 404, 'KEY_UNKNOWN');
    }
  });

  const failures: Readonly<Record<string, (response: ServerResponse) => void>> = {
    'answers with HTTP 500': response => response.writeHead(500).end('access-key-of-the-node'),
    'answers with HTTP 429': response => response.writeHead(429).end(),
    'redirects elsewhere': response => response.writeHead(302, { Location: 'http://127.0.0.1:1/' }).end(),
    'does not answer in JSON': response => response.end('access-key-of-the-node'),
    'answers in another shape': response => response.end('{"result":{"value":"many"}}'),
    'refuses the question': response =>
      response.end('{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"access-key-of-the-node"}}'),
    'breaks the connection': response => response.destroy(),
    'never stops answering': response => {
      const write = () => {
        while (!response.destroyed && response.write(' '.repeat(65_536)));
      };
      response.on('drain', write);
      write();
    },
  };

  it.each(Object.keys(failures))(
    'of a node that %s are RPC_FAILED, and repeat nothing it said',
    async name => {
      const { id } = await made();
      node.instead = failures[name];
      for (const path of ['balance', 'tokens']) {
        const reply = await send('GET', `${wallets}/${id}/${path}`);
        expectError(reply, 503, 'RPC_FAILED');
        expect(reply.headers.get('retry-after')).toBe('1');
        expect(JSON.stringify(reply.json)).not.toContain('access-key-of-the-node');
      }
    },
  );

  it('of a node that hangs are RPC_FAILED in the end, and hold nobody else up', async () => {
    const { id } = await made();
    node.instead = () => undefined;
    const hanging = send('GET', `${wallets}/${id}/balance`);
    expect((await send('GET', `${wallets}/${id}`)).status).toBe(200);
    expectError(await hanging, 503, 'RPC_FAILED');
  });

  it('end with the client that asked', async () => {
    const { id } = await made();
    const closed = Promise.withResolvers<void>();
    const arrived = Promise.withResolvers<void>();
    node.instead = response => {
      response.on('close', () => closed.resolve());
      arrived.resolve();
    };
    const client = new AbortController();
    const asking = fetch(`${url}${wallets}/${id}/balance`, {
      headers: { Authorization: `Bearer ${bearer('both')}` },
      signal: client.signal,
    });
    asking.catch(() => undefined);
    await arrived.promise;
    client.abort();
    await closed.promise;
    await expect(asking).rejects.toThrow();
  });
});

describe('the list', () => {
  it('looks for an address, ignores parameters it does not know, and refuses a cursor of nobody', async () => {
    const { id, publicKey } = await made('found');
    const found = await send('GET', `${wallets}?publicKey=${publicKey}&other=1`);
    expect(found.json.data).toMatchObject([{ id, label: 'found' }]);
    for (const none of ['nobody', 'x'.repeat(1000), `${publicKey}x`]) {
      expect((await send('GET', `${wallets}?publicKey=${none}`)).json).toEqual({ data: [] });
    }
    expectError(await send('GET', `${wallets}?cursor=nobody`), 400, 'QUERY_INVALID');
  });
});

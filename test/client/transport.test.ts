import { inspect } from 'node:util';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  createKeyslotClient,
  isKeyslotClientError,
  type KeyslotClientError,
} from '../../src/client/index.ts';
import { closedPort, codeOf, FalseAppliance, problem, tell } from './lab.ts';

const key = {
  id: 'k',
  slot: 'main',
  publicKey: '11111111111111111111111111111111',
  publicKeyBase64: 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=',
  custody: 'memory',
  exportable: false,
  state: 'active',
  tags: [],
  origin: 'generated',
  createdAt: '2026-01-01T00:00:00.000Z',
};
const signed = {
  signature: 'unused',
  signatureBase64: Buffer.alloc(64, 7).toString('base64'),
  kind: 'bytes',
  publicKey: key.publicKey,
  custody: 'memory',
  receipt: { node: 'here', seq: 7, hash: 'ab'.repeat(32), proof: '/v1/audit/7/proof' },
};
const hello = new TextEncoder().encode('hello');
const token = 'token-that-nobody-must-see';

async function errorOf(work: Promise<unknown>): Promise<KeyslotClientError> {
  const error = await work.then(() => undefined).catch((thrown: unknown) => thrown);
  if (isKeyslotClientError(error)) return error;
  throw new Error(`no client error: ${inspect(error)}`);
}

describe('a question', () => {
  it('carries the token, an idempotency key where it is no reading, and the bytes in base64', async () => {
    await using appliance = await FalseAppliance.start((response, { method }) =>
      tell(response, 200, method === 'GET' ? key : signed),
    );
    let tokens = 0;
    const bearerToken = async () => {
      tokens += 1;
      return `${token}-${tokens}`;
    };
    const client = createKeyslotClient({ url: `${appliance.url}/prefix/`, auth: { bearerToken } });
    await client.keys.show('k');
    const { signature, kind, receipt } = await client.signMessage('k', hello);
    expect({ signature, kind }).toEqual({ signature: new Uint8Array(64).fill(7), kind: 'bytes' });
    expect(receipt).toEqual(signed.receipt);
    await client.signMessage('k', hello, { idempotencyKey: 'mine', requestId: 'my:request', raw: true });
    const [show, sign, again] = appliance.asked;
    expect(show).toMatchObject({ method: 'GET', path: '/prefix/v1/keys/k', body: '' });
    expect(show?.headers.authorization).toBe(`Bearer ${token}-1`);
    expect(show?.headers['idempotency-key']).toBeUndefined();
    expect(sign).toMatchObject({ method: 'POST', path: '/prefix/v1/keys/k/sign-message' });
    expect(JSON.parse(sign?.body ?? '')).toEqual({ message: 'aGVsbG8=' });
    expect(sign?.headers['idempotency-key']).toMatch(/^[0-9a-f-]{36}$/);
    expect(sign?.headers['request-id']).toBeUndefined();
    expect(again?.headers).toMatchObject({ 'idempotency-key': 'mine', 'request-id': 'my:request' });
    expect(JSON.parse(again?.body ?? '')).toEqual({ message: 'aGVsbG8=', raw: true });
    await codeOf(client.keys.destroy('k', { approval: 'a-1' }));
    expect(appliance.asked.at(-1)?.headers['keyslot-approval']).toBe('a-1');
    expect(await codeOf(client.keys.show('k', { requestId: 'two words' }))).toBeInstanceOf(TypeError);
  });

  it('goes nowhere for an id that would make another path, or a token that no header carries', async () => {
    await using appliance = await FalseAppliance.start(response => tell(response, 200, key));
    const client = createKeyslotClient({ url: appliance.url });
    for (const id of ['', '.', '..', 'a/b', '%2e', 'a?b', 'ä']) {
      expect(await codeOf(client.keys.show(id))).toBe('KEY_ID_INVALID');
      expect(await codeOf(client.slots.show(id))).toBe('SLOT_ID_INVALID');
      expect(await codeOf(client.migrations.show(id))).toBe('MIGRATION_UNKNOWN');
    }
    const broken = createKeyslotClient({ url: appliance.url, auth: { bearerToken: `${token}\n` } });
    const error = await broken.keys.show('k').catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(TypeError);
    expect(inspect(error)).not.toContain(token);
    expect(appliance.asked).toEqual([]);
  });

  it('goes over https, or over loopback; a url that carries a password is refused without repeating it', () => {
    for (const url of ['http://keyslot.example', 'http://127.0.0.1.example', 'ftp://127.0.0.1']) {
      expect(() => createKeyslotClient({ url })).toThrow(TypeError);
    }
    expect(() => createKeyslotClient({ url: 'https://u:secret@127.0.0.1' })).toThrow(/^((?!secret).)*$/);
    for (const url of ['https://keyslot.example', 'http://localhost:1', 'http://[::1]:1']) {
      expect(createKeyslotClient({ url })).toBeDefined();
    }
  });
});

describe('a failure', () => {
  it('has the code of the problem, what else it says, and neither token nor body in its text', async () => {
    await using appliance = await FalseAppliance.start(response =>
      tell(response, 423, problem('SLOT_LOCKED', false)),
    );
    const client = createKeyslotClient({ url: appliance.url, auth: { bearerToken: token } });
    const error = await errorOf(client.keys.import('k', { slot: 'main', seed: new Uint8Array(32) }));
    expect(error).toMatchObject({
      code: 'SLOT_LOCKED',
      status: 423,
      retryable: false,
      requestId: 'r-1',
      detail: 'it was SLOT_LOCKED',
      message: 'it was SLOT_LOCKED',
    });
    expect(inspect(error)).not.toContain(token);
    expect(inspect(error)).not.toContain('AAAA');
    expect(appliance.asked).toHaveLength(1);
  });

  it('of a policy says which rules refused', async () => {
    const violations = [{ rule: 'payments/destinations', reason: 'the destination is not listed' }];
    await using appliance = await FalseAppliance.start(response =>
      tell(response, 403, { ...problem('POLICY_DENIED', false), violations }),
    );
    const client = createKeyslotClient({ url: appliance.url });
    expect(await errorOf(client.signMessage('k', hello))).toMatchObject({
      code: 'POLICY_DENIED',
      violations,
    });
  });

  it.each([
    ['garbage', 200, 'garbage'],
    ['nothing', 200, ''],
    ['another shape', 200, { signature: 'x' }],
    ['a signature of 63 bytes', 200, { ...signed, signatureBase64: Buffer.alloc(63).toString('base64') }],
    ['a signature that is no base64', 200, { ...signed, signatureBase64: `${'A'.repeat(87)}*` }],
    ['a page of a proxy', 502, '<html>Bad gateway</html>'],
    ['a problem without a code', 503, { detail: 'x', retryable: true, requestId: 'r' }],
    ['a redirect', 307, ''],
  ])('is CLIENT_REPLY_INVALID for %s, and is not repeated', async (_what, status, body) => {
    await using other = await FalseAppliance.start(response => tell(response, 200, signed));
    await using appliance = await FalseAppliance.start(response =>
      tell(response, status, body, { Location: other.url, 'Retry-After': '0' }),
    );
    const client = createKeyslotClient({ url: appliance.url });
    const error = await errorOf(client.signMessage('k', hello));
    expect(error).toMatchObject({ code: 'CLIENT_REPLY_INVALID', retryable: false });
    expect([appliance.asked.length, other.asked.length]).toEqual([1, 0]);
  });

  it('is a code even when the reply is any JSON there is', async () => {
    let reply = '';
    await using appliance = await FalseAppliance.start(response => tell(response, 200, reply));
    const client = createKeyslotClient({ url: appliance.url });
    const asks = [
      () => client.keys.show('k'),
      () => client.keys.list(),
      () => client.slots.list(),
      () => client.signBatch('k', [{ message: hello }]),
      () => client.migrations.list(),
      () => client.health.ready(),
    ];
    await fc.assert(
      fc.asyncProperty(fc.json(), fc.constantFrom(...asks), async (json, ask) => {
        reply = json;
        expect(await codeOf(ask())).toBe('CLIENT_REPLY_INVALID');
      }),
      { numRuns: 60 },
    );
  });
});

describe('what is repeated', () => {
  it('is a signature that the appliance is too busy for, with one idempotency key', async () => {
    await using appliance = await FalseAppliance.start((response, _asked, count) => {
      if (count < 3)
        tell(response, 503, problem('SLOT_BUSY', true), { 'Retry-After': count === 1 ? '1' : '0' });
      else tell(response, 200, signed);
    });
    const client = createKeyslotClient({ url: appliance.url });
    expect((await client.signMessage('k', hello)).kind).toBe('bytes');
    const keys = new Set(appliance.asked.map(({ headers }) => headers['idempotency-key']));
    expect([appliance.asked.length, keys.size]).toEqual([3, 1]);
  });

  it('is a batch of which an item was refused for the moment, when all of it is asked for', async () => {
    const { publicKey, custody, ...one } = signed;
    await using appliance = await FalseAppliance.start((response, _asked, count) => {
      const results = count === 1 ? [one, { error: problem('SLOT_BUSY', true) }] : [one, one];
      tell(response, 200, { results, publicKey, custody });
    });
    const client = createKeyslotClient({ url: appliance.url });
    const items = [{ message: hello }, { message: hello }];
    expect((await client.signAll('k', items)).results).toHaveLength(2);
    expect(appliance.asked).toHaveLength(2);
  });

  it('ends at the number of retries, with the problem', async () => {
    await using appliance = await FalseAppliance.start(response =>
      tell(response, 503, problem('SLOT_BUSY', true)),
    );
    const client = createKeyslotClient({ url: appliance.url, retries: 2 });
    expect(await errorOf(client.signMessage('k', hello))).toMatchObject({
      code: 'SLOT_BUSY',
      retryable: true,
    });
    expect(appliance.asked).toHaveLength(3);
  });

  it('waits for Retry-After, and so not at all when that is beyond the time of the call', async () => {
    await using appliance = await FalseAppliance.start(response =>
      tell(response, 503, problem('SLOT_BUSY', true), { 'Retry-After': '3600' }),
    );
    const client = createKeyslotClient({ url: appliance.url });
    expect(await errorOf(client.keys.show('k'))).toMatchObject({ code: 'SLOT_BUSY', retryAfter_s: 3600 });
    expect(appliance.asked).toHaveLength(1);
  });

  it('is a signature whose connection broke before, in the middle of and after the head of an answer', async () => {
    await using appliance = await FalseAppliance.start((response, _asked, count) => {
      if (count === 1) response.socket?.destroy();
      else if (count === 2) response.writeHead(200, { 'Content-Length': '1000' }).write('{"signature');
      else tell(response, 200, signed);
      if (count === 2) setTimeout(() => response.socket?.destroy(), 20);
    });
    const client = createKeyslotClient({ url: appliance.url });
    expect((await client.signMessage('k', hello)).kind).toBe('bytes');
    expect(appliance.asked).toHaveLength(3);
  });

  it('is a change under the same idempotency key, because the appliance makes one for each key', async () => {
    let asked = 0;
    await using appliance = await FalseAppliance.start(response => {
      asked += 1;
      if (asked % 2 === 1) response.socket?.destroy();
      else tell(response, 201, key);
    });
    const client = createKeyslotClient({ url: appliance.url });
    const changes = [
      () => client.keys.generate('k', 'main', { tags: ['hot'] }),
      () => client.keys.import('k', { slot: 'main', seed: new Uint8Array(32) }),
      () => client.keys.tag('k', []),
      () => client.keys.destroy('k', { approval: 'a' }),
    ];
    for (const change of changes) expect(await change()).toEqual(key);
    const keys = appliance.asked.map(({ headers }) => headers['idempotency-key']);
    expect([keys.length, new Set(keys).size]).toEqual([2 * changes.length, changes.length]);
    for (let at = 0; at < keys.length; at += 2) expect(keys[at]).toBe(keys[at + 1]);
  });

  it('is a change no longer than the retries, and then it is worth repeating only under a key of the caller', async () => {
    await using appliance = await FalseAppliance.start(response => response.socket?.destroy());
    const client = createKeyslotClient({ url: appliance.url, retries: 1 });
    const lost = await errorOf(client.keys.generate('k', 'main'));
    expect(lost).toMatchObject({ code: 'CLIENT_NETWORK', retryable: false });
    const named = await errorOf(client.keys.generate('k', 'main', { idempotencyKey: 'mine' }));
    expect(named).toMatchObject({ code: 'CLIENT_NETWORK', retryable: true });
    expect(appliance.asked).toHaveLength(4);
  });

  it('is nothing that carries a PIN, once it was sent', async () => {
    let how: 'reset' | 'busy' = 'busy';
    await using appliance = await FalseAppliance.start(response => {
      if (how === 'busy') tell(response, 503, problem('CUSTODIAN_UNAVAILABLE', true));
      else response.socket?.destroy();
    });
    const client = createKeyslotClient({ url: appliance.url });
    const attempts = [() => client.slots.open('main', '1234'), () => client.sessions.open('main', '1234')];
    for (const attempt of attempts) {
      how = 'busy';
      expect(await errorOf(attempt())).toMatchObject({ code: 'CUSTODIAN_UNAVAILABLE' });
      how = 'reset';
      expect(await errorOf(attempt())).toMatchObject({ code: 'CLIENT_NETWORK', retryable: false });
    }
    expect(appliance.asked).toHaveLength(2 * attempts.length);
  });

  it('is even that when no connection came about, because then nothing can have happened', async () => {
    const attempts: string[] = [];
    const url = `http://127.0.0.1:${await closedPort()}`;
    const counting: typeof globalThis.fetch = (to, init) => {
      attempts.push(String(to));
      return globalThis.fetch(to, init);
    };
    const client = createKeyslotClient({ url, fetch: counting, retries: 2 });
    const error = await errorOf(client.keys.generate('k', 'main'));
    expect(error).toMatchObject({ code: 'CLIENT_NETWORK', retryable: true });
    expect(error.detail).toContain('ECONNREFUSED');
    expect(attempts).toHaveLength(3);
  });
});

describe('an end', () => {
  it('comes to a call that hangs, before its answer and in the middle of it', async () => {
    await using appliance = await FalseAppliance.start((response, { path }) => {
      if (path.endsWith('/half')) response.writeHead(200).write('{');
    });
    const client = createKeyslotClient({ url: appliance.url, timeout_ms: 300 });
    expect(await errorOf(client.keys.show('k'))).toMatchObject({ code: 'CLIENT_TIMEOUT', retryable: true });
    expect(await errorOf(client.keys.show('half'))).toMatchObject({ code: 'CLIENT_TIMEOUT' });
    const changed = errorOf(client.keys.generate('k', 'main'));
    expect(await changed).toMatchObject({ code: 'CLIENT_TIMEOUT', retryable: false });
    const deaf = createKeyslotClient({
      url: appliance.url,
      timeout_ms: 300,
      fetch: () => Promise.withResolvers<never>().promise,
    });
    expect(await codeOf(deaf.keys.show('k'))).toBe('CLIENT_TIMEOUT');
  });

  it('comes when the signal says so: before the call, during it, and between two tries', async () => {
    const reached = Promise.withResolvers<void>();
    await using appliance = await FalseAppliance.start((response, { path }) => {
      if (path.endsWith('/busy')) tell(response, 503, problem('SLOT_BUSY', true), { 'Retry-After': '30' });
      reached.resolve();
    });
    const client = createKeyslotClient({ url: appliance.url });
    const reason = new Error('enough');
    const early = await errorOf(client.keys.show('k', { signal: AbortSignal.abort(reason) }));
    expect(early).toMatchObject({ code: 'CLIENT_ABORTED', cause: reason });
    expect(appliance.asked).toHaveLength(0);
    for (const id of ['hangs', 'busy']) {
      const abort = new AbortController();
      const call = codeOf(client.keys.show(id, { signal: abort.signal }));
      await reached.promise;
      setTimeout(() => abort.abort(reason), 100);
      expect(await call).toBe('CLIENT_ABORTED');
    }
    expect(appliance.asked).toHaveLength(2);
  });

  it('comes to everything that is asked of a client that was closed', async () => {
    await using appliance = await FalseAppliance.start(response => tell(response, 200, key));
    const client = createKeyslotClient({ url: appliance.url });
    await client[Symbol.asyncDispose]();
    expect(await codeOf(client.keys.show('k'))).toBe('CLIENT_ABORTED');
    expect(appliance.asked).toHaveLength(0);
  });
});

describe('pages', () => {
  it('are walked as far as somebody wants to know, and a listing that turns in a circle is noticed', async () => {
    await using appliance = await FalseAppliance.start((response, { path }) => {
      const cursor = Number(new URL(path, 'http://x').searchParams.get('cursor') ?? 0);
      const keys = [1, 2].map(step => ({ ...key, id: `k${cursor + step}` }));
      tell(response, 200, { keys, ...(cursor < 4 ? { next: `${cursor + 2}` } : {}) });
    });
    const client = createKeyslotClient({ url: appliance.url });
    const ids: string[] = [];
    for await (const { id } of client.keys.all({ slot: 'main', limit: 2 })) ids.push(id);
    expect(ids).toEqual(['k1', 'k2', 'k3', 'k4', 'k5', 'k6']);
    expect(appliance.asked.map(({ path }) => path)).toEqual([
      '/v1/keys?slot=main&limit=2',
      '/v1/keys?slot=main&limit=2&cursor=2',
      '/v1/keys?slot=main&limit=2&cursor=4',
    ]);
    for await (const { id } of client.keys.all()) if (id === 'k2') break;
    expect(appliance.asked).toHaveLength(4);
    await using circle = await FalseAppliance.start(response => tell(response, 200, { keys: [], next: 'x' }));
    const walk = createKeyslotClient({ url: circle.url }).keys.all().next();
    expect(await codeOf(walk)).toBe('CLIENT_REPLY_INVALID');
  });
});

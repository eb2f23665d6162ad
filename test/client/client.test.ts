import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createAuthority } from '../../src/appliance/certificates.ts';
import { createKeyslotClient, type KeyslotClient } from '../../src/client/index.ts';
import { mtlsFetch } from '../../src/client/node.ts';
import { decodeBase58, encodeBase58 } from '../../src/foundation/base58.ts';
import { type Appliance, type Home, prepareHome, serve } from '../e2e/appliance.ts';
import { isSignature, other, readWire, signedBy, transfers } from '../e2e/transactions.ts';
import { clientOf, codeOf } from './lab.ts';

/** Every native call against a real appliance with a real token, over TLS. */

let home: Home;
let appliance: Appliance;
let client: KeyslotClient;
let address: string;
let outsider: Awaited<ReturnType<Home['addIdentity']>>;

beforeAll(async () => {
  home = await prepareHome();
  home.configure(config => {
    config.slots.push({
      id: 'spare',
      engine: 'memory',
      pin: { file: 'secrets/user.pin' },
      access: 'identity',
    });
    config.slots.push({ id: 'target', engine: 'encrypted-file', pin: { file: 'secrets/user.pin' } });
  });
  outsider = await home.addIdentity('outsider', ['operator', 'signer'], ['spare']);
  appliance = await serve(home);
  client = clientOf(home, appliance);
  address = (await client.keys.generate('k', 'main')).publicKey;
});

afterAll(async () => {
  const exit = await appliance?.stop();
  home?.remove();
  expect(exit?.status).toBe(0);
});

const hello = new TextEncoder().encode('hello');

describe('slots and keys', () => {
  it('are shown, opened and locked', async () => {
    expect((await client.slots.list()).map(({ id }) => id)).toEqual(['main', 'spare', 'target']);
    expect(await client.slots.show('main')).toMatchObject({ engine: 'pkcs11', custody: 'hsm-native' });
    expect((await client.slots.lock('spare')).state).toBe('locked');
    expect(await client.health.alive()).toBe(true);
    expect((await client.health.ready()).ready).toBe(false);
    expect((await client.slots.open('spare', home.secret('user.pin'))).state).toBe('open');
    expect((await client.slots.clearLatch('spare')).state).toBe('open');
    expect((await client.health.ready()).ready).toBe(true);
  });

  it('are made, taken in and listed page by page', async () => {
    const { seed, address: known } = other();
    expect((await client.keys.import('seed', { slot: 'spare', seed })).publicKey).toBe(known);
    const pair = other();
    const secretKey = Buffer.concat([pair.seed, Buffer.from(decodeBase58(pair.address) ?? [])]);
    expect((await client.keys.import('pair', { slot: 'spare', secretKey })).publicKey).toBe(pair.address);
    expect(await codeOf(client.keys.adopt('alien', { slot: 'main' }))).toBe('KEY_UNKNOWN');
    expect(await codeOf(client.keys.generate('k', 'main'))).toBe('KEY_EXISTS');
    const page = await client.keys.list({ slot: 'spare', limit: 1 });
    expect([page.keys.map(({ id }) => id), page.next]).toEqual([['pair'], 'pair']);
    const ids: string[] = [];
    for await (const { id } of client.keys.all({ limit: 1 })) ids.push(id);
    expect(ids).toEqual(['k', 'pair', 'seed']);
    expect(await client.keys.show('k')).toMatchObject({
      attributes: { sensitive: true, extractable: false },
    });
  });

  it('are moved to another slot', async () => {
    const { publicKey } = await client.keys.generate('moved', 'spare');
    const route = { from: 'spare', to: 'target', keys: ['moved'] };
    const plan = await client.migrations.plan(route);
    expect(plan.keys.map(({ key }) => key)).toEqual(['moved']);
    expect([plan.possible, plan.impossible]).toEqual([1, 0]);
    const { id, leftOut } = await client.migrations.start(route);
    expect(leftOut).toEqual([]);
    expect((await client.migrations.list()).map(migration => migration.id)).toContain(id);
    expect((await client.migrations.run(id)).migration.state).toBe('finished');
    expect((await client.migrations.verify(id)).keys.map(({ step }) => step)).toEqual(['kept']);
    expect((await client.migrations.show(id, { limit: 1 })).keys).toHaveLength(1);
    expect(await client.keys.show('moved')).toMatchObject({ slot: 'target', publicKey });
    expect((await client.migrations.rollback(id)).keys.map(({ error }) => error)).toEqual([undefined]);
    expect((await client.keys.show('moved')).slot).toBe('spare');
    const destroyed = await client.migrations.destroyCopies(id, { confirm: true });
    expect(destroyed.keys.map(({ step }) => step)).toEqual(['cleared']);
  });
});

describe('signatures', () => {
  it('are made of messages and of transactions, and verified by the appliance', async () => {
    const { signature, kind, publicKey } = await client.signMessage('k', hello);
    expect([kind, publicKey]).toEqual(['bytes', address]);
    expect(await isSignature(address, hello, encodeBase58(signature))).toBe(true);
    expect(await client.verify('k', hello, signature)).toBe(true);
    expect(await client.verify('k', new Uint8Array(1), signature)).toBe(false);

    const second = other();
    const wire = signedBy(transfers('v0', [address, second.address]), second);
    const signed = await client.signTransaction('k', wire);
    expect(signed.version).toBe('v0');
    const { signatures } = readWire(signed.signedTransaction);
    expect(Buffer.from(signatures[address] ?? [])).toEqual(Buffer.from(signed.signature));
    expect(signatures[second.address]).toEqual(Uint8Array.from(second.sign(readWire(wire).message)));
  });

  it('come one an item of a batch, and an item that failed is its own error', async () => {
    const wire = transfers('legacy', [address]);
    const foreign = transfers('legacy', [other().address]);
    const items = [{ message: hello }, { transaction: foreign }, { transaction: wire }];
    const { results, publicKey } = await client.signBatch('k', items);
    expect(publicKey).toBe(address);
    expect(
      results.map(result => ('error' in result ? [result.error.code, result.error.index] : 'signed')),
    ).toEqual(['signed', ['KEY_NOT_A_SIGNER', 1], 'signed']);
    const whole = client.signAll('k', items).catch((error: unknown) => error);
    expect(await whole).toMatchObject({ code: 'KEY_NOT_A_SIGNER', index: 1 });
    expect((await client.signAll('k', [{ message: hello }])).results).toHaveLength(1);
    expect(await codeOf(client.signBatch('k', []))).toBe('BATCH_TOO_LARGE');
  });

  it('are refused with the code of the appliance', async () => {
    const { message } = readWire(transfers('v0', [address]));
    expect(await codeOf(client.signMessage('k', message))).toBe('MESSAGE_IS_TRANSACTION');
    expect(await codeOf(client.signMessage('k', new Uint8Array()))).toBe('MESSAGE_EMPTY');
    expect(await codeOf(client.signTransaction('k', new Uint8Array([1, 2])))).toBe('TRANSACTION_TRUNCATED');
  });
});

describe('who asks', () => {
  it('is known by a certificate or by a token, and a wrong or foreign one is refused', async () => {
    const byToken = (token: string) => clientOf(home, appliance, { token });
    expect((await byToken(home.secret('developer.token')).keys.show('k')).publicKey).toBe(address);
    expect(await codeOf(byToken('a-token-of-nobody-here').keys.show('k'))).toBe('CREDENTIAL_UNKNOWN');
    expect(await codeOf(byToken('short').keys.show('k'))).toBe('CREDENTIAL_UNKNOWN');
    expect(await codeOf(clientOf(home, appliance, 'nobody').keys.show('k'))).toBe('CREDENTIAL_MISSING');
    const foreign = await (await createAuthority('somebody else')).issueClient('developer');
    expect(await codeOf(clientOf(home, appliance, foreign).keys.show('k'))).toBe('CREDENTIAL_UNKNOWN');
  });

  it('hears the same of a key that is not for it as of one that does not exist', async () => {
    const its = clientOf(home, appliance, outsider);
    const answers = ['k', 'none'].map(key => [
      its.keys.show(key),
      its.signMessage(key, hello),
      its.signTransaction(key, transfers('v0', [address])),
      its.signBatch(key, [{ message: hello }]),
      its.verify(key, hello, new Uint8Array(64)),
    ]);
    const told = await Promise.all(answers.map(asked => Promise.all(asked.map(factsOf))));
    expect(told[0]).toEqual(told[1]);
    expect(told[0]?.map(({ code }) => code)).toEqual(Array.from({ length: 5 }, () => 'KEY_UNKNOWN'));
    expect(await codeOf(its.slots.show('main'))).toBe('SLOT_UNKNOWN');
  });
});

describe('certificates that do not match', () => {
  it('are CLIENT_NETWORK that says so, tried once', async () => {
    let tries = 0;
    const counted = (ca: string, servername?: string) => {
      const fetch = mtlsFetch({ ca, servername });
      return createKeyslotClient({
        url: appliance.url,
        fetch: (url, init) => {
          tries += 1;
          return fetch(url, init);
        },
      });
    };
    const { certificate: strange } = await createAuthority('somebody else');
    const clients = [
      counted(strange), // the appliance's certificate is of another CA
      counted(home.authority.certificate, 'keyslot.example'), // or for another name
      createKeyslotClient({ url: appliance.url }), // and the runtime's own fetch knows no private CA
    ];
    for (const each of clients) {
      const error = await each.keys.show('k').catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: 'CLIENT_NETWORK', retryable: false });
      expect((error as Error).message).toContain('certificate');
    }
    expect(tries).toBe(2);
  });

  it('are CLIENT_NETWORK too where the appliance lets nobody in without one of its CA', async () => {
    const strict = await prepareHome();
    strict.configure(config => {
      config.profile = 'production';
      config.audit = { unsigned: true };
      config.identities = config.identities.filter(identity => !('token' in identity));
    });
    strict.setPolicies(); // the one of the home lets everything through
    const production = await serve(strict);
    try {
      const foreign = await (await createAuthority('somebody else')).issueClient('developer');
      for (const who of ['nobody', foreign] as const) {
        expect(await codeOf(clientOf(strict, production, who).keys.list())).toBe('CLIENT_NETWORK');
      }
      expect((await clientOf(strict, production).keys.list()).keys).toEqual([]);
    } finally {
      await production.stop();
      strict.remove();
    }
  });

  it('are said at once when they are no certificates, or not of their key', async () => {
    const one = await home.authority.issueClient('one');
    const two = await home.authority.issueClient('two');
    const { certificate: ca } = home.authority;
    expect(() => mtlsFetch({ ca, certificate: 'no PEM', key: one.key })).toThrow();
    expect(() => mtlsFetch({ ca, certificate: one.certificate, key: two.key })).toThrow();
  });

  it('leave no connection behind when the fetch is closed', async () => {
    const { fetch, ...its } = clientOf(home, appliance);
    expect(await its.health.alive()).toBe(true);
    await fetch.close();
    expect(await codeOf(its.keys.show('k'))).toBe('CLIENT_NETWORK');
  });
});

const factsOf = (call: Promise<unknown>) =>
  call.then(
    () => ({ code: 'answered' }),
    ({ code, status, retryable, detail }: Record<string, unknown>) => ({
      code,
      status,
      retryable,
      detail: String(detail).replaceAll(/\b(k|none)\b/g, '…'),
    }),
  );

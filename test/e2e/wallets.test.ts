import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { RpcNode, tokenAccount, tokenProgram } from '../gateway/rpc-node.ts';
import {
  type Appliance,
  base64,
  type Client,
  eventually,
  expectProblem,
  type Home,
  prepareHome,
  type Reply,
  refusal,
  serve,
} from './appliance.ts';
import { Chain, isSignature, other, readWire, transfers, versions } from './transactions.ts';

/** A wallet, or what signing answers, as the clients of the wallet engine read it. */
interface Data {
  readonly id: string;
  readonly publicKey: string;
  readonly createdAt: string;
  readonly label?: string;
  readonly signedTransaction: string;
  readonly signature: string;
  readonly txVersion: string;
  readonly signatureBase64: string;
  readonly signatureBase58: string;
}

const dataOf = <T = Data>({ text }: Reply): T => (JSON.parse(text) as { data: T }).data;
const wallets = '/api/v1/wallets';
/** Where a signature stands in the audit log. */
const receipt = {
  node: 'keyslot',
  seq: expect.any(Number),
  hash: expect.stringMatching(/^[0-9a-f]{64}$/),
  proof: expect.stringMatching(/^\/v1\/audit\/\d+\/proof$/),
};

let home: Home;
let node: RpcNode;
let appliance: Appliance;
let developer: Client;
let nobody: Client;
let bearer: Client;
let outsider: Client;

beforeAll(async () => {
  home = await prepareHome();
  node = await RpcNode.start();
  const issued = await home.addIdentity('outsider', ['operator', 'signer'], []);
  home.configure(config => {
    config.compat = { agenticWallet: true };
    config.solanaRpcUrl = node.url;
  });
  appliance = await serve(home);
  developer = appliance.client();
  nobody = appliance.client('nobody');
  bearer = appliance.client({ token: home.secret('developer.token') });
  outsider = appliance.client(issued);
});

afterAll(async () => {
  for (const client of [developer, nobody, bearer, outsider]) client?.close();
  const exit = await appliance?.stop();
  await node?.[Symbol.asyncDispose]();
  home?.remove();
  expect(exit?.status).toBe(0);
});

const make = async (body: unknown = {}) => dataOf(await developer.post(wallets, body));

describe('the wallet routes', () => {
  it('are healthy for whoever asks, and for nothing else without a credential', async () => {
    const health = await nobody.get('/health');
    expect({ status: health.status, text: JSON.parse(health.text) }).toEqual({
      status: 200,
      text: { status: 'ok', service: 'wallet-engine' },
    });
    const { status, json } = await nobody.get(wallets);
    expect({ status, code: json.code }).toEqual({ status: 401, code: 'CREDENTIAL_MISSING' });
    expect(json).toHaveProperty('error');
  });

  it('make a wallet in the HSM that is listed, shown and found by its address', async () => {
    const reply = await developer.post(wallets, { label: 'savings' });
    expect(reply.status).toBe(201);
    const made = dataOf(reply);
    expect(made).toEqual({
      id: expect.stringMatching(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/),
      publicKey: expect.any(String),
      provider: 'hsm',
      keyProvenance: { backend: 'hsm', custody: 'external', deterministicAddressing: false },
      custodyLabel: 'hsm-native',
      createdAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      status: 'active',
      label: 'savings',
    });
    expect(dataOf(await developer.get(`${wallets}/${made.id}`))).toEqual(made);
    expect(dataOf<Data[]>(await developer.get(`${wallets}?publicKey=${made.publicKey}`))).toEqual([made]);
    expect(dataOf<Data[]>(await bearer.get(wallets))).toContainEqual(made);
    expect(dataOf<Data[]>(await outsider.get(wallets))).toEqual([]);
    const key = await developer.get(`/v1/keys/${made.id}`);
    expect(key.json).toMatchObject({ publicKey: made.publicKey, slot: 'main', exportable: false });
  });

  it('take no body at all, and list the oldest first', async () => {
    const bare = await developer.send('POST', wallets);
    expect(bare.status).toBe(201);
    const last = await make();
    const listed = dataOf<Data[]>(await developer.get(wallets));
    expect(listed.slice(-2)).toEqual([dataOf(bare), last]);
    expect(listed.map(({ createdAt }) => createdAt)).toEqual(listed.map(({ createdAt }) => createdAt).sort());
  });

  it.each(versions)(
    'sign a %s transaction under its own version, and a Solana runtime executes it',
    async version => {
      const { id, publicKey } = await make();
      const chain = new Chain();
      const to = other().address;
      chain.fund([publicKey]);
      const wire = transfers(version, [publicKey], to, chain.blockhash);
      const reply = await developer.post(`${wallets}/${id}/sign`, { transaction: base64(wire) });
      expect(reply.status).toBe(200);
      const { signedTransaction, signature, txVersion, ...rest } = dataOf(reply);
      expect({ txVersion, rest }).toEqual({ txVersion: version, rest: { receipt } });
      expect(await isSignature(publicKey, readWire(wire).message, signature)).toBe(true);
      expect(chain.executes(Buffer.from(signedTransaction, 'base64'), to)).toBe(true);
    },
  );

  it('sign a message, and never a transaction as one', async () => {
    const { id, publicKey } = await make();
    const reply = await developer.post(`${wallets}/${id}/sign`, { message: base64('hello') });
    const { signatureBase58, signatureBase64, ...rest } = dataOf(reply);
    expect({ status: reply.status, rest }).toEqual({ status: 200, rest: { receipt } });
    expect(await isSignature(publicKey, Buffer.from('hello'), signatureBase58)).toBe(true);
    const native = await developer.post(`/v1/keys/${id}/sign-message`, { message: base64('hello') });
    expect(native.json).toMatchObject({ signature: signatureBase58, signatureBase64 });
    const { message } = readWire(transfers('legacy', [publicKey]));
    const refused = await developer.post(`${wallets}/${id}/sign`, { message: base64(message) });
    expect(refused.json).toMatchObject({ code: 'MESSAGE_IS_TRANSACTION', error: expect.any(String) });
  });

  it('ask the node for balances out of the confined process', async () => {
    const { id, publicKey } = await make();
    node.balances.set(publicKey, 42);
    node.accounts.set(`${publicKey} ${tokenProgram}`, [tokenAccount('spl-token', 'Mint', '5', 5)]);
    const balance = await developer.get(`${wallets}/${id}/balance`);
    expect(dataOf(balance)).toEqual({ walletId: id, publicKey, lamports: 42, sol: 42 / 1_000_000_000 });
    const tokens = await developer.get(`${wallets}/${id}/tokens`);
    expect(dataOf(tokens)).toEqual({
      walletId: id,
      tokens: [{ mint: 'Mint', amount: '5', decimals: 6, uiAmount: 5 }],
    });
  });

  it('are still there after the gateway was killed', async () => {
    const { id } = await make({ label: 'before' });
    const gateway = await appliance.child('gateway');
    process.kill(gateway, 'SIGKILL');
    await appliance.child('gateway', gateway);
    const shown = await eventually('an answer', () =>
      developer.get(`${wallets}/${id}/balance`).then(
        reply => reply,
        () => undefined,
      ),
    );
    expect(shown.status).toBe(200);
  });
});

describe('kill -9 of the custodian while wallets are made', () => {
  it('loses no wallet that was acknowledged, and leaves none without its key', async () => {
    const acknowledged = new Map<string, string>();
    let custodian = await appliance.child('custodian');
    for (let round = 0; round < 3; round += 1) {
      const lanes = Array.from({ length: 4 }, async (_, lane) => {
        for (let count = 0; count < 8; count += 1) {
          const label = `${round}-${lane}-${count}`;
          const reply = await developer.post(wallets, { label });
          if (reply.status === 201) acknowledged.set(dataOf(reply).id, label);
        }
      });
      await eventually('some wallets', () => acknowledged.size > round * 4 + 3);
      process.kill(custodian, 'SIGKILL');
      custodian = await appliance.child('custodian', custodian);
      await Promise.all(lanes);
      await eventually('an open slot', async () => (await developer.get('/readyz')).status === 200);
    }
    const listed = dataOf<Data[]>(await developer.get(wallets));
    const labels = new Map(listed.map(({ id, label }) => [id, label]));
    for (const [id, label] of acknowledged) expect(labels.get(id)).toBe(label);
    for (const { id, publicKey } of listed) {
      const signed = dataOf(await developer.post(`${wallets}/${id}/sign`, { message: base64(id) }));
      expect(await isSignature(publicKey, Buffer.from(id), signed.signatureBase58)).toBe(true);
    }
  });
});

describe('the configuration', () => {
  it('without compat.agenticWallet has none of these routes', async () => {
    const plain = await prepareHome();
    try {
      await using without = await serve(plain);
      const client = without.client();
      const id = '00000000-0000-4000-8000-000000000000';
      for (const path of [
        '/health',
        wallets,
        `${wallets}/${id}`,
        `${wallets}/${id}/balance`,
        `${wallets}/${id}/tokens`,
      ]) {
        expectProblem(await client.get(path), 404, 'ROUTE_UNKNOWN');
      }
      expectProblem(await client.post(wallets, {}), 404, 'ROUTE_UNKNOWN');
      expectProblem(await client.post(`${wallets}/${id}/sign`, { message: 'AA==' }), 404, 'ROUTE_UNKNOWN');
      client.close();
    } finally {
      plain.remove();
    }
  });

  it('is refused when it does not say where wallets are made, or what cannot be adopted', async () => {
    const wrong = await prepareHome();
    const spare = { id: 'spare', engine: 'memory', pin: { file: 'secrets/user.pin' } };
    const files = { id: 'files', engine: 'encrypted-file', pin: { file: 'secrets/user.pin' } };
    try {
      for (const [compat, slot] of [
        [{ agenticWallet: true }, spare],
        [{ agenticWallet: true, slot: 'nowhere' }, spare],
        [{ agenticWallet: true, slot: 'spare', adopt: 'field' }, spare],
        [{ adopt: 'field', slot: 'files' }, files],
        [{ agenticWallet: true, slot: 'files', adopt: 'nowhere' }, files],
      ] as const) {
        wrong.configure(config => {
          config.slots = [...config.slots.slice(0, 1), slot];
          config.compat = compat;
        });
        expect(await refusal(serve(wrong))).toBe('CONFIG_INVALID');
      }
    } finally {
      wrong.remove();
    }
  });
});

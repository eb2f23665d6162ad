import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { address, getTransactionDecoder, getTransactionEncoder } from '@solana/kit';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { encodeBase58 } from '../../src/foundation/base58.ts';
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
  root,
  run,
  serve,
} from './appliance.ts';
import { Chain, isSignature, other, readWire, transfers, versions } from './transactions.ts';
import type { Done, Job } from './vault-client.ts';

/** What Vault's clients read. */
interface Answer {
  readonly data?: Record<string, unknown> & { readonly signature?: string };
  readonly auth?: { readonly client_token: string };
  readonly errors?: readonly string[];
}

const vault = ({ text }: Reply) => JSON.parse(text) as Answer;
const statusAnd = (reply: Reply) => ({ status: reply.status, errors: vault(reply).errors });
const denied = { status: 403, errors: ['permission denied'] };

let home: Home;
let appliance: Appliance;
/** Knows no token and has no certificate: the tokens are in the headers. */
let anyone: Client;
let developer: Client;
const secrets = { robot: secretText(), payments: secretText(), outsider: secretText() };
const keys: Record<string, string> = {};

/** What production lets its keys sign. */
const transfersAndTexts = {
  name: 'transfers-and-texts',
  appliesTo: { slots: ['main'] },
  transactions: {
    programs: [{ program: 'system', instructions: ['transfer'] }],
    destinations: 'any',
    feePayer: 'any',
    caps: { windows: [{ window: '24h', lamports: 1_000_000_000_000 }] },
  },
  messages: { bytes: 'any' },
};

function secretText(): string {
  return randomBytes(32).toString('base64url');
}

beforeAll(async () => {
  home = await prepareHome();
  const file = (name: keyof typeof secrets) => {
    writeFileSync(join(home.path, 'secrets', name), `${secrets[name]}\n`, { mode: 0o600 });
    return { file: `secrets/${name}` };
  };
  home.configure(config => {
    config.profile = 'production';
    config.audit = { unsigned: true };
    config.facade = { vaultTransit: true };
    config.identities = [
      ...config.identities.filter(identity => !('token' in identity)),
      {
        name: 'relayer',
        roles: ['signer'],
        slots: ['main'],
        appRole: { roleId: 'relayer', secretId: file('robot') },
      },
      { name: 'payments', roles: ['signer'], slots: ['main'], token: file('payments') },
      { name: 'outsider', roles: ['signer'], slots: [], token: file('outsider') },
    ];
  });
  home.setPolicies(transfersAndTexts);
  appliance = await serve(home);
  anyone = appliance.client('nobody');
  developer = appliance.client();
  for (const id of ['fees', 'other']) {
    const { json } = await developer.post('/v1/keys', { id, slot: 'main' });
    keys[id] = json.publicKey ?? '';
  }
});

afterAll(async () => {
  for (const client of [anyone, developer]) client?.close();
  const exit = await appliance?.stop();
  home?.remove();
  expect(exit?.status).toBe(0);
});

const as = (token: string) => ({ 'X-Vault-Token': token });
const sign = (bytes: Uint8Array | string, headers: Record<string, string>, key = 'fees') =>
  anyone.post(`/v1/transit/sign/${key}`, { input: base64(bytes) }, headers);

async function login(secret_id = secrets.robot): Promise<string> {
  const reply = await anyone.post('/v1/auth/approle/login', { role_id: 'relayer', secret_id });
  return vault(reply).auth?.client_token ?? '';
}

function expectSignature(reply: Reply, message: Uint8Array, key = 'fees'): Promise<void> {
  expect(reply.status).toBe(200);
  const bytes = Buffer.from(vault(reply).data?.signature?.slice('vault:v1:'.length) ?? '', 'base64');
  return isSignature(keys[key] ?? '', message, encodeBase58(bytes)).then(valid => expect(valid).toBe(true));
}

/** A job for the client of @solana/keychain-vault. */
async function keychain(job: Partial<Job>): Promise<Done> {
  const whole: Job = {
    vaultAddr: appliance.url,
    vaultToken: secrets.payments,
    keyName: 'fees',
    publicKey: keys.fees ?? '',
    transactions: [],
    messages: [],
    ...job,
  };
  const { status, stdout } = await run(process.execPath, [join(root, 'test/e2e/vault-client.ts')], {
    environment: { NODE_EXTRA_CA_CERTS: join(home.path, 'tls', 'ca.crt') },
    input: JSON.stringify(whole),
  });
  expect(status).toBe(0);
  return JSON.parse(stdout) as Done;
}

/** The wire transaction with the signature of the key `fees` in its place. */
function withSignature(wire: Uint8Array, signature: string): Buffer {
  const transaction = getTransactionDecoder().decode(wire);
  const bytes = new Uint8Array(Buffer.from(signature, 'base64'));
  const signatures = { ...transaction.signatures, [address(keys.fees ?? '')]: bytes };
  return Buffer.from(getTransactionEncoder().encode({ ...transaction, signatures } as typeof transaction));
}

describe('the client of @solana/keychain-vault', () => {
  it('finds the key available and signs transfers that a Solana runtime executes', async () => {
    const wires = versions
      .filter(version => version !== 'v1')
      .map(version => ({ version, chain: new Chain() }));
    const prepared = wires.map(({ version, chain }) => {
      const to = other().address;
      chain.fund([keys.fees ?? '']);
      return { chain, to, wire: transfers(version, [keys.fees ?? ''], to, chain.blockhash) };
    });
    const done = await keychain({
      transactions: prepared.map(({ wire }) => base64(wire)),
      messages: [base64('hello')],
    });
    expect(done).toMatchObject({ available: true });
    for (const [at, { chain, wire, to }] of prepared.entries()) {
      expect(chain.executes(withSignature(wire, done.transactions?.[at] ?? ''), to)).toBe(true);
    }
    const hello = Buffer.from(done.messages?.[0] ?? '', 'base64');
    expect(await isSignature(keys.fees ?? '', Buffer.from('hello'), encodeBase58(hello))).toBe(true);
  });

  it('signs with the token of a login too', async () => {
    const wire = transfers('v0', [keys.fees ?? '']);
    const { transactions } = await keychain({ vaultToken: await login(), transactions: [base64(wire)] });
    const signature = encodeBase58(Buffer.from(transactions?.[0] ?? '', 'base64'));
    expect(await isSignature(keys.fees ?? '', readWire(wire).message, signature)).toBe(true);
  });

  it('is told in Vault’s words what it may not do', async () => {
    const foreign = base64(transfers('v0', [other().address]));
    expect((await keychain({ transactions: [foreign] })).failure).toContain('KEY_NOT_A_SIGNER');
    const messages = [base64('hello')];
    const nobody = await keychain({ vaultToken: 'wrong', messages });
    expect(nobody).toEqual({ available: false, failure: expect.stringContaining('permission denied') });
    const outside = await keychain({ vaultToken: secrets.outsider, messages });
    const unknown = await keychain({ keyName: 'missing', messages });
    expect(outside).toEqual({ available: false, failure: expect.stringContaining('signing key not found') });
    expect(unknown).toEqual(outside);
  });

  it('loses and duplicates nothing of a thousand transactions at once', async () => {
    const wires = Array.from({ length: 1_000 }, () => transfers('v0', [keys.fees ?? '']));
    const { transactions = [] } = await keychain({ transactions: wires.map(base64) });
    expect(new Set(transactions).size).toBe(1_000);
    for (const [at, wire] of wires.entries()) {
      const signature = encodeBase58(Buffer.from(transactions[at] ?? '', 'base64'));
      expect(await isSignature(keys.fees ?? '', readWire(wire).message, signature)).toBe(true);
    }
  });
});

describe('the calls of Vault', () => {
  it.each(versions)('sign the message of a %s transaction of two, for each of them', async version => {
    const wire = transfers(version, [keys.other ?? '', keys.fees ?? '']);
    const { message } = readWire(wire);
    for (const key of ['fees', 'other']) {
      await expectSignature(await sign(message, as(secrets.payments), key), message, key);
    }
    const alone = readWire(transfers(version, [keys.other ?? ''])).message;
    expect(statusAnd(await sign(alone, as(secrets.payments)))).toEqual({
      status: 400,
      errors: [expect.stringContaining('KEY_NOT_A_SIGNER')],
    });
  });

  it('show the key as Vault does, to whoever may use it', async () => {
    const shown = await anyone.get('/v1/transit/keys/fees', as(secrets.payments));
    const { json } = await developer.get('/v1/keys/fees');
    expect(vault(shown).data).toMatchObject({
      type: 'ed25519',
      supports_signing: true,
      latest_version: 1,
      keys: { 1: { public_key: json.publicKeyBase64 } },
    });
    const listed = await anyone.get('/v1/transit/keys?list=true', as(secrets.payments));
    expect(vault(listed).data).toEqual({ keys: ['fees', 'other'] });
    for (const path of ['keys/fees', 'keys/missing', 'keys']) {
      const reply = await anyone.get(`/v1/transit/${path}`, as(secrets.outsider));
      expect(statusAnd(reply)).toEqual({ status: 404, errors: [] });
    }
  });

  it('know a certificate as well, and no token of anybody else', async () => {
    const own = await developer.post('/v1/transit/sign/fees', { input: base64('hello') });
    await expectSignature(own, Buffer.from('hello'));
    const both = await developer.post(
      '/v1/transit/sign/fees',
      { input: base64('hello') },
      as('a token of nobody'),
    );
    expect(statusAnd(both)).toEqual(denied);
    for (const headers of [{}, as('wrong'), as(`${secrets.payments}x`), as(secrets.robot)]) {
      expect(statusAnd(await sign('hello', headers))).toEqual(denied);
    }
  });

  it('refuse what asks for another signature than the one of the bytes', async () => {
    for (const more of [{ prehashed: true }, { hash_algorithm: 'sha2-512' }, { context: 'YQ==' }]) {
      const body = { input: base64('hello'), ...more };
      const reply = await anyone.post('/v1/transit/sign/fees', body, as(secrets.payments));
      expect(statusAnd(reply)).toEqual({ status: 400, errors: [expect.any(String)] });
    }
  });

  it('do not sign through the bytes of a wire transaction what the native routes refuse', async () => {
    const { message } = readWire(transfers('v0', [keys.fees ?? '']));
    const native = await developer.post('/v1/keys/fees/sign-message', { message: base64(message) });
    expectProblem(native, 422, 'MESSAGE_IS_TRANSACTION');
    const cut = await sign(message.subarray(0, message.length - 1), as(secrets.payments));
    const nativeCut = await developer.post('/v1/keys/fees/sign-message', {
      message: base64(message.subarray(0, message.length - 1)),
    });
    expect(cut.status < 300).toBe(nativeCut.status < 300);
  });

  it('a thousand at once lose and duplicate nothing', async () => {
    const token = await login();
    const messages = Array.from({ length: 1_000 }, (_, at) => Buffer.from(`message ${at}`));
    const replies = await Promise.all(messages.map(message => sign(message, as(token))));
    for (const [at, message] of messages.entries()) await expectSignature(replies[at] as Reply, message);
    expect(new Set(replies.map(reply => vault(reply).data?.signature)).size).toBe(1_000);
  });
});

describe('a login', () => {
  it('lets its token be used until the custodian is another one; then it is done again', async () => {
    const token = await login();
    await expectSignature(await sign('hello', as(token)), Buffer.from('hello'));
    const before = await appliance.child('custodian');
    process.kill(before, 'SIGKILL');
    await appliance.child('custodian', before);
    await eventually('the token is not known any more', async () => {
      const { status } = await sign('hello', as(token));
      return status === 403;
    });
    await expectSignature(await sign('hello', as(await login())), Buffer.from('hello'));
  });

  it('with a wrong secret id is refused, and so is the next one for a while', async () => {
    const attempt = () =>
      anyone.post('/v1/auth/approle/login', { role_id: 'relayer', secret_id: 'wrong and long' });
    expect(statusAnd(await attempt())).toEqual({ status: 400, errors: ['invalid role or secret ID'] });
    const next = await attempt();
    expect(next.status).toBe(429);
    expect(next.headers['retry-after']).toBe('1');
  });
});

describe('the state', () => {
  it('is told without a credential', async () => {
    const { status, text } = await anyone.get('/v1/sys/health');
    expect(status).toBe(200);
    expect(JSON.parse(text)).toMatchObject({ initialized: true, sealed: false, standby: false });
  });

  it('is sealed while the slot is locked, and so are the signatures', async () => {
    await developer.post('/v1/slots/main/lock', {});
    try {
      expect((await anyone.get('/v1/sys/health')).status).toBe(503);
      expect((await sign('hello', as(secrets.payments))).status).toBe(503);
    } finally {
      await developer.post('/v1/slots/main/open', {});
    }
    expect((await anyone.get('/v1/sys/health')).status).toBe(200);
  });
});

it('no secret id and no token is in the log, nor in the audit log', () => {
  const log = readFileSync(home.log, 'utf8');
  expect(log).toContain('an identity logged in');
  const folder = join(home.path, 'state', 'audit');
  const audit = readdirSync(folder).map(name => readFileSync(join(folder, name), 'utf8'));
  expect(audit.join('')).toContain('"operation":"login"');
  for (const secret of Object.values(secrets)) expect([log, ...audit].join('')).not.toContain(secret);
});

describe('an appliance', () => {
  it('does not start with a secret id that can be guessed, or role ids that nobody can log in with', async () => {
    const own = await prepareHome();
    try {
      writeFileSync(join(own.path, 'secrets', 'short'), 'short\n', { mode: 0o600 });
      own.configure(config => {
        const appRole = { roleId: 'relayer', secretId: { file: 'secrets/short' } };
        config.identities.push({ name: 'relayer', roles: ['signer'], slots: '*', appRole });
      });
      expect(await refusal(serve(own))).toBe('CONFIG_INVALID');
      own.configure(config => {
        config.facade = { vaultTransit: true };
      });
      expect(await refusal(serve(own))).toBe('CONFIG_INVALID');
    } finally {
      own.remove();
    }
  });
});

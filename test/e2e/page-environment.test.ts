import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { findSoftHsm } from '../../src/appliance/development.ts';
import { createToken } from '../../src/appliance/tokens.ts';
import { Secret } from '../../src/foundation/secret.ts';
import {
  type Appliance,
  base64,
  childrenOf,
  compiled,
  expectProblem,
  keyslot,
  refusal,
  root,
  run,
  StartRefused,
  serve,
} from './appliance.ts';

/** `keyslot serve` with the environment of the agentic-wallet page and nothing else. */

const folder = mkdtempSync(join(tmpdir(), 'keyslot-page-e2e-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let running: Appliance | undefined;
afterEach(async () => {
  await running?.stop();
  running = undefined;
});

type Environment = Record<string, string>;

let homes = 0;
function freshHome(): { path: string; log: string } {
  homes += 1;
  return { path: join(folder, `home-${homes}`), log: join(folder, `log-${homes}`) };
}

async function started(home: { path: string; log: string }, environment: Environment): Promise<Appliance> {
  running = await serve(home, { environment });
  return running;
}

async function stopped(): Promise<void> {
  expect((await running?.stop())?.status).toBe(0);
  running = undefined;
}

async function signs(appliance: Appliance, key: string): Promise<void> {
  const message = base64('a message');
  const client = appliance.client();
  const signed = await client.post(`/v1/keys/${key}/sign-message`, { message });
  expect(signed.status, signed.text).toBe(200);
  const { signature } = signed.json;
  const verified = await client.post(`/v1/keys/${key}/verify`, { message, signature });
  expect(verified.json.valid).toBe(true);
}

const secret = 'an unmistakable secret';
const file = { WALLET_SIGNER_BACKEND: 'encrypted-file', WALLET_KEY_ENCRYPTION_SECRET: secret };
const kms = { WALLET_SIGNER_BACKEND: 'kms', WALLET_KMS_MASTER_SECRET: secret };
const hsm = { WALLET_SIGNER_BACKEND: 'hsm', WALLET_HSM_PIN: secret, WALLET_HSM_MODULE_SECRET: secret };
const mpc = {
  WALLET_SIGNER_BACKEND: 'mpc',
  WALLET_MPC_NODE1_SECRET: `${secret} 1`,
  WALLET_MPC_NODE2_SECRET: `${secret} 2`,
  WALLET_MPC_NODE3_SECRET: `${secret} 3`,
};

async function makesAndSigns(appliance: Appliance, home: { path: string }, slot: string, custody: string) {
  const token = readFileSync(join(home.path, 'secrets', 'developer.token'), 'utf8').trim();
  const made = await appliance.client({ token }).post('/v1/keys', { id: 'first', slot });
  expect(made.status, made.text).toBe(201);
  expect(made.json.custody).toBe(custody);
  await signs(appliance, 'first');
  expect(readdirSync(home.path)).not.toContain('keyslot.yaml');
  expect(statSync(home.path).mode & 0o777).toBe(0o700);
}

/** Not in what anybody can see of a process, in no log, in no answer of doctor, and in no file of the state. */
async function staysSecret(
  appliance: Appliance,
  home: { path: string; log: string },
  environment: Environment,
) {
  const pids = [appliance.pid, ...childrenOf(appliance.pid)];
  expect(pids).toHaveLength(3);
  for (const pid of pids) expect(readFileSync(`/proc/${pid}/cmdline`, 'utf8')).not.toContain(secret);
  const gateway = await appliance.child('gateway');
  expect(readFileSync(`/proc/${gateway}/environ`, 'utf8')).not.toContain(secret);
  expect(readFileSync(home.log, 'utf8')).not.toContain(secret);
  const doctor = await run(keyslot, ['doctor', '--json', '--home', home.path], { environment });
  expect(doctor.status, doctor.stdout).toBe(0);
  expect(`${doctor.stdout}${doctor.stderr}`).not.toContain(secret);
  const files = readdirSync(home.path, { recursive: true, withFileTypes: true }).filter(each =>
    each.isFile(),
  );
  expect(files.map(each => each.name)).toContain('running.json');
  for (const each of files) {
    expect(readFileSync(join(each.parentPath, each.name)).includes(secret), each.name).toBe(false);
  }
}

describe('the environment alone starts a complete appliance', () => {
  it.each([
    ['encrypted-file', 'encrypted-file', file],
    ['kms', 'simulated-kms', kms],
    ['hsm', 'simulated-hsm', hsm],
  ])('%s makes a key in custody %s, signs over HTTPS, and shows no secret', async (backend, custody, env) => {
    const home = freshHome();
    const appliance = await started(home, env);
    await makesAndSigns(appliance, home, backend, custody);
    await staysSecret(appliance, home, env);
  });

  it.each([
    ['memory', 'memory', { WALLET_SIGNER_BACKEND: 'memory' }],
    ['mpc', 'shamir-envelope', { WALLET_SIGNER_BACKEND: 'mpc', WALLET_MPC_NODE_SECRETS: 'a1,b2,c3' }],
  ])('%s makes a key in custody %s and signs over HTTPS', async (backend, custody, environment) => {
    const home = freshHome();
    await makesAndSigns(await started(home, environment), home, backend, custody);
  });

  it('and the keys are there again after a restart, for the keyslot command too; with the right secret', async () => {
    const home = freshHome();
    await started(home, file);
    const environment = { ...file, KEYSLOT_HOME: home.path };
    const made = await run(keyslot, ['keys', 'generate', 'lasting', '--slot', 'encrypted-file'], {
      environment,
    });
    expect(made.status, made.stderr).toBe(0);
    await stopped();
    const wrong = { ...file, WALLET_KEY_ENCRYPTION_SECRET: 'another' };
    expect(await refusal(serve(home, { environment: wrong }))).toBe('PIN_REFUSED');
    await signs(await started(home, file), 'lasting');
    const listed = await run(keyslot, ['keys', 'list', '--json'], { environment });
    expect(JSON.parse(listed.stdout).keys).toMatchObject([{ id: 'lasting' }]);
  });

  it('in the folder of the data, on the port that is named, with secrets in files', async () => {
    const data = join(folder, 'data');
    const secretFile = join(folder, 'kms.secret');
    writeFileSync(secretFile, `${secret}\n`, { mode: 0o600 });
    const environment = {
      WALLET_SIGNER_BACKEND: 'kms',
      WALLET_KMS_MASTER_SECRET_FILE: secretFile,
      WALLET_ENGINE_DATA_DIR: data,
      WALLET_ENGINE_PORT: '0',
    };
    const home = { path: join(data, 'keyslot'), log: join(folder, 'log-data') };
    running = await serve(home, { args: ['--json'], environment });
    const made = await running.client().post('/v1/keys', { id: 'first', slot: 'kms' });
    expect(made.status, made.text).toBe(201);
    await signs(running, 'first');
  });

  it('with the real token when a module is named', async () => {
    const module = findSoftHsm();
    const tokens = join(folder, 'tokens');
    mkdirSync(tokens, { mode: 0o700 });
    const conf = join(folder, 'softhsm2.conf');
    writeFileSync(conf, `directories.tokendir = ${tokens}\nobjectstore.backend = file\n`, { mode: 0o600 });
    using soPin = Secret.fromText('87654321');
    using userPin = Secret.fromText('12345678');
    await createToken({ module, label: 'page', soPin, userPin }, { SOFTHSM2_CONF: conf, ...compiled });
    const home = freshHome();
    const appliance = await started(home, {
      WALLET_SIGNER_BACKEND: 'hsm',
      KEYSLOT_PKCS11_MODULE: module,
      KEYSLOT_PKCS11_TOKEN_LABEL: 'page',
      KEYSLOT_PKCS11_PIN: '12345678',
      SOFTHSM2_CONF: conf,
    });
    const made = await appliance.client().post('/v1/keys', { id: 'first', slot: 'hsm' });
    expect(made.json.custody).toBe('hsm-native');
    await signs(appliance, 'first');
    expect(readFileSync(home.log, 'utf8')).toContain('is the PKCS#11 module that is configured');
  });
});

describe('two of three node secrets', () => {
  const two = { ...mpc, WALLET_MPC_NODE2_SECRET: '' };

  it('start the appliance that all three made, sign with the keys that are there, and make none', async () => {
    const home = freshHome();
    const whole = await started(home, mpc);
    await makesAndSigns(whole, home, 'mpc', 'shamir-envelope');
    await staysSecret(whole, home, mpc);
    await stopped();
    const appliance = await started(home, two);
    await signs(appliance, 'first');
    const refused = await appliance.client().post('/v1/keys', { id: 'second', slot: 'mpc' });
    expectProblem(refused, 409, 'NODE_SECRET_MISSING');
    expect(readFileSync(home.log, 'utf8')).toContain('two of three node secrets');
  });

  it.each(['keyslot', 'agentic-wallet'])('start in an empty folder too, writing %s', async envelope => {
    const appliance = await started(freshHome(), { ...two, KEYSLOT_ENVELOPE: envelope });
    const refused = await appliance.client().post('/v1/keys', { id: 'first', slot: 'mpc' });
    expectProblem(refused, 409, 'NODE_SECRET_MISSING');
  });
});

describe('the wallets of the field', () => {
  it('are served from their data folder once their routes are on, in either form of key files', async () => {
    const vectors = join(root, 'test', 'vectors', 'agentic-wallet');
    type Wallet = { backend: string; walletId: string; publicKey: string };
    const { config, deployed, documented } = JSON.parse(
      readFileSync(join(vectors, 'expected.json'), 'utf8'),
    ) as { config: { kmsMasterSecret: string }; deployed: Wallet[]; documented: Wallet[] };
    const wallets = [...deployed, ...documented].filter(each => each.backend === 'kms');
    expect(wallets.length).toBeGreaterThan(2);
    const data = join(folder, 'field');
    for (const form of ['deployed', 'documented']) {
      cpSync(join(vectors, form, 'keys'), join(data, 'keys'), { recursive: true });
    }
    const databaseFile = join(folder, 'elsewhere.sqlite');
    using database = new DatabaseSync(databaseFile);
    database.exec(
      'CREATE TABLE wallets (id TEXT, public_key TEXT, created_at TEXT, label TEXT, payload TEXT)',
    );
    const insert = database.prepare("INSERT INTO wallets VALUES (?, ?, '2026-03-08T10:00:00.000Z', ?, '{}')");
    for (const { walletId, publicKey } of wallets) insert.run(walletId, publicKey, `label of ${walletId}`);
    const before = readdirSync(join(data, 'keys'));
    const home = { path: join(data, 'keyslot'), log: join(folder, 'log-field') };
    running = await serve(home, {
      args: ['--json', '--port', '0'],
      environment: {
        WALLET_SIGNER_BACKEND: 'kms',
        WALLET_KMS_MASTER_SECRET: config.kmsMasterSecret,
        WALLET_ENGINE_DATA_DIR: data,
        WALLET_ENGINE_DB_PATH: databaseFile,
        KEYSLOT_COMPAT_AGENTIC_WALLET: 'true',
      },
    });
    for (const { walletId, publicKey } of wallets) {
      expect((await running.client().get(`/v1/keys/${walletId}`)).json.publicKey).toBe(publicKey);
      await signs(running, walletId);
      expect((await running.client().get(`/api/v1/wallets/${walletId}`)).text).toContain(
        `label of ${walletId}`,
      );
    }
    expect(readdirSync(join(data, 'keys'))).toEqual(before);
  });
});

describe('keyslot serve refuses', () => {
  it.each([
    ['WALLET_SIGNER_BACKEND', { WALLET_SIGNER_BACKEND: 'vault' }],
    ['WALLET_KEY_ENCRYPTION_SECRET', { WALLET_SIGNER_BACKEND: 'encrypted-file' }],
    ['WALLET_MPC_NODE2_SECRET', { WALLET_SIGNER_BACKEND: 'mpc', WALLET_MPC_NODE1_SECRET: 'a' }],
  ])('to start without a right %s, and names it', async (name, environment) => {
    const home = freshHome();
    const start = started(home, environment);
    await expect(start).rejects.toBeInstanceOf(StartRefused);
    await expect(start).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      output: expect.stringContaining(name),
    });
  });
});

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  configOfHome,
  pageBackend,
  pageHome,
  preparePageHome,
} from '../../src/appliance/page-environment.ts';
import type { LogFields } from '../../src/foundation/log.ts';

const root = mkdtempSync(join(tmpdir(), 'keyslot-page-'));
const before = { ...process.env };

beforeEach(() => {
  const foreign = /^(WALLET_|KEYSLOT_|PKCS11_|SOLANA_RPC_URL$|SOFTHSM2_CONF$)/;
  process.env = Object.fromEntries(Object.entries(before).filter(([name]) => !foreign.test(name)));
});
afterEach(() => {
  process.env = { ...before };
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const freshHome = (): string => mkdtempSync(join(root, 'home-'));
const set = (variables: Readonly<Record<string, string>>): void => void Object.assign(process.env, variables);

function secretFile(content: string, mode = 0o600): string {
  const path = join(mkdtempSync(join(root, 'secret-')), 'secret');
  writeFileSync(path, content, { mode });
  return path;
}

/** What `keyslot serve` does before it starts the appliance. Returns what was said in the log. */
async function prepared(
  home = freshHome(),
): Promise<{ config: ReturnType<typeof configOfHome>; said: string }> {
  const lines: string[] = [];
  const note = (fields: LogFields, text: string) => void lines.push(`${text} ${JSON.stringify(fields)}`);
  const config = configOfHome(home);
  const backend = pageBackend();
  if (!backend) throw new Error('no backend is set');
  await preparePageHome(backend, config, { info: note, warn: note, error: note });
  return { config, said: lines.join('\n') };
}

const refusedWith = (code: string, ...named: readonly string[]) =>
  expect.objectContaining({
    code,
    message: expect.toSatisfy((text: string) => named.every(name => text.includes(name))),
  });

const file = { WALLET_SIGNER_BACKEND: 'encrypted-file', WALLET_KEY_ENCRYPTION_SECRET: 'correct horse' };
const kms = { WALLET_SIGNER_BACKEND: 'kms', WALLET_KMS_MASTER_SECRET: 'correct horse' };
const hsm = {
  WALLET_SIGNER_BACKEND: 'hsm',
  WALLET_HSM_PIN: '123456',
  WALLET_HSM_MODULE_SECRET: 'correct horse',
};
const mpc = { WALLET_SIGNER_BACKEND: 'mpc', WALLET_MPC_NODE_SECRETS: 'node one,node two,node three' };

describe('the environment of the page becomes one slot', () => {
  it.each([
    [file, { id: 'encrypted-file', engine: 'encrypted-file', pin: { env: 'WALLET_KEY_ENCRYPTION_SECRET' } }],
    [{ WALLET_SIGNER_BACKEND: 'memory' }, { id: 'memory', engine: 'memory' }],
    [
      kms,
      { id: 'kms', settings: { mode: 'simulated', keyId: 'wallet-engine-kms-key', envelope: 'keyslot' } },
    ],
    [{ ...kms, WALLET_KMS_KEY_ID: 'other' }, { settings: { keyId: 'other' } }],
    [hsm, { id: 'hsm', engine: 'hsm-sim', settings: { slot: 'slot-0' } }],
    [
      { ...hsm, WALLET_HSM_SLOT: 'slot-7' },
      { engine: 'hsm-sim', settings: { slot: 'slot-7' } },
    ],
    [mpc, { id: 'mpc', engine: 'mpc', pin: { env: 'WALLET_MPC_NODE_SECRETS' } }],
    [
      { WALLET_SIGNER_BACKEND: 'mpc', WALLET_MPC_NODE1_SECRET: 'a', WALLET_MPC_NODE3_SECRET: 'c' },
      {
        pin: {
          nodes: [
            { env: 'WALLET_MPC_NODE1_SECRET' },
            { env: 'WALLET_MPC_NODE2_SECRET' },
            { env: 'WALLET_MPC_NODE3_SECRET' },
          ],
        },
      },
    ],
    [{ ...file, KEYSLOT_ENVELOPE: 'agentic-wallet' }, { settings: { envelope: 'agentic-wallet' } }],
  ])('%o', async (variables, slot) => {
    set(variables);
    const { config } = await prepared();
    expect(config.slots).toHaveLength(1);
    expect(config.slots[0]).toMatchObject(slot);
  });

  it('with a real token when a module is named, and says which of the two hsm is', async () => {
    set({ ...hsm, KEYSLOT_PKCS11_MODULE: '/opt/vendor/libvendor.so', KEYSLOT_PKCS11_TOKEN_LABEL: 'wallets' });
    const real = await prepared();
    expect(real.config.slots[0]).toMatchObject({
      id: 'hsm',
      engine: 'pkcs11',
      pin: { env: 'WALLET_HSM_PIN' },
      settings: { module: '/opt/vendor/libvendor.so', tokenLabel: 'wallets', environment: {} },
    });
    expect(real.said).toContain('/opt/vendor/libvendor.so');
    expect(real.said).not.toContain('simulated');
    set({ KEYSLOT_PKCS11_MODULE: '' });
    expect((await prepared()).said).toContain('simulated');
  });

  it('with the fallback names of module, token and PIN, and the configuration of SoftHSM', async () => {
    set({
      WALLET_SIGNER_BACKEND: 'hsm',
      PKCS11_PATH: '/opt/a.so',
      PKCS11_TOKEN_LABEL: 'a',
      PKCS11_PIN: '1234',
    });
    set({ SOFTHSM2_CONF: '/etc/softhsm2.conf' });
    const { config } = await prepared();
    expect(config.slots[0]).toMatchObject({
      pin: { env: 'PKCS11_PIN' },
      settings: { module: '/opt/a.so', environment: { SOFTHSM2_CONF: '/etc/softhsm2.conf' } },
    });
  });

  it('on the port, with the node and the routes that are asked for', async () => {
    const data = freshHome();
    set({ ...file, WALLET_ENGINE_PORT: '3002', SOLANA_RPC_URL: 'https://rpc.example/' });
    set({ WALLET_ENGINE_DATA_DIR: data, KEYSLOT_COMPAT_AGENTIC_WALLET: 'true' });
    set({ WALLET_ENGINE_DB_PATH: join(data, 'other.sqlite') });
    expect((await prepared()).config).toMatchObject({
      listen: { host: '127.0.0.1', port: 3002 },
      ops: { port: 4002 },
      solanaRpcUrl: 'https://rpc.example/',
      compat: { agenticWallet: true, adopt: data, adoptDatabase: join(data, 'other.sqlite') },
    });
  });

  it('beside the data, and in no folder of its own when another one is named', () => {
    set({ WALLET_ENGINE_DATA_DIR: '/data' });
    expect(pageHome()).toBeUndefined();
    set(file);
    expect(pageHome()).toBe('/data/keyslot');
  });

  it('adopts nothing into a slot that keeps no files', async () => {
    set({
      WALLET_SIGNER_BACKEND: 'memory',
      WALLET_ENGINE_DATA_DIR: root,
      KEYSLOT_COMPAT_AGENTIC_WALLET: 'true',
    });
    const { config } = await prepared();
    expect(config.compat).toEqual({ agenticWallet: true });
  });

  it('and says that wallets are there which it does not serve', async () => {
    const data = freshHome();
    set({ ...file, WALLET_ENGINE_DATA_DIR: data });
    expect((await prepared()).said).not.toContain('KEYSLOT_COMPAT_AGENTIC_WALLET');
    mkdirSync(join(data, 'keys'));
    writeFileSync(join(data, 'keys', 'a.json'), '{}');
    expect((await prepared()).said).toContain('KEYSLOT_COMPAT_AGENTIC_WALLET');
  });
});

describe('secrets', () => {
  it.each([
    ['WALLET_KEY_ENCRYPTION_SECRET', { WALLET_SIGNER_BACKEND: 'encrypted-file' }],
    ['WALLET_KMS_MASTER_SECRET', { WALLET_SIGNER_BACKEND: 'kms' }],
    ['WALLET_HSM_PIN', { ...hsm, WALLET_HSM_PIN: '' }],
    ['WALLET_HSM_MODULE_SECRET', { ...hsm, WALLET_HSM_MODULE_SECRET: '' }],
    ['WALLET_MPC_NODE_SECRETS', { WALLET_SIGNER_BACKEND: 'mpc' }],
  ])('%s may be in a file', async (name, variables) => {
    set({ ...variables, [`${name}_FILE`]: secretFile('from,a,file\n') });
    const { config } = await prepared();
    expect(JSON.stringify(config)).toContain(process.env[`${name}_FILE`]);
  });

  it.each([file, kms, hsm, mpc])('are in no configuration and in no log: %o', async variables => {
    const secrets = Object.entries(variables).filter(([name]) => name !== 'WALLET_SIGNER_BACKEND');
    set(Object.fromEntries(secrets.map(([name, value]) => [name, `${value} unmistakable`])));
    set({ WALLET_SIGNER_BACKEND: variables.WALLET_SIGNER_BACKEND });
    const { config, said } = await prepared();
    expect(`${JSON.stringify(config)}${said}`).not.toContain('unmistakable');
  });

  it('that everybody can read in a program are taken, and said to be so', async () => {
    set({ ...file, WALLET_KEY_ENCRYPTION_SECRET: 'local-dev-wallet-secret-change-me' });
    expect((await prepared()).said).toContain('anybody');
  });

  it.each([
    { ...mpc, WALLET_MPC_NODE_SECRETS: 'a,,c' },
    { WALLET_SIGNER_BACKEND: 'mpc', WALLET_MPC_NODE2_SECRET: 'b', WALLET_MPC_NODE3_SECRET: 'c' },
  ])('of two nodes are enough, and the third is said to be missing: %o', async variables => {
    set(variables);
    expect((await prepared()).said).toContain('two of three node secrets');
  });
});

describe('a start is refused and the variable named', () => {
  it.each([
    ['an unknown backend', { WALLET_SIGNER_BACKEND: 'file' }, ['encrypted-file, memory, kms, hsm, mpc']],
    ['a backend in capitals', { WALLET_SIGNER_BACKEND: 'KMS' }, ['WALLET_SIGNER_BACKEND']],
    ['no secret', { WALLET_SIGNER_BACKEND: 'encrypted-file' }, ['WALLET_KEY_ENCRYPTION_SECRET is not set']],
    [
      'an empty secret',
      { ...file, WALLET_KEY_ENCRYPTION_SECRET: '' },
      ['WALLET_KEY_ENCRYPTION_SECRET is empty'],
    ],
    ['no master secret', { WALLET_SIGNER_BACKEND: 'kms' }, ['WALLET_KMS_MASTER_SECRET is not set']],
    [
      'the name of a key as master secret',
      { ...kms, WALLET_KMS_MASTER_SECRET: 'arn:aws:kms:region:account:key/key-id' },
      ['WALLET_KMS_MASTER_SECRET', 'aws-envelope'],
    ],
    ['no PIN', { ...hsm, WALLET_HSM_PIN: '' }, ['WALLET_HSM_PIN is empty']],
    ['no module secret', { ...hsm, WALLET_HSM_MODULE_SECRET: '' }, ['WALLET_HSM_MODULE_SECRET is empty']],
    ['a module and no token', { ...hsm, KEYSLOT_PKCS11_MODULE: '/a.so' }, ['KEYSLOT_PKCS11_TOKEN_LABEL']],
    [
      'a module that is no path',
      { ...hsm, PKCS11_MODULE: 'a.so', PKCS11_TOKEN_LABEL: 'a' },
      ['KEYSLOT_PKCS11_MODULE'],
    ],
    [
      'a token and no PIN',
      { WALLET_SIGNER_BACKEND: 'hsm', PKCS11_MODULE: '/a.so', PKCS11_TOKEN_LABEL: 'a' },
      ['KEYSLOT_PKCS11_PIN'],
    ],
    ['no node secret', { WALLET_SIGNER_BACKEND: 'mpc' }, ['WALLET_MPC_NODE1_SECRET']],
    [
      'one node secret',
      { WALLET_SIGNER_BACKEND: 'mpc', WALLET_MPC_NODE1_SECRET: 'a', WALLET_MPC_NODE2_SECRET: '' },
      ['WALLET_MPC_NODE2_SECRET is empty'],
    ],
    ['one node secret in one', { ...mpc, WALLET_MPC_NODE_SECRETS: 'a' }, ['WALLET_MPC_NODE_SECRETS']],
    ['four node secrets in one', { ...mpc, WALLET_MPC_NODE_SECRETS: 'a,b,c,d' }, ['WALLET_MPC_NODE_SECRETS']],
    [
      'node secrets in one and apart',
      { ...mpc, WALLET_MPC_NODE1_SECRET: 'a' },
      ['WALLET_MPC_NODE_SECRETS', 'WALLET_MPC_NODE1_SECRET'],
    ],
    [
      'a secret twice',
      { ...file, WALLET_KEY_ENCRYPTION_SECRET_FILE: '/secret' },
      ['WALLET_KEY_ENCRYPTION_SECRET and WALLET_KEY_ENCRYPTION_SECRET_FILE'],
    ],
    ['a port that is none', { ...file, WALLET_ENGINE_PORT: '65536' }, ['WALLET_ENGINE_PORT']],
    ['a node without https or http', { ...file, SOLANA_RPC_URL: 'rpc.example' }, ['SOLANA_RPC_URL']],
    ['an unknown envelope', { ...file, KEYSLOT_ENVELOPE: 'theirs' }, ['KEYSLOT_ENVELOPE']],
    [
      'a data folder that is not there',
      { ...file, KEYSLOT_COMPAT_AGENTIC_WALLET: 'true', WALLET_ENGINE_DATA_DIR: '/nowhere/at/all' },
      ['WALLET_ENGINE_DATA_DIR', '/nowhere/at/all'],
    ],
    ['neither true nor false', { ...file, KEYSLOT_COMPAT_AGENTIC_WALLET: 'yes' }, ['KEYSLOT_COMPAT_AGENTIC']],
  ])('for %s', async (_what, variables, named) => {
    set(variables);
    await expect(prepared()).rejects.toEqual(refusedWith('CONFIG_INVALID', ...named));
  });

  it('for a file that is missing, empty, or that others can read', async () => {
    set({ WALLET_SIGNER_BACKEND: 'encrypted-file' });
    for (const path of [join(root, 'nowhere'), secretFile(''), secretFile('secret', 0o644)]) {
      set({ WALLET_KEY_ENCRYPTION_SECRET_FILE: path });
      await expect(prepared()).rejects.toEqual(
        refusedWith('SECRET_UNREADABLE', 'WALLET_KEY_ENCRYPTION_SECRET_FILE', path),
      );
    }
  });

  it('for a keyslot.yaml beside the environment, naming both', () => {
    const home = freshHome();
    writeFileSync(join(home, 'keyslot.yaml'), 'profile: development\n');
    set(file);
    expect(() => configOfHome(home)).toThrow(
      refusedWith('CONFIG_INVALID', join(home, 'keyslot.yaml'), 'WALLET_SIGNER_BACKEND'),
    );
  });

  it('and without WALLET_SIGNER_BACKEND the file alone counts', () => {
    set({ WALLET_KEY_ENCRYPTION_SECRET: 'correct horse', WALLET_SIGNER_BACKEND: '' });
    expect(() => configOfHome(freshHome())).toThrow(refusedWith('HOME_INVALID', 'keyslot.yaml'));
  });
});

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { adoptedSuffix, type Config, readConfig, walletSlot } from '../../src/appliance/config.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';

const home = mkdtempSync(join(tmpdir(), 'keyslot-compat-'));
afterAll(() => rmSync(home, { recursive: true, force: true }));

const pin = { file: 'secrets/pin' };
const slots = {
  hsm: { id: 'hsm', engine: 'pkcs11', pin, settings: { module: '/usr/lib/hsm.so', tokenLabel: 'prod' } },
  files: { id: 'files', engine: 'encrypted-file', pin },
  sim: { id: 'sim', engine: 'hsm-sim', pin, moduleSecret: pin },
  kms: { id: 'kms', engine: 'kms', pin, settings: { mode: 'simulated' } },
  aws: { id: 'aws', engine: 'kms', pin: 'none', settings: { mode: 'aws-native' } },
  shares: { id: 'shares', engine: 'mpc', pin: { nodes: [1, 2, 3].map(at => ({ file: `secrets/${at}` })) } },
  memory: { id: 'memory', engine: 'memory', pin },
} as const;

function read(
  settings: Readonly<Record<string, unknown>>,
  used: readonly (keyof typeof slots)[] = ['hsm'],
): Config {
  const content = {
    tls: { certificate: 'server.crt', key: 'server.key', clientCa: 'ca.crt' },
    slots: used.map(name => slots[name]),
    identities: [{ name: 'payments', roles: ['signer'], slots: '*', certificate: { spki: 'ab'.repeat(32) } }],
    allowSoftwareEngines: ['encrypted-file', 'hsm-sim', 'kms-simulated', 'mpc', 'memory'],
    audit: { unsigned: true },
    ...settings,
  };
  writeFileSync(join(home, 'keyslot.yaml'), stringify(content));
  return readConfig(home);
}

/** The refusal as its code and the setting that it names. */
function refusal(...settings: Parameters<typeof read>): string {
  try {
    read(...settings);
  } catch (thrown) {
    if (!isKeyslotError(thrown)) throw thrown;
    return `${thrown.code} ${/: ([A-Za-z.]+):/.exec(thrown.message)?.[1]}`;
  }
  return 'accepted';
}

describe('compat', () => {
  it('is off unless it is switched on', () => {
    expect(read({}).compat).toEqual({ agenticWallet: false });
    expect(walletSlot(read({}))).toBeUndefined();
  });

  it('makes wallets in the only slot, or in the one that is named', () => {
    expect(walletSlot(read({ compat: { agenticWallet: true } }))).toBe('hsm');
    const named = { compat: { agenticWallet: true, slot: 'files' } };
    expect(walletSlot(read(named, ['hsm', 'files']))).toBe('files');
    expect(refusal({ compat: { agenticWallet: true } }, ['hsm', 'files'])).toBe('CONFIG_INVALID compat.slot');
    expect(refusal({ compat: { slot: 'nowhere' } })).toBe('CONFIG_INVALID compat.slot');
  });

  it('adopts into slots that keep key files of the other program, and into no others', () => {
    const suffixes = Object.fromEntries(
      Object.keys(slots).map(name => {
        const [slot] = read({}, [name as keyof typeof slots]).slots;
        return [name, slot && adoptedSuffix(slot)];
      }),
    );
    expect(suffixes).toEqual({
      hsm: undefined,
      files: '.json',
      sim: '.hsm.json',
      kms: '.kms.json',
      aws: undefined,
      shares: '.mpc.json',
      memory: undefined,
    });
    const compat = { agenticWallet: true, adopt: '/var/lib/wallet-engine' };
    for (const name of ['files', 'sim', 'kms', 'shares'] as const) {
      expect(refusal({ compat }, [name])).toBe('accepted');
    }
    for (const name of ['hsm', 'aws', 'memory'] as const) {
      expect(refusal({ compat }, [name])).toBe('CONFIG_INVALID compat.adopt');
    }
    const off = { compat: { adopt: '/var/lib/wallet-engine' } };
    expect(refusal(off, ['files'])).toBe('CONFIG_INVALID compat.adopt');
  });
});

describe('solanaRpcUrl', () => {
  it.each([
    ['https://rpc.example.com/key?access=1', 'accepted'],
    ['http://127.0.0.1:8899', 'accepted'],
    ['http://[::1]:8899', 'accepted'],
    ['http://localhost:8899', 'accepted'],
    ['http://rpc.example.com', 'CONFIG_INVALID solanaRpcUrl'],
    ['http://127.0.0.1.example.com', 'CONFIG_INVALID solanaRpcUrl'],
    ['https://user:password@rpc.example.com', 'CONFIG_INVALID solanaRpcUrl'],
    ['ftp://rpc.example.com', 'CONFIG_INVALID solanaRpcUrl'],
    ['rpc.example.com', 'CONFIG_INVALID solanaRpcUrl'],
    ['', 'CONFIG_INVALID solanaRpcUrl'],
  ])('%s in production is %s', (solanaRpcUrl, outcome) => {
    expect(refusal({ solanaRpcUrl })).toBe(outcome);
  });

  it('may be any http node in development', () => {
    expect(refusal({ solanaRpcUrl: 'http://rpc.example.com', profile: 'development' })).toBe('accepted');
  });
});

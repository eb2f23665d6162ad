import {
  chmodSync,
  copyFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { createAuthority } from '../../src/appliance/certificates.ts';
import type { ErrorCode } from '../../src/foundation/errors.ts';
import { type Home, keyslot, prepareHome, processesOf, run, serve, type YamlConfig } from './appliance.ts';

let home: Home;
let yaml: string;
let pinFile: string;
let pin: string;
let hasty: string;

beforeAll(async () => {
  home = await prepareHome();
  for (let twin = 0; twin < 2; twin += 1) await twinToken(twin);
  yaml = join(home.path, 'keyslot.yaml');
  copyFileSync(yaml, `${yaml}.good`);
  hasty = join(home.path, 'policies', 'hasty.yaml');
  pinFile = join(home.path, 'secrets', 'user.pin');
  pin = readFileSync(pinFile, 'utf8');
  await writeCertificates();
  return () => home.remove();
});

// A refused start leaves nothing behind, whatever it was refused for.
afterEach(() => {
  expect(processesOf(home.path)).toEqual([]);
  expect(existsSync(join(home.path, 'run', 'custodian.sock'))).toBe(false);
  expect(existsSync(join(home.path, 'state', 'running.json'))).toBe(false);
  copyFileSync(`${yaml}.good`, yaml);
  rmSync(hasty, { force: true });
  rmSync(pinFile, { force: true });
  writeFileSync(pinFile, pin, { mode: 0o600 });
});

/** Of CAs whose time is over, or will be soon; what they have issued ends with them. */
async function writeCertificates(): Promise<void> {
  const days = { expired: -1 / 48, soon: 20 };
  for (const [name, valid_days] of Object.entries(days)) {
    const authority = await createAuthority(`${name} CA`, valid_days);
    const { certificate, key } = await authority.issueServer(['localhost', '127.0.0.1', '::1']);
    writeFileSync(join(home.path, 'tls', `${name}.crt`), certificate);
    writeFileSync(join(home.path, 'tls', `${name}.key`), key, { mode: 0o600 });
    writeFileSync(join(home.path, 'tls', `${name}-ca.crt`), authority.certificate);
  }
  const both = ['expired-ca.crt', 'ca.crt'].map(name => readFileSync(join(home.path, 'tls', name), 'utf8'));
  writeFileSync(join(home.path, 'tls', 'both-ca.crt'), both.join('\n'));
}

/** Two tokens with one label: made with two, and renamed in the second's own file. */
async function twinToken(twin: number): Promise<void> {
  await home.addToken(`twin-${twin}`);
  const tokens = join(home.path, 'softhsm', 'tokens');
  for (const token of readdirSync(tokens)) {
    const file = join(tokens, token, 'token.object');
    const content = readFileSync(file, 'latin1');
    writeFileSync(file, content.replace(`twin-${twin}`, 'twin-x'), 'latin1');
  }
}

interface Refusal {
  readonly code: string;
  readonly detail: string;
  readonly remedy: string;
}

async function refused(): Promise<Refusal> {
  const { status, stdout } = await run(keyslot, ['serve', '--home', home.path, '--port', '0', '--json']);
  expect(status).toBe(1);
  return (JSON.parse(stdout) as { error: Refusal }).error;
}

const settings = (config: YamlConfig) => config.slots[0]?.settings ?? {};

type Case = readonly [name: string, code: ErrorCode, names: string, change: (config: YamlConfig) => void];

const cases: readonly Case[] = [
  [
    'a module that does not exist',
    'MODULE_UNUSABLE',
    '/nowhere/libpkcs11.so',
    config => {
      settings(config).module = '/nowhere/libpkcs11.so';
    },
  ],
  [
    'a module that is no library',
    'MODULE_UNUSABLE',
    '/etc/hostname',
    config => {
      settings(config).module = '/etc/hostname';
    },
  ],
  [
    'a library that is no PKCS#11 module',
    'MODULE_UNUSABLE',
    'libc.so.6',
    config => {
      settings(config).module = libc();
    },
  ],
  [
    'a token label that nothing has',
    'TOKEN_NOT_FOUND',
    'tokenLabel "absent" of slot main',
    config => {
      settings(config).tokenLabel = 'absent';
    },
  ],
  [
    'a token label that two have',
    'TOKEN_AMBIGUOUS',
    'tokenLabel "twin-x" of slot main',
    config => {
      settings(config).tokenLabel = 'twin-x';
    },
  ],
  [
    'a missing PIN file',
    'SECRET_UNREADABLE',
    'slots.main.pin.file',
    config => {
      for (const slot of config.slots) slot.pin = { file: 'secrets/absent.pin' };
    },
  ],
  ['an empty PIN file', 'SECRET_UNREADABLE', 'slots.main.pin.file', () => writeFileSync(pinFile, '')],
  [
    'a PIN file that others can read',
    'SECRET_UNREADABLE',
    'slots.main.pin.file',
    () => chmodSync(pinFile, 0o644),
  ],
  [
    'a PIN variable that is not set',
    'SECRET_UNREADABLE',
    'slots.main.pin.env',
    config => {
      for (const slot of config.slots) slot.pin = { env: 'KEYSLOT_TEST_NO_SUCH_PIN' };
    },
  ],
  [
    'a missing token of an identity',
    'SECRET_UNREADABLE',
    'identities.developer-token.token.file',
    config => {
      for (const identity of config.identities) if (identity.token) identity.token = { file: 'secrets/none' };
    },
  ],
  [
    'a certificate of an identity that is none',
    'CONFIG_INVALID',
    'identities.developer.certificate.file',
    config => {
      for (const identity of config.identities) {
        if (identity.certificate) identity.certificate = { file: 'keyslot.yaml' };
      }
    },
  ],
  [
    'a missing server key',
    'CONFIG_INVALID',
    'tls.key',
    config => {
      config.tls = { certificate: 'tls/server.crt', key: 'tls/absent.key', clientCa: 'tls/ca.crt' };
    },
  ],
  [
    'a server key that is none',
    'CONFIG_INVALID',
    'tls',
    config => {
      config.tls = { certificate: 'tls/server.crt', key: 'keyslot.yaml', clientCa: 'tls/ca.crt' };
    },
  ],
  [
    'a server key of another certificate',
    'CONFIG_INVALID',
    'tls',
    config => {
      config.tls = { certificate: 'tls/server.crt', key: 'tls/ca.key', clientCa: 'tls/ca.crt' };
    },
  ],
  [
    'an expired server certificate',
    'CERTIFICATE_EXPIRED',
    'tls.certificate',
    config => {
      config.tls = { certificate: 'tls/expired.crt', key: 'tls/expired.key', clientCa: 'tls/ca.crt' };
    },
  ],
  [
    'an expired CA of clients',
    'CERTIFICATE_EXPIRED',
    'tls.clientCa',
    config => {
      config.tls = {
        certificate: 'tls/server.crt',
        key: 'tls/server.key',
        clientCa: 'tls/expired-ca.crt',
      };
    },
  ],
  [
    'an unknown setting',
    'CONFIG_INVALID',
    'listen.hots',
    config => {
      config.listen = { hots: '127.0.0.1' };
    },
  ],
  [
    'bearer tokens in production',
    'CONFIG_INVALID',
    'identities',
    config => {
      config.profile = 'production';
      config.audit = { unsigned: true };
    },
  ],
  [
    'the memory engine in production',
    'CONFIG_INVALID',
    'slots.soft',
    config => {
      config.profile = 'production';
      config.audit = { unsigned: true };
      config.identities = config.identities.filter(identity => !identity.token);
      config.slots.push({ id: 'soft', engine: 'memory', pin: { file: 'secrets/user.pin' } });
    },
  ],
  [
    'an audit log that nobody signs, in production',
    'CONFIG_INVALID',
    'audit.slot',
    config => {
      config.profile = 'production';
      config.identities = config.identities.filter(identity => !identity.token);
    },
  ],
  ['a policy with a rule that there is not', 'POLICY_INVALID', 'hasty.yaml', () => undefined],
  ['bad YAML', 'CONFIG_INVALID', 'keyslot.yaml', () => undefined],
  ['no configuration at all', 'HOME_INVALID', 'keyslot.yaml', () => undefined],
];

describe('keyslot serve refuses, and names the setting:', () => {
  it.each(cases)('%s → %s', async (name, code, names, change) => {
    home.configure(change);
    if (name.startsWith('a policy'))
      writeFileSync(hasty, stringify({ name: 'hasty', appliesTo: 'all', x: 1 }));
    if (name === 'bad YAML') writeFileSync(yaml, 'slots: [\n  - id: "main');
    if (name === 'no configuration at all') rmSync(yaml);
    const error = await refused();
    expect(error.code).toBe(code);
    expect(error.detail).toContain(names);
    expect(error.remedy).not.toBe('');
  });

  it('on one line of standard error for people, after the log', async () => {
    home.configure(config => {
      settings(config).tokenLabel = 'absent';
    });
    const { status, stdout, stderr } = await run(keyslot, ['serve', '--home', home.path, '--port', '0']);
    expect(status).toBe(1);
    expect(stdout).toBe('');
    const lines = stderr.trim().split('\n');
    const said = lines.filter(line => !line.startsWith('{"level":'));
    expect(said).toHaveLength(1);
    expect(said[0]).toMatch(/^keyslot: TOKEN_NOT_FOUND: .*tokenLabel "absent" of slot main/);
  });
});

function libc(): string {
  const folders = ['/usr/lib/x86_64-linux-gnu', '/usr/lib/aarch64-linux-gnu', '/usr/lib64', '/lib'];
  return folders.map(folder => join(folder, 'libc.so.6')).find(path => existsSync(path)) ?? '/lib/libc.so.6';
}

describe('certificates that are good enough to start with', () => {
  it('are told of when they end soon, or one CA of several has ended', async () => {
    home.configure(config => {
      config.tls = { certificate: 'tls/soon.crt', key: 'tls/soon.key', clientCa: 'tls/both-ca.crt' };
    });
    expect((await (await serve(home)).stop()).status).toBe(0);
    const said = readFileSync(home.log, 'utf8')
      .split('\n')
      .filter(line => line.includes('"setting":"tls.'))
      .map(line => JSON.parse(line) as { level: string | number; setting: string; expiresAt: string });
    expect(said.map(({ setting }) => setting)).toEqual(['tls.certificate', 'tls.clientCa']);
    const [soon, over] = said.map(({ expiresAt }) => Date.parse(expiresAt) - Date.now());
    expect([(soon ?? 0) > 0, (over ?? 0) < 0]).toEqual([true, true]);
  });
});

describe('a wrong PIN', () => {
  it('is shown to the token once, however often the appliance is started, until its file is corrected', async () => {
    const pinState = async () => {
      const { stdout } = await run(keyslot, ['doctor', '--home', home.path, '--json']);
      return (JSON.parse(stdout) as { slots: { token: { pin: string } }[] }).slots[0]?.token.pin;
    };
    expect(await pinState()).toBe('set');
    writeFileSync(pinFile, 'wrong-wrong-wrong\n');
    expect((await refused()).code).toBe('PIN_REFUSED');
    expect(await pinState()).toBe('count-low');

    // A login elsewhere makes the token forget the failure, so that another attempt would show again.
    const elsewhere = await prepareHome({ token: false });
    elsewhere.configure(config => {
      const { environment } = settings(config) as { environment: Record<string, string> };
      environment.SOFTHSM2_CONF = join(home.path, 'softhsm', 'softhsm2.conf');
    });
    writeFileSync(join(elsewhere.path, 'secrets', 'user.pin'), pin);
    await (await serve(elsewhere)).stop();
    elsewhere.remove();
    expect(await pinState()).toBe('set');

    expect((await refused()).code).toBe('SLOT_LATCHED');
    expect((await refused()).code).toBe('SLOT_LATCHED');
    expect(await pinState()).toBe('set');

    writeFileSync(pinFile, pin);
    const appliance = await serve(home);
    const client = appliance.client();
    expect((await client.get('/v1/slots/main')).json.state).toBe('open');
    client.close();
    expect((await appliance.stop()).status).toBe(0);
  });
});

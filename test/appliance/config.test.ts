import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import {
  canaryOf,
  inHome,
  moduleEnvironment,
  readConfig,
  secretVariables,
} from '../../src/appliance/config.ts';
import { isKeyslotError, type KeyslotError } from '../../src/foundation/errors.ts';

const home = mkdtempSync(join(tmpdir(), 'keyslot-config-'));
afterAll(() => rmSync(home, { recursive: true, force: true }));

interface Loose {
  [setting: string]: unknown;
  slots: Record<string, unknown>[];
  identities: Record<string, unknown>[];
}

/** The smallest configuration of a production appliance. */
const smallest = (): Loose => ({
  tls: { certificate: 'tls/server.crt', key: 'tls/server.key', clientCa: '/etc/keyslot/ca.crt' },
  slots: [
    {
      id: 'main',
      engine: 'pkcs11',
      pin: { file: 'secrets/pin' },
      settings: { module: '/usr/lib/hsm.so', tokenLabel: 'prod' },
    },
  ],
  identities: [
    { name: 'payments', roles: ['signer'], slots: ['main'], certificate: { spki: 'ab'.repeat(32) } },
  ],
  audit: { unsigned: true },
});

let settings: Loose;
beforeEach(() => {
  settings = smallest();
});

function read(content: unknown = settings) {
  writeFileSync(join(home, 'keyslot.yaml'), typeof content === 'string' ? content : stringify(content));
  return readConfig(home);
}

function refusal(content?: unknown): KeyslotError {
  try {
    read(content);
  } catch (thrown) {
    if (isKeyslotError(thrown)) return thrown;
    throw thrown;
  }
  throw new Error('The configuration was accepted.');
}

describe('groups', () => {
  const slotOf = (id: string, more: object = {}) => ({
    ...(smallest().slots[0] as object),
    id,
    settings: { module: '/usr/lib/hsm.so', tokenLabel: id },
    ...more,
  });
  const members = (...slots: readonly string[]) => slots.map(slot => ({ slot }));

  it('have slots that weigh the same unless they say otherwise', () => {
    settings.slots = [slotOf('a'), slotOf('b')];
    settings.identities = [{ ...settings.identities[0], slots: '*' }];
    settings.groups = [{ id: 'treasury', members: [{ slot: 'a' }, { slot: 'b', weight: 0 }] }];
    expect(read().groups).toEqual([
      {
        id: 'treasury',
        members: [
          { slot: 'a', weight: 1 },
          { slot: 'b', weight: 0 },
        ],
      },
    ]);
  });

  it.each([
    ['a slot that there is not', [{ id: 'one', members: members('a', 'nowhere') }]],
    ['one slot', [{ id: 'one', members: members('a') }]],
    ['the same slot twice', [{ id: 'one', members: members('a', 'a') }]],
    [
      'a slot of another group',
      [
        { id: 'one', members: members('a', 'b') },
        { id: 'two', members: members('b', 'c') },
      ],
    ],
    [
      'the name of another group',
      [
        { id: 'one', members: members('a', 'b') },
        { id: 'one', members: members('c', 'd') },
      ],
    ],
    ['the slot of the audit key', [{ id: 'one', members: members('a', 'audit') }]],
    ['slots of different access', [{ id: 'one', members: members('a', 'strict') }]],
    [
      'nobody who would sign',
      [{ id: 'one', members: members('a', 'b').map(each => ({ ...each, weight: 0 })) }],
    ],
  ])('are refused with %s', (_what, groups) => {
    settings.slots = [
      ...['a', 'b', 'c', 'd', 'audit'].map(id => slotOf(id)),
      slotOf('strict', { access: 'both' }),
    ];
    settings.identities = [{ ...settings.identities[0], slots: '*' }];
    settings.audit = { slot: 'audit' };
    read();
    expect(refusal({ ...settings, groups }).code).toBe('CONFIG_INVALID');
  });
});

describe('the canary of a slot', () => {
  const canary = () => read().slots.map(canaryOf);

  it('signs every 30 s in a token, and nowhere else unless the configuration says so', () => {
    const main = settings.slots[0];
    settings.allowSoftwareEngines = ['encrypted-file'];
    const files = { id: 'files', engine: 'encrypted-file', pin: { file: 'secrets/files' } };
    settings.slots = [{ ...main }, files];
    expect(canary()).toEqual([{ every_ms: 30_000 }, undefined]);
    settings.slots = [
      { ...main, canary: 'off' },
      { ...files, canary: { every_s: 60 } },
    ];
    expect(canary()).toEqual([undefined, { every_ms: 60_000 }]);
  });

  it('has an id that the audit key cannot have', () => {
    settings.audit = { unsigned: true, key: 'keyslot-canary' };
    expect(refusal().message).toContain('audit.key');
  });

  it('is not needed for the slot to count: that is said apart', () => {
    expect(read().slots[0]?.required).toBe(true);
    Object.assign(settings.slots[0] ?? {}, { required: false });
    expect(read().slots[0]?.required).toBe(false);
  });
});

describe('the audit key', () => {
  const auditSlot = {
    id: 'audit',
    engine: 'pkcs11',
    pin: { file: 'secrets/audit-pin' },
    settings: { module: '/usr/lib/hsm.so', tokenLabel: 'audit' },
  };

  it('has a slot of its own in production, or the configuration says that there is none', () => {
    settings.audit = {};
    expect(refusal().message).toContain('audit.slot');
    settings.audit = { slot: 'audit' };
    expect(refusal().message).toContain('there is no slot audit');
    settings.slots.push(auditSlot);
    expect(read().audit).toMatchObject({ slot: 'audit', key: 'audit', folder: 'state/audit' });
  });

  it('shares its slot with nobody', () => {
    settings.audit = { slot: 'main' };
    expect(refusal().message).toContain('only slot');
    settings.audit = { slot: 'audit' };
    settings.slots.push({ ...auditSlot, access: 'session' });
    expect(refusal().message).toContain('audit.slot');
  });

  it('does without in the development profile', () => {
    settings.audit = {};
    settings.profile = 'development';
    expect(read().audit.slot).toBeUndefined();
  });
});

describe('defaults', () => {
  it('are those of production on loopback', () => {
    const config = read();
    expect(config).toMatchObject({
      profile: 'production',
      listen: { host: '127.0.0.1', port: 8443 },
      ops: { host: '127.0.0.1', port: 9443 },
      sessions: { idle_s: 900, absolute_s: 28_800 },
      allowSoftwareEngines: [],
    });
    expect(config.slots[0]).toMatchObject({ access: 'identity' });
    expect(config.home).toBe(home);
    expect(Object.isFrozen(config)).toBe(true);
  });

  it('hold no secret: a slot without a PIN source is refused', () => {
    delete settings.slots[0]?.pin;
    expect(refusal()).toMatchObject({ code: 'CONFIG_INVALID' });
    expect(refusal().message).toContain('slots.0.pin');
  });
});

describe('a CloudHSM cluster', () => {
  const cluster = { cluster: 'cluster-a1b2c3', slot: 'main' };

  it('is asked of for the slot that uses it, over https', () => {
    expect(read({ ...settings, cloudhsm: cluster }).cloudhsm).toEqual({ ...cluster, every_s: 300 });
    const elsewhere = { ...cluster, endpoint: 'http://cloudhsm.example' };
    expect(refusal({ ...settings, cloudhsm: elsewhere }).message).toContain('cloudhsm.endpoint');
    settings.slots.push({ id: 'files', engine: 'memory', pin: { file: 'secrets/files' } });
    for (const slot of ['other', 'files']) {
      expect(refusal({ ...settings, cloudhsm: { ...cluster, slot } }).message).toContain('cloudhsm.slot');
    }
  });
});

describe('paths and variables', () => {
  it('are of the state folder when they are relative', () => {
    const config = read();
    expect(inHome(config, config.tls.key)).toBe(join(home, 'tls/server.key'));
    expect(inHome(config, config.tls.clientCa)).toBe('/etc/keyslot/ca.crt');
  });

  it('name the state folder as ${home}, as often as they like', () => {
    const [slot] = settings.slots;
    Object.assign(slot?.settings as object, {
      environment: { SOFTHSM2_CONF: '${home}/softhsm2.conf', BOTH: '${home}:${home}', HOMELESS: '$home' },
    });
    expect(moduleEnvironment(read())).toEqual({
      SOFTHSM2_CONF: `${home}/softhsm2.conf`,
      BOTH: `${home}:${home}`,
      HOMELESS: '$home',
    });
  });

  it('that hold PINs are known by name', () => {
    Object.assign(settings.slots[0] ?? {}, { pin: { env: 'HSM_PIN' } });
    expect(secretVariables(read())).toEqual(['HSM_PIN']);
  });
});

describe('a refusal names the setting', () => {
  const slot = () => settings.slots[0] ?? {};
  const identity = () => settings.identities[0] ?? {};
  const cases: [string, string, () => void][] = [
    ['an unknown setting', 'policies', () => Object.assign(settings, { policies: [] })],
    [
      'an unknown setting inside',
      'tls.passphrase',
      () => Object.assign(settings.tls as object, { passphrase: 'x' }),
    ],
    ['an unknown profile', 'profile', () => Object.assign(settings, { profile: 'test' })],
    ['a port that is none', 'listen.port', () => Object.assign(settings, { listen: { port: 65_536 } })],
    ['a port in words', 'ops.port', () => Object.assign(settings, { ops: { port: 'http' } })],
    ['no slots', 'slots', () => Object.assign(settings, { slots: [] })],
    ['no identities', 'identities', () => Object.assign(settings, { identities: [] })],
    ['a slot id in capitals', 'slots.0.id', () => Object.assign(slot(), { id: 'Main' })],
    ['a slot id that climbs', 'slots.0.id', () => Object.assign(slot(), { id: '../main' })],
    ['an unknown engine', 'slots.0.engine', () => Object.assign(slot(), { engine: 'cloud' })],
    [
      'an unknown setting of an engine',
      'slots.0.settings.slot',
      () => Object.assign(slot().settings as object, { slot: 0 }),
    ],
    ['an unknown access', 'slots.0.access', () => Object.assign(slot(), { access: 'open' })],
    ['a literal PIN', 'slots.0.pin', () => Object.assign(slot(), { pin: '1234' })],
    ['two PIN sources', 'slots.0.pin', () => Object.assign(slot(), { pin: { file: 'a', env: 'B' } })],
    ['a PIN variable with a dash', 'slots.0.pin', () => Object.assign(slot(), { pin: { env: 'HSM-PIN' } })],
    [
      'a credential that climbs',
      'slots.0.pin',
      () => Object.assign(slot(), { pin: { credential: '../pin' } }),
    ],
    ['an unknown role', 'identities.0.roles', () => Object.assign(identity(), { roles: ['root'] })],
    ['no role', 'identities.0.roles', () => Object.assign(identity(), { roles: [] })],
    [
      'a digest that is too short',
      'identities.0.certificate.spki',
      () => Object.assign(identity(), { certificate: { spki: 'ab' } }),
    ],
    [
      'an unknown setting of an identity',
      'identities.0.group',
      () => Object.assign(identity(), { group: 'x' }),
    ],
    [
      'a slot twice',
      'slots',
      () => settings.slots.push({ ...slot(), settings: { module: '/x', tokenLabel: 'y' } }),
    ],
    ['a token twice', 'slots', () => settings.slots.push({ ...slot(), id: 'other' })],
    ['an identity twice', 'identities', () => settings.identities.push({ ...identity() })],
    ['a grant of no slot', 'identities.payments.slots', () => Object.assign(identity(), { slots: ['none'] })],
    ['an idle time of zero', 'sessions.idle_s', () => Object.assign(settings, { sessions: { idle_s: 0 } })],
    ['half a thread', 'custodian.threads', () => Object.assign(settings, { custodian: { threads: 0.5 } })],
    [
      'bearer tokens in production',
      'identities',
      () => settings.identities.push({ name: 'dev', roles: ['signer'], slots: '*', token: { env: 'TOKEN' } }),
    ],
    [
      'software keys in production',
      'slots.soft',
      () => settings.slots.push({ id: 'soft', engine: 'memory', pin: { env: 'PIN' } }),
    ],
  ];

  it.each(cases)('%s: %s', (_name, names, change) => {
    change();
    const error = refusal();
    expect(error.code).toBe('CONFIG_INVALID');
    expect(error.message).toContain(join(home, 'keyslot.yaml'));
    expect(error.message).toContain(names);
  });

  it('and never repeats what may be a secret', () => {
    Object.assign(slot(), { pin: 'canary-5up3r' });
    expect(refusal().message).not.toContain('canary-5up3r');
  });

  it('also when the file is empty, or no YAML, or not there', () => {
    for (const text of ['', 'null', '[]', 'slots: [', 'a: b: c', '\t- x']) {
      expect([text, refusal(text).code]).toEqual([text, 'CONFIG_INVALID']);
    }
    expect(() => readConfig(join(home, 'nowhere'))).toThrow(
      expect.objectContaining({ code: 'HOME_INVALID' }),
    );
  });
});

describe('tokens and role ids for clients of Vault', () => {
  const named = { roles: ['signer'], slots: '*' };
  const token = { ...named, name: 'token', token: { env: 'TOKEN' } };
  const robot = { ...named, name: 'robot', appRole: { roleId: 'robot', secretId: { env: 'SECRET' } } };
  const facade = { vaultTransit: true };

  it('are allowed in production by the facade that they are for', () => {
    settings.identities.push(token, robot);
    expect(read({ ...settings, facade }).facade).toEqual({
      vaultTransit: true,
      mount: 'transit',
      lease_s: 3_600,
    });
    expect(refusal({ ...settings, facade: {} }).code).toBe('CONFIG_INVALID');
  });

  it('are refused without it, and role ids in development too', () => {
    settings.identities.push(robot);
    expect(refusal().message).toContain('identities.robot.appRole');
    expect(refusal({ ...settings, profile: 'development' }).message).toContain('identities.robot.appRole');
  });

  it('sign and do not operate, in production', () => {
    settings.identities.push({ ...token, roles: ['signer', 'operator'] });
    expect(refusal({ ...settings, facade }).message).toContain('identities.token.roles');
    expect(read({ ...settings, facade, profile: 'development' }).identities).toHaveLength(2);
  });

  it('stay on loopback in development', () => {
    settings.identities.push(robot);
    const open = { ...settings, facade, profile: 'development', listen: { host: '0.0.0.0' } };
    expect(refusal(open).message).toContain('loopback');
  });

  it('have each a role id of their own', () => {
    settings.identities.push(robot, { ...robot, name: 'other' });
    expect(refusal({ ...settings, facade }).message).toContain('role id robot');
  });

  it.each(['', '/transit', 'transit/', 'a//b', '../x', 'Transit', 'a b', 'keys', 'sys/x', 'auth', ':key'])(
    'are not served at the mount %j',
    mount => {
      expect(refusal({ ...settings, facade: { ...facade, mount } }).message).toContain('facade.mount');
    },
  );

  it.each(['transit', 'team-1/solana_keys', 'secret'])('are served at the mount %j', mount => {
    expect(read({ ...settings, facade: { ...facade, mount } }).facade.mount).toBe(mount);
  });
});

describe('what is allowed by name', () => {
  it('is software keys in production', () => {
    settings.slots.push({ id: 'soft', engine: 'memory', pin: { attended: true } });
    expect(read({ ...settings, allowSoftwareEngines: ['memory'] }).slots).toHaveLength(2);
    expect(read({ ...settings, profile: 'development' }).slots).toHaveLength(2);
  });

  it('is bearer tokens in development, on loopback', () => {
    settings.identities.push({ name: 'dev', roles: ['signer'], slots: '*', token: { env: 'TOKEN' } });
    for (const host of ['127.0.0.1', '127.1.2.3', '::1', 'localhost']) {
      expect(read({ ...settings, profile: 'development', listen: { host } }).listen.host).toBe(host);
    }
    for (const host of ['0.0.0.0', '::', '127.0.0.1.example.org', '10.0.0.1']) {
      expect(refusal({ ...settings, profile: 'development', listen: { host } }).code).toBe('CONFIG_INVALID');
    }
  });
});

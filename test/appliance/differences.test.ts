import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkedConfig, configSchema } from '../../src/appliance/config.ts';
import { differences } from '../../src/appliance/differences.ts';
import type { Snapshot } from '../../src/appliance/snapshot.ts';
import type { Identity } from '../../src/custodian/identities.ts';
import { isSame } from '../../src/custodian/reload.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import type { ReloadDiff } from '../../src/wire/reload.ts';

interface Loose {
  [setting: string]: unknown;
  slots: Record<string, unknown>[];
}

const slot = (id: string, more: object = {}) => ({
  id,
  engine: 'pkcs11',
  pin: { file: `secrets/${id}.pin` },
  settings: { module: '/usr/lib/hsm.so', tokenLabel: id },
  ...more,
});

const certificate = (digit: string) => ({ spki: digit.repeat(64) });

const settings = (): Loose => ({
  tls: { certificate: 'tls/server.crt', key: 'tls/server.key', clientCa: 'tls/ca.crt' },
  slots: [slot('a'), slot('b'), slot('log')],
  groups: [{ id: 'treasury', members: [{ slot: 'a' }, { slot: 'b' }] }],
  identities: [{ name: 'payments', roles: ['signer'], slots: '*', certificate: certificate('a') }],
  audit: { slot: 'log' },
});

const identity = (name: string, more: Partial<Identity> = {}): Identity => ({
  name,
  roles: ['signer'],
  grants: [],
  source: 'configuration',
  ...more,
});

/** The files as they are, with what a test says otherwise. */
function snapshot(change: (loose: Loose) => void = () => undefined, more: Partial<Snapshot> = {}): Snapshot {
  const loose = settings();
  change(loose);
  return {
    config: checkedConfig(loose, '/home', 'a test'),
    identities: [identity('payments'), identity('treasurer')],
    policies: [{ name: 'caps', appliesTo: 'all' }],
    tls: { cert: 'a certificate', key: 'its key', ca: 'a CA' },
    ...more,
  };
}

const none = { added: [], changed: [], removed: [] };
const nothing: ReloadDiff = {
  slots: none,
  groups: none,
  identities: none,
  jwtIssuers: none,
  policies: none,
  certificates: [],
  settings: [],
};

const of = (change: (loose: Loose) => void, more: Partial<Snapshot> = {}) =>
  differences(snapshot(), snapshot(change, more));

const issuer = { name: 'corporate', issuer: 'https://issuer.example', audience: 'keyslot' };
const jwtIssuers = (jwks: object) => [{ ...issuer, jwks }];

describe('what is different is named', () => {
  const cases: readonly (readonly [what: string, diff: ReloadDiff, expected: Partial<ReloadDiff>])[] = [
    ['a new slot', of(({ slots }) => void slots.push(slot('c'))), { slots: { ...none, added: ['c'] } }],
    [
      'a slot with another setting',
      of(({ slots }) => void slots.splice(0, 1, slot('a', { canary: { every_s: 60 } }))),
      { slots: { ...none, changed: ['a'] } },
    ],
    [
      'a slot that has gone, with its group',
      of(loose => {
        loose.slots = loose.slots.filter(({ id }) => id !== 'b');
        delete loose.groups;
      }),
      { slots: { ...none, removed: ['b'] }, groups: { ...none, removed: ['treasury'] } },
    ],
    [
      'the weights of a group',
      of(loose => {
        loose.groups = [{ id: 'treasury', members: [{ slot: 'a' }, { slot: 'b', weight: 0 }] }];
      }),
      { groups: { ...none, changed: ['treasury'] } },
    ],
    [
      'identities, as they are once their files were read',
      of(() => undefined, { identities: [identity('payments', { roles: ['auditor'] }), identity('new')] }),
      { identities: { added: ['new'], changed: ['payments'], removed: ['treasurer'] } },
    ],
    [
      'policies',
      of(() => undefined, {
        policies: [
          { name: 'caps', appliesTo: { keys: ['a'] } },
          { name: 'more', appliesTo: 'all' },
        ],
      }),
      { policies: { ...none, added: ['more'], changed: ['caps'] } },
    ],
    [
      'the certificate of the server',
      of(() => undefined, { tls: { ...snapshot().tls, cert: 'another' } }),
      { certificates: ['server'] },
    ],
    [
      'its key',
      of(() => undefined, { tls: { ...snapshot().tls, key: 'another' } }),
      { certificates: ['server'] },
    ],
    [
      'the CA of clients',
      of(() => undefined, { tls: { ...snapshot().tls, ca: 'another' } }),
      { certificates: ['client-ca'] },
    ],
    [
      'every other setting, by its path',
      of(loose => {
        loose.sessions = { idle_s: 60 };
        loose.exports = { enabled: true };
        loose.dualControl = { approvals: 3, operations: ['thaw'] };
        loose.logging = { requests: 'errors' };
        loose.drain = { grace_s: 1 };
        loose.facade = { lease_s: 60 };
        loose.policies = { folder: 'rules' };
        loose.allowModules = ['/usr/lib/hsm.so'];
        loose.command = { certificate: 'a.crt', key: 'a.key', ca: 'ca.crt' };
      }),
      {
        settings: [
          'sessions.idle_s',
          'allowModules',
          'facade.lease_s',
          'policies.folder',
          'logging.requests',
          'drain.grace_s',
          'exports.enabled',
          'dualControl.approvals',
          'dualControl.operations',
          'command',
        ],
      },
    ],
  ];

  it.each(cases)('%s', (_what, diff, expected) => {
    expect({ ...diff, settings: diff.settings.toSorted() }).toEqual({
      ...nothing,
      ...expected,
      settings: (expected.settings ?? []).toSorted(),
    });
    expect(isSame(diff)).toBe(false);
  });

  it('an issuer of JWTs, where there is one already', () => {
    const before = snapshot(loose => {
      loose.jwtIssuers = jwtIssuers({ file: 'jwks.json' });
    });
    const other = { ...issuer, name: 'b', issuer: 'https://other.example', jwks: { file: 'b' } };
    const after = snapshot(loose => {
      loose.jwtIssuers = [...jwtIssuers({ file: 'other.json' }), other];
    });
    const { jwtIssuers: changes } = differences(before, after);
    expect(changes).toEqual({ added: ['b'], changed: ['corporate'], removed: [] });
  });

  it('and where nothing is, nothing', () => {
    expect(differences(snapshot(), snapshot())).toEqual(nothing);
  });
});

describe('a restart is what it takes, and is said by name, for', () => {
  const refusal = (before: Snapshot, after: Snapshot): readonly string[] => {
    try {
      differences(before, after);
    } catch (thrown) {
      if (isKeyslotError(thrown)) return [thrown.code, thrown.message];
      throw thrown;
    }
    return ['none', ''];
  };

  const development = { profile: 'development', allowSoftwareEngines: ['memory'] };
  const cases: readonly (readonly [names: string, change: (loose: Loose) => void])[] = [
    ['profile', loose => Object.assign(loose, development)],
    ['listen.port', loose => Object.assign(loose, { listen: { port: 1 } })],
    ['listen.host', loose => Object.assign(loose, { listen: { host: '::1' } })],
    ['ops.port', loose => Object.assign(loose, { ops: { port: 1 } })],
    ['audit.node', loose => Object.assign(loose, { audit: { slot: 'log', node: 'b' } })],
    ['audit.segmentRecords', loose => Object.assign(loose, { audit: { slot: 'log', segmentRecords: 16 } })],
    ['custodian.threads', loose => Object.assign(loose, { custodian: { threads: 3 } })],
    ['supervision.unresponsive_s', loose => Object.assign(loose, { supervision: { unresponsive_s: 3 } })],
    ['cloudhsm', loose => Object.assign(loose, { cloudhsm: { cluster: 'cluster-a', slot: 'a' } })],
    ['compat.agenticWallet', loose => Object.assign(loose, { compat: { agenticWallet: true, slot: 'a' } })],
    ['compat.slot', loose => Object.assign(loose, { compat: { agenticWallet: true, slot: 'a' } })],
    ['tracing', loose => Object.assign(loose, { tracing: { endpoint: 'http://127.0.0.1:4318/v1/traces' } })],
    ['idempotency.retention_s', loose => Object.assign(loose, { idempotency: { retention_s: 60 } })],
    ['solanaRpcUrl', loose => Object.assign(loose, { solanaRpcUrl: 'https://node.example' })],
    [
      'connections without a certificate',
      loose => Object.assign(loose, { jwtIssuers: jwtIssuers({ file: 'jwks.json' }) }),
    ],
    ['connections without a certificate', loose => Object.assign(loose, { apiTokens: { enabled: true } })],
    [
      'settings.environment',
      ({ slots }) => {
        const environment = { SOFTHSM2_CONF: '/etc/softhsm2.conf' };
        slots.splice(
          0,
          1,
          slot('a', { settings: { module: '/usr/lib/hsm.so', tokenLabel: 'a', environment } }),
        );
      },
    ],
    [
      'AWS',
      ({ slots }) => {
        slots.push({ id: 'cloud', engine: 'kms', pin: 'none', settings: { mode: 'aws-native' } });
      },
    ],
    ['the variable OTHER_PIN', ({ slots }) => slots.push(slot('c', { pin: { env: 'OTHER_PIN' } }))],
    ['slots.log', ({ slots }) => slots.splice(2, 1, slot('log', { pin: { file: 'secrets/other.pin' } }))],
  ];

  it.each(cases)('%s', (names, change) => {
    const [code, text] = refusal(snapshot(), snapshot(change));
    expect(code).toBe('RELOAD_NEEDS_RESTART');
    expect(text).toContain(names);
  });

  it('several, each of them', () => {
    const [, text] = refusal(
      snapshot(),
      snapshot(loose => Object.assign(loose, { listen: { port: 1 }, ops: { port: 2 } })),
    );
    expect(text).toBe('Not without a restart: listen.port, ops.port.');
  });
});

describe('of any configuration', () => {
  const ids = fc.uniqueArray(fc.stringMatching(/^[a-z][a-z0-9-]{0,8}$/), { minLength: 1, maxLength: 5 });
  const configs = fc
    .record({
      slots: ids,
      idle_s: fc.integer({ min: 1, max: 1_000 }),
      approvals: fc.integer({ min: 1, max: 10 }),
      exports: fc.boolean(),
    })
    .map(({ slots, idle_s, approvals, exports }) => (loose: Loose) => {
      loose.slots = [...slots.filter(id => id !== 'log').map(id => slot(id)), slot('log')];
      delete loose.groups;
      Object.assign(loose, {
        sessions: { idle_s },
        dualControl: { approvals },
        exports: { enabled: exports },
      });
    });

  it('nothing is different from itself, and what one gains another has lost', () => {
    fc.assert(
      fc.property(configs, configs, (one, other) => {
        expect(isSame(differences(snapshot(one), snapshot(one)))).toBe(true);
        const [there, back] = [
          differences(snapshot(one), snapshot(other)),
          differences(snapshot(other), snapshot(one)),
        ];
        expect(there.slots.added.toSorted()).toEqual(back.slots.removed.toSorted());
        expect(there.slots.removed.toSorted()).toEqual(back.slots.added.toSorted());
        expect(there.settings).toEqual(back.settings);
      }),
      { numRuns: 100 },
    );
  });

  it('every setting there is is either told of, or takes a restart', () => {
    const lists = ['slots', 'groups', 'identities', 'jwtIssuers']; // told of by the names of their parts
    for (const name of Object.keys(configSchema.shape).filter(each => !lists.includes(each))) {
      const after = { ...snapshot(), config: { ...snapshot().config, [name]: 'another' } };
      const said = ((): readonly string[] => {
        try {
          return differences(snapshot(), after as Snapshot).settings;
        } catch (thrown) {
          return isKeyslotError(thrown) ? [thrown.code, name] : [];
        }
      })();
      expect(said).toContain(name);
    }
  });
});

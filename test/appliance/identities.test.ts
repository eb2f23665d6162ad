import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createAuthority } from '../../src/appliance/certificates.ts';
import { checkedConfig } from '../../src/appliance/config.ts';
import { apiTokensKey, identitiesOf, jwtIssuersOf, takesTokens } from '../../src/appliance/identities.ts';
import { refusal } from '../custodian/lab.ts';

let home: string;

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), 'keyslot-identities-'));
  mkdirSync(join(home, 'state'), { mode: 0o700 });
  writeFileSync(join(home, 'ca.crt'), (await createAuthority('a CA')).certificate);
  writeFileSync(join(home, 'jwks.json'), '{"keys":[]}');
});

afterAll(() => rmSync(home, { recursive: true, force: true }));

const issuer = {
  name: 'corporate',
  issuer: 'https://issuer.example',
  audience: 'keyslot',
  jwks: { file: 'jwks.json' },
};
const alice = { name: 'alice', roles: ['signer'], jwt: 'corporate', subject: 'alice' };
const pinned = { name: 'pinned', roles: ['auditor'], certificate: { spki: 'ab'.repeat(32) } };

const configOf = (identities: readonly unknown[], more: Record<string, unknown> = {}) =>
  checkedConfig(
    {
      tls: { certificate: 'server.crt', key: 'server.key', clientCa: 'ca.crt' },
      audit: { unsigned: true },
      slots: [
        {
          id: 'main',
          engine: 'pkcs11',
          pin: { file: 'pin' },
          settings: { module: '/hsm.so', tokenLabel: 'x' },
        },
      ],
      identities,
      ...more,
    },
    home,
    'keyslot.yaml',
  );

/** The setting that a refusal names. */
async function refusedFor(...settings: Parameters<typeof configOf>): Promise<string> {
  const attempt = async () => configOf(...settings);
  const failure: unknown = await attempt().catch((error: unknown) => error);
  expect(await refusal(attempt())).toBe('CONFIG_INVALID');
  return String(failure);
}

describe('the identities of the configuration', () => {
  it('are recognised by what they say, and granted what they say', async () => {
    const san = {
      name: 'named',
      roles: ['signer'],
      slots: ['main'],
      san: 'dns:payments.example',
      ca: { file: 'ca.crt' },
    };
    const grants = [{ keys: ['treasury'], operations: ['sign-message'] }];
    const config = configOf([pinned, san, { ...alice, grants }], { jwtIssuers: [issuer] });
    expect(await identitiesOf(config)).toEqual([
      {
        name: 'pinned',
        roles: ['auditor'],
        grants: [],
        source: 'configuration',
        recognisedBy: { spki: 'ab'.repeat(32) },
      },
      {
        name: 'named',
        roles: ['signer'],
        grants: [{ slots: ['main'], operations: '*' }],
        source: 'configuration',
        recognisedBy: { san: 'dns:payments.example', ca: expect.stringMatching(/^[0-9a-f]{64}$/) },
      },
      {
        name: 'alice',
        roles: ['signer'],
        grants,
        source: 'configuration',
        recognisedBy: { jwt: 'corporate', subject: 'alice' },
      },
    ]);
    const [read] = jwtIssuersOf(config);
    expect(read).toMatchObject({ audience: ['keyslot'], clockSkew_s: 30 });
    expect(await read?.keys.read()).toBe('{"keys":[]}');
  });

  it('take a certificate of every connection, as long as nobody comes by another way', () => {
    expect(takesTokens(configOf([pinned]))).toBe(false);
    expect(takesTokens(configOf([pinned], { apiTokens: { enabled: true } }))).toBe(true);
    expect(takesTokens(configOf([alice], { jwtIssuers: [issuer] }))).toBe(true);
  });

  it.each([
    ['an issuer that is not there', 'identities.alice.jwt', [alice], {}],
    [
      'API tokens that are off',
      'identities.robot.apiTokens',
      [{ name: 'robot', roles: ['signer'], apiTokens: true }],
      {},
    ],
    [
      'API tokens of an operator',
      'identities.robot.roles',
      [{ name: 'robot', roles: ['operator'], apiTokens: true }],
      { apiTokens: { enabled: true } },
    ],
    [
      'a grant of a slot that is not there',
      'identities.pinned.grants',
      [{ ...pinned, grants: [{ slots: ['x'], operations: '*' }] }],
      {},
    ],
    [
      'two issuers of one name',
      'jwtIssuers',
      [pinned],
      { jwtIssuers: [issuer, { ...issuer, issuer: 'https://b.example' }] },
    ],
    [
      'keys over plain HTTP',
      'jwtIssuers.0.jwks',
      [pinned],
      { jwtIssuers: [{ ...issuer, jwks: { url: 'http://issuer.example/keys' } }] },
    ],
    [
      'an algorithm without a public key',
      'jwtIssuers.0.algorithms.0',
      [pinned],
      { jwtIssuers: [{ ...issuer, algorithms: ['HS256'] }] },
    ],
    [
      'no algorithm at all',
      'jwtIssuers.0.algorithms.0',
      [pinned],
      { jwtIssuers: [{ ...issuer, algorithms: ['none'] }] },
    ],
    [
      'a skew of an hour',
      'jwtIssuers.0.clockSkew_s',
      [pinned],
      { jwtIssuers: [{ ...issuer, clockSkew_s: 3_600 }] },
    ],
  ])('are refused with %s', async (_what, setting, identities, more) => {
    expect(await refusedFor(identities, more)).toContain(setting);
  });
});

describe('the key of API tokens', () => {
  it('is made once, is the same ever after, and is for its owner alone', async () => {
    const [one, other] = await Promise.all([apiTokensKey({ home }), apiTokensKey({ home })]);
    using third = await apiTokensKey({ home });
    expect(one.equals(other) && one.equals(third)).toBe(true);
    expect(one.length).toBe(64);
    expect(statSync(join(home, 'state', 'api-tokens.key')).mode & 0o777).toBe(0o600);
  });
});

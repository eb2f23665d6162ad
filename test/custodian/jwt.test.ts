import { createHmac, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { beforeAll, describe, expect, it } from 'vitest';
import type { JwtClaims } from '../../src/custodian/identities.ts';
import type { JwksSource } from '../../src/custodian/jwks.ts';
import { type JwtIssuer, Jwts } from '../../src/custodian/jwt.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { HeldClock, refusal } from './lab.ts';

/** A key of an issuer, and how it is published. */
interface IssuerKey {
  readonly kid: string;
  readonly alg: 'EdDSA' | 'ES256' | 'RS256' | 'PS256';
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
}

type Part = Readonly<Record<string, unknown>>;

const pairs = {
  EdDSA: () => generateKeyPairSync('ed25519'),
  ES256: () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  RS256: () => generateKeyPairSync('rsa', { modulusLength: 2048 }),
  PS256: () => generateKeyPairSync('rsa', { modulusLength: 2048 }),
};

const keyOf = (alg: IssuerKey['alg'], kid: string): IssuerKey => ({ alg, kid, ...pairs[alg]() });
const published = ({ kid, publicKey }: IssuerKey): object => ({
  ...publicKey.export({ format: 'jwk' }),
  kid,
  use: 'sig',
});
const setOf = (...keys: readonly IssuerKey[]): string => JSON.stringify({ keys: keys.map(published) });
const encoded = (part: Part | string): string =>
  Buffer.from(typeof part === 'string' ? part : JSON.stringify(part)).toString('base64url');

function signed(key: IssuerKey, input: string): string {
  const bytes = Buffer.from(input);
  if (key.alg === 'EdDSA') return sign(null, bytes, key.privateKey).toString('base64url');
  if (key.alg === 'ES256') {
    return sign('sha256', bytes, { key: key.privateKey, dsaEncoding: 'ieee-p1363' }).toString('base64url');
  }
  const pss = key.alg === 'PS256' ? { padding: 6, saltLength: 32 } : {};
  return sign('sha256', bytes, { key: key.privateKey, ...pss }).toString('base64url');
}

/** A JWT, with whatever in its parts. */
function jwtOf(key: IssuerKey, payload: Part | string, header: Part | string = {}): string {
  const head = typeof header === 'string' ? header : { alg: key.alg, kid: key.kid, ...header };
  const input = `${encoded(head)}.${encoded(payload)}`;
  return `${input}.${signed(key, input)}`;
}

/** Where an issuer publishes its keys, as a test wants it. */
class Publication implements JwksSource {
  text: string;
  reads = 0;
  readonly refresh_ms = 300_000;
  readonly max_ms = 3_600_000;
  readonly cooldown_ms = 10_000;
  reachable = true;

  constructor(text: string) {
    this.text = text;
  }

  async read(): Promise<string> {
    this.reads += 1;
    if (this.reachable) return this.text;
    throw new TypeError('unreachable');
  }
}

const iss = 'https://issuer.example';
const aud = 'keyslot';
let keys: Readonly<Record<IssuerKey['alg'], IssuerKey>>;
let clock: HeldClock;
let publication: Publication;
let jwts: Jwts;

/** RSA keys are slow to make: once for all tests. */
beforeAll(() => {
  keys = {
    EdDSA: keyOf('EdDSA', 'ed'),
    ES256: keyOf('ES256', 'ec'),
    RS256: keyOf('RS256', 'rsa'),
    PS256: keyOf('PS256', 'pss'),
  };
});

function fresh(...published: readonly IssuerKey[]): void {
  clock = new HeldClock();
  publication = new Publication(setOf(...(published.length > 0 ? published : Object.values(keys))));
  jwts = jwtsOf(publication);
}

const jwtsOf = (source: JwksSource, setting: Partial<JwtIssuer> = {}): Jwts =>
  new Jwts(
    [
      {
        name: 'corporate',
        issuer: iss,
        audience: [aud],
        algorithms: ['EdDSA', 'Ed25519', 'ES256', 'RS256', 'PS256'],
        clockSkew_s: 30,
        keys: source,
        ...setting,
      },
    ],
    { clock, log: silentLog },
  );

const now_s = (): number => Math.floor(clock.utc().getTime() / 1000);
const claims = (more: Part = {}): Part => ({ iss, aud, sub: 'alice', exp: now_s() + 600, ...more });
const check = async (jwt: string): Promise<JwtClaims> => jwts.check(jwt);
const refused = (jwt: string): Promise<string> => refusal(check(jwt));

describe('a JWT of a configured issuer', () => {
  it.each(['EdDSA', 'ES256', 'RS256', 'PS256'] as const)(
    'is accepted with %s, and says whose it is',
    async alg => {
      fresh();
      expect(await check(jwtOf(keys[alg], claims({ groups: ['ops'] })))).toMatchObject({
        issuer: 'corporate',
        subject: 'alice',
        claims: { groups: ['ops'] },
      });
    },
  );

  it('may have several audiences, and be an access token', async () => {
    fresh();
    const jwt = jwtOf(keys.EdDSA, claims({ aud: ['another', aud] }), { typ: 'at+jwt' });
    expect(await check(jwt)).toMatchObject({ subject: 'alice' });
  });

  it('answers at once the second time, and the issuer is not asked again', async () => {
    fresh();
    const jwt = jwtOf(keys.EdDSA, claims());
    expect(jwts.check(jwt)).toBeInstanceOf(Promise);
    await jwts.check(jwt);
    expect(jwts.check(jwt)).toMatchObject({ subject: 'alice' });
    expect(publication.reads).toBe(1);
  });

  it('is CREDENTIAL_EXPIRED behind its time and the skew, checked before or not', async () => {
    fresh();
    const [checked, other] = [claims(), claims({ sub: 'bob' })].map(each => jwtOf(keys.EdDSA, each)) as [
      string,
      string,
    ];
    await check(checked);
    clock.advance(629_000);
    expect([await refused(checked), await refused(other)]).toEqual(['none', 'none']);
    clock.advance(1_000);
    expect([await refused(checked), await refused(other)]).toEqual([
      'CREDENTIAL_EXPIRED',
      'CREDENTIAL_EXPIRED',
    ]);
  });

  it('stays expired when the clock of the machine is set back', async () => {
    fresh();
    const jwt = jwtOf(keys.EdDSA, claims());
    clock.advance(700_000);
    expect(await refused(jwt)).toBe('CREDENTIAL_EXPIRED');
    clock.advance(-700_000);
    expect(await refused(jwt)).toBe('CREDENTIAL_EXPIRED');
  });

  it('is not accepted before its time', async () => {
    fresh();
    const jwt = jwtOf(keys.EdDSA, claims({ nbf: now_s() + 31 }));
    expect(await refused(jwt)).toBe('CREDENTIAL_UNKNOWN');
    clock.advance(1_000);
    expect(await refused(jwt)).toBe('none');
  });
});

describe('a JWT that was made up', () => {
  const header = (more: Part): Part => more;
  const attacks: Readonly<Record<string, () => string>> = {
    'without a signature (alg none)': () => {
      const input = `${encoded({ alg: 'none' })}.${encoded(claims())}`;
      return `${input}.`;
    },
    'with another spelling of none': () => jwtOf(keys.EdDSA, claims(), header({ alg: 'nOnE' })),
    'signed with HS256 and the public key as the secret': () => {
      const pem = keys.RS256.publicKey.export({ format: 'pem', type: 'spki' });
      const input = `${encoded({ alg: 'HS256', kid: 'rsa' })}.${encoded(claims())}`;
      return `${input}.${createHmac('sha256', pem).update(input).digest('base64url')}`;
    },
    'signed by a stranger under a known key id': () => jwtOf(keyOf('EdDSA', 'ed'), claims()),
    'that brings its own key (jwk)': () => {
      const own = keyOf('EdDSA', 'ed');
      return jwtOf(own, claims(), header({ jwk: published(own) }));
    },
    'that names its own keys (jku, x5u)': () => {
      const own = keyOf('EdDSA', 'own');
      return jwtOf(
        own,
        claims(),
        header({ jku: 'https://stranger.example/keys', x5u: 'https://stranger.example/c' }),
      );
    },
    'with an algorithm of another key type': () => jwtOf(keys.EdDSA, claims(), header({ kid: 'rsa' })),
    'of RSA keys with an algorithm that was not used': () =>
      jwtOf(keys.RS256, claims(), header({ alg: 'PS256' })),
    'with an algorithm that is not allowed': () => jwtOf(keys.RS256, claims(), header({ alg: 'RS512' })),
    'with a key id that is a path': () => jwtOf(keys.EdDSA, claims(), header({ kid: '../../etc/passwd' })),
    'with a critical extension that nobody knows': () =>
      jwtOf(keys.EdDSA, claims(), header({ crit: ['new'], new: true })),
    'with an unencoded payload (b64)': () =>
      jwtOf(keys.EdDSA, claims(), header({ crit: ['b64'], b64: false })),
    'of another issuer': () => jwtOf(keys.EdDSA, claims({ iss: 'https://other.example' })),
    'of no issuer': () => jwtOf(keys.EdDSA, claims({ iss: undefined })),
    'of an issuer that is a list': () => jwtOf(keys.EdDSA, claims({ iss: [iss] })),
    'for somebody else': () => jwtOf(keys.EdDSA, claims({ aud: 'another' })),
    'for nobody': () => jwtOf(keys.EdDSA, claims({ aud: undefined })),
    'without an end': () => jwtOf(keys.EdDSA, claims({ exp: undefined })),
    'with an end that is a text': () => jwtOf(keys.EdDSA, claims({ exp: String(now_s() + 600) })),
    'about nobody': () => jwtOf(keys.EdDSA, claims({ sub: undefined })),
    'about an empty subject': () => jwtOf(keys.EdDSA, claims({ sub: '' })),
    'with the subject twice': () =>
      jwtOf(keys.EdDSA, JSON.stringify(claims()).replace('{', '{"sub":"mallory",')),
    'with the subject twice, once escaped': () =>
      jwtOf(keys.EdDSA, JSON.stringify(claims()).replace('{', '{"s\\u0075b":"mallory",')),
    'with the key id twice': () => jwtOf(keys.EdDSA, claims(), '{"alg":"EdDSA","kid":"ed","kid":"rsa"}'),
    'made to end a session (logout+jwt)': () => jwtOf(keys.EdDSA, claims(), header({ typ: 'logout+jwt' })),
    'bound to a key of its holder': () => jwtOf(keys.EdDSA, claims({ cnf: { jkt: 'x' } })),
    'longer than any token is': () => jwtOf(keys.EdDSA, claims({ padding: 'x'.repeat(10_000) })),
    'of one part': () => 'eyJhbGciOiJFZERTQSJ9',
    'of four parts': () => `${jwtOf(keys.EdDSA, claims())}.x`,
    'whose payload is no object': () => jwtOf(keys.EdDSA, '[]'),
    'whose payload is no JSON': () => jwtOf(keys.EdDSA, '{'),
  };

  it.each(Object.keys(attacks))('%s is CREDENTIAL_UNKNOWN', async name => {
    fresh();
    expect(await refused(jwtOf(keys.EdDSA, claims()))).toBe('none'); // all that is wrong is what the name says
    expect(await refused(attacks[name]?.() ?? '')).toBe('CREDENTIAL_UNKNOWN');
  });

  it('is nobody with one changed bit anywhere in its signature or payload', async () => {
    fresh();
    const jwt = jwtOf(keys.ES256, claims());
    const [head = '', payload = '', signature = ''] = jwt.split('.');
    const bytes = Buffer.from(signature, 'base64url');
    for (const at of [0, 20, 63]) {
      const changed = Buffer.from(bytes);
      changed[at] = (changed[at] ?? 0) ^ 1;
      expect(await refused(`${head}.${payload}.${changed.toString('base64url')}`)).toBe('CREDENTIAL_UNKNOWN');
    }
    const other = encoded(claims({ sub: 'mallory' }));
    expect(await refused(`${head}.${other}.${signature}`)).toBe('CREDENTIAL_UNKNOWN');
  });

  it('may not be signed with a symmetric key, even one that the issuer publishes', async () => {
    fresh();
    const secret = Buffer.alloc(32, 7);
    publication.text = JSON.stringify({
      keys: [{ kty: 'oct', kid: 'oct', k: secret.toString('base64url') }],
    });
    const input = `${encoded({ alg: 'HS256', kid: 'oct' })}.${encoded(claims())}`;
    const jwt = `${input}.${createHmac('sha256', secret).update(input).digest('base64url')}`;
    expect(await refused(jwt)).toBe('CREDENTIAL_UNKNOWN');
  });
});

describe('the keys of an issuer', () => {
  it('are read again for a key id that is new, and the old key goes with the reading', async () => {
    const [old, next] = [keyOf('EdDSA', 'old'), keyOf('EdDSA', 'next')];
    fresh(old);
    const before = jwtOf(old, claims());
    await check(before);
    publication.text = setOf(next);
    expect(await refused(before)).toBe('none');
    clock.advance(publication.cooldown_ms);
    expect(await refused(jwtOf(next, claims()))).toBe('none');
    expect(publication.reads).toBe(2);
    expect(await refused(before)).toBe('CREDENTIAL_UNKNOWN');
  });

  it('are read again when they are old, so that a key that was withdrawn is good for nothing', async () => {
    const [old, next] = [keyOf('EdDSA', 'old'), keyOf('EdDSA', 'next')];
    fresh(old);
    const jwt = jwtOf(old, claims());
    await check(jwt);
    publication.text = setOf(next);
    clock.advance(publication.refresh_ms);
    expect(await refused(jwt)).toBe('CREDENTIAL_UNKNOWN');
  });

  it('are not asked for by a flood of unknown key ids', async () => {
    fresh();
    for (let at = 0; at < 50; at += 1) {
      expect(await refused(jwtOf(keyOf('EdDSA', `unknown-${at}`), claims()))).toBe('CREDENTIAL_UNKNOWN');
    }
    expect(publication.reads).toBe(1);
  });

  it('are read once for many who come at the same time', async () => {
    fresh();
    const jwtsOfMany = Array.from({ length: 20 }, (_, at) =>
      jwtOf(keys.EdDSA, claims({ sub: `user-${at}` })),
    );
    await Promise.all(jwtsOfMany.map(check));
    expect(publication.reads).toBe(1);
  });

  it('serve on while the issuer cannot be reached, until they are too old: JWKS_UNAVAILABLE', async () => {
    fresh();
    const jwt = jwtOf(keys.EdDSA, claims({ exp: now_s() + 86_400 }));
    await check(jwt);
    publication.reachable = false;
    clock.advance(publication.refresh_ms);
    expect(await refused(jwt)).toBe('none');
    clock.advance(publication.max_ms - publication.refresh_ms);
    expect(await refused(jwt)).toBe('JWKS_UNAVAILABLE');
    publication.reachable = true;
    clock.advance(publication.cooldown_ms);
    expect(await refused(jwt)).toBe('none');
  });

  it.each(['', '{', '[]', '{"keys":1}', '{"keys":[1]}'])(
    'are not taken from %j: JWKS_UNAVAILABLE',
    async text => {
      fresh();
      publication.text = text;
      expect(await refused(jwtOf(keys.EdDSA, claims()))).toBe('JWKS_UNAVAILABLE');
    },
  );
});

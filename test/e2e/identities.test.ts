import 'reflect-metadata';
import { createPublicKey, generateKeyPairSync, sign, webcrypto } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import { request } from 'node:https';
import { type AddressInfo, connect } from 'node:net';
import { connect as connectTls } from 'node:tls';
import * as x509 from '@peculiar/x509';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Authority, createAuthority, type Issued } from '../../src/appliance/certificates.ts';
import { jwksSource } from '../../src/appliance/jwks-source.ts';
import { grantsOf } from '../../src/custodian/grants.ts';
import type { Identity } from '../../src/custodian/identities.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { Gateway } from '../../src/gateway/gateway.ts';
import { Device, pinText } from '../custodian/device.ts';
import { Lab, people, sha256 } from '../custodian/lab.ts';

/** Certificates, JWTs and API tokens through real TLS, to a custodian in this process. */

const uri = 'uri:spiffe://example.org/payments';
const issuer = 'https://issuer.example';
const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };

let authority: Authority;
let stranger: Authority;
let admin: Issued;
let published: Server;
let keys: { kid: string; privateKey: ReturnType<typeof generateKeyPairSync>['privateKey'] };
let device: Device;
let lab: Lab;
let gateway: Gateway;

beforeAll(async () => {
  [authority, stranger] = await Promise.all([createAuthority('one CA'), createAuthority('another CA')]);
  admin = await authority.issueClient('an admin');
  published = createServer((_request, response) => void response.end(jwks()));
  await new Promise<void>(done => published.listen(0, '127.0.0.1', done));
  rotate('first');
  device = await Device.make();
  lab = await Lab.with(settings(), { slot: device.slot, source: () => pinText });
  await lab.custodian.openUnattended();
  const { certificate: cert, key } = await authority.issueServer(['127.0.0.1']);
  gateway = await Gateway.start({
    listen: { host: '127.0.0.1', port: 0 },
    ops: { host: '127.0.0.1', port: 0 },
    tls: { cert, key, ca: `${authority.certificate}\n${stranger.certificate}` },
    requireCertificate: false,
    custodian: lab.custodian,
    log: silentLog,
  });
});

afterAll(async () => {
  await gateway[Symbol.asyncDispose]();
  await lab[Symbol.asyncDispose]();
  await device[Symbol.asyncDispose]();
  published.closeAllConnections();
  published.close();
});

function settings(): Parameters<typeof Lab.with>[0] {
  const { port } = published.address() as AddressInfo;
  const setting = { jwks: { url: `http://127.0.0.1:${port}/keys` }, refresh_s: 300, max_s: 3_600 };
  const identities: Identity[] = [
    ...Object.values(people).filter(({ name }) => name !== 'admin'),
    {
      name: 'admin',
      roles: ['admin'],
      grants: [],
      source: 'configuration',
      recognisedBy: { spki: spkiOf(admin.certificate) },
    },
    {
      name: 'payments',
      roles: ['signer'],
      grants: grantsOf('*'),
      source: 'configuration',
      recognisedBy: { san: uri, ca: spkiOf(authority.certificate) },
    },
    {
      name: 'alice',
      roles: ['signer'],
      grants: grantsOf('*'),
      source: 'configuration',
      recognisedBy: { jwt: 'corporate', subject: 'alice' },
    },
  ];
  return {
    identities,
    apiTokens: { key: Secret.fromBytes(Buffer.alloc(32, 7)), max_s: 3_600 },
    jwtIssuers: [
      {
        name: 'corporate',
        issuer,
        audience: ['keyslot'],
        algorithms: ['EdDSA'],
        clockSkew_s: 30,
        keys: jwksSource({ home: lab?.folder ?? '' }, setting),
      },
    ],
  };
}

const spkiOf = (pem: string): string => sha256(createPublicKey(pem).export({ format: 'der', type: 'spki' }));

function rotate(kid: string): void {
  keys = { kid, privateKey: generateKeyPairSync('ed25519').privateKey };
}

const jwks = (): string =>
  JSON.stringify({
    keys: [{ ...createPublicKey(keys.privateKey).export({ format: 'jwk' }), kid: keys.kid }],
  });

function jwtOf(more: Record<string, unknown> = {}, header: Record<string, unknown> = {}): string {
  const exp = Math.floor(lab.clock.utc().getTime() / 1000) + 60;
  const parts = [
    { alg: 'EdDSA', kid: keys.kid, ...header },
    { iss: issuer, aud: 'keyslot', sub: 'alice', exp, ...more },
  ];
  const input = parts.map(part => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
  return `${input}.${sign(null, Buffer.from(input), keys.privateKey).toString('base64url')}`;
}

/** A client certificate with names that its CA gives it. */
async function named(by: Authority, names: readonly x509.JsonGeneralName[]): Promise<Issued> {
  const own = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const pkcs8 = x509.PemConverter.decode(by.key)[0] ?? new ArrayBuffer(0);
  const made = await x509.X509CertificateGenerator.create({
    serialNumber: '01',
    subject: 'CN=somebody',
    issuer: new x509.X509Certificate(by.certificate).subject,
    notBefore: new Date(Date.now() - 60_000),
    notAfter: new Date(Date.now() + 3_600_000),
    signingKey: await webcrypto.subtle.importKey('pkcs8', pkcs8, algorithm, false, ['sign']),
    publicKey: own.publicKey,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth]),
      new x509.SubjectAlternativeNameExtension([...names]),
    ],
  });
  const key = x509.PemConverter.encode(
    await webcrypto.subtle.exportKey('pkcs8', own.privateKey),
    'PRIVATE KEY',
  );
  return { certificate: made.toString('pem'), key };
}

interface Sent {
  readonly as?: Issued;
  readonly bearer?: string;
  readonly method?: string;
  readonly body?: unknown;
}

function ask(path: string, { as, bearer, method = 'GET', body }: Sent = {}) {
  const { promise, resolve, reject } = Promise.withResolvers<{
    status: number;
    json: Record<string, unknown>;
  }>();
  const text = body === undefined ? undefined : JSON.stringify(body);
  const headers = {
    ...(bearer === undefined ? {} : { authorization: `Bearer ${bearer}` }),
    ...(text === undefined
      ? {}
      : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }),
  };
  const identity = as ? { cert: as.certificate, key: as.key } : {};
  const sent = request(
    new URL(path, gateway.url),
    { method, headers, ca: authority.certificate, agent: false, ...identity },
    async response => {
      const parts: Buffer[] = [];
      for await (const part of response as AsyncIterable<Buffer>) parts.push(part);
      const answer = Buffer.concat(parts).toString();
      resolve({ status: response.statusCode ?? 0, json: answer ? JSON.parse(answer) : {} });
    },
  );
  sent.on('error', reject);
  sent.end(text);
  return promise;
}

const whoami = async (sent: Sent) => {
  const { status, json } = await ask('/v1/whoami', sent);
  return status === 200 ? json.name : json.code;
};

describe('a client certificate', () => {
  it('is known by its public key', async () => {
    expect(await whoami({ as: admin })).toBe('admin');
  });

  it('is known by a name in it, if the right one of the trusted CAs gave it', async () => {
    const names = [{ type: 'url', value: uri.slice(4) }] as const;
    expect(await whoami({ as: await named(authority, names) })).toBe('payments');
    expect(await whoami({ as: await named(stranger, names) })).toBe('CREDENTIAL_UNKNOWN');
  });

  it('cannot pass off one name as another by what it holds', async () => {
    const tricks = [
      { type: 'dns', value: `a, URI:${uri.slice(4)}` },
      { type: 'email', value: `a", URI:${uri.slice(4)}` },
      { type: 'url', value: `${uri.slice(4)}\0` },
    ] as const;
    for (const trick of tricks)
      expect(await whoami({ as: await named(authority, [trick]) })).toBe('CREDENTIAL_UNKNOWN');
  });
});

describe('a JWT', () => {
  it('is known by its subject, and its issuer may change its keys', async () => {
    expect(await whoami({ bearer: jwtOf() })).toBe('alice');
    rotate('second');
    lab.clock.advance(10_000);
    expect(await whoami({ bearer: jwtOf() })).toBe('alice');
  });

  it.each([
    ['for somebody else', () => jwtOf({ aud: 'another' }), 'CREDENTIAL_UNKNOWN'],
    [
      'without a signature',
      () => `${jwtOf({}, { alg: 'none' }).split('.').slice(0, 2).join('.')}.`,
      'CREDENTIAL_UNKNOWN',
    ],
    ['that has expired', () => jwtOf({ exp: 1 }), 'CREDENTIAL_EXPIRED'],
    ['that is larger than a token', () => jwtOf({ padding: 'x'.repeat(8_000) }), 'CREDENTIAL_UNKNOWN'],
  ])('%s is 401', async (_what, made, code) => {
    expect(await ask('/v1/whoami', { bearer: made() })).toMatchObject({ status: 401, json: { code } });
  });
});

describe('an API token', () => {
  it('is issued by an admin, shown once, and ends at once when it is revoked', async () => {
    const robot = {
      name: 'robot-1',
      roles: ['signer'],
      grants: [{ slots: ['main'], operations: ['sign-message'] }],
    };
    expect((await ask('/v1/identities', { as: admin, method: 'POST', body: robot })).status).toBe(201);
    const order = { identity: 'robot-1', label: 'a test', expiresIn_s: 600 };
    const { status, json } = await ask('/v1/tokens', { as: admin, method: 'POST', body: order });
    expect(status).toBe(201);
    const bearer = String(json.token);
    expect(await whoami({ bearer })).toBe('robot-1');
    const listed = await ask('/v1/tokens', { as: admin });
    expect(listed.json).toMatchObject({ tokens: [{ id: json.id, identity: 'robot-1', state: 'active' }] });
    expect(JSON.stringify(listed.json)).not.toContain(bearer.slice(-43));
    expect((await ask('/v1/tokens', { bearer })).json.code).toBe('PERMISSION_DENIED');
    expect((await ask(`/v1/tokens/${json.id}`, { as: admin, method: 'DELETE' })).json.state).toBe('revoked');
    expect(await whoami({ bearer })).toBe('CREDENTIAL_EXPIRED');
    expect((await ask('/v1/identities/robot-1', { as: admin, method: 'DELETE' })).status).toBe(200);
    expect((await ask('/v1/identities', { as: admin })).json).not.toMatchObject({
      identities: expect.arrayContaining([expect.objectContaining({ name: 'robot-1' })]),
    });
  });
});

describe('a bearer token without TLS', () => {
  const ends = () => [gateway.url, gateway.opsUrl].map(url => Number(new URL(url).port));

  it('gets no answer, because nothing listens for plain HTTP', async () => {
    for (const port of ends()) {
      const { promise, resolve } = Promise.withResolvers<string>();
      let heard = '';
      const socket = connect(port, '127.0.0.1', () => {
        socket.write(`GET /v1/whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${jwtOf()}\r\n\r\n`);
      });
      socket.on('data', data => {
        heard += data.toString('latin1');
      });
      socket.on('error', () => undefined);
      socket.on('close', () => resolve(heard));
      expect(await promise).not.toContain('HTTP/');
    }
  });

  it.each([
    ['TLSv1.1', 'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION'],
    ['TLSv1.2', 'TLSv1.2'],
    ['TLSv1.3', 'TLSv1.3'],
  ] as const)('and with %s the handshake is %s', async (version, outcome) => {
    for (const port of ends()) {
      const { promise, resolve } = Promise.withResolvers<string>();
      const socket = connectTls({
        port,
        host: '127.0.0.1',
        ca: authority.certificate,
        minVersion: version,
        maxVersion: version,
        ciphers: 'DEFAULT@SECLEVEL=0',
      });
      socket.on('secureConnect', () => resolve(socket.getProtocol() ?? ''));
      socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'an error'));
      expect(await promise).toBe(outcome);
      socket.destroy();
    }
  });
});

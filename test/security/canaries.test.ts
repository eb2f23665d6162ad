import { generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { isId } from '../../src/custody/ids.ts';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { Collector } from '../appliance/collector.ts';
import { type Appliance, type Client, type Home, prepareHome, type Reply, serve } from '../e2e/appliance.ts';

/**
 * Every secret that goes through a real appliance is a word of its own, put into the right field and into all the
 * wrong ones. Afterwards these words are looked for in everything that the appliance said and wrote.
 */

let home: Home;
let collector: Collector;
let appliance: Appliance;
let developer: Client;
/** Every answer but the ones whose purpose is to hold a secret. */
let answers: string[];
let answered_bytes: number;
let secrets: Record<string, string | Buffer>;

const output_bytes_min = 1_000_000;
const issuer = generateKeyPairSync('ed25519');

beforeAll(async () => {
  home = await prepareHome();
  collector = await Collector.start();
  writeFileSync(
    join(home.path, 'jwks.json'),
    JSON.stringify({ keys: [{ ...issuer.publicKey.export({ format: 'jwk' }), kid: 'one' }] }),
  );
  const bearer = canary('token');
  secrets = {
    'the user PIN': home.secret('user.pin'),
    'the SO PIN': home.secret('so.pin'),
    'the development token': home.secret('developer.token'),
    'a bearer token': bearer,
    'a JWT': jwt(),
    'a JWT that is false': `${jwt().slice(0, -4)}AAAA`,
    'a wrong PIN': canary('pin'),
    'the text of a message': canary('message'),
    'a seed': randomBytes(32),
    'an idempotent seed': randomBytes(32),
  };
  home.configure(config => {
    const token = { file: 'secrets/bearer.token' };
    writeFileSync(join(home.path, 'secrets', 'bearer.token'), bearer, { mode: 0o600 });
    config.identities.push({ name: 'bearer', roles: ['signer', 'auditor'], slots: '*', token });
    config.identities.push({
      name: 'program',
      roles: ['signer'],
      slots: '*',
      jwt: 'corporate',
      subject: 'alice',
    });
    config.jwtIssuers = [
      {
        name: 'corporate',
        issuer: 'https://issuer.example',
        audience: 'keyslot',
        jwks: { file: 'jwks.json' },
      },
    ];
    config.apiTokens = { enabled: true };
    Object.assign(config, { tracing: { endpoint: collector.endpoint }, logging: { probes: 'all' } });
    for (const slot of config.slots) slot.access = 'session';
  });
  appliance = await serve(home);
  developer = appliance.client();
  answers = [];
  answered_bytes = 0;
});

afterAll(async () => {
  developer.close();
  await appliance.stop();
  await collector[Symbol.asyncDispose]();
  home.remove();
});

/** Letters and digits alone, so that no escaping hides it. */
function canary(name: string): string {
  return `canary-${name}-${randomBytes(16).toString('hex')}`;
}

function jwt(): string {
  const parts = [
    { alg: 'EdDSA', kid: 'one' },
    {
      iss: 'https://issuer.example',
      aud: 'keyslot',
      sub: 'alice',
      exp: Math.floor(Date.now() / 1_000) + 600,
    },
  ];
  const input = parts.map(part => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
  return `${input}.${sign(null, Buffer.from(input), issuer.privateKey).toString('base64url')}`;
}

/**
 * An answer tells its sender which name it does not know; that is no news to the sender, and nobody else hears it.
 * What such an answer says besides is kept.
 */
const naming =
  /^(KEY|SLOT|POLICY|APPROVAL|API_TOKEN|IDENTITY)_(ID_)?(UNKNOWN|INVALID)$|^QUERY_INVALID$|^FIELD_UNKNOWN$/;

const kept = (reply: Reply, echoes = false): Reply => {
  const { code = '' } = reply.json;
  const text = echoes && naming.test(code) ? JSON.stringify({ ...reply.json, detail: '' }) : reply.text;
  const said = `${JSON.stringify(reply.headers)}\n${text}`;
  answers.push(said);
  answered_bytes += said.length;
  return reply;
};

/** How somebody may come across it: as it is, encoded, and as the numbers of a key file. */
function shapesOf(secret: string | Buffer): readonly Buffer[] {
  const bytes = Buffer.from(secret);
  const shapes = [
    bytes,
    Buffer.from(bytes.toString('base64').replace(/=*$/, '')),
    Buffer.from(bytes.toString('base64url')),
  ];
  const texts = [
    bytes.toString('hex'),
    bytes.toString('hex').toUpperCase(),
    [...bytes].join(','),
    [...bytes].join(', '),
  ];
  const base58 = typeof secret === 'string' ? [] : [encodeBase58(bytes)];
  return [...shapes, ...[...texts, ...base58].map(text => Buffer.from(text))];
}

function filesIn(folder: string): readonly string[] {
  return readdirSync(folder).flatMap(name => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? filesIn(path) : [path];
  });
}

/** What they are for; the answers that must hold a secret are looked at and not kept. */
async function rightPlaces(): Promise<void> {
  const { pin, seed, idempotent, message, wrong } = named();
  await developer.post('/v1/slots/main/lock', {});
  kept(await developer.post('/v1/slots/main/open', { pin }));
  const importing = (id: string, of: Buffer, headers = {}) =>
    developer.post(`/v1/keys/${id}/import`, { slot: 'main', seed: of.toString('base64') }, headers);
  expect(kept(await importing('wallet', seed)).status).toBe(201);
  const key = { 'Idempotency-Key': 'import-1' };
  for (let time = 0; time < 2; time += 1)
    expect(kept(await importing('other', idempotent, key)).status).toBe(201);
  kept(await importing('wallet', seed)); // KEY_EXISTS
  const opened = await developer.post('/v1/slots/main/sessions', { pin }, { 'Idempotency-Key': 'session-1' });
  secrets['a session token'] = opened.json.token ?? '';
  const session = { 'Keyslot-Session': opened.json.token ?? '' };
  const body = { message: Buffer.from(message).toString('base64') };
  expect(kept(await developer.post('/v1/keys/wallet/sign-message', body, session)).status).toBe(200);
  kept(await developer.post('/v1/slots/main/sessions', { pin: wrong }));
  kept(await developer.post('/v1/slots/main/open', { pin: wrong }));
  const issued = await developer.post('/v1/tokens', {
    identity: 'bearer',
    label: 'of a test',
    expiresIn_s: 600,
  });
  secrets['an API token'] = issued.json.token ?? '';
  for (const token of [named().bearer, named().jwt, issued.json.token ?? '']) {
    const client = appliance.client({ token });
    expect(kept(await client.get('/v1/whoami')).status).toBe(200);
    kept(await client.post('/v1/keys/wallet/sign-message', body, session));
    kept(await client.send('DELETE', '/v1/sessions/current', { headers: session }));
    client.close();
  }
}

const named = () => ({
  pin: String(secrets['the user PIN']),
  wrong: String(secrets['a wrong PIN']),
  bearer: String(secrets['a bearer token']),
  jwt: String(secrets['a JWT']),
  message: String(secrets['the text of a message']),
  seed: Buffer.from(secrets['a seed'] ?? ''),
  idempotent: Buffer.from(secrets['an idempotent seed'] ?? ''),
});

/** Where a secret does not belong, and ends up when somebody is in a hurry. */
async function wrongPlaces(secret: string): Promise<void> {
  const stranger = appliance.client('nobody');
  const body = { message: 'aGVsbG8=' };
  const at = encodeURIComponent(secret);
  const paths = ['keys', 'slots', 'wallets', 'policies', 'approvals', 'tokens', 'audit'].map(
    of => `/v1/${of}/${at}`,
  );
  for (const path of [...paths, `/v1/${at}`, `/v1/keys?slot=${at}`, `/v1/tokens?identity=${at}`]) {
    kept(await developer.get(path), true);
    kept(await stranger.get(path), true);
  }
  for (const query of ['limit', 'cursor', 'state', at])
    kept(await developer.get(`/v1/keys?${query}=${at}`), true);
  // What could be a name is written down as the name that somebody wants to change; anything else is not.
  if (!isId(secret)) {
    for (const path of paths) kept(await developer.send('DELETE', path), true);
    for (const what of ['enable', 'disable', 'destroy', 'export']) {
      kept(await developer.post(`/v1/keys/${at}/${what}`, {}, { 'Keyslot-Approval': 'a-0' }), true);
    }
    kept(await developer.post(`/v1/slots/${at}/open`, {}), true);
  }
  for (const path of [
    '/v1/keys/wallet/sign-message',
    '/v1/keys',
    '/v1/slots/main/sessions',
    '/v1/policies/evaluate',
  ]) {
    kept(await developer.post(path, `{"pin": "${secret}`)); // no JSON
    kept(await developer.post(path, secret));
    kept(await developer.post(path, { [secret]: secret }), true);
    kept(
      await developer.post(path, { ...body, pin: { of: [secret] }, seed: secret, key: secret, slot: secret }),
    );
    kept(
      await developer.post(path, { id: `${secret}!`, slot: secret, message: `${secret}!`, tags: [secret] }),
    );
    kept(await developer.post(path, { id: 'new', slot: secret }), true);
  }
  const headers: Readonly<Record<string, string>>[] = [
    { Authorization: `Bearer ${secret}` },
    { Authorization: `Basic ${secret}` },
    { Authorization: secret },
    { 'Keyslot-Session': secret },
    { 'Idempotency-Key': secret },
    { 'Keyslot-Approval': secret },
    { 'X-Vault-Token': secret },
    { 'X-Api-Key': secret, Cookie: `pin=${secret}` },
    { 'Content-Type': secret },
    { 'User-Agent': secret, Referer: `https://example/${secret}` },
    { traceparent: secret, tracestate: `keyslot=${secret}`, baggage: `pin=${secret}` },
    { traceparent: `00-${'1'.repeat(32)}-${'2'.repeat(16)}-01-${secret}`, 'X-Forwarded-For': secret },
  ];
  for (const each of headers) {
    kept(await developer.post('/v1/keys/wallet/sign-message', body, each));
    kept(await stranger.post('/v1/keys/wallet/sign-message', body, each));
    kept(await stranger.get('/v1/whoami', each));
  }
  stranger.close();
}

it('none of them is found in anything that the appliance said, logged or stored', async () => {
  await rightPlaces();
  for (const secret of Object.values(secrets)) {
    await wrongPlaces(typeof secret === 'string' ? secret : secret.toString('base64url'));
  }
  // Whatever else there is to be said, often enough that a rare line would have come up.
  while (answered_bytes < output_bytes_min) {
    kept(await developer.get('/v1/keys?limit=500'));
    kept(await developer.get('/v1/audit?from=0&limit=500'));
    kept(await developer.get('/v1/slots'));
  }
  await appliance.stop();

  const said = [
    ...answers.map((text): [string, Buffer] => ['an answer', Buffer.from(text)]),
    ['the log', readFileSync(home.log)] as [string, Buffer],
    ...collector.bodies.map((text): [string, Buffer] => ['a trace', Buffer.from(text)]),
    ...filesIn(home.path)
      .filter(path => !/\/(secrets|tls|softhsm)\//.test(path.slice(home.path.length)))
      .map((path): [string, Buffer] => [path.slice(home.path.length), readFileSync(path)]),
  ];
  const names = said.map(([name]) => name);
  expect(names.some(name => name.includes('/audit/segment-'))).toBe(true);
  expect(names.some(name => name.endsWith('.db'))).toBe(true);
  const found = Object.entries(secrets).flatMap(([name, secret]) =>
    said
      .filter(([, bytes]) => shapesOf(secret).some(shape => bytes.includes(shape)))
      .map(([where]) => `${name} in ${where}`),
  );
  expect([...new Set(found)]).toEqual([]);
});

it('and would have been found: the search sees what is there', () => {
  const everything = answers.join('');
  expect(everything.length).toBeGreaterThan(output_bytes_min);
  expect(everything).toContain('"wallet"');
  // Every request has its line, and most have their spans: some may have been dropped when there were too many.
  const lines = readFileSync(home.log, 'utf8').split('\n');
  const requests = lines.filter(line => line.includes('"msg":"request"'));
  expect(requests.length).toBeGreaterThanOrEqual(answers.length);
  expect(collector.spans.length).toBeGreaterThan(answers.length / 2);
  expect(lines.join().length + collector.bodies.join().length).toBeGreaterThan(output_bytes_min);
  for (const secret of Object.values(secrets)) {
    expect(secret.length).toBeGreaterThan(16);
    const [plain = Buffer.alloc(0)] = shapesOf(secret);
    expect(Buffer.concat([Buffer.from('somewhere '), plain, Buffer.from(' else')]).includes(plain)).toBe(
      true,
    );
  }
});

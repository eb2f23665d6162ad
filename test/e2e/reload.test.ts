import 'reflect-metadata';
import { webcrypto, X509Certificate } from 'node:crypto';
import { cpSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect, type TLSSocket } from 'node:tls';
import * as x509 from '@peculiar/x509';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type Authority, createAuthority, type Issued } from '../../src/appliance/certificates.ts';
import type { AuditEntry } from '../../src/audit/record.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import type { Changes, ReloadDiff, Reloaded, ReloadView } from '../../src/wire/reload.ts';
import {
  type Appliance,
  base64,
  type Client,
  eventually,
  expectProblem,
  type Home,
  keyslot,
  prepareHome,
  type Reply,
  run,
  serve,
  type YamlConfig,
} from './appliance.ts';

/** One appliance that takes one configuration after the other, each test beginning with the files as they were. */

const pin = 'a-pin-of-files';
const robotName = 'robot.example';

let home: Home;
let good: string;
let appliance: Appliance;
/** A token, so that it gets in whatever becomes of the CAs of clients. */
let admin: Client;
let signer: Client;
let robot: Issued;
let newAuthority: Authority;
const clients: Client[] = [];

beforeAll(async () => {
  home = await prepareHome();
  good = join(home.path, '..', 'good');
  newAuthority = await createAuthority('another CA');
  const payments = await home.addIdentity('payments', ['signer'], '*');
  robot = await issueNamed(home.authority, robotName);
  writeFileSync(at('secrets/files.pin'), pin, { mode: 0o600 });
  writeFileSync(at('tls/clients.crt'), home.authority.certificate);
  home.configure(config => {
    config.tls = { ...(config.tls as object), clientCa: 'tls/clients.crt' };
    config.slots.push(filesSlot('files'), filesSlot('guarded', { access: 'session', settings: {} }));
    config.identities.push({ name: 'robot', roles: ['signer'], slots: '*', san: `dns:${robotName}` });
  });
  saveGood();
  appliance = await serve(home, { args: ['--home', home.path, '--json'] }); // with the ports of the file
  admin = client({ token: home.secret('developer.token') });
  signer = client(payments);
  for (const slot of ['main', 'files', 'guarded']) {
    expect((await admin.post('/v1/keys', { id: `in-${slot}`, slot })).status).toBe(201);
  }
});

afterAll(async () => {
  for (const each of clients) each.close();
  await appliance.stop();
  home.remove();
});

afterEach(async () => {
  restoreGood();
  expect((await reload()).status).toBe(200);
});

const at = (path: string): string => join(home.path, path);

const filesSlot = (id: string, more: object = {}) => ({
  id,
  engine: 'encrypted-file',
  pin: { file: 'secrets/files.pin' },
  settings: { unwrapCache_ms: 60_000 },
  ...more,
});

/** What the tests change, and what each of them gets back. */
const changeable = ['keyslot.yaml', 'policies', 'tls', 'secrets'];

function saveGood(): void {
  rmSync(good, { recursive: true, force: true });
  mkdirSync(good);
  for (const name of changeable) cpSync(at(name), join(good, name), { recursive: true });
}

function restoreGood(): void {
  for (const name of changeable) {
    rmSync(at(name), { recursive: true, force: true });
    cpSync(join(good, name), at(name), { recursive: true });
  }
}

function client(who: Issued | { readonly token: string }): Client {
  const made = appliance.client(who);
  clients.push(made);
  return made;
}

const reload = (by: Client = admin): Promise<Reply> => by.post('/v1/reload', {});

async function reloaded(): Promise<Reloaded> {
  const reply = await reload();
  expect(reply).toMatchObject({ status: 200 });
  return JSON.parse(reply.text) as Reloaded;
}

/** Back to what it was before the test. */
async function backToGood(): Promise<Reloaded> {
  restoreGood();
  return reloaded();
}

const lastReload = async (): Promise<ReloadView | undefined> =>
  (JSON.parse((await admin.get('/v1/reload')).text) as { last?: ReloadView }).last;

const none: Changes = { added: [], changed: [], removed: [] };
const diffOf = (changes: Partial<ReloadDiff>): ReloadDiff => ({
  slots: none,
  groups: none,
  identities: none,
  jwtIssuers: none,
  policies: none,
  certificates: [],
  settings: [],
  ...changes,
});

let messages = 0;

/** A message nobody else signs, so that no signature is one that was remembered. */
function fresh(): string {
  messages += 1;
  return base64(`message ${messages}`);
}

const sign = (by: Client, key: string, headers: Record<string, string> = {}): Promise<Reply> =>
  by.post(`/v1/keys/${key}/sign-message`, { message: fresh() }, headers);

type Line = AuditEntry & { readonly seq: number };

const auditSize = async (): Promise<number> =>
  (JSON.parse((await admin.get('/v1/audit/status')).text) as { size: number }).size;

async function linesFrom(from: number): Promise<readonly Line[]> {
  const { lines } = JSON.parse((await admin.get(`/v1/audit?from=${from}&limit=500`)).text) as {
    lines: string[];
  };
  return lines.map(line => JSON.parse(line) as Line);
}

/** A client certificate with a name that its CA gives it. */
async function issueNamed(by: Authority, name: string): Promise<Issued> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const own = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const pkcs8 = x509.PemConverter.decode(by.key)[0] ?? new ArrayBuffer(0);
  const made = await x509.X509CertificateGenerator.create({
    serialNumber: '01',
    subject: 'CN=robot',
    issuer: new x509.X509Certificate(by.certificate).subject,
    notBefore: new Date(Date.now() - 60_000),
    notAfter: new Date(Date.now() + 3_600_000),
    signingKey: await webcrypto.subtle.importKey('pkcs8', pkcs8, algorithm, false, ['sign']),
    publicKey: own.publicKey,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth]),
      new x509.SubjectAlternativeNameExtension([{ type: 'dns', value: name }]),
    ],
  });
  const key = x509.PemConverter.encode(
    await webcrypto.subtle.exportKey('pkcs8', own.privateKey),
    'PRIVATE KEY',
  );
  return { certificate: made.toString('pem'), key };
}

/** The digest of the certificate that new connections are shown. */
async function shownCertificate(): Promise<string | undefined> {
  const socket = await admin.raw();
  const shown = socket.getPeerX509Certificate()?.fingerprint256;
  socket.destroy();
  return shown;
}

async function writeServerCertificate(by: Authority = home.authority): Promise<string> {
  const { certificate, key } = await by.issueServer(['localhost', '127.0.0.1', '::1']);
  writeFileSync(at('tls/server.crt'), certificate);
  writeFileSync(at('tls/server.key'), key);
  return new X509Certificate(certificate).fingerprint256;
}

describe('what was written into the files', () => {
  it('is there after the reload, and is named: an identity, a policy, a slot', async () => {
    const { certificate, key } = await home.authority.issueClient('newcomer');
    writeFileSync(at('tls/newcomer.crt'), certificate);
    home.configure(config => {
      config.identities.push({
        name: 'newcomer',
        roles: ['signer'],
        slots: ['fresh'],
        certificate: { file: 'tls/newcomer.crt' },
      });
      config.slots.push(filesSlot('fresh'));
      config.sessions = { idle_s: 60 };
    });
    writeFileSync(at('policies/more.yaml'), JSON.stringify(everythingAllowed('more', { slots: ['fresh'] })));
    const newcomer = client({ certificate, key });
    expectProblem(await sign(newcomer, 'in-fresh'), 401, 'CREDENTIAL_UNKNOWN');

    expect(await reloaded()).toEqual({
      changed: true,
      diff: diffOf({
        slots: { ...none, added: ['fresh'] },
        identities: { ...none, added: ['newcomer'] },
        policies: { ...none, added: ['more'] },
        settings: ['sessions.idle_s'],
      }),
      keysGone: [],
    });
    expect((await admin.post('/v1/keys', { id: 'in-fresh', slot: 'fresh' })).status).toBe(201);
    expect((await sign(newcomer, 'in-fresh')).status).toBe(200);
    expect((await admin.get('/v1/policies/more')).status).toBe(200);
    expect(await reloaded()).toEqual({ changed: false, diff: diffOf({}), keysGone: [] });

    expect((await backToGood()).diff).toMatchObject({
      slots: { removed: ['fresh'] },
      identities: { removed: ['newcomer'] },
      policies: { removed: ['more'] },
    });
    expectProblem(await sign(newcomer, 'in-fresh'), 401, 'CREDENTIAL_UNKNOWN');
    expectProblem(await admin.get('/v1/policies/more'), 404, 'POLICY_UNKNOWN');
    expectProblem(await admin.get('/v1/slots/fresh'), 404, 'SLOT_UNKNOWN');
  });

  it('is read by `keyslot reload`, and told again by `keyslot reload --last`', async () => {
    home.configure(config => {
      config.drain = { grace_s: 0 };
      config.identities.push({ name: 'teller', roles: ['signer'], certificate: { spki: 'ab'.repeat(32) } });
    });
    const { status, stdout } = await run(keyslot, ['reload', '--home', home.path]);
    expect({ status, stdout }).toEqual({ status: 0, stdout: '+ identity teller\n~ drain.grace_s\n' });
    const last = await run(keyslot, ['reload', '--last', '--home', home.path]);
    expect(last.status).toBe(0);
    expect(last.stdout).toMatch(/^ok at \S+, by developer\n\+ identity teller\n~ drain\.grace_s\n$/);
  });
});

describe('who may', () => {
  it('reload is who operates, and who oversees may see what came of it', async () => {
    const { certificate, key } = await home.authority.issueClient('auditor');
    writeFileSync(at('tls/auditor.crt'), certificate);
    home.configure(config => {
      config.identities.push({
        name: 'auditor',
        roles: ['auditor'],
        certificate: { file: 'tls/auditor.crt' },
      });
    });
    await reloaded();
    const auditor = client({ certificate, key });
    for (const who of [signer, auditor]) expectProblem(await reload(who), 403, 'PERMISSION_DENIED');
    const seen = await auditor.get('/v1/reload');
    expect(seen.status).toBe(200);
    expect(JSON.parse(seen.text)).toMatchObject({
      running: false,
      last: { outcome: 'ok', by: 'developer-token', result: { changed: true } },
    });
    expectProblem(await signer.get('/v1/reload'), 403, 'PERMISSION_DENIED');
  });

  it('two at once are one, and the other is told to wait', async () => {
    const statuses = (await Promise.all([reload(), reload()])).map(({ status, json }) => [status, json.code]);
    expect(statuses.toSorted()).toEqual([
      [200, undefined],
      [409, 'RELOAD_BUSY'],
    ]);
  });
});

describe('an identity that was taken out', () => {
  const without = (name: string) => (config: YamlConfig) => {
    config.identities = config.identities.filter(each => each.name !== name);
  };

  it('is nobody at once, on a connection that it had, and its PIN session is over', async () => {
    const { json } = await signer.post('/v1/slots/guarded/sessions', { pin });
    const session = { 'Keyslot-Session': json.token ?? '' };
    expect((await sign(signer, 'in-guarded', session)).status).toBe(200);
    home.configure(without('payments'));
    expect((await reloaded()).diff.identities.removed).toEqual(['payments']);
    expectProblem(await sign(signer, 'in-files'), 401, 'CREDENTIAL_UNKNOWN');

    await backToGood();
    expect((await sign(signer, 'in-files')).status).toBe(200);
    expectProblem(await sign(signer, 'in-guarded', session), 401, 'SESSION_EXPIRED');
  });

  it('and is back with another certificate is not who it was', async () => {
    const { certificate, key } = await home.authority.issueClient('payments');
    writeFileSync(at('tls/payments.crt'), certificate);
    expect((await reloaded()).diff.identities.changed).toEqual(['payments']);
    expectProblem(await sign(signer, 'in-files'), 401, 'CREDENTIAL_UNKNOWN');
    expect((await sign(client({ certificate, key }), 'in-files')).status).toBe(200);
  });

  it('gets nothing any more of what it had asked for before', async () => {
    const from = await auditSize();
    const items = Array.from({ length: 100 }, () => ({ message: fresh() }));
    const { json } = await signer.post('/v1/slots/guarded/sessions', { pin });
    const session = { 'Keyslot-Session': json.token ?? '' };
    const batch = signer.post('/v1/keys/in-guarded/sign-batch', { items }, session);
    const isOwn = ({ type, operation, outcome }: Line) =>
      type === 'result' && operation === 'sign-batch' && outcome === 'ok';
    await eventually('a signature of the batch', async () => (await linesFrom(from)).some(isOwn));
    home.configure(without('payments'));
    await reloaded();
    const { results = [] } = (await batch).json;
    const codes = new Set(results.map(({ error }) => error?.code));
    expect(codes).toEqual(new Set([undefined, 'CREDENTIAL_UNKNOWN']));

    const lines = await linesFrom(from);
    const taken = lines.find(({ type, operation }) => type === 'result' && operation === 'reload');
    const made = lines.filter(isOwn);
    expect(made.length).toBeGreaterThan(0);
    expect(made.filter(({ seq }) => seq > (taken?.seq ?? 0))).toEqual([]);
  });
});

describe('a slot', () => {
  const without = (id: string) => (config: YamlConfig) => {
    config.slots = config.slots.filter(each => each.id !== id);
  };

  it('that was taken out signs no more and has no sessions, and signs again when it is back', async () => {
    const { json } = await signer.post('/v1/slots/guarded/sessions', { pin });
    const session = { 'Keyslot-Session': json.token ?? '' };
    home.configure(without('guarded'));
    expect((await reloaded()).diff.slots.removed).toEqual(['guarded']);
    expectProblem(await sign(signer, 'in-guarded', session), 503, 'SLOT_FAILED');
    expect((await sign(signer, 'in-files')).status).toBe(200);

    expect((await backToGood()).diff.slots.added).toEqual(['guarded']);
    expectProblem(await sign(signer, 'in-guarded', session), 401, 'SESSION_EXPIRED');
    const again = await signer.post('/v1/slots/guarded/sessions', { pin });
    expect(again.status).toBe(201);
    const headers = { 'Keyslot-Session': again.json.token ?? '' };
    expect((await sign(signer, 'in-guarded', headers)).status).toBe(200);
  });

  it('whose key file somebody took away says so, and that key alone signs no more', async () => {
    expect((await admin.post('/v1/keys', { id: 'doomed', slot: 'files' })).status).toBe(201);
    expect((await sign(signer, 'doomed')).status).toBe(200);
    const [file = ''] = readdirSync(at('keys/files')).filter(name => name.startsWith('doomed'));
    renameSync(at(`keys/files/${file}`), at('doomed.kept'));
    expect(await reloaded()).toMatchObject({
      changed: false,
      keysGone: [{ slot: 'files', key: 'doomed' }],
    });
    expectProblem(await sign(signer, 'doomed'), 503, 'KEY_MISSING');
    expect((await sign(signer, 'in-files')).status).toBe(200);
    renameSync(at('doomed.kept'), at(`keys/files/${file}`));
    expect(await reloaded()).toMatchObject({ changed: false, keysGone: [] });
    expect((await sign(signer, 'doomed')).status).toBe(200);
  });

  it('of a token goes on with it, with other settings', async () => {
    expect((await sign(signer, 'in-main')).status).toBe(200);
    home.configure(({ slots: [main] }) => {
      Object.assign(main?.settings ?? {}, { sessions: 2 });
    });
    expect((await reloaded()).diff.slots.changed).toEqual(['main']);
    expect((await sign(signer, 'in-main')).status).toBe(200);
  });

  it('that is not required any more stays open', async () => {
    home.configure(config => {
      for (const slot of config.slots) if (slot.id === 'files') slot.required = false;
    });
    const from = await auditSize();
    expect((await reloaded()).diff.slots.changed).toEqual(['files']);
    expect((await sign(signer, 'in-files')).status).toBe(200);
    expect((await linesFrom(from)).map(({ operation }) => operation)).not.toContain('open-slot');
  });
});

describe('a policy', () => {
  it('that was changed holds at once, and without one a key signs nothing', async () => {
    const everything = everythingAllowed('everything', 'all');
    home.setPolicies({ ...everything, messages: { offchain: true, bytes: 'none', raw: false } });
    expect((await reloaded()).diff.policies.changed).toEqual(['everything']);
    const refused = await sign(signer, 'in-files');
    expectProblem(refused, 403, 'POLICY_DENIED');
    expect(refused.text).toContain('messages');
    home.setPolicies();
    expect((await reloaded()).diff.policies.removed).toEqual(['everything']);
    const denied = await sign(signer, 'in-files');
    expectProblem(denied, 403, 'POLICY_DENIED');
    expect(denied.text).toContain('no policy');
    await backToGood();
    expect((await sign(signer, 'in-files')).status).toBe(200);
  });
});

describe('files that are not right', () => {
  const addIdentity = (certificate: object) => () =>
    home.configure(config => {
      config.identities.push({ name: 'broken', roles: ['signer'], certificate });
    });
  const addSlot = (more: object) => () =>
    home.configure(config => config.slots.push(filesSlot('more', more)));

  const broken: readonly (readonly [name: string, says: string, breaks: () => unknown])[] = [
    [
      'YAML that does not parse',
      'keyslot.yaml',
      () => writeFileSync(at('keyslot.yaml'), 'slots: [\n  - id: "x'),
    ],
    [
      'a setting that there is not',
      'listen.hots',
      () =>
        home.configure(config => {
          config.listen = { hots: 'x' };
        }),
    ],
    [
      'an identity twice',
      'identities',
      () =>
        home.configure(config => {
          config.identities.push({
            name: 'payments',
            roles: ['signer'],
            certificate: { spki: 'cd'.repeat(32) },
          });
        }),
    ],
    ['a certificate of an identity that is none', 'identities.broken', addIdentity({ file: 'keyslot.yaml' })],
    [
      'a policy with a rule that there is not',
      'POLICY_INVALID',
      () => writeFileSync(at('policies/hasty.yaml'), '{"name": "hasty", "appliesTo": "all", "x": 1}'),
    ],
    [
      'a policy that is no YAML',
      'hasty.yaml',
      () => writeFileSync(at('policies/hasty.yaml'), 'name: [\n  "x'),
    ],
    ['a server key of another certificate', 'tls', () => cpSync(at('tls/ca.key'), at('tls/server.key'))],
    [
      'an expired server certificate',
      'CERTIFICATE_EXPIRED: tls.certificate',
      async () => writeServerCertificate(await createAuthority('an old CA', -1 / 48)),
    ],
    [
      'an expired CA of clients',
      'CERTIFICATE_EXPIRED: tls.clientCa',
      async () =>
        writeFileSync(at('tls/clients.crt'), (await createAuthority('an old CA', -1 / 48)).certificate),
    ],
    [
      'a new slot whose PIN file is missing',
      'slots.more.pin.file',
      addSlot({ pin: { file: 'secrets/absent.pin' } }),
    ],
    [
      'a new slot whose PIN is wrong',
      'PIN_REFUSED',
      () => {
        writeFileSync(at('secrets/wrong.pin'), 'a-wrong-pin-of-files', { mode: 0o600 });
        // Its keys are there since another test, and sealed with another PIN.
        addSlot({ id: 'fresh', pin: { file: 'secrets/wrong.pin' } })();
      },
    ],
    [
      'a token that another slot has open',
      'SLOT_OPEN',
      () =>
        home.configure(({ slots: [main] }) => {
          if (main) main.id = 'renamed';
        }),
    ],
    [
      'a new slot whose module is none',
      'slots.more.settings.module',
      addSlot({ engine: 'pkcs11', settings: { module: '/etc/hostname', tokenLabel: 'x' } }),
    ],
  ];

  it('are refused by name, change nothing, and disturb nobody who signs', async () => {
    const state = async () => [
      (await admin.get('/v1/identities')).json,
      (await admin.get('/v1/policies')).json,
      (await admin.get('/v1/slots')).json,
      await shownCertificate(),
    ];
    const before = await state();
    const failures: Reply[] = [];
    let signatures = 0;
    let isOver = false;
    const lane = async () => {
      while (!isOver) {
        const reply = await sign(signer, 'in-files');
        if (reply.status === 200) signatures += 1;
        else failures.push(reply);
      }
    };
    const signing = lane();
    try {
      for (const [name, says, breaks] of broken) {
        await breaks();
        const begun = signatures;
        const reply = await reload();
        expect([name, reply.status, reply.json.code]).toEqual([name, 422, 'RELOAD_REFUSED']);
        expect([name, reply.text]).toEqual([name, expect.stringContaining(says)]);
        expect(await lastReload()).toMatchObject({ outcome: 'refused', code: 'RELOAD_REFUSED' });
        await eventually('a signature behind the reload', () => signatures > begun);
        restoreGood();
      }
    } finally {
      isOver = true;
      await signing;
    }
    expect(failures).toEqual([]);
    expect(await state()).toEqual(before);
    expect(await reloaded()).toMatchObject({ changed: false, keysGone: [] });
  });

  it('of which one takes a restart are refused as a whole, and that one is named', async () => {
    home.configure(config => {
      config.listen = { ...(config.listen as object), port: 8443 };
      config.idempotency = { retention_s: 600 };
      config.identities = config.identities.filter(({ name }) => name !== 'payments');
    });
    const reply = await reload();
    expectProblem(reply, 409, 'RELOAD_NEEDS_RESTART');
    expect(reply.text).toContain('listen.port, idempotency.retention_s');
    expect((await sign(signer, 'in-files')).status).toBe(200);
  });
});

describe('certificates', () => {
  it('of the server are shown to new connections, and none that is open is cut', async () => {
    const socket = await signer.raw();
    const shown = await writeServerCertificate();
    expect(await reloaded()).toMatchObject({ diff: { certificates: ['server'] } });
    expect(await shownCertificate()).toBe(shown);
    expect(await statusOn(socket)).toBe(200); // the handshake was with the one before
  });

  it('of another CA let its clients in, and those of the old one out, also from where they were', async () => {
    const [old, kept] = [client(robot), client(robot)];
    expect((await sign(old, 'in-files')).status).toBe(200);
    const idle = await kept.raw();
    const closed = new Promise(done => idle.once('close', done));
    idle.on('error', () => undefined);
    const tickets = {
      'TLSv1.2': await ticketOf(kept, 'TLSv1.2'),
      'TLSv1.3': await ticketOf(kept, 'TLSv1.3'),
    };
    const successor = client(await issueNamed(newAuthority, robotName));
    expectProblem(await sign(successor, 'in-files'), 401, 'CREDENTIAL_UNKNOWN');

    writeFileSync(at('tls/clients.crt'), newAuthority.certificate);
    expect(await reloaded()).toMatchObject({ diff: { certificates: ['client-ca'] } });
    await closed;
    expectProblem(await sign(old, 'in-files'), 401, 'CREDENTIAL_UNKNOWN');
    for (const [version, session] of Object.entries(tickets)) {
      const maxVersion = version as 'TLSv1.2' | 'TLSv1.3';
      const resumed = await kept.raw({ session, maxVersion });
      expect([version, await statusOn(resumed)]).toEqual([version, 401]);
    }
    expect((await sign(successor, 'in-files')).status).toBe(200);

    // Both, as long as certificates are being exchanged.
    writeFileSync(at('tls/clients.crt'), `${home.authority.certificate}\n${newAuthority.certificate}`);
    await reloaded();
    for (const each of [old, successor]) expect((await sign(each, 'in-files')).status).toBe(200);
  });
});

/** The status of a request on a connection that it is the last one of. */
async function statusOn(socket: TLSSocket): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  let heard = '';
  socket.on('data', data => {
    heard += String(data);
  });
  socket.on('error', reject);
  socket.on('close', () => resolve(Number(/^HTTP\/1\.1 (\d+)/.exec(heard)?.[1] ?? 0)));
  const body = JSON.stringify({ message: fresh() });
  const head = [
    'POST /v1/keys/in-files/sign-message HTTP/1.1',
    'Host: x',
    'Connection: close',
    'Content-Type: application/json',
    `Content-Length: ${body.length}`,
  ];
  socket.write(`${head.join('\r\n')}\r\n\r\n${body}`);
  return promise;
}

/** What lets a client go on with its TLS session; proven to do so. */
async function ticketOf(by: Client, maxVersion: 'TLSv1.2' | 'TLSv1.3'): Promise<Buffer> {
  const { hostname: host, port } = new URL(by.url);
  const socket = connect({ ...by.tls, host, port: Number(port), maxVersion });
  const given = new Promise<Buffer>(done => socket.on('session', done));
  expect(await statusOn(socket)).toBe(200);
  const session = await given;
  const resumed = await by.raw({ maxVersion, session });
  expect(resumed.isSessionReused()).toBe(true);
  resumed.destroy();
  return session;
}

describe('processes that are started anew', () => {
  it('go by the configuration as it is by then', async () => {
    const shown = await writeServerCertificate();
    home.configure(config => {
      config.identities = config.identities.filter(({ name }) => name !== 'payments');
    });
    await reloaded();
    const pids = { custodian: await appliance.child('custodian'), gateway: await appliance.child('gateway') };
    for (const pid of Object.values(pids)) process.kill(pid, 'SIGKILL');
    await appliance.child('custodian', pids.custodian);
    await appliance.child('gateway', pids.gateway);
    await eventually('a signature of somebody who is there', async () =>
      sign(admin, 'in-files').then(
        ({ status }) => status === 200,
        () => false,
      ),
    );
    expectProblem(await sign(signer, 'in-files'), 401, 'CREDENTIAL_UNKNOWN');
    expect(await shownCertificate()).toBe(shown);
    expect(await reloaded()).toMatchObject({ changed: false });
    await backToGood();
    expect((await sign(signer, 'in-files')).status).toBe(200);
  });
});

describe('a signal', () => {
  it('SIGHUP reloads, and stands in the audit log', async () => {
    const from = await auditSize();
    home.configure(config => {
      config.identities = config.identities.filter(({ name }) => name !== 'payments');
    });
    process.kill(appliance.pid, 'SIGHUP');
    await eventually('a reload by a signal', async () => (await lastReload())?.by === 'signal');
    expectProblem(await sign(signer, 'in-files'), 401, 'CREDENTIAL_UNKNOWN');
    const written = (await linesFrom(from)).filter(
      ({ type, operation }) => operation === 'reload' && type !== 'event',
    );
    expect(written.map(({ type, actor, outcome }) => [type, actor, outcome])).toEqual([
      ['intent', 'signal', undefined],
      ['result', 'signal', 'ok'],
    ]);

    writeFileSync(at('keyslot.yaml'), 'slots: [');
    process.kill(appliance.pid, 'SIGHUP');
    const last = await eventually('a refused one', async () => {
      const view = await lastReload();
      return view?.outcome === 'refused' ? view : undefined;
    });
    expect(last).toMatchObject({ by: 'signal', code: 'RELOAD_REFUSED' });
  });

  it('SIGUSR2 drains, and stands in the audit log', async () => {
    const from = await auditSize();
    process.kill(appliance.pid, 'SIGUSR2');
    const line = await eventually('the record of the drain', async () =>
      (await linesFrom(from)).find(({ operation }) => operation === 'drain'),
    );
    expect(line).toMatchObject({ actor: 'signal', outcome: 'ok' });
    expect((await admin.get('/v1/slots')).headers.connection).toBe('close');
  });
});

it('nothing of this was said with a secret in it', () => {
  const log = readFileSync(home.log, 'utf8');
  for (const secret of [pin, 'a-wrong-pin-of-files', home.secret('developer.token')]) {
    expect(log).not.toContain(secret);
  }
});

import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { CloudHsmServer } from '../aws/cloudhsm-server.ts';
import { Faulty } from '../engines/pkcs11/faulty/faulty.ts';
import {
  type Appliance,
  base64,
  type Client,
  eventually,
  expectProblem,
  type Home,
  keyslot,
  prepareHome,
  processesOf,
  type Reply,
  run,
  serve,
  tokenLabel,
} from './appliance.ts';
import { isSignature } from './transactions.ts';

/** What becomes of requests when a module hangs, crashes its process, or refuses the PIN: the whole appliance. */

let faulty: Faulty;
let aws: CloudHsmServer;
let home: Home;
let appliance: Appliance;
let developer: Client;
let address: string;

beforeAll(async () => {
  faulty = await Faulty.make();
  aws = await CloudHsmServer.start();
  aws.clusters = [cluster];
  home = await prepareHome();
  await home.addToken('other');
  home.configure(config => {
    const [main] = config.slots;
    if (!main) throw new TypeError('A development home has a slot.');
    const settings = {
      ...main.settings,
      module: faulty.modulePath,
      sessions: 2,
      callLimit_ms: 1_000,
      environment: { ...(main.settings?.environment as object), ...faulty.environment },
    };
    config.slots = [
      { ...main, settings },
      { ...main, id: 'other', settings: { ...settings, tokenLabel: 'other', sessions: 8 } },
    ];
    config.supervision = { unresponsive_s: 2 };
    config.custodian = { threads: threads - 1 }; // and one for the audit log
    config.cloudhsm = { cluster: cluster.ClusterId, slot: 'main', endpoint: aws.endpoint };
  });
});

afterEach(() => faulty.heal());

afterAll(async () => {
  faulty[Symbol.dispose]();
  await aws[Symbol.asyncDispose]();
  home.remove();
});

const threads = 5;

/** Three HSMs in one zone, which the preflight does not pass. */
const cluster = {
  ClusterId: 'cluster-survival',
  State: 'ACTIVE',
  HsmType: 'hsm2m.medium',
  Mode: 'NON_FIPS',
  Hsms: [1, 2, 3].map(last => ({
    HsmId: `hsm-${last}`,
    State: 'ACTIVE',
    AvailabilityZone: 'eu-central-1a',
    EniIp: `127.0.0.${last}`,
  })),
};

/** A supervisor waits longer from one restart to the next, so that not all tests share one. */
function served(): void {
  beforeAll(async () => {
    appliance = await serve(home, { environment: aws.environment });
    developer = appliance.client();
    const made = await developer.post('/v1/keys', { id: 'k', slot: 'main' });
    address = made.json.publicKey ?? address;
  });
  afterAll(async () => {
    developer.close();
    await appliance.stop();
    await eventually('the end of every process', () => processesOf(home.path).length === 0);
  });
}

const sign = (text: string, headers: Record<string, string> = {}): Promise<Reply> =>
  developer.post('/v1/keys/k/sign-message', { message: base64(text) }, headers);

async function expectSigned(text: string, { status, json }: Reply): Promise<void> {
  expect({ status, code: json.code }).toEqual({ status: 200, code: undefined });
  expect(await isSignature(address, Buffer.from(text), json.signature)).toBe(true);
}

/** What the log of the appliance says of something, from one of its lines on. */
const logged = (field: string): readonly Record<string, unknown>[] =>
  readFileSync(home.log, 'utf8')
    .split('\n')
    .filter(line => line.startsWith('{'))
    .map(line => JSON.parse(line) as Record<string, unknown>)
    .filter(line => field in line);

describe('an appliance', () => {
  served();

  it('shows the preflight of a cluster in its health, where it counts for nothing, and keeps its credentials apart', async () => {
    const health = await eventually('an answer of AWS', async () => {
      const { status, json } = await developer.get('/readyz');
      const check = json.checks?.find(({ id }) => id === 'cloudhsm');
      return check?.state === 'unknown' ? undefined : { status, ready: json.ready, check };
    });
    const preflight = { cluster: 'ok', hsms: 'ok', zones: 'fail', mode: 'ok', backup: 'fail' };
    expect(health).toMatchObject({
      status: 200,
      ready: true,
      check: { ok: false, state: 'fail', preflight },
    });
    for (const name of ['custodian', 'gateway'] as const) {
      const environment = readFileSync(`/proc/${await appliance.child(name)}/environ`, 'utf8');
      expect(environment).not.toContain(aws.credentials.secretAccessKey);
    }
  });

  describe('whose call to the token never returns', () => {
    it('and is made synchronously: that costs its process, and the signing is answered by the next one', async () => {
      const custodian = await appliance.child('custodian');
      const hang = faulty.inject({ on: 'C_SignInit', effect: 'hang', times: 1 });
      await expectSigned('in flight', await sign('in flight'));
      expect(hang.count().fired).toBe(1);
      expect(await appliance.child('custodian', custodian)).not.toBe(custodian);
      expect(logged('unresponsive_s')).toEqual([expect.objectContaining({ child: 'custodian' })]);
    });

    it('in the login of a process that starts: that costs this one too, and a gateway that stands still is replaced', async () => {
      const [custodian, gateway] = [await appliance.child('custodian'), await appliance.child('gateway')];
      const hang = faulty.inject({ on: 'C_Login', effect: 'hang', times: 1 });
      process.kill(custodian, 'SIGKILL');
      await eventually('a login that hangs', () => hang.count().fired === 1);
      process.kill(gateway, 'SIGSTOP');
      await appliance.child('gateway', gateway);
      const reply = await eventually('an answer', () => sign('after').catch(() => undefined));
      await expectSigned('after', reply);
      const { json } = await developer.get('/readyz');
      expect(json.ready).toBe(true);
      expect(json.checks).toContainEqual(expect.objectContaining({ id: 'cloudhsm', state: 'fail' }));
    });

    it('in every thread of a process: that costs it, although its slot has sessions left', async () => {
      await developer.post('/v1/keys', { id: 'o', slot: 'other' });
      const custodian = await appliance.child('custodian');
      const hang = faulty.inject({ on: 'C_Sign', effect: 'hang', token: 'other' });
      const signing = Promise.all(
        Array.from({ length: threads }, () =>
          developer.post('/v1/keys/o/sign-message', { message: base64('hung') }),
        ),
      );
      await appliance.child('custodian', custodian);
      hang.withdraw();
      for (const reply of await signing) expect(reply.status).toBe(200);
    });

    it('in every session of a slot: its process stops in order and makes way for the next one', async () => {
      const custodian = await appliance.child('custodian');
      const hang = faulty.inject({ on: 'C_Sign', effect: 'hang', token: tokenLabel });
      const logouts = () => faulty.counts().calls.C_Logout ?? 0;
      const before = logouts();
      const replies = await Promise.all([sign('one'), sign('two')]);
      for (const reply of replies) expectProblem(reply, 504, 'DEADLINE_EXCEEDED');
      await appliance.child('custodian', custodian);
      hang.withdraw();
      await expectSigned('one', await sign('one'));
      expect(logouts() - before).toBe(1); // of the other token
    });
  });
});

describe('a process that dies', () => {
  served();

  it.each(['SIGSEGV in the module', 'SIGKILL'])(
    'by %s loses no signing and records none twice',
    async how => {
      const texts = Array.from({ length: 40 }, (_, at) => `${how} ${at}`);
      const custodian = await appliance.child('custodian');
      const latency = faulty.inject({ on: 'C_Sign', effect: 'latency', ms: 10 });
      if (how !== 'SIGKILL') faulty.inject({ on: 'C_Sign', effect: 'crash', skip: 10, times: 1 });
      const signing = Promise.all(texts.map(text => sign(text, { 'Idempotency-Key': text })));
      await eventually('ten signatures', () => latency.count().met >= 10);
      if (how === 'SIGKILL') process.kill(custodian, 'SIGKILL');
      const replies = await signing;
      for (const [at, text] of texts.entries()) await expectSigned(text, replies[at] as Reply);
      expect(await appliance.child('custodian', custodian)).not.toBe(custodian);
      expect((await developer.get('/v1/keys/k')).json.publicKey).toBe(address);
      const receipts = replies.map(({ json }) => json.receipt?.seq);
      expect(new Set(receipts).size).toBe(texts.length);
      const verified = await run(keyslot, ['audit', 'verify', '--folder', auditFolder(), '--json']);
      const { ok, finding } = JSON.parse(verified.stdout);
      expect({ ok, finding }).toEqual({ ok: true, finding: undefined });
      const results = signedUnderKeys();
      expect(results.length).toBeGreaterThanOrEqual(texts.length);
      expect(new Set(results).size).toBe(results.length);
    },
  );
});

describe('a PIN that is wrong', () => {
  served();

  it('costs the token one attempt, however often a process is started with it', async () => {
    const { wrong: before } = faulty.pin(tokenLabel);
    writeFileSync(join(home.path, 'secrets', 'user.pin'), 'wrong-pin\n');
    let custodian = await appliance.child('custodian');
    for (let start = 0; start < 5; start += 1) {
      process.kill(custodian, 'SIGKILL');
      custodian = await appliance.child('custodian', custodian);
      await eventually('a latched slot', async () => (await mainSlot()).state === 'latched');
    }
    expect(faulty.pin(tokenLabel).wrong - before).toBe(1);
    expectProblem(await sign('latched'), 423, 'SLOT_LATCHED');
  });
});

const mainSlot = async () => (await developer.get('/v1/slots/main')).json;

const auditFolder = () => join(home.path, 'state', 'audit');

/** The ids of the signings that the audit log has a signature for, each as often as it has one. */
const signedUnderKeys = (): readonly unknown[] =>
  readdirSync(auditFolder())
    .filter(name => name.endsWith('.jsonl'))
    .flatMap(name => readFileSync(join(auditFolder(), name), 'utf8').split('\n'))
    .filter(line => line !== '')
    .map(line => JSON.parse(line) as Record<string, unknown>)
    .filter(({ signature, idempotency }) => signature !== undefined && idempotency !== undefined)
    .map(({ idempotency }) => idempotency);

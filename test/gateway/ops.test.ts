import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { CustodianLink } from '../../src/gateway/custodian-link.ts';
import { Drain } from '../../src/gateway/drain.ts';
import { exposition } from '../../src/gateway/metrics.ts';
import type { CheckNode } from '../../src/wire/health-tree.ts';
import { type MetricInfo, type MetricName, metrics } from '../../src/wire/metrics.ts';
import { people } from '../custodian/lab.ts';
import { Client, type Reply } from '../e2e/appliance.ts';
import { type Family, lineValue, parseExposition } from './exposition.ts';
import { House } from './house.ts';

/** The ops listener of a real gateway, and what draining does to the other one. */

const grace_ms = 5_000;
let now_ms = 0;
const drain = new Drain(grace_ms, () => now_ms);
let house: House;
let ops: Client;
let everyRole: Client;
let signer: Client;

beforeAll(async () => {
  const roles = { operator: ['operator', 'signer', 'auditor'], signer: ['signer'] } as const;
  house = await House.open(roles, {}, { drain, restarts: () => ({ custodian: 2 }) });
  everyRole = house.as('operator');
  signer = house.as('signer');
  ops = new Client(house.opsUrl, everyRole.tls);
});

afterAll(async () => {
  ops.close();
  await house[Symbol.asyncDispose]();
});

beforeEach(() => {
  drain.set(false);
  now_ms = 0;
});

const treeOf = ({ text }: Reply): CheckNode => JSON.parse(text) as CheckNode;

function checkIn(tree: CheckNode, id: string): CheckNode | undefined {
  if (tree.id === id) return tree;
  for (const each of tree.checks ?? []) {
    const found = checkIn(each, id);
    if (found) return found;
  }
  return undefined;
}

const scraped = async (): Promise<ReadonlyMap<string, Family>> =>
  parseExposition((await ops.get('/metrics')).text);

describe('/v1/health', () => {
  it('is 501 while there is no key to sign with, then 200, and 503 while a slot is locked', async () => {
    const empty = await ops.get('/v1/health');
    expect(empty.status).toBe(501);
    expect(treeOf(empty).data).toMatchObject({ initialised: false, ready: true });

    expect((await everyRole.post('/v1/keys', { id: 'treasury', slot: 'main' })).status).toBe(201);
    const well = await ops.get('/v1/health');
    expect(well.status).toBe(200);
    expect(treeOf(well)).toMatchObject({ id: 'appliance', data: { initialised: true, draining: false } });

    await everyRole.post('/v1/slots/main/lock', {});
    const locked = await ops.get('/v1/health');
    expect(locked.status).toBe(503);
    expect(treeOf(locked).status).toBe('fail');
    expect(checkIn(treeOf(locked), 'slot/main')).toMatchObject({ status: 'fail', data: { state: 'locked' } });
    await everyRole.post('/v1/slots/main/open', {});
    expect((await ops.get('/v1/health')).status).toBe(200);
  });

  it('has a check for all that the appliance stands on, each with a status and a time', async () => {
    const tree = treeOf(await ops.get('/v1/health'));
    const ids = ['slot/main', 'audit/log', 'audit/checkpoints', 'store', 'disk/state', 'disk/audit', 'clock'];
    const own = ['custodian', 'processes', 'drain', 'certificate/server', 'certificate/client-ca'];
    for (const id of [...ids, ...own]) {
      const check = checkIn(tree, id);
      expect(check?.status, id).toMatch(/^(ok|warn)$/);
      expect(new Date(check?.since ?? '').getTime(), id).toBeGreaterThan(0);
    }
    expect(checkIn(tree, 'processes')?.data).toEqual({ custodian: 2 });
  });

  it('tells since when a check is as it is, and not since when somebody asked', async () => {
    const since = async (id: string) => checkIn(treeOf(await ops.get('/v1/health')), id)?.since;
    const before = { store: await since('store'), drain: await since('drain') };
    drain.set(true);
    const meanwhile = await since('drain');
    expect(meanwhile).not.toBe(before.drain);
    expect(await since('drain')).toBe(meanwhile);
    expect(await since('store')).toBe(before.store);
  });
});

describe('/metrics', () => {
  it('is text as Prometheus reads it, and every line is one that the catalogue has', async () => {
    const reply = await ops.get('/metrics');
    expect(reply.status).toBe(200);
    expect(reply.headers['content-type']).toBe('text/plain; version=0.0.4; charset=utf-8');
    const families = parseExposition(reply.text);
    expect(families.size).toBeGreaterThan(25);
    for (const [name, { type, samples }] of families) {
      const info: MetricInfo = metrics[name as MetricName];
      expect(type, name).toBe(info.type);
      for (const { labels } of samples) {
        const known = Object.keys(labels).filter(label => label !== 'le');
        expect(known.sort(), name).toEqual([...info.labels].sort());
      }
    }
  });

  it('counts signatures, refusals and requests as they were made', async () => {
    const before = await scraped();
    const grown = (after: ReadonlyMap<string, Family>, name: string, labels = {}) =>
      (lineValue(after, name, labels) ?? 0) - (lineValue(before, name, labels) ?? 0);
    const message = Buffer.from('counted').toString('base64');
    for (let at = 0; at < 3; at += 1) await signer.post('/v1/keys/treasury/sign-message', { message });
    await signer.post('/v1/keys/treasury/sign-transaction', { transaction: message });
    await signer.post('/v1/keys/unknown/sign-message', { message });
    await signer.get('/v1/keys/treasury');

    const after = await scraped();
    const signing = { engine: 'memory', slot: 'main' };
    expect(grown(after, 'keyslot_sign_requests_total', { ...signing, kind: 'message', outcome: 'ok' })).toBe(
      3,
    );
    const refused = { ...signing, kind: 'transaction', outcome: 'refused' };
    expect(grown(after, 'keyslot_sign_requests_total', refused)).toBe(1);
    expect(grown(after, 'keyslot_sign_duration_seconds_count', signing)).toBe(3);
    expect(grown(after, 'keyslot_sign_stage_duration_seconds_count', { stage: 'sign' })).toBe(3);
    expect(grown(after, 'keyslot_policy_decisions_total', { decision: 'allow' })).toBe(3);
    expect(grown(after, 'keyslot_requests_total', { operation: 'sign-message', outcome: 'ok' })).toBe(3);
    expect(grown(after, 'keyslot_requests_total', { operation: 'sign-message', outcome: 'refused' })).toBe(1);
    expect(grown(after, 'keyslot_http_requests_total', { method: 'POST', status: '2xx' })).toBe(3);
    expect(grown(after, 'keyslot_http_requests_total', { method: 'POST', status: '4xx' })).toBe(2);
    expect(grown(after, 'keyslot_http_requests_total', { method: 'GET', status: '2xx' })).toBe(1);
    expect(grown(after, 'keyslot_audit_records_total')).toBeGreaterThanOrEqual(6);
  });

  it('has buckets that only grow, up to the count', async () => {
    for (const [name, { type, samples }] of await scraped()) {
      if (type !== 'histogram') continue;
      const series = Map.groupBy(samples, ({ labels: { le: _bound, ...labels } }) => JSON.stringify(labels));
      for (const lines of series.values()) {
        const counts = lines.filter(each => each.name === `${name}_bucket`).map(({ value }) => value);
        expect(counts).toEqual([...counts].sort((a, b) => a - b));
        expect(lines.find(each => each.name === `${name}_count`)?.value).toBe(counts.at(-1));
      }
    }
  });

  it('shows states, the registry and the processes', async () => {
    const families = await scraped();
    expect(lineValue(families, 'keyslot_slot_state', { slot: 'main', state: 'open' })).toBe(1);
    expect(lineValue(families, 'keyslot_slot_state', { slot: 'main', state: 'failed' })).toBe(0);
    expect(lineValue(families, 'keyslot_keys', { slot: 'main', state: 'active' })).toBe(1);
    expect(lineValue(families, 'keyslot_custodian_up')).toBe(1);
    expect(lineValue(families, 'keyslot_process_restarts_total', { process: 'custodian' })).toBe(2);
    expect(lineValue(families, 'keyslot_process_restarts_total', { process: 'gateway' })).toBe(0);
    expect(lineValue(families, 'keyslot_audit_state', { state: 'ok' })).toBe(1);
    expect(lineValue(families, 'keyslot_disk_free_bytes', { place: 'audit' })).toBeGreaterThan(0);
    for (const process of ['gateway', 'custodian'])
      expect(lineValue(families, 'process_resident_memory_bytes', { process })).toBeGreaterThan(1e7);
    const ends_s = lineValue(families, 'keyslot_certificate_expiry_timestamp_seconds', {
      certificate: 'server',
    });
    expect(ends_s).toBeGreaterThan(Date.now() / 1_000);
  });

  it('names no key, nobody, no address and no request', async () => {
    const { json } = await everyRole.get('/v1/keys/treasury');
    const { text } = await ops.get('/metrics');
    const secrets = ['treasury', String(json.publicKey), 'operator', '127.0.0.1', 'everything'];
    for (const name of [
      ...secrets,
      ...Object.keys(people).filter(each => each !== 'metrics' && each !== 'both'),
    ])
      expect(text).not.toContain(`"${name}"`);
  });

  it('says that the custodian is away when it is, and that it is not ready', async () => {
    const boot = Secret.fromText('boot');
    const link = new CustodianLink({
      path: join(house.lab.folder, 'nobody.sock'),
      bootSecret: boot,
      log: silentLog,
    });
    link[Symbol.dispose]();
    await using elsewhere = await House.open({ operator: ['operator'] }, {}, { custodian: link });
    const client = new Client(elsewhere.opsUrl, elsewhere.as('operator').tls);
    const families = parseExposition((await client.get('/metrics')).text);
    expect(lineValue(families, 'keyslot_custodian_up')).toBe(0);
    expect(lineValue(families, 'keyslot_ready')).toBe(0);
    expect(families.has('keyslot_slot_state')).toBe(false);
    const tree = await client.get('/v1/health');
    expect(tree.status).toBe(503);
    expect(checkIn(treeOf(tree), 'custodian')).toMatchObject({
      status: 'fail',
      data: { reason: 'SHUTTING_DOWN' },
    });
    client.close();
  });

  it('takes whatever text a label has', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom('"', '\\', '\n', '{', '}', ',', '=', 'n', 'é', '\u2028') }),
        slot => {
          const text = exposition([{ name: 'keyslot_pkcs11_sessions_max', labels: { slot }, value: 1 }]);
          expect(lineValue(parseExposition(text), 'keyslot_pkcs11_sessions_max', { slot })).toBe(1);
        },
      ),
      { numRuns: 200 },
    );
  });
});

describe('the ops listener', () => {
  it('answers questions only', async () => {
    for (const path of ['/healthz', '/readyz', '/v1/health', '/metrics']) {
      for (const method of ['POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS']) {
        const { status, json, headers } = await ops.send(method, path);
        expect({ status, code: json.code, allow: headers.allow }, `${method} ${path}`).toEqual({
          status: 405,
          code: 'METHOD_NOT_ALLOWED',
          allow: 'GET',
        });
      }
    }
    expect((await ops.post('/v1/drain', {})).status).toBe(404);
    expect((await everyRole.get('/metrics')).status).toBe(404);
    expect((await everyRole.get('/v1/health')).status).toBe(404);
  });
});

describe('draining', () => {
  it('is for operators, stands in the audit log, and can be ended', async () => {
    const refused = await signer.post('/v1/drain', {});
    expect({ status: refused.status, code: refused.json.code }).toEqual({
      status: 403,
      code: 'PERMISSION_DENIED',
    });
    expect(drain.draining).toBe(false);
    expect((await everyRole.post('/v1/drain', {})).text).toBe('{"draining":true}');
    expect(drain.draining).toBe(true);
    now_ms += grace_ms;
    expect((await everyRole.post('/v1/drain', { drain: false })).text).toBe('{"draining":false}');
    expect((await ops.get('/readyz')).status).toBe(200);
    expect((await signer.get('/v1/keys/treasury')).status).toBe(200);

    const { size } = house.lab.custodian.audit.status();
    const lines = await house.lab.custodian.audit.read(0, size);
    const events = lines.map(({ record }) => record).filter(({ operation }) => operation === 'drain');
    expect(events.map(({ type, actor, outcome, detail }) => [type, actor, outcome, detail?.drain])).toEqual([
      ['refusal', 'signer', 'refused', true],
      ['event', 'operator', 'ok', true],
      ['event', 'operator', 'ok', false],
    ]);
  });

  it('is said at once, lets requests in for a while, and then refuses them', async () => {
    drain.set(true);
    const ready = await ops.get('/readyz');
    expect(ready.status).toBe(503);
    expect(ready.json.checks).toContainEqual({ id: 'drain', ok: false, state: 'draining' });
    expect((await ops.get('/v1/health')).status).toBe(503);

    const late = await signer.get('/v1/keys/treasury');
    expect({ status: late.status, connection: late.headers.connection }).toEqual({
      status: 200,
      connection: 'close',
    });

    now_ms += grace_ms;
    const { status, json, headers } = await signer.get('/v1/keys/treasury');
    expect({ status, code: json.code, connection: headers.connection }).toEqual({
      status: 503,
      code: 'SHUTTING_DOWN',
      connection: 'close',
    });
    expect(Number(headers['retry-after'])).toBeGreaterThan(0);
    expect((await everyRole.get('/healthz')).status).toBe(200);
    expect((await everyRole.get('/readyz')).status).toBe(503);
    expect(lineValue(await scraped(), 'keyslot_draining')).toBe(1);
  });

  it('lets what is in flight finish', async () => {
    const body = JSON.stringify({ message: Buffer.from('slow').toString('base64') });
    const socket = await signer.raw();
    socket.write(
      `POST /v1/keys/treasury/sign-message HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n` +
        `Content-Length: ${body.length}\r\n\r\n${body.slice(0, 5)}`,
    );
    while (lineValue(await scraped(), 'keyslot_http_requests_in_flight') !== 1);
    drain.set(true);
    now_ms += grace_ms;
    expect((await signer.get('/v1/keys/treasury')).status).toBe(503);
    socket.write(body.slice(5));
    let answer = '';
    for await (const chunk of socket) {
      answer += String(chunk);
      if (answer.includes('"receipt"')) break;
    }
    expect(answer).toMatch(/^HTTP\/1\.1 200 /);
    socket.destroy();
  });
});

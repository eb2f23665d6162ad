import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  type Preflight,
  PreflightHealth,
  type PreflightOptions,
  preflight,
} from '../../src/appliance/preflight.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { CloudHsmServer, type HsmAnswer } from './cloudhsm-server.ts';

/** The preflight of a CloudHSM cluster: the real SDK against a server that speaks its protocol, real sockets. */
const id = 'cluster-keyslottest1';
const root = mkdtempSync(join(tmpdir(), 'keyslot-cloudhsm-'));
const libraryConfig = join(root, 'cloudhsm-pkcs11.cfg');
const now_ms = Date.UTC(2026, 0, 10);
let aws: CloudHsmServer;
let hsm: Server;
let options: PreflightOptions;

const hsmAt = (last: number, zone: string, State = 'ACTIVE'): HsmAnswer => ({
  HsmId: `hsm-${last}`,
  State,
  AvailabilityZone: zone,
  EniIp: `127.0.0.${last}`,
});
const cluster = (Hsms: readonly HsmAnswer[], more: Readonly<Record<string, string>> = {}) => ({
  ClusterId: id,
  State: 'ACTIVE',
  HsmType: 'hsm2m.medium',
  Mode: 'NON_FIPS',
  Hsms,
  ...more,
});
const three = [hsmAt(1, 'eu-central-1a'), hsmAt(2, 'eu-central-1b'), hsmAt(3, 'eu-central-1c')];
const backup = (age_h: number, BackupState = 'READY') => ({
  BackupId: `backup-${age_h}`,
  BackupState,
  ClusterId: id,
  CreateTimestamp: now_ms / 1_000 - age_h * 3_600,
});
const configure = (...hosts: readonly string[]) =>
  writeFileSync(
    libraryConfig,
    JSON.stringify({
      clusters: [
        {
          type: 'hsm1',
          cluster: {
            hsm_ca_file: '/opt/cloudhsm/etc/customerCA.crt',
            servers: hosts.map(hostname => ({ hostname, port: 2223, enable: true })),
          },
        },
      ],
    }),
  );

beforeAll(async () => {
  aws = await CloudHsmServer.start();
  hsm = createServer(socket => socket.destroy());
  hsm.listen(0, '0.0.0.0'); // every address of 127.0.0.0/8
  await once(hsm, 'listening');
  Object.assign(process.env, aws.environment);
  options = {
    cluster: id,
    mode: 'native',
    endpoint: aws.endpoint,
    libraryConfig,
    ports: [(hsm.address() as AddressInfo).port],
    timeout_ms: 10_000,
    now: () => now_ms,
  };
});

beforeEach(() => {
  aws.fault = undefined;
  aws.clusters = [cluster(three)];
  aws.backups = [backup(30), backup(5, 'CREATE_IN_PROGRESS'), backup(7)];
  configure('127.0.0.1', '127.0.0.2', '127.0.0.3');
});

afterAll(async () => {
  for (const name of Object.keys(aws.environment)) delete process.env[name];
  await aws[Symbol.asyncDispose]();
  hsm.close();
  rmSync(root, { recursive: true, force: true });
});

const outcomes = ({ checks }: Preflight) =>
  Object.fromEntries(checks.map(({ name, outcome }) => [name, outcome]));
const ask = async (more: Partial<PreflightOptions> = {}) =>
  outcomes(await preflight({ ...options, ...more }));
const allOk = {
  cluster: 'ok',
  hsms: 'ok',
  zones: 'ok',
  mode: 'ok',
  network: 'ok',
  library: 'ok',
  backup: 'ok',
};

describe('the preflight', () => {
  it('is ok for a cluster as it should be, and knows its mode, which the SDK drops', async () => {
    const found = await preflight(options);
    expect(outcomes(found)).toEqual(allOk);
    expect(found.outcome).toBe('ok');
    expect(found.checks.find(({ name }) => name === 'backup')?.detail).toContain('7 h');
    expect(found.checks.find(({ name }) => name === 'mode')?.detail).toContain('NON_FIPS');
  });

  it('wants three HSMs in two zones, warns of two, and fails with one', async () => {
    aws.clusters = [cluster([...three.slice(0, 2), hsmAt(3, 'eu-central-1c', 'DEGRADED')])];
    expect(await ask()).toEqual({ ...allOk, hsms: 'warn', library: 'ok' });
    aws.clusters = [cluster(three.map(each => ({ ...each, AvailabilityZone: 'eu-central-1a' })))];
    expect(await ask()).toEqual({ ...allOk, zones: 'fail' });
    aws.clusters = [cluster(three.slice(0, 1))];
    expect(await ask()).toEqual({ ...allOk, hsms: 'fail', zones: 'fail', library: 'warn' });
  });

  it('holds type and mode against the mode of the slot', async () => {
    for (const other of [{ Mode: 'FIPS' }, { HsmType: 'hsm1.medium', Mode: 'FIPS' }]) {
      aws.clusters = [cluster(three, other)];
      expect((await ask()).mode).toBe('fail');
      expect((await ask({ mode: 'wrapped' })).mode).toBe('ok');
    }
    const { Mode: _left, ...unsaid } = cluster(three);
    aws.clusters = [unsaid];
    expect((await ask()).mode).toBe('unknown');
  });

  it('knocks at the HSMs, and compares their addresses with the configuration of the library', async () => {
    const [port = 0] = options.ports ?? [];
    const closed = createServer();
    closed.listen(0, '127.0.0.1');
    await once(closed, 'listening');
    const other = (closed.address() as AddressInfo).port;
    closed.close();
    expect(await ask({ ports: [other] })).toEqual({ ...allOk, network: 'fail' });
    expect(await ask({ ports: [other, port] })).toEqual(allOk);
    configure('127.0.0.1', '127.0.0.2', '127.0.0.9');
    expect(await ask()).toEqual({ ...allOk, library: 'warn' });
    configure('127.0.0.8', '127.0.0.9');
    expect(await ask()).toEqual({ ...allOk, library: 'fail' });
    for (const text of ['nonsense', '{"clusters":{}}']) {
      writeFileSync(libraryConfig, text);
      expect((await ask()).library).toBe('unknown');
    }
    expect((await ask({ libraryConfig: join(root, 'absent') })).library).toBe('unknown');
  });

  it('looks at the cluster state and at the age of the newest backup that is ready', async () => {
    aws.clusters = [cluster(three, { State: 'DEGRADED' })];
    aws.backups = [backup(100), backup(60), backup(1, 'PENDING_DELETION')];
    expect(await ask()).toEqual({ ...allOk, cluster: 'warn', backup: 'warn' });
    aws.clusters = [cluster(three, { State: 'UPDATE_IN_PROGRESS' })];
    expect((await ask()).cluster).toBe('fail');
    aws.backups = [];
    expect((await ask()).backup).toBe('fail');
  });

  it('fails for a cluster that AWS does not know', async () => {
    aws.clusters = [];
    aws.backups = [];
    expect(await ask()).toMatchObject({ cluster: 'fail', hsms: 'unknown', network: 'unknown' });
  });

  it('is unknown, and no more than that, when AWS cannot be asked', async () => {
    for (const fault of [
      'silence',
      'reset',
      'nonsense',
      { error: 'AccessDeniedException', status: 400 },
      { error: 'ServiceUnavailable', status: 503 },
    ] as const) {
      aws.fault = fault;
      const found = await preflight({ ...options, timeout_ms: fault === 'silence' ? 200 : 10_000 });
      expect(found.outcome, JSON.stringify(fault)).toBe('unknown');
      expect(new Set(found.checks.map(({ outcome }) => outcome))).toEqual(new Set(['unknown']));
      for (const check of found.checks) expect(check.remedy).toBeTypeOf('string');
    }
  });

  it('is unknown with credentials that AWS refuses, whose secret it does not repeat', async () => {
    const secret = process.env.AWS_SECRET_ACCESS_KEY ?? '';
    process.env.AWS_SECRET_ACCESS_KEY = 'another-canary';
    const found = await preflight(options);
    process.env.AWS_SECRET_ACCESS_KEY = secret;
    expect(found.outcome).toBe('unknown');
    expect(JSON.stringify(found)).not.toContain('another-canary');
  });
});

describe('health', () => {
  it('is unknown at first, does not wait for AWS, and asks once in its time', async () => {
    let time_ms = now_ms;
    const health = new PreflightHealth({ ...options, now: () => time_ms }, silentLog, 1);
    const before = aws.requests;
    expect(health.current()).toMatchObject({ outcome: 'unknown', checks: [] });
    expect(health.current().outcome).toBe('unknown');
    await health.settled();
    const requests = aws.requests;
    expect(requests).toBeGreaterThan(before);
    expect(health.current().outcome).toBe('ok');
    time_ms += 59_000; // less than a minute is never asked for, whatever is configured
    expect(health.current().outcome).toBe('ok');
    await health.settled();
    expect(aws.requests).toBe(requests);
    time_ms += 2_000;
    aws.fault = { error: 'AccessDeniedException', status: 400 };
    expect(health.current().outcome).toBe('ok');
    await health.settled();
    expect(health.current().outcome).toBe('unknown');
    expect(aws.requests).toBeGreaterThan(requests);
  });
});

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createVerifier } from '../../src/foundation/ed25519.ts';
import type { KeyView, MigrationKeyView, MigrationPlanView, MigrationView } from '../../src/wire/views.ts';
import {
  type Appliance,
  base64,
  type Client,
  eventually,
  expectProblem,
  type Home,
  keyslot,
  prepareHome,
  run,
  serve,
} from './appliance.ts';

let home: Home;
let appliance: Appliance;
let client: Client;
/** Everything that a command printed. */
let printed = '';

beforeAll(async () => {
  home = await prepareHome();
  home.configure(config => {
    for (const id of ['hot', 'warm']) {
      config.slots.push({ id, engine: 'memory', pin: { file: 'secrets/user.pin' }, access: 'identity' });
    }
  });
  home.configure(config => {
    const pin = { file: 'secrets/user.pin' };
    config.slots.push({ id: 'files', engine: 'encrypted-file', pin, access: 'identity' });
  });
  appliance = await serve(home);
  client = appliance.client();
});

afterAll(async () => {
  client?.close();
  expect((await appliance?.stop())?.status).toBe(0);
  home?.remove();
});

interface Printed {
  readonly migration: MigrationView;
  readonly keys: readonly MigrationKeyView[];
  readonly report?: string;
  readonly error?: { readonly code: string; readonly detail: string };
}

async function migrate(...args: readonly string[]) {
  const ran = await run(keyslot, ['migrate', ...args, '--home', home.path]);
  printed += ran.stdout + ran.stderr;
  const json = ran.stdout.trim().startsWith('{') ? (JSON.parse(ran.stdout) as Printed) : undefined;
  return { ...ran, json };
}

async function migrated(...args: readonly string[]): Promise<Printed> {
  const { status, json, stderr, stdout } = await migrate(...args, '--json');
  expect({ status, stderr, stdout: status === 0 ? '' : stdout }).toEqual({
    status: 0,
    stderr: '',
    stdout: '',
  });
  if (!json) throw new TypeError('The command printed no JSON.');
  return json;
}

async function refused(...args: readonly string[]): Promise<string | undefined> {
  const { status, json } = await migrate(...args, '--json');
  expect(status).toBe(1);
  return json?.error?.code;
}

const generate = async (id: string, slot = 'hot') =>
  (await client.post('/v1/keys', { id, slot })).json as unknown as KeyView;
const show = async (id: string) => (await client.get(`/v1/keys/${id}`)).json as unknown as KeyView;
const sign = (id: string, message: string) =>
  client.post(`/v1/keys/${id}/sign-message`, { message: base64(message) });
const steps = ({ keys }: Printed) => Object.fromEntries(keys.map(({ key, step }) => [key, step]));

async function expectProof({ proof, publicKey }: MigrationKeyView, key: KeyView): Promise<void> {
  if (!proof) throw new TypeError('There is no proof.');
  expect(publicKey).toBe(key.publicKey);
  const challenge = Buffer.from(proof.challenge, 'base64');
  expect(createHash('sha256').update(challenge).digest('hex')).toBe(proof.challengeSha256);
  const verifier = createVerifier(Buffer.from(key.publicKeyBase64, 'base64'));
  expect(await verifier.verify(challenge, Buffer.from(proof.signature, 'base64'))).toBe(true);
}

describe('keyslot migrate', () => {
  it('plans, moves into the token, reports, verifies, and destroys the copies when it is told to', async () => {
    const before = [await generate('one'), await generate('two')];
    const planned = await migrate('plan', '--from', 'hot', '--to', 'main');
    expect(planned.status).toBe(0);
    expect(planned.stdout).toMatch(/^one +\S+ +yes$/m);
    expect(planned.stdout).toContain('2 can be moved, 0 cannot.');

    const done = await migrated('run', '--from', 'hot', '--to', 'main');
    const { id } = done.migration;
    expect(id).toMatch(/^m-[0-9a-f]{10}$/);
    expect(steps(done)).toEqual({ one: 'kept', two: 'kept' });
    for (const key of before) {
      const now = await show(key.id);
      expect(now).toMatchObject({ slot: 'main', custody: 'hsm-native', publicKey: key.publicKey });
      expect((await sign(key.id, 'x')).json.publicKey).toBe(key.publicKey);
    }

    const path = join(home.path, `migration-${id}.json`);
    expect(done.report).toBe(path);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const report = JSON.parse(readFileSync(path, 'utf8')) as Printed & { leftOut: unknown[] };
    expect(report.leftOut).toEqual([]);
    expect(report.migration).toEqual(done.migration);
    for (const [at, key] of report.keys.entries()) {
      expect(key).toMatchObject({ custodyBefore: 'memory', custodyAfter: 'hsm-native', step: 'kept' });
      await expectProof(key, before[at] as KeyView);
    }

    expect(steps(await migrated('verify', id))).toEqual({ one: 'kept', two: 'kept' });
    const finished = await migrated('run', id, '--confirm-destroy');
    expect(steps(finished)).toEqual({ one: 'destroyed', two: 'destroyed' });
    expect(finished.migration.counts).toMatchObject({ destroyed: 2, kept: 0 });
    expect((await client.get('/v1/slots/hot')).json.findings).toEqual([]);
    expect((await sign('one', 'y')).status).toBe(200);
    expect(await refused('rollback', id)).toBe('MIGRATION_STATE');
  });

  it('rolls one key back, and with --confirm-destroy removes what is left at the target', async () => {
    const before = await generate('three');
    await generate('four');
    const { migration } = await migrated('run', '--from', 'hot', '--to', 'warm');
    expect(steps(await migrated('rollback', migration.id, '--key', 'three'))).toEqual({
      three: 'rolled-back',
    });
    expect(await show('three')).toEqual(before);
    expect((await show('four')).slot).toBe('warm');
    expect(steps(await migrated('rollback', migration.id, '--key', 'three', '--confirm-destroy'))).toEqual({
      three: 'cleared',
    });
    expect(steps(await migrated('rollback', migration.id, '--confirm-destroy'))).toEqual({ four: 'cleared' });
    const shown = await migrate('status', migration.id);
    expect(shown.stdout).toMatch(/^three +\S+ +cleared +memory +memory$/m);
    const listed = await migrate('status');
    expect(listed.stdout.split('\n')[0]).toMatch(/^MIGRATION +FROM +TO +BEGUN +STATE +KEYS$/);
    expect(listed.stdout).toMatch(new RegExp(`^${migration.id} +hot +warm +\\S+ +finished +2 cleared$`, 'm'));
    await migrated('run', '--from', 'hot', '--to', 'main', '--confirm-destroy');
  });

  it('refuses the way out of a token before it starts, and says what to do instead', async () => {
    const plan = await migrate('plan', '--from', 'main', '--to', 'hot', '--json');
    expect(plan.status).toBe(1);
    const { obstacle, possible } = plan.json as unknown as MigrationPlanView;
    expect([obstacle?.code, possible]).toEqual(['POWER_MISSING', 0]);
    const before = (await migrate('status')).stdout;
    const { status, stderr } = await migrate('run', '--from', 'main', '--to', 'hot');
    expect(status).toBe(1);
    expect(stderr).toContain('MIGRATION_IMPOSSIBLE');
    expect(stderr).toContain('on chain');
    expect((await migrate('status')).stdout).toBe(before);
  });

  it('lists what failed with its code, exits with 1, and goes on when it is run again', async () => {
    await generate('five');
    const started = await client.post('/v1/migrations', { from: 'hot', to: 'warm' });
    expect(started.status).toBe(201);
    const { id } = started.json as unknown as MigrationView;
    await client.post('/v1/slots/warm/lock', {});
    const { status, stdout } = await migrate('run', id);
    expect(status).toBe(1);
    expect(stdout).toMatch(/^failed: key five: SLOT_LOCKED: /m);
    expect(stdout).toContain(`to go on: keyslot migrate run ${id}`);
    await client.post('/v1/slots/warm/open', {});
    expect(steps(await migrated('run', id))).toEqual({ five: 'kept' });
    await migrated('run', id, '--confirm-destroy');
  });

  it('writes the report where it is told to, and starts nothing when it cannot', async () => {
    await generate('six');
    const report = join(dirname(home.path), 'report.json');
    const nowhere = join(dirname(home.path), 'no', 'such', 'folder', 'report.json');
    const started = (await client.post('/v1/migrations', { from: 'hot', to: 'warm' })).json;
    const { id } = started as unknown as MigrationView;
    expect(await refused('run', id, '--report', nowhere)).toBe('HOME_INVALID');
    expect((await show('six')).slot).toBe('hot');
    expect((await migrated('run', id, '--report', report)).report).toBe(report);
    expect(existsSync(report)).toBe(true);
    expect(readdirSync(dirname(report)).filter(name => name.startsWith('report.json.'))).toEqual([]);
  });

  it('is misused without a migration or a route, and with both', async () => {
    for (const args of [
      ['run'],
      ['run', '--from', 'hot'],
      ['run', 'm-1', '--from', 'hot', '--to', 'warm'],
      ['plan'],
    ]) {
      expect((await migrate(...args)).status).toBe(2);
    }
    expect(await refused('run', 'm-0000000000')).toBe('MIGRATION_UNKNOWN');
    expect(await refused('verify', '../keys')).toBe('MIGRATION_UNKNOWN');
  });

  it('shows its progress on a terminal and nowhere else', async () => {
    await generate('seven');
    const command = `'${keyslot}' migrate run --from hot --to warm --home '${home.path}'`;
    const child = spawn('script', ['-qec', command, '/dev/null'], { stdio: ['ignore', 'pipe', 'inherit'] });
    let shown = '';
    for await (const chunk of child.stdout) shown += String(chunk);
    expect(shown).toContain(`moving [${'#'.repeat(30)}] 1/1 keys`);
    expect(printed).not.toContain('[#');
  });

  it('stops between keys on Ctrl-C, and says how to go on', async () => {
    const keys = Array.from({ length: 120 }, (_, at) => `many-${String(at).padStart(3, '0')}`);
    for (const key of keys) await generate(key);
    const child = spawn(keyslot, ['migrate', 'run', '--from', 'hot', '--to', 'main', '--home', home.path], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const texts = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].on('data', chunk => {
        texts[name] += String(chunk);
      });
    }
    const closed = new Promise<number | null>(done => child.on('close', done));
    while ((await show('many-000')).slot === 'hot') await new Promise(done => setTimeout(done, 5));
    child.kill('SIGINT');
    expect(await closed).toBe(1);
    const [, id = ''] = /^to go on: keyslot migrate run (m-\w+)$/m.exec(texts.stdout) ?? [];
    expect((await show('many-119')).slot).toBe('hot');
    const { migration } = await migrated('run', id, '--confirm-destroy');
    expect(migration.counts).toMatchObject({ destroyed: 120, planned: 0 });
    expect((await show('many-119')).slot).toBe('main');
  });

  it('goes unnoticed by clients that sign meanwhile', async () => {
    const keys = [await generate('busy-a'), await generate('busy-b')];
    let going = true;
    let made = 0;
    const lane = async (of: number) => {
      for (let count = 0; going; count += 1) {
        const key = keys[(of + count) % keys.length] as KeyView;
        const message = `lane ${of} message ${count}`;
        const { status, json } = await sign(key.id, message);
        expect(status).toBe(200);
        const signature = Buffer.from(json.signatureBase64 ?? '', 'base64');
        const verifier = createVerifier(Buffer.from(key.publicKeyBase64, 'base64'));
        expect(await verifier.verify(Buffer.from(message), signature)).toBe(true);
        made += 1;
      }
    };
    const lanes = Promise.all(Array.from({ length: 6 }, (_, of) => lane(of)));
    const names = ['--key', 'busy-a', '--key', 'busy-b'];
    const { migration } = await migrated('run', '--from', 'hot', '--to', 'warm', ...names);
    await migrated('rollback', migration.id, '--confirm-destroy');
    await migrated('run', '--from', 'hot', '--to', 'main', ...names, '--confirm-destroy');
    going = false;
    await lanes;
    expect(made).toBeGreaterThan(50);
    expect((await show('busy-a')).slot).toBe('main');
  });

  it('is cut off when the custodian is killed, says how to go on, and loses no key', async () => {
    const keys: KeyView[] = [];
    for (let at = 10; at < 50; at += 1) keys.push(await generate(`cut-${at}`, 'files'));
    const custodian = await appliance.child('custodian');
    const running = migrate('run', '--from', 'files', '--to', 'main', '--json');
    while ((await show('cut-10')).slot === 'files') await new Promise(done => setTimeout(done, 5));
    process.kill(custodian, 'SIGKILL');
    const { status, json } = await running;
    expect([status, json?.error?.code]).toEqual([1, 'CUSTODIAN_UNAVAILABLE']);
    const [, id = ''] = /keyslot migrate run (m-[0-9a-f]{10})/.exec(json?.error?.detail ?? '') ?? [];
    await appliance.child('custodian', custodian);
    await eventually('both slots are open again', async () => {
      const { checks = [] } = (await client.get('/readyz')).json;
      // What was in memory is gone with the process, and those slots say that they miss their keys.
      return ['slot/files', 'slot/main'].every(slot => checks.some(({ id, ok }) => id === slot && ok));
    });
    for (const { id: key } of keys) expect((await sign(key, 'between')).status).toBe(200);
    const { migration, report } = await migrated('run', id, '--confirm-destroy');
    expect(migration.counts).toMatchObject({ destroyed: 40 });
    expect(existsSync(report ?? '')).toBe(true);
    for (const key of keys) {
      expect(await show(key.id)).toMatchObject({ slot: 'main', publicKey: key.publicKey });
      expect((await sign(key.id, 'afterwards')).status).toBe(200);
    }
    expect((await client.get('/v1/slots/files')).json).toMatchObject({ state: 'open', findings: [] });
  });

  it('has shown no PIN and no token in all this', () => {
    for (const name of ['user.pin', 'so.pin', 'developer.token'] as const) {
      expect(printed).not.toContain(home.secret(name));
    }
  });
});

describe('the migration routes', () => {
  it('refuse bodies of another shape, and destroy nothing without being told so twice', async () => {
    const post = (path: string, body: unknown) => client.post(`/v1/migrations${path}`, body);
    expectProblem(await post('', { from: 'hot' }), 400, 'BODY_INVALID');
    expectProblem(await post('/plan', { from: 'hot', to: 'warm', keys: [] }), 400, 'BODY_INVALID');
    expectProblem(await post('', { from: 'hot', to: 'warm', all: true }), 400, 'FIELD_UNKNOWN');
    expectProblem(await post('', { from: 'hot', to: 'nowhere' }), 404, 'SLOT_UNKNOWN');
    expectProblem(await post('', { from: 'hot', to: 'warm', keys: ['../x'] }), 400, 'KEY_ID_INVALID');
    expectProblem(await post('', { from: 'hot', to: 'hot' }), 409, 'MIGRATION_IMPOSSIBLE');
    expectProblem(await post('/m-0000000000/destroy-copies', {}), 400, 'BODY_INVALID');
    expectProblem(await post('/m-0000000000/run', { max: 1_000 }), 400, 'BODY_INVALID');
    expectProblem(await post('/m-0000000000/run', {}), 404, 'MIGRATION_UNKNOWN');
    expectProblem(await client.get('/v1/migrations/m-1?slot=hot'), 400, 'QUERY_INVALID');
    expectProblem(await client.get('/v1/migrations/plan'), 405, 'METHOD_NOT_ALLOWED');
  });
});

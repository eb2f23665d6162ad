import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { verifyAuditLog } from '../../src/audit/verify.ts';
import { folderFiles } from '../../src/audit/verify-files.ts';
import { createVerifier, publicKeyFromSeed } from '../../src/foundation/ed25519.ts';
import type { OperationName, Request } from '../../src/wire/custodian.ts';
import { type SoftToken, softToken } from '../engines/pkcs11/soft-token.ts';
import { rememberingChild } from '../sealing/remembered-scrypt.ts';
import { askOf, refusal, text } from './lab.ts';
import { openWorld, type World, type WorldPlace } from './migration-world.ts';

const entry = fileURLToPath(new URL('./migration-child.ts', import.meta.url));
let token: SoftToken;
let place: WorldPlace;

beforeAll(() => {
  token = softToken({ label: 'migration' });
  const folder = mkdtempSync(join(tmpdir(), 'keyslot-migration-'));
  place = { folder, module: token.module, tokenLabel: token.label, tokenPin: token.pinText };
});

afterAll(() => {
  token.remove();
  rmSync(place.folder, { recursive: true, force: true });
});

const ask = <N extends OperationName>(world: World, name: N, input: Request<N>['input']) =>
  askOf(world.custodian, 'both', name, input);
const stepOf = async (world: World, migration: string) =>
  (await ask(world, 'show-migration', { migration, limit: 1 })).output.keys[0]?.step;
const slotOf = async (world: World, key: string) => (await ask(world, 'show-key', { key })).output.slot;

/** Runs an operation in a process that is killed when it stands at the point. */
async function killAt(point: string, operation: string, migration: string): Promise<void> {
  const { args, env } = rememberingChild(place.folder);
  const child = spawn(
    process.execPath,
    [...args, entry, JSON.stringify(place), operation, migration, point],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, ...env },
    },
  );
  const ended = new Promise<NodeJS.Signals | null>(done =>
    child.on('exit', (_status, signal) => done(signal)),
  );
  let said = '';
  for await (const chunk of child.stdout) {
    said += String(chunk);
    if (said.includes('\n')) child.kill('SIGKILL');
  }
  expect([said, await ended]).toEqual([`at ${point}\n`, 'SIGKILL']);
}

const seedOf = (of: number) => new Uint8Array(32).fill(of);
let made = 0;

/** A key in the files and a migration of it to the token that has not begun to work. */
async function planned(): Promise<{ key: string; of: number; migration: string }> {
  made += 1;
  const of = made;
  const key = `key-${of}`;
  await using world = await openWorld(place);
  await askOf(world.custodian, 'both', 'import-key', { key, slot: 'files' }, { bytes: [seedOf(of)] });
  const { output } = await ask(world, 'start-migration', { from: 'files', to: 'token', keys: [key] });
  return { key, of, migration: output.id };
}

/** Whatever happened: the key signs, with the address that it always had, and no slot has an alarm. */
async function expectSound(world: World, key: string, of: number): Promise<void> {
  const message = text(`after ${key}`);
  const { bytes } = await askOf(world.custodian, 'both', 'sign-message', { key }, { bytes: [message] });
  const verifier = createVerifier(publicKeyFromSeed(seedOf(of)));
  expect(await verifier.verify(message, bytes?.[0] ?? new Uint8Array())).toBe(true);
  for (const slot of ['files', 'token']) {
    const { output } = await ask(world, 'show-slot', { slot });
    const alarms = output.findings.filter(({ problem }) => problem !== 'kept-copy');
    expect([output.state, alarms]).toEqual(['open', []]);
  }
}

/** The key files of the source and the objects of the token, as the slots list them to a plan. */
const copyIn = async (world: World, slot: string, key: string) =>
  (await ask(world, 'show-slot', { slot })).output.findings.some(finding => finding.key === key);

describe('a custodian that is killed while it moves a key', () => {
  it.each([
    ['export', 'planned', 'files'],
    ['import', 'planned', 'files'],
    ['write imported', 'planned', 'files'],
    ['sign in token', 'imported', 'files'],
    ['write proven', 'imported', 'files'],
    ['write registry', 'proven', 'files'],
    ['write switched', 'proven', 'files'],
    ['commit', 'proven', 'files'],
    ['write kept', 'switched', 'token'],
  ])('at %s, finds the key sound afterwards, and goes on to the end', async (point, step, slot) => {
    const { key, of, migration } = await planned();
    await killAt(point, 'run-migration', migration);
    {
      await using world = await openWorld(place);
      expect([await stepOf(world, migration), await slotOf(world, key)]).toEqual([step, slot]);
      await expectSound(world, key, of);
      const { output } = await ask(world, 'run-migration', { migration, max: 10 });
      expect(output).toMatchObject({
        migration: { state: 'finished', failed: 0 },
        keys: [{ key, step: 'kept', custodyBefore: 'encrypted-file', custodyAfter: 'hsm-native' }],
      });
      await expectSound(world, key, of);
    }
    await using world = await openWorld(place);
    const shown = await ask(world, 'show-key', { key });
    expect(shown.output).toMatchObject({ slot: 'token', custody: 'hsm-native', exportable: false });
    expect(shown.output.attributes).toMatchObject({ sensitive: true, extractable: false });
    expect(await copyIn(world, 'files', key)).toBe(true);
    await expectSound(world, key, of);
  });
});

describe('a custodian that is killed while it destroys the copy at the source', () => {
  it.each(['sign in token', 'destroy', 'write destroyed'])(
    'at %s, does it when it is asked again',
    async point => {
      const { key, of, migration } = await planned();
      await openAnd(world => ask(world, 'run-migration', { migration, max: 10 }));
      await killAt(point, 'destroy-copies', migration);
      await using world = await openWorld(place);
      expect(await stepOf(world, migration)).toBe('kept');
      await expectSound(world, key, of);
      const { output } = await ask(world, 'destroy-copies', { migration, max: 10 });
      expect(output.keys).toMatchObject([{ key, step: 'destroyed' }]);
      expect(readdirSync(join(place.folder, 'keys')).filter(name => name.startsWith(`${key}.`))).toEqual([]);
      await expectSound(world, key, of);
    },
  );
});

describe('a custodian that is killed while it rolls back', () => {
  it.each(['sign in files', 'write registry', 'write rolled-back', 'commit'])(
    'at %s, has the key still in the target, and rolls back when it is asked again',
    async point => {
      const { key, of, migration } = await planned();
      await openAnd(world => ask(world, 'run-migration', { migration, max: 10 }));
      await killAt(point, 'rollback-migration', migration);
      await using world = await openWorld(place);
      expect([await stepOf(world, migration), await slotOf(world, key)]).toEqual(['kept', 'token']);
      await expectSound(world, key, of);
      const { output } = await ask(world, 'rollback-migration', { migration, max: 10 });
      expect(output.keys).toMatchObject([{ key, step: 'rolled-back' }]);
      expect(await slotOf(world, key)).toBe('files');
      await expectSound(world, key, of);
      expect(await copyIn(world, 'token', key)).toBe(true);
      await ask(world, 'destroy-copies', { migration, max: 10 });
      expect([await stepOf(world, migration), await copyIn(world, 'token', key)]).toEqual(['cleared', false]);
      await expectSound(world, key, of);
    },
  );
});

describe('a key of a token that gives none out', () => {
  it('is refused with what to do instead, before anything is written', async () => {
    await using world = await openWorld(place);
    await ask(world, 'generate-key', { key: 'native', slot: 'token' });
    const route = { from: 'token', to: 'files', keys: ['native'] };
    const { output } = await ask(world, 'plan-migration', route);
    expect(output).toMatchObject({ possible: 0, obstacle: { code: 'POWER_MISSING' } });
    expect(output.keys[0]?.reason?.detail).toContain('on chain');
    const before = world.store.all('SELECT count(*) AS migrations FROM migrations');
    expect(await refusal(ask(world, 'start-migration', route))).toBe('MIGRATION_IMPOSSIBLE');
    expect(world.store.all('SELECT count(*) AS migrations FROM migrations')).toEqual(before);
  });
});

describe('what is left on the disk by all this', () => {
  it('holds no seed in the clear', () => {
    for (const name of readdirSync(place.folder, { recursive: true, encoding: 'utf8' })) {
      const path = join(place.folder, name);
      if (!statSync(path).isFile()) continue;
      const content = readFileSync(path);
      for (let of = 1; of <= made; of += 1) {
        const seed = Buffer.from(seedOf(of));
        const forms = [seed, seed.toString('hex'), seed.toString('base64')];
        expect(forms.filter(form => content.includes(form))).toEqual([]);
      }
    }
    expect(made).toBe(16);
  });

  it('is an audit log in order, in which the next start settled every intent that was cut off', async () => {
    const folder = join(place.folder, 'audit');
    const { ok, finding, warnings, checked } = await verifyAuditLog({
      files: folderFiles(folder),
      publicKeys: [],
    });
    expect({ ok, finding }).toEqual({ ok: true, finding: undefined });
    expect(checked.results).toBe(checked.intents);
    expect(warnings.join(' ')).not.toContain('intent');
    const lines = readdirSync(folder)
      .filter(name => name.startsWith('segment-'))
      .flatMap(name => readFileSync(join(folder, name), 'utf8').trimEnd().split('\n'));
    const records = lines.map(line => JSON.parse(line) as { operation: string; outcome?: string });
    const cutOff = records.filter(({ outcome }) => outcome === 'unknown');
    expect(cutOff.map(({ operation }) => operation).toSorted()).toEqual([
      ...Array(3).fill('destroy-copies'),
      ...Array(4).fill('rollback-migration'),
      ...Array(9).fill('run-migration'),
    ]);
  });
});

async function openAnd(work: (world: World) => Promise<unknown>): Promise<void> {
  await using world = await openWorld(place);
  await work(world);
}

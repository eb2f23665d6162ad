import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createVerifier, publicKeyFromSeed } from '../../src/foundation/ed25519.ts';
import type { OperationName, Request } from '../../src/wire/custodian.ts';
import { KmsServer } from '../aws/kms-server.ts';
import { type SoftToken, softToken } from '../engines/pkcs11/soft-token.ts';
import { rememberingChild } from '../sealing/remembered-scrypt.ts';
import {
  type CustodyName,
  custodies,
  custodyNames,
  nativeToken,
  type OpenCustodies,
  openEveryCustody,
  type Place,
  wrappedToken,
} from './every-custody.ts';
import { askOf, refusal, text } from './lab.ts';

const environment = { ...process.env };
let kms: KmsServer;
let token: SoftToken;
let place: Place;

beforeAll(async () => {
  kms = await KmsServer.start();
  Object.assign(process.env, kms.environment);
  token = softToken({ label: nativeToken });
  token.addToken(wrappedToken);
  place = {
    folder: mkdtempSync(join(tmpdir(), 'keyslot-pairs-')),
    module: token.module,
    tokenPin: token.pinText,
    kmsKey: kms.createKey('SYMMETRIC_DEFAULT', 'ENCRYPT_DECRYPT'),
  };
});

afterAll(async () => {
  token.remove();
  rmSync(place.folder, { recursive: true, force: true });
  await kms[Symbol.asyncDispose]();
  process.env = environment;
});

const pairs = custodyNames.flatMap(from =>
  custodyNames.filter(to => to !== from).map(to => [from, to] as const),
);
const possible = pairs.filter(([from, to]) => custodies[from].gives && custodies[to].takes);
const impossible = pairs.filter(pair => !possible.includes(pair));
const killed = possible.filter(([from, to]) => custodies[from].killed && custodies[to].killed);

const ask = <N extends OperationName>(world: OpenCustodies, name: N, input: Request<N>['input']) =>
  askOf(world.custodian, 'both', name, input);

let made = 0;

interface Moving {
  readonly key: string;
  readonly seed: Uint8Array;
  readonly from: CustodyName;
  readonly to: CustodyName;
  readonly migration: string;
}

/** A key of its own in the source, and a migration of it that has not begun to work. */
async function planned(world: OpenCustodies, from: CustodyName, to: CustodyName): Promise<Moving> {
  made += 1;
  const key = `key-${made}`;
  const seed = Buffer.alloc(32);
  seed.writeUInt32BE(made);
  await askOf(world.custodian, 'both', 'import-key', { key, slot: from }, { bytes: [Uint8Array.from(seed)] });
  const { output } = await ask(world, 'start-migration', { from, to, keys: [key] });
  return { key, seed, from, to, migration: output.id };
}

async function expectSigns(world: OpenCustodies, { key, seed }: Moving): Promise<void> {
  const message = text(`signed by ${key}`);
  const { bytes } = await askOf(world.custodian, 'both', 'sign-message', { key }, { bytes: [message] });
  const verifier = createVerifier(publicKeyFromSeed(seed));
  expect(await verifier.verify(message, bytes?.[0] ?? new Uint8Array())).toBe(true);
}

async function expectMoved(world: OpenCustodies, moving: Moving): Promise<void> {
  const { output } = await ask(world, 'show-key', { key: moving.key });
  expect(output).toMatchObject({ slot: moving.to, custody: custodies[moving.to].label });
  await expectSigns(world, moving);
}

describe('a custodian with a slot of every custody', () => {
  let world: OpenCustodies;
  beforeAll(async () => {
    world = await openEveryCustody(place);
  });
  afterAll(() => world[Symbol.asyncDispose]());

  it.each(possible)(
    'moves a key from %s to %s, which keeps its id and address and goes on signing',
    async (from, to) => {
      const moving = await planned(world, from, to);
      await expectSigns(world, moving);
      const { output } = await ask(world, 'run-migration', { migration: moving.migration, max: 1 });
      expect(output).toMatchObject({
        migration: { state: 'finished', failed: 0 },
        keys: [{ step: 'kept', custodyBefore: custodies[from].label, custodyAfter: custodies[to].label }],
      });
      await expectMoved(world, moving);
      const { output: proof } = await ask(world, 'verify-migration', { migration: moving.migration, max: 1 });
      expect(proof.migration).toMatchObject({ failed: 0 });
      const { output: end } = await ask(world, 'destroy-copies', { migration: moving.migration, max: 1 });
      expect(end.keys).toMatchObject([{ step: 'destroyed' }]);
      await expectMoved(world, moving);
    },
  );

  it.each(impossible)('refuses to move keys from %s to %s before it begins', async (from, to) => {
    made += 1;
    const key = `fixed-${made}`;
    await ask(world, 'generate-key', { key, slot: from });
    const route = { from, to, keys: [key] };
    expect((await ask(world, 'plan-migration', route)).output).toMatchObject({ possible: 0 });
    expect(await refusal(ask(world, 'start-migration', route))).toBe('MIGRATION_IMPOSSIBLE');
    expect((await ask(world, 'show-key', { key })).output.slot).toBe(from);
  });
});

describe(`a custodian that is killed while it moves a key between each of ${killed.length} pairs of custodies`, () => {
  it.each([
    'before the source exports',
    'before the target imports',
    'after the target imported',
    'before the target signs',
  ])(
    '%s, has every key sound afterwards and finishes every migration',
    async point => {
      const moving = await withWorld(async world => {
        const all: Moving[] = [];
        for (const [from, to] of killed) all.push(await planned(world, from, to));
        return all;
      });
      await killedAt(point, moving);
      await withWorld(async world => {
        for (const each of moving) {
          expect((await ask(world, 'show-key', { key: each.key })).output.slot).toBe(each.from);
          await expectSigns(world, each);
          const { output } = await ask(world, 'run-migration', { migration: each.migration, max: 1 });
          expect(output.migration).toMatchObject({ state: 'finished', failed: 0 });
          await expectMoved(world, each);
        }
      });
    },
    180_000,
  );
});

async function withWorld<T>(work: (world: OpenCustodies) => Promise<T>): Promise<T> {
  await using world = await openEveryCustody(place);
  return await work(world);
}

const entry = fileURLToPath(new URL('./every-custody-child.ts', import.meta.url));

/** Runs all migrations in one process until each stands at the point, and kills it there. */
async function killedAt(point: string, moving: readonly Moving[]): Promise<void> {
  const migrations = moving.map(each => each.migration).join(',');
  const { args, env } = rememberingChild(place.folder);
  const child = spawn(process.execPath, [...args, entry, JSON.stringify(place), migrations, point], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...env },
  });
  const ended = new Promise<NodeJS.Signals | null>(done =>
    child.on('exit', (_status, signal) => done(signal)),
  );
  let said = '';
  for await (const chunk of child.stdout) {
    said += String(chunk);
    if (said.includes('\n')) child.kill('SIGKILL');
  }
  expect([said, await ended]).toEqual(['all stand\n', 'SIGKILL']);
}

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { afterAll, afterEach, beforeAll, expect, it, vi } from 'vitest';
import { addStatus, type Status } from '../../src/cli/commands/status.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import { House } from '../gateway/house.ts';

/** `keyslot status` in this process, against a gateway over HTTPS. */

let house: House;
const homes = { operator: '', signer: '', nobody: '' };

beforeAll(async () => {
  const people = { operator: ['operator', 'auditor'], signer: ['signer'], nobody: ['metrics'] } as const;
  house = await House.open(people, { policies: { documents: [everythingAllowed('base', 'all')] } });
  for (const name of ['operator', 'signer', 'nobody'] as const) homes[name] = house.homeOf(name);
  const operator = house.as('operator');
  for (const id of ['hot', 'cold']) await operator.post('/v1/keys', { id, slot: 'main' });
  await operator.post('/v1/freezes', { scope: 'key', target: 'cold', reason: 'lost' });
});

afterAll(async () => {
  await house[Symbol.asyncDispose]();
});

afterEach(() => {
  process.exitCode = undefined;
});

function announce(home: string, url = house.url, opsUrl = house.opsUrl): void {
  mkdirSync(join(home, 'state'), { recursive: true });
  writeFileSync(join(home, 'state', 'running.json'), JSON.stringify({ url, opsUrl, pid: process.pid }));
}

async function printed(home: string, args: readonly string[] = []): Promise<string> {
  const lines: string[] = [];
  const log = vi.spyOn(console, 'log').mockImplementation(line => void lines.push(String(line)));
  const program = new Command('keyslot').version('1.2.3').exitOverride();
  addStatus(program, command => command.option('--home <dir>', '', home).option('--json').exitOverride());
  try {
    await program.parseAsync(['status', ...args], { from: 'user' });
  } finally {
    log.mockRestore();
  }
  return lines.join('\n');
}

const status = async (home: string): Promise<Status> => JSON.parse(await printed(home, ['--json'])) as Status;

it('shows slots, keys, audit log, freezes and readiness to whoever may see them', async () => {
  announce(homes.operator);
  expect(await status(homes.operator)).toMatchObject({
    running: true,
    ready: true,
    version: '1.2.3',
    profile: 'development',
    url: house.url,
    as: 'operator',
    reasons: [],
    slots: [{ id: 'main', state: 'open', custody: 'memory', ok: true }],
    groups: [],
    keys: { all: 2, custody: { memory: 2 } },
    audit: { state: 'ok' },
    freezes: [{ id: 'key/cold', reason: 'lost' }],
    hidden: [],
  });
  expect(process.exitCode).toBeUndefined();
  const text = await printed(homes.operator);
  expect(text).toMatch(/^slot main +open +memory, no canary$/m);
  expect(text).toMatch(/^FROZEN +key\/cold +since .* by operator, lost$/m);
  expect(text).not.toContain('\x1b'); // this is no terminal
});

it('says what the caller may not see, and shows the rest', async () => {
  announce(homes.signer);
  const seen = await status(homes.signer);
  expect(seen.hidden).toEqual(['audit (PERMISSION_DENIED)']);
  expect(seen.keys?.all).toBe(2);
  announce(homes.nobody);
  const little = await status(homes.nobody);
  expect(little).toMatchObject({ running: true, ready: true, as: 'nobody' });
  expect(little.slots).toBeUndefined();
  expect(await printed(homes.nobody)).toMatch(/^hidden +partly .*slots \(PERMISSION_DENIED\)/m);
});

it('is not ready, with the reason, while a slot is locked', async () => {
  announce(homes.operator);
  const operator = house.as('operator');
  await operator.post('/v1/slots/main/lock', {});
  const locked = await status(homes.operator);
  expect(locked).toMatchObject({
    ready: false,
    reasons: ['slot/main is locked'],
    slots: [{ state: 'locked', ok: false }],
  });
  expect(process.exitCode).toBe(1);
});

it('says that nothing runs, and that what was announced does not answer', async () => {
  const quiet = house.homeOf('operator');
  announce(quiet, 'https://127.0.0.1:1', 'https://127.0.0.1:1');
  const unreachable = await status(quiet);
  expect(unreachable).toMatchObject({ running: false, last: { slots: ['main'] } });
  expect(unreachable.reasons?.join()).toContain(String(process.pid));
  expect(process.exitCode).toBe(1);
  expect(await printed(quiet)).toMatch(/^appliance +not running/m);
});

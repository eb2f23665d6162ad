import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateX25519Identity, identityToRecipient } from 'age-encryption';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { verifyAuditLog } from '../../src/audit/verify.ts';
import { folderFiles } from '../../src/audit/verify-files.ts';
import {
  type Appliance,
  eventually,
  type Home,
  keyslot,
  prepareHome,
  type Ran,
  run,
  serve,
} from './appliance.ts';

/** A backup of an appliance that is signing, and what becomes of it: by the commands themselves. */

const folder = mkdtempSync(join(tmpdir(), 'keyslot-backup-'));
const archive = join(folder, 'backup.age');
const identity = join(folder, 'identity');
let home: Home;
let recipient: string;
let backedUp: Ran;

beforeAll(async () => {
  const secret = await generateX25519Identity();
  recipient = await identityToRecipient(secret);
  writeFileSync(identity, `# of the auditor\n${secret}\n`, { mode: 0o600 });
  home = await prepareHome({ token: false });
  home.configure(config => {
    config.slots = [
      { id: 'files', engine: 'encrypted-file', pin: { file: 'secrets/user.pin' }, canary: { every_s: 60 } },
      { id: 'vault', engine: 'encrypted-file', pin: { attended: true } },
    ];
  });
  await using appliance = await serve(home);
  const client = appliance.client();
  expect((await client.post('/v1/keys', { id: 'treasury', slot: 'files' })).status).toBe(201);
  await eventually('a canary', () => readdirSync(join(home.path, 'keys', 'files')).length > 1);
  let signing = true;
  const signed = (async () => {
    let count = 0;
    for (; signing; count += 1) await sign(appliance);
    return count;
  })();
  backedUp = await run(keyslot, [
    'backup',
    '--home',
    home.path,
    '--to',
    recipient,
    '--output',
    archive,
    '--json',
  ]);
  signing = false;
  expect(await signed).toBeGreaterThan(0);
}, 60_000);

afterAll(() => {
  home?.remove();
  rmSync(folder, { recursive: true, force: true });
});

async function sign(appliance: Appliance): Promise<void> {
  const answer = await appliance.client().post('/v1/keys/treasury/sign-message', {
    message: Buffer.from('while it is backed up').toString('base64'),
  });
  expect(answer.status).toBe(200);
}

const restore = (...flags: readonly string[]): Promise<Ran> =>
  run(keyslot, ['restore', archive, '--identity', identity, '--json', ...flags]);

describe('a backup of an appliance that signs meanwhile', () => {
  it('is written, says what is in it, and shows none of it', () => {
    expect(backedUp.status, backedUp.stdout).toBe(0);
    const { manifest } = JSON.parse(backedUp.stdout);
    expect(manifest.keys).toMatchObject([{ id: 'treasury', slot: 'files', custody: 'encrypted-file' }]);
    expect(manifest.separately.map((each: { setting: string }) => each.setting)).toContain('slots.files.pin');
    expect(readdirSync(folder).sort()).toEqual(['backup.age', 'identity']);
    expect(readFileSync(archive).includes('treasury')).toBe(false);
    expect(readdirSync(join(home.path, 'state')).filter(name => name.startsWith('.backup'))).toEqual([]);
  });

  it('passes a drill where its PINs are: it starts, its log is in order, its keys are there', async () => {
    const scratch = join(folder, 'scratch');
    mkdirSync(scratch);
    const drilled = await restore('--drill', '--secrets', home.path, '--scratch', scratch, '--slot', 'files');
    expect(drilled.status, drilled.stdout + drilled.stderr).toBe(0);
    expect(JSON.parse(drilled.stdout)).toMatchObject({
      passed: true,
      audit: { ok: true },
      start: { ok: true },
      slots: [
        { slot: 'files', outcome: 'opened', keys: { registered: 1, proven: 1 }, canary: 'signed' },
        { slot: 'vault', outcome: 'pin-missing' },
      ],
    });
    expect(readdirSync(scratch)).toEqual([]);
  });

  it('becomes a state folder that starts with its secrets, and signs with the same key', async () => {
    const into = join(folder, 'restored');
    const ran = await restore('--into', into);
    expect(ran.status, ran.stdout).toBe(0);
    expect(JSON.parse(ran.stdout).sha256).toBe(JSON.parse(backedUp.stdout).sha256);
    const verdict = await verifyAuditLog({
      files: folderFiles(join(into, 'state', 'audit')),
      publicKeys: [],
    });
    expect(verdict).toMatchObject({ ok: true });
    for (const name of [
      'secrets/user.pin',
      'secrets/developer.token',
      'tls/server.key',
      'tls/developer.key',
    ]) {
      expect(existsSync(join(into, name)), name).toBe(false);
      mkdirSync(join(into, 'secrets'), { recursive: true, mode: 0o700 });
      writeFileSync(join(into, name), readFileSync(join(home.path, name)), { mode: 0o600 });
    }
    await using appliance = await serve({ path: into, log: home.log });
    await sign(appliance);
  });
});

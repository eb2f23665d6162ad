import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { forge, lifeOf, notesOf, signerOf } from '../audit/verify-forge.ts';
import { keyslot, run } from './appliance.ts';

/** `keyslot audit` where there is no appliance: only files and public keys. */

const key = signerOf('audit');
const publicKey = encodeBase58(key.publicKey);
const content = lifeOf(signerOf('wallet'), { boots: 3, length: 50, seed: 9 });
const files = forge({
  node: 'keyslot',
  records: 16,
  content,
  sizes: [16, 30, 32, content.length],
  signer: key,
});

let root: string;
let folder: string;
let witness: string;

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'keyslot-audit-command-'));
  folder = mkdtempSync(join(root, 'log-'));
  witness = join(root, 'witness.jsonl');
  for (const [name, bytes] of files) writeFileSync(join(folder, name), bytes);
  writeFileSync(
    join(folder, 'audit-key.json'),
    JSON.stringify([{ node: 'keyslot', publicKey, since: 'now' }]),
  );
  writeFileSync(
    witness,
    notesOf(files)
      .map(note => `${JSON.stringify({ note })}\n`)
      .join(''),
  );
});

afterAll(() => rmSync(root, { recursive: true, force: true }));

const audit = (...args: string[]) => run(keyslot, ['audit', ...args]);

describe('keyslot audit verify', () => {
  it('exits with 0 and says what was checked', async () => {
    const ran = await audit('verify', '--folder', folder, '--key', publicKey, '--witness', witness);
    expect(ran.status).toBe(0);
    expect(ran.stdout).toMatch(/^records +\d+ \(0 to \d+, in \d segments\)$/m);
    expect(ran.stdout).toMatch(/^tamper evidence +witnessed$/m);
    expect(ran.stdout).toMatch(/^in order$/m);
    expect(ran.stderr).toBe('');
  });

  it('exits with 1 and names the record and the class', async () => {
    const name = 'segment-000000000016.jsonl';
    const before = readFileSync(join(folder, name), 'utf8');
    writeFileSync(join(folder, name), before.replace('"mono_ms":', '"mono_ms":1'));
    const ran = await audit('verify', '--folder', folder, '--trust-folder-key', '--json');
    writeFileSync(join(folder, name), before);
    expect(ran.status).toBe(1);
    const { ok, finding } = JSON.parse(ran.stdout);
    expect({ ok, ...finding }).toMatchObject({ ok: false, class: 'edited', file: name, line: 2, seq: 16 });
  });

  it('says without a key that nothing signed was used, and exits with 2 when it is misused', async () => {
    const [bare, none, bad, missing] = await Promise.all([
      audit('verify', '--folder', folder),
      audit('verify'),
      audit('verify', '--folder', folder, '--key', 'l0l'),
      audit('verify', '--folder', folder, '--witness', join(root, 'none')),
    ]);
    expect(bare?.status).toBe(0);
    expect(bare?.stdout).toMatch(/^warning: no audit key was given/m);
    expect([none?.status, bad?.status, missing?.status]).toEqual([2, 2, 2]);
  });
});

it('keyslot audit export writes a file that verifies by itself', async () => {
  const output = join(root, 'part.keyslot-audit');
  const made = await audit('export', '--folder', folder, '--from', '5', '--to', '20', '--output', output);
  expect(made.status).toBe(0);
  const ran = await audit('verify', '--file', output, '--key', publicKey, '--json');
  expect(ran.status).toBe(0);
  expect(JSON.parse(ran.stdout)).toMatchObject({ ok: true, checked: { records: 15, proven: 15, proofs: 1 } });
  expect((await audit('export', '--folder', folder, '--output', output)).status).toBe(2);
  writeFileSync(output, readFileSync(output, 'utf8').replace('"mono_ms":', '"mono_ms":1'));
  expect((await audit('verify', '--file', output, '--key', publicKey)).status).toBe(1);
});

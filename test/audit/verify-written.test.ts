import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { CheckpointSigner } from '../../src/audit/audit-log.ts';
import { openFolderSource } from '../../src/audit/inspect.ts';
import { type ExportChoice, exportLines } from '../../src/audit/inspect-export.ts';
import { openAuditLog } from '../../src/audit/open.ts';
import { verifyAuditLog } from '../../src/audit/verify.ts';
import { verifyAuditExport } from '../../src/audit/verify-export.ts';
import { folderFiles, memoryFiles } from '../../src/audit/verify-files.ts';
import { signMessage } from '../../src/foundation/ed25519.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { lifeOf, signerOf } from './verify-forge.ts';

/** What the real writer writes, read by the verifier. */

const key = signerOf('audit');
const publicKeys = [key.publicKey];
const signer: CheckpointSigner = { publicKey: key.publicKey, sign: note => signMessage(key.key, note) };

let root: string;
let folder: string;
let witness: string;

const opened = () =>
  openAuditLog({
    folder,
    node: 'keyslot',
    segment_records: 16,
    checkpoint: { every_ms: 60_000, records: 20 },
    signer: () => Promise.resolve(signer),
    witnesses: [{ file: witness }],
    log: silentLog,
    detail: { version: '0.1.0' },
  });

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'keyslot-verify-'));
  folder = join(root, 'audit');
  witness = join(root, 'witness.jsonl');
  for (let boot = 0; boot < 4; boot += 1) {
    await using log = await opened();
    const { size } = log.status();
    // The content begins with a boot record, which the log writes itself, so that its places are moved.
    const content = lifeOf(signerOf('wallet'), { boots: 1, length: 64, seed: boot }).slice(1);
    for (const { intent, type, v, node, boot: of, seq, utc, mono_ms, prev, ...entry } of content) {
      await log.append({ ...entry, type, ...(intent === undefined ? {} : { intent: intent - 1 + size }) });
    }
    await log.append({ type: 'intent', key: 'k', kind: 'bytes' });
  }
});

afterAll(() => rmSync(root, { recursive: true, force: true }));

const witnessed = (): string[] =>
  readFileSync(witness, 'utf8')
    .split('\n')
    .slice(0, -1)
    .map(line => (JSON.parse(line) as { note: string }).note);

const verify = () => verifyAuditLog({ files: folderFiles(folder), publicKeys, witnessed: witnessed() });

it('a log over several boots is in order up to its end, which the witness has seen', async () => {
  const verdict = await verify();
  expect(verdict.finding).toBeUndefined();
  expect(verdict).toMatchObject({ ok: true, tamperEvidence: 'witnessed', checked: { boots: 4, first: 0 } });
  const { size, signed, witnessed: seen, signatures, segments } = verdict.checked;
  expect(size).toBeGreaterThan(200);
  expect([signed, seen]).toEqual([size, size]);
  expect(signatures).toBeGreaterThan(5);
  expect(segments).toBe(Math.ceil(size / 16));
});

it('every byte that is changed in a file of records or checkpoints is found', async () => {
  const files = new Map(readdirSync(folder).map(name => [name, readFileSync(join(folder, name))] as const));
  for (const [name, bytes] of files) {
    if (!/^(segment|checkpoints)-/.test(name)) continue;
    const other = Buffer.from(bytes);
    const at = Math.floor(bytes.length / 2);
    other[at] = (other[at] ?? 0) ^ 0x02;
    const changed = memoryFiles(new Map([...files, [name, other]]));
    const { ok } = await verifyAuditLog({ files: changed, publicKeys, witnessed: witnessed() });
    expect(ok, `${name} at ${at}`).toBe(false);
  }
});

it('an export proves its records by itself, whole, in part, and for one key', async () => {
  const source = await openFolderSource(folder);
  const { size } = await source.size();
  const choices: ExportChoice[] = [{}, { from: 30, to: 77 }, { key: 'k', to: 40 }, { since: new Date(0) }];
  for (const choice of choices) {
    const lines = await Array.fromAsync(exportLines(source, choice));
    const verdictOf = (texts: readonly string[]) =>
      verifyAuditExport(
        memoryFiles(new Map([['export', Buffer.from(texts.map(text => `${text}\n`).join(''))]])),
        'export',
        publicKeys,
      );
    const verdict = await verdictOf(lines);
    expect(verdict.finding).toBeUndefined();
    const { records, proven } = verdict.checked;
    expect(records).toBe(proven);
    if (choice.key === undefined) expect(records).toBe((choice.to ?? size) - (choice.from ?? 0));
    else expect(records).toBeGreaterThan(5);
    const edited = lines.with(4, (lines[4] ?? '').replace(/"(utc|size)":"?\d/, '"$1":"9'));
    expect((await verdictOf(edited)).ok).toBe(false);
    expect((await verdictOf(lines.slice(0, -1))).finding?.class).toBe('truncated');
    // Of neighbours the chain proves the one before: only there is a gap a gap.
    if (choice.key === undefined) expect((await verdictOf(lines.toSpliced(2, 1))).ok).toBe(false);
  }
});

it('a log that was pruned is in order from its oldest record on', async () => {
  {
    await using log = await opened();
    await log.checkpoint();
    const { first } = await log.prune(log.status().witnessed - 40);
    expect(first).toBeGreaterThan(100);
  }
  const verdict = await verify();
  expect(verdict.finding).toBeUndefined();
  expect(verdict.checked.first).toBeGreaterThan(100);
  expect(verdict.checked.witnessed).toBe(verdict.checked.size);
});

it('a line that a crash left unfinished is no tampering', async () => {
  const last = readdirSync(folder)
    .filter(name => name.startsWith('segment-'))
    .at(-1);
  const path = join(folder, last ?? '');
  const before = readFileSync(path);
  appendFileSync(path, '{"v":1,"node":"keys');
  const verdict = await verify();
  writeFileSync(path, before);
  expect(verdict.ok).toBe(true);
  expect(verdict.warnings).toHaveLength(1);
});

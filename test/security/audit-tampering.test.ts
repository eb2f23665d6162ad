import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { verifyAuditLog } from '../../src/audit/verify.ts';
import { folderFiles, memoryFiles } from '../../src/audit/verify-files.ts';
import type { AuditVerdict } from '../../src/audit/verify-findings.ts';
import { SignedLog } from './signed-log.ts';

/** A log that a custodian wrote for real signatures, under an audit key of its own slot, as an auditor checks it. */

const signatures = 1_000;

let log: SignedLog;
let files: ReadonlyMap<string, Buffer>;

beforeAll(async () => {
  log = await SignedLog.write(signatures);
  const names = readdirSync(log.folder).filter(name => /^(segment|checkpoints)-/.test(name));
  files = new Map(names.map(name => [name, readFileSync(join(log.folder, name))]));
});

afterAll(() => log[Symbol.asyncDispose]());

const verify = (changed: ReadonlyMap<string, Buffer>): Promise<AuditVerdict> =>
  verifyAuditLog({ files: memoryFiles(changed), publicKeys: [log.publicKey], witnessed: log.witnessed });

it(`a log of ${signatures} signatures is in order, from the files and the public key alone`, async () => {
  const { ok, finding, warnings, tamperEvidence, checked } = await verifyAuditLog({
    files: folderFiles(log.folder),
    publicKeys: [log.publicKey],
    witnessed: log.witnessed,
  });
  expect({ ok, finding, warnings, tamperEvidence }).toEqual({
    ok: true,
    finding: undefined,
    warnings: [],
    tamperEvidence: 'witnessed',
  });
  expect(checked.signatures).toBe(signatures);
  expect(checked.witnessed).toBe(checked.size);
});

it('and is not with any byte changed, wherever in whichever file', async () => {
  const changes = 24;
  for (let time = 0; time < changes; time += 1) {
    const entries = [...files];
    const [name, bytes] = entries[time % entries.length] ?? ['', Buffer.alloc(1)];
    const at = Math.floor((bytes.length * (time + 0.5)) / changes);
    const other = Buffer.from(bytes);
    other[at] = (other[at] ?? 0) ^ (1 << (time % 7));
    const { ok } = await verify(new Map([...files, [name, other]]));
    expect(ok, `${name} at ${at}`).toBe(false);
  }
});

it('and is not when its last signature is cut off together with the checkpoints over it', async () => {
  const [name, bytes] = [...files].filter(([each]) => each.startsWith('segment-')).at(-1) ?? [
    '',
    Buffer.alloc(0),
  ];
  const cut = bytes.subarray(0, bytes.lastIndexOf('\n', bytes.length - 2) + 1);
  const newest = [...files.keys()].filter(each => each.startsWith('checkpoints-')).at(-1);
  const older = [...files].filter(([each]) => each !== newest);
  const { ok, finding } = await verify(new Map([...older, [name, cut]]));
  expect({ ok, class: finding?.class }).toEqual({ ok: false, class: 'rolled-back' });
});

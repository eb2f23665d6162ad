import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { verifyAuditLog } from '../../src/audit/verify.ts';
import { folderFiles } from '../../src/audit/verify-files.ts';
import { slotId } from '../../src/custody/ids.ts';
import { decodeBase58 } from '../../src/foundation/base58.ts';
import { Device, pinText } from './device.ts';
import { Lab, refusal, text } from './lab.ts';

const key = { slot: slotId('audit'), id: 'audit' };

let main: Device;
let audit: Device;
let lab: Lab;
beforeEach(async () => {
  main = await Device.make('main');
  audit = await Device.make('audit');
  lab = await Lab.with(
    { audit: { key } },
    { slot: main.slot, source: () => pinText },
    { slot: audit.slot, source: () => pinText },
  );
  await lab.custodian.openUnattended();
});
afterEach(async () => {
  await lab[Symbol.asyncDispose]();
  await Promise.all([main, audit].map(device => device[Symbol.asyncDispose]()));
});

const status = async () => (await lab.ask('auditor', 'audit-status', {})).output;

it('is made when its slot opens for the first time, and signs checkpoints', async () => {
  await lab.custodian.audit.checkpoint();
  const { publicKey, tamperEvidence } = await status();
  expect(tamperEvidence).toBe('local');
  const { output } = await lab.ask('auditor', 'show-key', { key: 'audit' });
  expect(output).toMatchObject({ slot: 'audit', publicKey });
  await lab.restart();
  await lab.custodian.openUnattended();
  await lab.custodian.audit.checkpoint();
  expect((await status()).publicKey).toBe(publicKey);
});

it('signs the last checkpoint before its slot is locked at the end', async () => {
  await lab.custodian.audit.checkpoint();
  const publicKey = decodeBase58((await status()).publicKey ?? '') ?? new Uint8Array();
  await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
  const { size } = await status();
  await lab.custodian[Symbol.asyncDispose]();
  const verdict = await verifyAuditLog({ files: folderFiles(lab.auditFolder), publicKeys: [publicKey] });
  expect(verdict).toMatchObject({ ok: true, warnings: [] });
  const checkpoints = readFileSync(join(lab.auditFolder, 'checkpoints-000000000000.jsonl'), 'utf8');
  expect(checkpoints).toContain(`\\n${size}\\n`);
});

it('waits for its slot: checkpoints are made up for when it opens, and signing goes on meanwhile', async () => {
  await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
  await lab.custodian.audit.checkpoint();
  await lab.ask('operator', 'lock-slot', { slot: 'audit' });
  const before = await status();
  const sign = () => refusal(lab.ask('signer', 'sign-message', { key: 'wallet' }, { bytes: [text('hi')] }));
  expect(await sign()).toBe('none');
  expect(await refusal(lab.custodian.audit.checkpoint())).toBe('SLOT_LOCKED');
  expect((await status()).checkpointed).toBe(before.checkpointed);
  await lab.ask('operator', 'open-slot', { slot: 'audit' });
  await lab.custodian.audit.checkpoint();
  const after = await status();
  expect(after.checkpointed).toBe(after.size);
});

it('serves nobody: its slot takes no other key, and it signs for no caller', async () => {
  await lab.custodian.audit.checkpoint();
  const generate = lab.ask('operator', 'generate-key', { key: 'mine', slot: 'audit' });
  expect(await refusal(generate)).toBe('PERMISSION_DENIED');
  const sign = lab.ask('signer', 'sign-message', { key: 'audit' }, { bytes: [text('a checkpoint')] });
  expect(await refusal(sign)).toBe('PERMISSION_DENIED');
  const tag = lab.ask('admin', 'tag-key', { key: 'audit', tags: ['hot'] });
  expect(await refusal(tag)).toBe('PERMISSION_DENIED');
  const move = lab.ask('operator', 'plan-migration', { from: 'audit', to: 'main' });
  expect(await refusal(move)).toBe('PERMISSION_DENIED');
  expect(audit.asked).not.toContain('wallet');
});

it('that comes later than the log is enough: what a witness saw before it vouches for nothing and harms nothing', async () => {
  await using place = await Device.make('main');
  await using keyPlace = await Device.make('audit');
  const slots = [place, keyPlace].map(({ slot }) => ({ slot, source: () => pinText }));
  await using young = await Lab.start(...slots);
  const witness = join(young.folder, 'witness.jsonl');
  for (const more of [{}, { key }]) {
    young.settings = { audit: { ...more, witnesses: [{ file: witness }] } };
    await young.restart();
    await young.custodian.openUnattended();
    await young.custodian.audit.checkpoint();
  }
  const { output } = await young.ask('auditor', 'audit-status', {});
  const publicKey = decodeBase58(output.publicKey ?? '') ?? new Uint8Array();
  await young.custodian[Symbol.asyncDispose]();
  const notes = readFileSync(witness, 'utf8')
    .trim()
    .split('\n')
    .map(line => (JSON.parse(line) as { note: string }).note);
  const verify = (witnessed: readonly string[]) =>
    verifyAuditLog({ files: folderFiles(young.auditFolder), publicKeys: [publicKey], witnessed });
  expect(await verify(notes)).toMatchObject({ ok: true, tamperEvidence: 'witnessed' });
  expect(await verify(notes.slice(0, 1))).toMatchObject({ ok: false, finding: { class: 'bad-signature' } });
});

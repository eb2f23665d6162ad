import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { CheckpointSigner, ConsistencyProof, InclusionProof } from '../../src/audit/audit-log.ts';
import {
  emptyRoot,
  leafHash,
  MerkleTree,
  verifyConsistency,
  verifyInclusion,
} from '../../src/audit/merkle.ts';
import { type Note, noteHash, parseNote, verifyNote, zeroHash } from '../../src/audit/note.ts';
import { lineHash } from '../../src/audit/record.ts';
import { AuditLab, appendMany, auditSigner, codeOf, errno, event, faulty } from './lab.ts';

const bytes = (text: string): Buffer => Buffer.from(text, 'base64');

const proves = ({ seq, size, leaf, path, checkpoint }: InclusionProof, line: string): boolean =>
  leafHash(line).equals(bytes(leaf)) &&
  parseNote(checkpoint).checkpoint.size === size &&
  verifyInclusion({
    leaf: leafHash(line),
    index: seq,
    size,
    path: path.map(bytes),
    root: parseNote(checkpoint).checkpoint.root,
  });

const agrees = ({ from, to, path }: ConsistencyProof, fromRoot: Buffer, toRoot: Buffer): boolean =>
  verifyConsistency({ from, to, fromRoot, toRoot, path: path.map(bytes) });

describe('checkpoints', () => {
  it('are made of everything that is durable, signed, and bound to the one before', async () => {
    await using lab = new AuditLab();
    const key = auditSigner();
    const log = await lab.open({ signer: async () => key });
    const notes: string[] = [];
    for (let round = 0; round < 5; round += 1) {
      await appendMany(log, 3);
      const note = await log.checkpoint();
      if (note !== undefined) notes.push(note); // the end of a segment may just have made it
      expect(await log.checkpoint()).toBeUndefined(); // nothing new
    }
    const stored = await log.checkpoints(0, 100);
    expect(notes.length).toBeGreaterThanOrEqual(3);
    expect(stored).toEqual(expect.arrayContaining(notes));
    let previous = zeroHash;
    const lines = lab.lines();
    for (const text of stored) {
      const note: Note = parseNote(text);
      const { size, root, chain } = note.checkpoint;
      expect(verifyNote(note, key.publicKey)).toBe('valid');
      expect(note.checkpoint.previous).toBe(previous);
      const tree = new MerkleTree();
      for (const line of lines.slice(0, size)) tree.append(leafHash(line));
      expect(root).toEqual(tree.root());
      expect(chain).toBe(lineHash(lines[size - 1] ?? '').toString('hex'));
      previous = noteHash(text);
    }
    expect(log.status()).toMatchObject({ checkpointed: 16, tamperEvidence: 'local' });
    expect(await log.checkpoints(7, 1)).toEqual([stored.find(text => parseNote(text).checkpoint.size >= 7)]);
  });

  it('are made after so many records, at the end of a segment, and at the end', async () => {
    await using lab = new AuditLab();
    const log = await lab.open({ segment_records: 1024, checkpoint: { every_ms: 3_600_000, records: 10 } });
    for (let at = 0; at < 25; at += 1) await log.append(event(at));
    await log[Symbol.asyncDispose]();
    const again = await lab.open({ segment_records: 1024 });
    const sizes = (await again.checkpoints(0, 100)).map(text => parseNote(text).checkpoint.size);
    expect(sizes.length).toBeGreaterThanOrEqual(3);
    expect(sizes.at(-1)).toBe(26);
  });

  it('are made as time passes, when there is something new', async () => {
    await using lab = new AuditLab();
    const log = await lab.open({ checkpoint: { every_ms: 2, records: 1_000_000 } });
    await expect.poll(() => log.status().checkpointed).toBe(1);
    await log.append(event(1));
    await expect.poll(() => log.status().checkpointed).toBe(2);
    expect(await log.checkpoints(0, 100)).toHaveLength(2);
  });

  it('wait for an audit key that opens later, while records are written', async () => {
    await using lab = new AuditLab();
    let key: CheckpointSigner | undefined;
    const log = await lab.open({ signer: async () => key });
    await appendMany(log, 20);
    expect(await log.checkpoint()).toBeUndefined();
    expect(log.status()).toMatchObject({ state: 'ok', checkpointed: 0, tamperEvidence: 'chain' });
    key = auditSigner();
    expect(await log.checkpoint()).toContain('keyslot/test\n21\n');
  });

  it('are not made of a key that fails or signs something else; it is asked for anew', async () => {
    await using lab = new AuditLab();
    const good = auditSigner();
    const bad = { publicKey: good.publicKey, sign: auditSigner().sign };
    const gone = { publicKey: good.publicKey, sign: () => Promise.reject(errno('EPIPE')) };
    const keys = [bad, gone];
    const log = await lab.open({ signer: async () => keys.shift() ?? good });
    await expect(log.checkpoint()).rejects.toThrow();
    await expect(log.checkpoint()).rejects.toThrow();
    expect(log.status()).toMatchObject({ state: 'ok', checkpointed: 0 });
    expect(await log.checkpoint()).toBeDefined();
  });

  it('that name the audit key and are not signed by it stop the log', async () => {
    await using lab = new AuditLab();
    const key = auditSigner();
    const log = await lab.open({ signer: async () => key });
    await log[Symbol.asyncDispose]();
    const file = lab.path(lab.names('checkpoints')[0] ?? '');
    const note: string = JSON.parse(readFileSync(file, 'utf8')).note;
    writeFileSync(file, `${JSON.stringify({ note: note.replace(/time \d{4}/, 'time 1999') })}\n`);
    const again = await lab.open({ signer: async () => key });
    expect(await codeOf(() => again.checkpoint())).toBe('AUDIT_TAMPERED');
  });

  it('that cannot be written for want of room hold nothing up, and are made later', async () => {
    await using lab = new AuditLab();
    let full = true;
    const log = await lab.open({
      file: faulty((operation, _file, path) => {
        if (full && operation === 'write' && path.includes('checkpoints-')) throw errno('ENOSPC');
      }),
    });
    expect(await codeOf(() => log.checkpoint())).toBe('AUDIT_UNAVAILABLE');
    expect((await log.append(event(1))).seq).toBe(1);
    full = false;
    expect(await log.checkpoint()).toContain('\n2\n');
  });
});

describe('proofs', () => {
  it('lead from every record to every checkpoint over it, and from every size to every later one', async () => {
    await using lab = new AuditLab();
    const log = await lab.open();
    for (let round = 0; round < 7; round += 1) {
      await appendMany(log, 3 + (round % 4));
      await log.checkpoint();
    }
    const notes = await log.checkpoints(0, 100);
    const lines = lab.lines();
    const roots = [emptyRoot];
    const tree = new MerkleTree();
    for (const line of lines) {
      tree.append(leafHash(line));
      roots.push(tree.root());
    }
    for (const text of notes) {
      const { size } = parseNote(text).checkpoint;
      for (let seq = 0; seq < size; seq += 1) {
        const proof = await log.inclusionProof(seq, size);
        expect(proves(proof, lines[seq] ?? '')).toBe(true);
        expect(proves(proof, lines[seq + 1] ?? '')).toBe(false);
      }
    }
    for (let to = 0; to <= lines.length; to += 3) {
      for (let from = 0; from <= to; from += 2) {
        const proof = await log.consistencyProof(from, to);
        expect(agrees(proof, roots[from] ?? emptyRoot, roots[to] ?? emptyRoot)).toBe(true);
      }
    }
  });

  it('of a record that no checkpoint covers yet have one made', async () => {
    await using lab = new AuditLab();
    const log = await lab.open();
    const { seq } = await log.append(event(1));
    expect(proves(await log.inclusionProof(seq), lab.lines()[seq] ?? '')).toBe(true);
  });

  it('are refused for what the log does not have', async () => {
    await using lab = new AuditLab();
    const log = await lab.open();
    await appendMany(log, 4);
    await log.checkpoint();
    for (const seq of [-1, 5, 0.5, Number.NaN]) {
      expect(await codeOf(() => log.inclusionProof(seq))).toBe('AUDIT_RECORD_UNKNOWN');
    }
    expect(await codeOf(() => log.inclusionProof(1, 3))).toBe('AUDIT_RECORD_UNKNOWN');
    expect(await codeOf(() => log.consistencyProof(3, 2))).toBe('AUDIT_RECORD_UNKNOWN');
    expect(await codeOf(() => log.consistencyProof(1, 6))).toBe('AUDIT_RECORD_UNKNOWN');
  });

  it('are not made of a segment that was edited afterwards', async () => {
    await using lab = new AuditLab();
    const log = await lab.open();
    await appendMany(log, 20);
    const first = lab.path(lab.names()[0] ?? '');
    writeFileSync(first, readFileSync(first, 'utf8').replace('request-1', 'request-9'));
    expect(await codeOf(() => log.inclusionProof(3))).toBe('AUDIT_TAMPERED');
    expect(await codeOf(() => log.inclusionProof(18))).toBe('none');
  });
});

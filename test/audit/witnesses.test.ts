import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { AuditLog } from '../../src/audit/audit-log.ts';
import { parseNote } from '../../src/audit/note.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { AuditLab, appendMany, auditSigner, codeOf, event } from './lab.ts';

const key = auditSigner();
const signer = async () => key;

const witnessed = (log: AuditLog, size: number) => expect.poll(() => log.status().witnessed).toBe(size);

/** A witness at 127.0.0.1 that keeps the bodies of what it answers 200 to. */
class WitnessServer implements AsyncDisposable {
  readonly notes: string[] = [];
  readonly tokens: (string | undefined)[] = [];
  status: number | 'hang' = 200;
  readonly #server;
  url = '';

  constructor() {
    const listener: RequestListener = async (request, response) => {
      const parts: Buffer[] = [];
      for await (const part of request) parts.push(part as Buffer);
      if (this.status === 'hang') return;
      this.tokens.push(request.headers.authorization);
      if (this.status === 200) this.notes.push(Buffer.concat(parts).toString('utf8'));
      response.writeHead(this.status).end();
    };
    this.#server = createServer(listener);
  }

  static async start(): Promise<WitnessServer> {
    const witness = new WitnessServer();
    await new Promise<void>(resolve => witness.#server.listen(0, '127.0.0.1', resolve));
    witness.url = `http://127.0.0.1:${(witness.#server.address() as AddressInfo).port}/notes`;
    return witness;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise(resolve => this.#server.close(resolve));
  }
}

describe('a witness that is a file', () => {
  it('has every checkpoint, line for line, and is what the log says it is', async () => {
    await using lab = new AuditLab();
    const file = join(lab.folder, 'witness.jsonl');
    const log = await lab.open({ signer, witnesses: [{ file }] });
    for (let round = 1; round <= 3; round += 1) {
      await log.append(event(round));
      await log.checkpoint();
      await witnessed(log, round + 1);
    }
    const lines = readFileSync(file, 'utf8').split('\n').slice(0, -1);
    expect(lines.map(line => JSON.parse(line).note)).toEqual(await log.checkpoints(0, 100));
    expect(log.status()).toMatchObject({ tamperEvidence: 'witnessed', witnesses: [{ id: file, size: 4 }] });
  });

  it('that was not finished is gone on with on a new line', async () => {
    await using lab = new AuditLab();
    const file = join(lab.folder, 'witness.jsonl');
    const first = await lab.open({ signer, witnesses: [{ file }] });
    await first.checkpoint();
    await first[Symbol.asyncDispose]();
    writeFileSync(file, '{"note":"keyslot/te', { flag: 'a' });
    const second = await lab.open({ signer, witnesses: [{ file }] });
    await second.checkpoint();
    await witnessed(second, 2);
    expect(JSON.parse(readFileSync(file, 'utf8').split('\n').at(-2) ?? '').note).toContain('\n2\n');
  });

  it('refuses the start of a log that was put back with its checkpoints, or forked', async () => {
    await using lab = new AuditLab();
    await using earlier = new AuditLab();
    const file = join(lab.folder, 'witness.jsonl');
    const first = await lab.open({ signer, witnesses: [{ file }] });
    await appendMany(first, 5);
    await first[Symbol.asyncDispose]();
    cpSync(lab.path(), earlier.path(), { recursive: true });
    const second = await lab.open({ signer, witnesses: [{ file }] });
    await appendMany(second, 5);
    await second[Symbol.asyncDispose]();
    expect(await codeOf(() => earlier.open({ signer, witnesses: [{ file }] }))).toBe('AUDIT_TAMPERED');

    const fork = await earlier.open({ signer }); // without its witness it cannot know
    await appendMany(fork, 15);
    await fork[Symbol.asyncDispose]();
    expect(await codeOf(() => earlier.open({ signer, witnesses: [{ file }] }))).toBe('AUDIT_TAMPERED');
    expect(await codeOf(() => lab.open({ signer, witnesses: [{ file }] }))).toBe('none');
  });

  it('stops a log when another one writes under its name', async () => {
    await using lab = new AuditLab();
    await using other = new AuditLab();
    const file = join(lab.folder, 'witness.jsonl');
    const mine = await lab.open({ signer, witnesses: [{ file }] });
    await mine.checkpoint();
    await witnessed(mine, 1);
    await (await other.open({ signer }))[Symbol.asyncDispose]();
    writeFileSync(file, readFileSync(other.path(other.names('checkpoints')[0] ?? '')), { flag: 'a' });
    await mine.append(event(1));
    await mine.checkpoint();
    await expect.poll(() => mine.status().state).toBe('failed');
    expect(await codeOf(() => mine.append(event(2)))).toBe('AUDIT_TAMPERED');
  });

  it('that is away holds nothing up, and has everything when it is back', async () => {
    await using lab = new AuditLab();
    const file = join(lab.folder, 'not-mounted', 'witness.jsonl');
    const log = await lab.open({ signer, witnesses: [{ file }], retry_ms: 2 });
    await log.append(event(1));
    await log.checkpoint();
    await expect.poll(() => log.status().witnesses[0]?.error).toBe('ENOENT');
    expect(log.status()).toMatchObject({ state: 'ok', witnessed: 0, tamperEvidence: 'local' });
    cpSync(lab.path(), join(lab.folder, 'not-mounted'), { recursive: true });
    await witnessed(log, 2);
    expect(log.status().witnesses).toEqual([{ id: file, size: 2 }]);
  });
});

describe('a witness that is a server', () => {
  it('gets the notes, with its headers, and their values are nowhere to be seen', async () => {
    await using lab = new AuditLab();
    await using server = await WitnessServer.start();
    const headers = { authorization: Secret.fromText('Bearer canary-token') };
    const log = await lab.open({ signer, witnesses: [{ url: `${server.url}?secret=canary`, headers }] });
    const note = await log.checkpoint();
    await witnessed(log, 1);
    expect(server.notes).toEqual([note]);
    expect(server.tokens).toEqual(['Bearer canary-token']);
    expect(log.status().witnesses).toEqual([{ id: server.url, size: 1 }]);
    await log[Symbol.asyncDispose]();
    expect(readFileSync(lab.path('witnesses.json'), 'utf8')).not.toContain('canary');
  });

  it('that fails, hangs and recovers gets the newest note, and signing never waits for it', async () => {
    await using lab = new AuditLab();
    await using server = await WitnessServer.start();
    server.status = 503;
    const log = await lab.open({ signer, witnesses: [{ url: server.url, timeout_ms: 20 }], retry_ms: 2 });
    await log.checkpoint();
    await expect.poll(() => log.status().witnesses[0]?.error).toBe('The witness answered 503.');
    server.status = 'hang';
    await expect.poll(() => log.status().witnesses[0]?.error).toBe('The witness did not answer in time.');
    for (let round = 0; round < 5; round += 1) {
      await appendMany(log, 3);
      await log.checkpoint();
    }
    expect(log.status()).toMatchObject({ state: 'ok', size: 16, witnessed: 0 });
    server.status = 200;
    await witnessed(log, 16);
    expect(parseNote(server.notes.at(-1) ?? '').checkpoint.size).toBe(16);
    expect(server.notes.length).toBeLessThan(5);
  });

  it('is remembered over a restart, and a log that has less than it saw is refused', async () => {
    await using lab = new AuditLab();
    await using server = await WitnessServer.start();
    const witnesses = [{ url: server.url }];
    const first = await lab.open({ signer, witnesses });
    await appendMany(first, 20);
    await first.checkpoint();
    await witnessed(first, 21);
    await first[Symbol.asyncDispose]();
    const second = await lab.open({ signer, witnesses });
    expect(second.status()).toMatchObject({ witnessed: 21, tamperEvidence: 'witnessed' });
    await second[Symbol.asyncDispose]();
    for (const name of [...lab.names('checkpoints'), ...lab.names().slice(1)]) rmSync(lab.path(name));
    expect(await codeOf(() => lab.open({ signer, witnesses }))).toBe('AUDIT_TAMPERED');
  });
});

describe('pruning', () => {
  const witnessedLog = async (lab: AuditLab) => {
    const log = await lab.open({ signer, witnesses: [{ file: join(lab.folder, 'witness.jsonl') }] });
    for (let round = 0; round < 9; round += 1) {
      await appendMany(log, 4, round * 4);
      await log.checkpoint();
    }
    await witnessed(log, 37);
    return log;
  };

  it('removes whole segments below a witnessed checkpoint and keeps what is needed to check the rest', async () => {
    await using lab = new AuditLab();
    const log = await witnessedLog(lab);
    const before = lab.lines();
    const { removed, first } = await log.prune(20);
    expect([removed, first]).toEqual([['segment-000000000000.jsonl', 'segment-000000000008.jsonl'], 16]);
    expect(lab.names()[0]).toBe('segment-000000000016.jsonl');
    const manifest = readFileSync(lab.path('pruned.jsonl'), 'utf8').split('\n').slice(0, -1);
    expect(manifest.map(line => JSON.parse(line))).toMatchObject([
      { segment: removed[0], first: 0, last: 7, root: expect.stringMatching(/^[0-9a-f]{64}$/) },
      { segment: removed[1], first: 8, last: 15, lastHash: JSON.parse(before[16] ?? '').prev },
    ]);
    expect(await codeOf(() => log.read(15, 1))).toBe('AUDIT_PRUNED');
    expect(await codeOf(() => log.inclusionProof(15))).toBe('AUDIT_PRUNED');
    expect(await codeOf(() => log.inclusionProof(16))).toBe('none');
    expect(await codeOf(() => log.consistencyProof(16, 30))).toBe('none');
    expect(await codeOf(() => log.consistencyProof(9, 30))).toBe('AUDIT_PRUNED');
    expect((await log.read(16, 100)).map(({ line }) => line)).toEqual(before.slice(16));
    expect(log.status().first).toBe(16);
  });

  it('leaves a log that starts, proves and prunes again', async () => {
    await using lab = new AuditLab();
    const log = await witnessedLog(lab);
    await log.prune(20);
    await log[Symbol.asyncDispose]();
    const again = await lab.open({ signer, witnesses: [{ file: join(lab.folder, 'witness.jsonl') }] });
    expect(again.status()).toMatchObject({ first: 16, size: 38 });
    expect(await codeOf(() => again.inclusionProof(20))).toBe('none');
    expect((await again.prune(32)).first).toBe(32);
    const seqs: number[] = [];
    for await (const { seq } of again.recovered.records(0)) seqs.push(seq);
    expect(seqs).toEqual([32, 33, 34, 35, 36]);
  });

  it('is refused above what a witness has, and never takes the segment that grows', async () => {
    await using lab = new AuditLab();
    const unwitnessed = await lab.open({ signer });
    await appendMany(unwitnessed, 20);
    expect(await codeOf(() => unwitnessed.prune(8))).toBe('AUDIT_UNWITNESSED');
    await using other = new AuditLab();
    const log = await witnessedLog(other);
    expect(await codeOf(() => log.prune(38))).toBe('AUDIT_UNWITNESSED');
    expect((await log.prune(37)).first).toBe(32);
    expect((await log.append(event('more'))).seq).toBe(37);
  });

  it('leaves a segment that has an intent without a result', async () => {
    await using lab = new AuditLab();
    const log = await lab.open({ signer, witnesses: [{ file: join(lab.folder, 'witness.jsonl') }] });
    await appendMany(log, 9);
    const { seq } = await log.append({ type: 'intent', key: 'k' });
    await appendMany(log, 30);
    await log.checkpoint();
    await witnessed(log, 41);
    expect((await log.prune(40)).first).toBe(8);
    await log.append({ type: 'result', intent: seq, outcome: 'ok' });
    expect((await log.prune(40)).first).toBe(40);
  });

  it('that was interrupted behind its manifest is finished by the next one', async () => {
    await using lab = new AuditLab();
    const log = await witnessedLog(lab);
    const kept = readFileSync(lab.path('segment-000000000000.jsonl'));
    await log.prune(8);
    writeFileSync(lab.path('segment-000000000000.jsonl'), kept);
    await log.prune(16);
    expect(existsSync(lab.path('segment-000000000000.jsonl'))).toBe(false);
    const manifest = readFileSync(lab.path('pruned.jsonl'), 'utf8').split('\n').slice(0, -1);
    expect(manifest.map(line => JSON.parse(line).first)).toEqual([0, 8]);
  });
});

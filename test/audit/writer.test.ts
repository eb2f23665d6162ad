import { open } from 'node:fs/promises';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type AuditEntry, canonicalLine, lineHash, recordFields } from '../../src/audit/record.ts';
import { parseHeader } from '../../src/audit/segment.ts';
import { AuditLab, appendMany, codeOf, errno, event, faulty, flawOf, type Operation } from './lab.ts';

const text = fc.string({ unit: 'binary', maxLength: 12 });
const entries: fc.Arbitrary<AuditEntry> = fc.record(
  {
    type: fc.constantFrom('event', 'refusal' as const),
    detail: fc.dictionary(text, fc.oneof(text, fc.integer(), fc.boolean())),
    charges: fc.array(fc.record({ counter: text, window_s: fc.nat(), amount: text }), { maxLength: 2 }),
    ...Object.fromEntries(
      [
        'requestId',
        'actor',
        'credential',
        'operation',
        'key',
        'publicKey',
        'slot',
        'kind',
        'transaction',
      ].map(name => [name, text]),
    ),
    summary: fc.array(text, { maxLength: 3 }),
    decision: fc.constantFrom('allow', 'deny' as const),
    signature: text,
  },
  { requiredKeys: ['type'] },
);

describe('the audit log', () => {
  it('writes records in the order in which they were appended, each bound to the one before', async () => {
    await using lab = new AuditLab();
    const log = await lab.open();
    const receipts = await appendMany(log, 30);
    const lines = lab.lines();
    expect(flawOf(lines)).toBeUndefined();
    expect(receipts.map(receipt => receipt.seq)).toEqual(Array.from({ length: 30 }, (_, at) => at + 1));
    for (const { node, seq, hash } of receipts) {
      expect(node).toBe('test');
      expect(lineHash(lines[seq] ?? '').toString('hex')).toBe(hash);
      expect(JSON.parse(lines[seq] ?? '')).toMatchObject({ requestId: `request-${seq - 1}` });
    }
    expect(log.status()).toMatchObject({ state: 'ok', size: 31, first: 0, tamperEvidence: 'chain' });
  });

  it('writes the canonical line of whatever it is given, and reads the same record back', async () => {
    await using lab = new AuditLab();
    const log = await lab.open({ segment_records: 4096 });
    await fc.assert(
      fc.asyncProperty(fc.array(entries, { minLength: 1, maxLength: 8 }), async several => {
        const receipts = await Promise.all(several.map(entry => log.append(entry)));
        const found = await log.read(receipts[0]?.seq ?? 0, several.length);
        found.forEach(({ record, line }, at) => {
          expect(canonicalLine(record)).toBe(line);
          expect(record).toMatchObject(JSON.parse(JSON.stringify(several[at])));
        });
      }),
      { numRuns: 60 },
    );
    expect(flawOf(lab.lines())).toBeUndefined();
  });

  it('knows every field of a record, in the order that is written down', async () => {
    const whole = Object.fromEntries(recordFields.toReversed().map((field, at) => [field, at]));
    expect(Object.keys(JSON.parse(canonicalLine(whole as never)))).toEqual([...recordFields]);
    await using lab = new AuditLab();
    const log = await lab.open();
    await log.append(whole as never);
    expect(Object.keys(JSON.parse(lab.lines()[1] ?? ''))).toEqual([...recordFields]);
  });

  it('leaves out what is no field of a record', async () => {
    await using lab = new AuditLab();
    const log = await lab.open();
    await log.append({ ...event(1), pin: '1234', prev: 'mine', seq: 99 } as AuditEntry);
    expect(lab.lines()[1]).not.toContain('1234');
    expect(flawOf(lab.lines())).toBeUndefined();
  });

  it('begins a segment behind each full one, whose header says how to go on', async () => {
    await using lab = new AuditLab();
    const log = await lab.open();
    await appendMany(log, 20);
    expect(lab.names()).toEqual([0, 8, 16].map(first => `segment-${String(first).padStart(12, '0')}.jsonl`));
    await using file = await open(lab.path(lab.names()[2] ?? ''));
    const [first = ''] = (await file.readFile('utf8')).split('\n');
    const header = parseHeader(first);
    expect(header).toMatchObject({ node: 'test', first: 16, records: 8, open: [] });
    expect(header?.roots).toHaveLength(2);
    expect(header?.prev).toBe(lineHash(lab.lines()[15] ?? '').toString('hex'));
  });

  it('goes on where it stood after a restart, with a boot record and another boot', async () => {
    await using lab = new AuditLab();
    for (let boot = 0; boot < 6; boot += 1) {
      const log = await lab.open(boot === 0 ? {} : { segment_records: 1024 }); // the log keeps its own
      await appendMany(log, boot * 3);
      await log[Symbol.asyncDispose]();
    }
    const records = lab.lines().map(line => JSON.parse(line));
    expect(flawOf(lab.lines())).toBeUndefined();
    expect(records.filter(record => record.type === 'boot')).toHaveLength(6);
    expect(new Set(records.map(record => record.boot)).size).toBe(6);
    expect(lab.names().length).toBe(Math.ceil(records.length / 8));
  });

  it('tells its observer of each record that is durable, in order, and stops when that fails', async () => {
    await using lab = new AuditLab();
    const told: string[] = [];
    const log = await lab.open({
      observe: (record, hash) => {
        if (record.requestId === 'request-bad') throw new Error('the count is lost');
        expect(hash.equals(lineHash(lab.lines()[record.seq] ?? ''))).toBe(true);
        told.push(`${record.seq} ${record.type} ${record.requestId}`);
      },
    });
    await appendMany(log, 3);
    expect(told).toEqual(['0 boot undefined', ...[1, 2, 3].map(seq => `${seq} event request-${seq - 1}`)]);
    expect(await codeOf(() => log.append(event('bad')))).toBe('none'); // it is durable
    expect(log.status().state).toBe('failed');
  });

  it('has one writer', async () => {
    await using lab = new AuditLab();
    const log = await lab.open();
    expect(await codeOf(() => lab.open())).toBe('AUDIT_FAILED');
    await log[Symbol.asyncDispose]();
    expect(await codeOf(() => lab.open())).toBe('none');
  });

  it('writes what waits before it closes, and takes nothing afterwards', async () => {
    await using lab = new AuditLab();
    const log = await lab.open();
    const last = log.append(event('last'));
    await log[Symbol.asyncDispose]();
    expect((await last).seq).toBe(1);
    expect(await codeOf(() => log.append(event('late')))).toBe('AUDIT_UNAVAILABLE');
    expect(lab.lines()).toHaveLength(2);
  });

  it('takes no more than it can hold while the disk is slow, and everything that it took is written', async () => {
    await using lab = new AuditLab();
    const gate = Promise.withResolvers<void>();
    let closed = false;
    const seam = faulty(operation => (closed && operation === 'write' ? gate.promise : undefined));
    const log = await lab.open({ file: seam, segment_records: 2 ** 17 });
    closed = true;
    const large: AuditEntry = { ...event('large'), transaction: 'A'.repeat(500_000) };
    const outcomes = Array.from({ length: 140 }, () => codeOf(() => log.append(large)));
    closed = false;
    gate.resolve();
    const codes = await Promise.all(outcomes);
    const taken = codes.filter(code => code === 'none').length;
    expect(taken).toBeGreaterThan(100);
    expect(codes.filter(code => code === 'AUDIT_UNAVAILABLE')).toHaveLength(140 - taken);
    expect(log.status().size).toBe(taken + 1);
    expect(await codeOf(() => log.append({ ...large, transaction: 'A'.repeat(600_000) }))).toBe(
      'AUDIT_UNAVAILABLE',
    );
  });
});

describe('a disk that fails', () => {
  /** Appends in rounds, and counts what each round was told. */
  async function rounds(lab: AuditLab, seam: ReturnType<typeof faulty>) {
    const told: { seq: number; hash: string; name: string }[] = [];
    const codes: string[] = [];
    const log = await lab.open({ file: seam, checkpoint: { every_ms: 3_600_000, records: 3 } });
    for (let round = 0; round < 8; round += 1) {
      await Promise.all(
        Array.from({ length: 1 + (round % 4) }, async (_, at) => {
          const name = `request-${round}.${at}`;
          codes.push(
            await codeOf(async () => {
              const { seq, hash } = await log.append(event(`${round}.${at}`));
              told.push({ seq, hash, name });
            }),
          );
        }),
      );
    }
    const { state } = log.status();
    await log[Symbol.asyncDispose]();
    return { told, codes, state };
  }

  /** The real file, failing once at the n-th operation; a write has taken a part of the bytes by then. */
  const failingAt = (nth: number, code: string, only?: Operation) => {
    let count = 0;
    let hit: Operation | undefined;
    const seam = faulty(async (operation, file, _path, bytes, position) => {
      if (only !== undefined && operation !== only) return;
      count += 1;
      if (count !== nth) return;
      hit = operation;
      if (operation === 'write') await file.write(bytes.subarray(0, Math.floor(bytes.length / 2)), position);
      throw errno(code);
    });
    return { seam, hit: () => hit };
  };

  /** What was acknowledged is there, in its place; the log as a whole has no flaw, and goes on. */
  async function expectSound(lab: AuditLab, told: readonly { seq: number; hash: string; name: string }[]) {
    const again = await lab.open();
    await again.append(event('afterwards'));
    const lines = lab.lines();
    expect(flawOf(lines)).toBeUndefined();
    for (const { seq, hash, name } of told) {
      expect(lineHash(lines[seq] ?? '').toString('hex')).toBe(hash);
      expect(JSON.parse(lines[seq] ?? '').requestId).toBe(name);
    }
    await again[Symbol.asyncDispose]();
  }

  it('for want of room, at any write, loses nothing and goes on by itself', async () => {
    let reached = true;
    for (let nth = 1; reached; nth += 1) {
      await using lab = new AuditLab();
      const { seam, hit } = failingAt(nth, ['ENOSPC', 'EDQUOT', 'EFBIG'][nth % 3] ?? 'none', 'write');
      const opening = await codeOf(async () => {
        const { told, codes, state } = await rounds(lab, seam);
        expect(codes.filter(each => !['none', 'AUDIT_UNAVAILABLE'].includes(each))).toEqual([]);
        expect(state).toBe(codes.at(-1) === 'none' ? 'ok' : 'full'); // what comes next has room again
        await expectSound(lab, told);
      });
      expect(opening).toBe(nth <= 2 ? 'AUDIT_UNAVAILABLE' : 'none'); // the first header and the boot record
      reached = hit() !== undefined;
    }
  });

  it('in any other way, at any operation, takes nothing more until the next start', async () => {
    let reached = true;
    for (let nth = 1; reached; nth += 1) {
      await using lab = new AuditLab();
      const { seam, hit } = failingAt(nth, 'EIO');
      const opening = await codeOf(async () => {
        const { told, codes, state } = await rounds(lab, seam);
        const failures = codes.slice(codes.findIndex(each => each !== 'none'));
        if (codes.at(-1) === 'none') expect(failures).toEqual(codes.slice(-1));
        else expect([state, ...new Set(failures)]).toEqual(['failed', 'AUDIT_FAILED']);
        await expectSound(lab, told);
      });
      reached = hit() !== undefined;
      expect(['none', 'AUDIT_FAILED']).toContain(opening);
    }
  });

  it('when it is to be cut back, is not trusted any more', async () => {
    await using lab = new AuditLab();
    let full = false;
    const seam = faulty(operation => {
      if (full && operation === 'write') throw errno('ENOSPC');
      if (full && operation === 'truncate') throw errno('EIO');
    });
    const log = await lab.open({ file: seam });
    full = true;
    expect(await codeOf(() => log.append(event(1)))).toBe('AUDIT_FAILED');
    full = false;
    expect(await codeOf(() => log.append(event(2)))).toBe('AUDIT_FAILED');
    expect(log.status().state).toBe('failed');
  });

  it('never has an fsync repeated as if the first had not failed', async () => {
    await using lab = new AuditLab();
    let failing = false;
    let syncs = 0;
    const seam = faulty(operation => {
      if (operation !== 'datasync' || !failing) return;
      syncs += 1;
      throw errno('EIO');
    });
    const log = await lab.open({ file: seam });
    failing = true;
    expect(await codeOf(() => log.append(event(1)))).toBe('AUDIT_FAILED');
    failing = false;
    expect(await codeOf(() => log.append(event(2)))).toBe('AUDIT_FAILED');
    await log[Symbol.asyncDispose]();
    expect(syncs).toBe(1);
  });

  it('says full while it is, to everybody who waits, and ok when there is room again', async () => {
    await using lab = new AuditLab();
    await using device = await open('/dev/full', 'w'); // the system's own ENOSPC
    let full = false;
    const seam = faulty((operation, _file, _path, bytes) =>
      full && operation === 'write' ? device.write(bytes) : undefined,
    );
    const log = await lab.open({ file: seam });
    await log.append(event(1));
    full = true;
    const codes = await Promise.all(
      Array.from({ length: 20 }, (_, at) => codeOf(() => log.append(event(at)))),
    );
    expect(new Set(codes)).toEqual(new Set(['AUDIT_UNAVAILABLE']));
    expect(log.status()).toMatchObject({ state: 'full', size: 2 });
    full = false;
    expect((await log.append(event(2))).seq).toBe(2);
    expect(log.status().state).toBe('ok');
    expect(flawOf(lab.lines())).toBeUndefined();
  });

  it('by not coming back, keeps nobody waiting', async () => {
    await using lab = new AuditLab();
    let hanging = false;
    const seam = faulty(operation =>
      hanging && operation === 'datasync' ? new Promise<void>(() => undefined) : undefined,
    );
    const log = await lab.open({ file: seam, commit_ms: 30 });
    hanging = true;
    const waiting = [1, 2, 3].map(at => codeOf(() => log.append(event(at))));
    expect(await Promise.all(waiting)).toEqual(Array(3).fill('AUDIT_UNAVAILABLE'));
    expect(log.status().state).toBe('failed');
    expect(await codeOf(() => log.append(event(4)))).toBe('AUDIT_FAILED');
    await log[Symbol.asyncDispose]();
    const again = await lab.open(); // what was written and not acknowledged may be there
    expect(flawOf(lab.lines())).toBeUndefined();
    await again[Symbol.asyncDispose]();
  });
});

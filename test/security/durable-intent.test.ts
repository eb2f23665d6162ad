import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { AuditRecord } from '../../src/audit/record.ts';
import { verifyAuditLog } from '../../src/audit/verify.ts';
import { folderFiles } from '../../src/audit/verify-files.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import { errno, faulty } from '../audit/lab.ts';
import { refusal, text } from '../custodian/lab.ts';
import { atMost, World } from './lab.ts';

/** How the disk fails, from its n-th operation on until it is mended. */
interface Fault {
  readonly operation: 'write' | 'datasync';
  readonly how: 'ENOSPC' | 'EIO' | 'EROFS' | 'hang';
}

/** Of a disk that hangs; long enough for a disk that is only busy. */
const commit_ms = 400;

/** The segments of a log on a disk that fails when it is told to, and what is durable on it. */
class Disk {
  fault: Fault | undefined;
  /** The operation at which it begins to fail. */
  nth = 0;
  hit = false;
  #count = 0;
  readonly #synced = new Map<string, number>();
  readonly #length = new Map<string, number>();

  readonly seam = faulty(async (operation, file, path, bytes, position) => {
    if (!basename(path).startsWith('segment-')) return;
    if (operation === 'truncate') return;
    await this.#fail(operation, async () => file.write(bytes.subarray(0, bytes.length >> 1), position));
    if (operation === 'write') this.#length.set(path, position + bytes.length);
    // What was written before a sync that really happened is durable.
    if (operation === 'datasync') {
      await file.datasync();
      this.#synced.set(path, this.#length.get(path) ?? 0);
    }
  });

  /** Every record that an fsync has covered. */
  durable(): readonly AuditRecord[] {
    return [...this.#synced].flatMap(([path, length]) =>
      readFileSync(path)
        .subarray(0, length)
        .toString('utf8')
        .split('\n')
        .filter(line => line.startsWith('{"v":1'))
        .map(line => JSON.parse(line) as AuditRecord),
    );
  }

  breakAt(nth: number, fault: Fault): void {
    this.nth = nth;
    this.fault = fault;
    this.hit = false;
    this.#count = 0;
  }

  mend(): void {
    this.fault = undefined;
  }

  async #fail(operation: string, halfWay: () => Promise<void>): Promise<void> {
    const { fault } = this;
    if (!fault || operation !== fault.operation) return;
    this.#count += 1;
    if (this.#count < this.nth) return;
    this.hit = true;
    if (fault.how === 'hang') await new Promise<void>(() => undefined);
    if (operation === 'write') await halfWay();
    throw errno(fault.how);
  }
}

const signing = (records: readonly AuditRecord[], type: AuditRecord['type']) =>
  records.filter(record => record.type === type && record.operation?.startsWith('sign-'));

let disk: Disk;
let world: World;
let broken: string[];

/** At the moment at which the device is asked, each of its signatures has an intent on the disk. */
async function begin(
  documents: readonly Record<string, unknown>[] = [everythingAllowed('everything', 'all')],
  hangs = false,
) {
  disk = new Disk();
  broken = [];
  world = await World.open({
    audit: { file: disk.seam, ...(hangs ? { commit_ms } : {}) },
    policies: { documents },
  });
  world.device.onSign = ({ honest }) => {
    if (signing(disk.durable(), 'intent').length < world.signerCalls) broken.push('signed without an intent');
    return honest();
  };
}

async function ask(message: string): Promise<string> {
  try {
    const { output, bytes } = await world.signMessage(text(message));
    const record = signing(disk.durable(), 'result').find(({ seq }) => seq === output.receipt.seq);
    const same = record?.signature === Buffer.from(bytes?.[0] ?? []).toString('base64');
    if (!same || record?.outcome !== 'ok') broken.push('answered without a result');
    return 'signed';
  } catch (thrown) {
    if (!isKeyslotError(thrown)) throw thrown;
    if (thrown.entry.status !== 503) broken.push(`refused with ${thrown.entry.status}`);
    return thrown.code;
  }
}

/** Three at once, then two after one another. */
async function load(): Promise<readonly string[]> {
  const together = await Promise.all(['a', 'b', 'c'].map(ask));
  return [...together, await ask('d'), await ask('e')];
}

async function expectLogInOrder(): Promise<void> {
  const { ok, finding } = await verifyAuditLog({ files: folderFiles(world.lab.auditFolder), publicKeys: [] });
  expect({ ok, finding }).toEqual({ ok: true, finding: undefined });
}

/** Every way in which the load can meet the fault, until it is over before that. */
async function atEveryOperation(
  fault: Fault,
  work: (codes: readonly string[]) => Promise<void>,
): Promise<void> {
  const hangs = fault.how === 'hang';
  // Each hang takes its time, so that every other operation has to do.
  for (let nth = 1, met = true; met; nth += hangs ? 2 : 1) {
    await begin(undefined, hangs);
    disk.breakAt(nth, fault);
    const codes = await load();
    met = disk.hit;
    if (met) expect(codes.some(code => code !== 'signed')).toBe(true);
    else if (!hangs) expect(codes.every(code => code === 'signed')).toBe(true);
    await work(codes);
    expect(broken, `${fault.how} at ${fault.operation} ${nth}`).toEqual([]);
    await world[Symbol.asyncDispose]();
    expect(nth).toBeLessThan(50);
  }
}

describe('no signature without a durable intent, no answer without a durable result', () => {
  it('on a full disk, at every write: 503, and it goes on by itself when there is room', async () => {
    await atEveryOperation({ operation: 'write', how: 'ENOSPC' }, async codes => {
      expect(codes.every(code => code === 'signed' || code === 'AUDIT_UNAVAILABLE')).toBe(true);
      disk.mend();
      expect(await ask('with room again')).toBe('signed');
      // What was owed was written first: as unknown, whatever the caller was not told.
      const records = disk.durable();
      const results = signing(records, 'result');
      expect(results).toHaveLength(signing(records, 'intent').length);
      const released = codes.filter(code => code === 'signed').length + 1;
      expect(results.filter(({ outcome }) => outcome === 'ok')).toHaveLength(released);
      expect(results.filter(({ outcome, signature }) => outcome !== 'ok' && signature)).toEqual([]);
      expect(world.signerCalls).toBeLessThanOrEqual(results.length);
      await expectLogInOrder();
    });
  });

  const lasting: readonly Fault[] = [
    { operation: 'write', how: 'EIO' },
    { operation: 'write', how: 'EROFS' },
    { operation: 'datasync', how: 'EIO' },
    { operation: 'write', how: 'hang' },
    { operation: 'datasync', how: 'hang' },
  ];

  it.each(lasting)(
    'when it fails for good ($operation: $how), at every operation: nothing is done until the next start',
    async fault => {
      await atEveryOperation(fault, async () => {
        if (!disk.hit) return;
        disk.mend();
        const calls = world.signerCalls;
        expect(await ask('mended, and not started again')).toBe('AUDIT_FAILED');
        const { lab } = world;
        const reason = 'an attack';
        for (const change of [
          lab.ask('operator', 'freeze', { scope: 'appliance', reason }),
          lab.ask('admin', 'put-policy', { policy: 'p', document: { name: 'p', appliesTo: 'all' } }),
          lab.ask('operator', 'disable-key', { key: 'wallet' }),
          lab.ask('operator', 'generate-key', { key: 'another', slot: 'main' }),
          lab.ask('operator', 'lock-slot', { slot: 'main' }),
        ]) {
          expect(await refusal(change)).toBe('AUDIT_FAILED');
        }
        expect(world.signerCalls).toBe(calls);
        expect((await lab.ask('nobody', 'health', {})).output.ready).toBe(false);

        lab.settings = {};
        await world.restart();
        expect((await lab.ask('operator', 'show-key', { key: 'wallet' })).output.state).toBe('active');
        expect((await lab.ask('admin', 'list-freezes', {})).output.freezes).toEqual([]);
        world.device.onSign = ({ honest }) => honest();
        expect(await refusal(world.signMessage(text('after the start')))).toBe('none');
        const records = await world.records();
        expect(signing(records, 'result')).toHaveLength(signing(records, 'intent').length);
        expect(world.signerCalls).toBeLessThanOrEqual(signing(records, 'intent').length);
        await expectLogInOrder();
      });
    },
  );
});

describe('what a full disk costs', () => {
  afterEach(() => world[Symbol.asyncDispose]());
  beforeEach(() => begin([atMost(1)]));

  it('is no charge where nothing was signed', async () => {
    disk.breakAt(1, { operation: 'write', how: 'ENOSPC' });
    for (let time = 0; time < 5; time += 1) expect(await ask('too early')).toBe('AUDIT_UNAVAILABLE');
    expect(world.signerCalls).toBe(0);
    disk.mend();
    expect(await ask('the one that fits')).toBe('signed');
    expect(await refusal(world.signMessage(text('one more')))).toBe('POLICY_DENIED');
  });

  it('is the charge where a signature was made, although nobody got it', async () => {
    disk.breakAt(2, { operation: 'write', how: 'ENOSPC' });
    expect(await ask('signed and withheld')).toBe('AUDIT_UNAVAILABLE');
    expect(world.signerCalls).toBe(1);
    disk.mend();
    expect(await refusal(world.signMessage(text('one more')))).toBe('POLICY_DENIED');
    expect(world.signerCalls).toBe(1);
  });
});

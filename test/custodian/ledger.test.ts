import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { AuditEntry, AuditRecord } from '../../src/audit/record.ts';
import { auditCharges, namedSigning, naturalSigning } from '../../src/custodian/ledger.ts';
import type { Recorded } from '../../src/custodian/recovered-requests.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { code, day_ms, Log, start_ms, World } from './ledger-world.ts';

let world: World;

beforeEach(() => {
  world = new World();
});

afterEach(() => world[Symbol.asyncDispose]());

const message = 'ab'.repeat(32);
const charges = (amount = 1n) => [{ counter: 'treasury/daily/policy', window_ms: day_ms, amount }];
const request = { requestId: 'r-1', actor: 'alice', operation: 'sign-message', key: 'wallet', message };
const signature = (of = 7) => Uint8Array.from(Buffer.alloc(64, of));
const spent = () => world.running.live.spent('treasury/daily/policy', day_ms);

/** As the pipeline does it: charged at the verdict, then written down. */
function intend(amount = 1n, more: Partial<AuditEntry> = {}): AuditRecord {
  world.running.charge(charges(amount), world.now_ms);
  const entry = { ...request, charges: auditCharges(charges(amount)), ...more };
  return world.log.append({ type: 'intent', ...entry }, world.now_ms);
}

function settle(intent: AuditRecord, outcome: 'ok' | 'failed' | 'refused', of = 7): Recorded {
  if (outcome !== 'ok')
    world.running.refund(charges(BigInt(intent.charges?.[0]?.amount ?? 0)), Date.parse(intent.utc));
  const signed = outcome === 'ok' ? { signature: Buffer.from(signature(of)).toString('base64') } : {};
  world.log.append({ type: 'result', intent: intent.seq, outcome, ...signed }, world.now_ms);
  return recordedNow(of);
}

/** What the last record of the log is answered with. */
function recordedNow(of = 7): Recorded {
  const seq = world.log.lines.length - 1;
  return { signature: signature(of), receipt: { node: 'keyslot', seq, hash: world.log.hashOf(seq) } };
}

describe('the ledger', () => {
  it('counts what was allowed, and gives back what was not signed', async () => {
    await world.start();
    settle(intend(5n), 'ok');
    settle(intend(7n), 'failed');
    settle(intend(11n), 'refused');
    expect(spent()).toBe(5n);
    await world.kill();
    expect(spent()).toBe(5n);
  });

  it('keeps the charge of an intent that was killed: its signature may exist', async () => {
    await world.start();
    intend(5n);
    await world.kill();
    expect(spent()).toBe(5n);
    await world.running.flush();
    await world.kill();
    expect(spent()).toBe(5n);
  });

  it.each([
    ['a moment ago', 20, 0],
    ['long ago', 1_200, 20 * 60_000],
  ])('gives back what failed behind a position that had its intent, %s', async (_when, others, later_ms) => {
    await world.start();
    const intent = intend(5n);
    for (let other = 0; other < others; other += 1) world.log.append({ type: 'event' }, world.now_ms);
    world.now_ms += later_ms;
    await world.running.flush();
    settle(intent, 'failed');
    await world.kill();
    expect(spent()).toBe(0n);
    await world.running.flush();
    await world.kill();
    expect(spent()).toBe(0n);
  });

  it('loses nothing and counts nothing twice, wherever it is killed', async () => {
    const step = fc.oneof(
      fc.record({ does: fc.constant('intend' as const), amount: fc.bigInt({ min: 0n, max: 2n ** 66n }) }),
      fc.record({ does: fc.constant('settle' as const), as: fc.constantFrom('ok', 'failed', 'refused') }),
      fc.record({ does: fc.constant('flush' as const) }),
      // While it flushes, after so many turns; or while it does not.
      fc.record({ does: fc.constant('kill' as const), turns: fc.option(fc.nat({ max: 6 })) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25 }), async steps => {
        await world[Symbol.asyncDispose]();
        world = new World();
        await world.start();
        let open: AuditRecord[] = [];
        for (const each of steps) {
          if (each.does === 'intend') open.push(intend(each.amount));
          if (each.does === 'settle') {
            const intent = open.shift();
            if (intent) settle(intent, each.as);
          }
          if (each.does === 'flush') await world.running.flush();
          if (each.does === 'kill') {
            open = [];
            const flushed = each.turns === null ? undefined : code(world.running.flush());
            for (let at = 0; at < (each.turns ?? 0); at += 1) await Promise.resolve();
            await world.kill();
            expect(await (flushed ?? 'none')).toMatch(/^(none|STORE_FAILED)$/);
          }
          expect(spent()).toBe(world.log.chargedByHand());
        }
        await world.kill();
        expect(spent()).toBe(world.log.chargedByHand());
      }),
      { numRuns: 25 },
    );
  });

  it('counts the same after a process was killed at any moment', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'keyslot-ledger-kill-'));
    const entry = fileURLToPath(new URL('./ledger-child.ts', import.meta.url));
    let records = 0;
    for (let round = 0; round < 3; round += 1) {
      const child = spawn(process.execPath, [entry, folder], { stdio: ['ignore', 'pipe', 'inherit'] });
      let said = '';
      for await (const chunk of child.stdout) {
        said += chunk;
        if (said.split('\n').length > 60 + round * 90) child.kill('SIGKILL');
      }
      const found = new Log();
      for (const line of readFileSync(join(folder, 'log'), 'utf8').split('\n').slice(0, -1)) found.take(line);
      expect(found.lines.length).toBeGreaterThan(records);
      records = found.lines.length;
      await using mine = new World(found, folder);
      await mine.start();
      expect(mine.running.live.spent('treasury/daily/policy', day_ms)).toBe(found.chargedByHand());
    }
    rmSync(folder, { recursive: true, force: true });
  });

  it('refuses a log that is shorter than what was counted', async () => {
    await world.start();
    for (let at = 0; at < 10; at += 1) settle(intend(), 'ok');
    await world.running.flush();
    world.log.lines.splice(15);
    expect(await code(world.restart())).toBe('AUDIT_TAMPERED');
  });

  it('refuses another log in its place, longer or not', async () => {
    await world.start();
    for (let at = 0; at < 10; at += 1) settle(intend(), 'ok');
    await world.running.flush();
    const other = new Log();
    for (let at = 0; at < 30; at += 1) other.append({ type: 'event' }, start_ms);
    world.log.lines.splice(0, Number.POSITIVE_INFINITY, ...other.lines);
    expect(await code(world.restart())).toBe('AUDIT_TAMPERED');
  });

  it('refuses records behind its position that do not lead on from it', async () => {
    await world.start();
    settle(intend(), 'ok');
    await world.running.flush();
    settle(intend(5n), 'ok');
    const { line, record } = world.log.lines[2] ?? {};
    if (!line || !record) throw new TypeError('The log is too short.');
    world.log.lines[2] = {
      record: { ...record, charges: auditCharges(charges(1n)) },
      line: line.replace('"amount":"5"', '"amount":"1"'),
    };
    expect(await code(world.restart())).toBe('AUDIT_TAMPERED');
  });

  it('goes on from a log whose counted records were pruned, and refuses one whose uncounted were', async () => {
    await world.start();
    for (let at = 0; at < 10; at += 1) settle(intend(), 'ok');
    await world.running.flush();
    settle(intend(), 'ok');
    world.log.first = 12;
    await world.restart();
    expect(spent()).toBe(11n);
    world.log.first = 20;
    await world.restart();
    expect(spent()).toBe(11n);
    await world.running.flush();
    settle(intend(), 'ok');
    world.log.first = 24;
    expect(await code(world.restart())).toBe('AUDIT_TAMPERED');
  });

  it('without its store counts again what the log still holds', async () => {
    await world.start();
    for (let at = 0; at < 10; at += 1) settle(intend(), 'ok');
    await world.running.flush();
    world.log.first = 6;
    world.forgetStore();
    await world.restart();
    expect(spent()).toBe(7n);
  });

  it('counts the logs of two nodes apart', async () => {
    await world.start();
    settle(intend(5n), 'ok');
    await world.running.flush();
    await using other = new World(new Log('spare'), world.folder);
    await other.start({ node: 'spare' });
    expect(other.running.live.spent('treasury/daily/policy', day_ms)).toBe(5n);
    await world.restart();
    expect(spent()).toBe(5n);
  });

  it('keeps what a store refused, and writes it the next time', async () => {
    await world.start();
    settle(intend(5n), 'ok');
    world.store.run("CREATE TRIGGER full BEFORE INSERT ON positions BEGIN SELECT RAISE(ABORT, 'full'); END");
    expect(await code(world.running.flush())).toBe('STORE_FAILED');
    settle(intend(2n), 'ok');
    expect(await code(world.running.flush())).toBe('STORE_FAILED');
    expect(world.store.all('SELECT * FROM counters')).toEqual([]);
    world.store.run('DROP TRIGGER full');
    await world.running.flush();
    expect(world.store.all('SELECT amount FROM counters')).toEqual([{ amount: '7' }]);
    await world.kill();
    expect(spent()).toBe(7n);
  });

  it('writes what it counted when it ends, and nothing when nothing happened', async () => {
    await world.start();
    await world.running.flush();
    expect(world.store.all('SELECT * FROM positions')).toEqual([]);
    settle(intend(5n), 'ok');
    await world.running[Symbol.asyncDispose]();
    expect(world.store.all('SELECT next FROM positions')).toEqual([{ next: 2 }]);
  });

  it('writes at once when much was changed', async () => {
    await world.start();
    for (let at = 0; at < 1_000; at += 1) {
      const each = [{ counter: `rate/${at}`, window_s: 60, amount: '1' }];
      world.log.append({ type: 'intent', charges: each }, world.now_ms);
    }
    await turn();
    expect(world.store.all('SELECT count(*) AS rows FROM counters')).toEqual([{ rows: 1_000 }]);
  });

  it('removes from the store what no window reaches any more', async () => {
    await world.start();
    settle(intend(5n), 'ok');
    await world.running.flush();
    world.now_ms += 2 * day_ms + 1;
    await world.running.flush();
    expect(world.store.all('SELECT * FROM counters')).toEqual([]);
  });
});

describe('a signature under an Idempotency-Key', () => {
  const id = namedSigning('alice', 'payment-1');
  let made = 0;

  beforeEach(async () => {
    made = 0;
    await world.start();
  });

  /** The pipeline: intent, signature, result. */
  const sign = (more: { id?: string; of?: number; message?: string; fail?: KeyslotError } = {}) => {
    const asked = { ...request, message: more.message ?? message };
    return world.running.once(more.id ?? id, asked, async () => {
      made += 1;
      const intent = intend(1n, { ...asked, idempotency: more.id ?? id });
      await turn();
      if (more.fail) {
        settle(intent, 'failed');
        throw more.fail;
      }
      return settle(intent, 'ok', more.of);
    });
  };

  it('is made once: a repeat gets its bytes and its receipt, and charges nothing', async () => {
    const first = await sign();
    const records = world.log.lines.length;
    expect(await sign({ of: 8 })).toEqual(first);
    await world.running.flush();
    expect(await sign({ of: 8 })).toEqual(first);
    expect([made, spent(), world.log.lines.length]).toEqual([1, 1n, records]);
  });

  it('is made once over a thousand repeats at the same time', async () => {
    const results = await Promise.all(Array.from({ length: 1_000 }, () => sign()));
    expect(new Set(results).size).toBe(1);
    expect([made, spent()]).toEqual([1, 1n]);
  });

  it.each(['flushed', 'not flushed'])('is remembered over a kill, %s', async how => {
    const first = await sign();
    if (how === 'flushed') await world.running.flush();
    await world.kill();
    expect(await sign({ of: 8 })).toEqual(first);
    expect([made, spent()]).toEqual([1, 1n]);
  });

  it('refuses other bytes, in flight, in memory and in the store', async () => {
    const other = 'cd'.repeat(32);
    const first = sign();
    expect(await code(sign({ message: other }))).toBe('IDEMPOTENCY_CONFLICT');
    await first;
    expect(await code(sign({ message: other }))).toBe('IDEMPOTENCY_CONFLICT');
    await world.kill();
    expect(await code(sign({ message: other }))).toBe('IDEMPOTENCY_CONFLICT');
    expect([made, spent()]).toEqual([1, 1n]);
  });

  it('does not keep a failure: who waited gets it, who repeats is judged anew', async () => {
    const fail = new KeyslotError('TOKEN_ERROR', 'The token failed.');
    const both = [sign({ fail }), sign()];
    expect(await Promise.all(both.map(code))).toEqual(['TOKEN_ERROR', 'TOKEN_ERROR']);
    await sign();
    expect([made, spent()]).toEqual([2, 1n]);
  });

  it('is taken over by the one that waits when the first is given up', async () => {
    const first = sign({ fail: new KeyslotError('REQUEST_ABORTED', 'The caller has gone.') });
    const second = sign({ of: 9 });
    expect(await code(first)).toBe('REQUEST_ABORTED');
    expect((await second).signature).toEqual(signature(9));
    expect([made, spent()]).toEqual([2, 1n]);
  });

  it('is forgotten after the retention', async () => {
    await sign();
    world.now_ms += day_ms - 1;
    await sign();
    expect(made).toBe(1);
    await world.running.flush();
    world.now_ms += 1;
    await sign();
    expect(made).toBe(2);
    await world.running.flush();
    expect(world.store.all('SELECT id FROM idempotency')).toHaveLength(1);
  });

  it('is another one for another identity, key, item of a batch, or request', () => {
    const ids = [
      namedSigning('alice', 'k'),
      namedSigning('bob', 'k'),
      namedSigning('alice', 'l'),
      namedSigning('alice', 'k', 1),
      namedSigning('alice', 'k","'),
      naturalSigning(request),
      naturalSigning({ ...request, actor: 'bob' }),
      naturalSigning({ ...request, requestId: 'r-2' }),
      naturalSigning({ ...request, key: 'other' }),
      naturalSigning({ ...request, message: 'cd'.repeat(32) }),
    ];
    expect(new Set(ids).size).toBe(ids.length);
    expect(namedSigning('alice', 'k', 0)).toBe(namedSigning('alice', 'k'));
  });

  it('is refused rather than made while results pile up that the store does not take', async () => {
    await world.kill({ unsaved_max: 2 });
    for (const key of ['a', 'b']) await sign({ id: namedSigning('alice', key) });
    expect(await code(sign({ id: namedSigning('alice', 'c') }))).toBe('STORE_FAILED');
    expect(await code(sign({ id: namedSigning('alice', 'b') }))).toBe('none');
    await world.running.flush();
    expect(await code(sign({ id: namedSigning('alice', 'c') }))).toBe('none');
    expect(made).toBe(3);
  });

  it('goes to the store in parts, with everything else going on in between', async () => {
    for (let at = 0; at < 1_200; at += 1) {
      const idempotency = namedSigning('alice', `key-${at}`);
      settle(world.log.append({ type: 'intent', ...request, idempotency }, world.now_ms), 'ok');
    }
    const flushed = world.running.flush();
    await turn();
    const [row] = world.store.all('SELECT count(*) AS rows FROM idempotency');
    expect(Number(row?.rows)).toBeLessThan(1_200);
    expect(await sign({ id: namedSigning('alice', 'key-1100') })).toMatchObject({ signature: signature() });
    await flushed;
    expect(world.store.all('SELECT count(*) AS rows FROM idempotency')).toEqual([{ rows: 1_200 }]);
    expect(made).toBe(0);
  });
});

describe('a request that is sent again after the custodian was lost', () => {
  beforeEach(() => world.start());

  it('gets the signature that was made, and its receipt', async () => {
    const recorded = settle(intend(), 'ok');
    await world.kill();
    expect(world.running.recovered(request)).toEqual(recorded);
    await world.running.flush();
    await world.kill();
    expect(world.running.recovered(request)).toEqual(recorded);
  });

  it('is known to be charged when nobody knows whether it was signed', async () => {
    intend();
    await world.kill();
    expect(world.running.recovered(request)).toEqual({ charged: true });
    // The repeat fails, and the custodian is lost again: the charge of the first still stands.
    const repeat = world.log.append({ type: 'intent', ...request }, world.now_ms);
    world.log.append({ type: 'result', intent: repeat.seq, outcome: 'failed' }, world.now_ms);
    await world.kill();
    expect(world.running.recovered(request)).toEqual({ charged: true });
    expect(spent()).toBe(1n);
  });

  it('is known to be signed as soon as the repeat is', async () => {
    intend();
    await world.kill();
    const repeat = world.log.append({ type: 'intent', ...request }, world.now_ms);
    const recorded = settle(repeat, 'ok');
    expect(world.running.recovered(request)).toEqual(recorded);
  });

  it('is a new one when it failed before, or when anything of it is another', async () => {
    settle(intend(1n, { requestId: 'failed' }), 'failed');
    settle(intend(), 'ok');
    await world.kill();
    expect(world.running.recovered({ ...request, requestId: 'failed' })).toBeUndefined();
    for (const other of [
      { requestId: 'r-2' },
      { actor: 'bob' },
      { key: 'other' },
      { message: 'cd'.repeat(32) },
    ]) {
      expect(world.running.recovered({ ...request, ...other })).toBeUndefined();
    }
  });

  it('is forgotten after ten minutes, running or not', async () => {
    settle(intend(), 'ok');
    world.now_ms += 10 * 60_000;
    await world.kill();
    expect(world.running.recovered(request)).toBeDefined();
    world.now_ms += 1;
    expect(world.running.recovered(request)).toBeUndefined();
    await world.kill();
    expect(world.running.recovered(request)).toBeUndefined();
  });

  it('of this start is not looked for here: its caller never lost its answer', () => {
    settle(intend(), 'ok');
    expect(world.running.recovered(request)).toBeUndefined();
  });
});

describe('the observer of the log', () => {
  it('takes records before the log was counted, each once', async () => {
    const { log } = world;
    log.append({ type: 'intent', charges: auditCharges(charges(5n)) }, start_ms);
    const ledger = await world.start();
    expect(spent()).toBe(5n);
    const [line] = log.lines;
    if (!line) throw new TypeError('The log is empty.');
    ledger.apply(line.record, Buffer.alloc(32));
    await ledger.flush();
    expect(world.store.all('SELECT amount FROM counters')).toEqual([{ amount: '5' }]);
  });

  it('settles nothing behind a gap, and the next start counts it', async () => {
    const ledger = await world.start();
    settle(intend(5n), 'ok');
    world.log.observer = () => undefined; // a record is lost on the way
    settle(intend(7n), 'ok');
    world.log.observer = ledger.apply;
    settle(intend(11n), 'ok');
    await ledger.flush();
    expect(world.store.all('SELECT amount FROM counters')).toEqual([{ amount: '5' }]);
    await world.kill();
    expect(spent()).toBe(23n);
  });
});

import { cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { AuditLog } from '../../src/audit/audit-log.ts';
import { openAuditLog } from '../../src/audit/open.ts';
import { Ledger, namedSigning } from '../../src/custodian/ledger.ts';
import { systemClock } from '../../src/foundation/clock.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { SlidingWindows } from '../../src/policy/windows.ts';
import { CounterRows } from '../../src/store/counters.ts';
import { IdempotencyRows } from '../../src/store/idempotency.ts';
import { Store } from '../../src/store/store.ts';
import { code, day_ms } from './ledger-world.ts';

let parent: string;
let folder: string;

beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'keyslot-ledger-audit-'));
  folder = join(parent, 'state');
  mkdirSync(folder);
});

afterEach(() => rmSync(parent, { recursive: true, force: true }));

/** Ledger and log as the custodian puts them together, over the files in `home`. */
async function start(home = folder) {
  const opened = new AsyncDisposableStack();
  const store = opened.use(new Store(join(home, 'keyslot.db')));
  const ledger = new Ledger({
    node: 'keyslot',
    windows: new SlidingWindows(() => Date.now()),
    counters: new CounterRows(store),
    idempotency: new IdempotencyRows(store),
    clock: systemClock,
    log: silentLog,
  });
  const audit: AuditLog = opened.use(
    await openAuditLog({
      folder: join(home, 'audit'),
      node: 'keyslot',
      segment_records: 4,
      checkpoint: { every_ms: 3_600_000, records: 1_000 },
      witnesses: [],
      log: silentLog,
      observe: ledger.apply,
    }),
  );
  opened.use(ledger);
  try {
    await ledger.recover(audit);
  } catch (error) {
    await opened.disposeAsync();
    throw error;
  }
  const spent = () => ledger.live.spent('treasury/daily/policy', day_ms);
  return { ledger, audit, spent, [Symbol.asyncDispose]: () => opened.disposeAsync() };
}

const charges = [{ counter: 'treasury/daily/policy', window_s: day_ms / 1_000, amount: '5' }];
const asked = {
  requestId: 'r-1',
  actor: 'alice',
  operation: 'sign-message',
  key: 'wallet',
  message: 'ab'.repeat(32),
};
const id = namedSigning('alice', 'payment-1');
const signature = Uint8Array.from(Buffer.alloc(64, 7));

async function signed(audit: AuditLog) {
  const intent = await audit.append({ type: 'intent', ...asked, charges, idempotency: id });
  const result = {
    intent: intent.seq,
    outcome: 'ok',
    signature: Buffer.from(signature).toString('base64'),
  } as const;
  return { signature, receipt: await audit.append({ type: 'result', ...asked, ...result }) };
}

const never = async () => {
  throw new TypeError('It was signed again.');
};

describe('the ledger over the audit log', () => {
  it('counts over kills what the log has, over segments, with the same receipts', async () => {
    const copy = join(parent, 'copy');
    let recorded: Awaited<ReturnType<typeof signed>>;
    {
      await using running = await start();
      recorded = await signed(running.audit);
      const failing = await running.audit.append({ type: 'intent', charges });
      await running.audit.append({ type: 'result', intent: failing.seq, outcome: 'failed' });
      await running.audit.append({ type: 'intent', charges });
      expect(await running.ledger.once(id, asked, never)).toEqual(recorded);
      // What a kill leaves: the files as they stand now.
      cpSync(folder, copy, { recursive: true, filter: source => !source.endsWith('lock') });
    }
    for (const home of [copy, copy, folder]) {
      await using running = await start(home);
      expect(running.spent()).toBe(10n);
      expect(await running.ledger.once(id, asked, never)).toEqual(recorded);
      expect(running.ledger.recovered(asked)).toEqual(recorded);
    }
  });

  it('refuses a log that was put back to what it was before', async () => {
    const before = join(parent, 'before');
    {
      await using running = await start();
      await signed(running.audit);
    }
    cpSync(join(folder, 'audit'), before, { recursive: true });
    {
      await using running = await start();
      for (let at = 0; at < 5; at += 1) await signed(running.audit);
    }
    rmSync(join(folder, 'audit'), { recursive: true });
    cpSync(before, join(folder, 'audit'), { recursive: true });
    expect(await code(start())).toBe('AUDIT_TAMPERED');
  });
});

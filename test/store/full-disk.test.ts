import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { keyId, slotId } from '../../src/custody/ids.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { CounterRows } from '../../src/store/counters.ts';
import { IdempotencyRows } from '../../src/store/idempotency.ts';
import { KeyRegistry } from '../../src/store/key-registry.ts';
import { StoredPolicies } from '../../src/store/policies.ts';
import { Store } from '../../src/store/store.ts';

let folder: string;
let store: Store;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keyslot-full-'));
  store = new Store(join(folder, 'keyslot.db'));
});

afterEach(() => {
  store[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

/** SQLite says SQLITE_FULL for a file that may not grow as it does for a disk without room. */
function full(): void {
  const [row] = store.all('PRAGMA page_count');
  store.all(`PRAGMA max_page_count = ${Number(row?.page_count)}`);
}
const roomAgain = () => store.all('PRAGMA max_page_count = 1000000');

async function code(work: () => unknown): Promise<string> {
  try {
    await work();
    return 'none';
  } catch (thrown) {
    if (isKeyslotError(thrown)) return thrown.code;
    throw thrown;
  }
}

const document = { description: 'x'.repeat(20_000) };
const policy = (name: string) =>
  new StoredPolicies(store).put({ name, source: 'api', document, at: new Date(0), by: 'admin' });
const reply = (id: number) => ({
  id: Buffer.alloc(32, id),
  digest: Buffer.alloc(32),
  output: 'x'.repeat(2_000),
  bytes: [],
  created_ms: 0,
  expires_ms: 1_000,
});

describe('a disk without room', () => {
  it('is STORE_FAILED for every write, and goes on by itself when there is room', async () => {
    await policy('treasury');
    full();
    expect(await code(() => policy('payroll'))).toBe('STORE_FAILED');
    expect((await new StoredPolicies(store).current()).map(({ name }) => name)).toEqual(['treasury']);
    roomAgain();
    expect(await code(() => policy('payroll'))).toBe('none');
  });

  it('keeps none of the replies of a batch that does not fit', async () => {
    const rows = new IdempotencyRows(store);
    full();
    const batch = Array.from({ length: 50 }, (_, id) => reply(id));
    expect(await code(() => rows.put(batch))).toBe('STORE_FAILED');
    for (const { id } of batch) expect(await rows.get(id, 0)).toBeUndefined();
    roomAgain();
    await rows.put(batch);
    expect(await rows.get(Buffer.alloc(32, 49), 0)).toMatchObject({ expires_ms: 1_000 });
  });

  it('moves neither counters nor their position when they do not fit together', async () => {
    const rows = new CounterRows(store);
    const hash = Buffer.alloc(32, 1);
    const change = (at: number) => ({
      counter: `c${at}`.repeat(200),
      window_ms: 1,
      start_ms: at,
      amount: 1n,
    });
    await rows.settle('node', { from: 0, to: { next: 1, hash }, changes: [change(0)] });
    full();
    const many = Array.from({ length: 100 }, (_, at) => change(at));
    const step = { from: 1, to: { next: 2, hash }, changes: many };
    expect(await code(() => rows.settle('node', step))).toBe('STORE_FAILED');
    expect(await rows.all()).toEqual([change(0)]);
    expect(await rows.position('node')).toEqual({ next: 1, hash });
    roomAgain();
    await rows.settle('node', step);
    expect((await rows.all())[0]).toEqual({ ...change(0), amount: 2n });
  });

  it('leaves the registry in memory as it is in the file', async () => {
    const registry = new KeyRegistry(store);
    registry.begin(keyId('wallet'), slotId('main'), 'generated', new Date(0));
    full();
    const tags = Array.from({ length: 500 }, (_, at) => `tag-${at}`);
    expect(await code(() => registry.setTags(keyId('wallet'), tags))).toBe('STORE_FAILED');
    expect(registry.get(keyId('wallet'))?.tags).toEqual([]);
    expect(new KeyRegistry(store).get(keyId('wallet'))?.tags).toEqual([]);
  });
});

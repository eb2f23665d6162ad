import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { StoredApiTokens } from '../../src/store/api-tokens.ts';
import { CounterRows } from '../../src/store/counters.ts';
import { Freezes } from '../../src/store/freezes.ts';
import { IdempotencyRows } from '../../src/store/idempotency.ts';
import { StoredIdentities } from '../../src/store/identities.ts';
import { StoredPolicies } from '../../src/store/policies.ts';
import { Store } from '../../src/store/store.ts';

let folder: string;
let store: Store;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keyslot-rows-'));
  store = new Store(join(folder, 'keyslot.db'));
});

afterEach(() => {
  store[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

/** What another process would find. */
function reopen(): void {
  store[Symbol.dispose]();
  store = new Store(join(folder, 'keyslot.db'));
}

async function code(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return 'none';
  } catch (thrown) {
    if (isKeyslotError(thrown)) return thrown.code;
    throw thrown;
  }
}

const at = new Date('2026-01-02T03:04:05.678Z');
const later = new Date('2026-01-03T03:04:05.678Z');

describe('stored policies', () => {
  const policies = () => new StoredPolicies(store);
  const put = (document: object, more: { name?: string; expected?: number } = {}) =>
    policies().put({ name: 'treasury', source: 'api', document: { ...document }, at, by: 'admin', ...more });

  it('keep every version, and give out the newest', async () => {
    await put({ cap: 1 });
    await put({ cap: 2 });
    await put({ cap: 3 }, { name: 'payroll' });
    reopen();
    expect(await policies().current()).toEqual([
      {
        name: 'payroll',
        version: 1,
        source: 'api',
        document: { cap: 3 },
        createdAt: at.toISOString(),
        createdBy: 'admin',
      },
      expect.objectContaining({ name: 'treasury', version: 2, document: { cap: 2 } }),
    ]);
    expect((await policies().get('treasury'))?.version).toBe(2);
    expect((await policies().get('treasury', 1))?.document).toEqual({ cap: 1 });
    expect(await policies().get('treasury', 3)).toBeUndefined();
    expect((await policies().versions('treasury')).map(({ version }) => version)).toEqual([2, 1]);
  });

  it('make no version of a document that is there already', async () => {
    await put({ cap: 1 });
    expect((await put({ cap: 1 })).version).toBe(1);
    const moved = await policies().put({
      name: 'treasury',
      source: 'configuration',
      document: { cap: 1 },
      at,
      by: 'keyslot',
    });
    expect(moved).toMatchObject({ version: 2, source: 'configuration' });
  });

  it('refuse a change of a version that is not the newest any more', async () => {
    expect(await code(put({ cap: 1 }, { expected: 1 }))).toBe('POLICY_CHANGED');
    await put({ cap: 1 }, { expected: 0 });
    expect(await code(put({ cap: 1 }, { expected: 0 }))).toBe('POLICY_CHANGED');
    await put({ cap: 2 }, { expected: 1 });
    expect(await code(put({ cap: 3 }, { expected: 1 }))).toBe('POLICY_CHANGED');
    expect((await policies().get('treasury'))?.document).toEqual({ cap: 2 });
  });

  it('of a deleted policy can be read, and its numbers go on', async () => {
    expect(await code(policies().remove('treasury', at))).toBe('POLICY_UNKNOWN');
    await put({ cap: 1 });
    expect(await policies().remove('treasury', later)).toMatchObject({ deletedAt: later.toISOString() });
    expect(await policies().current()).toEqual([]);
    expect(await policies().get('treasury')).toBeUndefined();
    expect((await policies().get('treasury', 1))?.deletedAt).toBe(later.toISOString());
    expect(await code(policies().remove('treasury', at))).toBe('POLICY_UNKNOWN');
    expect((await put({ cap: 1 }, { expected: 0 })).version).toBe(2);
    expect((await policies().current()).map(({ version }) => version)).toEqual([2]);
  });
});

describe('stored identities and their tokens', () => {
  const identities = () => new StoredIdentities(store);
  const tokens = () => new StoredApiTokens(store);
  const alice = {
    name: 'alice',
    roles: ['signer'],
    grants: [{ tags: ['treasury'], operations: ['sign-transaction'] }],
    recognisedBy: { jwt: 'corporate', subject: 'alice' },
    createdAt: at.toISOString(),
    createdBy: 'admin',
  };
  const token = (id: string, identity = 'alice') => ({
    id,
    identity,
    label: 'ci',
    hash: Uint8Array.from(Buffer.from(id.padEnd(32))),
    createdAt: at.toISOString(),
    createdBy: 'admin',
    expiresAt: later.toISOString(),
  });

  it('are found again as they were put', async () => {
    const { recognisedBy: _none, ...bob } = { ...alice, name: 'bob' };
    await identities().put(bob);
    await identities().put(alice);
    await tokens().insert(token('one'));
    reopen();
    expect(await identities().all()).toEqual([alice, bob]);
    expect(await tokens().all()).toEqual([token('one')]);
    expect(await code(identities().put({ ...alice, roles: ['admin'] }))).toBe('IDENTITY_EXISTS');
    expect((await identities().all())[0]?.roles).toEqual(['signer']);
  });

  it('end together: another identity of the name does not get the tokens', async () => {
    await identities().put(alice);
    await tokens().insert(token('one'));
    await tokens().insert(token('two', 'bob'));
    await identities().remove('alice');
    expect((await tokens().all()).map(({ id }) => id)).toEqual(['two']);
    expect(await code(identities().remove('alice'))).toBe('IDENTITY_UNKNOWN');
  });

  it('are revoked once, and for good', async () => {
    await tokens().insert(token('one'));
    await tokens().revoke('one', at);
    await tokens().revoke('one', later);
    reopen();
    expect((await tokens().all())[0]?.revokedAt).toBe(at.toISOString());
    expect(await code(tokens().revoke('two', at))).toBe('API_TOKEN_UNKNOWN');
    expect(await code(tokens().insert({ ...token('three'), hash: token('one').hash }))).toBe('STORE_FAILED');
  });
});

describe('freezes', () => {
  const freezes = () => new Freezes(store);
  const slot = {
    id: 'slot/main',
    scope: 'slot' as const,
    target: 'main',
    reason: 'an incident',
    since: at.toISOString(),
    by: 'alice',
  };

  it('hold until they are lifted, over a restart', async () => {
    const everything = {
      id: 'appliance',
      scope: 'appliance' as const,
      reason: 'x',
      since: later.toISOString(),
      by: 'bob',
    };
    await freezes().put(everything);
    await freezes().put(slot);
    reopen();
    expect(await freezes().all()).toEqual([slot, everything]);
    expect(await freezes().remove('appliance')).toEqual(everything);
    expect(await freezes().all()).toEqual([slot]);
    expect(await code(freezes().remove('appliance'))).toBe('FREEZE_UNKNOWN');
  });

  it('stay as they were when somebody freezes the same again', async () => {
    await freezes().put(slot);
    expect(await freezes().put({ ...slot, reason: 'another', by: 'bob' })).toEqual(slot);
    expect(await freezes().all()).toEqual([slot]);
  });
});

describe('counter rows', () => {
  const hash = (of: number) => Buffer.alloc(32, of);

  it('are the sums of their changes, whatever they are and however they come together', async () => {
    const change = fc.record({
      counter: fc.constantFrom('a', 'b/c', ''),
      window_ms: fc.constantFrom(1_000, 86_400_000),
      start_ms: fc.constantFrom(0, 60_000),
      amount: fc.bigInt({ min: 1n, max: 2n ** 70n }),
    });
    let from = 0;
    const sums = new Map<string, bigint>();
    await fc.assert(
      fc.asyncProperty(fc.array(change, { maxLength: 8 }), async changes => {
        await new CounterRows(store).settle('node', { from, to: { next: from + 1, hash: hash(0) }, changes });
        from += 1;
        for (const { counter, window_ms, start_ms, amount } of changes) {
          const name = JSON.stringify([counter, window_ms, start_ms]);
          sums.set(name, (sums.get(name) ?? 0n) + amount);
        }
        const rows = (await new CounterRows(store).all()).map(
          row => [JSON.stringify([row.counter, row.window_ms, row.start_ms]), row.amount] as const,
        );
        expect(new Map(rows)).toEqual(sums);
      }),
      { numRuns: 20 },
    );
  });

  it('go away when all of them was taken back, and never below nothing', async () => {
    const rows = new CounterRows(store);
    const bucket = { counter: 'a', window_ms: 1_000, start_ms: 0 };
    const settle = (from: number, amount: bigint) =>
      rows.settle('node', {
        from,
        to: { next: from + 1, hash: hash(from) },
        changes: [{ ...bucket, amount }],
      });
    await settle(0, 5n);
    await settle(1, -2n);
    expect(await rows.all()).toEqual([{ ...bucket, amount: 3n }]);
    await settle(2, -4n);
    expect(await rows.all()).toEqual([]);
    await settle(3, -4n);
    expect(await rows.all()).toEqual([]);
    expect(await rows.position('node')).toEqual({ next: 4, hash: hash(3) });
    expect(await rows.position('another')).toBeUndefined();
  });

  it('take no step from a position that is not theirs, so that nothing is added twice', async () => {
    const rows = new CounterRows(store);
    const step = {
      from: 0,
      to: { next: 7, hash: hash(7) },
      changes: [{ counter: 'a', window_ms: 1, start_ms: 0, amount: 1n }],
    };
    await rows.settle('node', step);
    expect(await code(rows.settle('node', step))).toBe('STORE_FAILED');
    expect((await rows.all())[0]?.amount).toBe(1n);
  });

  it('expire when no window can reach them, a few at a time', async () => {
    const rows = new CounterRows(store);
    const changes = [0, 1_000, 2_000].map(start_ms => ({
      counter: 'a',
      window_ms: 1_000,
      start_ms,
      amount: 1n,
    }));
    await rows.settle('node', { from: 0, to: { next: 1, hash: hash(1) }, changes });
    expect(await rows.expire(2_000, 10)).toBe(0);
    expect(await rows.expire(3_001, 1)).toBe(1);
    expect(await rows.expire(3_001, 1)).toBe(1);
    expect(await rows.expire(3_001, 1)).toBe(0);
    expect((await rows.all()).map(({ start_ms }) => start_ms)).toEqual([2_000]);
  });
});

describe('idempotency rows', () => {
  const row = (id: number, expires_ms = 1_000, bytes: readonly Uint8Array[] = []) => ({
    id: Uint8Array.from(Buffer.alloc(32, id)),
    digest: Uint8Array.from(Buffer.alloc(32, 9)),
    output: { kind: 'bytes', nested: [1, 'two', null] },
    bytes,
    created_ms: 0,
    expires_ms,
  });

  it('are found as they were put, with as many byte strings, however long', async () => {
    const rows = new IdempotencyRows(store);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 4 }), async bytes => {
        await rows.put([row(1, 1_000, bytes)]);
        const found = await rows.get(row(1).id, 0);
        expect(found).toMatchObject({ output: row(1).output, digest: row(1).digest, created_ms: 0 });
        expect(found?.bytes.map(each => [...each])).toEqual(bytes.map(each => [...each]));
      }),
      { numRuns: 20 },
    );
  });

  it('are not found when they have expired, removed or not', async () => {
    const rows = new IdempotencyRows(store);
    await rows.put([row(1, 1_000), row(2, 1_000), row(3, 2_000)]);
    expect(await rows.get(row(1).id, 999)).toBeDefined();
    expect(await rows.get(row(1).id, 1_000)).toBeUndefined();
    expect(await rows.get(row(4).id, 0)).toBeUndefined();
    expect(await rows.expire(999, 10)).toBe(0);
    expect(await rows.expire(1_000, 1)).toBe(1);
    expect(await rows.expire(1_000, 10)).toBe(1);
    expect(store.all('SELECT expires_ms FROM idempotency')).toEqual([{ expires_ms: 2_000 }]);
  });
});

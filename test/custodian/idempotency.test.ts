import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Answer, Idempotency, type RepeatableCall } from '../../src/custodian/idempotency.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { IdempotencyRows } from '../../src/store/idempotency.ts';
import { Store } from '../../src/store/store.ts';
import { code, day_ms, start_ms } from './ledger-world.ts';

let folder: string;
let store: Store;
let idempotency: Idempotency;
let now_ms = start_ms;
let made = 0;

beforeEach(() => {
  now_ms = start_ms;
  made = 0;
  folder = mkdtempSync(join(tmpdir(), 'keyslot-idempotency-'));
  open();
});

afterEach(() => {
  close();
  rmSync(folder, { recursive: true, force: true });
});

function open(): void {
  store = new Store(join(folder, 'keyslot.db'));
  const clock = { monotonic_ms: () => now_ms, utc: () => new Date(now_ms) };
  idempotency = new Idempotency({ rows: new IdempotencyRows(store), clock, held_max: 3 });
}

function close(): void {
  idempotency[Symbol.dispose]();
  store[Symbol.dispose]();
}

function restart(): void {
  close();
  open();
}

const call = (more: Partial<RepeatableCall> = {}): RepeatableCall => ({
  identity: 'alice',
  operation: 'generate-key',
  input: { key: 'wallet', slot: 'main' },
  idempotencyKey: 'k-1',
  ...more,
});

/** Each time it is really made, the answer is another. */
const make = (more: Partial<RepeatableCall> = {}, bytes?: readonly Uint8Array[]): Promise<Answer> =>
  idempotency.once(call(more), async () => {
    made += 1;
    await turn();
    return { output: { made }, ...(bytes ? { bytes } : {}) };
  });

const secret = () => Uint8Array.from(Buffer.from('kst_a-token-that-nobody-may-read'));
const pin = (text = '4711') => [Uint8Array.from(Buffer.from(text))];

/** Everything that stands in the files of the store. */
const written = () => Buffer.concat(readdirSync(folder).map(name => readFileSync(join(folder, name))));

describe('a call under an Idempotency-Key', () => {
  it('is made once, and answered the same as often as it is repeated', async () => {
    expect(await make()).toEqual({ output: { made: 1 } });
    expect(await make()).toEqual({ output: { made: 1 } });
    restart();
    expect(await make()).toEqual({ output: { made: 1 } });
    expect(made).toBe(1);
  });

  it('is made once when its repeats come while it is made', async () => {
    const answers = await Promise.all(Array.from({ length: 100 }, () => make()));
    expect(answers).toEqual(answers.map(() => ({ output: { made: 1 } })));
  });

  it('is the same call in whatever order its fields were sent', async () => {
    await make({ input: { slot: 'main', key: 'wallet', tags: ['a', 'b'] } });
    expect(await make({ input: { tags: ['a', 'b'], key: 'wallet', slot: 'main' } })).toEqual({
      output: { made: 1 },
    });
    expect(await code(make({ input: { tags: ['b', 'a'], key: 'wallet', slot: 'main' } }))).toBe(
      'IDEMPOTENCY_CONFLICT',
    );
  });

  it('refuses its key for another call, while it is made, after it, and after a restart', async () => {
    const others = [{ operation: 'adopt-key' }, { input: { key: 'other', slot: 'main' } }, { bytes: pin() }];
    const first = make();
    for (const other of others) expect(await code(make(other))).toBe('IDEMPOTENCY_CONFLICT');
    await first;
    for (const other of others) expect(await code(make(other))).toBe('IDEMPOTENCY_CONFLICT');
    restart();
    for (const other of others) expect(await code(make(other))).toBe('IDEMPOTENCY_CONFLICT');
    expect(made).toBe(1);
  });

  it('is another call for another identity or under another key', async () => {
    await make();
    expect(await make({ identity: 'bob' })).toEqual({ output: { made: 2 } });
    expect(await make({ idempotencyKey: 'k-2' })).toEqual({ output: { made: 3 } });
  });

  it('is made again after the retention', async () => {
    await make();
    now_ms += day_ms - 1;
    await make();
    expect(made).toBe(1);
    now_ms += 1;
    expect(await make()).toEqual({ output: { made: 2 } });
  });

  it('is made again when it failed', async () => {
    const fails = async () => {
      throw new KeyslotError('KEY_EXISTS', 'The key exists.');
    };
    expect(await code(idempotency.once(call(), fails))).toBe('KEY_EXISTS');
    expect(await make()).toEqual({ output: { made: 1 } });
  });

  it('is not answered before its answer is durable, and then not made again', async () => {
    store.run("CREATE TRIGGER full BEFORE INSERT ON idempotency BEGIN SELECT RAISE(ABORT, 'full'); END");
    expect(await code(make())).toBe('STORE_FAILED');
    expect(await make()).toEqual({ output: { made: 1 } });
  });

  it('is not made while nobody can say whether it was', async () => {
    store[Symbol.dispose]();
    expect(await code(make())).toBe('STORE_FAILED');
    expect(made).toBe(0);
  });

  it('answers each repeat with a copy of its own', async () => {
    const answer = await make({}, [secret()]);
    answer.bytes?.[0]?.fill(0);
    const again = await make();
    expect(again.bytes?.map(each => Buffer.from(each).toString())).toEqual([
      Buffer.from(secret()).toString(),
    ]);
    again.bytes?.[0]?.fill(0);
    expect((await make()).bytes?.map(each => [...each])).toEqual([[...secret()]]);
  });
});

describe('a call whose answer holds a secret', () => {
  it('is answered again for ten minutes, and then refused rather than made again', async () => {
    await make({}, [secret()]);
    now_ms += 10 * 60_000 - 1;
    expect((await make()).bytes).toHaveLength(1);
    now_ms += 1;
    expect(await code(make())).toBe('IDEMPOTENCY_CONFLICT');
    expect(made).toBe(1);
    now_ms += day_ms;
    expect(await make()).toEqual({ output: { made: 2 } });
  });

  it('is refused after a restart', async () => {
    await make({}, [secret()]);
    restart();
    expect(await code(make())).toBe('IDEMPOTENCY_CONFLICT');
    expect(made).toBe(1);
  });

  it('is refused when so many came after it that its answer was let go', async () => {
    await make({}, [secret()]);
    for (const other of ['a', 'b', 'c']) await make({ idempotencyKey: other }, [secret()]);
    expect(await code(make())).toBe('IDEMPOTENCY_CONFLICT');
    expect((await make({ idempotencyKey: 'c' })).bytes).toHaveLength(1);
  });

  it('leaves none of it in the store', async () => {
    await make({}, [secret()]);
    await make({ idempotencyKey: 'k-2' });
    expect(written().includes('"made":2')).toBe(true);
    expect(written().includes('"made":1')).toBe(false);
    expect(written().includes(Buffer.from(secret()))).toBe(false);
  });
});

describe('a call that carries a PIN or a seed', () => {
  it('is answered again while this process lives, and refused with another PIN', async () => {
    await make({ bytes: pin() });
    expect(await make({ bytes: pin() })).toEqual({ output: { made: 1 } });
    expect(await code(make({ bytes: pin('4712') }))).toBe('IDEMPOTENCY_CONFLICT');
    expect(await code(make({ bytes: [...pin('47'), ...pin('11')] }))).toBe('IDEMPOTENCY_CONFLICT');
    expect(await code(make())).toBe('IDEMPOTENCY_CONFLICT');
    expect(made).toBe(1);
  });

  it('is known by its PIN although its bytes are wiped while it is made', async () => {
    const bytes = pin();
    const first = make({ bytes });
    bytes[0]?.fill(0);
    await first;
    expect(await make({ bytes: pin() })).toEqual({ output: { made: 1 } });
  });

  it('leaves nothing in the store, not even a digest to guess at', async () => {
    await make({ bytes: pin() });
    expect(store.all('SELECT * FROM idempotency')).toEqual([]);
    restart();
    expect(await make({ bytes: pin('4712') })).toEqual({ output: { made: 2 } });
  });
});

import { describe, expect, it } from 'vitest';
import { SessionPool } from '../../../src/engines/pkcs11/pool.ts';
import { KeyslotError } from '../../../src/foundation/errors.ts';

/** A pool over numbered handles; `opened` and `discarded` say what it did with them. */
function poolOf(
  size: number,
  options: {
    queue_max?: number;
    open?: () => void;
    call_ms?: number;
    hung?: Set<object>;
    whenHung?: () => void;
    isFull?: () => boolean;
  } = {},
) {
  const opened: Buffer[] = [];
  const discarded: Buffer[] = [];
  const pool = new SessionPool({
    ...options,
    size,
    queue_max: options.queue_max ?? 100,
    open: () => {
      options.open?.();
      const handle = Buffer.alloc(8, opened.length + 1);
      opened.push(handle);
      return handle;
    },
    discard: handle => discarded.push(handle),
  });
  return { pool, opened, discarded };
}

const held = () => Promise.withResolvers<void>();

describe('the session pool', () => {
  it('opens sessions only as they are needed and never more than its size', async () => {
    const { pool, opened } = poolOf(2);
    await pool.use(async () => undefined);
    await pool.use(async () => undefined);
    expect(opened).toHaveLength(1);
    const gate = held();
    const all = Array.from({ length: 10 }, () => pool.use(() => gate.promise));
    expect(opened).toHaveLength(2);
    gate.resolve();
    await Promise.all(all);
    expect(opened).toHaveLength(2);
  });

  it('serves who waits in the order in which they came', async () => {
    const { pool } = poolOf(1);
    const order: number[] = [];
    await Promise.all([1, 2, 3, 4].map(n => pool.use(async () => void order.push(n))));
    expect(order).toEqual([1, 2, 3, 4]);
  });

  it('never lends one session to two at a time', async () => {
    const { pool } = poolOf(3);
    const lent = new Set<string>();
    await Promise.all(
      Array.from({ length: 200 }, (_, n) =>
        pool
          .use(async session => {
            const name = session.toString('hex');
            expect(lent.has(name)).toBe(false);
            lent.add(name);
            await new Promise(resolve => setImmediate(resolve));
            lent.delete(name);
            if (n % 7 === 0) throw new Error('spoiled');
          })
          .catch(() => undefined),
      ),
    );
  });

  it('throws a session away after a failure and opens a fresh one for who is next', async () => {
    const { pool, opened, discarded } = poolOf(1);
    await expect(pool.use(() => Promise.reject(new Error('half-way')))).rejects.toThrow('half-way');
    const used = await pool.use(async session => session);
    expect(discarded).toEqual([opened[0]]);
    expect(used).toEqual(opened[1]);
  });

  it('refuses with SLOT_BUSY instead of growing its queue', async () => {
    const { pool } = poolOf(1, { queue_max: 2 });
    const gate = held();
    const running = [1, 2, 3].map(() => pool.use(() => gate.promise));
    await expect(pool.use(async () => undefined)).rejects.toMatchObject({
      code: 'SLOT_BUSY',
      retryAfter_s: 1,
    });
    gate.resolve();
    await Promise.all(running);
  });

  it('lets go of who aborts while waiting, and of nobody else', async () => {
    const { pool } = poolOf(1);
    const gate = held();
    const first = pool.use(() => gate.promise);
    const abort = new AbortController();
    const aborted = pool.use(async () => 'never', abort.signal);
    const patient = pool.use(async () => 'served');
    abort.abort();
    await expect(aborted).rejects.toMatchObject({ code: 'REQUEST_ABORTED' });
    gate.resolve();
    await first;
    expect(await patient).toBe('served');
  });

  it('refuses everybody who waits when no session can be opened any more', async () => {
    let dead = false;
    const { pool } = poolOf(1, {
      open: () => {
        if (dead) throw new Error('device gone');
      },
    });
    const gate = held();
    const first = pool.use(async () => {
      await gate.promise;
      dead = true;
      throw new Error('device gone');
    });
    const waiting = [1, 2, 3].map(() => pool.use(async () => undefined));
    gate.resolve();
    const outcomes = await Promise.allSettled([first, ...waiting]);
    expect(outcomes.map(outcome => outcome.status)).toEqual(['rejected', 'rejected', 'rejected', 'rejected']);
  });

  it('drains: refuses new work and who waits, and resolves when the last one has finished', async () => {
    const { pool } = poolOf(1);
    const gate = held();
    const running = pool.use(() => gate.promise);
    const waiting = pool.use(async () => undefined);
    const drained = pool.drain(10_000);
    await expect(waiting).rejects.toMatchObject({ code: 'SESSION_CLOSED' });
    await expect(pool.use(async () => undefined)).rejects.toMatchObject({ code: 'SESSION_CLOSED' });
    gate.resolve();
    await running;
    expect(await drained).toBe(true);
    expect(pool.takeAll()).toHaveLength(1);
  });

  it('waits in a drain for who was handed a session and has not begun yet', async () => {
    const { pool } = poolOf(1);
    const gate = held();
    let finished = false;
    const first = pool.use(() => gate.promise);
    const second = pool.use(async () => {
      await new Promise(resolve => setTimeout(resolve, 20));
      finished = true;
    });
    gate.resolve();
    await first; // the session is on its way to the second now
    expect(await pool.drain(10_000)).toBe(true);
    expect(finished).toBe(true);
    await second;
  });

  it('says so when a call does not come back', async () => {
    const { pool } = poolOf(1);
    void pool.use(() => new Promise(() => undefined));
    expect(await pool.drain(20)).toBe(false);
  });

  it('writes a session off whose call does not come back, and closes it once it has', async () => {
    const hung = new Set<object>();
    const toldOf: number[] = [];
    const { pool, opened, discarded } = poolOf(2, {
      call_ms: 20,
      hung,
      whenHung: () => toldOf.push(hung.size),
    });
    const gate = held();
    const wiped = held();
    const late = pool.use(async () => {
      await gate.promise;
      return { [Symbol.dispose]: () => wiped.resolve() };
    });
    await expect(late).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    expect(toldOf).toEqual([1]);
    expect([pool.writtenOff, pool.exhausted]).toEqual([1, false]);
    expect(await pool.use(async session => session)).toEqual(opened[1]); // the others go on
    expect(discarded).toEqual([]);
    gate.resolve();
    await wiped.promise; // a secret that nobody takes any more
    expect(await pool.settled(10_000)).toBe(true);
    expect(discarded).toEqual([opened[0]]);
    expect([hung.size, pool.writtenOff]).toEqual([0, 0]);
  });

  it('is exhausted when every session has been written off, and not any more when one is back', async () => {
    const { pool } = poolOf(2, { call_ms: 20 });
    const gate = held();
    const late = [1, 2].map(() => pool.use(() => gate.promise));
    await Promise.allSettled(late);
    expect(pool.exhausted).toBe(true);
    gate.resolve();
    await pool.settled(10_000);
    expect(pool.exhausted).toBe(false);
    expect(await pool.use(async () => 'again')).toBe('again');
  });

  it('lets everybody wait while it is paused, however many paused it', async () => {
    const { pool } = poolOf(1);
    const [first, second] = [pool.pause(), pool.pause()];
    let served = false;
    const waiting = pool.use(async () => {
      served = true;
    });
    first();
    first(); // a second time is none
    await new Promise(resolve => setImmediate(resolve));
    expect(served).toBe(false);
    second();
    await waiting;
  });

  it('turns away who waits and who comes until it admits again', async () => {
    const { pool } = poolOf(1);
    const resume = pool.pause();
    const waiting = pool.use(async () => undefined);
    pool.refuse(() => new KeyslotError('TOKEN_UNAVAILABLE', 'The token is away.'));
    const away = { code: 'TOKEN_UNAVAILABLE' };
    await expect(waiting).rejects.toMatchObject(away);
    await expect(pool.use(async () => undefined)).rejects.toMatchObject(away);
    pool.admit();
    const patient = pool.use(async () => 'served');
    resume();
    expect(await patient).toBe('served');
  });

  it('never touches a session again that was lent before all were forgotten', async () => {
    const { pool, opened, discarded } = poolOf(2);
    const gate = held();
    const [spoiled, fine] = [
      pool.use(async () => {
        await gate.promise;
        throw new Error('half-way');
      }),
      pool.use(() => gate.promise),
    ];
    pool.forget(false);
    const fresh = await Promise.all([1, 2].map(() => pool.use(async session => session)));
    expect(fresh).toEqual([opened[2], opened[3]]);
    gate.resolve();
    await expect(spoiled).rejects.toThrow('half-way');
    await fine;
    expect(discarded).toEqual([]);
    const next = await Promise.all([1, 2].map(() => pool.use(async session => session)));
    expect(new Set(next)).toEqual(new Set(fresh));
  });

  it('makes do with the sessions that a token gives when it gives no more', async () => {
    let opened = 0;
    const { pool } = poolOf(4, {
      isFull: () => true,
      open: () => {
        if (opened === 2) throw new Error('no session left');
        opened += 1;
      },
    });
    const served = await Promise.all(Array.from({ length: 20 }, (_, n) => pool.use(async () => n)));
    expect(served).toHaveLength(20);
  });
});

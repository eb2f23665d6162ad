import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { Gate } from '../../../src/engines/kms/gate.ts';
import { KeyslotError } from '../../../src/foundation/errors.ts';

describe('the gate before KMS', () => {
  it('lets no more through than its number, in the order in which they came', async () => {
    const gate = new Gate(3, 100);
    const order: number[] = [];
    let running = 0;
    await Promise.all(
      Array.from({ length: 50 }, (_, at) =>
        gate.pass(async () => {
          running += 1;
          expect(running).toBeLessThanOrEqual(3);
          order.push(at);
          await nextTurn();
          running -= 1;
        }),
      ),
    );
    expect(order).toEqual(Array.from({ length: 50 }, (_, at) => at));
  });

  it('answers SLOT_BUSY when too many wait, and goes on when they are through', async () => {
    const gate = new Gate(1, 2);
    const held = Promise.withResolvers<void>();
    const admitted = [1, 2, 3].map(() => gate.pass(() => held.promise));
    await expect(gate.pass(async () => undefined)).rejects.toMatchObject({ code: 'SLOT_BUSY' });
    held.resolve();
    await Promise.all(admitted);
    expect(await gate.pass(async () => 'through')).toBe('through');
  });

  it('lets go of who is aborted while waiting, and gives the place on when work fails', async () => {
    const gate = new Gate(1, 10);
    const held = Promise.withResolvers<void>();
    const first = gate.pass(() => held.promise);
    const controller = new AbortController();
    const leaving = gate.pass(async () => 'never', controller.signal);
    const staying = gate.pass(async () => 'served', controller.signal);
    const other = gate.pass(async () => 'other');
    controller.abort();
    await expect(leaving).rejects.toMatchObject({ code: 'REQUEST_ABORTED' });
    await expect(staying).rejects.toMatchObject({ code: 'REQUEST_ABORTED' });
    held.reject(new Error('broken'));
    await expect(first).rejects.toThrow('broken');
    expect(await other).toBe('other');
    await expect(gate.pass(async () => 'never', AbortSignal.abort())).rejects.toMatchObject({
      code: 'REQUEST_ABORTED',
    });
  });

  it('sends away who waits and leaves what runs alone', async () => {
    const gate = new Gate(1, 10);
    const held = Promise.withResolvers<string>();
    const running = gate.pass(() => held.promise);
    const waiting = [gate.pass(async () => 'never'), gate.pass(async () => 'never')];
    gate.refuseWaiting(new KeyslotError('SESSION_CLOSED', 'Closed.'));
    for (const each of waiting) await expect(each).rejects.toMatchObject({ code: 'SESSION_CLOSED' });
    held.resolve('finished');
    expect(await running).toBe('finished');
  });
});

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { noRoom } from '../../src/policy/verdict.ts';
import { SlidingWindows } from '../../src/policy/windows.ts';

const hour_ms = 3_600_000;
const charge = (amount: bigint, counter = 'c', window_ms = hour_ms) => [{ counter, window_ms, amount }];

/** Windows on a clock that the test holds. */
function windowsAt(start_ms: number, options?: { counters_max?: number }) {
  const clock = { now_ms: start_ms };
  return { clock, windows: new SlidingWindows(() => clock.now_ms, options) };
}

describe('a sliding window', () => {
  it('counts what was charged until all of it has left, and not much longer', () => {
    const { clock, windows } = windowsAt(1_000_000);
    windows.charge(charge(7n), clock.now_ms);
    clock.now_ms += hour_ms;
    expect(windows.spent('c', hour_ms)).toBe(7n);
    clock.now_ms += hour_ms / 60;
    expect(windows.spent('c', hour_ms)).toBe(0n);
  });

  it('keeps counters and lengths apart', () => {
    const { clock, windows } = windowsAt(0);
    windows.charge([...charge(7n), ...charge(3n, 'd'), ...charge(1n, 'c', 60_000)], clock.now_ms);
    expect(windows.spent('c', hour_ms)).toBe(7n);
    expect(windows.spent('d', hour_ms)).toBe(3n);
    expect(windows.spent('c', 60_000)).toBe(1n);
    expect(windows.spent('e', hour_ms)).toBe(0n);
  });

  it('gives back what nothing was signed for, and never more', () => {
    const { clock, windows } = windowsAt(5_000_000);
    const at_ms = clock.now_ms;
    windows.charge(charge(7n), at_ms);
    clock.now_ms += hour_ms / 2;
    windows.charge(charge(2n), clock.now_ms);
    windows.refund(charge(7n), at_ms);
    expect(windows.spent('c', hour_ms)).toBe(2n);
    windows.refund(charge(7n), at_ms);
    windows.refund(charge(7n, 'unknown'), at_ms);
    expect(windows.spent('c', hour_ms)).toBe(2n);
  });

  it('waits for a clock that goes backwards', () => {
    const { clock, windows } = windowsAt(100 * hour_ms);
    windows.charge(charge(7n), clock.now_ms);
    clock.now_ms -= 50 * hour_ms;
    expect(windows.spent('c', hour_ms)).toBe(7n);
    windows.charge(charge(2n), clock.now_ms);
    clock.now_ms += 51 * hour_ms - 1;
    expect(windows.spent('c', hour_ms)).toBe(9n);
  });

  it('comes back from its snapshot', () => {
    const { clock, windows } = windowsAt(7_777_777);
    windows.charge(charge(2n ** 70n), clock.now_ms);
    clock.now_ms += hour_ms / 3;
    windows.charge([...charge(5n), ...charge(1n, 'd')], clock.now_ms);
    const rows = windows.snapshot();
    const second = new SlidingWindows(() => clock.now_ms);
    second.restore(JSON.parse(JSON.stringify(rows)));
    expect(second.snapshot()).toEqual(rows);
    expect(second.spent('c', hour_ms)).toBe(2n ** 70n + 5n);
    expect(second.spent('d', hour_ms)).toBe(1n);
  });

  it('drops counters that nothing is left of, and never live ones', () => {
    const { clock, windows } = windowsAt(hour_ms, { counters_max: 2 });
    windows.charge(charge(1n, 'a'), clock.now_ms);
    clock.now_ms += hour_ms;
    windows.charge(charge(1n, 'b'), clock.now_ms);
    expect(windows.spent('new', hour_ms)).toBe(noRoom);
    expect(windows.spent('a', hour_ms)).toBe(1n);
    clock.now_ms += hour_ms / 2;
    expect(windows.spent('new', hour_ms)).toBe(0n);
    expect(windows.spent('b', hour_ms)).toBe(1n);
    expect(windows.size).toBe(1);
  });

  it('never lets more than the cap through within any stretch of its length', () => {
    const steps = fc.array(fc.tuple(fc.integer({ min: 0, max: 900 }), fc.bigInt({ min: 0n, max: 60n })), {
      maxLength: 200,
    });
    const lengths = fc.constantFrom(1, 59, 60, 1_000, 3_599, 7_200);
    fc.assert(
      fc.property(steps, lengths, fc.integer({ min: 0, max: 10_000 }), (events, window_ms, start_ms) => {
        const cap = 100n;
        const { clock, windows } = windowsAt(start_ms);
        const passed: { at_ms: number; amount: bigint }[] = [];
        for (const [pause_ms, amount] of events) {
          clock.now_ms += pause_ms;
          if (windows.spent('c', window_ms) + amount > cap) continue;
          windows.charge(charge(amount, 'c', window_ms), clock.now_ms);
          passed.push({ at_ms: clock.now_ms, amount });
          // Counted anew from the list, without buckets.
          const within = passed.filter(({ at_ms }) => at_ms >= clock.now_ms - window_ms);
          expect(within.reduce((sum, one) => sum + one.amount, 0n) <= cap).toBe(true);
        }
      }),
      { numRuns: 200 },
    );
  });

  it('forgets by the time that two windows have passed', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 10_000_000 }),
        fc.integer({ min: 0, max: 10_000_000 }),
        (window_ms, at) => {
          const { clock, windows } = windowsAt(at);
          windows.charge(charge(1n, 'c', window_ms), at);
          clock.now_ms = at + 2 * window_ms;
          expect(windows.spent('c', window_ms)).toBe(0n);
        },
      ),
    );
  });
});

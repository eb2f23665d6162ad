import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Crowd } from '../../src/custodian/crowd.ts';
import { Device, Gate } from './device.ts';
import { HeldClock, Lab, refusal, text } from './lab.ts';

describe('a crowd', () => {
  const slot = { places: 4, work_ms: 20 };

  it('is none while a wait of 75 ms is enough, or of half of what the work takes', () => {
    const crowd = new Crowd(new HeldClock());
    expect(crowd.tooLong(19, slot)).toBeUndefined();
    expect(crowd.tooLong(12, { places: 8, work_ms: 1_000 })).toBeUndefined();
  });

  it('of a moment is let in, as long as it takes a second in all', () => {
    const crowd = new Crowd(new HeldClock());
    expect(crowd.tooLong(204, slot)).toBeUndefined();
    expect(crowd.tooLong(205, slot)).toBe(1_005);
  });

  it('that lasts is turned away down to what is bearable, until it has been quiet for a while', () => {
    const clock = new HeldClock();
    const crowd = new Crowd(clock);
    expect(crowd.tooLong(30, slot)).toBeUndefined();
    clock.advance(500);
    expect(crowd.tooLong(30, slot)).toBe(130);
    expect(crowd.tooLong(19, slot)).toBeUndefined();
    expect(crowd.tooLong(20, slot)).toBe(80); // strict, although it has just been bearable
    clock.advance(4_999);
    expect(crowd.tooLong(20, slot)).toBe(80);
    clock.advance(5_000);
    expect(crowd.tooLong(19, slot)).toBeUndefined();
    expect(crowd.tooLong(20, slot)).toBeUndefined(); // a new one, of a moment
  });

  it('never has anybody wait for longer than a second, and turns nobody away who would not wait', () => {
    const state = fc.record({
      requests: fc.nat(5_000),
      places: fc.integer({ min: 1, max: 64 }),
      work_ms: fc.nat(300),
      later_ms: fc.nat(7_000),
    });
    fc.assert(
      fc.property(fc.array(state, { maxLength: 50 }), states => {
        const clock = new HeldClock();
        const crowd = new Crowd(clock);
        for (const { requests, places, work_ms, later_ms } of states) {
          clock.advance(later_ms);
          const wait_ms = (Math.max(0, requests - places) * work_ms) / places;
          const said = crowd.tooLong(requests, { places, work_ms });
          if (wait_ms > 1_000) expect(said).toBe(wait_ms);
          if (wait_ms <= 75) expect(said).toBeUndefined();
        }
      }),
    );
  });
});

describe('a slot of which more is asked than it can do', () => {
  let device: Device;
  let lab: Lab;
  let gate: Gate;

  beforeEach(async () => {
    device = await Device.make();
    device.queue = { places: 4, work_ms: 200 };
    lab = await Lab.open({ slot: device.slot });
    await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
    gate = new Gate();
    device.onSign = async ({ honest }) => {
      await gate.pass();
      return honest();
    };
  });

  afterEach(async () => {
    gate.open();
    await lab[Symbol.asyncDispose]();
    await device[Symbol.asyncDispose]();
  });

  const sign = () => lab.ask('signer', 'sign-message', { key: 'wallet' }, { bytes: [text('x')] });

  it('turns a request away before anything is written down or signed for it', async () => {
    const others = Array.from({ length: 25 }, sign); // 21 wait, for more than a second
    await expect(sign()).rejects.toMatchObject({ code: 'SLOT_BUSY', retryAfter_s: 2 });
    await expect.poll(() => device.asked.length).toBe(25);
    const { lines } = (await lab.ask('auditor', 'read-audit', { from: 0, limit: 200 })).output;
    const records = lines
      .map(line => JSON.parse(line))
      .filter(({ operation }) => operation === 'sign-message');
    expect(records.filter(({ type }) => type === 'intent')).toHaveLength(25);
    expect(records.filter(({ code }) => code === 'SLOT_BUSY')).toHaveLength(1);
    gate.open();
    expect(await Promise.all(others.map(refusal))).toEqual(Array(25).fill('none'));
    expect(await refusal(sign())).toBe('none');
  });

  it('counts a batch as one request, however many of its items wait', async () => {
    device.queue = { places: 1, work_ms: 1_001 };
    const items = Array.from({ length: 100 }, (_, at) => text(`item ${at}`));
    const kinds = items.map(() => 'message' as const);
    const batch = lab.ask('signer', 'sign-batch', { key: 'wallet', items: kinds }, { bytes: items });
    await gate.reached;
    const single = sign();
    await expect.poll(() => device.asked.length).toBe(9); // eight of the batch at a time, and the other one
    expect(await refusal(sign())).toBe('SLOT_BUSY');
    gate.open();
    expect(await refusal(single)).toBe('none');
    expect((await batch).output.results.filter(result => 'code' in result)).toEqual([]);
  });
});

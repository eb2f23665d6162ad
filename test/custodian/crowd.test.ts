import { afterEach, beforeEach, expect, it } from 'vitest';
import { Device, Gate } from './device.ts';
import { Lab, refusal, text } from './lab.ts';

let device: Device;
let lab: Lab;
let gate: Gate;

beforeEach(async () => {
  device = await Device.make();
  device.queue = { places: 4, work_ms: 20 };
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

it('a request that would wait for too long is turned away before anything is written down or signed for it', async () => {
  const others = Array.from({ length: 24 }, sign);
  others.push(sign()); // a tenth of a second, which is still borne
  await expect(sign()).rejects.toMatchObject({ code: 'SLOT_BUSY', retryAfter_s: 1 });
  await expect.poll(() => device.asked.length).toBe(25);
  const { lines } = (await lab.ask('auditor', 'read-audit', { from: 0, limit: 200 })).output;
  const records = lines.map(line => JSON.parse(line)).filter(({ operation }) => operation === 'sign-message');
  expect(records.filter(({ type }) => type === 'intent')).toHaveLength(25);
  expect(records.filter(({ code }) => code === 'SLOT_BUSY')).toHaveLength(1);
  gate.open();
  expect(await Promise.all(others.map(refusal))).toEqual(Array(25).fill('none'));
  expect(await refusal(sign())).toBe('none');
});

it('a batch counts as one, however many of its items wait, and those are not turned away', async () => {
  const items = Array.from({ length: 100 }, (_, at) => text(`item ${at}`));
  const kinds = items.map(() => 'message' as const);
  const batch = lab.ask('signer', 'sign-batch', { key: 'wallet', items: kinds }, { bytes: items });
  await gate.reached;
  device.queue = { places: 1, work_ms: 101 };
  const single = sign();
  await expect.poll(() => device.asked.length).toBe(9); // eight of the batch at a time, and the other one
  gate.open();
  expect(await refusal(single)).toBe('none');
  expect((await batch).output.results.filter(result => 'code' in result)).toEqual([]);
});

it('a slot whose work takes long may have requests wait for half as long as that', async () => {
  device.queue = { places: 8, work_ms: 1_000 };
  const others = Array.from({ length: 13 }, sign);
  expect(await refusal(sign())).toBe('SLOT_BUSY');
  gate.open();
  await Promise.all(others);
});

import { readdirSync } from 'node:fs';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { isId, slotId } from '../../src/custody/ids.ts';
import { createMemoryEngine } from '../../src/engines/memory/index.ts';
import { pinText } from '../custodian/device.ts';
import { Lab, refusal, text } from '../custodian/lab.ts';

let lab: Lab;
const engine = createMemoryEngine(slotId('main'));

beforeAll(async () => {
  const [slot] = await engine.slots();
  if (!slot) throw new TypeError('The engine has no slot.');
  lab = await Lab.open({ slot, source: () => pinText });
});

afterAll(async () => {
  await lab[Symbol.asyncDispose]();
  await engine[Symbol.asyncDispose]();
});

const climbing = [
  '..',
  '../x',
  '/etc/passwd',
  'a/b',
  'a\\b',
  '.',
  '%2e%2e',
  'a\0b',
  '~',
  'C:',
  'a:b',
  '..;/x',
  '．．/x',
];
const hostile = fc
  .array(fc.oneof(fc.constantFrom(...climbing), fc.string({ maxLength: 10 })), { minLength: 1, maxLength: 4 })
  .map(parts => parts.join('/'))
  .filter(id => !isId(id));

/** Every file but those of the log, which says of each attempt that it was refused. */
const namesIn = (): readonly string[] =>
  readdirSync(lab.folder, { recursive: true })
    .map(String)
    .filter(name => !/^audit\/(segment|checkpoints)-\d{12}\.jsonl$/.test(name))
    .toSorted();

it('an id that is a path names no key and no slot, in no operation, and nothing appears in the folder', async () => {
  const before = namesIn();
  for (const id of fc.sample(hostile, { numRuns: 200, seed: 16 })) {
    const key = { key: id };
    const at = { key: id, slot: 'main' };
    const codes = await Promise.all([
      refusal(lab.ask('operator', 'show-key', key)),
      refusal(lab.ask('signer', 'sign-message', key, { bytes: [text('a message')] })),
      refusal(lab.ask('operator', 'generate-key', at)),
      refusal(lab.ask('operator', 'import-key', at, { bytes: [new Uint8Array(32)] })),
      refusal(lab.ask('operator', 'adopt-key', at)),
      refusal(lab.ask('operator', 'disable-key', key)),
    ]);
    expect(codes, JSON.stringify(id)).toEqual(Array(6).fill('KEY_ID_INVALID'));
    expect(await refusal(lab.ask('operator', 'show-slot', { slot: id }))).toBe('SLOT_ID_INVALID');
  }
  expect(namesIn()).toEqual(before);
});

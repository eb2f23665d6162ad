import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Engine, generates } from '../../src/custody/engine.ts';
import { keyId, slotId } from '../../src/custody/ids.ts';
import { createMemoryEngine } from '../../src/engines/memory/index.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import type { OperationName, Request } from '../../src/wire/custodian.ts';
import { plain, wireBytes } from '../solana/compiled.ts';
import { Device, pinText } from './device.ts';
import { Lab, refusal, text } from './lab.ts';

/** The slot and the key that a request names: real ones, or such as do not exist. */
interface Target {
  readonly slot: string;
  readonly key: string;
}

const real: Target = { slot: 'main', key: 'wallet' };
const imaginary: Target = { slot: 'nowhere', key: 'nothing' };
let made = 0;
/** In the slot from the beginning, and not in the registry. As many as there are requests at most, so each is new. */
const unknownKeys = Array.from({ length: 400 }, (_, at) => `unknown-${at}`);

/** What is about slots, keys and migrations; permissions.test.ts asks everything, by every role. */
const names = [
  'list-slots',
  'show-slot',
  'open-slot',
  'lock-slot',
  'clear-latch',
  'try-slot',
  'open-session',
  'close-session',
  'list-keys',
  'show-key',
  'generate-key',
  'adopt-key',
  'import-key',
  'sign-message',
  'sign-transaction',
  'sign-batch',
  'sign-bytes',
  'verify',
  'create-wallet',
  'list-wallets',
  'show-wallet',
  'plan-migration',
  'start-migration',
  'list-migrations',
  'show-migration',
  'run-migration',
  'verify-migration',
  'rollback-migration',
  'destroy-copies',
] as const satisfies readonly OperationName[];
type Asked = (typeof names)[number];

/** A request that succeeds for whoever may make it. */
function requestOf(name: Asked, { slot, key }: Target): Request<Asked> {
  made += 1;
  const inputs: { [N in Asked]: Request<N> } = {
    'list-slots': { input: {} },
    'show-slot': { input: { slot } },
    'open-slot': { input: { slot }, bytes: [text(pinText)] },
    'lock-slot': { input: { slot } },
    'clear-latch': { input: { slot } },
    'try-slot': { input: { slot } },
    'open-session': { input: { slot }, bytes: [text(pinText)] },
    'close-session': { input: {} },
    'list-keys': { input: { limit: 10 } },
    'show-key': { input: { key } },
    'generate-key': { input: { key: `made-${made}`, slot } },
    'adopt-key': { input: { key: unknownKeys[made % unknownKeys.length] ?? '', slot } },
    'import-key': { input: { key: `made-${made}`, slot }, bytes: [new Uint8Array(32).fill(made)] },
    'sign-message': { input: { key }, bytes: [text('a message')] },
    'sign-transaction': { input: { key }, bytes: [wireBytes(plain)] },
    'sign-batch': { input: { key, items: ['message'] }, bytes: [text('a message')] },
    'sign-bytes': { input: { key }, bytes: [text('a message')] },
    verify: { input: { key }, bytes: [text('a message'), new Uint8Array(64)] },
    'create-wallet': { input: { label: 'a label' } },
    'list-wallets': { input: {} },
    'show-wallet': { input: { key } },
    'plan-migration': { input: { from: 'from', to: 'to' } },
    'start-migration': { input: { from: 'from', to: 'to' } },
    'list-migrations': { input: {} },
    'show-migration': { input: { migration, limit: 10 } },
    'run-migration': { input: { migration, max: 10 } },
    'verify-migration': { input: { migration, max: 10 } },
    'rollback-migration': { input: { migration, max: 10 } },
    'destroy-copies': { input: { migration, max: 10 } },
  };
  return inputs[name];
}

let device: Device;
let places: readonly Engine[];
let lab: Lab;
/** The migration that a request names: one of which `perform` has made sure that it may be asked for anything. */
let migration = 'm-0000000000';

beforeAll(async () => {
  device = await Device.make();
  await device.behind(async session => {
    if (!generates(session)) throw new TypeError('The device makes no keys.');
    for (const key of unknownKeys) await session.generate(keyId(key));
  });
  places = ['from', 'to'].map(id => createMemoryEngine(slotId(id)));
  const slots = [device.slot, ...(await Promise.all(places.map(place => place.slots()))).flat()];
  lab = await Lab.start(...slots.map(slot => ({ slot, source: () => pinText })));
  await lab.custodian.openUnattended();
  await lab.ask(
    'operator',
    'import-key',
    { key: 'wallet', slot: 'main' },
    { bytes: [new Uint8Array(32).fill(1)] },
  );
});

afterAll(async () => {
  await lab[Symbol.asyncDispose]();
  await device[Symbol.asyncDispose]();
  for (const place of places) await place[Symbol.asyncDispose]();
});

/** A key that can still be moved, and a migration of another one that has been. */
async function prepareMigration(): Promise<void> {
  made += 1;
  const [movable, moved] = [`movable-${made}`, `moved-${made}`];
  for (const key of [movable, moved]) await lab.ask('operator', 'generate-key', { key, slot: 'from' });
  const route = { from: 'from', to: 'to', keys: [moved] };
  const { output } = await lab.ask('operator', 'start-migration', route);
  migration = output.id;
  await lab.ask('operator', 'run-migration', { migration, max: 1 });
}

/** As somebody who has every role and no slot. */
async function perform(name: Asked, target: Target = real): Promise<unknown> {
  if (/migration|copies/.test(name)) await prepareMigration();
  const { input, bytes } = requestOf(name, target);
  return lab.ask('ungranted', name, input, bytes ? { bytes } : {});
}

describe('an identity without a grant of the slot', () => {
  const bySlot = names.filter(name => 'slot' in requestOf(name, real).input);
  const byKey = names.filter(name => 'key' in requestOf(name, real).input && !bySlot.includes(name));
  const byMigration = names.filter(name => 'migration' in requestOf(name, real).input);

  it('is asked for by every operation that names a slot or a key', () => {
    const others = names.filter(name => ![...bySlot, ...byKey, ...byMigration].includes(name));
    const expected = ['close-session', 'create-wallet', 'list-keys', 'list-slots', 'list-wallets'];
    expected.push('list-migrations', 'plan-migration', 'start-migration');
    expect(others.toSorted()).toEqual(expected.toSorted());
  });

  it.each(bySlot)('sees no difference in %s between this slot and one that does not exist', async name => {
    const [there, nowhere] = await Promise.all([failureOf(name, real), failureOf(name, imaginary)]);
    expect(there.code).toBe('SLOT_UNKNOWN');
    expect(nowhere).toEqual(there);
  });

  it.each(byKey)('sees no difference in %s between this key and one that does not exist', async name => {
    const [there, nowhere] = await Promise.all([failureOf(name, real), failureOf(name, imaginary)]);
    expect(there.code).toBe('KEY_UNKNOWN');
    expect(nowhere).toEqual(there);
  });

  it.each(byMigration)(
    'sees no difference in %s between a migration and one that does not exist',
    async name => {
      expect(await refusal(perform(name))).toBe('MIGRATION_UNKNOWN');
      migration = 'm-0000000000';
      const { input } = requestOf(name, real);
      expect(await refusal(lab.ask('ungranted', name, input))).toBe('MIGRATION_UNKNOWN');
    },
  );

  it.each(['plan-migration', 'start-migration'] as const)('does not know the slots in %s', async name => {
    expect(await refusal(perform(name))).toBe('SLOT_UNKNOWN');
  });

  it('finds no slot and no key in the lists', async () => {
    expect((await lab.ask('ungranted', 'list-slots', {})).output).toEqual({ slots: [] });
    expect((await lab.ask('ungranted', 'list-keys', { limit: 500 })).output).toEqual({ keys: [] });
    expect((await lab.ask('ungranted', 'list-wallets', {})).output).toEqual({ wallets: [] });
    expect((await lab.ask('ungranted', 'list-migrations', {})).output).toEqual({ migrations: [] });
    expect(await refusal(lab.ask('ungranted', 'list-keys', { limit: 5, slot: 'main' }))).toBe('SLOT_UNKNOWN');
  });

  it('changed nothing by trying', async () => {
    const before = (await lab.ask('operator', 'list-keys', { limit: 500 })).output.keys.length;
    const tried = names.filter(name => !/migration|copies/.test(name)); // those make keys of their own first
    for (const name of tried) await perform(name).catch(() => undefined);
    expect((await lab.ask('operator', 'list-keys', { limit: 500 })).output.keys).toHaveLength(before);
    expect(await lab.state()).toBe('open');
  });

  /** The failure with the names of the target struck out: what is left must not depend on the target. */
  async function failureOf(name: Asked, target: Target) {
    const thrown: unknown = await perform(name, target).then(
      () => undefined,
      error => error,
    );
    if (!isKeyslotError(thrown)) throw new TypeError(`${name} was not refused.`);
    const message = thrown.message.replaceAll(target.slot, '…').replaceAll(target.key, '…');
    return { code: thrown.code, message, retryAfter_s: thrown.retryAfter_s };
  }
});

describe('a grant of one slot', () => {
  it('opens that slot and no other', async () => {
    await using spare = await Device.make('spare');
    await using main = await Device.make('main');
    await using two = await Lab.start(
      { slot: main.slot, source: () => pinText },
      { slot: spare.slot, source: () => pinText },
    );
    await two.custodian.openUnattended();
    for (const slot of ['main', 'spare']) {
      await two.ask('operator', 'generate-key', { key: `in-${slot}`, slot });
    }
    const sign = (key: string) => two.ask('mainOnly', 'sign-message', { key }, { bytes: [text('x')] });
    expect(await refusal(sign('in-main'))).toBe('none');
    expect(await refusal(sign('in-spare'))).toBe('KEY_UNKNOWN');
    expect(await refusal(two.ask('mainOnly', 'lock-slot', { slot: 'spare' }))).toBe('SLOT_UNKNOWN');
    const { output } = await two.ask('mainOnly', 'list-keys', { limit: 500 });
    expect(output.keys.map(key => key.id)).toEqual(['in-main']);
    expect((await two.ask('mainOnly', 'list-slots', {})).output.slots.map(slot => slot.id)).toEqual(['main']);
  });
});

describe('listing keys', () => {
  it('gives every key once, whatever the size of the pages', async () => {
    await using own = await Device.make();
    await using many = await Lab.open({ slot: own.slot });
    const ids = Array.from({ length: 23 }, (_, at) => `k${(at * 7) % 23}`);
    for (const key of ids) await many.ask('operator', 'generate-key', { key, slot: 'main' });
    for (const limit of [1, 2, 7, 22, 23, 24, 500]) {
      const seen: string[] = [];
      for (let cursor: string | undefined, more = true; more; more = cursor !== undefined) {
        const page = await many.ask('signer', 'list-keys', { limit, ...(cursor ? { cursor } : {}) });
        expect(page.output.keys.length).toBeLessThanOrEqual(limit);
        seen.push(...page.output.keys.map(key => key.id));
        cursor = page.output.next;
      }
      expect(seen).toEqual(ids.toSorted());
    }
  });
});

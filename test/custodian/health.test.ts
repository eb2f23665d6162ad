import { describe, expect, it } from 'vitest';
import { type GroupHealth, healthOf, type JudgedSlot } from '../../src/custodian/health.ts';
import { keyId, type SlotId, slotId } from '../../src/custody/ids.ts';
import type { CanaryView } from '../../src/wire/views.ts';

const since = new Date('2026-01-01T00:00:00Z');

const slot = (id: string, how: Partial<JudgedSlot> = {}): JudgedSlot => ({
  id: slotId(id),
  state: 'open',
  since,
  custody: 'hsm-native',
  required: true,
  findings: [],
  canary: undefined,
  ...how,
});

const canary = (state: CanaryView['state']): CanaryView => ({
  ok: state === 'proven',
  state,
  every_s: 30,
  age_s: 1,
  signatures: 1,
  failures: 0,
  unverified: 0,
});

const finding = (problem: 'missing' | 'damaged' | 'mismatch' | 'unknown' | 'kept-copy') => ({
  key: keyId('wallet'),
  problem,
});

const status = (state: 'ok' | 'full' = 'ok') => ({ state, tamperEvidence: 'chain' }) as never;

function judged(slots: readonly JudgedSlot[], groups: readonly GroupHealth[] = []) {
  const keepers = new Map<SlotId, JudgedSlot>(slots.map(each => [each.id, each]));
  const { ready, checks } = healthOf({ keepers, groups, audit: { status: () => status() } });
  return { ready, of: (id: string) => checks.find(check => check.id === id) };
}

describe('a slot', () => {
  it.each([
    ['open', true],
    ['degraded', true],
    ['locked', false],
    ['failed', false],
    ['latched', false],
  ] as const)('that is %s is ready: %s', (state, ready) => {
    expect(judged([slot('main', { state })]).ready).toBe(ready);
  });

  it.each([
    ['unknown', true],
    ['kept-copy', true],
    ['missing', false],
    ['damaged', false],
    ['mismatch', false],
  ] as const)('with a key that is %s is ready: %s', (problem, ready) => {
    const { of, ready: said } = judged([slot('main', { findings: [finding(problem)] })]);
    expect(said).toBe(ready);
    expect(of('slot/main')?.findings).toEqual({ all: 1, harmful: ready ? 0 : 1 });
  });

  it.each([
    ['proven', true],
    ['unavailable', true],
    ['unproven', false],
    ['unverified', false],
  ] as const)('whose canary is %s is ready: %s', (state, ready) => {
    expect(judged([slot('main', { canary: canary(state) })]).ready).toBe(ready);
  });

  it('that is not required is shown, and keeps nothing from being ready', () => {
    const { ready, of } = judged([slot('main'), slot('spare', { state: 'failed', required: false })]);
    expect(ready).toBe(true);
    expect(of('slot/spare')).toMatchObject({ ok: false, required: false, state: 'failed' });
  });

  it('says since when it is how it is', () => {
    expect(judged([slot('main')]).of('slot/main')?.since).toBe('2026-01-01T00:00:00.000Z');
  });
});

describe('a group', () => {
  const group = (state: GroupHealth['state'], ...ok: readonly [boolean, boolean]): GroupHealth => ({
    id: 'pair',
    state,
    members: [
      { slot: slotId('one'), ok: ok[0] },
      { slot: slotId('two'), ok: ok[1] },
    ],
  });

  it('of slots that are well is ready, and they count through it alone', () => {
    const { ready, of } = judged([slot('one'), slot('two')], [group('serving', true, true)]);
    expect(ready).toBe(true);
    expect(of('group/pair')).toMatchObject({ ok: true, state: 'serving' });
    expect(of('slot/one')).toMatchObject({ required: false, group: 'pair' });
  });

  it.each([
    ['has failed', slot('two', { state: 'failed' })],
    ['signs no more', slot('two', { canary: canary('unproven') })],
    ['signs wrongly', slot('two', { canary: canary('unverified') })],
    ['lost a key', slot('two', { findings: [finding('missing')] })],
  ])('with a slot that %s is ready by the other, and says degraded', (_what, two) => {
    const { ready, of } = judged([slot('one'), two], [group('serving', true, true)]);
    expect(ready).toBe(true);
    expect(of('group/pair')).toMatchObject({
      ok: true,
      state: 'degraded',
      members: [
        { slot: 'one', ok: true },
        { slot: 'two', ok: false },
      ],
    });
  });

  it('without a slot that holds every key and signs is not ready', () => {
    const slots = [slot('one'), slot('two', { state: 'failed' })];
    const { ready, of } = judged(slots, [group('degraded', false, true)]);
    expect(ready).toBe(false);
    expect(of('group/pair')).toMatchObject({ ok: false });
  });

  it('does not make up for a slot outside it', () => {
    const slots = [slot('one'), slot('two'), slot('alone', { state: 'locked' })];
    expect(judged(slots, [group('serving', true, true)]).ready).toBe(false);
  });
});

it('is not ready while the audit log is not', () => {
  const keepers = new Map<SlotId, JudgedSlot>([[slotId('main'), slot('main')]]);
  const audit = { status: () => status('full') };
  expect(healthOf({ keepers, groups: [], audit }).ready).toBe(false);
});

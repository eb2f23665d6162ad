import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Slot } from '../../src/custody/engine.ts';
import { slotId } from '../../src/custody/ids.ts';
import { createMemoryEngine } from '../../src/engines/memory/index.ts';
import type { OperationName, Request } from '../../src/wire/custodian.ts';
import { pinText } from '../custodian/device.ts';
import { Lab, type LabSettings, people, refusal, type Who } from '../custodian/lab.ts';
import { SetClock, seed } from './lab.ts';

/** What no single person may do: take a key out, or destroy it. Two others have to approve. */

const settings = (): LabSettings => ({
  identities: [...Object.values(people), exporter],
  approvals: new Map<OperationName, number>([
    ['export-key', 2],
    ['destroy-key', 2],
  ]),
});

/** May do all of it, alone. */
const exporter = {
  ...people.both,
  name: 'exporter',
  roles: ['operator', 'approver', 'admin'] as const,
  grants: [{ slots: '*' as const, operations: ['export' as const, 'manage' as const, 'import' as const] }],
  recognisedBy: { token: 'e'.repeat(64) },
  credential: { token: 'e'.repeat(64) },
};

let slot: Slot;
let lab: Lab;
let clock: SetClock;
let opened: AsyncDisposableStack;

async function start(more: LabSettings = { exports: true }): Promise<void> {
  opened = new AsyncDisposableStack();
  const engine = opened.use(createMemoryEngine(slotId('main')));
  [slot] = (await engine.slots()) as [Slot];
  clock = new SetClock();
  lab = opened.use(await Lab.with({ ...settings(), clock, ...more }, { slot, source: () => pinText }));
  await lab.custodian.openUnattended();
  for (const key of ['wallet', 'other']) {
    await lab.ask('operator', 'import-key', { key, slot: 'main' }, { bytes: [seed().fill(key.length)] });
  }
}

beforeEach(() => start());
afterEach(() => opened.disposeAsync());

const mine = <N extends OperationName>(operation: N, input: Request<N>['input'], approval?: string) =>
  lab.custodian.call(operation, { input }, { requestId: 'r', credential: exporter.credential, approval });
const take = (approval?: string, key = 'wallet', operation: 'export-key' | 'destroy-key' = 'export-key') =>
  refusal(mine(operation, { key }, approval));

const requested = async (operation = 'export-key', input: Record<string, unknown> = { key: 'wallet' }) =>
  (await mine('request-approval', { operation, input, reason: 'a move' })).output;

const decide = (
  who: Who,
  { id, digest }: { id: string; digest: string },
  decision: 'approve' | 'reject' = 'approve',
) => refusal(lab.ask(who, 'decide-approval', { approval: id, decision, digest }));

async function approved(): Promise<string> {
  const request = await requested();
  expect(await decide('approver', request)).toBe('none');
  expect(await decide('secondApprover', request)).toBe('none');
  return request.id;
}

async function records() {
  const { audit } = lab.custodian;
  return (await audit.read(0, audit.status().size)).map(({ record }) => record);
}

describe('an insider alone', () => {
  it('gets nothing without an approval, with one that does not exist, or with an own one', async () => {
    for (const operation of ['export-key', 'destroy-key'] as const) {
      expect(await take(undefined, 'wallet', operation)).toBe('APPROVAL_REQUIRED');
      expect(await take('a-0', 'wallet', operation)).toBe('APPROVAL_UNKNOWN');
      const { id, digest } = await requested(operation);
      expect(await refusal(mine('decide-approval', { approval: id, decision: 'approve', digest }))).toBe(
        'APPROVAL_UNUSABLE',
      );
      expect(await take(id, 'wallet', operation)).toBe('APPROVAL_UNUSABLE');
    }
  });

  it('gets nothing at all where the configuration does not let keys leave, which is the default', async () => {
    await opened.disposeAsync();
    await start({});
    expect(await take(await approved())).toBe('EXPORT_DISABLED');
  });

  it('gets nothing with the approval of one of two, however often that one approves', async () => {
    const request = await requested();
    for (let time = 0; time < 3; time += 1) expect(await decide('approver', request)).toBe('none');
    expect(await take(request.id)).toBe('APPROVAL_UNUSABLE');
  });
});

describe('an approval of two others', () => {
  it('lets exactly what was approved be done, once, and the log names who approved', async () => {
    const approval = await approved();
    const { bytes } = await mine('export-key', { key: 'wallet' }, approval);
    expect(bytes).toEqual([seed().fill('wallet'.length)]);
    expect(await take(approval)).toBe('APPROVAL_UNUSABLE');
    expect(await take(approval)).toBe('APPROVAL_UNUSABLE');
    const exported = (await records()).filter(({ operation }) => operation === 'export-key');
    expect(exported.map(({ type, outcome }) => outcome ?? type)).toEqual([
      'intent',
      'ok',
      'refused',
      'refused',
    ]);
    expect(exported[0]).toMatchObject({ actor: 'exporter', approvals: ['approver', 'secondApprover'] });
  });

  it('is good for no other key, operation or person', async () => {
    const approval = await approved();
    expect(await take(approval, 'other')).toBe('APPROVAL_UNUSABLE');
    expect(await take(approval, 'wallet', 'destroy-key')).toBe('APPROVAL_UNUSABLE');
    // somebody else who may do the same
    const other = lab.ask('both', 'destroy-key', { key: 'wallet' }, { approval });
    expect(await refusal(other)).toBe('APPROVAL_UNUSABLE');
    expect(await take(approval)).toBe('none'); // nothing of that has spent it
  });

  it('is used up by an attempt that fails', async () => {
    const request = await requested('export-key', { key: 'unknown' });
    for (const who of ['approver', 'secondApprover'] as const) await decide(who, request);
    expect(await take(request.id, 'unknown')).toBe('KEY_UNKNOWN');
    expect(await take(request.id, 'unknown')).toBe('APPROVAL_UNUSABLE');
  });

  it('is taken by one of a hundred calls at once', async () => {
    const approval = await approved();
    const codes = await Promise.all(Array.from({ length: 100 }, () => take(approval)));
    expect(codes.filter(code => code === 'none')).toHaveLength(1);
    expect(new Set(codes)).toEqual(new Set(['none', 'APPROVAL_UNUSABLE']));
  });

  it('does not count of whoever approved something else than they read', async () => {
    const request = await requested();
    const swapped = { id: request.id, digest: (await requested('destroy-key')).digest };
    expect(await decide('approver', swapped)).toBe('APPROVAL_UNUSABLE');
    expect(await decide('secondApprover', request)).toBe('none');
    expect(await take(request.id)).toBe('APPROVAL_UNUSABLE');
  });

  it('is over when somebody rejects it, also after both have approved', async () => {
    const approval = await approved();
    const request = (await mine('show-approval', { approval })).output;
    expect(await decide('secondApprover', request, 'reject')).toBe('none');
    expect(await take(approval)).toBe('APPROVAL_UNUSABLE');
    expect(await decide('secondApprover', request)).toBe('APPROVAL_UNUSABLE');
    expect(await take(approval)).toBe('APPROVAL_UNUSABLE');
  });

  it('is over after fifteen minutes, and no clock that is set revives it', async () => {
    const approval = await approved();
    clock.step(86_400_000);
    clock.advance(15 * 60_000 - 1);
    expect((await mine('show-approval', { approval })).output.state).toBe('approved'); // not shortened either
    clock.advance(1);
    for (const step_ms of [0, -86_400_000, -86_400_000, 3 * 86_400_000]) {
      clock.step(step_ms);
      expect(await take(approval)).toBe('APPROVAL_UNUSABLE');
    }
  });

  it('is over with a restart', async () => {
    const approval = await approved();
    await lab.restart();
    await lab.custodian.openUnattended();
    expect(await take(approval)).toBe('APPROVAL_UNKNOWN');
  });

  it('loses the vote of an approver who was removed meanwhile', async () => {
    const spki = 'ab'.repeat(32);
    const shape = { roles: ['approver' as const], grants: [], recognisedBy: { spki } };
    await lab.ask('admin', 'create-identity', { identity: 'temporary', shape });
    const request = await requested();
    const { id: approval, digest } = request;
    await lab.custodian.call(
      'decide-approval',
      { input: { approval, decision: 'approve', digest } },
      { requestId: 'r', credential: { certificate: spki } },
    );
    await decide('approver', request);
    await lab.ask('admin', 'delete-identity', { identity: 'temporary' });
    expect(await take(approval)).toBe('APPROVAL_UNUSABLE');
    expect(await decide('secondApprover', request)).toBe('none');
    expect(await take(approval)).toBe('none');
  });
});

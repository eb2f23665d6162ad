import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { SignatureStages } from '../../src/custodian/stages.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import { type CallAccount, type Stage, stageNames } from '../../src/wire/account.ts';
import type { OperationName, Request } from '../../src/wire/custodian.ts';
import { Device, pinText } from './device.ts';
import { Lab, people, refusal, text } from './lab.ts';

let device: Device;
let lab: Lab;
let heard: SignatureStages[];
let listening: Disposable;

beforeAll(async () => {
  device = await Device.make();
  const documents = [everythingAllowed('wallets', { keys: ['wallet'] })];
  lab = await Lab.with({ policies: { documents } }, { slot: device.slot, source: () => pinText });
  await lab.custodian.openUnattended();
  for (const key of ['wallet', 'unlisted']) await lab.ask('operator', 'generate-key', { key, slot: 'main' });
});

beforeEach(() => {
  device.onSign = ({ honest }) => honest();
  heard = [];
  // A listener gets the clock itself, which is at its end by then.
  listening = lab.custodian.onStages(({ operation, slot, outcome, times }) => {
    const copied = Object.fromEntries(stageNames.map(stage => [stage, times[stage]]));
    heard.push({ operation, slot, outcome, times: copied as Record<Stage, number> });
  });
});

afterEach(() => listening[Symbol.dispose]());

afterAll(async () => {
  await lab[Symbol.asyncDispose]();
  await device[Symbol.asyncDispose]();
});

const sign = (key = 'wallet', message = 'hello') =>
  lab.ask('signer', 'sign-message', { key }, { bytes: [text(message)] });

const reached = ({ times }: SignatureStages): readonly Stage[] =>
  stageNames.filter(stage => times[stage] > 0);

/** What the custodian tells of one call besides its answer, or its refusal. */
async function accountOf<N extends OperationName>(
  operation: N,
  request: Request<N>,
  options: { traced?: boolean; who?: 'signer' | 'auditor' | 'nobody' } = {},
): Promise<CallAccount> {
  const { traced = false, who = 'signer' } = options;
  const accounts: CallAccount[] = [];
  const account = { traced, take: (each: CallAccount) => void accounts.push(each) };
  const credential = who === 'nobody' ? undefined : people[who].credential;
  await refusal(lab.custodian.call(operation, request, { requestId: 'one', credential, account }));
  const [only, ...more] = accounts;
  expect(more).toEqual([]);
  if (!only) throw new Error('The custodian told nothing.');
  return only;
}

describe('whoever listens for signatures', () => {
  it('hears of each one that was made, in which slot, and where its time went', async () => {
    await sign();
    expect(heard).toEqual([
      { operation: 'sign-message', slot: 'main', outcome: 'ok', times: expect.anything() },
    ]);
    expect(heard.map(reached)).toEqual([stageNames]);
  });

  it('hears of one that the token failed, which was written down and never verified', async () => {
    device.onSign = () => Promise.reject(new Error('no'));
    expect(await refusal(sign())).toBe('INTERNAL');
    expect(heard.map(({ outcome }) => outcome)).toEqual(['INTERNAL']);
    expect(heard.map(reached)).toEqual([['decode', 'policy', 'intent', 'sign', 'result']]);
  });

  it('hears of each item of a batch by itself', async () => {
    const bytes = [text('one'), Uint8Array.of(), text('three')];
    const items = bytes.map(() => 'message' as const);
    await lab.ask('signer', 'sign-batch', { key: 'wallet', items }, { bytes });
    expect(heard.filter(({ outcome }) => outcome === 'ok')).toHaveLength(2);
    expect(heard).toHaveLength(3);
  });

  it('hears nothing any more once it is disposed', async () => {
    listening[Symbol.dispose]();
    await sign();
    expect(heard).toEqual([]);
  });
});

describe('the account of a call', () => {
  it('names who asked, the key, the slot and the verdict, and has a time for every stage', async () => {
    const account = await accountOf('sign-message', { input: { key: 'wallet' }, bytes: [text('hello')] });
    expect(account).toEqual({
      operation: 'sign-message',
      identity: 'signer',
      key: 'wallet',
      slot: 'main',
      verdict: 'allow',
      took_ms: expect.any(Number),
      stages: stageNames.map(() => expect.any(Number)),
    });
    const sum = (account.stages ?? []).reduce((all, each) => all + each, 0);
    expect(sum).toBeGreaterThan(0);
    // Each was rounded to a microsecond.
    expect(sum).toBeLessThanOrEqual(account.took_ms + 0.004);
  });

  it('counts the items of a batch, and those that were not signed', async () => {
    const input = { key: 'wallet', items: ['message' as const, 'message' as const] };
    const account = await accountOf('sign-batch', { input, bytes: [text('one'), Uint8Array.of()] });
    expect(account).toMatchObject({ items: 2, unsigned: 1, verdict: 'allow' });
  });

  it('has the stages one by one, one behind the other, for a call that is traced', async () => {
    const request = { input: { key: 'wallet' }, bytes: [text('hello')] };
    const { trail = [], took_ms } = await accountOf('sign-message', request, { traced: true });
    expect(trail.map(({ stage }) => stage)).toEqual(stageNames);
    for (const [at, { from_ms, took_ms }] of trail.entries()) {
      expect(trail[at + 1]?.from_ms ?? Number.POSITIVE_INFINITY).toBeGreaterThanOrEqual(
        from_ms + took_ms - 0.002,
      );
    }
    expect((trail.at(-1)?.from_ms ?? 0) + (trail.at(-1)?.took_ms ?? 0)).toBeLessThanOrEqual(took_ms + 0.002);
  });

  it('says of a refusal by a policy that it was one, and that nothing was signed', async () => {
    const account = await accountOf('sign-message', { input: { key: 'unlisted' }, bytes: [text('hello')] });
    expect(account).toMatchObject({ identity: 'signer', key: 'unlisted', slot: 'main', verdict: 'deny' });
    expect(account.stages?.slice(stageNames.indexOf('intent'))).toEqual([0, 0, 0, 0]);
    expect(heard.map(({ outcome }) => outcome)).toEqual(['POLICY_DENIED']);
  });

  it('names nobody who is not known, and nothing that there is not', async () => {
    const request = { input: { key: 'wallet' } };
    const stranger = await accountOf('show-key', request, { who: 'nobody' });
    expect(stranger).toEqual({ operation: 'show-key', took_ms: expect.any(Number) });
    const lost = await accountOf('show-key', { input: { key: 'a-secret-in-the-wrong-place' } });
    expect(lost).toEqual({ operation: 'show-key', identity: 'signer', took_ms: expect.any(Number) });
  });

  it('names who was refused for the want of a role', async () => {
    const account = await accountOf(
      'generate-key',
      { input: { key: 'new', slot: 'main' } },
      { who: 'auditor' },
    );
    expect(account).toMatchObject({ identity: 'auditor', slot: 'main' });
    expect(account.key).toBeUndefined();
  });
});

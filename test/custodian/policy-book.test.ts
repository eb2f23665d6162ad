import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { PolicyBook } from '../../src/custodian/policy-book.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import { Device, pinText } from './device.ts';
import { Lab, type LabSettings, refusal, text } from './lab.ts';

const quiet = (name: string, more: object = {}) => ({
  name,
  appliesTo: { keys: ['wallet'] },
  messages: { bytes: 'any' },
  ...more,
});
const of = (...documents: object[]): LabSettings => ({
  policies: { documents: documents as Parameters<PolicyBook['put']>[0]['document'][] },
});

let device: Device;
let lab: Lab;
const put = (document: Record<string, unknown>, expected?: number) =>
  lab.ask('admin', 'put-policy', {
    policy: String(document.name),
    document,
    ...(expected === undefined ? {} : { expected }),
  });
const names = async () =>
  (await lab.ask('admin', 'list-policies', {})).output.policies.map(
    ({ name, version }) => `${name}@${version}`,
  );
let asked = 0;
/** Each under a request id of its own: a repeat after a restart would get the first answer again. */
const signs = () => {
  asked += 1;
  const rest = { bytes: [text('hi')], requestId: `request-${asked}` };
  return refusal(lab.ask('signer', 'sign-message', { key: 'wallet' }, rest));
};

async function start(settings: LabSettings): Promise<void> {
  lab = await Lab.with(settings, { slot: device.slot, source: () => pinText });
  await lab.custodian.openUnattended();
  await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
}

async function restart(settings: LabSettings): Promise<void> {
  lab.settings = settings;
  await lab.restart();
  await lab.custodian.openUnattended();
}

beforeEach(async () => {
  device = await Device.make();
});
afterEach(async () => {
  await lab[Symbol.asyncDispose]();
  await device[Symbol.asyncDispose]();
});

describe('policies of the configuration', () => {
  it('are taken in as they are, with a new version when they change, and given up when they go', async () => {
    await start(of(quiet('first')));
    expect(await names()).toEqual(['first@1']);
    await restart(of(quiet('first')));
    expect(await names()).toEqual(['first@1']);
    await restart(of(quiet('first', { description: 'other' }), quiet('second')));
    expect(await names()).toEqual(['first@2', 'second@1']);
    expect(await signs()).toBe('none');
    await restart(of());
    expect(await names()).toEqual([]);
    expect(await signs()).toBe('POLICY_DENIED');
    const { output } = await lab.ask('auditor', 'show-policy', { policy: 'first', version: 1 });
    expect(output.document.description).toBeUndefined();
  });

  it('are not changed through the API', async () => {
    await start(of(quiet('first')));
    expect(await refusal(put(quiet('first')))).toBe('POLICY_MANAGED');
    expect(await refusal(lab.ask('admin', 'delete-policy', { policy: 'first' }))).toBe('POLICY_MANAGED');
  });

  it('stop the start when one is wrong, or two have one name', async () => {
    await start(of());
    const broken = (...documents: object[]) => refusal(restart(of(...documents)));
    expect(await broken({ ...quiet('first'), extra: 1 })).toBe('POLICY_INVALID');
    expect(await broken(quiet('first'), quiet('first'))).toBe('POLICY_INVALID');
    await restart(of());
  });
});

describe('policies through the API', () => {
  beforeEach(() => start(of()));

  it('hold from the next request on, and survive a restart', async () => {
    expect(await signs()).toBe('POLICY_DENIED');
    await put(quiet('first'));
    expect(await signs()).toBe('none');
    await restart(of());
    expect(await signs()).toBe('none');
    await put(quiet('first', { messages: 'none' }));
    expect(await signs()).toBe('POLICY_DENIED');
    await lab.ask('admin', 'delete-policy', { policy: 'first' });
    expect(await signs()).toBe('POLICY_DENIED');
    expect(await refusal(lab.ask('admin', 'show-policy', { policy: 'first' }))).toBe('POLICY_UNKNOWN');
  });

  it('that apply together must all allow', async () => {
    await put(quiet('first'));
    await put({ name: 'second', appliesTo: 'all', messages: 'none' });
    expect(await signs()).toBe('POLICY_DENIED');
  });

  it('follow the tags of a key', async () => {
    await put({ ...quiet('hot'), appliesTo: { tags: ['hot'] } });
    expect(await signs()).toBe('POLICY_DENIED');
    await lab.ask('admin', 'tag-key', { key: 'wallet', tags: ['hot'] });
    expect(await signs()).toBe('none');
    await lab.ask('admin', 'tag-key', { key: 'wallet', tags: [] });
    expect(await signs()).toBe('POLICY_DENIED');
  });

  it('are not changed by two at once', async () => {
    await put(quiet('first'), 0);
    expect(await refusal(put(quiet('first', { description: 'mine' }), 0))).toBe('POLICY_CHANGED');
    await put(quiet('first', { description: 'mine' }), 1);
    expect(await refusal(put(quiet('first', { description: 'too late' }), 1))).toBe('POLICY_CHANGED');
    expect(await names()).toEqual(['first@2']);
  });

  it('have the name that they are put under, and fields that are known', async () => {
    const other = lab.ask('admin', 'put-policy', { policy: 'other', document: quiet('first') });
    expect(await refusal(other)).toBe('POLICY_INVALID');
    expect(await refusal(put(quiet('first', { extra: true })))).toBe('POLICY_INVALID');
  });
});

it('production takes no policy that lets everything through, from whichever side it comes', async () => {
  const production = (...documents: object[]): LabSettings => ({
    policies: { ...of(...documents).policies, refusePermissive: true },
  });
  await start(production(quiet('first')));
  expect(await refusal(put(everythingAllowed('all', 'all')))).toBe('POLICY_INVALID');
  expect(await refusal(restart(production(everythingAllowed('all', 'all'))))).toBe('POLICY_INVALID');
  await restart(production());
});

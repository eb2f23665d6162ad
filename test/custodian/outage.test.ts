import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Session, SessionHealth } from '../../src/custody/engine.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { Device, failing, pinText } from './device.ts';
import { Lab, refusal, text } from './lab.ts';

let device: Device;
let lab: Lab;
let hung: string[];

beforeEach(async () => {
  hung = [];
  device = await Device.make();
  device.recovers = true;
  const settings = {
    beyondHelp: (slot: string, { code }: KeyslotError) => void hung.push(`${slot} ${code}`),
  };
  lab = await Lab.with(settings, { slot: device.slot, source: () => pinText });
});

afterEach(async () => {
  await lab[Symbol.asyncDispose]();
  await device[Symbol.asyncDispose]();
});

const open = async () => {
  expect(await lab.custodian.openUnattended()).toEqual([]);
  await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
};
const sign = () => lab.ask('signer', 'sign-message', { key: 'wallet' }, { bytes: [text('x')] });
const slot = async () => (await lab.ask('operator', 'show-slot', { slot: 'main' })).output;
const away = new KeyslotError('TOKEN_UNAVAILABLE', 'The device is away.');
const said = (state: 'recovering' | 'lost' | 'hung', error = away): SessionHealth => ({ state, error });

/** Until the slot is in this state, within a bound. */
async function until(state: string): Promise<void> {
  for (let turn = 0; turn < 2_000 && (await lab.state()) !== state; turn += 1) await nextTurn();
  expect(await lab.state()).toBe(state);
}

describe('a slot whose session finds its lost device again', () => {
  beforeEach(open);

  it('is degraded while requests wait, failed while they are turned away, and open again without a login', async () => {
    device.say(said('recovering'));
    expect(await slot()).toMatchObject({ state: 'degraded', reason: { code: 'TOKEN_UNAVAILABLE' } });
    device.say(said('lost'));
    expect(await slot()).toMatchObject({ state: 'failed', reason: { code: 'TOKEN_UNAVAILABLE' } });
    device.say({ state: 'serving' });
    expect(await slot()).toMatchObject({ state: 'open', findings: [] });
    expect((await slot()).reason).toBeUndefined();
    expect(await refusal(sign())).toBe('none');
    expect(device.pinsHeard).toEqual([pinText]);
  });

  it('stays open when a signature fails because the device is away', async () => {
    device.onSign = async () => {
      throw away;
    };
    expect(await refusal(sign())).toBe('TOKEN_UNAVAILABLE');
    expect(await lab.state()).toBe('open'); // its session says how it is, and nobody else
    device.onSign = ({ honest }) => honest();
    expect(await refusal(sign())).toBe('none');
    expect(device.pinsHeard).toEqual([pinText]);
  });

  it('looks for its keys when the device is back, and says which one that came back does not have', async () => {
    await lab.ask('operator', 'generate-key', { key: 'other', slot: 'main' });
    const keys: string[] = [];
    device.onKeys = async () => void keys.push('listed');
    device.onSigner = async honest => {
      if (honest.key.id === 'other') throw new KeyslotError('KEY_UNKNOWN', 'There is no such key.');
      return honest;
    };
    device.hidden = new Set(['other']);
    device.say(said('lost'));
    device.say({ state: 'serving' });
    await until('degraded');
    expect(keys).toEqual(['listed']);
    expect((await slot()).findings).toEqual([{ key: 'other', problem: 'missing' }]);
    expect(await refusal(sign())).toBe('none');
    device.hidden = new Set();
    device.onSigner = async honest => honest;
    device.say(said('lost'));
    device.say({ state: 'serving' });
    await until('open');
    expect((await slot()).findings).toEqual([]);
  });

  it('is latched when the PIN that opened it is refused now, and the next start spends no attempt on it', async () => {
    device.say({ state: 'refused', error: new KeyslotError('PIN_REFUSED', 'The token refused the PIN.') });
    expect(await slot()).toMatchObject({ state: 'latched', reason: { code: 'SLOT_LATCHED' } });
    expect(await refusal(sign())).toBe('SLOT_LATCHED');
    expect(device.followers).toBe(0);
    await lab.restart(); // waits until the latch is written
    expect((await lab.custodian.openUnattended()).map(({ code }) => code)).toEqual(['SLOT_LATCHED']);
    expect(device.pinsHeard).toEqual([pinText]);
  });

  it('has failed, and is not opened by itself, when the token says that its PIN is locked', async () => {
    device.say({ state: 'refused', error: new KeyslotError('PIN_LOCKED', 'The PIN is locked.') });
    expect(await slot()).toMatchObject({ state: 'failed', reason: { code: 'PIN_LOCKED' } });
    expect(await refusal(sign())).toBe('SLOT_FAILED');
    expect(device.followers).toBe(0);
  });

  it('asks for another process when calls hang for good', async () => {
    device.say(said('hung'));
    expect(hung).toEqual(['main TOKEN_UNAVAILABLE']);
    expect(await lab.state()).toBe('failed');
  });

  it('looks for its device at once when an operator opens it, and spends no PIN on that', async () => {
    device.say(said('lost'));
    device.onLook = async () => {
      throw away;
    };
    const openIt = () => lab.ask('operator', 'open-slot', { slot: 'main' });
    expect(await refusal(openIt())).toBe('TOKEN_UNAVAILABLE');
    expect(await lab.state()).toBe('failed');
    device.onLook = async () => device.say({ state: 'serving' });
    expect((await openIt()).output.state).toBe('open');
    expect(device.pinsHeard).toEqual([pinText]);
  });

  it('has every request written down that one look-up of a key has failed', async () => {
    device.onSigner = async () => {
      throw new KeyslotError('TOKEN_UNAVAILABLE', 'The device is away.');
    };
    const codes = await Promise.all(Array.from({ length: 5 }, () => refusal(sign())));
    expect(codes).toEqual(Array(5).fill('TOKEN_UNAVAILABLE'));
    const { lines } = (await lab.ask('auditor', 'read-audit', { from: 0, limit: 100 })).output;
    const refused = lines.map(line => JSON.parse(line)).filter(({ code }) => code === 'TOKEN_UNAVAILABLE');
    expect(refused).toHaveLength(5);
  });

  it('is followed no longer once it is locked', async () => {
    await lab.ask('operator', 'lock-slot', { slot: 'main' });
    expect(device.followers).toBe(0);
    device.say(said('lost'));
    expect(await lab.state()).toBe('locked');
  });
});

describe('an unattended slot whose device is away', () => {
  it('opens by itself when the device is back, and that stands in the audit log', async () => {
    device.onOpen = failing<Session>(away);
    expect((await lab.custodian.openUnattended()).map(({ code }) => code)).toEqual(['TOKEN_UNAVAILABLE']);
    expect(await lab.state()).toBe('failed');
    await expect.poll(() => lab.state(), { timeout: 10_000 }).toBe('open');
    const told = async () => {
      const { lines } = (await lab.ask('auditor', 'read-audit', { from: 0, limit: 100 })).output;
      const openings = lines
        .map(line => JSON.parse(line))
        .filter(({ operation }) => operation === 'open-slot');
      return openings.map(({ type, outcome, code }) => [type, outcome, code]);
    };
    // It is open before the record of that is on the disk.
    await expect.poll(told, { timeout: 10_000 }).toEqual([
      ['intent', undefined, undefined],
      ['result', 'failed', 'TOKEN_UNAVAILABLE'],
      ['event', 'ok', undefined],
    ]);
  });

  it('is left alone when its PIN is refused, or an operator has locked it meanwhile', async () => {
    device.onOpen = failing<Session>(away);
    await lab.custodian.openUnattended();
    await lab.ask('operator', 'lock-slot', { slot: 'main' });
    device.onOpen = failing<Session>(new KeyslotError('PIN_REFUSED', 'No.'), 9);
    expect(await refusal(lab.ask('operator', 'open-slot', { slot: 'main' }))).toBe('PIN_REFUSED');
    await new Promise(resolve => setTimeout(resolve, 1_200)); // longer than its first pause
    expect(await lab.state()).toBe('latched');
    expect(device.pinsHeard).toHaveLength(2);
  });
});

import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { Device, pinText } from './device.ts';
import { Lab, text, type Who } from './lab.ts';

let device: Device;
let lab: Lab;

beforeEach(async () => {
  device = await Device.make();
  lab = await Lab.open({ slot: device.slot, access: 'session' });
});

afterEach(async () => {
  await lab[Symbol.asyncDispose]();
  await device[Symbol.asyncDispose]();
});

/** `none`, or the code with what Retry-After would say. */
async function present(
  pin: string,
  who: Who = 'signer',
  operation: 'open-session' | 'open-slot' = 'open-session',
) {
  try {
    await lab.ask(who, operation, { slot: 'main' }, { bytes: [text(pin)] });
    return 'none';
  } catch (thrown) {
    if (!isKeyslotError(thrown)) throw thrown;
    return thrown.retryAfter_s === undefined ? thrown.code : `${thrown.code} ${thrown.retryAfter_s}`;
  }
}

async function fail(times: number, who: Who = 'signer'): Promise<void> {
  for (let at = 0; at < times; at += 1) {
    expect(await present('wrong', who)).toBe('PIN_INCORRECT');
    lab.clock.advance(1_000);
  }
}

describe('a caller who presents PINs', () => {
  it('waits a second after a wrong one, whatever the next one is', async () => {
    expect(await present('wrong')).toBe('PIN_INCORRECT');
    expect(await present('wrong')).toBe('PIN_RATE_LIMITED 1');
    expect(await present(pinText)).toBe('PIN_RATE_LIMITED 1');
    lab.clock.advance(999);
    expect(await present(pinText)).toBe('PIN_RATE_LIMITED 1');
    lab.clock.advance(1);
    expect(await present(pinText)).toBe('none');
  });

  it('learns nothing faster by asking many times at once', async () => {
    const answers = await Promise.all(Array.from({ length: 50 }, (_, at) => present(`guess ${at}`)));
    expect(answers.toSorted()).toEqual(['PIN_INCORRECT', ...Array(49).fill('PIN_RATE_LIMITED 1')]);
  });

  it('is locked out for five minutes after five wrong ones, and for five more after another', async () => {
    await fail(5);
    expect(await present(pinText)).toBe('IDENTITY_LOCKED_OUT 299');
    lab.clock.advance(298_999);
    expect(await present(pinText)).toBe('IDENTITY_LOCKED_OUT 1');
    lab.clock.advance(1);
    expect(await present('wrong')).toBe('PIN_INCORRECT');
    expect(await present(pinText)).toBe('IDENTITY_LOCKED_OUT 300');
    lab.clock.advance(300_000);
    expect(await present(pinText)).toBe('none');
  });

  it('is not made to wait longer by asking while waiting', async () => {
    await fail(5);
    for (let at = 0; at < 299; at += 1) {
      expect(await present(pinText)).toBe(`IDENTITY_LOCKED_OUT ${299 - at}`);
      lab.clock.advance(1_000);
    }
    expect(await present(pinText)).toBe('none');
  });

  it('begins anew after a right one', async () => {
    await fail(4);
    expect(await present(pinText)).toBe('none');
    await fail(4);
    expect(await present(pinText)).toBe('none');
  });

  it('slows nobody else', async () => {
    await fail(5);
    expect(await present(pinText, 'neighbour')).toBe('none');
    expect(await present('wrong', 'both')).toBe('PIN_INCORRECT');
    expect(await present(pinText, 'neighbour')).toBe('none');
  });

  it('is counted over sessions and openings together', async () => {
    expect(await present('wrong', 'both', 'open-slot')).toBe('PIN_INCORRECT');
    expect(await present(pinText, 'both', 'open-session')).toBe('PIN_RATE_LIMITED 1');
    expect(await present(pinText, 'both', 'open-slot')).toBe('PIN_RATE_LIMITED 1');
  });

  it('may be as wrong as can be without the device hearing of it', async () => {
    for (const pin of ['', ' ', pinText.slice(1), `${pinText} `, `${pinText}\u0000`, 'x'.repeat(10_000)]) {
      expect(await present(pin)).toBe('PIN_INCORRECT');
      lab.clock.advance(300_000);
    }
    expect(device.pinsHeard).toEqual([pinText]);
  });

  it('has the PIN that it sent wiped behind it', async () => {
    const sent = text('a wrong PIN');
    await lab.ask('signer', 'open-session', { slot: 'main' }, { bytes: [sent] }).catch(() => undefined);
    expect(sent.every(byte => byte === 0)).toBe(true);
  });
});

describe('an operator who opens a locked slot', () => {
  beforeEach(() => lab.ask('both', 'lock-slot', { slot: 'main' }));

  it('and brings a wrong PIN waits too, before anything else is tried', async () => {
    expect(await present('wrong', 'both', 'open-slot')).toBe('PIN_REFUSED');
    await lab.ask('both', 'clear-latch', { slot: 'main' });
    expect(await present(pinText, 'both', 'open-slot')).toBe('PIN_RATE_LIMITED 1');
    expect(device.pinsHeard).toEqual([pinText, 'wrong']);
    lab.clock.advance(1_000);
    expect(await present(pinText, 'both', 'open-slot')).toBe('none');
  });

  it('begins anew when the token took the PIN', async () => {
    for (let round = 0; round < 2; round += 1) {
      for (let at = 0; at < 3; at += 1) {
        expect(await present('wrong', 'both', 'open-slot')).toBe('PIN_REFUSED');
        await lab.ask('both', 'clear-latch', { slot: 'main' });
        lab.clock.advance(1_000);
      }
      expect(await present(pinText, 'both', 'open-slot')).toBe('none');
      await lab.ask('both', 'lock-slot', { slot: 'main' });
    }
  });

  it('is not blamed for the PIN of the configured source', async () => {
    await lab.restart({ slot: device.slot, access: 'session', source: () => 'wrong' });
    const open = lab.ask('both', 'open-slot', { slot: 'main' });
    await expect(open).rejects.toMatchObject({ code: 'PIN_REFUSED' });
    await lab.ask('both', 'clear-latch', { slot: 'main' });
    expect(await present(pinText, 'both', 'open-slot')).toBe('none');
  });
});

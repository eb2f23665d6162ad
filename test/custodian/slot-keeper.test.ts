import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Session } from '../../src/custody/engine.ts';
import { keyId } from '../../src/custody/ids.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { Device, failing, Gate, pinText } from './device.ts';
import { Lab, refusal, text, type Who } from './lab.ts';

let device: Device;
let spare: Device;
let lab: Lab;

beforeEach(async () => {
  device = await Device.make();
  spare = await Device.make('spare');
});

afterEach(async () => {
  await lab[Symbol.asyncDispose]();
  await device[Symbol.asyncDispose]();
  await spare[Symbol.asyncDispose]();
});

const openWith = (pin: string, who: Who = 'operator') =>
  lab.ask(who, 'open-slot', { slot: 'main' }, { bytes: [text(pin)] });
const openSource = (who: Who = 'operator') => lab.ask(who, 'open-slot', { slot: 'main' });
const lock = () => lab.ask('operator', 'lock-slot', { slot: 'main' });
const clearLatch = () => lab.ask('operator', 'clear-latch', { slot: 'main' });
const sign = (session?: string) =>
  lab.ask(
    'signer',
    'sign-message',
    { key: 'wallet' },
    { bytes: [text('x')], ...(session ? { session } : {}) },
  );
const generate = () => lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
const reason = async (slot = 'main') =>
  (await lab.ask('operator', 'show-slot', { slot })).output.reason?.code;
const gone = new KeyslotError('TOKEN_UNAVAILABLE', 'The device is gone.');

describe('opening', () => {
  it('happens by itself for an unattended slot, with the PIN of its source', async () => {
    lab = await Lab.start({ slot: device.slot, source: () => pinText });
    expect(await lab.state()).toBe('locked');
    expect(await lab.custodian.openUnattended()).toEqual([]);
    const { output } = await lab.ask('operator', 'show-slot', { slot: 'main' });
    expect(output).toMatchObject({ state: 'open', attended: false, access: 'identity', findings: [] });
    expect(output.reason).toBeUndefined();
    expect(device.pinsHeard).toEqual([pinText]);
  });

  it('of an attended slot waits for an operator who brings the PIN', async () => {
    lab = await Lab.start({ slot: device.slot });
    expect(await lab.custodian.openUnattended()).toEqual([]);
    expect((await lab.ask('operator', 'show-slot', { slot: 'main' })).output.attended).toBe(true);
    expect(await refusal(generate())).toBe('SLOT_LOCKED');
    expect(await refusal(openSource())).toBe('SLOT_PIN_REQUIRED');
    expect(await lab.state()).toBe('locked');
    expect((await openWith(pinText)).output.state).toBe('open');
    await generate();
    expect(await refusal(sign())).toBe('none');
    await lock();
    expect(await refusal(sign())).toBe('SLOT_LOCKED');
  });

  it('an open slot again costs no login, with the right PIN or without any', async () => {
    lab = await Lab.open({ slot: device.slot });
    await openWith(pinText);
    await openSource();
    await lab.custodian.openUnattended();
    expect(device.pinsHeard).toHaveLength(1);
    expect(await lab.state()).toBe('open');
  });

  it('an open slot with a wrong PIN is refused, and the device never hears that PIN', async () => {
    lab = await Lab.open({ slot: device.slot });
    expect(await refusal(openWith('wrong'))).toBe('PIN_INCORRECT');
    expect(await lab.state()).toBe('open');
    expect(device.pinsHeard).toEqual([pinText]);
  });

  it('many times at once costs one login, and the later PINs are compared with the first', async () => {
    lab = await Lab.start({ slot: device.slot });
    const right = Array.from({ length: 20 }, () => openWith(pinText));
    const wrong = openWith('wrong', 'neighbour');
    await Promise.all(right);
    expect(await refusal(wrong)).toBe('PIN_INCORRECT');
    expect(device.pinsHeard).toEqual([pinText]);
  });

  it('is one at a time, also when those that waited find that the first one failed', async () => {
    lab = await Lab.start({ slot: device.slot });
    device.onOpen = failing<Session>(gone);
    const attempts = await Promise.allSettled(Array.from({ length: 8 }, () => openWith(pinText)));
    expect(attempts.filter(attempt => attempt.status === 'rejected')).toHaveLength(1);
    expect(device.openingsAtOnce).toBe(1);
    expect(device.pinsHeard).toHaveLength(2);
  });

  it('spends one attempt of the token on wrong PINs that arrive together', async () => {
    lab = await Lab.start({ slot: device.slot });
    const callers = ['operator', 'both', 'neighbour', 'mainOnly'] as const;
    const codes = await Promise.all(callers.map((who, at) => refusal(openWith(`wrong ${at}`, who))));
    expect(codes).toEqual(['PIN_REFUSED', 'SLOT_LATCHED', 'SLOT_LATCHED', 'SLOT_LATCHED']);
    expect(device.pinsHeard).toEqual(['wrong 0']);
  });

  it('behind an attempt without a PIN still spends one attempt on the wrong ones', async () => {
    lab = await Lab.start({ slot: device.slot });
    const codes = await Promise.all([
      refusal(openSource()),
      refusal(openWith('w1', 'both')),
      refusal(openWith('w2', 'neighbour')),
      refusal(openWith('w3', 'mainOnly')),
    ]);
    expect(codes).toEqual(['SLOT_PIN_REQUIRED', 'PIN_REFUSED', 'SLOT_LATCHED', 'SLOT_LATCHED']);
    expect(device.pinsHeard).toEqual(['w1']);
  });

  it('that comes while a lock is finishing waits for its end', async () => {
    lab = await Lab.open({ slot: device.slot });
    const gate = new Gate();
    device.onClose = () => gate.pass();
    const locking = lock();
    await gate.reached;
    const opening = openWith(pinText);
    await nextTurn();
    gate.open();
    expect((await locking).output.id).toBe('main');
    expect((await opening).output.state).toBe('open');
    expect(device.pinsHeard).toEqual([pinText, pinText]);
  });
});

describe('a slot that cannot be opened', () => {
  it('has failed, says why, and opens when the device is back', async () => {
    lab = await Lab.start({ slot: device.slot, source: () => pinText });
    device.onOpen = failing<Session>(gone);
    expect((await lab.custodian.openUnattended()).map(error => error.code)).toEqual(['TOKEN_UNAVAILABLE']);
    expect(await lab.state()).toBe('failed');
    expect(await reason()).toBe('TOKEN_UNAVAILABLE');
    const error = await generate().then(
      () => undefined,
      thrown => thrown,
    );
    expect(error).toMatchObject({ code: 'SLOT_FAILED', retryAfter_s: expect.any(Number) });
    expect((await openSource()).output).toMatchObject({ state: 'open' });
    expect(await reason()).toBeUndefined();
  });

  it('because its source cannot be read says so', async () => {
    const unreadable = () => {
      throw new KeyslotError('SECRET_UNREADABLE', 'The file is not there.');
    };
    lab = await Lab.start({ slot: device.slot, source: unreadable });
    expect((await lab.custodian.openUnattended()).map(error => error.code)).toEqual(['SECRET_UNREADABLE']);
    expect(await lab.state()).toBe('failed');
    expect(await reason()).toBe('SECRET_UNREADABLE');
    expect(device.pinsHeard).toEqual([]);
  });

  it('because its keys cannot be listed says so, and does not stay logged in', async () => {
    lab = await Lab.start({ slot: device.slot, source: () => pinText });
    device.onKeys = async () => {
      throw gone;
    };
    expect((await lab.custodian.openUnattended()).map(error => error.code)).toEqual(['TOKEN_UNAVAILABLE']);
    expect(await lab.state()).toBe('failed');
    expect(await reason()).toBe('TOKEN_UNAVAILABLE');
    await device.behind(async () => undefined); // would be refused with SLOT_OPEN
    device.onKeys = async () => undefined;
    expect((await openSource()).output.state).toBe('open');
  });

  it('keeps no other slot from opening, whatever its reason is', async () => {
    lab = await Lab.start(
      { slot: device.slot, source: () => 'wrong' },
      { slot: spare.slot, source: () => pinText },
    );
    expect((await lab.custodian.openUnattended()).map(error => error.code)).toEqual(['PIN_REFUSED']);
    expect([await lab.state('main'), await lab.state('spare')]).toEqual(['latched', 'open']);
    const { output } = await lab.ask('nobody', 'health', {});
    const since = '2026-01-01T00:16:40.000Z';
    const asExpected = { since, required: true, findings: { all: 0, harmful: 0 } };
    expect(output).toEqual({
      ready: false,
      checks: [
        { id: 'slot/main', ok: false, state: 'latched', custody: 'memory', ...asExpected },
        { id: 'slot/spare', ok: true, state: 'open', custody: 'memory', ...asExpected },
        { id: 'audit', ok: true, state: 'ok', required: true, tamperEvidence: 'chain' },
      ],
    });
  });
});

describe('a refused PIN', () => {
  it('latches the slot, and is not tried again, whoever asks', async () => {
    lab = await Lab.start({ slot: device.slot, source: () => 'wrong' });
    await lab.custodian.openUnattended();
    expect(await lab.state()).toBe('latched');
    expect(await reason()).toBe('SLOT_LATCHED');
    expect(await refusal(openSource())).toBe('SLOT_LATCHED');
    expect(await refusal(openWith('wrong', 'neighbour'))).toBe('SLOT_LATCHED');
    expect((await lab.custodian.openUnattended()).map(error => error.code)).toEqual(['SLOT_LATCHED']);
    expect(await refusal(generate())).toBe('SLOT_LATCHED');
    expect(await refusal(lab.session('signer'))).toBe('SLOT_LATCHED');
    expect(device.pinsHeard).toEqual(['wrong']);
  });

  it('is not tried again after a restart either', async () => {
    lab = await Lab.start({ slot: device.slot, source: () => 'wrong' });
    await lab.custodian.openUnattended();
    for (const _ of [1, 2]) {
      await lab.restart();
      expect((await lab.custodian.openUnattended()).map(error => error.code)).toEqual(['SLOT_LATCHED']);
      expect(await lab.state()).toBe('latched');
    }
    expect(device.pinsHeard).toEqual(['wrong']);
  });

  it('makes way for another PIN of the source, after a restart', async () => {
    let source = 'wrong';
    lab = await Lab.start({ slot: device.slot, source: () => source });
    await lab.custodian.openUnattended();
    source = pinText;
    await lab.restart();
    expect(await lab.custodian.openUnattended()).toEqual([]);
    expect(await lab.state()).toBe('open');
    expect(device.pinsHeard).toEqual(['wrong', pinText]);
  });

  it('makes way for another PIN of the source without a restart, but for no PIN of a caller', async () => {
    let source = 'wrong';
    lab = await Lab.start({ slot: device.slot, source: () => source });
    await lab.custodian.openUnattended();
    source = pinText;
    expect(await refusal(openWith(pinText))).toBe('SLOT_LATCHED');
    expect((await openSource()).output.state).toBe('open');
    expect(device.pinsHeard).toEqual(['wrong', pinText]);
  });

  it('may be tried again when an operator clears the latch, once', async () => {
    lab = await Lab.start({ slot: device.slot, source: () => 'wrong' });
    await lab.custodian.openUnattended();
    expect((await clearLatch()).output.state).toBe('locked');
    expect(device.pinsHeard).toHaveLength(1); // clearing costs no attempt by itself
    expect(await refusal(openSource())).toBe('PIN_REFUSED');
    expect(await refusal(openSource('neighbour'))).toBe('SLOT_LATCHED');
    expect(device.pinsHeard).toEqual(['wrong', 'wrong']);
  });

  it('of an operator latches an attended slot until the latch is cleared', async () => {
    lab = await Lab.start({ slot: device.slot });
    expect(await refusal(openWith('wrong'))).toBe('PIN_REFUSED');
    expect(await refusal(openWith(pinText, 'neighbour'))).toBe('SLOT_LATCHED');
    await clearLatch();
    expect((await openWith(pinText, 'neighbour')).output.state).toBe('open');
  });

  it('is forgotten when the slot has opened', async () => {
    let source = 'wrong';
    lab = await Lab.start({ slot: device.slot, source: () => source });
    await lab.custodian.openUnattended();
    source = pinText;
    await lab.restart();
    await lab.custodian.openUnattended();
    expect(lab.store.all('SELECT * FROM latches')).toEqual([]);
  });

  it('stays latched through a lock', async () => {
    lab = await Lab.start({ slot: device.slot });
    await refusal(openWith('wrong'));
    expect((await lock()).output.state).toBe('latched');
  });

  it('is nothing that a custody below its last try latches for', async () => {
    lab = await Lab.start({ slot: device.slot, source: () => pinText });
    device.onOpen = failing<Session>(new KeyslotError('PIN_LAST_TRY', 'One attempt is left.'));
    await lab.custodian.openUnattended();
    expect(await lab.state()).toBe('failed');
    expect(await reason()).toBe('PIN_LAST_TRY');
    expect(lab.store.all('SELECT * FROM latches')).toEqual([]);
  });
});

describe('locking', () => {
  it('ends the login and the sessions of the callers', async () => {
    lab = await Lab.open({ slot: device.slot, access: 'session' });
    await generate();
    const session = await lab.session('signer');
    expect(await refusal(sign(session))).toBe('none');
    await lock();
    await device.behind(async () => undefined); // the login has ended, or this were SLOT_OPEN
    expect(await refusal(sign(session))).toBe('SESSION_EXPIRED');
    await openWith(pinText);
    expect(await refusal(sign(session))).toBe('SESSION_EXPIRED');
    expect(await refusal(sign(await lab.session('signer')))).toBe('none');
  });

  it('leaves nobody inside who came in at the same moment', async () => {
    lab = await Lab.open({ slot: device.slot, access: 'session' });
    await generate();
    const [, entering] = await Promise.allSettled([lock(), lab.session('signer')]);
    await openWith(pinText);
    if (entering.status === 'fulfilled') {
      expect(await refusal(sign(entering.value))).toBe('SESSION_EXPIRED');
    }
  });

  it('ends the sessions of that slot and of no other', async () => {
    lab = await Lab.start(
      { slot: device.slot, access: 'session', source: () => pinText },
      { slot: spare.slot, access: 'session', source: () => pinText },
    );
    await lab.custodian.openUnattended();
    await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'spare' });
    const session = await lab.session('signer', 'spare');
    await lock();
    expect(await refusal(sign(session))).toBe('none');
  });

  it('a locked slot again changes nothing', async () => {
    lab = await Lab.open({ slot: device.slot });
    await lock();
    expect((await lock()).output.state).toBe('locked');
  });

  it('happens at the end of the custodian', async () => {
    lab = await Lab.open({ slot: device.slot });
    await lab.custodian[Symbol.asyncDispose]();
    await device.behind(async () => undefined);
    expect(await lab.state()).toBe('locked');
    expect(await refusal(generate())).toBe('AUDIT_UNAVAILABLE'); // the log is closed last
  });
});

describe('the registry and the device, held against each other at an opening', () => {
  const reopen = async () => {
    await lab.restart();
    await lab.custodian.openUnattended();
    return (await lab.ask('operator', 'show-slot', { slot: 'main' })).output;
  };
  const below = (session: Session) => session as Session & Powers;

  beforeEach(async () => {
    lab = await Lab.open({ slot: device.slot });
  });

  it('agree in the ordinary case, and the keys sign as before', async () => {
    const { output } = await generate();
    expect(await reopen()).toMatchObject({ state: 'open', findings: [] });
    expect((await sign()).output.publicKey).toBe(output.publicKey);
  });

  it('report a key that the device has lost, and the slot is degraded', async () => {
    await generate();
    await lab.custodian[Symbol.asyncDispose]();
    await device.behind(session => below(session).destroy(keyId('wallet')));
    expect(await reopen()).toMatchObject({
      state: 'degraded',
      findings: [{ key: 'wallet', problem: 'missing' }],
    });
    expect(await refusal(sign())).toBe('KEY_MISSING');
    expect((await lab.ask('nobody', 'health', {})).output).toMatchObject({
      ready: false,
      checks: [{ id: 'slot/main', ok: false, state: 'degraded', findings: { all: 1, harmful: 1 } }, {}],
    });
    expect((await lab.ask('operator', 'show-key', { key: 'wallet' })).output.state).toBe('active');
  });

  it('report a key that the registry does not know, and never sign with it', async () => {
    await lab.custodian[Symbol.asyncDispose]();
    await device.behind(async session => {
      await below(session).generate(keyId('wallet'));
    });
    expect(await reopen()).toMatchObject({
      state: 'open',
      findings: [{ key: 'wallet', problem: 'unknown' }],
    });
    expect(await refusal(sign())).toBe('KEY_UNKNOWN');
    expect(await refusal(lab.ask('both', 'show-key', { key: 'wallet' }))).toBe('KEY_UNKNOWN');
    // The id cannot be taken either, and asking for it leaves no trace in the registry.
    expect(await refusal(generate())).toBe('KEY_EXISTS');
    expect(lab.store.all('SELECT * FROM keys')).toEqual([]);
  });

  it('report another key under a known id, and nothing is signed with it', async () => {
    await generate();
    await lab.custodian[Symbol.asyncDispose]();
    await device.behind(async session => {
      await below(session).destroy(keyId('wallet'));
      await below(session).generate(keyId('wallet'));
    });
    expect(await reopen()).toMatchObject({
      state: 'degraded',
      findings: [{ key: 'wallet', problem: 'mismatch' }],
    });
    expect(await refusal(sign())).toBe('KEY_MISMATCH');
    expect(await refusal(sign())).toBe('KEY_MISMATCH');
    expect(device.asked).toEqual([]);
  });

  it('complete a key that was made when Keyslot stopped before it was written down', async () => {
    lab.store.run(
      "INSERT INTO keys (id, slot, origin, state, created_at) VALUES ('wallet', 'main', 'generated', 'pending', '2026-01-01T00:00:00.000Z')",
    );
    await lab.custodian[Symbol.asyncDispose]();
    await device.behind(async session => {
      await below(session).generate(keyId('wallet'));
    });
    expect(await reopen()).toMatchObject({ state: 'open', findings: [] });
    expect((await lab.ask('operator', 'show-key', { key: 'wallet' })).output).toMatchObject({
      state: 'active',
      createdAt: '2026-01-01T00:00:00.000Z',
    });
    expect(await refusal(sign())).toBe('none');
  });

  it('forget a key that was never made, so that its id is free again', async () => {
    lab.store.run(
      "INSERT INTO keys (id, slot, origin, state, created_at) VALUES ('wallet', 'main', 'generated', 'pending', '2026-01-01T00:00:00.000Z')",
    );
    expect(await reopen()).toMatchObject({ state: 'open', findings: [] });
    expect(await refusal(sign())).toBe('KEY_UNKNOWN');
    expect(await refusal(generate())).toBe('none');
    expect(await refusal(sign())).toBe('none');
  });
});

interface Powers {
  generate(key: ReturnType<typeof keyId>): Promise<unknown>;
  destroy(key: ReturnType<typeof keyId>): Promise<void>;
}

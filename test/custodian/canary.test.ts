import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { canaryMessage } from '../../src/custodian/canary.ts';
import type { SlotSetting } from '../../src/custodian/slot-keeper.ts';
import { canaryKey } from '../../src/custody/canary-key.ts';
import { generates, type Session } from '../../src/custody/engine.ts';
import { signature, slotId } from '../../src/custody/ids.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { classifyMessage, isWireTransaction } from '../../src/solana/message-kind.ts';
import { Device, Gate, pinText, type SignRequest } from './device.ts';
import { Lab, refusal, text } from './lab.ts';

const hour_ms = 3_600_000;

let device: Device;
let lab: Lab;

beforeEach(async () => {
  device = await Device.make();
  lab = await Lab.with({ slots: [setting()] });
});

afterEach(async () => {
  await lab[Symbol.asyncDispose]();
  await device[Symbol.asyncDispose]();
});

/** A canary that signs when it is asked to, or so often that a test sees it. */
const setting = (every_ms = hour_ms): SlotSetting => ({
  slot: device.slot,
  access: 'identity',
  readPin: async () => Secret.fromText(pinText),
  canary: { every_ms },
});

const open = () => lab.custodian.openUnattended();
const generate = () => lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
const sign = () => lab.ask('signer', 'sign-message', { key: 'wallet' }, { bytes: [text('x')] });
const trial = async () => (await lab.ask('operator', 'try-slot', { slot: 'main' })).output;
const health = async () => (await lab.ask('nobody', 'health', {})).output;
const canary = async () => (await health()).checks[0]?.canary;
const lock = () => lab.ask('operator', 'lock-slot', { slot: 'main' });
const wrong = async ({ honest }: SignRequest) => {
  const bytes = Uint8Array.from(await honest());
  bytes[0] = (bytes[0] ?? 0) ^ 1;
  return signature(bytes);
};

/** What the audit log says of canary keys that were made. */
const makings = async () => {
  const lines = await lab.custodian.audit.read(0, 1_000);
  return lines
    .map(({ record }) => record)
    .filter(({ operation }) => operation === 'make-canary')
    .map(({ type, actor, slot, key, outcome }) => ({ type, actor, slot, key, outcome }));
};

const until = (holds: () => Promise<boolean>) =>
  expect.poll(holds, { timeout: 10_000, interval: 5 }).toBe(true);

describe('the key of a canary', () => {
  it('is made when its slot opens, is written down, and has signed before the opening is answered', async () => {
    expect(await open()).toEqual([]);
    expect(device.asked).toEqual(['keyslot-canary']);
    const about = { actor: 'keyslot', slot: 'main', key: 'keyslot-canary' };
    expect(await makings()).toEqual([
      { type: 'intent', ...about, outcome: undefined },
      { type: 'result', ...about, outcome: 'ok' },
    ]);
    expect(await canary()).toEqual({
      ok: true,
      state: 'proven',
      every_s: 3_600,
      age_s: 0,
      signatures: 1,
      failures: 0,
      unverified: 0,
    });
  });

  it('is made once, and is neither a key of anybody nor a finding', async () => {
    await open();
    await lab.restart();
    await open();
    expect(await makings()).toHaveLength(2);
    expect((await health()).checks[0]).toMatchObject({ ok: true, findings: { all: 0, harmful: 0 } });
    expect((await lab.ask('operator', 'show-slot', { slot: 'main' })).output.findings).toEqual([]);
    expect((await lab.ask('operator', 'list-keys', { limit: 10 })).output.keys).toEqual([]);
  });

  it('is nobody’s to use, and its id nobody’s to take', async () => {
    await open();
    const key = 'keyslot-canary';
    const seed = { bytes: [new Uint8Array(32).fill(7)] };
    expect(await refusal(lab.ask('operator', 'generate-key', { key, slot: 'main' }))).toBe('KEY_ID_INVALID');
    expect(await refusal(lab.ask('operator', 'import-key', { key, slot: 'main' }, seed))).toBe(
      'KEY_ID_INVALID',
    );
    expect(await refusal(lab.ask('operator', 'adopt-key', { key, slot: 'main' }))).toBe('KEY_ID_INVALID');
    expect(await refusal(lab.ask('operator', 'show-key', { key }))).toBe('KEY_UNKNOWN');
    expect(await refusal(lab.ask('signer', 'sign-message', { key }, { bytes: [text('x')] }))).toBe(
      'KEY_UNKNOWN',
    );
    expect(device.asked).toHaveLength(1);
  });

  it('is taken as it is when somebody else made it at the same moment', async () => {
    device.onGenerate = async honest => {
      await honest();
      throw new KeyslotError('KEY_EXISTS', 'There is a key of this id already.');
    };
    await open();
    expect(await canary()).toMatchObject({ state: 'proven', signatures: 1 });
  });

  it('is looked for again, and made again, when the slot has lost it', async () => {
    await open();
    device.onSign = async () => {
      throw new KeyslotError('KEY_UNKNOWN', 'There is no such key.');
    };
    expect(await trial()).toMatchObject({ ok: false, error: { code: 'KEY_UNKNOWN' } });
    device.onSign = ({ honest }) => honest();
    expect(await trial()).toMatchObject({ ok: true });
    expect(await makings()).toHaveLength(2);
  });

  it('is not the one that a caller registered under this id before it was reserved', async () => {
    await device.behind(async session => {
      await below(session).generate(canaryKey);
    });
    lab.store.run(
      "INSERT INTO keys (id, slot, origin, state, created_at) VALUES ('keyslot-canary', 'main', 'generated', 'pending', '2026-01-01T00:00:00.000Z')",
    );
    await lab.restart();
    expect(await open()).toEqual([]);
    expect(device.asked).toEqual([]);
    expect((await health()).ready).toBe(true);
    expect(await canary()).toMatchObject({ state: 'unavailable', lastError: { code: 'KEY_EXISTS' } });
  });
});

describe('what a canary signs', () => {
  it('is text that no validator reads as a transaction, whatever slot and time it names', () => {
    fc.assert(
      fc.property(
        fc.stringMatching(/^[a-z0-9][a-z0-9-]{0,62}$/),
        fc.date({ noInvalidDate: true, min: new Date(0), max: new Date(8.64e15) }),
        (slot, at) => {
          const message = canaryMessage(slotId(slot), at);
          expect(classifyMessage(message)).toEqual({ kind: 'bytes' });
          expect(isWireTransaction(message)).toBe(false);
        },
      ),
      { numRuns: 200 },
    );
  });

  it('says what it is, and is never the same text twice', async () => {
    const seen: string[] = [];
    device.onSign = ({ message, honest }) => {
      seen.push(Buffer.from(message).toString('latin1'));
      return honest();
    };
    await open();
    await trial();
    expect(seen).toHaveLength(2);
    expect(new Set(seen).size).toBe(2);
    for (const each of seen) expect(each).toMatch(/^keyslot canary\nslot main\nboot [0-9a-f]{32}\nat 2026-/);
  });
});

describe('readiness', () => {
  it('ends three intervals after the last proof, and comes back with the next', async () => {
    await open();
    lab.clock.advance(3 * hour_ms - 1);
    expect(await health()).toMatchObject({ ready: true });
    lab.clock.advance(1);
    const late = await health();
    expect(late.ready).toBe(false);
    expect(late.checks[0]).toMatchObject({
      ok: false,
      state: 'open',
      canary: { ok: false, state: 'unproven' },
    });
    expect(late.checks[0]?.canary?.age_s).toBe(10_800);
    expect(await trial()).toMatchObject({ ok: true });
    expect(await health()).toMatchObject({ ready: true });
  });

  it('goes by the verified signatures of callers as well, and by no others', async () => {
    await open();
    await generate();
    lab.clock.advance(2 * hour_ms);
    await sign();
    lab.clock.advance(2 * hour_ms);
    expect(await canary()).toMatchObject({ state: 'proven', age_s: 7_200, signatures: 1 });
    device.onSign = wrong;
    expect(await refusal(sign())).toBe('SIGNATURE_WITHHELD');
    expect(await canary()).toMatchObject({ state: 'proven', age_s: 7_200 });
    lab.clock.advance(hour_ms);
    expect(await canary()).toMatchObject({ state: 'unproven' });
  });

  it('ends at once with a wrong signature of the canary, until it makes a right one', async () => {
    await open();
    await generate();
    device.onSign = wrong;
    expect(await trial()).toMatchObject({ ok: false, error: { code: 'SIGNATURE_WITHHELD' } });
    expect(await health()).toMatchObject({ ready: false });
    expect(await canary()).toMatchObject({
      state: 'unverified',
      unverified: 1,
      lastError: { code: 'SIGNATURE_WITHHELD', at: expect.any(String) },
    });
    device.onSign = ({ honest }) => honest();
    await sign(); // of a caller: one right signature does not undo a wrong one of the canary
    expect(await canary()).toMatchObject({ state: 'unverified' });
    device.onSign = async () => {
      throw new KeyslotError('TOKEN_ERROR', 'The token failed.');
    };
    expect(await trial()).toMatchObject({ ok: false });
    expect(await canary()).toMatchObject({ state: 'unverified', failures: 1 });
    device.onSign = ({ honest }) => honest();
    expect(await trial()).toMatchObject({ ok: true });
    expect(await health()).toMatchObject({ ready: true });
  });

  it('outlives a failure or two, which are counted', async () => {
    await open();
    device.onSign = async () => {
      throw new KeyslotError('TOKEN_ERROR', 'The token failed.');
    };
    await trial();
    await trial();
    expect(await health()).toMatchObject({ ready: true });
    expect(await canary()).toMatchObject({ failures: 2, lastError: { code: 'TOKEN_ERROR' } });
  });

  it('counts a full queue as no failure', async () => {
    await open();
    device.onSign = async () => {
      throw new KeyslotError('SLOT_BUSY', 'The queue is full.');
    };
    expect(await trial()).toMatchObject({ ok: false, error: { code: 'SLOT_BUSY' } });
    expect(await canary()).toMatchObject({ state: 'proven', signatures: 1, failures: 0 });
    expect((await canary())?.lastError).toBeUndefined();
  });

  it('ends without a caller when the device has gone, because the canary notices', async () => {
    await open();
    device.onSign = async () => {
      throw new KeyslotError('TOKEN_UNAVAILABLE', 'The token was removed.');
    };
    expect(await trial()).toMatchObject({ ok: false });
    expect(await lab.state()).toBe('failed');
    expect(await health()).toMatchObject({ ready: false });
  });

  it('comes back with a device that was away, without waiting for the interval', async () => {
    device.recovers = true;
    await open();
    device.say({ state: 'lost', error: new KeyslotError('TOKEN_UNAVAILABLE', 'The device is away.') });
    expect(await health()).toMatchObject({ ready: false });
    device.say({ state: 'serving' });
    await until(async () => (await canary())?.signatures === 2);
    expect(await health()).toMatchObject({ ready: true });
  });
});

describe('a slot that takes no canary key', () => {
  const refusals = ['TOKEN_CAPACITY', 'TOKEN_UNSUITABLE', 'TOKEN_ERROR'] as const;
  it.each(refusals)('opens all the same and is judged by its state: %s', async code => {
    device.onGenerate = async () => {
      throw new KeyslotError(code, 'The token takes no key.');
    };
    expect(await open()).toEqual([]);
    expect(await health()).toMatchObject({ ready: true });
    expect(await canary()).toMatchObject({ ok: false, state: 'unavailable', lastError: { code } });
    device.onGenerate = honest => honest();
    expect(await trial()).toMatchObject({ ok: true });
    expect(await canary()).toMatchObject({ ok: true, state: 'proven' });
  });

  it('because it makes no keys at all says so', async () => {
    device.powers = false;
    expect(await open()).toEqual([]);
    expect(await health()).toMatchObject({ ready: true });
    expect(await canary()).toMatchObject({ state: 'unavailable', lastError: { code: 'POWER_MISSING' } });
  });

  it('because its device fails while it is asked is not ready', async () => {
    device.onSigner = async () => {
      throw new KeyslotError('TOKEN_ERROR', 'The token failed.');
    };
    await open();
    expect(await health()).toMatchObject({ ready: false });
    expect(await canary()).toMatchObject({ state: 'unproven', failures: 1 });
  });

  it('by configuration has nothing to try', async () => {
    const { canary: _none, ...rest } = setting();
    lab.settings = { slots: [rest] };
    await lab.restart();
    await open();
    expect((await health()).checks[0]).toMatchObject({ ok: true });
    expect(await canary()).toBeUndefined();
    expect(await refusal(trial())).toBe('POWER_MISSING');
    expect(device.asked).toEqual([]);
  });
});

describe('attempts', () => {
  it('are made again and again', async () => {
    lab.settings = { slots: [setting(50)] };
    await lab.restart();
    await open();
    await until(async () => ((await canary())?.signatures ?? 0) >= 3);
  });

  it('are one at a time: whoever asks meanwhile joins', async () => {
    await open();
    const gate = new Gate();
    device.onSign = async ({ honest }) => {
      await gate.pass();
      return honest();
    };
    const both = Promise.all([trial(), trial()]);
    await gate.reached;
    gate.open();
    expect(await both).toMatchObject([{ ok: true }, { ok: true }]);
    expect(await canary()).toMatchObject({ signatures: 2 });
  });

  it('end at their deadline, and none begins while a call has not come back', async () => {
    lab.settings = { slots: [setting(20)] };
    await lab.restart();
    const gate = new Gate();
    device.onSign = async ({ honest }) => {
      await gate.pass();
      return honest();
    };
    expect(await open()).toEqual([]);
    await gate.reached;
    expect(await trial()).toMatchObject({ ok: false, error: { code: 'DEADLINE_EXCEEDED' } });
    expect(await trial()).toMatchObject({ ok: false, error: { code: 'DEADLINE_EXCEEDED' } });
    expect(device.asked).toHaveLength(1);
    expect(await health()).toMatchObject({ ready: false });
    gate.open();
    await until(async () => (await canary())?.state === 'proven');
  });

  it('keep nobody from locking the slot, and end with it', async () => {
    const gate = new Gate();
    device.onSign = async ({ honest }) => {
      await gate.pass();
      return honest();
    };
    const opening = lab.ask('operator', 'open-slot', { slot: 'main' });
    await gate.reached;
    expect((await lock()).output.state).toBe('locked');
    expect((await opening).output.state).toBe('locked');
    expect(await canary()).toBeUndefined();
    expect(await refusal(trial())).toBe('SLOT_LOCKED');
    gate.open();
  });
});

const below = (session: Session) => {
  if (!generates(session)) throw new TypeError('The device makes no keys.');
  return session;
};

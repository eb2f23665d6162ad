import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { AccessMode } from '../../src/wire/views.ts';
import { Device, pinText } from './device.ts';
import { absolute_ms, idle_ms, Lab, refusal, text, type Who } from './lab.ts';

let device: Device;
let spare: Device;
let lab: Lab;

async function start(access: AccessMode): Promise<void> {
  lab = await Lab.start(
    { slot: device.slot, access, source: () => pinText },
    { slot: spare.slot, access, source: () => pinText },
  );
  await lab.custodian.openUnattended();
  await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
}

beforeEach(async () => {
  device = await Device.make();
  spare = await Device.make('spare');
});

afterEach(async () => {
  await lab[Symbol.asyncDispose]();
  await device[Symbol.asyncDispose]();
  await spare[Symbol.asyncDispose]();
});

const sign = (session?: string, who: Who = 'signer', key = 'wallet') =>
  lab.ask(who, 'sign-message', { key }, { bytes: [text('x')], ...(session ? { session } : {}) });
const close = (session: string, who: Who = 'signer') => lab.ask(who, 'close-session', {}, { session });

describe('the access of a slot', () => {
  it('`session` lets whoever knows the PIN sign, and nobody else', async () => {
    await start('session');
    expect(await refusal(sign())).toBe('SESSION_REQUIRED');
    expect(await refusal(sign(await lab.session('signer')))).toBe('none');
    // No grant is needed: the PIN is the grant.
    expect(await refusal(sign(undefined, 'ungranted'))).toBe('SESSION_REQUIRED');
    expect(await refusal(sign(await lab.session('ungranted'), 'ungranted'))).toBe('none');
    // The role still is.
    expect(await refusal(lab.session('operator'))).toBe('PERMISSION_DENIED');
  });

  it('`session` shows the keys of the slot to whoever is in, as long as the session lives', async () => {
    await start('session');
    const show = (session?: string) =>
      lab.ask('ungranted', 'show-key', { key: 'wallet' }, session ? { session } : {});
    const listed = async (session?: string) =>
      (await lab.ask('ungranted', 'list-keys', { limit: 10 }, session ? { session } : {})).output.keys.length;
    expect(await refusal(show())).toBe('KEY_UNKNOWN');
    expect(await listed()).toBe(0);
    const session = await lab.session('ungranted');
    expect((await show(session)).output.id).toBe('wallet');
    expect(await listed(session)).toBe(1);
    const elsewhere = await lab.session('ungranted', 'spare');
    expect(await refusal(show(elsewhere))).toBe('KEY_UNKNOWN');
    expect(await refusal(show(await lab.session('signer')))).toBe('KEY_UNKNOWN'); // another identity's
    await close(session, 'ungranted');
    expect(await refusal(show(session))).toBe('SESSION_EXPIRED');
    const missing = lab.ask('ungranted', 'show-key', { key: 'no-such-key' }, { session });
    expect(await refusal(missing)).toBe('SESSION_EXPIRED'); // and says nothing of the key
  });

  it('`identity` lets a grant sign, with a session or without', async () => {
    await start('identity');
    expect(await refusal(sign())).toBe('none');
    expect(await refusal(sign('no session at all'))).toBe('none');
    expect(await refusal(sign(undefined, 'ungranted'))).toBe('KEY_UNKNOWN');
    expect(await refusal(lab.session('ungranted'))).toBe('SLOT_UNKNOWN');
  });

  it('`both` asks for the grant and for the PIN', async () => {
    await start('both');
    expect(await refusal(sign())).toBe('SESSION_REQUIRED');
    expect(await refusal(sign(await lab.session('signer')))).toBe('none');
    expect(await refusal(lab.session('ungranted'))).toBe('SLOT_UNKNOWN');
    const session = await lab.session('signer');
    expect(await refusal(sign(session, 'ungranted'))).toBe('KEY_UNKNOWN');
  });
});

describe('a session', () => {
  beforeEach(() => start('session'));

  it('is a token of 32 random bytes, told once, with its expiry', async () => {
    const reply = await lab.ask('signer', 'open-session', { slot: 'main' }, { bytes: [text(pinText)] });
    expect(reply.output).toEqual({
      slot: 'main',
      idle_s: idle_ms / 1000,
      expiresAt: new Date(lab.clock.utc().getTime() + absolute_ms).toISOString(),
    });
    const [first] = reply.bytes ?? [];
    expect(Buffer.from(first ?? []).toString('latin1')).toMatch(/^[A-Za-z0-9_-]{43}$/);
    expect(JSON.stringify(reply.output)).not.toContain(Buffer.from(first ?? []).toString('latin1'));
    expect(await lab.session('signer')).not.toBe(Buffer.from(first ?? []).toString('latin1'));
  });

  it('serves the identity that opened it and no other', async () => {
    const session = await lab.session('signer');
    expect(await refusal(sign(session, 'neighbour'))).toBe('SESSION_FOREIGN');
    expect(await refusal(close(session, 'neighbour'))).toBe('SESSION_FOREIGN');
    expect(await refusal(sign(session))).toBe('none');
  });

  it('serves the slot that it was opened on and no other', async () => {
    await lab.ask('operator', 'generate-key', { key: 'other', slot: 'spare' });
    const session = await lab.session('signer', 'spare');
    expect(await refusal(sign(session))).toBe('SESSION_FOREIGN');
    expect(await refusal(sign(session, 'signer', 'other'))).toBe('none');
  });

  it('ends when it is closed, and cannot be closed twice', async () => {
    const session = await lab.session('signer');
    expect((await close(session)).output).toEqual({});
    expect(await refusal(sign(session))).toBe('SESSION_EXPIRED');
    expect(await refusal(close(session))).toBe('SESSION_EXPIRED');
    expect(await refusal(lab.ask('signer', 'close-session', {}))).toBe('SESSION_REQUIRED');
  });

  it('ends when nobody used it for a while, and lives on when somebody did', async () => {
    const used = await lab.session('signer');
    const idle = await lab.session('signer');
    for (let step = 0; step < 5; step += 1) {
      lab.clock.advance(idle_ms - 1);
      expect(await refusal(sign(used))).toBe('none');
    }
    expect(await refusal(sign(idle))).toBe('SESSION_EXPIRED');
    lab.clock.advance(idle_ms);
    expect(await refusal(sign(used))).toBe('SESSION_EXPIRED');
  });

  it('ends for good, however busy it is', async () => {
    const session = await lab.session('signer');
    for (let past_ms = 0; past_ms + idle_ms / 2 < absolute_ms; past_ms += idle_ms / 2) {
      expect(await refusal(sign(session))).toBe('none');
      lab.clock.advance(idle_ms / 2);
    }
    lab.clock.advance(idle_ms / 2 - 1);
    expect(await refusal(sign(session))).toBe('none');
    lab.clock.advance(1);
    expect(await refusal(sign(session))).toBe('SESSION_EXPIRED');
  });

  it('is not prolonged by requests of others', async () => {
    const session = await lab.session('signer');
    lab.clock.advance(idle_ms - 1);
    expect(await refusal(sign(session, 'neighbour'))).toBe('SESSION_FOREIGN');
    lab.clock.advance(1);
    expect(await refusal(sign(session))).toBe('SESSION_EXPIRED');
  });

  it('does not survive a restart', async () => {
    const session = await lab.session('signer');
    await lab.restart();
    await lab.custodian.openUnattended();
    expect(await refusal(sign(session))).toBe('SESSION_EXPIRED');
  });

  it('that was invented is one that has expired', async () => {
    expect(await refusal(sign('A'.repeat(43)))).toBe('SESSION_EXPIRED');
  });

  it("is one of at most a hundred of its identity, across slots: the oldest is pushed out, and nobody else's", async () => {
    const foreign = await lab.session('neighbour');
    const own: string[] = [];
    for (let at = 0; at < 102; at += 1)
      own.push(await lab.session('signer', at % 10 === 9 ? 'spare' : 'main'));
    const codes = await Promise.all(own.map(session => refusal(sign(session))));
    expect(codes.slice(0, 2)).toEqual(['SESSION_EXPIRED', 'SESSION_EXPIRED']);
    const onMain = codes.slice(2).filter((_, at) => (at + 2) % 10 !== 9);
    expect(new Set(onMain)).toEqual(new Set(['none']));
    expect(await refusal(sign(foreign, 'neighbour'))).toBe('none');
  });
});

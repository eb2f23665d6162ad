import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { generates } from '../../src/custody/engine.ts';
import { keyId, signature } from '../../src/custody/ids.ts';
import { publicKeyFromSeed } from '../../src/foundation/ed25519.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { Device, Gate, pinText } from './device.ts';
import { Lab, refusal, text } from './lab.ts';

let device: Device;
let spare: Device;
let lab: Lab;

beforeEach(async () => {
  device = await Device.make();
  spare = await Device.make('spare');
  lab = await Lab.start(
    { slot: device.slot, source: () => pinText },
    { slot: spare.slot, source: () => pinText },
  );
  await lab.custodian.openUnattended();
});

afterEach(async () => {
  await lab[Symbol.asyncDispose]();
  await device[Symbol.asyncDispose]();
  await spare[Symbol.asyncDispose]();
});

const generate = (key: string, slot = 'main') => lab.ask('operator', 'generate-key', { key, slot });
const importKey = (key: string, seed: Uint8Array) =>
  lab.ask('operator', 'import-key', { key, slot: 'main' }, { bytes: [seed] });
const show = (key: string) => lab.ask('signer', 'show-key', { key });
const rows = () => lab.store.all('SELECT id, state FROM keys');

describe('making a key', () => {
  it('answers what everybody is shown of it from then on, also after a restart', async () => {
    const { output } = await generate('wallet');
    expect(output).toMatchObject({ id: 'wallet', slot: 'main', state: 'active', origin: 'generated' });
    expect(output.createdAt).toBe(lab.clock.utc().toISOString());
    expect((await show('wallet')).output).toEqual(output);
    await lab.restart();
    expect((await show('wallet')).output).toEqual(output);
    expect((await lab.ask('signer', 'list-keys', { limit: 10 })).output).toEqual({ keys: [output] });
  });

  it('from a seed gives the address of the seed, and wipes what was sent', async () => {
    const seed = new Uint8Array(32).fill(5);
    const address = Buffer.from(publicKeyFromSeed(seed)).toString('base64');
    expect((await importKey('wallet', seed)).output.publicKeyBase64).toBe(address);
    expect(seed.every(byte => byte === 0)).toBe(true);
  });

  it('takes an id once in the whole appliance, also for many at once', async () => {
    const codes = await Promise.all([
      ...Array.from({ length: 5 }, () => refusal(generate('wallet'))),
      ...Array.from({ length: 5 }, () => refusal(generate('wallet', 'spare'))),
    ]);
    expect(codes.toSorted()).toEqual([...Array(9).fill('KEY_EXISTS'), 'none']);
    expect((await show('wallet')).output.slot).toBe('main');
  });

  it('leaves no trace of a key that the custody refused', async () => {
    for (const length of [0, 31, 33, 64]) {
      expect(await refusal(importKey('wallet', new Uint8Array(length)))).toBe('KEY_MATERIAL_INVALID');
    }
    device.onGenerate = async () => {
      throw new KeyslotError('KEY_UNVERIFIED', 'The key did not prove itself.');
    };
    expect(await refusal(generate('wallet'))).toBe('KEY_UNVERIFIED');
    expect(rows()).toEqual([]);
    device.onGenerate = honest => honest();
    expect(await refusal(generate('wallet'))).toBe('none');
  });

  it('shows nothing of a key that is still being made', async () => {
    const gate = new Gate();
    device.onGenerate = async honest => {
      await gate.pass();
      return honest();
    };
    const making = generate('wallet');
    await gate.reached;
    expect(rows()).toEqual([{ id: 'wallet', state: 'pending' }]);
    expect(await refusal(show('wallet'))).toBe('KEY_UNKNOWN');
    expect(await refusal(lab.ask('signer', 'sign-message', { key: 'wallet' }, { bytes: [text('x')] }))).toBe(
      'KEY_UNKNOWN',
    );
    expect(await refusal(lab.ask('signer', 'verify', { key: 'wallet' }))).toBe('KEY_UNKNOWN');
    expect((await lab.ask('signer', 'list-keys', { limit: 10 })).output.keys).toEqual([]);
    gate.open();
    expect((await making).output.state).toBe('active');
  });

  it('notices a device that has gone', async () => {
    device.onGenerate = async () => {
      throw new KeyslotError('TOKEN_UNAVAILABLE', 'The device is gone.');
    };
    expect(await refusal(generate('wallet'))).toBe('TOKEN_UNAVAILABLE');
    expect([await lab.state('main'), await lab.state('spare')]).toEqual(['failed', 'open']);
  });

  it('finds a key again that was made although the device failed to say so', async () => {
    device.onGenerate = async honest => {
      await honest();
      throw new KeyslotError('TOKEN_ERROR', 'The answer was lost.');
    };
    expect(await refusal(generate('wallet'))).toBe('TOKEN_ERROR');
    expect(rows()).toEqual([{ id: 'wallet', state: 'pending' }]);
    device.onGenerate = honest => honest();
    const { output } = await generate('wallet');
    expect(output).toMatchObject({ state: 'active', origin: 'generated' });
    const signed = await lab.ask('signer', 'sign-message', { key: 'wallet' }, { bytes: [text('x')] });
    expect(signed.output.publicKey).toBe(output.publicKey);
    expect(await refusal(generate('wallet'))).toBe('KEY_EXISTS');
  });

  it('makes a key on the second try when the device failed before it had made one', async () => {
    device.onGenerate = async () => {
      throw new KeyslotError('TOKEN_ERROR', 'Nothing was made.');
    };
    expect(await refusal(generate('wallet'))).toBe('TOKEN_ERROR');
    device.onGenerate = honest => honest();
    expect((await generate('wallet')).output.state).toBe('active');
  });

  it('asks for an id that can be one, and for an open slot', async () => {
    for (const id of ['', 'A', '-a', 'a'.repeat(64), 'a/b', '../a', 'a\n']) {
      expect(await refusal(generate(id))).toBe('KEY_ID_INVALID');
    }
    expect(await refusal(generate('wallet', 'MAIN'))).toBe('SLOT_ID_INVALID');
    await lab.ask('operator', 'lock-slot', { slot: 'main' });
    expect(await refusal(generate('wallet'))).toBe('SLOT_LOCKED');
    expect(rows()).toEqual([]);
  });

  it('is refused where the custody has no such power, before anything is written down', async () => {
    device.powers = false;
    await lab.restart();
    await lab.custodian.openUnattended();
    expect(await refusal(generate('wallet'))).toBe('POWER_MISSING');
    expect(await refusal(importKey('wallet', new Uint8Array(32)))).toBe('POWER_MISSING');
    expect(rows()).toEqual([]);
  });
});

describe('adopting a key', () => {
  const adopt = (key: string, reference?: string) =>
    lab.ask('operator', 'adopt-key', { key, slot: 'main', ...(reference ? { reference } : {}) });
  const leaveBehind = async (key: string) => {
    await lab.ask('operator', 'lock-slot', { slot: 'main' });
    await device.behind(async session => {
      if (!generates(session)) throw new TypeError('The device makes no keys.');
      await session.generate(keyId(key));
    });
    await lab.ask('operator', 'open-slot', { slot: 'main' });
  };

  it('takes in what the slot holds and the registry does not know, and it signs', async () => {
    await leaveBehind('stranger');
    expect((await adopt('stranger')).output).toMatchObject({ id: 'stranger', origin: 'imported' });
    const signed = await lab.ask(
      'signer',
      'sign-message',
      { key: 'stranger' },
      { bytes: [text('a message')] },
    );
    expect(signed.bytes?.[0]).toHaveLength(64);
    expect(await refusal(adopt('stranger'))).toBe('KEY_EXISTS');
  });

  it('is refused for a key that the slot does not hold, and the id stays free', async () => {
    expect(await refusal(adopt('nobody'))).toBe('KEY_UNKNOWN');
    expect((await generate('nobody')).output.id).toBe('nobody');
  });

  it('is refused for a key that does not sign as its public key', async () => {
    await leaveBehind('impostor');
    device.onSign = async () => signature(new Uint8Array(64));
    expect(await refusal(adopt('impostor'))).toBe('KEY_UNVERIFIED');
    expect(await refusal(lab.ask('operator', 'show-key', { key: 'impostor' }))).toBe('KEY_UNKNOWN');
  });

  it('is refused with a reference where the custody has no names of its own', async () => {
    expect(await refusal(adopt('elsewhere', 'alias/elsewhere'))).toBe('POWER_MISSING');
  });
});

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Destroys, Engine, Session, Slot } from '../../src/custody/engine.ts';
import { keyId, slotId } from '../../src/custody/ids.ts';
import { createPkcs11Engine, inspectModule, pkcs11Settings } from '../../src/engines/pkcs11/index.ts';
import { createVerifier, publicKeyFromSeed } from '../../src/foundation/ed25519.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { type SoftToken, softToken } from '../engines/pkcs11/soft-token.ts';
import { Lab, refusal, text } from './lab.ts';

let token: SoftToken;
let engine: Engine;
let slot: Slot;
let source: string;
let lab: Lab;

beforeAll(() => {
  token = softToken({ label: 'custodian-test' });
});

afterAll(() => token.remove());

beforeEach(async () => {
  await startEngine();
  source = token.pinText;
  lab = await Lab.start({ slot, access: 'both', source: () => source });
});

afterEach(async () => {
  await lab[Symbol.asyncDispose]();
  await engine[Symbol.asyncDispose]();
});

async function startEngine(): Promise<void> {
  const settings = pkcs11Settings.parse({ module: token.module, tokenLabel: token.label });
  engine = createPkcs11Engine(slotId('main'), settings, silentLog);
  const [first] = await engine.slots();
  if (!first) throw new TypeError('The engine has no slot.');
  slot = first;
}

const pinState = () => inspectModule(token.module).tokens.find(({ label }) => label === token.label)?.pin;
const openUnattended = async () => (await lab.custodian.openUnattended()).map(error => error.code);

async function sign(key: string): Promise<void> {
  const session = await lab.session('signer', 'main', token.pinText);
  const message = text(`signed with ${key}`);
  const { bytes } = await lab.ask('signer', 'sign-message', { key }, { bytes: [message], session });
  const { output } = await lab.ask('signer', 'show-key', { key });
  const verifier = createVerifier(Buffer.from(output.publicKeyBase64, 'base64'));
  expect(await verifier.verify(message, bytes?.[0] ?? new Uint8Array())).toBe(true);
}

/** Logs in past the custodian, which must not have the slot open. */
async function behind(work: (session: Session & Destroys) => Promise<void>): Promise<void> {
  using pin = token.pin();
  await using session = await slot.open(pin);
  await work(session as Session & Destroys);
}

describe('keys in a real token', () => {
  it('that were generated never were and never will be outside it, as read back from the token', async () => {
    expect(await openUnattended()).toEqual([]);
    const { output } = await lab.ask('operator', 'generate-key', { key: 'generated', slot: 'main' });
    expect(output).toMatchObject({
      state: 'active',
      custody: 'hsm-native',
      exportable: false,
      origin: 'generated',
      attributes: {
        token: true,
        private: true,
        sensitive: true,
        extractable: false,
        always_sensitive: true,
        never_extractable: true,
        local: true,
      },
    });
    await sign('generated');
    expect((await lab.ask('signer', 'show-key', { key: 'generated' })).output).toEqual(output);
  });

  it('that were imported have the address of their seed, and are not called local', async () => {
    await openUnattended();
    const seed = new Uint8Array(32).fill(42);
    const address = Buffer.from(publicKeyFromSeed(seed)).toString('base64');
    const { output } = await lab.ask(
      'operator',
      'import-key',
      { key: 'imported', slot: 'main' },
      { bytes: [seed] },
    );
    expect(output).toMatchObject({
      publicKeyBase64: address,
      origin: 'imported',
      exportable: false,
      attributes: {
        sensitive: true,
        extractable: false,
        always_sensitive: false,
        never_extractable: false,
        local: false,
      },
    });
    expect(seed.every(byte => byte === 0)).toBe(true);
    await sign('imported');
  });

  it('that exist cannot be made again, and a refused seed leaves nothing behind', async () => {
    await openUnattended();
    await lab.ask('operator', 'generate-key', { key: 'once', slot: 'main' });
    const { output } = await lab.ask('signer', 'show-key', { key: 'once' });
    const again = { key: 'once', slot: 'main' };
    expect(await refusal(lab.ask('operator', 'generate-key', again))).toBe('KEY_EXISTS');
    const seed = new Uint8Array(32).fill(3);
    expect(await refusal(lab.ask('operator', 'import-key', again, { bytes: [seed] }))).toBe('KEY_EXISTS');
    expect((await lab.ask('signer', 'show-key', { key: 'once' })).output).toEqual(output);
    for (const length of [0, 31, 33, 64]) {
      const wrong = lab.ask(
        'operator',
        'import-key',
        { key: 'wrong', slot: 'main' },
        { bytes: [new Uint8Array(length)] },
      );
      expect(await refusal(wrong)).toBe('KEY_MATERIAL_INVALID');
    }
    expect(await refusal(lab.ask('operator', 'generate-key', { key: 'wrong', slot: 'main' }))).toBe('none');
  });

  it('sign again when the custodian and its engine have been started anew', async () => {
    await openUnattended();
    await lab.ask('operator', 'generate-key', { key: 'lasting', slot: 'main' });
    const restart = async () => {
      await lab.custodian[Symbol.asyncDispose]();
      await engine[Symbol.asyncDispose]();
      await startEngine();
      await lab.restart({ slot, access: 'both', source: () => source });
      expect(await openUnattended()).toEqual([]);
    };
    await restart();
    await sign('lasting');
    await lab.custodian[Symbol.asyncDispose]();
    await behind(session => session.destroy(keyId('lasting')));
    await restart();
    const { output } = await lab.ask('operator', 'show-slot', { slot: 'main' });
    expect(output.state).toBe('degraded');
    expect(output.findings).toContainEqual({ key: 'lasting', problem: 'missing' });
  });
});

describe('the PIN of a real token', () => {
  it('loses no attempt to a hundred wrong PINs of callers and operators, and the slot still signs', async () => {
    await openUnattended();
    await lab.ask('operator', 'generate-key', { key: 'guarded', slot: 'main' });
    for (let attempt = 0; attempt < 100; attempt += 1) {
      const pin = { bytes: [text(`guess ${attempt}`)] };
      const operation = attempt % 2 === 0 ? 'open-session' : 'open-slot';
      expect(await refusal(lab.ask('both', operation, { slot: 'main' }, pin))).toBe('PIN_INCORRECT');
      lab.clock.advance(300_000);
      if (attempt % 25 === 0) expect(pinState()).toBe('set');
    }
    expect(pinState()).toBe('set');
    expect((await lab.ask('operator', 'show-slot', { slot: 'main' })).output.details.pinCountLow).toBe(false);
    await sign('guarded');
  });

  it('that was refused is not spent again, also after a restart, until the source has another', async () => {
    source = 'not the PIN';
    expect(await openUnattended()).toEqual(['PIN_REFUSED']);
    expect(pinState()).toBe('count-low'); // the one attempt that it cost
    await behind(async () => undefined); // a right login takes that back
    expect(pinState()).toBe('set');

    expect(await refusal(lab.ask('operator', 'open-slot', { slot: 'main' }))).toBe('SLOT_LATCHED');
    await lab.restart();
    expect(await openUnattended()).toEqual(['SLOT_LATCHED']);
    expect(pinState()).toBe('set');

    source = token.pinText;
    await lab.ask('operator', 'open-slot', { slot: 'main' });
    expect(await lab.state()).toBe('open');
  });

  it('is asked for once when many open the slot together', async () => {
    const pin = () => ({ bytes: [text(token.pinText)] });
    await Promise.all(
      Array.from({ length: 10 }, () => lab.ask('operator', 'open-slot', { slot: 'main' }, pin())),
    );
    expect(await lab.state()).toBe('open');
    await lab.ask('operator', 'lock-slot', { slot: 'main' });
    const locking = lab.ask('operator', 'lock-slot', { slot: 'main' });
    const opening = lab.ask('operator', 'open-slot', { slot: 'main' }, pin());
    await Promise.all([locking, opening]);
    expect(await lab.state()).toBe('open');
  });
});

import { afterAll, describe, expect, it } from 'vitest';
import {
  type Destroys,
  destroys,
  type Generates,
  generates,
  type Imports,
  imports,
  type Session,
} from '../../../src/custody/engine.ts';
import { keyId, slotId } from '../../../src/custody/ids.ts';
import { CKF_SERIAL_SESSION, CKM_EDDSA, CKO_PRIVATE_KEY } from '../../../src/engines/pkcs11/constants.ts';
import { CkrError, template } from '../../../src/engines/pkcs11/cryptoki.ts';
import { createPkcs11Engine, inspectModule, pkcs11Settings } from '../../../src/engines/pkcs11/index.ts';
import { Pkcs11Module } from '../../../src/engines/pkcs11/module.ts';
import { createVerifier } from '../../../src/foundation/ed25519.ts';
import { silentLog } from '../../../src/foundation/log.ts';
import { Secret } from '../../../src/foundation/secret.ts';
import { softToken } from './soft-token.ts';

const token = softToken({ label: 'facts' });
afterAll(() => token.remove());

const engineOf = (settings: Record<string, unknown>) =>
  createPkcs11Engine(slotId('main'), pkcs11Settings.parse({ module: token.module, ...settings }), silentLog);

type Able = Session & Generates & Imports & Destroys;

async function withSession(work: (session: Able) => Promise<void>): Promise<void> {
  await using engine = engineOf({ tokenLabel: token.label });
  const [slot] = await engine.slots();
  using pin = token.pin();
  const session = await slot?.open(pin);
  if (!session || !generates(session) || !imports(session) || !destroys(session)) {
    throw new TypeError('A SoftHSM session has the powers to generate, import and destroy.');
  }
  await work(session);
}

describe('a SoftHSM token', () => {
  it('is found by its label, by its serial, and by both', async () => {
    const serial = inspectModule(token.module).tokens.find(each => each.label === token.label)?.serial;
    for (const settings of [
      { tokenLabel: token.label },
      { tokenSerial: serial },
      { tokenLabel: token.label, tokenSerial: serial },
    ]) {
      await using engine = engineOf(settings);
      const [slot] = await engine.slots();
      expect((await slot?.describe())?.details.tokenSerial).toBe(serial);
    }
  });

  it('is not found by another label, and the refusal names what is there', async () => {
    await using engine = engineOf({ tokenLabel: 'nobody' });
    const [slot] = await engine.slots();
    await expect(slot?.describe()).rejects.toMatchObject({
      code: 'TOKEN_NOT_FOUND',
      message: expect.stringContaining(token.label),
    });
  });

  it('is refused as ambiguous when its label is not the only one, until a serial says which', async () => {
    token.addToken('other');
    const module = Pkcs11Module.open(token.module);
    const empty = module.tokens().find(each => each.label === '');
    module.cryptoki.initToken(empty?.slotHandle ?? Buffer.alloc(8), 'so-pin-1', 'other');
    module.close();
    const serials = inspectModule(token.module)
      .tokens.filter(each => each.label === 'other')
      .map(each => each.serial);
    expect(serials).toHaveLength(2);
    await using ambiguous = engineOf({ tokenLabel: 'other' });
    await expect((await ambiguous.slots())[0]?.describe()).rejects.toMatchObject({ code: 'TOKEN_AMBIGUOUS' });
    await using exact = engineOf({ tokenLabel: 'other', tokenSerial: serials[0] });
    expect((await (await exact.slots())[0]?.describe())?.details.tokenSerial).toBe(serials[0]);
  });

  it('needs a module that exists', () => {
    expect(() => engineOf({ module: '/nowhere/lib.so', tokenLabel: 'x' })).toThrow(
      expect.objectContaining({ code: 'MODULE_UNUSABLE' }),
    );
    expect(() => engineOf({ module: '/etc/hostname', tokenLabel: 'x' })).toThrow(
      expect.objectContaining({ code: 'MODULE_UNUSABLE' }),
    );
  });

  it('shows what it says of a generated and of an imported private key', () =>
    withSession(async session => {
      const made = await session.generate(keyId('made'));
      expect(made.attributes).toEqual({
        token: true,
        private: true,
        sensitive: true,
        extractable: false,
        always_sensitive: true,
        never_extractable: true,
        local: true,
      });
      using seed = Secret.fromBytes(Buffer.alloc(32, 7));
      const taken = await session.import(keyId('taken'), seed);
      expect(taken.attributes).toMatchObject({
        sensitive: true,
        extractable: false,
        local: false,
        never_extractable: false,
      });
    }));

  it('signs on after a key has gone: only that key is unknown', () =>
    withSession(async session => {
      await session.generate(keyId('stays'));
      await session.generate(keyId('goes'));
      const [stays, goes] = [await session.signer(keyId('stays')), await session.signer(keyId('goes'))];
      await goes.sign(Buffer.from('before'));
      await session.destroy(keyId('goes'));
      await expect(goes.sign(Buffer.from('after'))).rejects.toMatchObject({ code: 'KEY_UNKNOWN' });
      const message = Buffer.from('still here');
      expect(await createVerifier(stays.key.publicKey).verify(message, await stays.sign(message))).toBe(true);
    }));

  it('refuses two private keys under one id as ambiguous and signs with neither', () =>
    withSession(async session => {
      await session.generate(keyId('double'));
      const module = Pkcs11Module.open(token.module);
      const facts = module.tokens().find(each => each.label === token.label);
      const raw = module.cryptoki.openSession(facts?.slotHandle ?? Buffer.alloc(8), CKF_SERIAL_SESSION | 2);
      module.cryptoki.generateKeyPair(
        raw,
        0x1055,
        template([0x180, Buffer.from('06032b6570', 'hex')], [0x1, true], [0x102, Buffer.from('double')]),
        template(
          [0x1, true],
          [0x2, true],
          [0x103, true],
          [0x162, false],
          [0x108, true],
          [0x102, Buffer.from('double')],
        ),
      );
      module.cryptoki.closeSession(raw);
      module.close();
      await expect(session.signer(keyId('double'))).rejects.toMatchObject({ code: 'KEY_AMBIGUOUS' });
    }));

  it('leaves a session unusable after an empty message, which is why none ever reaches it', async () => {
    await withSession(async session => {
      await session.generate(keyId('poison'));
      const module = Pkcs11Module.open(token.module);
      const facts = module.tokens().find(each => each.label === token.label);
      const raw = module.cryptoki.openSession(facts?.slotHandle ?? Buffer.alloc(8), CKF_SERIAL_SESSION);
      const [handle] = module.cryptoki.findObjects(
        raw,
        template([0x0, CKO_PRIVATE_KEY], [0x102, Buffer.from('poison')]),
      );
      const sign = (message: Buffer) =>
        module.cryptoki.sign(raw, CKM_EDDSA, handle ?? Buffer.alloc(8), message);
      await expect(sign(Buffer.alloc(0))).rejects.toBeInstanceOf(CkrError);
      await expect(sign(Buffer.from('x'))).rejects.toMatchObject({ ckr: 0x90 }); // CKR_OPERATION_ACTIVE
      module.cryptoki.closeSession(raw);
      module.close();
      const signer = await session.signer(keyId('poison'));
      await expect(signer.sign(new Uint8Array())).rejects.toMatchObject({ code: 'MESSAGE_EMPTY' });
      for (let i = 0; i < 20; i += 1) expect(await signer.sign(Buffer.from([i]))).toHaveLength(64);
    });
  });

  it('signs on when its sessions are closed under the engine', () =>
    withSession(async session => {
      await session.generate(keyId('survivor'));
      const signer = await session.signer(keyId('survivor'));
      await Promise.all(Array.from({ length: 8 }, () => signer.sign(Buffer.from('warm'))));
      // Handles are small numbers on SoftHSM: close every one but the first, which holds the login.
      const module = Pkcs11Module.open(token.module);
      for (let number = 2; number < 64; number += 1) {
        const handle = Buffer.alloc(8);
        handle.writeUInt32LE(number);
        try {
          module.cryptoki.closeSession(handle);
        } catch (error) {
          expect(error).toBeInstanceOf(CkrError);
        }
      }
      module.close();
      const message = Buffer.from('after the cut');
      const signatures = await Promise.all(Array.from({ length: 16 }, () => signer.sign(message)));
      const verifier = createVerifier(signer.key.publicKey);
      for (const signature of signatures) expect(await verifier.verify(message, signature)).toBe(true);
    }));

  it('refuses PINs of a length that it could not take, without spending an attempt', async () => {
    await using engine = engineOf({ tokenLabel: token.label });
    const [slot] = await engine.slots();
    using short = Secret.fromText('123');
    await expect(slot?.open(short)).rejects.toMatchObject({ code: 'PIN_REFUSED' });
    expect(inspectModule(token.module).tokens.find(each => each.label === token.label)?.pin).toBe('set');
  });

  it('shows after a wrong PIN that one was tried, and forgets it after a right one', async () => {
    await using engine = engineOf({ tokenLabel: token.label });
    const [slot] = await engine.slots();
    const state = () => inspectModule(token.module).tokens.find(each => each.label === token.label)?.pin;
    using wrong = Secret.fromText('not-the-pin');
    await expect(slot?.open(wrong)).rejects.toMatchObject({ code: 'PIN_REFUSED' });
    expect(state()).toBe('count-low');
    using right = token.pin();
    await (await slot?.open(right))?.[Symbol.asyncDispose]();
    expect(state()).toBe('set');
  });
});

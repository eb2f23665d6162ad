import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import fc from 'fast-check';
import * as graphene from 'graphene-pk11';
import type { Handle } from 'pkcs11js';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import {
  type Destroys,
  destroys,
  type Generates,
  generates,
  type Imports,
  imports,
  type Session,
} from '../../../../src/custody/engine.ts';
import { keyId, slotId } from '../../../../src/custody/ids.ts';
import {
  CKA_CLASS,
  CKA_DERIVE,
  CKA_EC_POINT,
  CKA_ENCRYPT,
  CKA_TOKEN,
  CKA_VALUE_LEN,
  CKF_SERIAL_SESSION,
  CKF_USER_PIN_COUNT_LOW,
  CKF_USER_PIN_FINAL_TRY,
  CKF_USER_PIN_LOCKED,
  CKM_AES_KEY_GEN,
  CKM_EC_KEY_PAIR_GEN,
  CKM_EDDSA,
  CKO_PRIVATE_KEY,
  CKU_USER,
} from '../../../../src/engines/pkcs11/constants.ts';
import { CkrError, ckrError, template } from '../../../../src/engines/pkcs11/cryptoki.ts';
import { publicKeyOfEcPoint } from '../../../../src/engines/pkcs11/ec.ts';
import { createPkcs11Engine, inspectModule, pkcs11Settings } from '../../../../src/engines/pkcs11/index.ts';
import { Pkcs11Module } from '../../../../src/engines/pkcs11/module.ts';
import { createVerifier } from '../../../../src/foundation/ed25519.ts';
import { silentLog } from '../../../../src/foundation/log.ts';
import { Secret } from '../../../../src/foundation/secret.ts';
import { softToken } from '../soft-token.ts';
import { Faulty } from './faulty.ts';
import { yubihsmLog_entries } from './personalities.ts';
import { edwardsOid, edwardsPrintable, RawToken } from './raw-token.ts';

const ckr = {
  generalError: 0x05,
  functionFailed: 0x06,
  attributeTypeInvalid: 0x12,
  attributeValueInvalid: 0x13,
  deviceError: 0x30,
  deviceMemory: 0x31,
  deviceRemoved: 0x32,
  functionNotSupported: 0x54,
  keyHandleInvalid: 0x60,
  mechanismInvalid: 0x70,
  mechanismParamInvalid: 0x71,
  objectHandleInvalid: 0x82,
  pinIncorrect: 0xa0,
  pinLocked: 0xa4,
  sessionHandleInvalid: 0xb3,
  templateInconsistent: 0xd1,
  tokenNotPresent: 0xe0,
  userAlreadyLoggedIn: 0x100,
  userNotLoggedIn: 0x101,
  curveNotSupported: 0x140,
  cryptokiNotInitialized: 0x190,
};

const token = softToken({ label: 'faulty' });
const folder = mkdtempSync(join(tmpdir(), 'keyslot-faulty-keys-'));
const faulty = await Faulty.make({ inner: token.module });
afterEach(() => faulty.heal());
afterAll(() => {
  faulty[Symbol.dispose]();
  token.remove();
  rmSync(folder, { recursive: true, force: true });
});

const raw = () => new RawToken(faulty.modulePath, token.label, token.pinText);
const answers = (work: () => unknown, code: number) =>
  expect(work).toThrow(expect.objectContaining({ name: 'CkrError', ckr: code }));
const rejects = (work: Promise<unknown>, code: number) =>
  expect(work).rejects.toMatchObject({ name: 'CkrError', ckr: code });
const message = Buffer.from('message');

const engineOf = (settings: Record<string, unknown> = {}) => {
  const all = { module: faulty.modulePath, tokenLabel: token.label, ...settings };
  return createPkcs11Engine(slotId('main'), pkcs11Settings.parse(all), silentLog);
};

type Able = Session & Generates & Imports & Destroys;

/** The ordinary engine on top, opened with the right PIN. */
async function withEngine(work: (session: Able) => Promise<void>, settings: Record<string, unknown> = {}) {
  await using engine = engineOf(settings);
  const [slot] = await engine.slots();
  using pin = token.pin();
  const session = await slot?.open(pin);
  if (!session || !generates(session) || !imports(session) || !destroys(session)) {
    throw new TypeError('A session on a token has the powers to generate, import and destroy.');
  }
  await work(session);
}

/** A key from its making to its end, with a signature that holds. */
async function lifeOfKey(session: Able, name: string): Promise<void> {
  const key = await session.generate(keyId(name));
  const signature = await (await session.signer(key.id)).sign(message);
  expect(await createVerifier(key.publicKey).verify(message, signature)).toBe(true);
  await session.destroy(key.id);
  await expect(session.signer(key.id)).rejects.toMatchObject({ code: 'KEY_UNKNOWN' });
}

const pinState = () => inspectModule(faulty.modulePath).tokens.find(each => each.label === token.label)?.pin;

function inAnotherProcess() {
  const script = join(import.meta.dirname, 'child.ts');
  return spawnSync(process.execPath, [script, faulty.modulePath, token.label], {
    env: { ...process.env, ...faulty.environment },
    encoding: 'utf8',
  });
}

describe('without faults', () => {
  it('the engine works as it does on the module beneath, and every call is counted', async () => {
    const before = faulty.counts().calls;
    await withEngine(session => lifeOfKey(session, 'plain'));
    const after = faulty.counts().calls;
    expect(Object.keys(after)).toHaveLength(68);
    expect((after.C_Sign ?? 0) - (before.C_Sign ?? 0)).toBe(2); // the proof of the new key, and the signature
    expect((after.C_Login ?? 0) - (before.C_Login ?? 0)).toBe(1);
  });
});

describe('an answer', () => {
  it('is given to so many calls after so many others', async () => {
    using device = raw();
    const { privateKey } = device.generate();
    using fault = faulty.inject({
      on: 'C_SignInit',
      effect: 'answer',
      code: ckr.deviceError,
      skip: 1,
      times: 2,
    });
    await device.sign(privateKey);
    await rejects(device.sign(privateKey), ckr.deviceError);
    await rejects(device.sign(privateKey), ckr.deviceError);
    expect(await device.sign(privateKey)).toHaveLength(64);
    expect(fault.count()).toEqual({ met: 4, fired: 2 });
  });

  it('follows a script, in which 0 lets a call through', () => {
    using device = raw();
    const script = [ckr.generalError, 0, ckr.functionFailed];
    using _fault = faulty.inject({ on: 'C_GetSessionInfo', effect: 'answer', script });
    const lib = graphene.Module.load(faulty.modulePath).lib;
    const given = Array.from({ length: 5 }, () => codeOf(() => lib.C_GetSessionInfo(device.session)));
    expect(given).toEqual([...script, 0, 0]);
  });

  it('comes with a probability, to the same calls for the same seed', () => {
    using device = raw();
    const lib = graphene.Module.load(faulty.modulePath).lib;
    const pattern = (seed: number) => {
      using _fault = faulty.inject({
        on: 'C_GetSessionInfo',
        effect: 'answer',
        code: ckr.deviceError,
        probability: 0.3,
        seed,
      });
      return Array.from({ length: 200 }, () => codeOf(() => lib.C_GetSessionInfo(device.session)) !== 0);
    };
    fc.assert(
      fc.property(fc.nat(), seed => {
        const hit = pattern(seed);
        expect(pattern(seed)).toEqual(hit);
        const hits = hit.filter(Boolean).length;
        expect(hits).toBeGreaterThan(20); // of 200 with 0.3: ten standard deviations lie between 0 and 130
        expect(hits).toBeLessThan(110);
      }),
      { numRuns: 5 },
    );
    expect(pattern(1)).not.toEqual(pattern(2));
  });

  it('may come after the work was done: a key that was made and never acknowledged', () => {
    using device = raw();
    const id = randomBytes(8);
    using _fault = faulty.inject({
      on: 'C_GenerateKeyPair',
      effect: 'answer',
      code: ckr.deviceError,
      when: 'after',
    });
    answers(() => device.generate({ id }), ckr.deviceError);
    expect(device.find(id)).toBeDefined();
  });

  it('reaches the engine as an error of its table, as long as it is given', async () => {
    await withEngine(async session => {
      const signer = await session.signer((await session.generate(keyId('answered'))).id);
      using fault = faulty.inject({
        on: ['C_SignInit', 'C_Sign'],
        effect: 'answer',
        code: ckr.deviceRemoved,
      });
      await expect(signer.sign(message)).rejects.toMatchObject({ name: 'KeyslotError' });
      expect(fault.count().fired).toBeGreaterThan(0);
    });
  });

  it('can be for one token only', () => {
    using device = raw();
    using fault = faulty.inject({
      on: 'C_FindObjectsInit',
      effect: 'answer',
      code: ckr.deviceError,
      token: 'another',
    });
    expect(device.find(randomBytes(8))).toBeUndefined();
    expect(fault.count().met).toBe(0);
    using _other = faulty.inject({
      on: 'C_FindObjectsInit',
      effect: 'answer',
      code: ckr.deviceError,
      token: token.label,
    });
    answers(() => device.find(randomBytes(8)), ckr.deviceError);
  });
});

describe('what takes its time', () => {
  it('is as slow as it is told, call by call', async () => {
    using device = raw();
    const { privateKey } = device.generate();
    using fault = faulty.inject({ on: 'C_Sign', effect: 'latency', ms: 30 });
    const before = performance.now();
    await device.sign(privateKey);
    expect(performance.now() - before).toBeGreaterThanOrEqual(29); // a lower bound: load cannot break it
    expect(fault.count().fired).toBe(1);
  });

  it('hangs until it is let go, while others go on', async () => {
    using device = raw();
    const id = randomBytes(8);
    const { privateKey } = device.generate({ id });
    const other = device.openSession();
    const before = faulty.counts().hangs;
    const fault = faulty.inject({ on: 'C_Sign', effect: 'hang', times: 1 });
    let settled = false;
    const hanging = device.sign(privateKey).finally(() => {
      settled = true;
    });
    while (faulty.counts().hangs === before) await wait(1);
    expect(await device.sign(privateKey, message, other)).toHaveLength(64);
    expect(settled).toBe(false);
    fault.withdraw();
    expect(await device.verifies(id, await hanging)).toBe(true);
  });

  it('keeps nobody waiting who gives up, and the engine signs on afterwards', async () => {
    await withEngine(async session => {
      const signer = await session.signer((await session.generate(keyId('patient'))).id);
      const before = faulty.counts().hangs;
      const fault = faulty.inject({ on: 'C_Sign', effect: 'hang', times: 1 });
      const controller = new AbortController();
      const refused = expect(signer.sign(message, controller.signal)).rejects.toMatchObject({
        code: 'REQUEST_ABORTED',
      });
      while (faulty.counts().hangs === before) await wait(1);
      controller.abort();
      await refused;
      fault.withdraw();
      expect(await createVerifier(signer.key.publicKey).verify(message, await signer.sign(message))).toBe(
        true,
      );
    });
  });
});

describe('a crash', () => {
  it.each(['before', 'after'] as const)('%s the call kills the process, and the rule outlives it', when => {
    const fault = faulty.inject({ on: 'C_Login', effect: 'crash', when, times: 1 });
    const attempts = faulty.pin(token.label).attempts;
    expect(inAnotherProcess().signal).toBe('SIGSEGV');
    expect(fault.count()).toEqual({ met: 1, fired: 1 });
    expect(faulty.pin(token.label).attempts - attempts).toBe(when === 'after' ? 1 : 0);
    const next = inAnotherProcess();
    expect(JSON.parse(next.stdout)).toMatchObject({ ckr: ckr.pinIncorrect });
    expect(fault.count()).toEqual({ met: 2, fired: 1 });
  });
});

describe('what is taken away', () => {
  it('sessions end, and their login: new ones have to be opened, logged in, and find their keys again', async () => {
    using device = raw();
    const id = randomBytes(8);
    const { privateKey } = device.generate({ id });
    faulty.loseSessions();
    await rejects(device.sign(privateKey), ckr.sessionHandleInvalid);
    answers(() => device.cryptoki.closeSession(device.session), ckr.sessionHandleInvalid);
    device.begin();
    await rejects(device.sign(privateKey), ckr.userNotLoggedIn);
    device.login();
    await rejects(device.sign(privateKey), ckr.objectHandleInvalid); // the module beneath has really logged out
    const found = device.find(id) ?? Buffer.alloc(8);
    expect(await device.verifies(id, await device.sign(found))).toBe(true);
  });

  it('the login goes and the session stays', async () => {
    using device = raw();
    const id = randomBytes(8);
    const { privateKey } = device.generate({ id });
    faulty.loseLogin();
    await rejects(device.sign(privateKey), ckr.userNotLoggedIn);
    answers(() => device.generate(), ckr.userNotLoggedIn);
    device.login();
    expect(await device.verifies(id, await device.sign(device.find(id) ?? Buffer.alloc(8)))).toBe(true);
  });

  it('it happens in the middle of other calls when a rule says so', async () => {
    using device = raw();
    const { privateKey } = device.generate();
    using _fault = faulty.inject({ on: 'C_Sign', effect: 'lose-sessions', times: 1 });
    await rejects(device.sign(privateKey), ckr.sessionHandleInvalid);
  });

  it('handles are stale until their objects are found again', async () => {
    using device = raw();
    const id = randomBytes(8);
    const { privateKey } = device.generate({ id });
    faulty.staleObjects();
    await rejects(device.sign(privateKey), ckr.keyHandleInvalid);
    answers(() => device.cryptoki.destroyObject(device.session, privateKey), ckr.objectHandleInvalid);
    const found = device.find(id) ?? Buffer.alloc(8);
    expect(found.equals(privateKey)).toBe(false);
    expect(await device.verifies(id, await device.sign(found))).toBe(true);
  });

  it('the engine finds stale keys again', async () => {
    await withEngine(async session => {
      const signer = await session.signer((await session.generate(keyId('found-again'))).id);
      await signer.sign(message);
      faulty.staleObjects();
      expect(await createVerifier(signer.key.publicKey).verify(message, await signer.sign(message))).toBe(
        true,
      );
    });
  });

  it('a token is removed and comes back', async () => {
    using device = raw();
    const { slotHandle } = device.view;
    const { privateKey } = device.generate();
    faulty.removeToken({ token: token.label });
    await rejects(device.sign(privateKey), ckr.deviceRemoved);
    answers(() => device.cryptoki.openSession(slotHandle, CKF_SERIAL_SESSION), ckr.tokenNotPresent);
    expect(device.module.tokens().map(each => each.label)).not.toContain(token.label);
    await using engine = engineOf();
    await expect((await engine.slots())[0]?.describe()).rejects.toMatchObject({ code: 'TOKEN_NOT_FOUND' });
    faulty.returnToken(token.label);
    await rejects(device.sign(privateKey), ckr.sessionHandleInvalid);
    await expect((await engine.slots())[0]?.describe()).resolves.toMatchObject({ engine: 'pkcs11' });
  });

  it('a token that comes back may be seen only by a module that is initialised again', () => {
    using device = raw();
    faulty.removeToken({ code: ckr.tokenNotPresent, untilInitialize: true });
    answers(() => device.cryptoki.closeSession(device.session), ckr.tokenNotPresent);
    faulty.returnToken();
    expect(device.module.tokens()).toEqual([]);
    expect(device.module.refresh()).toBe(true);
    expect(device.module.tokens().map(each => each.label)).toContain(token.label);
  });

  it.each([ckr.cryptokiNotInitialized, ckr.deviceError])(
    'the device answers %i until the module is finalised',
    code => {
      using device = raw();
      const { slotHandle } = device.view;
      faulty.deviceGone(code);
      answers(() => device.cryptoki.openSession(slotHandle, CKF_SERIAL_SESSION), code);
      answers(() => device.cryptoki.closeSession(device.session), code);
      expect(device.module.refresh()).toBe(true);
      device.begin();
      device.login();
      expect(device.generate().privateKey).toHaveLength(8);
    },
  );
});

describe('a signature', () => {
  it.each([
    ['corrupt', 'C_Sign'],
    ['foreign-message', 'C_Sign'],
    ['wrong-key', 'C_SignInit'],
  ] as const)('that is %s does not verify, and the next one does', async (effect, on) => {
    using device = raw();
    device.generate();
    const id = randomBytes(8);
    const { privateKey } = device.generate({ id });
    using _fault = faulty.inject({ on, effect, times: 1 });
    expect(await device.verifies(id, await device.sign(privateKey))).toBe(false);
    expect(await device.verifies(id, await device.sign(privateKey))).toBe(true);
  });
});

describe('PINs', () => {
  it('flags are shown, and the engine spends no PIN on the last try', async () => {
    const refusals = [
      [CKF_USER_PIN_FINAL_TRY, 'final-try', 'PIN_LAST_TRY'],
      [CKF_USER_PIN_LOCKED, 'locked', 'PIN_LOCKED'],
    ] as const;
    for (const [flag, state, code] of refusals) {
      faulty.become([], { 'pin-flags': flag });
      expect(pinState()).toBe(state);
      const { attempts } = faulty.pin(token.label);
      await expect(withEngine(async () => undefined)).rejects.toMatchObject({ code });
      expect(faulty.pin(token.label).attempts).toBe(attempts);
    }
    faulty.become([], { 'pin-flags': CKF_USER_PIN_COUNT_LOW });
    expect(pinState()).toBe('count-low');
    await withEngine(async () => undefined);
  });

  it('wrong ones count down across processes to a lock, a right one starts anew', async () => {
    faulty.unlockPin(token.label);
    faulty.become([], { 'pin-limit': 3 });
    await withEngine(async () => undefined);
    expect(pinState()).toBe('set');
    expect(JSON.parse(inAnotherProcess().stdout)).toMatchObject({ ckr: ckr.pinIncorrect });
    expect(pinState()).toBe('count-low');
    await withEngine(async () => undefined);
    expect(faulty.pin(token.label).failures).toBe(0);

    await using engine = engineOf();
    const [slot] = await engine.slots();
    using wrong = Secret.fromText('not-the-pin');
    await expect(slot?.open(wrong)).rejects.toMatchObject({ code: 'PIN_REFUSED' });
    using device = unlogged();
    answers(() => device.cryptoki.login(device.session, CKU_USER, 'not-the-pin'), ckr.pinIncorrect);
    expect(pinState()).toBe('final-try');
    using right = token.pin();
    await expect(slot?.open(right)).rejects.toMatchObject({ code: 'PIN_LAST_TRY' });
    answers(() => device.cryptoki.login(device.session, CKU_USER, 'not-the-pin'), ckr.pinIncorrect);
    expect(pinState()).toBe('locked');
    const { attempts } = faulty.pin(token.label);
    answers(() => device.cryptoki.login(device.session, CKU_USER, token.pinText), ckr.pinLocked);
    await expect(slot?.open(right)).rejects.toMatchObject({ code: 'PIN_LOCKED' });
    expect(faulty.pin(token.label)).toMatchObject({ attempts, failures: 3 });

    faulty.unlockPin(token.label);
    await (await slot?.open(right))?.[Symbol.asyncDispose]();
    expect(pinState()).toBe('set');
  });
});

describe('a device without EdDSA', () => {
  it('neither lists it nor does it, and the engine refuses mode native and takes mode wrapped', async () => {
    faulty.become('no-eddsa');
    await expect(withEngine(async () => undefined)).rejects.toMatchObject({ code: 'TOKEN_UNSUITABLE' });
    await withEngine(session => lifeOfKey(session, 'wrapped'), {
      mode: 'wrapped',
      folder: join(folder, 'plain'),
    });
    faulty.become([]);
    using device = raw();
    const { privateKey } = device.generate();
    faulty.mask(CKM_EDDSA);
    await rejects(device.sign(privateKey), ckr.mechanismInvalid);
    faulty.become('no-eddsa');
    answers(() => device.generate(), ckr.mechanismInvalid);
  });
});

describe('a device with raw points', () => {
  it('is read by the engine, whose keys sign', async () => {
    faulty.become('raw-ec-point');
    using device = raw();
    const { publicKey } = device.generate();
    expect(device.cryptoki.attribute(device.session, publicKey, CKA_EC_POINT)).toHaveLength(32);
    device.cryptoki.logout(device.session);
    await withEngine(session => lifeOfKey(session, 'raw-point'));
  });
});

describe('a YubiHSM', () => {
  it('lets the engine generate, import and sign', async () => {
    faulty.become('yubihsm');
    await withEngine(async session => {
      await lifeOfKey(session, 'strict');
      using seed = Secret.fromBytes(randomBytes(32));
      const key = await session.import(keyId('strict-import'), seed);
      const signature = await (await session.signer(key.id)).sign(message);
      expect(await createVerifier(key.publicKey).verify(message, signature)).toBe(true);
      await session.destroy(key.id);
    });
    expect(faulty.counts().objects).toBe(0);
  });

  it('refuses what its whitelist does not have, other names of the curve, and session objects', () => {
    faulty.become('yubihsm');
    using device = raw();
    const params = edwardsPrintable;
    answers(() => device.generate({ params: edwardsOid }), ckr.curveNotSupported);
    answers(() => device.generate({ params, token: false }), ckr.attributeValueInvalid);
    answers(() => device.generate({ params, more: [CKA_ENCRYPT, false] }), ckr.attributeTypeInvalid);
    answers(() => device.generate({ params, more: [CKA_DERIVE, true] }), ckr.attributeTypeInvalid);
    expect(device.generate({ params, id: randomBytes(2) }).privateKey).toHaveLength(8);
  });

  it('counts a key with an id of 2 bytes once and any other twice, until it is full', () => {
    faulty.become('yubihsm');
    using device = raw();
    const params = edwardsPrintable;
    const before = faulty.counts().objects;
    const { privateKey } = device.generate({ params, id: randomBytes(2) });
    expect(faulty.counts().objects - before).toBe(1);
    device.generate({ params, id: randomBytes(8) });
    expect(faulty.counts().objects - before).toBe(3);
    faulty.bend({ 'objects-max': before + 3 });
    answers(() => device.generate({ params, id: randomBytes(2) }), ckr.deviceMemory);
    device.cryptoki.destroyObject(device.session, privateKey);
    expect(device.generate({ params, id: randomBytes(2) }).privateKey).toHaveLength(8);
  });

  it('refuses every command while its log is full', async () => {
    faulty.become('yubihsm', { 'log-max': yubihsmLog_entries });
    using device = raw();
    faulty.drainLog();
    const { privateKey } = device.generate({ params: edwardsPrintable });
    for (let entries = 1; entries < yubihsmLog_entries; entries += 1) await device.sign(privateKey);
    expect(faulty.counts().logEntries).toBe(62);
    await rejects(device.sign(privateKey), ckr.deviceMemory);
    device.begin();
    faulty.drainLog();
    expect(await device.sign(privateKey)).toHaveLength(64);
  });

  it('works on one call at a time, however many sessions there are', async () => {
    using device = raw();
    const { privateKey } = device.generate();
    using _slow = faulty.inject({ on: 'C_Sign', effect: 'latency', ms: 20 });
    const most = async () => {
      faulty.forgetInside();
      const sessions = Array.from({ length: 4 }, () => device.openSession());
      await Promise.all(sessions.map(session => device.sign(privateKey, message, session)));
      return faulty.counts().inside_max;
    };
    expect(await most()).toBeGreaterThan(1);
    faulty.become('yubihsm');
    expect(await most()).toBe(1);
  });

  it('has neither events of slots nor AES-GCM', async () => {
    faulty.become('yubihsm');
    using _device = raw();
    const lib = graphene.Module.load(faulty.modulePath).lib;
    expect(codeOf(() => lib.C_WaitForSlotEvent(1))).toBe(ckr.functionNotSupported);
    const report = inspectModule(faulty.modulePath).tokens.find(each => each.label === token.label);
    expect(report?.modes).toEqual(['native']);
  });
});

describe('an AWS CloudHSM', () => {
  const readWrite = { sessionMode: 'read-write' };

  it('lets the engine generate and sign on sessions that may write, and refuses others', async () => {
    faulty.become('cloudhsm');
    await withEngine(session => lifeOfKey(session, 'cloud'), readWrite);
    using device = raw();
    answers(() => device.openSession(CKF_SERIAL_SESSION), ckr.functionFailed);
  });

  it('takes no private keys from outside', async () => {
    faulty.become('cloudhsm');
    await withEngine(async session => {
      using seed = Secret.fromBytes(randomBytes(32));
      await expect(session.import(keyId('foreign'), seed)).rejects.toMatchObject({ code: 'TOKEN_ERROR' });
    }, readWrite);
  });

  it('makes the IV of AES-GCM itself, which the engine takes from it', async () => {
    faulty.become(['cloudhsm', 'no-eddsa']);
    const settings = { ...readWrite, mode: 'wrapped', folder: join(folder, 'cloud'), wrappingKey: 'cloud' };
    await withEngine(session => lifeOfKey(session, 'cloud-wrapped'), { ...settings, gcmIv: 'device' });
    await expect(withEngine(async () => undefined, { ...settings, gcmIv: 'random' })).rejects.toMatchObject({
      name: 'KeyslotError',
    });
  });

  it('takes and shows documented attributes only', () => {
    faulty.become('cloudhsm');
    using device = raw();
    const signRecover = 0x109;
    answers(() => device.generate({ more: [signRecover, false] }), ckr.templateInconsistent);
    answers(() => device.generate({ more: [CKA_ENCRYPT, false] }), ckr.templateInconsistent);
    const { privateKey } = device.generate();
    expect(device.cryptoki.attribute(device.session, privateKey, signRecover)).toBeUndefined();
    expect(device.cryptoki.attribute(device.session, privateKey, CKA_TOKEN)).toEqual(Buffer.from([1]));
  });

  it('shows the point on the private key too', async () => {
    faulty.become('cloudhsm');
    await withEngine(async session => {
      const made = await session.generate(keyId('lonely'));
      const module = Pkcs11Module.open(faulty.modulePath);
      const view = module.tokens().find(each => each.label === token.label);
      const handle = module.cryptoki.openSession(view?.slotHandle ?? Buffer.alloc(8), 6);
      const [key] = module.cryptoki.findObjects(
        handle,
        template([CKA_CLASS, CKO_PRIVATE_KEY], [0x102, Buffer.from('lonely')]),
      );
      const point = module.cryptoki.attribute(handle, key ?? Buffer.alloc(8), CKA_EC_POINT);
      expect(point?.subarray(2)).toEqual(Buffer.from(made.publicKey));
      module.cryptoki.closeSession(handle);
      module.close();
      await session.destroy(made.id);
    }, readWrite);
  });

  it('throttles with CKR_FUNCTION_FAILED', async () => {
    faulty.become('cloudhsm', { 'throttle-calls': 4, 'throttle-ms': 3_600_000 });
    using device = raw();
    const { privateKey } = device.generate();
    const outcomes = [];
    for (let at = 0; at < 10; at += 1) {
      outcomes.push(
        await device.sign(privateKey).then(
          () => 0,
          (thrown: CkrError) => thrown.ckr,
        ),
      );
      device.begin();
    }
    expect(outcomes.slice(3)).toEqual(Array.from({ length: 7 }, () => ckr.functionFailed));
    faulty.bend({ 'throttle-calls': 0 });
    expect(await device.sign(privateKey)).toHaveLength(64);
  });

  it('lets a new key be used only after a while', async () => {
    faulty.become('cloudhsm', { 'available-ms': 3_600_000 });
    using device = raw();
    const { privateKey } = device.generate();
    await rejects(device.sign(privateKey), ckr.functionFailed);
    faulty.bend({ 'available-ms': 0 });
    expect(await device.sign(privateKey)).toHaveLength(64);
  });

  it('may know Edwards keys by the mechanism of other curves only', () => {
    faulty.become('cloudhsm', { 'edwards-by-ec': true });
    using device = raw();
    answers(() => device.generate(), ckr.mechanismInvalid);
    expect(device.generate({ mechanism: CKM_EC_KEY_PAIR_GEN }).privateKey).toHaveLength(8);
  });

  it('refuses AES-GCM with an IV from outside', async () => {
    faulty.become('cloudhsm');
    using device = raw();
    const key = device.cryptoki.generateKey(
      device.session,
      CKM_AES_KEY_GEN,
      template([CKA_TOKEN, true], [CKA_VALUE_LEN, 32], [CKA_ENCRYPT, true]),
    );
    const sealing = (iv: Buffer) =>
      device.cryptoki.encrypt(device.session, { iv, ivBits: 0, aad: message }, key, message);
    await rejects(sealing(randomBytes(12)), ckr.mechanismParamInvalid);
    const iv = Buffer.alloc(12);
    expect(await sealing(iv)).toHaveLength(message.length + 16);
    expect(iv.every(byte => byte === 0)).toBe(false);
  });
});

describe('personalities and faults', () => {
  it('are combined', async () => {
    faulty.become(['yubihsm', 'raw-ec-point']);
    using device = raw();
    const { privateKey } = device.generate({ params: edwardsPrintable });
    using _fault = faulty.inject({ on: 'C_Sign', effect: 'answer', code: ckr.functionFailed, times: 1 });
    await rejects(device.sign(privateKey), ckr.functionFailed);
  });
});

describe('all at once', () => {
  it('nothing that is lost under calls of several threads makes a signature wrong', async () => {
    using device = raw();
    const id = randomBytes(8);
    const verifier = createVerifier(publicKeyOf(device, device.generate({ id }).publicKey));
    const on = 'C_Sign';
    faulty.inject({ on, effect: 'answer', code: ckr.functionFailed, probability: 0.05, seed: 1 });
    faulty.inject({ on, effect: 'lose-sessions', probability: 0.02, seed: 2 });
    faulty.inject({ on, effect: 'lose-login', probability: 0.02, seed: 3 });
    faulty.inject({ on, effect: 'stale-objects', probability: 0.02, seed: 4 });
    const signed = async (worker: number) => {
      const outcomes: (boolean | number)[] = [];
      let hold: { session: Handle; key: Handle } | undefined;
      for (let at = 0; at < 60; at += 1) {
        const bytes = Buffer.from(`${worker}/${at}`);
        try {
          hold ??= freshHold(device, id);
          outcomes.push(await verifier.verify(bytes, await device.sign(hold.key, bytes, hold.session)));
        } catch (thrown) {
          if (!(thrown instanceof CkrError)) throw thrown;
          outcomes.push(thrown.ckr);
          hold = undefined;
        }
      }
      return outcomes;
    };
    const outcomes = (await Promise.all([0, 1, 2, 3].map(signed))).flat();
    expect(outcomes).not.toContain(false);
    expect(outcomes.filter(each => each === true).length).toBeGreaterThan(100);
    for (const code of [ckr.functionFailed, ckr.sessionHandleInvalid]) expect(outcomes).toContain(code);
  });
});

const publicKeyOf = (device: RawToken, handle: Handle) =>
  publicKeyOfEcPoint(device.cryptoki.attribute(device.session, handle, CKA_EC_POINT) ?? Buffer.alloc(0));

/** A session that is logged in, and the key as it is found on it. */
function freshHold(device: RawToken, id: Buffer): { session: Handle; key: Handle } {
  device.begin();
  const code = codeOf(() => device.login());
  if (code !== 0 && code !== ckr.userAlreadyLoggedIn) throw new CkrError(code, 'C_Login');
  const key = device.find(id);
  if (!key) throw new CkrError(ckr.objectHandleInvalid, 'not found');
  return { session: device.session, key };
}

/** A session on the token that nobody has logged in to. */
function unlogged() {
  const module = Pkcs11Module.open(faulty.modulePath);
  const view = module.tokens().find(each => each.label === token.label);
  const session = module.cryptoki.openSession(view?.slotHandle ?? Buffer.alloc(8), 6);
  return { cryptoki: module.cryptoki, session, [Symbol.dispose]: () => module.close() };
}

function codeOf(work: () => unknown): number {
  try {
    work();
    return 0;
  } catch (thrown) {
    const error = ckrError(thrown);
    if (error instanceof CkrError) return error.ckr;
    throw thrown;
  }
}

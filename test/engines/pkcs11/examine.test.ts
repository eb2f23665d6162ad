import type { Handle } from 'pkcs11js';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import {
  CKA_LABEL,
  CKA_TOKEN,
  CKA_VALUE_LEN,
  CKF_RW_SESSION,
  CKF_SERIAL_SESSION,
  CKM_AES_GCM,
  CKM_AES_KEY_GEN,
  CKU_USER,
} from '../../../src/engines/pkcs11/constants.ts';
import { type Cryptoki, template } from '../../../src/engines/pkcs11/cryptoki.ts';
import {
  type ExamineOptions,
  examineToken,
  fittingProfiles,
  provisionToken,
} from '../../../src/engines/pkcs11/index.ts';
import { Pkcs11Module } from '../../../src/engines/pkcs11/module.ts';
import { Secret } from '../../../src/foundation/secret.ts';
import { Faulty } from './faulty/faulty.ts';
import { softToken } from './soft-token.ts';

/** The examination of a token, on devices of several characters. */
const token = softToken({ label: 'examined' });
const faulty = await Faulty.make({ inner: token.module });
const cloudPin = 'exam:right-password';
provisionToken({
  module: faulty.modulePath,
  label: 'cloud',
  soPin: Secret.fromText('so-pin-of-exam'),
  userPin: Secret.fromText(cloudPin),
});
afterEach(() => faulty.heal());
afterAll(() => {
  faulty[Symbol.dispose]();
  token.remove();
});

const examine = (more: Partial<ExamineOptions> = {}) =>
  examineToken({
    module: faulty.modulePath,
    tokenLabel: 'examined',
    pin: token.pin(),
    clean: false,
    sessions_max: 1,
    signal: new AbortController().signal,
    told: () => undefined,
    ...more,
  });

describe('a token that signs', () => {
  it('is native: it makes a pair of the session, which signs, and is gone afterwards', async () => {
    const before = faulty.counts().calls.C_DestroyObject ?? 0;
    const found = await examine({ sessions_max: 2 });
    expect(found).toMatchObject({
      verdict: 'native',
      reasons: [],
      profile: 'generic',
      pair: {
        mechanism: 'CKM_EC_EDWARDS_KEY_PAIR_GEN',
        curve: 'oid',
        object: 'session',
        ecPoint: 'octet-string',
        ecParams: 'oid',
        extractable: false,
        sensitive: true,
      },
      gcmIv: 'random',
      sessionMode: 'read-only',
      leftovers: [],
      tidy: true,
    });
    expect(faulty.counts().calls.C_DestroyObject ?? 0).toBeGreaterThanOrEqual(before + 3);
    expect(objects()).toBe(0);
    expect(found.speed).toMatchObject({ operation: 'sign', calls: 200 });
    expect(found.speed?.levels.map(({ sessions }) => sessions)).toEqual([1, 2]);
    expect(found.speed?.levels.map(({ sessions }) => sessions)).toContain(found.speed?.usefulSessions);
  });

  it('is told apart by the form of its public point', async () => {
    faulty.become('raw-ec-point');
    expect(await examine()).toMatchObject({ verdict: 'native', pair: { ecPoint: 'raw' } });
  });

  it('may have token objects alone, one name of the curve, and no AES-GCM', async () => {
    faulty.become('yubihsm');
    const generic = await examine();
    expect(generic).toMatchObject({
      verdict: 'native',
      pair: { curve: 'printable-string', object: 'token' },
      tidy: true,
    });
    expect(generic.generations.filter(({ outcome }) => outcome !== 'made').length).toBeGreaterThan(0);
    expect(objects()).toBe(0);
  });

  it('may take other sessions, its own IV, and pairs by the mechanism of other curves', async () => {
    faulty.become('cloudhsm', { 'edwards-by-ec': true, 'available-ms': 150 });
    const found = await examine({ profile: 'aws-cloudhsm', tokenLabel: 'cloud', pin: pinOf(cloudPin) });
    expect(found).toMatchObject({
      verdict: 'native',
      reasons: [],
      pair: { mechanism: 'CKM_EC_KEY_PAIR_GEN' },
      gcmIv: 'device',
      sessionMode: 'read-write',
      tidy: true,
    });
  });
});

describe('the useful number of sessions', () => {
  it('is as large as the gain, for a device that takes its time', async () => {
    const afterTheLatency = { skip: 201, ms: 10 };
    using _slow = faulty.inject({ on: 'C_Sign', effect: 'latency', ...afterTheLatency });
    const { speed } = await examine({ sessions_max: 4 }); // libuv has four threads here
    expect(speed).toMatchObject({ usefulSessions: 4, endedBy: 'bound' });
    expect(speed?.levels.map(({ sessions }) => sessions)).toEqual([1, 2, 4]);
  });

  it('ends where the device gives no more sessions', async () => {
    // The login, a read-only one, one for each thing tried, one for the latency, one and then two at once.
    using _full = faulty.inject({ on: 'C_OpenSession', effect: 'answer', code: 0xb1, skip: 9 });
    expect((await examine({ sessions_max: 4 })).speed).toMatchObject({
      usefulSessions: 1,
      endedBy: 'device',
    });
  });
});

describe('a token that does not sign Ed25519', () => {
  it('is wrapped-only when AES-GCM works, and is timed at opening', async () => {
    faulty.become('no-eddsa');
    const found = await examine();
    expect(found).toMatchObject({ verdict: 'wrapped-only', gcmIv: 'random', speed: { operation: 'open' } });
    expect(found.reasons).toHaveLength(1);
    expect(found.generations).toEqual([]);
  });

  it('is unusable without AES-GCM, and says both', async () => {
    faulty.become('no-eddsa');
    faulty.mask(CKM_AES_GCM);
    const found = await examine();
    expect(found.verdict).toBe('unusable');
    expect(found.reasons).toHaveLength(2);
  });

  it('is not native when one signature among many is wrong', async () => {
    using _fault = faulty.inject({ on: 'C_Sign', effect: 'corrupt', skip: 50, times: 1 });
    expect((await examine()).verdict).toBe('wrapped-only');
  });
});

describe('the PIN', () => {
  it('is tried once, and never when the token counts its last try', async () => {
    faulty.bend({ 'pin-limit': 5 });
    const attempts = () => faulty.counts().calls.C_Login ?? 0;
    const before = attempts();
    await expect(examine({ pin: pinOf('not-the-pin') })).rejects.toMatchObject({ code: 'PIN_REFUSED' });
    expect(attempts()).toBe(before + 1);
    for (const [flag, code] of [
      [0x20000, 'PIN_LAST_TRY'],
      [0x40000, 'PIN_LOCKED'],
    ] as const) {
      faulty.bend({ 'pin-flags': flag });
      await expect(examine()).rejects.toMatchObject({ code });
    }
    faulty.bend({ 'pin-flags': 0 });
    await expect(examine({ profile: 'aws-cloudhsm' })).rejects.toMatchObject({ code: 'PIN_REFUSED' }); // its form
    expect(attempts()).toBe(before + 1);
    faulty.unlockPin('examined');
  });
});

describe('what is left behind', () => {
  it('is nothing when the examination is called off, wherever it is', async () => {
    faulty.bend({ 'token-objects': true });
    const all: string[] = [];
    await examine({ told: step => all.push(step) });
    expect(all.length).toBeGreaterThan(8);
    for (const last of all.filter(step => step !== 'C_DestroyObject')) {
      const called = new AbortController();
      const told = (step: string) => {
        if (step === last) called.abort();
      };
      await expect(examine({ signal: called.signal, told }), last).rejects.toMatchObject({
        code: 'REQUEST_ABORTED',
      });
      expect(objects(), last).toBe(0);
    }
  });

  it('by an examination that was killed is found by the next one, and removed when it may', async () => {
    const label = 'keyslot-doctor-0123456789ab';
    for (const each of [label, 'keyslot-doctor-of-mine']) leaveBehind(each);
    expect(await examine()).toMatchObject({ leftovers: [label], cleaned: [] });
    expect(objects()).toBe(2);
    expect(await examine({ clean: true })).toMatchObject({ leftovers: [label], cleaned: [label] });
    expect(objects()).toBe(1);
  });
});

it('the profiles that fit are those that name the library, and the one for every token', () => {
  expect(fittingProfiles('/elsewhere/libsofthsm2.so')).toEqual(['softhsm2', 'generic']);
  expect(fittingProfiles(faulty.modulePath)).toEqual(['generic']);
});

const pinOf = (text: string) => Secret.fromText(text);

/** Work on a session of the token that is logged in. */
function loggedIn<T>(work: (cryptoki: Cryptoki, session: Handle) => T): T {
  const module = Pkcs11Module.open(token.module);
  const view = module.tokens().find(each => each.label === 'examined');
  if (!view) throw new Error('The token has gone.');
  const session = module.cryptoki.openSession(view.slotHandle, CKF_SERIAL_SESSION | CKF_RW_SESSION);
  try {
    token.pin().useText(text => module.cryptoki.login(session, CKU_USER, text));
    return work(module.cryptoki, session);
  } finally {
    module.cryptoki.closeSession(session);
    module.close();
  }
}

const objects = () => loggedIn((cryptoki, session) => cryptoki.findObjects(session, template()).length);

function leaveBehind(label: string): void {
  loggedIn((cryptoki, session) =>
    cryptoki.generateKey(
      session,
      CKM_AES_KEY_GEN,
      template([CKA_LABEL, Buffer.from(label)], [CKA_TOKEN, true], [CKA_VALUE_LEN, 32]),
    ),
  );
}

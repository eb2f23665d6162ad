import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import * as graphene from 'graphene-pk11';
import type { Handle } from 'pkcs11js';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import {
  type Destroys,
  destroys,
  type Generates,
  generates,
  type Recovers,
  recovers,
  type Session,
  type SessionHealth,
  type Signer,
} from '../../../src/custody/engine.ts';
import { keyId, slotId } from '../../../src/custody/ids.ts';
import {
  CKA_ID,
  CKF_RW_SESSION,
  CKF_SERIAL_SESSION,
  CKF_USER_PIN_FINAL_TRY,
} from '../../../src/engines/pkcs11/constants.ts';
import { template } from '../../../src/engines/pkcs11/cryptoki.ts';
import {
  createPkcs11Engine,
  ordinaryPatience,
  type Patience,
  pkcs11Settings,
} from '../../../src/engines/pkcs11/index.ts';
import { Pkcs11Module } from '../../../src/engines/pkcs11/module.ts';
import { createVerifier } from '../../../src/foundation/ed25519.ts';
import { silentLog } from '../../../src/foundation/log.ts';
import { Faulty } from './faulty/faulty.ts';
import { softToken } from './soft-token.ts';

const token = softToken({ label: 'main' });
token.addToken('audit');
const folder = mkdtempSync(join(tmpdir(), 'keyslot-recovery-'));
const faulty = await Faulty.make({ inner: token.module });
afterEach(() => faulty.heal());
afterAll(() => {
  faulty[Symbol.dispose]();
  token.remove();
  rmSync(folder, { recursive: true, force: true });
});

/** What somebody else does to the token, under the login of this process. */
function underneath(work: (module: Pkcs11Module, session: Handle) => void): void {
  const module = Pkcs11Module.open(faulty.modulePath);
  const view = module.tokens().find(({ label }) => label === 'main');
  const session = module.cryptoki.openSession(
    view?.slotHandle ?? Buffer.alloc(8),
    CKF_SERIAL_SESSION | CKF_RW_SESSION,
  );
  try {
    work(module, session);
  } finally {
    module.cryptoki.closeSession(session);
    module.close();
  }
}

const message = Buffer.from('message');
const hasty: Patience = { ...ordinaryPatience, pause_ms_min: 5, pause_ms_max: 40 };

type Able = Session & Generates & Destroys & Recovers;

/** An open slot, its session, and every state that it went through. */
class OpenSlot implements AsyncDisposable {
  readonly session: Able;
  readonly states: SessionHealth['state'][] = [];
  readonly #engine: AsyncDisposable;

  static async on(
    label: string,
    options: { patience?: Partial<Patience>; settings?: Record<string, unknown> } = {},
  ): Promise<OpenSlot> {
    const settings = { module: faulty.modulePath, tokenLabel: label, sessions: 4, ...options.settings };
    const engine = createPkcs11Engine(slotId(label), pkcs11Settings.parse(settings), silentLog, {
      ...hasty,
      ...options.patience,
    });
    const [slot] = await engine.slots();
    using pin = token.pin();
    const session = await slot?.open(pin);
    if (!session || !generates(session) || !destroys(session) || !recovers(session)) {
      throw new TypeError('A session on a token makes and destroys keys, and recovers.');
    }
    return new OpenSlot(engine, session);
  }

  private constructor(engine: AsyncDisposable, session: Able) {
    this.#engine = engine;
    this.session = session;
    session.onHealth(({ state }) => this.states.push(state));
  }

  async newSigner(): Promise<Signer> {
    const key = keyId(`key-${randomBytes(6).toString('hex')}`);
    await this.session.generate(key);
    return await this.session.signer(key);
  }

  async until(state: SessionHealth['state']): Promise<void> {
    while (this.session.health.state !== state) await wait(2);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#engine[Symbol.asyncDispose]();
  }
}

const changePin = (from: string, to: string) =>
  underneath((_, session) => graphene.Module.load(faulty.modulePath).lib.C_SetPIN(session, from, to));

async function expectRight(signer: Signer, text: Buffer = message): Promise<void> {
  const made = await signer.sign(text);
  expect(await createVerifier(signer.key.publicKey).verify(text, made)).toBe(true);
}

/** Signs that many messages, several at a time; every one has to be answered, and rightly. */
async function expectAllRight(signer: Signer, count: number, during?: (done: number) => void): Promise<void> {
  const verifier = createVerifier(signer.key.publicKey);
  let begun = 0;
  let right = 0;
  const one = async () => {
    while (begun < count) {
      begun += 1;
      const text = Buffer.from(`message ${begun}`);
      if (await verifier.verify(text, await signer.sign(text))) right += 1;
      during?.(right);
    }
  };
  await Promise.all(Array.from({ length: 12 }, one));
  expect(right).toBe(count);
}

const lost = {
  transient: [0x06, 0x0a],
  session: [0x90, 0x91, 0xb0, 0xb3],
  login: [0x101],
  'stale handle': [0x60, 0x82],
  device: [0x05, 0x30, 0x32, 0xe0, 0x190],
};
const passing = Object.entries(lost);

describe('a signature is answered', () => {
  it.each(passing)('after one failure of the class %s, whichever call meets it', async (_, codes) => {
    await using slot = await OpenSlot.on('main');
    const signer = await slot.newSigner();
    for (const code of codes) {
      for (const on of ['C_SignInit', 'C_Sign', 'C_OpenSession'] as const) {
        if (on === 'C_OpenSession') faulty.loseSessions();
        using fault = faulty.inject({ on, effect: 'answer', code, times: 1 });
        await expectRight(signer);
        expect(fault.count().fired).toBe(1);
      }
    }
  });

  it('2,000 times while every class fails with a probability of 1 to 3 percent', async () => {
    await using slot = await OpenSlot.on('main');
    const signer = await slot.newSigner();
    const faults = passing.flatMap(([, codes], at) =>
      (['C_SignInit', 'C_Sign'] as const).map(on =>
        faulty.inject({
          on,
          effect: 'answer',
          code: codes[at % codes.length] ?? 0x06,
          probability: on === 'C_Sign' ? 0.01 : 0.02,
          seed: at,
        }),
      ),
    );
    await expectAllRight(signer, 2_000);
    for (const fault of faults) expect(fault.count().fired).toBeGreaterThan(0);
  });

  it('on the sessions that there are when the token has no other left', async () => {
    await using slot = await OpenSlot.on('main');
    const signer = await slot.newSigner();
    faulty.loseSessions();
    await expectRight(signer); // with one session in the pool
    using fault = faulty.inject({ on: 'C_OpenSession', effect: 'answer', code: 0xb1 });
    await expectAllRight(signer, 100);
    expect(fault.count().fired).toBe(1);
  });

  it('when sessions, logins and handles are lost again and again', async () => {
    await using slot = await OpenSlot.on('main');
    const signer = await slot.newSigner();
    const losses = [() => faulty.loseSessions(), () => faulty.loseLogin(), () => faulty.staleObjects()];
    await expectAllRight(signer, 600, done => {
      if (done % 60 === 0) losses[(done / 60) % losses.length]?.();
    });
    expect(slot.session.health.state).toBe('serving');
  });

  it('after an outage of which all who wait share one login', async () => {
    await using slot = await OpenSlot.on('main');
    const signer = await slot.newSigner();
    const { attempts } = faulty.pin('main');
    faulty.loseLogin();
    await expectAllRight(signer, 64);
    expect(faulty.pin('main').attempts).toBe(attempts + 1);
    expect(slot.states).toEqual(['recovering', 'serving']);
  });

  it.each([0x190, 0x30])('by a device that answers %i until its module is initialised anew', async code => {
    await using slot = await OpenSlot.on('main');
    const signer = await slot.newSigner();
    let gone = false;
    await expectAllRight(signer, 200, done => {
      if (done < 100 || gone) return;
      gone = true;
      faulty.deviceGone(code);
    });
    expect(slot.states).toContain('recovering');
    expect(slot.session.health.state).toBe('serving');
  });

  it('in mode wrapped too, whose key in the token is found again and proven', async () => {
    const settings = { mode: 'wrapped', folder: join(folder, 'sealed') };
    await using slot = await OpenSlot.on('main', { settings });
    const signer = await slot.newSigner();
    const losses = [
      () => faulty.loseSessions(),
      () => faulty.loseLogin(),
      () => faulty.staleObjects(),
      () => faulty.deviceGone(0x190),
    ];
    for (const lose of losses) {
      lose();
      await expectRight(signer);
    }
    for (const code of passing.flatMap(([, codes]) => codes)) {
      using fault = faulty.inject({ on: 'C_Decrypt', effect: 'answer', code, times: 1 });
      await expectRight(signer);
      expect(fault.count().fired).toBe(1);
    }
  });
});

describe('a token that is removed', () => {
  it('is waited for by who signs, and serves them when it is back', async () => {
    await using slot = await OpenSlot.on('main');
    const signer = await slot.newSigner();
    faulty.removeToken({ token: 'main' });
    const signing = expectRight(signer);
    await slot.until('recovering');
    faulty.returnToken('main');
    await signing;
    expect(slot.states).toEqual(['recovering', 'serving']);
  });

  it('turns requests away after a while, and its slot comes back by itself', async () => {
    await using slot = await OpenSlot.on('main', { patience: { outage_ms: 60 } });
    const signer = await slot.newSigner();
    faulty.removeToken({ token: 'main', untilInitialize: true });
    const unavailable = { code: 'TOKEN_UNAVAILABLE', retryAfter_s: expect.any(Number) };
    await expect(signer.sign(message)).rejects.toMatchObject(unavailable);
    await expect(slot.session.signer(signer.key.id)).rejects.toMatchObject(unavailable);
    expect(slot.session.health.state).toBe('lost');
    faulty.returnToken('main');
    await slot.until('serving');
    await expectRight(signer);
    expect(slot.states).toEqual(['recovering', 'lost', 'serving']);
  });

  it('is looked for at once when somebody asks, who hears what came of it', async () => {
    const pauses = { pause_ms_min: 600_000, pause_ms_max: 600_000 };
    await using slot = await OpenSlot.on('main', { patience: { outage_ms: 60, ...pauses } });
    const signer = await slot.newSigner();
    faulty.removeToken({ token: 'main', untilInitialize: true });
    await expect(signer.sign(message)).rejects.toMatchObject({ code: 'TOKEN_UNAVAILABLE' });
    await expect(slot.session.lookNow()).rejects.toMatchObject({ code: 'TOKEN_UNAVAILABLE' });
    faulty.returnToken('main');
    await slot.session.lookNow(); // long before it would have been looked for
    expect(slot.session.health.state).toBe('serving');
    await expectRight(signer);
    await slot.session.lookNow(); // and costs nothing where nothing is lost
  });

  it('keeps nobody waiting who gives up, nor the end of the session', async () => {
    await using slot = await OpenSlot.on('main');
    const signer = await slot.newSigner();
    faulty.removeToken({ token: 'main' });
    const signing = signer.sign(message);
    const refused = expect(signing).rejects.toMatchObject({ code: 'SESSION_CLOSED' });
    await slot.until('recovering');
    const controller = new AbortController();
    const given = signer.sign(message, controller.signal);
    controller.abort();
    await expect(given).rejects.toMatchObject({ code: 'REQUEST_ABORTED' });
    await slot.session[Symbol.asyncDispose]();
    await refused;
  });

  it('holds another key when it comes back: nothing is signed with it', async () => {
    await using slot = await OpenSlot.on('main');
    const signer = await slot.newSigner();
    const other = await slot.newSigner();
    underneath(({ cryptoki }, session) => {
      const named = (key: string) => cryptoki.findObjects(session, template([CKA_ID, Buffer.from(key)]));
      for (const object of named(signer.key.id)) cryptoki.destroyObject(session, object);
      const { lib } = graphene.Module.load(faulty.modulePath);
      for (const object of named(other.key.id)) {
        lib.C_SetAttributeValue(session, object, [{ type: CKA_ID, value: Buffer.from(signer.key.id) }]);
      }
    });
    faulty.staleObjects();
    await expect(signer.sign(message)).rejects.toMatchObject({ code: 'KEY_MISMATCH' });
  });
});

describe('a call that hangs', () => {
  it('is answered at its deadline, and its session is used by nobody until it returns', async () => {
    await using slot = await OpenSlot.on('main', { patience: { call_ms: 100 } });
    const signer = await slot.newSigner();
    const fault = faulty.inject({ on: 'C_Sign', effect: 'hang', times: 1 });
    await expect(signer.sign(message)).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    await expectAllRight(signer, 30);
    expect(slot.states).toEqual([]);
    const closed = faulty.counts().calls.C_CloseSession ?? 0;
    fault.withdraw();
    while ((faulty.counts().calls.C_CloseSession ?? 0) === closed) await wait(2);
    await expectAllRight(signer, 30);
  });

  it('on every session takes the slot out of service, and says that nothing here can help', async () => {
    await using slot = await OpenSlot.on('main', { patience: { call_ms: 100 }, settings: { sessions: 2 } });
    const signer = await slot.newSigner();
    const fault = faulty.inject({ on: 'C_Sign', effect: 'hang' });
    const outcomes = await Promise.allSettled(Array.from({ length: 6 }, () => signer.sign(message)));
    expect(outcomes.map(({ status }) => status)).toEqual(Array.from({ length: 6 }, () => 'rejected'));
    await slot.until('hung');
    await expect(signer.sign(message)).rejects.toMatchObject({ code: 'TOKEN_UNAVAILABLE' });
    fault.withdraw();
    await slot.until('serving');
    await expectRight(signer);
  });
});

describe('the PIN', () => {
  it('that was changed underneath is tried once, and the slot says so from then on', async () => {
    await using slot = await OpenSlot.on('main');
    const signer = await slot.newSigner();
    changePin(token.pinText, 'another-pin');
    try {
      const { attempts } = faulty.pin('main');
      faulty.loseLogin();
      const refusals = await Promise.allSettled(Array.from({ length: 20 }, () => signer.sign(message)));
      for (const refusal of refusals) expect(refusal).toMatchObject({ reason: { code: 'PIN_REFUSED' } });
      await wait(100); // many pauses between attempts, if there were any
      await expect(signer.sign(message)).rejects.toMatchObject({ code: 'PIN_REFUSED' });
      expect(faulty.pin('main').attempts).toBe(attempts + 1);
      expect(slot.states).toEqual(['recovering', 'refused']);
    } finally {
      changePin('another-pin', token.pinText);
    }
  });

  it('is not shown to a token that has one try left', async () => {
    await using slot = await OpenSlot.on('main');
    const signer = await slot.newSigner();
    const { attempts } = faulty.pin('main');
    faulty.bend({ 'pin-flags': CKF_USER_PIN_FINAL_TRY });
    faulty.loseLogin();
    await expect(signer.sign(message)).rejects.toMatchObject({ code: 'PIN_LAST_TRY' });
    expect(faulty.pin('main').attempts).toBe(attempts);
    expect(slot.session.health.state).toBe('refused');
  });
});

describe('two slots on one module', () => {
  it('come back both when the module has to be initialised anew', async () => {
    await using main = await OpenSlot.on('main');
    await using audit = await OpenSlot.on('audit');
    const signers = [await main.newSigner(), await audit.newSigner()];
    faulty.deviceGone(0x190);
    await Promise.all(signers.map(signer => expectAllRight(signer, 50)));
    expect([main.session.health.state, audit.session.health.state]).toEqual(['serving', 'serving']);
  });

  it('are one that is lost and one that signs on without noticing', async () => {
    await using main = await OpenSlot.on('main', { patience: { outage_ms: 50 } });
    await using audit = await OpenSlot.on('audit');
    const [lostSigner, signer] = [await main.newSigner(), await audit.newSigner()];
    const { attempts } = faulty.pin('audit');
    const finalised = faulty.counts().calls.C_Finalize ?? 0;
    faulty.removeToken({ token: 'main' });
    const refused = expect(lostSigner.sign(message)).rejects.toMatchObject({ code: 'TOKEN_UNAVAILABLE' });
    await expectAllRight(signer, 100);
    await refused;
    expect(audit.states).toEqual([]);
    faulty.returnToken('main');
    await main.until('serving');
    await expectRight(lostSigner);
    // The first renewal of a module is free to happen, and the next one is far away.
    expect((faulty.counts().calls.C_Finalize ?? 0) - finalised).toBeLessThanOrEqual(1);
    expect(faulty.pin('audit').attempts - attempts).toBeLessThanOrEqual(1);
  });

  it('lose no signature when one of them needs the module initialised anew', async () => {
    await using main = await OpenSlot.on('main', { patience: { disturb_ms: 0 } });
    await using audit = await OpenSlot.on('audit');
    const [missing, signer] = [await main.newSigner(), await audit.newSigner()];
    faulty.removeToken({ token: 'main', untilInitialize: true });
    faulty.returnToken('main');
    const waiting = expectRight(missing);
    await expectAllRight(signer, 300);
    await waiting;
    await audit.until('serving');
    expect(audit.states).toEqual(['recovering', 'serving']);
  });
});

describe('what cannot be done twice', () => {
  it('making a key whose answer is lost makes one key, which is acknowledged', async () => {
    await using slot = await OpenSlot.on('main');
    const before = faulty.counts().calls.C_GenerateKeyPair ?? 0;
    for (const code of [0x30, 0x06, 0x101]) {
      using _fault = faulty.inject({
        on: 'C_GenerateKeyPair',
        effect: 'answer',
        code,
        when: 'after',
        times: 1,
      });
      await expectRight(await slot.newSigner());
    }
    expect((faulty.counts().calls.C_GenerateKeyPair ?? 0) - before).toBe(3);
  });

  it('destroying a key whose answer is lost destroys it', async () => {
    await using slot = await OpenSlot.on('main');
    const signer = await slot.newSigner();
    using _fault = faulty.inject({
      on: 'C_DestroyObject',
      effect: 'answer',
      code: 0x30,
      when: 'after',
      times: 1,
    });
    await slot.session.destroy(signer.key.id);
    await expect(slot.session.signer(signer.key.id)).rejects.toMatchObject({ code: 'KEY_UNKNOWN' });
  });
});

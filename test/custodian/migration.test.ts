import { createHash } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { KeyInfo, Session, Slot } from '../../src/custody/engine.ts';
import { type KeyId, keyId, slotId } from '../../src/custody/ids.ts';
import { createMemoryEngine } from '../../src/engines/memory/index.ts';
import { createVerifier } from '../../src/foundation/ed25519.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { Secret } from '../../src/foundation/secret.ts';
import type { MigrationKeyView } from '../../src/wire/views.ts';
import { Gate, pinText } from './device.ts';
import { Lab, refusal, text } from './lab.ts';

/** A memory slot whose powers a test can take away or bend. */
class Place implements AsyncDisposable {
  readonly #engine: ReturnType<typeof createMemoryEngine>;
  readonly slot: Slot;
  bend: (session: Powers) => void = () => undefined;

  private constructor(engine: ReturnType<typeof createMemoryEngine>, honest: Slot) {
    this.#engine = engine;
    this.slot = {
      id: honest.id,
      describe: () => honest.describe(),
      open: async (pin, signal) => {
        const session = (await honest.open(pin, signal)) as Session & Required<Powers>;
        const { bend } = this;
        const bent: Session & Powers = {
          slot: session.slot,
          keys: () => session.keys(),
          signer: key => session.signer(key),
          generate: key => session.generate(key),
          import: (key, seed) => session.import(key, seed),
          export: key => session.export(key),
          destroy: key => session.destroy(key),
          [Symbol.asyncDispose]: () => session[Symbol.asyncDispose](),
        };
        bend(bent);
        return bent;
      },
    };
  }

  static async make(id: string): Promise<Place> {
    const engine = createMemoryEngine(slotId(id));
    const [slot] = await engine.slots();
    if (!slot) throw new TypeError('The memory engine has no slot.');
    return new Place(engine, slot);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#engine[Symbol.asyncDispose]();
  }
}

type Powers = {
  signer: Session['signer'];
  generate?: (key: KeyId) => Promise<KeyInfo>;
  import?: (key: KeyId, seed: Secret) => Promise<KeyInfo>;
  export?: (key: KeyId) => Promise<Secret>;
  destroy?: (key: KeyId) => Promise<void>;
};

let main: Place;
let spare: Place;
let third: Place;
let lab: Lab;

beforeEach(async () => {
  [main, spare, third] = await Promise.all([Place.make('main'), Place.make('spare'), Place.make('third')]);
  lab = await Lab.start(
    { slot: main.slot, source: () => pinText },
    { slot: spare.slot, source: () => pinText },
    { slot: third.slot, source: () => pinText },
  );
  await lab.custodian.openUnattended();
});

afterEach(async () => {
  await lab[Symbol.asyncDispose]();
  for (const place of [main, spare, third]) await place[Symbol.asyncDispose]();
});

async function reopen(): Promise<void> {
  await lab.restart();
  await lab.custodian.openUnattended();
}

const generate = (key: string, slot = 'main') => lab.ask('operator', 'generate-key', { key, slot });
const show = async (key: string) => (await lab.ask('signer', 'show-key', { key })).output;
const sign = (key: string, message = 'x') =>
  lab.ask('signer', 'sign-message', { key }, { bytes: [text(message)] });
const route = (from = 'main', to = 'spare', keys?: string[]) => ({ from, to, ...(keys ? { keys } : {}) });
const plan = async (...of: Parameters<typeof route>) =>
  (await lab.ask('operator', 'plan-migration', route(...of))).output;
const start = async (...of: Parameters<typeof route>) =>
  (await lab.ask('operator', 'start-migration', route(...of))).output.id;
type Verb = 'run-migration' | 'verify-migration' | 'rollback-migration' | 'destroy-copies';
const go = async (
  verb: Verb,
  migration: string,
  more: { keys?: string[]; after?: string; max?: number } = {},
) => (await lab.ask('operator', verb, { migration, max: 100, ...more })).output;
const moved = async (...of: Parameters<typeof route>) => {
  const id = await start(...of);
  await go('run-migration', id);
  return id;
};
const steps = async (migration: string) => {
  const { output } = await lab.ask('operator', 'show-migration', { migration, limit: 100 });
  return Object.fromEntries(output.keys.map(({ key, step }) => [key, step]));
};
const codes = (keys: readonly MigrationKeyView[]) =>
  Object.fromEntries(keys.map(({ key, error }) => [key, error?.code ?? 'done']));
const findings = async (slot: string) => (await lab.ask('operator', 'show-slot', { slot })).output.findings;
/** Disabling a key is not an operation yet, but the registry knows the state. */
async function disable(key: string): Promise<void> {
  lab.store.run("UPDATE keys SET state = 'disabled' WHERE id = ?", key);
  await reopen();
}

/** Holds the slot's keys against the list, past every registry. */
async function keysIn(place: Place): Promise<string[]> {
  const { id } = place.slot;
  await lab.ask('operator', 'lock-slot', { slot: id });
  const ids: string[] = [];
  {
    using pin = Secret.fromText(pinText);
    await using session = await place.slot.open(pin);
    for await (const info of session.keys()) ids.push(info.id);
  }
  await lab.ask('operator', 'open-slot', { slot: id });
  return ids.toSorted();
}

async function expectProof(key: MigrationKeyView, slot: string): Promise<void> {
  const { proof } = key;
  if (!proof) throw new TypeError(`${key.key} has no proof.`);
  const challenge = Buffer.from(proof.challenge, 'base64');
  expect(proof.slot).toBe(slot);
  expect(createHash('sha256').update(challenge).digest('hex')).toBe(proof.challengeSha256);
  const verifier = createVerifier(Buffer.from((await show(key.key)).publicKeyBase64, 'base64'));
  expect(await verifier.verify(challenge, Buffer.from(proof.signature, 'base64'))).toBe(true);
}

describe('a plan', () => {
  it('says of every key what is possible, and changes nothing', async () => {
    await generate('a');
    await generate('b');
    await generate('elsewhere', 'spare');
    const before = lab.store.all('SELECT * FROM keys');
    const { output } = await lab.ask('operator', 'plan-migration', route());
    expect(output).toMatchObject({ from: 'main', to: 'spare', possible: 2, impossible: 0 });
    expect(output.keys).toEqual([
      { key: 'a', publicKey: (await show('a')).publicKey, possible: true },
      { key: 'b', publicKey: (await show('b')).publicKey, possible: true },
    ]);
    expect(lab.store.all('SELECT * FROM keys')).toEqual(before);
    expect(lab.store.all('SELECT * FROM migrations')).toEqual([]);
    expect(await keysIn(spare)).toEqual(['elsewhere']);
  });

  it('names the reason of each key that cannot move', async () => {
    for (const key of ['free', 'there', 'moving', 'disabled', 'gone']) await generate(key);
    await generate('elsewhere', 'spare');
    await lab.ask('operator', 'lock-slot', { slot: 'spare' });
    {
      using pin = Secret.fromText(pinText);
      await using session = (await spare.slot.open(pin)) as Session & Powers;
      await session.generate?.(keyId('there'));
    }
    await lab.ask('operator', 'lock-slot', { slot: 'main' });
    {
      using pin = Secret.fromText(pinText);
      await using session = (await main.slot.open(pin)) as Session & Powers;
      await session.destroy?.(keyId('gone'));
    }
    await disable('disabled');
    await start('main', 'third', ['moving']);
    const { keys, possible, impossible } = await plan('main', 'spare', [
      'free',
      'there',
      'moving',
      'disabled',
      'gone',
      'elsewhere',
      'never-made',
    ]);
    expect({ possible, impossible }).toEqual({ possible: 1, impossible: 6 });
    expect(Object.fromEntries(keys.map(({ key, reason }) => [key, reason?.code ?? 'possible']))).toEqual({
      free: 'possible',
      there: 'KEY_EXISTS',
      moving: 'MIGRATION_RUNNING',
      disabled: 'MIGRATION_STATE',
      gone: 'KEY_MISSING',
      elsewhere: 'KEY_UNKNOWN',
      'never-made': 'KEY_UNKNOWN',
    });
  });

  it.each([
    ['a slot that gives no keys out', 'POWER_MISSING', () => bendMain(session => delete session.export)],
    ['a slot that takes no keys in', 'POWER_MISSING', () => bendSpare(session => delete session.import)],
    ['a locked source', 'SLOT_LOCKED', () => lab.ask('operator', 'lock-slot', { slot: 'main' })],
    ['a locked target', 'SLOT_LOCKED', () => lab.ask('operator', 'lock-slot', { slot: 'spare' })],
  ] as const)('finds the obstacle of %s, and nothing is started', async (_what, code, hinder) => {
    await generate('a');
    await hinder();
    expect(await plan()).toMatchObject({ obstacle: { code }, possible: 0, impossible: 1 });
    expect(await refusal(start())).toBe('MIGRATION_IMPOSSIBLE');
    expect(lab.store.all('SELECT * FROM migrations')).toEqual([]);
  });

  it('notes what callers would notice: who has no grant of the target, and another access', async () => {
    await generate('a');
    const [grants, ...none] = (await plan()).notes;
    expect(grants).toContain('mainOnly');
    expect(none).toEqual([]);
    expect((await plan('spare', 'third')).notes).toEqual([]);
    const source = () => pinText;
    await lab.restart(
      { slot: main.slot, source },
      { slot: spare.slot, source, access: 'session' },
      { slot: third.slot, source },
    );
    await lab.custodian.openUnattended();
    const [access, ...more] = (await plan()).notes;
    expect(access).toContain('session');
    expect(more).toEqual([]); // whoever knows the PIN may sign there
  });

  it('goes nowhere from a slot to itself, and has nothing to do for an empty slot', async () => {
    await generate('a');
    expect(await plan('main', 'main')).toMatchObject({ obstacle: { code: 'MIGRATION_IMPOSSIBLE' } });
    expect(await refusal(start('main', 'main'))).toBe('MIGRATION_IMPOSSIBLE');
    expect(await refusal(start('third', 'main'))).toBe('MIGRATION_IMPOSSIBLE');
    expect(await refusal(start('main', 'nowhere'))).toBe('SLOT_UNKNOWN');
  });

  const bendMain = async (bend: Place['bend']) => {
    main.bend = bend;
    await reopen();
  };
  const bendSpare = async (bend: Place['bend']) => {
    spare.bend = bend;
    await reopen();
  };
});

describe('a migration', () => {
  it('moves keys that keep their id, their address and their age, and proves each of them', async () => {
    await generate('a');
    const before = await show('a');
    const id = await start();
    expect(await steps(id)).toEqual({ a: 'planned' });
    expect((await show('a')).slot).toBe('main');
    lab.clock.advance(1_000);
    const { migration, keys, next } = await go('run-migration', id);
    expect(migration).toMatchObject({ state: 'finished', failed: 0, counts: { kept: 1, planned: 0 } });
    expect(next).toBeUndefined();
    expect(await show('a')).toEqual({ ...before, slot: 'spare' });
    const [key] = keys;
    if (!key) throw new TypeError('No key was moved.');
    expect(key).toMatchObject({ step: 'kept', custodyBefore: 'memory', custodyAfter: 'memory' });
    expect(Object.keys(key.times)).toEqual(['planned', 'imported', 'proven', 'switched', 'kept']);
    await expectProof(key, 'spare');
    expect(await keysIn(main)).toEqual(['a']);
    expect((await sign('a')).output.publicKey).toBe(before.publicKey);
    await reopen();
    expect((await show('a')).slot).toBe('spare');
    expect((await sign('a')).output.publicKey).toBe(before.publicKey);
  });

  it('of all keys leaves out what cannot move and says so; by name it is refused', async () => {
    for (const key of ['a', 'b']) await generate(key);
    await disable('b');
    const { output } = await lab.ask('operator', 'start-migration', route());
    expect(output.leftOut).toMatchObject([{ key: 'b', reason: { code: 'MIGRATION_STATE' } }]);
    await go('run-migration', output.id);
    expect(await steps(output.id)).toEqual({ a: 'kept' });
    expect(await refusal(start('main', 'spare', ['b']))).toBe('MIGRATION_IMPOSSIBLE');
  });

  it('is done in parts, each of which says where the next one begins', async () => {
    for (const key of ['a', 'b', 'c', 'd', 'e']) await generate(key);
    const id = await start();
    const first = await go('run-migration', id, { max: 2 });
    expect([first.keys.map(({ key }) => key), first.next]).toEqual([['a', 'b'], 'b']);
    const second = await go('run-migration', id, { max: 2, after: 'b' });
    const third = await go('run-migration', id, { max: 2, after: 'd' });
    expect([second.next, third.next]).toEqual(['d', undefined]);
    expect(Object.values(await steps(id))).toEqual(Array(5).fill('kept'));
    const { output } = await lab.ask('operator', 'show-migration', { migration: id, limit: 2, cursor: 'a' });
    expect([output.keys.map(({ key }) => key), output.next]).toEqual([['b', 'c'], 'c']);
  });

  it('goes on with the others when a key fails, lists it with its code, and takes it up again later', async () => {
    for (const key of ['a', 'b', 'c']) await generate(key);
    let broken = true;
    spare.bend = session => {
      const honest = session.import;
      session.import = async (key, seed) => {
        if (broken && key === 'b') throw new KeyslotError('TOKEN_CAPACITY', 'No room for this one.');
        return (honest as NonNullable<typeof honest>)(key, seed);
      };
    };
    await reopen();
    const id = await start();
    expect(codes((await go('run-migration', id)).keys)).toEqual({
      a: 'done',
      b: 'TOKEN_CAPACITY',
      c: 'done',
    });
    expect(await steps(id)).toEqual({ a: 'kept', b: 'planned', c: 'kept' });
    expect((await show('b')).slot).toBe('main');
    expect(await refusal(sign('b'))).toBe('none');
    broken = false;
    const { migration, keys } = await go('run-migration', id);
    expect(codes(keys)).toEqual({ b: 'done' });
    expect(migration).toMatchObject({ state: 'finished', failed: 0 });
  });

  it('switches nothing when the target signs wrongly, or holds another key under the id', async () => {
    await generate('wrong');
    await generate('other');
    let lying = true;
    spare.bend = session => {
      const honest = session.signer.bind(session);
      session.signer = async key => {
        const signer = await honest(key);
        if (key !== 'wrong') return signer;
        return {
          key: signer.key,
          sign: async (message, signal) => {
            const signature = await signer.sign(message, signal);
            if (lying) signature[3] = (signature[3] ?? 0) ^ 1;
            return signature;
          },
        };
      };
    };
    await reopen();
    const id = await start();
    await lab.ask('operator', 'lock-slot', { slot: 'spare' });
    {
      using pin = Secret.fromText(pinText);
      await using session = (await spare.slot.open(pin)) as Session & Powers;
      await session.generate?.(keyId('other'));
    }
    await lab.ask('operator', 'open-slot', { slot: 'spare' });
    expect(codes((await go('run-migration', id)).keys)).toEqual({
      wrong: 'MIGRATION_UNPROVEN',
      other: 'KEY_MISMATCH',
    });
    expect(await steps(id)).toEqual({ wrong: 'imported', other: 'planned' });
    expect([(await show('wrong')).slot, (await show('other')).slot]).toEqual(['main', 'main']);
    lying = false;
    expect(codes((await go('run-migration', id)).keys)).toEqual({ wrong: 'done', other: 'KEY_MISMATCH' });
  });

  it('is moved by one call at a time, and moves a key only once at a time', async () => {
    await generate('a');
    const gate = new Gate();
    main.bend = session => {
      const honest = session.export;
      session.export = async key => {
        await gate.pass();
        return (honest as NonNullable<typeof honest>)(key);
      };
    };
    await reopen();
    const id = await start();
    const running = go('run-migration', id);
    await gate.reached;
    for (const verb of ['run-migration', 'rollback-migration'] as const) {
      expect(await refusal(go(verb, id))).toBe('MIGRATION_RUNNING');
    }
    expect(await refusal(start('main', 'third', ['a']))).toBe('MIGRATION_IMPOSSIBLE');
    gate.open();
    expect(codes((await running).keys)).toEqual({ a: 'done' });
    expect((await go('run-migration', id)).keys).toEqual([]);
  });

  it('stops between two keys when nobody waits for it any more', async () => {
    for (const key of ['a', 'b']) await generate(key);
    const id = await start();
    const asked = { migration: id, max: 100 };
    const { output } = await lab.ask('operator', 'run-migration', asked, { signal: AbortSignal.abort() });
    expect([Object.keys(codes(output.keys)), output.next]).toEqual([['a'], 'a']);
    expect(await steps(id)).toEqual({ a: 'kept', b: 'planned' });
  });

  it('is for operators of both slots, and looks to others as if it did not exist', async () => {
    await generate('a');
    const id = await moved();
    const of = (who: 'mainOnly' | 'ungranted' | 'signer') => [
      refusal(lab.ask(who, 'show-migration', { migration: id, limit: 1 })),
      refusal(lab.ask(who, 'run-migration', { migration: id, max: 1 })),
      refusal(lab.ask(who, 'plan-migration', route())),
    ];
    expect(await Promise.all(of('mainOnly'))).toEqual([
      'MIGRATION_UNKNOWN',
      'MIGRATION_UNKNOWN',
      'SLOT_UNKNOWN',
    ]);
    expect(await Promise.all(of('ungranted'))).toEqual([
      'MIGRATION_UNKNOWN',
      'MIGRATION_UNKNOWN',
      'SLOT_UNKNOWN',
    ]);
    expect(await Promise.all(of('signer'))).toEqual(Array(3).fill('PERMISSION_DENIED'));
    expect((await lab.ask('mainOnly', 'list-migrations', {})).output.migrations).toEqual([]);
    expect((await lab.ask('operator', 'list-migrations', {})).output.migrations).toMatchObject([{ id }]);
    expect(await refusal(go('run-migration', 'm-0000000000'))).toBe('MIGRATION_UNKNOWN');
    expect(await refusal(go('run-migration', id, { keys: ['never-made'] }))).toBe('KEY_UNKNOWN');
  });
});

describe('the copy at the source', () => {
  it('is no alarm: the slot that kept it says so and stays open, also after a restart', async () => {
    await generate('a');
    await moved();
    expect(await findings('main')).toEqual([{ key: 'a', problem: 'kept-copy' }]);
    await reopen();
    expect(await findings('main')).toEqual([{ key: 'a', problem: 'kept-copy' }]);
    expect([await lab.state('main'), await lab.state('spare')]).toEqual(['open', 'open']);
    expect(await findings('spare')).toEqual([]);
  });

  it('is destroyed only when it is asked for, after the target has proved the key once more', async () => {
    await generate('a');
    const id = await moved();
    const { keys } = await go('destroy-copies', id);
    expect(keys).toMatchObject([{ key: 'a', step: 'destroyed' }]);
    expect(keys[0]?.proof?.at).toBe(lab.clock.utc().toISOString());
    expect([await keysIn(main), await keysIn(spare)]).toEqual([[], ['a']]);
    expect([await findings('main'), await findings('spare')]).toEqual([[], []]);
    expect(await refusal(sign('a'))).toBe('none');
    expect(await refusal(go('destroy-copies', id))).toBe('MIGRATION_STATE');
    expect(await refusal(go('rollback-migration', id))).toBe('MIGRATION_STATE');
    expect(await refusal(go('rollback-migration', id, { keys: ['a'] }))).toBe('MIGRATION_STATE');
  });

  it('is not destroyed while the target cannot prove the key, nor where the slot has no such power', async () => {
    await generate('a');
    await generate('b');
    const id = await moved();
    await lab.ask('operator', 'lock-slot', { slot: 'spare' });
    expect(codes((await go('destroy-copies', id)).keys)).toEqual({ a: 'SLOT_LOCKED', b: 'SLOT_LOCKED' });
    expect(await keysIn(main)).toEqual(['a', 'b']);
    main.bend = session => delete session.destroy;
    await reopen();
    expect(codes((await go('destroy-copies', id)).keys)).toEqual({ a: 'POWER_MISSING', b: 'POWER_MISSING' });
    expect(await steps(id)).toEqual({ a: 'kept', b: 'kept' });
  });

  it('is not destroyed under a signature that is still being made with it', async () => {
    await generate('a');
    const gate = new Gate();
    main.bend = session => {
      const honest = session.signer.bind(session);
      session.signer = async key => {
        const signer = await honest(key);
        const sign: typeof signer.sign = async (message, signal) => {
          if (Buffer.from(message).toString() === 'slow') await gate.pass();
          return signer.sign(message, signal);
        };
        return { key: signer.key, sign };
      };
    };
    await reopen();
    const slow = sign('a', 'slow');
    await gate.reached;
    const id = await moved();
    const destroying = go('destroy-copies', id);
    expect((await sign('a', 'quick')).output.publicKey).toBe((await show('a')).publicKey);
    gate.open();
    expect((await slow).output.publicKey).toBe((await show('a')).publicKey);
    expect(codes((await destroying).keys)).toEqual({ a: 'done' });
    expect(await keysIn(main)).toEqual([]);
  });
});

describe('verifying', () => {
  it('proves every moved key anew, and tells when the copy at the source has gone', async () => {
    for (const key of ['a', 'b']) await generate(key);
    const id = await start();
    expect(await refusal(go('verify-migration', id))).toBe('MIGRATION_STATE');
    const first = await go('run-migration', id);
    lab.clock.advance(5_000);
    const again = await go('verify-migration', id);
    expect(codes(again.keys)).toEqual({ a: 'done', b: 'done' });
    for (const [at, key] of again.keys.entries()) {
      await expectProof(key, 'spare');
      expect(key.proof?.challenge).not.toBe(first.keys[at]?.proof?.challenge);
      expect(key.times.verified).toBe(lab.clock.utc().toISOString());
    }
    await lab.ask('operator', 'lock-slot', { slot: 'main' });
    {
      using pin = Secret.fromText(pinText);
      await using session = (await main.slot.open(pin)) as Session & Powers;
      await session.destroy?.(keyId('a'));
    }
    await lab.ask('operator', 'open-slot', { slot: 'main' });
    expect(codes((await go('verify-migration', id)).keys)).toEqual({ a: 'KEY_MISSING', b: 'done' });
  });
});

describe('rolling back', () => {
  it('returns a key to the source once its copy has proved itself; the copy at the target goes on request', async () => {
    for (const key of ['a', 'b']) await generate(key);
    const before = await show('a');
    const id = await moved();
    const { keys } = await go('rollback-migration', id, { keys: ['a'] });
    expect(codes(keys)).toEqual({ a: 'done' });
    await expectProof(keys[0] as MigrationKeyView, 'main');
    expect(await show('a')).toEqual(before);
    expect(await steps(id)).toEqual({ a: 'rolled-back', b: 'kept' });
    expect(await findings('spare')).toEqual([{ key: 'a', problem: 'kept-copy' }]);
    expect(await refusal(sign('a'))).toBe('none');
    await reopen();
    expect(await findings('spare')).toEqual([{ key: 'a', problem: 'kept-copy' }]);
    expect(codes((await go('destroy-copies', id, { keys: ['a'] })).keys)).toEqual({ a: 'done' });
    expect(await steps(id)).toEqual({ a: 'cleared', b: 'kept' });
    expect([await keysIn(main), await keysIn(spare)]).toEqual([['a', 'b'], ['b']]);
    await reopen();
    expect([await findings('main'), await findings('spare')]).toEqual([
      [{ key: 'b', problem: 'kept-copy' }],
      [],
    ]);
    expect(await moved('main', 'spare', ['a'])).not.toBe(id); // and it may move again
  });

  it('gives up what was never moved, so that another migration may take the key', async () => {
    await generate('a');
    const id = await start();
    expect(codes((await go('rollback-migration', id)).keys)).toEqual({ a: 'done' });
    expect(await steps(id)).toEqual({ a: 'rolled-back' });
    await moved('main', 'third');
    expect((await show('a')).slot).toBe('third');
    expect((await go('run-migration', id)).keys).toEqual([]);
  });

  it('is refused for a key that has moved on since, and for a copy that does not prove itself', async () => {
    for (const key of ['a', 'b']) await generate(key);
    const id = await moved();
    await moved('spare', 'third', ['a']);
    await lab.ask('operator', 'lock-slot', { slot: 'main' });
    expect(codes((await go('rollback-migration', id)).keys)).toEqual({
      a: 'MIGRATION_STATE',
      b: 'SLOT_LOCKED',
    });
    expect([(await show('a')).slot, (await show('b')).slot]).toEqual(['third', 'spare']);
    expect(codes((await go('verify-migration', id, { keys: ['a'] })).keys)).toEqual({ a: 'MIGRATION_STATE' });
  });
});

describe('under load', () => {
  it('there and back again, no signature fails and every one verifies', async () => {
    const keys = ['a', 'b', 'c', 'd'];
    const verifiers = new Map<string, ReturnType<typeof createVerifier>>();
    for (const key of keys) {
      const { output } = await generate(key);
      verifiers.set(key, createVerifier(Buffer.from(output.publicKeyBase64, 'base64')));
    }
    let going = true;
    let made = 0;
    const lane = async (of: number) => {
      for (let count = 0; going; count += 1) {
        const key = keys[(of + count) % keys.length] ?? 'a';
        const message = `lane ${of} message ${count}`;
        const { bytes } = await sign(key, message);
        expect(await verifiers.get(key)?.verify(text(message), bytes?.[0] ?? new Uint8Array())).toBe(true);
        const batch = [text(`${message} one`), text(`${message} two`)];
        const input = { key, items: ['message' as const, 'message' as const] };
        const { output } = await lab.ask('signer', 'sign-batch', input, { bytes: batch });
        const receipt = { node: 'lab', hash: expect.any(String), proof: expect.any(String) };
        expect(output.results).toMatchObject([
          { kind: 'bytes', receipt },
          { kind: 'bytes', receipt },
        ]);
        made += 3;
      }
    };
    const lanes = Promise.all(Array.from({ length: 8 }, (_, of) => lane(of)));
    const slots = ['main', 'spare', 'third'];
    for (let round = 0; round < 12; round += 1) {
      const id = await moved(slots[round % 3], slots[(round + 1) % 3]);
      if (round % 4 === 3) {
        await go('rollback-migration', id);
        await go('destroy-copies', id);
        await moved(slots[round % 3], slots[(round + 1) % 3]).then(again => go('destroy-copies', again));
      } else {
        await go('destroy-copies', id);
      }
    }
    going = false;
    await lanes;
    expect(made).toBeGreaterThan(100);
    expect((await show('a')).slot).toBe('main');
  });
});

import { setImmediate as nextTurn } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { AuditEntry } from '../../src/audit/record.ts';
import { imports, type Session, type SessionHealth } from '../../src/custody/engine.ts';
import { keyId, type Signature, type SlotId, signature, slotId } from '../../src/custody/ids.ts';
import { createMemoryEngine } from '../../src/engines/memory/index.ts';
import { decodeBase64 } from '../../src/foundation/base64.ts';
import { createVerifier, publicKeyFromSeed } from '../../src/foundation/ed25519.ts';
import { type ErrorCode, KeyslotError } from '../../src/foundation/errors.ts';
import { limits } from '../../src/foundation/limits.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { classifyMessage, isWireTransaction } from '../../src/solana/message-kind.ts';
import { Device, Gate, pinText } from './device.ts';
import { Lab, type LabSettings, refusal, text } from './lab.ts';

let opened = new AsyncDisposableStack();
let devices: Record<string, Device> = {};
let lab: Lab;

afterEach(async () => {
  vi.useRealTimers();
  await opened.disposeAsync();
  opened = new AsyncDisposableStack();
});

const seedOf = (number: number) => new Uint8Array(32).fill(number);
const verifier = createVerifier(publicKeyFromSeed(seedOf(7)));

/** A group of devices that find themselves again, with these weights, and a wallet of which each has a copy. */
async function group(weights: Readonly<Record<string, number>>, options: { copies?: boolean } = {}) {
  const { copies = true } = options;
  devices = {};
  for (const id of Object.keys(weights)) {
    const device = opened.use(await Device.make(id));
    device.recovers = true;
    devices[id] = device;
  }
  const members = Object.entries(weights).map(([id, weight]) => ({ slot: slotId(id), weight }));
  const settings = { groups: [{ id: 'treasury', members }] };
  const slots = Object.values(devices).map(({ slot }) => ({ slot, source: () => pinText }));
  lab = opened.use(await Lab.with(settings, ...slots));
  expect(await lab.custodian.openUnattended()).toEqual([]);
  for (const id of copies ? Object.keys(weights) : ['a']) await take(id);
  for (const device of Object.values(devices)) device.asked.length = 0;
}

const take = (slot: string, seed = seedOf(7), rest: { tags?: string[]; key?: string } = {}) =>
  lab.ask('operator', 'import-key', { key: 'wallet', slot, ...rest }, { bytes: [seed] });

const device = (id: string): Device => {
  const found = devices[id];
  if (!found) throw new TypeError(`There is no device ${id}.`);
  return found;
};

/** Signs a message nobody else signs, and holds the signature against the registered key. */
async function sign(message = fresh(), signal?: AbortSignal): Promise<void> {
  const rest = { bytes: [text(message)], ...(signal ? { signal } : {}) };
  const { bytes } = await lab.ask('signer', 'sign-message', { key: 'wallet' }, rest);
  expect(await verifier.verify(text(message), bytes?.[0] ?? new Uint8Array())).toBe(true);
}
let messages = 0;

function fresh(): string {
  messages += 1;
  return `message ${messages}`;
}

const askedOf = (id: string) => device(id).asked.length;

const treasury = async () => {
  const [view] = (await lab.ask('operator', 'list-groups', {})).output.groups;
  if (!view) throw new TypeError('There is no group.');
  return view;
};
const circuits = async () =>
  Object.fromEntries((await treasury()).members.map(({ slot, circuit }) => [slot, circuit]));

const readiness = async () => {
  const { ready, checks } = (await lab.ask('nobody', 'health', {})).output;
  return [ready, checks.find(({ id }) => id === 'group/treasury')?.state];
};

const enough = async () => {
  const { checks } = (await lab.ask('nobody', 'health', {})).output;
  return checks
    .find(({ id }) => id === 'group/treasury')
    ?.members?.flatMap(({ slot, ok }) => (ok ? [slot] : []));
};

const records = async (operation: string): Promise<(AuditEntry & { seq: number })[]> => {
  const { lines } = (await lab.ask('auditor', 'read-audit', { from: 0, limit: 500 })).output;
  return lines
    .map(line => JSON.parse(line) as AuditEntry & { seq: number })
    .filter(entry => entry.operation === operation);
};

const failure = (code: ErrorCode) => new KeyslotError(code, 'As the test says.');
const said = (state: 'recovering' | 'lost'): SessionHealth => ({
  state,
  error: failure('TOKEN_UNAVAILABLE'),
});
const serving: SessionHealth = { state: 'serving' };
const failing = (code: ErrorCode) => async (): Promise<Signature> => {
  throw failure(code);
};
const wrong = async (): Promise<Signature> => signature(new Uint8Array(64).fill(3));

describe('copies', () => {
  it('come from importing the same seed into another slot of the group, and leave the registry as it is', async () => {
    await group({ a: 1, b: 1 }, { copies: false });
    const challenges: Uint8Array[] = [];
    device('b').onSign = ({ message, honest }) => {
      challenges.push(Uint8Array.from(message));
      return honest();
    };
    const { output } = await take('b');
    expect(output).toMatchObject({ id: 'wallet', slot: 'a' });
    expect(challenges).toHaveLength(1); // it has proved itself, with what is no transaction and no off-chain message
    for (const challenge of challenges) {
      expect(Buffer.from(challenge).toString('latin1')).toMatch(
        /^keyslot group treasury slot b key wallet\n/,
      );
      expect([classifyMessage(challenge).kind, isWireTransaction(challenge)]).toEqual(['bytes', false]);
    }
    expect((await treasury()).members.map(({ keys }) => keys)).toEqual([
      { home: 1, copies: 0, missing: 0, mismatched: 0 },
      { home: 0, copies: 1, missing: 0, mismatched: 0 },
    ]);
    const imported = (await records('import-key')).filter(({ type }) => type === 'result');
    expect(imported.map(({ slot, outcome }) => [slot, outcome])).toEqual([
      ['a', 'ok'],
      ['b', 'ok'],
    ]);
  });

  it.each([
    ['another seed', () => take('b', seedOf(8))],
    ['tags', () => take('b', seedOf(7), { tags: ['hot'] })],
    ['the slot where it is already', () => take('a')],
  ])('are not made with %s: the key exists', async (_what, attempt) => {
    await group({ a: 1, b: 1 }, { copies: false });
    expect(await refusal(attempt())).toBe('KEY_EXISTS');
    expect((await treasury()).members[1]?.keys).toEqual({ home: 0, copies: 0, missing: 1, mismatched: 0 });
  });

  it('are not made a second time, nor of a key of another group', async () => {
    await group({ a: 1, b: 1 });
    expect(await refusal(take('b'))).toBe('KEY_EXISTS');
    const other = opened.use(await Device.make('other'));
    await lab.restart(
      ...[device('a'), device('b'), other].map(({ slot }) => ({ slot, source: () => pinText })),
    );
    await lab.custodian.openUnattended();
    expect(await refusal(take('other'))).toBe('KEY_EXISTS');
  });

  it('that somebody brought into the token are no findings, and prove themselves before they sign', async () => {
    await group({ a: 1, b: 1 }, { copies: false });
    await lab.ask('operator', 'lock-slot', { slot: 'b' });
    await put('b', seedOf(7));
    await lab.ask('operator', 'open-slot', { slot: 'b' });
    expect((await lab.ask('operator', 'show-slot', { slot: 'b' })).output).toMatchObject({
      state: 'open',
      findings: [],
    });
    expect(askedOf('b')).toBe(0);
    await lab.ask('operator', 'lock-slot', { slot: 'a' });
    await sign();
    expect(askedOf('b')).toBe(2); // the challenge, and the signature
    await sign();
    expect(askedOf('b')).toBe(3);
  });

  it('with another public key are a finding, and are never asked to sign', async () => {
    await group({ a: 1, b: 1 }, { copies: false });
    await lab.ask('operator', 'lock-slot', { slot: 'b' });
    await put('b', seedOf(8));
    await lab.ask('operator', 'open-slot', { slot: 'b' });
    const { output } = await lab.ask('operator', 'show-slot', { slot: 'b' });
    expect(output).toMatchObject({ state: 'degraded', findings: [{ key: 'wallet', problem: 'mismatch' }] });
    for (let time = 0; time < 4; time += 1) await sign();
    device('b').say(said('lost'));
    device('b').say(serving); // looks again
    await until(async () => (await lab.state('b')) === 'degraded');
    await lab.ask('operator', 'lock-slot', { slot: 'a' });
    expect(await refusal(sign())).toBe('SLOT_LOCKED');
    expect(askedOf('b')).toBe(0);
    expect((await treasury()).members[1]?.keys).toEqual({ home: 0, copies: 0, missing: 0, mismatched: 1 });
  });

  it('that do not sign as their public key are never used', async () => {
    await group({ a: 1, b: 1 }, { copies: false });
    device('b').onSign = wrong;
    expect(await refusal(take('b'))).toBe('KEY_UNVERIFIED');
    for (let time = 0; time < 4; time += 1) await sign();
    expect(askedOf('b')).toBe(1); // the challenge
    expect(await circuits()).toEqual({ a: 'closed', b: 'open' });
  });

  it('are all removed when the key is destroyed, and none of them while one is out of reach', async () => {
    await memoryGroup();
    const destroy = () => lab.ask('admin', 'destroy-key', { key: 'wallet' });
    const asOperator = () => lab.ask('operator', 'destroy-key', { key: 'wallet' });
    expect(await refusal(destroy())).toBe('PERMISSION_DENIED');
    await lab.ask('operator', 'lock-slot', { slot: 'b' });
    expect(await refusal(asOperator())).toBe('SLOT_LOCKED');
    await sign();
    await lab.ask('operator', 'open-slot', { slot: 'b' });
    expect((await asOperator()).output.state).toBe('destroyed');
    for (const slot of ['a', 'b']) {
      await lab.ask('operator', 'lock-slot', { slot });
      await lab.ask('operator', 'open-slot', { slot });
      expect((await lab.ask('operator', 'show-slot', { slot })).output.findings).toEqual([]);
    }
    expect(await refusal(sign())).toBe('KEY_UNKNOWN');
  });

  it('keep their key from being migrated out of the group', async () => {
    await memoryGroup();
    const plan = async () =>
      (await lab.ask('operator', 'plan-migration', { from: 'a', to: 'c', keys: ['wallet'] })).output.keys.map(
        ({ reason }) => reason?.code,
      );
    expect(await plan()).toEqual(['MIGRATION_IMPOSSIBLE']);
    await lab.ask('operator', 'generate-key', { key: 'single', slot: 'a' });
    const within = await lab.ask('operator', 'plan-migration', { from: 'a', to: 'b', keys: ['single'] });
    expect(within.output.obstacle?.code).toBe('MIGRATION_IMPOSSIBLE');
    const single = await lab.ask('operator', 'plan-migration', { from: 'a', to: 'c', keys: ['single'] });
    expect(single.output.possible).toBe(1);
    await lab.ask('operator', 'lock-slot', { slot: 'b' }); // may have one, for all that is known
    expect(await plan()).toEqual(['MIGRATION_IMPOSSIBLE']);
  });

  /** A token that somebody else has worked on. */
  async function put(id: string, bytes: Uint8Array): Promise<void> {
    await device(id).behind(async session => {
      if (!imports(session)) throw new TypeError('It takes no keys in.');
      using seed = Secret.fromBytes(bytes);
      await session.import(keyId('wallet'), seed);
    });
  }

  async function memoryGroup(): Promise<void> {
    const engines = ['a', 'b', 'c'].map(id => opened.use(createMemoryEngine(slotId(id))));
    const slots = (await Promise.all(engines.map(engine => engine.slots()))).flat();
    const settings = { groups: [{ id: 'treasury', members: ['a', 'b'].map(even) }] };
    lab = opened.use(await Lab.with(settings, ...slots.map(slot => ({ slot, source: () => pinText }))));
    await lab.custodian.openUnattended();
    await take('a');
    await take('b');
  }
});

const even = (slot: string) => ({ slot: slotId(slot) as SlotId, weight: 1 });

describe('a group', () => {
  it('divides its signatures by weight, and says in the log which slot made each', async () => {
    await group({ a: 3, b: 1, standby: 0 });
    for (let time = 0; time < 12; time += 1) await sign();
    expect([askedOf('a'), askedOf('b'), askedOf('standby')]).toEqual([9 + 1, 3, 0]); // `a` has proved itself, too
    const found = await records('sign-message');
    expect(new Set(found.filter(({ type }) => type === 'intent').map(({ slot }) => slot))).toEqual(
      new Set(['a']),
    );
    const signedBy = found.filter(({ type }) => type === 'result').map(({ slot }) => slot);
    expect([signedBy.filter(slot => slot === 'a').length, signedBy.length]).toEqual([9, 12]);
  });

  it('uses one of weight 0 only while no other can sign', async () => {
    await group({ a: 1, standby: 0 });
    device('a').say(said('lost'));
    await sign();
    expect(askedOf('standby')).toBe(1);
    device('a').say(serving);
    await sign();
    await sign();
    expect(askedOf('standby')).toBe(1);
  });

  it.each<ErrorCode>([
    'TOKEN_UNAVAILABLE',
    'TOKEN_ERROR',
    'TOKEN_CAPACITY',
    'SLOT_BUSY',
    'SESSION_CLOSED',
    'PIN_REFUSED',
    'KEY_UNKNOWN',
  ])('signs in another slot when one fails with %s', async code => {
    await group({ a: 1, b: 1 });
    device('a').onSign = failing(code);
    for (let time = 0; time < 3; time += 1) await sign();
    const results = (await records('sign-message')).filter(({ type }) => type === 'result');
    expect(results.map(({ slot, outcome }) => [slot, outcome])).toEqual(Array(3).fill(['b', 'ok']));
  });

  it.each<ErrorCode>(['MESSAGE_TOO_LARGE', 'INTERNAL', 'REQUEST_ABORTED'])(
    'does not ask another slot after %s',
    async code => {
      await group({ a: 1, b: 1 });
      await sign(); // both have
      await sign(); // proved themselves
      const before = askedOf('a') + askedOf('b');
      device('a').onSign = failing(code);
      device('b').onSign = failing(code);
      expect(await refusal(sign())).toBe(code);
      expect(askedOf('a') + askedOf('b')).toBe(before + 1);
      expect(await circuits()).toEqual({ a: 'closed', b: 'closed' });
    },
  );

  it('asks no other slot for a caller who has gone', async () => {
    await group({ a: 1, b: 0 });
    const gate = stuck('a');
    const caller = new AbortController();
    const signing = refusal(sign('x', caller.signal));
    await gate.reached;
    caller.abort();
    expect(await signing).toBe('REQUEST_ABORTED');
    expect(askedOf('b')).toBe(0);
    gate.open();
  });

  it('does not wait for a device that is lost while it signs', async () => {
    await group({ a: 1, b: 1 });
    const gate = stuck('a');
    const signing = sign();
    await gate.reached;
    device('a').say(said('recovering'));
    await signing;
    expect(await circuits()).toEqual({ a: 'open', b: 'closed' });
    gate.open();
    device('a').say(serving);
    expect(await circuits()).toEqual({ a: 'half-open', b: 'closed' });
    await sign();
    await sign();
    expect(await circuits()).toEqual({ a: 'closed', b: 'closed' });
  });

  it('waits as one slot would while every device is looked for, and goes on with the first that is back', async () => {
    await group({ a: 1, b: 1 });
    for (const id of ['a', 'b']) device(id).say(said('recovering'));
    expect((await treasury()).state).toBe('degraded');
    const signing = [sign(), sign(), sign()];
    await turns();
    expect(askedOf('a') + askedOf('b')).toBe(0);
    device('b').say(serving);
    await Promise.all(signing);
    device('b').say(said('recovering'));
    const last = refusal(sign());
    await turns();
    for (const id of ['a', 'b']) device(id).say(said('lost'));
    expect(await last).toBe('TOKEN_UNAVAILABLE');
    expect((await treasury()).state).toBe('down');
  });

  it('asks another slot when one takes too long', async () => {
    await group({ a: 1, b: 0 });
    await sign();
    const gate = stuck('a');
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const signing = sign();
    await gate.reached;
    vi.advanceTimersByTime(limits.groupAttempt_ms);
    vi.useRealTimers();
    await signing;
    expect(askedOf('b')).toBe(1);
    expect(await lab.state('a')).toBe('open');
    gate.open();
  });

  it('leaves a slot alone after three failures in a row, and lets one request find out whether they are over', async () => {
    await group({ a: 1, b: 1 });
    device('a').onSign = failing('TOKEN_ERROR');
    for (let time = 0; time < 6; time += 1) await sign();
    expect(await circuits()).toEqual({ a: 'open', b: 'closed' });
    expect((await treasury()).state).toBe('degraded');
    expect((await treasury()).members[0]?.lastError).toBe('TOKEN_ERROR');
    const before = askedOf('a');
    await sign();
    expect(askedOf('a')).toBe(before);
    lab.clock.advance(1_000);
    expect(await circuits()).toEqual({ a: 'half-open', b: 'closed' });
    await Promise.all([sign(), sign(), sign(), sign()]);
    expect(askedOf('a')).toBe(before + 1);
    lab.clock.advance(1_000); // the second pause is twice as long
    expect(await circuits()).toEqual({ a: 'open', b: 'closed' });
    lab.clock.advance(1_000);
    device('a').onSign = ({ honest }) => honest();
    await sign();
    await sign();
    expect(await circuits()).toEqual({ a: 'closed', b: 'closed' });
    expect((await treasury()).state).toBe('serving');
  });

  it('asks a slot that it would leave alone when there is no other', async () => {
    await group({ a: 1, b: 1 });
    device('a').onSign = failing('TOKEN_ERROR');
    for (let time = 0; time < 6; time += 1) await sign();
    device('b').say(said('lost'));
    expect(await refusal(sign())).toBe('TOKEN_ERROR');
    device('a').onSign = ({ honest }) => honest();
    await sign();
  });

  it('says loudly that a signature was wrong, and keeps the slot out until it proves itself again', async () => {
    await group({ a: 1, b: 1 });
    await sign();
    await sign();
    device('a').onSign = wrong;
    const codes = [await refusal(sign()), await refusal(sign())];
    expect(codes.toSorted()).toEqual(['SIGNATURE_WITHHELD', 'none']);
    expect(await circuits()).toEqual({ a: 'open', b: 'closed' });
    device('b').say(said('lost'));
    expect(await refusal(sign())).toBe('SLOT_FAILED'); // it is not asked even when there is no other
    device('b').say(serving);
    lab.clock.advance(31_000);
    for (let time = 0; time < 3; time += 1) await sign(); // its challenge fails, and no caller is harmed
    expect(await circuits()).toEqual({ a: 'open', b: 'closed' });
    device('a').onSign = ({ honest }) => honest();
    lab.clock.advance(31_000);
    for (let time = 0; time < 3; time += 1) await sign();
    expect(await circuits()).toEqual({ a: 'closed', b: 'closed' });
  });

  it('signs while the home of the key is locked, and answers as the home would when nobody can', async () => {
    await group({ a: 1, b: 1 });
    await lab.ask('operator', 'lock-slot', { slot: 'a' });
    await sign();
    expect(await readiness()).toEqual([true, 'degraded']);
    await lab.ask('operator', 'lock-slot', { slot: 'b' });
    expect(await refusal(sign())).toBe('SLOT_LOCKED');
    expect((await treasury()).state).toBe('down');
    expect((await readiness())[0]).toBe(false);
  });

  it('does not use a slot that is frozen, and nothing of a key whose home is', async () => {
    await group({ a: 1, b: 1 });
    const freeze = (target: string) =>
      lab.ask('operator', 'freeze', { scope: 'slot', target, reason: 'a test' });
    await freeze('b');
    device('b').asked.length = 0;
    for (let time = 0; time < 3; time += 1) await sign();
    expect(askedOf('b')).toBe(0);
    await freeze('a');
    expect(await refusal(sign())).toBe('FROZEN');
  });

  it('is shown to whoever may see one of its slots, with those alone', async () => {
    await group({ main: 1, b: 1, a: 1 }, { copies: false });
    expect((await treasury()).members.map(({ slot }) => slot)).toEqual(['main', 'b', 'a']);
    const { groups } = (await lab.ask('mainOnly', 'list-groups', {})).output;
    expect(groups.map(({ members }) => members.map(({ slot }) => slot))).toEqual([['main']]);
    expect((await lab.ask('ungranted', 'list-groups', {})).output.groups).toEqual([]);
  });

  it('is ready by a slot that holds every key, or else by all that hold every key together', async () => {
    await group({ a: 1, b: 1, c: 1 }, { copies: false });
    expect(await enough()).toEqual(['a']);
    await lab.ask('operator', 'generate-key', { key: 'other', slot: 'b' });
    expect(await enough()).toEqual(['a', 'b', 'c']);
    await take('b');
    expect(await enough()).toEqual(['b']);
    device('b').say(said('lost'));
    expect(await enough()).toEqual([]); // nobody else has `other`
    expect((await readiness())[0]).toBe(false);
  });

  it('does without a device that is away at the start, and not without all of them', async () => {
    await group({ a: 1, b: 1 });
    await lab.restart();
    device('a').onOpen = away;
    expect(await lab.custodian.openUnattended()).toEqual([]);
    expect([await lab.state('a'), await lab.state('b')]).toEqual(['failed', 'open']);
    await sign();
    await lab.restart();
    device('b').onOpen = away;
    expect((await lab.custodian.openUnattended()).map(({ code }) => code)).toEqual([
      'TOKEN_NOT_FOUND',
      'TOKEN_NOT_FOUND',
    ]);
    device('a').onOpen = honest => honest();
    await lab.restart();
    device('b').onOpen = refusing; // a wrong setting is one, whoever else has the right one
    expect((await lab.custodian.openUnattended()).map(({ code }) => code)).toEqual(['PIN_REFUSED']);
  });

  it('of slots in different custodies is refused at the start', async () => {
    const [a, b] = [opened.use(await Device.make('a')), opened.use(await Device.make('b'))];
    const describe = async () => ({ ...(await b.slot.describe()), custody: 'hsm-native' as const });
    const settings: LabSettings = { groups: [{ id: 'treasury', members: ['a', 'b'].map(even) }] };
    const started = Lab.with(settings, { slot: a.slot }, { slot: { ...b.slot, describe } });
    expect(await refusal(started)).toBe('CONFIG_INVALID');
  });
});

const away = async (): Promise<Session> => {
  throw failure('TOKEN_NOT_FOUND');
};
const refusing = async (): Promise<Session> => {
  throw failure('PIN_REFUSED');
};

/** Where a device does not answer. */
function stuck(id: string): Gate {
  const gate = new Gate();
  device(id).onSign = async ({ honest }) => {
    await gate.pass();
    return honest();
  };
  return gate;
}

async function turns(count = 50): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await nextTurn();
}

async function until(look: () => Promise<boolean>): Promise<void> {
  for (let turn = 0; turn < 2_000 && !(await look()); turn += 1) await nextTurn();
  expect(await look()).toBe(true);
}

describe('whatever its slots do', () => {
  const misdeeds: readonly ErrorCode[] = [
    'TOKEN_UNAVAILABLE',
    'TOKEN_ERROR',
    'SLOT_BUSY',
    'KEY_UNKNOWN',
    'INTERNAL',
  ];
  const event = fc.record({
    at: fc.constantFrom('a', 'b', 'c'),
    what: fc.oneof(
      fc.constantFrom(
        'honest' as const,
        'wrong' as const,
        'recovering' as const,
        'lost' as const,
        'serving' as const,
      ),
      fc.constantFrom(...misdeeds),
    ),
    requests: fc.integer({ min: 0, max: 3 }),
    advance_ms: fc.constantFrom(0, 500, 40_000),
  });

  it('each request has one intent and one result, no signature leaves that is wrong, and a foreign key never signs', async () => {
    await group({ a: 2, b: 1, c: 1, foreign: 1 }, { copies: false });
    await lab.ask('operator', 'lock-slot', { slot: 'foreign' });
    await device('foreign').behind(async session => {
      using seed = Secret.fromBytes(seedOf(9));
      if (imports(session)) await session.import(keyId('wallet'), seed);
    });
    await lab.ask('operator', 'open-slot', { slot: 'foreign' });
    for (const id of ['b', 'c']) await take(id);
    let made = 0;
    const property = fc.asyncProperty(fc.array(event, { minLength: 1, maxLength: 8 }), async events => {
      const requests: Promise<string>[] = [];
      for (const { at, what, requests: count, advance_ms } of events) {
        act(at, what);
        lab.clock.advance(advance_ms);
        for (let time = 0; time < count; time += 1) requests.push(refusal(sign()));
        if (count === 3) await turns();
      }
      for (const id of ['a', 'b', 'c']) if (hasToSettle(id)) device(id).say(said('lost'));
      const outcomes = await Promise.all(requests);
      made += outcomes.length;
      for (const outcome of outcomes) expect(expected).toContain(outcome);
      for (const id of ['a', 'b', 'c']) act(id, 'serving');
      for (const id of ['a', 'b', 'c']) act(id, 'honest');
      lab.clock.advance(40_000);
      await sign(); // whatever was, it recovers
      made += 1;
    });
    await fc.assert(property, { numRuns: 30 });
    expect(device('foreign').asked).toEqual([]);
    const found: (AuditEntry & { seq: number })[] = [];
    for (let from: number | undefined = 0; from !== undefined; ) {
      const { lines, next } = (await lab.ask('auditor', 'read-audit', { from, limit: 500 })).output as {
        lines: string[];
        next?: number;
      };
      found.push(...lines.map(line => JSON.parse(line) as AuditEntry & { seq: number }));
      from = next;
    }
    const signing = found.filter(({ operation }) => operation === 'sign-message');
    const intents = signing.filter(({ type }) => type === 'intent').map(({ seq }) => seq);
    const results = signing.filter(({ type }) => type === 'result');
    expect(intents).toHaveLength(made);
    expect(results.map(({ intent }) => intent).toSorted((x, y) => (x ?? 0) - (y ?? 0))).toEqual(intents);
    for (const { outcome, signature: bytes, slot, message } of results) {
      expect(['ok', 'failed']).toContain(outcome);
      expect(bytes === undefined).toBe(outcome === 'failed');
      expect(['a', 'b', 'c']).toContain(slot);
      expect(message).toMatch(/^[0-9a-f]{64}$/);
      if (bytes) expect(decodeBase64(bytes)).toHaveLength(64);
    }
  });

  const expected = [
    'none',
    'SIGNATURE_WITHHELD',
    'SLOT_FAILED',
    'KEY_MISSING',
    'KEY_UNVERIFIED',
    ...misdeeds,
  ];
  const states = new Map<string, string>();
  const hasToSettle = (id: string) => states.get(id) === 'recovering';

  function act(id: string, what: 'honest' | 'wrong' | SessionHealth['state'] | ErrorCode): void {
    switch (what) {
      case 'honest':
        device(id).onSign = ({ honest }) => honest();
        break;
      case 'wrong':
        device(id).onSign = wrong;
        break;
      case 'serving':
        states.set(id, what);
        device(id).say(serving);
        break;
      case 'recovering':
      case 'lost':
        states.set(id, what);
        device(id).say(said(what));
        break;
      default:
        device(id).onSign = failing(what as ErrorCode);
    }
  }
});

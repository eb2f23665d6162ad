import { createPublicKey, type KeyObject, randomBytes, verify } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type CustodyLabel,
  destroys,
  type Engine,
  type EngineName,
  exports as exportsKeys,
  generates,
  imports,
  type KeyInfo,
  type Session,
  type Signer,
  type Slot,
} from '../../src/custody/engine.ts';
import { type KeyId, keyId, type Signature, type SlotId } from '../../src/custody/ids.ts';
import { privateKeyFromSeed, publicKeyFromSeed, signMessage } from '../../src/foundation/ed25519.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { Secret } from '../../src/foundation/secret.ts';
import rfc8032 from '../vectors/rfc8032.json' with { type: 'json' };

/** What an engine's author declares, and how the exam gets hold of the engine. */
export interface EngineLab {
  readonly engineName: EngineName;
  readonly custody: CustodyLabel;
  /** What its sessions must be able to do, and what they must not. */
  readonly powers: {
    readonly generate: boolean;
    readonly import: boolean;
    readonly export: boolean;
    readonly destroy: boolean;
  };
  /** Whether keys outlive the engine. */
  readonly persistent: boolean;
  /** The largest message that it signs, when that is not the 16,000 bytes of the contract. */
  readonly message_bytes_max?: number;
  /** A fresh, empty slot. Called once for an exam. */
  start(): Promise<EngineUnderTest>;
}

/** The exam keeps one engine alive at a time, and one session of its slot: a PKCS#11 module allows no more. */
export interface EngineUnderTest extends AsyncDisposable {
  readonly engine: Engine;
  readonly slot: SlotId;
  /** A fresh copy, which the exam disposes. Empty where the slot has no PIN. */
  pin(): Secret;
  /** Absent where the slot has no PIN. */
  readonly wrongPin?: () => Secret;
  /** Disposes the engine and starts another over the same durable state, if it has one. */
  restart(): Promise<EngineUnderTest>;
}

/** The contract of `src/custody/engine.ts` as an exam, which every engine passes. */
export function describeEngine(name: string, lab: EngineLab): void {
  describe(`the engine ${name}`, () => {
    const exam = new Exam(lab);
    beforeAll(() => exam.start());
    afterAll(() => exam.stop());

    describe('and its slot', () => examineSlot(exam));
    describe('and its keys', () => examineKeys(exam));
    describe('and hostile key ids', () => examineHostileIds(exam));
    describe('and signing', () => examineSigning(exam));
    describe('and aborts', () => examineAborts(exam));
    if (lab.powers.import) describe('and imports', () => examineImports(exam));
    describe('and exports', () => examineExports(exam));
    if (lab.powers.destroy) describe('and destroying', () => examineDestroying(exam));
    describe('and the end of a session', () => examineSessionEnd(exam));
    describe('and a restart', () => examineRestart(exam));
  });
}

function examineSlot(exam: Exam): void {
  const { lab } = exam;

  it('has the declared name and lists its slot, each time', async () => {
    expect(exam.engine.name).toBe(lab.engineName);
    for (const _ of [1, 2]) {
      expect((await exam.engine.slots()).map(slot => slot.id)).toContain(exam.under.slot);
    }
  });

  it('describes itself without a PIN, and never shows one', async () => {
    const description = await (await exam.slot()).describe();
    expect(description).toMatchObject({
      id: exam.under.slot,
      engine: lab.engineName,
      custody: lab.custody,
    });
    expect(description.summary).not.toBe('');
    for (const value of Object.values(description.details)) {
      expect(['string', 'number', 'boolean']).toContain(typeof value);
    }
    using pin = exam.under.pin();
    const shows = (text: string) => text !== '' && JSON.stringify(description).includes(text);
    expect(pin.useText(shows)).toBe(false);
  });

  it('opens into a session with exactly the declared powers', async () => {
    await using session = await exam.open();
    expect(session.slot).toBe(exam.under.slot);
    expect({
      generate: generates(session),
      import: imports(session),
      export: exportsKeys(session),
      destroy: destroys(session),
    }).toEqual(lab.powers);
  });

  it('leaves the PIN with the caller, who may wipe it while the session lives', async () => {
    const pin = exam.under.pin();
    await using session = await (await exam.slot()).open(pin);
    expect(pin.length > 0).toBe(exam.under.wrongPin !== undefined);
    pin[Symbol.dispose]();
    await expectWorks(await session.signer((await exam.make(session, 'wiped-pin')).id));
  });

  it('opens once at a time: a second opening is refused and does the first no harm', async () => {
    const attempts = await Promise.allSettled([exam.open(), exam.open()]);
    expect(refusals(attempts)).toEqual(['SLOT_OPEN']);
    const [session] = attempts.filter(attempt => attempt.status === 'fulfilled').map(({ value }) => value);
    if (session === undefined) throw new Error('The slot did not open.');
    expect(await refusal(exam.open())).toBe('SLOT_OPEN');
    await expectWorks(await session.signer((await exam.make(session, 'only')).id));
    await session[Symbol.asyncDispose]();
    await (await exam.open())[Symbol.asyncDispose]();
  });

  it('refuses a wrong PIN, or opens with an empty one when it has none', async () => {
    await (await exam.open())[Symbol.asyncDispose](); // some custody learns its PIN at the first opening
    if (exam.under.wrongPin === undefined) {
      using empty = Secret.fromText('');
      await using opened = await (await exam.slot()).open(empty);
      await expectWorks(await opened.signer((await exam.make(opened, 'no-pin')).id));
      return;
    }
    using wrong = exam.under.wrongPin();
    const slot = await exam.slot();
    expect(await refusal(slot.open(wrong))).toBe('PIN_REFUSED');
    await using session = await exam.open();
    await expectWorks(await session.signer((await exam.make(session, 'right-pin')).id));
  });
}

function examineKeys(exam: Exam): void {
  const { lab } = exam;
  const session = sharedSession(exam);

  it('makes a key whose signatures verify with the public key that it tells', async () => {
    const info = await exam.make(session(), 'first');
    expect(info).toMatchObject({ custody: lab.custody, exportable: lab.powers.export });
    expect(info.publicKey).toHaveLength(32);
    const signer = await session().signer(info.id);
    const message = Buffer.from('a message');
    expect(verifies(info, message, await signer.sign(message))).toBe(true);
  });

  it('makes every key a different one', async () => {
    const made = [await exam.make(session(), 'one'), await exam.make(session(), 'another')];
    expect(new Set(made.map(info => hex(info.publicKey))).size).toBe(2);
  });

  it('tells the same of a key when it is made, listed and looked up', async () => {
    const made = await exam.make(session(), 'same');
    const listed = (await listKeys(session())).filter(info => info.id === made.id);
    expect(listed.map(comparable)).toEqual([comparable(made)]);
    expect(comparable((await session().signer(made.id)).key)).toEqual(comparable(made));
  });

  it('lists every key once', async () => {
    const before = (await listKeys(session())).map(info => info.id);
    const made = await exam.makeSeveral(session(), 'listed', 5);
    const after = (await listKeys(session())).map(info => info.id);
    expect(after.toSorted()).toEqual([...before, ...made.map(info => info.id)].toSorted());
  });

  it('knows no key that was never made', async () => {
    expect(await refusal(session().signer(exam.fresh('never-made')))).toBe('KEY_UNKNOWN');
  });

  if (lab.powers.generate)
    it('refuses to generate a key twice, and the first still signs', async () => {
      const holder = having(session(), generates);
      const first = await exam.make(holder, 'twice');
      const signer = await holder.signer(first.id);
      expect(await refusal(holder.generate(first.id))).toBe('KEY_EXISTS');
      await expectWorks(signer, first);
      await expectWorks(await holder.signer(first.id), first);
    });

  if (lab.powers.generate)
    it('lets exactly one of eight concurrent generations of an id win', async () => {
      const holder = having(session(), generates);
      const id = exam.fresh('contended');
      const attempts = await Promise.allSettled(Array.from({ length: 8 }, () => holder.generate(id)));
      const winners = attempts.filter(attempt => attempt.status === 'fulfilled').map(({ value }) => value);
      expect(winners).toHaveLength(1);
      expect(refusals(attempts)).toEqual(Array(7).fill('KEY_EXISTS'));
      const [winner] = winners;
      const listed = (await listKeys(holder)).filter(info => info.id === id);
      expect(listed.map(comparable)).toEqual(winners.map(comparable));
      await expectWorks(await holder.signer(id), winner);
    });
}

// Paths, device names, look-alikes and control characters: an id becomes a file name or a token label.
const hostileIds = [
  '../x',
  '..',
  '',
  'A',
  'a'.repeat(64),
  'a/b',
  'a\\b',
  'a\0b',
  'a\0',
  'ключ',
  'ａ', // full-width a
  'a\u0301',
  '.hidden',
  '-a',
  'CON',
  'a\n',
  '\na',
  'a b',
  'a%2fb',
  '%',
  '*',
  'a?',
  '__proto__',
];

function examineHostileIds(exam: Exam): void {
  const session = sharedSession(exam);

  it.each(hostileIds.map(text => [JSON.stringify(text), text] as const))(
    'keeps out %s, at the parser and behind it',
    async (_, text) => {
      expect(await refusal(async () => keyId(text))).toBe('KEY_ID_INVALID');
      expect(await refusal(session().signer(text as KeyId))).toMatch(/^(KEY_ID_INVALID|KEY_UNKNOWN)$/);
    },
  );

  it.each(['constructor', 'tostring', 'con', 'nul', '0', 'a-', 'a'.repeat(63)])(
    'finds nothing under %s, which is a valid id that nobody made',
    async text => {
      expect(await refusal(session().signer(keyId(text)))).toBe('KEY_UNKNOWN');
    },
  );

  it('never takes an id for another that begins or ends like it', async () => {
    const made = await exam.make(session(), 'whole-name');
    for (const near of [made.id.slice(0, -1), made.id.slice(1), 'whole-name', 'whole', `${made.id}0`]) {
      expect(await refusal(session().signer(keyId(near)))).toBe('KEY_UNKNOWN');
    }
  });

  it('tells ids of 63 characters apart by their last one', async () => {
    const stem = exam.fresh('long').padEnd(62, '-');
    const made = [
      await exam.makeAs(session(), keyId(`${stem}0`)),
      await exam.makeAs(session(), keyId(`${stem}1`)),
    ];
    for (const info of made) await expectWorks(await session().signer(info.id), info);
    expect(await refusal(session().signer(keyId(`${stem}2`)))).toBe('KEY_UNKNOWN');
    expect(await refusal(session().signer(keyId(stem)))).toBe('KEY_UNKNOWN');
  });
}

function examineSigning(exam: Exam): void {
  const session = sharedSession(exam);
  let signer: Signer;
  beforeAll(async () => {
    signer = await session().signer((await exam.make(session(), 'signing')).id);
  });

  it('gives the same signature for the same message', async () => {
    const message = randomBytes(100);
    expect(hex(await signer.sign(message))).toBe(hex(await signer.sign(message)));
  });

  it('refuses an empty message, and signs the next', async () => {
    expect(await refusal(signer.sign(new Uint8Array()))).toBe('MESSAGE_EMPTY');
    await expectWorks(signer);
  });

  const message_bytes_max = exam.lab.message_bytes_max ?? 16_000;
  it(`signs ${message_bytes_max.toLocaleString('en')} bytes and refuses one more`, async () => {
    const message = randomBytes(message_bytes_max + 1);
    expect(await refusal(signer.sign(message))).toBe('MESSAGE_TOO_LARGE');
    const largest = message.subarray(0, message_bytes_max);
    expect(verifies(signer.key, largest, await signer.sign(largest))).toBe(true);
  });

  it('signs messages of any content from 1 to 1,300 bytes', async () => {
    const messages = fc.uint8Array({ minLength: 1, maxLength: 1_300, size: 'max' });
    await fc.assert(
      fc.asyncProperty(messages, async message => {
        const signed = await signer.sign(message);
        expect(signed).toHaveLength(64);
        expect(verifies(signer.key, message, signed)).toBe(true);
      }),
      { numRuns: 200 },
    );
  });

  it('signs the part of a buffer that it is shown, and nothing around it', async () => {
    const whole = randomBytes(300);
    const part = new Uint8Array(whole.buffer, whole.byteOffset + 100, 100);
    expect(verifies(signer.key, whole.subarray(100, 200), await signer.sign(part))).toBe(true);
  });

  it.each([
    ['a Buffer', (bytes: Buffer) => Buffer.from(bytes)],
    ['a Uint8Array', (bytes: Buffer) => Uint8Array.from(bytes)],
  ])('signs what %s held when sign() was called, whatever is written into it afterwards', async (_, make) => {
    const originals = Array.from({ length: 64 }, () => randomBytes(700));
    const signing = originals.map(original => {
      const lent = make(original);
      const signed = signer.sign(lent);
      lent.fill(0xff);
      return signed;
    });
    const signatures = await Promise.all(signing);
    originals.forEach((original, at) => {
      expect(verifies(signer.key, original, signatures[at])).toBe(true);
    });
  });

  it('makes 10,000 signatures for 64 concurrent signers and never mixes two up', async () => {
    const made = await exam.makeSeveral(session(), 'many', 8);
    const signers = await Promise.all(
      Array.from({ length: 64 }, (_, at) => session().signer(made[at % made.length]?.id ?? signer.key.id)),
    );
    const done: { key: KeyInfo; message: Buffer; signed: Signature }[] = [];
    let next = 0;
    await Promise.all(
      signers.map(async own => {
        while (next < 10_000) {
          const message = Buffer.from(`message ${next++} for ${own.key.id}`);
          done.push({ key: own.key, message, signed: await own.sign(message) });
        }
      }),
    );
    expect(done).toHaveLength(10_000);
    expect(new Set(done.map(({ message }) => message.toString())).size).toBe(10_000);
    expect(new Set(done.map(({ signed }) => hex(signed))).size).toBe(10_000);
    const publicKeys = new Map(made.map(info => [info.id, publicKeyOf(info)]));
    const wrong = done.filter(({ key, message, signed }) => {
      const publicKey = publicKeys.get(key.id);
      return publicKey === undefined || !verify(null, message, publicKey, signed);
    });
    expect(wrong).toEqual([]);
  }, 240_000); // some engines send each of them over a socket
}

function examineAborts(exam: Exam): void {
  const session = sharedSession(exam);
  let signer: Signer;
  beforeAll(async () => {
    signer = await session().signer((await exam.make(session(), 'aborts')).id);
  });

  it('does not sign for a signal that is aborted already, and signs the next', async () => {
    expect(await refusal(signer.sign(randomBytes(10), AbortSignal.abort()))).toBe('REQUEST_ABORTED');
    await expectWorks(signer);
  });

  it('signs for a signal that is never aborted, or only afterwards', async () => {
    const controller = new AbortController();
    const message = randomBytes(10);
    const signed = await signer.sign(message, controller.signal);
    controller.abort();
    expect(verifies(signer.key, message, signed)).toBe(true);
  });

  it('drops the aborted ones of 500 waiting signs, and finishes the others', async () => {
    const controller = new AbortController();
    // The first hundred carry no signal: an engine may finish that many together with the very first.
    const abortable = (at: number) => at >= 100 && at % 2 === 1;
    const messages = Array.from({ length: 500 }, () => randomBytes(200));
    const signing = messages.map((message, at) =>
      signer.sign(message, abortable(at) ? controller.signal : undefined),
    );
    const settling = Promise.allSettled(signing);
    await Promise.race(signing);
    controller.abort();
    const settled = await settling;
    const aborted = settled.filter((_, at) => abortable(at));
    expect(refusals(aborted)).toEqual(Array(200).fill('REQUEST_ABORTED'));
    settled.forEach((outcome, at) => {
      if (abortable(at)) return;
      expect(outcome.status).toBe('fulfilled');
      const signed = outcome.status === 'fulfilled' ? outcome.value : undefined;
      expect(verifies(signer.key, messages[at], signed)).toBe(true);
    });
    await expectWorks(signer);
  });
}

function examineImports(exam: Exam): void {
  const session = sharedSession(exam);
  const holder = () => having(session(), imports);
  const importVector = async (vector: (typeof rfc8032.vectors)[number]) => {
    using seed = Secret.fromBytes(bytesOf(vector.seed));
    return holder().import(exam.fresh('rfc8032'), seed);
  };

  it.each(rfc8032.vectors.filter(vector => vector.message !== ''))(
    'agrees with RFC 8032 §7.1 $name to the bit',
    async vector => {
      const info = await importVector(vector);
      expect(hex(info.publicKey)).toBe(vector.publicKey);
      expect(info).toMatchObject({ custody: exam.lab.custody, exportable: exam.lab.powers.export });
      const signer = await holder().signer(info.id);
      expect(hex(await signer.sign(bytesOf(vector.message)))).toBe(vector.signature);
    },
  );

  it.each(rfc8032.vectors.filter(vector => vector.message === ''))(
    'takes the key of RFC 8032 §7.1 $name, refuses its empty message, and keeps working',
    async vector => {
      const info = await importVector(vector);
      expect(hex(info.publicKey)).toBe(vector.publicKey);
      const signer = await holder().signer(info.id);
      expect(await refusal(signer.sign(bytesOf(vector.message)))).toBe('MESSAGE_EMPTY');
      await expectWorks(signer, info);
    },
  );

  it('leaves the seed with the caller, who may wipe it', async () => {
    const bytes = randomBytes(32);
    const seed = Secret.fromBytes(bytes);
    const info = await holder().import(exam.fresh('own-seed'), seed);
    expect(seed.use(hex)).toBe(hex(bytes));
    seed[Symbol.dispose]();
    expect(hex(info.publicKey)).toBe(hex(publicKeyFromSeed(bytes)));
    await expectWorks(await holder().signer(info.id), info);
    const held = session();
    if (!exportsKeys(held)) return;
    using exported = await held.export(info.id);
    expect(exported.use(hex)).toBe(hex(bytes));
  });

  it('tells the same of an imported key when it is listed and looked up', async () => {
    using seed = Secret.fromBytes(randomBytes(32));
    const made = await holder().import(exam.fresh('told'), seed);
    const listed = (await listKeys(session())).filter(info => info.id === made.id);
    expect(listed.map(comparable)).toEqual([comparable(made)]);
    expect(comparable((await session().signer(made.id)).key)).toEqual(comparable(made));
  });

  it('refuses to import over a key, and the first still signs', async () => {
    const first = await exam.make(session(), 'taken');
    using seed = Secret.fromBytes(randomBytes(32));
    expect(await refusal(holder().import(first.id, seed))).toBe('KEY_EXISTS');
    await expectWorks(await session().signer(first.id), first);
  });

  it('lets exactly one of eight concurrent imports of an id win', async () => {
    const id = exam.fresh('contended-import');
    const attempts = await Promise.allSettled(
      Array.from({ length: 8 }, async () => {
        using seed = Secret.fromBytes(randomBytes(32));
        return await holder().import(id, seed);
      }),
    );
    const winners = attempts.filter(attempt => attempt.status === 'fulfilled').map(({ value }) => value);
    expect(winners).toHaveLength(1);
    expect(refusals(attempts)).toEqual(Array(7).fill('KEY_EXISTS'));
    const [winner] = winners;
    await expectWorks(await session().signer(id), winner);
  });

  it.each([0, 31, 33, 64])('refuses a seed of %i bytes, and the id stays free', async length => {
    const id = exam.fresh('odd-seed');
    using odd = Secret.fromBytes(randomBytes(length));
    expect(await refusal(holder().import(id, odd))).toBe('KEY_MATERIAL_INVALID');
    expect(await refusal(session().signer(id))).toBe('KEY_UNKNOWN');
    using seed = Secret.fromBytes(randomBytes(32));
    const info = await holder().import(id, seed);
    await expectWorks(await session().signer(id), info);
  });
}

function examineExports(exam: Exam): void {
  const session = sharedSession(exam);

  if (exam.lab.powers.export)
    it('gives out the seed that makes the same key', async () => {
      const holder = having(session(), exportsKeys);
      const info = await exam.make(holder, 'given-out');
      const signer = await holder.signer(info.id);
      const message = randomBytes(50);
      using seed = await holder.export(info.id);
      expect(seed.length).toBe(32);
      expect(hex(seed.use(publicKeyFromSeed))).toBe(hex(info.publicKey));
      const elsewhere = await signMessage(seed.use(privateKeyFromSeed), message);
      expect(hex(await signer.sign(message))).toBe(hex(elsewhere));
    });

  if (exam.lab.powers.export)
    it('gives out a seed that the caller may wipe', async () => {
      const holder = having(session(), exportsKeys);
      const info = await exam.make(holder, 'wiped-export');
      (await holder.export(info.id))[Symbol.dispose]();
      using again = await holder.export(info.id);
      expect(hex(again.use(publicKeyFromSeed))).toBe(hex(info.publicKey));
      await expectWorks(await holder.signer(info.id), info);
    });

  if (exam.lab.powers.export)
    it('exports no key that was never made', async () => {
      const holder = having(session(), exportsKeys);
      expect(await refusal(holder.export(exam.fresh('never-made')))).toBe('KEY_UNKNOWN');
    });

  if (!exam.lab.powers.export)
    it('says of a key that it cannot leave', async () => {
      const info = await exam.make(session(), 'kept');
      expect(exportsKeys(session())).toBe(false);
      expect(info.exportable).toBe(false);
      expect((await listKeys(session())).filter(key => key.exportable)).toEqual([]);
    });
}

function examineDestroying(exam: Exam): void {
  const session = sharedSession(exam);
  const holder = () => having(session(), destroys);

  it('removes one key and leaves the others', async () => {
    const [kept, gone] = [await exam.make(session(), 'kept'), await exam.make(session(), 'gone')];
    await holder().destroy(gone.id);
    expect(await refusal(session().signer(gone.id))).toBe('KEY_UNKNOWN');
    const listed = (await listKeys(session())).map(info => info.id);
    expect(listed).toContain(kept.id);
    expect(listed).not.toContain(gone.id);
    await expectWorks(await session().signer(kept.id), kept);
  });

  it('ends the signers of a destroyed key, even when its id is used anew', async () => {
    const gone = await exam.make(session(), 'reborn');
    const signer = await session().signer(gone.id);
    await expectWorks(signer, gone);
    await holder().destroy(gone.id);
    expect(await refusal(signer.sign(randomBytes(10)))).toBe('KEY_UNKNOWN');
    const reborn = await exam.makeAs(session(), gone.id);
    expect(hex(reborn.publicKey)).not.toBe(hex(gone.publicKey));
    await expectWorks(await session().signer(reborn.id), reborn);
    expect(await refusal(signer.sign(randomBytes(10)))).toBe('KEY_UNKNOWN');
  });

  it('destroys no key that was never made, and none twice', async () => {
    expect(await refusal(holder().destroy(exam.fresh('never-made')))).toBe('KEY_UNKNOWN');
    const info = await exam.make(session(), 'once');
    await holder().destroy(info.id);
    expect(await refusal(holder().destroy(info.id))).toBe('KEY_UNKNOWN');
    const held = session();
    if (exportsKeys(held)) expect(await refusal(held.export(info.id))).toBe('KEY_UNKNOWN');
  });
}

function examineSessionEnd(exam: Exam): void {
  it('closes every call on it and on its signers', async () => {
    const session = await exam.open();
    const info = await exam.make(session, 'closed');
    const signer = await session.signer(info.id);
    await session[Symbol.asyncDispose]();
    expect(await refusal(signer.sign(randomBytes(10)))).toBe('SESSION_CLOSED');
    expect(await refusal(session.signer(info.id))).toBe('SESSION_CLOSED');
    expect(await refusal(() => listKeys(session))).toBe('SESSION_CLOSED');
    const id = exam.fresh('too-late');
    if (generates(session)) expect(await refusal(session.generate(id))).toBe('SESSION_CLOSED');
    if (exportsKeys(session)) expect(await refusal(session.export(info.id))).toBe('SESSION_CLOSED');
    if (destroys(session)) expect(await refusal(session.destroy(info.id))).toBe('SESSION_CLOSED');
    using seed = Secret.fromBytes(randomBytes(32));
    if (imports(session)) expect(await refusal(session.import(id, seed))).toBe('SESSION_CLOSED');
  });

  it('may come twice, and does not touch the session that follows', async () => {
    const session = await exam.open();
    await Promise.all([session[Symbol.asyncDispose](), session[Symbol.asyncDispose]()]);
    await using next = await exam.open();
    await session[Symbol.asyncDispose]();
    expect(await refusal(exam.open())).toBe('SLOT_OPEN');
    await expectWorks(await next.signer((await exam.make(next, 'next')).id));
  });

  it('settles the 32 signs that are in flight before it ends', async () => {
    const session = await exam.open();
    const info = await exam.make(session, 'in-flight');
    const signer = await session.signer(info.id);
    const messages = Array.from({ length: 32 }, () => randomBytes(500));
    let settled = 0;
    const signing = messages.map(message => signer.sign(message).finally(() => (settled += 1)));
    const settling = Promise.allSettled(signing);
    await session[Symbol.asyncDispose]();
    await nextTurn();
    expect(settled).toBe(32);
    (await settling).forEach((outcome, at) => {
      if (outcome.status === 'fulfilled') {
        expect(verifies(info, messages[at], outcome.value)).toBe(true);
      } else expect(codeOf(outcome.reason)).toBe('SESSION_CLOSED');
    });
  });

  it('keeps the keys: the next session finds them, and they sign as before', async () => {
    const message = randomBytes(50);
    const before = await exam.open();
    const info = await exam.make(before, 'kept');
    const old = await before.signer(info.id);
    const signed = await old.sign(message);
    await before[Symbol.asyncDispose]();

    await using session = await exam.open();
    const signer = await session.signer(info.id);
    expect(comparable(signer.key)).toEqual(comparable(info));
    expect((await listKeys(session)).map(key => key.id)).toContain(info.id);
    expect(hex(await signer.sign(message))).toBe(hex(signed));
    expect(await refusal(old.sign(message))).toBe('SESSION_CLOSED');
  });
}

function examineRestart(exam: Exam): void {
  const makeAndRestart = async (stem: string) => {
    const message = randomBytes(50);
    const session = await exam.open();
    const info = await exam.make(session, stem);
    const signed = await (await session.signer(info.id)).sign(message);
    await session[Symbol.asyncDispose]();
    await exam.restart();
    return { info, message, signed };
  };

  if (exam.lab.persistent)
    it('finds the keys again, and they sign as before', async () => {
      const { info, message, signed } = await makeAndRestart('durable');
      await using session = await exam.open();
      const signer = await session.signer(info.id);
      expect(comparable(signer.key)).toEqual(comparable(info));
      expect((await listKeys(session)).map(comparable)).toContainEqual(comparable(info));
      expect(hex(await signer.sign(message))).toBe(hex(signed));
      if (generates(session)) expect(await refusal(session.generate(info.id))).toBe('KEY_EXISTS');
    });

  if (!exam.lab.persistent)
    it('forgets the keys', async () => {
      const { info } = await makeAndRestart('forgotten');
      await using session = await exam.open();
      expect(await listKeys(session)).toEqual([]);
      expect(await refusal(session.signer(info.id))).toBe('KEY_UNKNOWN');
      const anew = await exam.makeAs(session, info.id);
      expect(hex(anew.publicKey)).not.toBe(hex(info.publicKey));
    });

  it('ends the session that was open', async () => {
    const session = await exam.open();
    const signer = await session.signer((await exam.make(session, 'cut-off')).id);
    await exam.restart();
    expect(await refusal(signer.sign(randomBytes(10)))).toBe('SESSION_CLOSED');
    await session[Symbol.asyncDispose]();
    await using next = await exam.open();
    await expectWorks(await next.signer((await exam.make(next, 'carried-on')).id));
  });
}

/** The engine under test and what the exam needs of it again and again. */
class Exam {
  readonly lab: EngineLab;
  readonly #run = hex(randomBytes(4)); // so that a token which was not wiped since the last exam does no harm
  #under: EngineUnderTest | undefined;
  #count = 0;

  constructor(lab: EngineLab) {
    if (!lab.powers.generate && !lab.powers.import) {
      throw new Error('An engine that neither generates nor imports cannot be examined: it has no keys.');
    }
    this.lab = lab;
  }

  async start(): Promise<void> {
    this.#under = await this.lab.start();
  }

  async restart(): Promise<void> {
    this.#under = await this.under.restart();
  }

  async stop(): Promise<void> {
    await this.#under?.[Symbol.asyncDispose]();
  }

  get under(): EngineUnderTest {
    if (this.#under === undefined) throw new Error('The engine did not start.');
    return this.#under;
  }

  get engine(): Engine {
    return this.under.engine;
  }

  async slot(): Promise<Slot> {
    const slot = (await this.engine.slots()).find(({ id }) => id === this.under.slot);
    if (slot === undefined) throw new Error(`The engine has no slot ${this.under.slot}.`);
    return slot;
  }

  async open(): Promise<Session> {
    using pin = this.under.pin();
    return await (await this.slot()).open(pin);
  }

  /** An id that no other item of the exam uses. */
  fresh(stem: string): KeyId {
    this.#count += 1;
    return keyId(`${stem}-${this.#run}-${this.#count}`);
  }

  make(session: Session, stem: string): Promise<KeyInfo> {
    return this.makeAs(session, this.fresh(stem));
  }

  makeSeveral(session: Session, stem: string, count: number): Promise<KeyInfo[]> {
    return Promise.all(Array.from({ length: count }, () => this.make(session, stem)));
  }

  /** Generates where the engine can, else imports a random seed. */
  async makeAs(session: Session, id: KeyId): Promise<KeyInfo> {
    if (generates(session)) return session.generate(id);
    using seed = Secret.fromBytes(randomBytes(32), { wipe: true });
    return await having(session, imports).import(id, seed);
  }
}

/** One session for all items of a group. */
function sharedSession(exam: Exam): () => Session {
  let session: Session | undefined;
  beforeAll(async () => {
    session = await exam.open();
  });
  afterAll(async () => {
    await session?.[Symbol.asyncDispose]();
  });
  return () => {
    if (session === undefined) throw new Error('The slot did not open.');
    return session;
  };
}

function having<Power>(
  session: Session,
  guard: (session: Session) => session is Session & Power,
): Session & Power {
  if (!guard(session)) throw new Error('The session lacks a power that its lab declares.');
  return session;
}

async function expectWorks(signer: Signer, expected: KeyInfo = signer.key): Promise<void> {
  const message = randomBytes(64);
  expect(verifies(expected, message, await signer.sign(message))).toBe(true);
}

async function listKeys(session: Session): Promise<KeyInfo[]> {
  const listed: KeyInfo[] = [];
  for await (const info of session.keys()) listed.push(info);
  return listed;
}

/** The code that a call is refused with. An engine may refuse by throwing at once, or later. */
async function refusal(work: Promise<unknown> | (() => Promise<unknown>)): Promise<string> {
  try {
    await (typeof work === 'function' ? work() : work);
  } catch (error) {
    return codeOf(error);
  }
  return 'not refused';
}

const refusals = (outcomes: readonly PromiseSettledResult<unknown>[]): string[] =>
  outcomes.filter(outcome => outcome.status === 'rejected').map(({ reason }) => codeOf(reason));

function codeOf(error: unknown): string {
  if (!isKeyslotError(error)) throw error; // an error without a code is a broken engine: show it whole
  return error.code;
}

function verifies(key: KeyInfo, message: Uint8Array | undefined, signed: Signature | undefined): boolean {
  if (message === undefined || signed === undefined) return false;
  return verify(null, message, publicKeyOf(key), signed);
}

// Through JWK, so that the exam does not lean on the DER of foundation/ed25519.ts.
const publicKeyOf = (key: KeyInfo): KeyObject =>
  createPublicKey({
    format: 'jwk',
    key: { kty: 'OKP', crv: 'Ed25519', x: Buffer.from(key.publicKey).toString('base64url') },
  });

/** A Buffer and a Uint8Array of the same bytes are one public key. */
const comparable = (info: KeyInfo) => ({ ...info, publicKey: hex(info.publicKey) });

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

const bytesOf = (text: string): Buffer => Buffer.from(text, 'hex');

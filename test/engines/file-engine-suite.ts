import { randomBytes } from 'node:crypto';
import { chmodSync, renameSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Engine, Session, Slot } from '../../src/custody/engine.ts';
import { type SlotId, slotId } from '../../src/custody/ids.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import type { Log } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { KeyFolder } from '../../src/sealing/key-folder.ts';
import type { SealedSession } from '../../src/sealing/sealed-session.ts';
import { Lab, text } from '../custodian/lab.ts';
import {
  expectOnlyDamaged,
  expectSigns,
  HeardLog,
  id,
  listed,
  refusal,
  TemporaryFolder,
} from '../sealing/folder-lab.ts';

/** An engine that keeps key files, and what its files are. */
export interface FileEngine {
  readonly pin: string;
  readonly wrongPin: string;
  /** What must never be seen, beside the PIN and the seeds. */
  readonly secrets: readonly string[];
  /** The ending of the files of the agentic-wallet page. */
  readonly suffix: string;
  /** Where a file is cut, and where one is flipped, the page's form says this. */
  readonly damagedPage: { readonly cut: string; readonly changed: string };
  start(slot: SlotId, folder: string, envelope: Envelope, log: Log): Engine;
}

export type Envelope = 'keyslot' | 'agentic-wallet';

const headerFile = 'KEYSLOT-SLOT.json';
const headers = new Map<FileEngine, Buffer>();

/** One slot of an engine over a folder, as often opened as a test likes. */
export class FileSlot implements AsyncDisposable {
  readonly at = new TemporaryFolder();
  readonly log = new HeardLog();
  readonly #engines: Engine[] = [];
  readonly #engine: FileEngine;

  constructor(engine: FileEngine) {
    this.#engine = engine;
  }

  /** Puts a header there that was made for the slot `main`: making one costs two derivations of a key. */
  async prepare(): Promise<void> {
    const made = headers.get(this.#engine) ?? (await this.#header());
    headers.set(this.#engine, made);
    await KeyFolder.open(this.at.keys);
    this.at.write(headerFile, made);
  }

  async #header(): Promise<Buffer> {
    await using other = new FileSlot(this.#engine);
    await (await other.open())[Symbol.asyncDispose]();
    return other.at.read(headerFile);
  }

  async slot(envelope: Envelope = 'keyslot', name = 'main', folder = this.at.keys): Promise<Slot> {
    const engine = this.#engine.start(slotId(name), folder, envelope, this.log);
    this.#engines.push(engine);
    const [slot] = await engine.slots();
    if (!slot) throw new TypeError('The engine has no slot.');
    return slot;
  }

  async open(envelope: Envelope = 'keyslot', pin = this.#engine.pin): Promise<SealedSession> {
    return await opened(await this.slot(envelope), pin);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const engine of this.#engines) await engine[Symbol.asyncDispose]();
    this.at[Symbol.dispose]();
  }
}

export async function opened(slot: Slot, pin: string): Promise<SealedSession> {
  using secret = Secret.fromText(pin);
  return (await slot.open(secret)) as Session as SealedSession;
}

/** Bad input, and what every engine that keeps key files does about it. */
export function describeBadFiles(
  name: string,
  engine: FileEngine,
  behind: readonly Envelope[] = ['agentic-wallet'],
): void {
  let slot: FileSlot;

  beforeEach(() => {
    slot = new FileSlot(engine);
  });

  afterEach(() => slot[Symbol.asyncDispose]());

  const pageName = (key: string) => `${key}${engine.suffix}`;

  describe(`${name} and damaged files`, () => {
    it('has each key of the page’s form fail for itself', async () => {
      const before = await slot.open('agentic-wallet');
      const others = [await before.generate(id('a')), await before.generate(id('b'))];
      for (const key of ['cut', 'changed']) await before.generate(id(key));
      await before[Symbol.asyncDispose]();
      slot.at.write(pageName('cut'), slot.at.read(pageName('cut')).subarray(0, 100));
      const wholly = slot.at.read(pageName('changed')).toString();
      slot.at.write(pageName('changed'), wholly.replaceAll(/(tag\\?":\\?")..../g, '$1AAAA'));

      await using session = await slot.open('agentic-wallet');
      await expectOnlyDamaged(session, id('cut'), engine.damagedPage.cut, others);
      await expectOnlyDamaged(session, id('changed'), engine.damagedPage.changed, others);
      expect(slot.log.damaged).toEqual({
        cut: engine.damagedPage.cut,
        changed: engine.damagedPage.changed,
      });
    });
  });

  describe(`${name} and its folder`, () => {
    it('refuses a wrong secret and writes nothing, in either form', async () => {
      const page = await slot.open('agentic-wallet');
      await page.generate(id('page'));
      await page[Symbol.asyncDispose]();
      const before = slot.at.contents();
      for (const envelope of ['agentic-wallet', 'keyslot'] as const) {
        expect(await refusal(slot.open(envelope, engine.wrongPin))).toBe('PIN_REFUSED');
      }
      expect(slot.at.contents()).toEqual(before);
      const own = await slot.open('keyslot');
      await own.generate(id('own'));
      await own[Symbol.asyncDispose]();
      const after = slot.at.contents();
      expect(await refusal(slot.open('keyslot', engine.wrongPin))).toBe('PIN_REFUSED');
      expect(slot.at.contents()).toEqual(after);
      await using session = await slot.open();
      expect(await listed(session)).toEqual(['own', 'page']);
    });

    it('opens with no empty secret, and makes nothing then', async () => {
      expect(await refusal(slot.open('keyslot', ''))).toBe('SLOT_PIN_REQUIRED');
      expect(slot.at.names()).toEqual([]);
    });

    it('refuses a folder that others can enter, or that is a link', async () => {
      await (await slot.open('agentic-wallet'))[Symbol.asyncDispose]();
      chmodSync(slot.at.keys, 0o755);
      expect(await refusal(slot.open('agentic-wallet'))).toBe('KEY_FILE_UNSAFE');
      chmodSync(slot.at.keys, 0o700);
      symlinkSync(slot.at.keys, join(slot.at.root, 'link'));
      const linked = await slot.slot('agentic-wallet', 'main', join(slot.at.root, 'link'));
      expect(await refusal(opened(linked, engine.pin))).toBe('KEY_FILE_UNSAFE');
    });
  });

  describe(`${name} behind the registry`, () => {
    async function labOver(envelope: Envelope): Promise<Lab> {
      if (envelope === 'keyslot') await slot.prepare();
      return await Lab.open({
        slot: await slot.slot(envelope),
        access: 'identity',
        source: () => engine.pin,
      });
    }
    const make = (lab: Lab, key: string) => lab.ask('operator', 'generate-key', { key, slot: 'main' });
    const sign = (lab: Lab, key: string) =>
      refusal(lab.ask('signer', 'sign-message', { key }, { bytes: [text('a message')] }));
    const again = async (lab: Lab) => {
      await lab.restart();
      expect((await lab.custodian.openUnattended()).map(error => error.code)).toEqual([]);
    };

    it.each(behind)('swapped files sign nothing (%s)', async envelope => {
      await using lab = await labOver(envelope);
      for (const key of ['a', 'b', 'kept']) await make(lab, key);
      expect(await sign(lab, 'a')).toBe('none');
      const [a, b] = ['a', 'b'].map(key => (envelope === 'keyslot' ? `${key}.keyslot.json` : pageName(key)));
      renameSync(slot.at.path(a ?? ''), join(slot.at.root, 'a'));
      renameSync(slot.at.path(b ?? ''), slot.at.path(a ?? ''));
      renameSync(join(slot.at.root, 'a'), slot.at.path(b ?? ''));
      await again(lab);
      const code = envelope === 'keyslot' ? 'KEY_FILE_FOREIGN' : 'KEY_MISMATCH';
      expect([await sign(lab, 'a'), await sign(lab, 'b')]).toEqual([code, code]);
      expect(await sign(lab, 'kept')).toBe('none');
    });

    it.each(behind)('an older key under the same id signs nothing (%s)', async envelope => {
      if (envelope === 'keyslot') await slot.prepare();
      const file = envelope === 'keyslot' ? 'key.keyslot.json' : pageName('key');
      const older = await slot.open(envelope);
      await older.generate(id('key'));
      const old = slot.at.read(file);
      await older.destroy(id('key'));
      await older[Symbol.asyncDispose]();

      await using lab = await labOver(envelope);
      for (const key of ['key', 'kept']) await make(lab, key);
      expect(await sign(lab, 'key')).toBe('none');
      slot.at.write(file, old);
      await again(lab);
      expect(await sign(lab, 'key')).toBe('KEY_MISMATCH');
      expect(await sign(lab, 'kept')).toBe('none');
    });
  });

  describe(`${name} and its secrets`, () => {
    it.each(['keyslot', 'agentic-wallet'] as const)('shows none of them anywhere (%s)', async envelope => {
      const errors: unknown[] = [];
      const failing = async (work: Promise<unknown>) => {
        errors.push(await work.catch((error: unknown) => error));
      };
      await failing(slot.open(envelope, ''));
      if (envelope === 'keyslot') await slot.prepare();
      const session = await slot.open(envelope);
      const seed = randomBytes(32);
      using held = Secret.fromBytes(seed);
      const info = await session.import(id('canary'), held);
      await session.generate(id('cut'));
      await session.generate(id('changed'));
      await failing(session.import(id('canary'), held));
      await session[Symbol.asyncDispose]();
      await failing(slot.open(envelope, engine.wrongPin));
      for (const name of slot.at.names().filter(each => each.startsWith('cut'))) {
        slot.at.write(name, slot.at.read(name).subarray(0, 200));
      }
      for (const name of slot.at.names().filter(each => each.startsWith('changed'))) {
        slot.at.write(
          name,
          slot.at
            .read(name)
            .toString()
            .replaceAll(/(tag\W+)..../g, '$1AAAA'),
        );
      }
      const after = await slot.open(envelope);
      for (const key of ['cut', 'changed', 'none']) {
        await failing(after.signer(id(key)));
        await failing(after.export(id(key)));
      }
      await listed(after);
      await expectSigns(after, info);
      const described = await (await slot.slot(envelope)).describe();
      const said = inspect([errors, slot.log.heard, after, described], { depth: 12, showHidden: true });
      const written = slot.at.contents().toString('latin1');

      expect(errors.every(error => error instanceof KeyslotError)).toBe(true);
      const canaries = [...engine.secrets, engine.pin, engine.wrongPin].flatMap(spellings);
      for (const shown of [said, written]) {
        expect([...canaries, ...spellings(seed)].filter(each => shown.includes(each))).toEqual([]);
      }
    });
  });
}

/** The same for the own form, which is one code for all engines. */
export function describeOwnForm(name: string, engine: FileEngine): void {
  let slot: FileSlot;

  beforeEach(async () => {
    slot = new FileSlot(engine);
    await slot.prepare();
  });

  afterEach(() => slot[Symbol.asyncDispose]());

  describe(`${name} and files of the own form`, () => {
    it('has each key of the own form fail for itself', async () => {
      const before = await slot.open();
      const others = [await before.generate(id('a')), await before.generate(id('b'))];
      for (const key of ['cut', 'foreign', 'tampered']) await before.generate(id(key));
      await before[Symbol.asyncDispose]();
      slot.at.write('cut.keyslot.json', slot.at.read('cut.keyslot.json').subarray(0, 300));
      slot.at.write('foreign.keyslot.json', slot.at.read('a.keyslot.json'));
      const wholly = slot.at.read('tampered.keyslot.json').toString();
      slot.at.write('tampered.keyslot.json', wholly.replaceAll(/"(data|tag)": "..../g, '"$1": "AAAA'));

      await using session = await slot.open();
      await expectOnlyDamaged(session, id('cut'), 'KEY_FILE_MALFORMED', others);
      await expectOnlyDamaged(session, id('foreign'), 'KEY_FILE_FOREIGN', others);
      const tampered = ['KEY_FILE_TAMPERED', 'SHARES_INSUFFICIENT'];
      await expectOnlyDamaged(session, id('tampered'), tampered, others);
      expect(slot.log.damaged).toMatchObject({ cut: 'KEY_FILE_MALFORMED', foreign: 'KEY_FILE_FOREIGN' });
    });

    it('opens no file of another slot or folder', async () => {
      await using theirs = new FileSlot(engine);
      const other = await opened(await theirs.slot('keyslot', 'other'), engine.pin);
      await other.generate(id('theirs'));
      await using session = await slot.open();
      const others = [await session.generate(id('mine'))];
      slot.at.write('theirs.keyslot.json', theirs.at.read('theirs.keyslot.json'));
      await expectOnlyDamaged(session, id('theirs'), 'KEY_FILE_FOREIGN', others);

      await using same = new FileSlot(engine); // with a header of its own
      await (await same.open()).generate(id('same'));
      slot.at.write('same.keyslot.json', same.at.read('same.keyslot.json'));
      await expectOnlyDamaged(session, id('same'), ['KEY_FILE_TAMPERED', 'SHARES_INSUFFICIENT'], others);
    });

    it.each(['keyslot', 'agentic-wallet'] as const)(
      'does not open without the header of its keys, configured as %s',
      async envelope => {
        const before = await slot.open();
        const info = await before.generate(id('key'));
        await before[Symbol.asyncDispose]();
        renameSync(slot.at.path(headerFile), join(slot.at.root, 'kept'));
        expect(await refusal(slot.open(envelope))).toBe('KEY_FILE_MALFORMED');
        expect(slot.at.names()).toEqual(['key.keyslot.json']);
        renameSync(join(slot.at.root, 'kept'), slot.at.path(headerFile));
        await using session = await slot.open(envelope);
        await expectSigns(session, info);
      },
    );

    it('does not open with the header of another slot, and opens no key with that of another folder', async () => {
      const before = await slot.open();
      await before.generate(id('key'));
      await before[Symbol.asyncDispose]();
      await using theirs = new FileSlot(engine);
      await (await opened(await theirs.slot('keyslot', 'other'), engine.pin))[Symbol.asyncDispose]();
      slot.at.write(headerFile, theirs.at.read(headerFile));
      expect(await refusal(slot.open())).toBe('KEY_FILE_FOREIGN');

      await using same = new FileSlot(engine); // with a header of its own
      await (await same.open())[Symbol.asyncDispose]();
      slot.at.write(headerFile, same.at.read(headerFile));
      await using session = await slot.open();
      const code = await refusal(session.signer(id('key')));
      expect(['KEY_FILE_TAMPERED', 'SHARES_INSUFFICIENT']).toContain(code);
      await expectSigns(session, await session.generate(id('new')));
    });

    it('holds one key under one id with two engines on it', async () => {
      const [one, two] = [await slot.open(), await slot.open()];
      for (let round = 0; round < 5; round += 1) {
        const key = id(`key-${round}`);
        const codes = await Promise.all([refusal(one.generate(key)), refusal(two.generate(key))]);
        expect(codes.toSorted()).toEqual(['KEY_EXISTS', 'none']);
        await expectSigns(one, (await two.signer(key)).key);
      }
      expect(await listed(one)).toEqual(await listed(two));
    });
  });
}

/** How bytes may show: as they are, in hex, in base64, and as numbers. */
function spellings(secret: string | Uint8Array): string[] {
  const bytes = Buffer.from(secret);
  const numbers = [...bytes.subarray(0, 12)];
  return [
    bytes.toString('latin1'),
    bytes.toString('hex'),
    (bytes.toString('hex').match(/../g) ?? []).slice(0, 12).join(' '),
    bytes.toString('base64').slice(0, 16),
    bytes.toString('base64url').slice(0, 16),
    numbers.join(','),
    numbers.join(', '),
  ];
}

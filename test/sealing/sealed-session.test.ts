import { randomBytes } from 'node:crypto';
import { copyFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { inspect } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { KeyId, PublicKeyBytes } from '../../src/custody/ids.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { KeyFolder } from '../../src/sealing/key-folder.ts';
import type { KeyForm, SealedKey } from '../../src/sealing/key-form.ts';
import { encryptedFileForm } from '../../src/sealing/page-forms.ts';
import type { SealedSessionSetting } from '../../src/sealing/sealed-session.ts';
import {
  expectOnlyDamaged,
  expectSigns,
  HeardLog,
  hex,
  id,
  listed,
  publicKeyOf,
  quickForm,
  refusal,
  sessionOver,
  TemporaryFolder,
} from './folder-lab.ts';

/** A form around another, which counts, and which a test may hold up or break. */
class WatchedForm implements KeyForm, Disposable {
  unsealed = 0;
  before: () => Promise<void> = async () => undefined;
  /** What is stated beside the seal; the form below states nothing. */
  states: PublicKeyBytes | undefined;
  readonly suffix: string;
  readonly #below: KeyForm & Disposable;

  constructor(below = quickForm()) {
    this.#below = below;
    this.suffix = below.suffix;
  }

  read(key: KeyId, file: Uint8Array): SealedKey {
    const sealed = this.#below.read(key, file);
    const unseal = async (signal?: AbortSignal) => {
      this.unsealed += 1;
      await this.before();
      return await sealed.unseal(signal);
    };
    return this.states ? { publicKey: this.states, unseal } : { unseal };
  }

  seal(key: KeyId, publicKey: PublicKeyBytes, seed: Secret, signal?: AbortSignal): Promise<Uint8Array> {
    return this.#below.seal(key, publicKey, seed, signal);
  }

  [Symbol.dispose](): void {
    this.#below[Symbol.dispose]();
  }
}

let at: TemporaryFolder;
let form: WatchedForm;
let log: HeardLog;

beforeEach(() => {
  at = new TemporaryFolder();
  form = new WatchedForm();
  log = new HeardLog();
});

afterEach(() => {
  form[Symbol.dispose]();
  at[Symbol.dispose]();
});

const open = (setting: Partial<SealedSessionSetting> = {}) =>
  sessionOver(at.keys, { writes: form, log, ...setting });

describe('a session over key files', () => {
  it('leaves a damaged file out, says so with its code, and goes on with all others', async () => {
    await using before = await open();
    const kept = [await before.generate(id('kept-1')), await before.generate(id('kept-2'))];
    for (const name of ['cut', 'empty', 'flipped', 'foreign']) await before.generate(id(name));
    const whole = at.read('cut.json');
    at.write('cut.json', whole.subarray(0, whole.length / 2));
    at.write('empty.json', '');
    const fields = JSON.parse(at.read('flipped.json').toString()) as Record<string, string>;
    at.write('flipped.json', JSON.stringify({ ...fields, authTag: randomBytes(16).toString('base64') }));
    using otherForm = quickForm('another secret');
    using seed = Secret.fromBytes(randomBytes(32));
    at.write('foreign.json', await otherForm.seal(id('foreign'), publicKeyOf(seed), seed));

    await using session = await open();
    await expectOnlyDamaged(session, id('cut'), 'KEY_FILE_MALFORMED', kept);
    await expectOnlyDamaged(session, id('empty'), 'KEY_FILE_MALFORMED', kept);
    await expectOnlyDamaged(session, id('flipped'), 'KEY_FILE_TAMPERED', kept);
    expect(log.damaged).toEqual({
      cut: 'KEY_FILE_MALFORMED',
      empty: 'KEY_FILE_MALFORMED',
      flipped: 'KEY_FILE_TAMPERED',
      foreign: 'KEY_FILE_TAMPERED',
    });
  });

  it('finds a file that was mended, without being opened again', async () => {
    await using session = await open();
    const info = await session.generate(id('mended'));
    const whole = at.read('mended.json');
    await using other = await open();
    at.write('mended.json', 'broken');
    expect(await refusal(other.signer(id('mended')))).toBe('KEY_FILE_MALFORMED');
    at.write('mended.json', whole);
    await expectSigns(other, info);
  });

  it('refuses a file that states another public key than it holds', async () => {
    await using session = await open();
    const [kept, other] = [await session.generate(id('kept')), await session.generate(id('other'))];
    form.states = kept.publicKey;
    await using again = await open();
    expect(await refusal(again.signer(id('other')))).toBe('KEY_FILE_FOREIGN');
    await expectSigns(again, kept);
    form.states = undefined;
    await expectSigns(again, other);
  });

  it('takes no notice of files that are no keys', async () => {
    await using session = await open();
    const info = await session.generate(id('key'));
    for (const name of [
      'README',
      '.json',
      'UPPER.json',
      'a b.json',
      'key.json.bak',
      'key.other.json',
      '-.json',
    ]) {
      copyFileSync(at.path('key.json'), at.path(name));
    }
    expect(await listed(session)).toEqual(['key']);
    await expectSigns(session, info);
    expect(log.heard).toEqual([]);
  });

  it.each(['../outside', '/etc/passwd', 'a/b', '', '.', '..', 'UPPER', 'key\0', 'key.json'])(
    'takes no path for a key id: %j',
    async path => {
      await using session = await open();
      const odd = path as KeyId;
      using seed = Secret.fromBytes(randomBytes(32));
      const attempts = [
        () => session.signer(odd),
        () => session.generate(odd),
        () => session.import(odd, seed),
        () => session.export(odd),
        () => session.destroy(odd),
      ];
      for (const attempt of attempts) expect(await refusal(attempt())).toBe('KEY_ID_INVALID');
      expect(at.names()).toEqual([]);
    },
  );

  it('keeps nothing of a key that does not read back', async () => {
    await using session = await open();
    const kept = await session.generate(id('kept'));
    form.before = async () => {
      throw new KeyslotError('KEY_FILE_TAMPERED', 'The disk gave back something else.');
    };
    expect(await refusal(session.generate(id('lost')))).toBe('KEY_FILE_TAMPERED');
    form.before = async () => undefined;
    form.states = kept.publicKey;
    expect(await refusal(session.generate(id('swapped')))).toBe('KEY_FILE_FOREIGN');
    form.states = undefined;
    expect(at.names()).toEqual(['kept.json']);
    await expectSigns(session, await session.generate(id('lost')));
  });

  it('holds one key under one id when two sessions make it at once', async () => {
    await using one = await open();
    await using two = await open();
    for (let round = 0; round < 20; round += 1) {
      const key = id(`key-${round}`);
      const made = await Promise.allSettled([one.generate(key), two.generate(key)]);
      const infos = made.filter(each => each.status === 'fulfilled').map(each => each.value);
      expect(infos).toHaveLength(1);
      for (const session of [one, two]) {
        const { publicKey } = (await session.signer(key)).key;
        expect(infos.map(info => hex(info.publicKey))).toEqual([hex(publicKey)]);
      }
    }
    expect(at.names()).toHaveLength(20);
  });

  it('leaves no file torn when two sessions make and destroy the same keys', async () => {
    await using one = await open();
    await using two = await open();
    const work = async (session: typeof one) => {
      const codes: string[] = [];
      for (let round = 0; round < 30; round += 1) {
        const key = id(`key-${round % 3}`);
        codes.push(await refusal(session.generate(key)), await refusal(session.destroy(key)));
      }
      return codes;
    };
    const codes = new Set((await Promise.all([work(one), work(two)])).flat());
    for (const code of codes) expect(['none', 'KEY_EXISTS', 'KEY_UNKNOWN']).toContain(code);
    await using after = await open();
    expect(at.names()).toEqual((await listed(after)).map(key => `${key}.json`));
  });
});

describe('a key that is destroyed', () => {
  it('is lost to a signer that is looked up just before its file goes', async () => {
    const folder = await KeyFolder.open(at.keys);
    await using session = await open({ folder });
    await (await open()).generate(id('gone'));
    const remove = folder.remove.bind(folder);
    const late: string[] = [];
    folder.remove = async name => {
      late.push(await refusal(session.signer(id('gone'))));
      await remove(name);
    };
    await session.destroy(id('gone'));
    expect(late).toEqual(['KEY_UNKNOWN']);
    expect(await refusal(session.signer(id('gone')))).toBe('KEY_UNKNOWN');
    expect(at.names()).toEqual([]);
  });

  it('is not there for anybody while it is being made', async () => {
    await using session = await open();
    const { promise, resolve } = Promise.withResolvers<void>();
    form.before = () => promise;
    const making = session.generate(id('new'));
    while (form.unsealed === 0) await delay(1);
    expect(await refusal(session.destroy(id('new')))).toBe('KEY_UNKNOWN');
    expect(await refusal(session.signer(id('new')))).toBe('KEY_UNKNOWN');
    expect(await refusal(session.generate(id('new')))).toBe('KEY_EXISTS');
    expect(await listed(session)).toEqual([]);
    resolve();
    await expectSigns(session, await making);
  });

  it('goes in every form that is there', async () => {
    using old = quickForm();
    const older: KeyForm = {
      suffix: '.older.json',
      read: (key, file) => old.read(key, file),
      seal: (key, publicKey, seed) => old.seal(key, publicKey, seed),
    };
    await using session = await open({ forms: [form, older] });
    await session.generate(id('twice'));
    copyFileSync(at.path('twice.json'), at.path('twice.older.json'));
    expect(await listed(session)).toEqual(['twice']);
    await session.destroy(id('twice'));
    expect(at.names()).toEqual([]);
    expect(await refusal(session.signer(id('twice')))).toBe('KEY_UNKNOWN');
  });
});

describe('listing keys', () => {
  it('fails when the session ends meanwhile, and calls no file damaged', async () => {
    const session = await open();
    for (let count = 0; count < 6; count += 1) await session.generate(id(`key-${count}`));
    const again = await open();
    const { promise, resolve } = Promise.withResolvers<void>();
    form.before = () => promise;
    const listing = refusal(listed(again));
    const count = form.unsealed;
    while (form.unsealed === count) await delay(1);
    const ending = again[Symbol.asyncDispose]();
    resolve();
    expect(await listing).toBe('SESSION_CLOSED');
    expect(log.heard).toEqual([]);
    await ending;
    await session[Symbol.asyncDispose]();
  });

  it('fails rather than leave out a key whose custody is only busy', async () => {
    await using session = await open();
    await session.generate(id('key'));
    form.before = async () => {
      throw new KeyslotError('SLOT_BUSY', 'Too many wait.');
    };
    await using again = await open();
    expect(await refusal(listed(again))).toBe('SLOT_BUSY');
    form.before = async () => undefined;
    expect(await listed(again)).toEqual(['key']);
  });
});

describe('an unsealed key', () => {
  const signThrice = async (unwrapCache_ms: number, each = async () => undefined as unknown) => {
    await using session = await open({ unwrapCache_ms });
    const signer = await session.signer((await session.generate(id('key'))).id);
    const before = form.unsealed;
    for (const text of ['one', 'two', 'three']) {
      await signer.sign(Buffer.from(text));
      await each();
    }
    return form.unsealed - before;
  };

  it('lives for one signature when nothing may be kept', async () => {
    expect(await signThrice(0)).toBe(3);
  });

  it('lives for the time that is set', async () => {
    expect(await signThrice(60_000)).toBe(1);
  });

  it('is unsealed anew once that time is over', async () => {
    expect(await signThrice(5, () => delay(50))).toBe(3);
  });

  it('is unsealed once for many who ask at the same time, and one who leaves takes nothing from the others', async () => {
    await using session = await open({ unwrapCache_ms: 60_000 });
    const signer = await session.signer((await session.generate(id('key'))).id);
    const before = form.unsealed;
    const { promise, resolve } = Promise.withResolvers<void>();
    form.before = () => promise;
    const controller = new AbortController();
    const leaving = refusal(signer.sign(Buffer.from('first'), controller.signal));
    const staying = Array.from({ length: 10 }, () => refusal(signer.sign(Buffer.from('others'))));
    controller.abort();
    resolve();
    expect(await leaving).toBe('REQUEST_ABORTED');
    expect(new Set(await Promise.all(staying))).toEqual(new Set(['none']));
    expect(form.unsealed - before).toBe(1);
  });

  it('is not kept when it could not be unsealed', async () => {
    await using session = await open({ unwrapCache_ms: 60_000 });
    const signer = await session.signer((await session.generate(id('key'))).id);
    form.before = async () => {
      throw new KeyslotError('SLOT_BUSY', 'Too many wait.');
    };
    expect(await refusal(signer.sign(Buffer.from('one')))).toBe('SLOT_BUSY');
    form.before = async () => undefined;
    expect(await refusal(signer.sign(Buffer.from('two')))).toBe('none');
  });

  it('goes with its key', async () => {
    await using session = await open({ unwrapCache_ms: 60_000 });
    const signer = await session.signer((await session.generate(id('key'))).id);
    await signer.sign(Buffer.from('one'));
    await session.destroy(id('key'));
    expect(await refusal(signer.sign(Buffer.from('two')))).toBe('KEY_UNKNOWN');
  });
});

describe('what a session writes and says', () => {
  it('holds nothing of its secret and its seeds, whatever goes wrong', async () => {
    const words = 'canary-1f8c0a5e-of-the-slot';
    using secret = Secret.fromText(words);
    using page = encryptedFileForm({ secret, writes: 'documented' });
    await using session = await open({ writes: page, forms: [page] });
    const seed = randomBytes(32);
    using held = Secret.fromBytes(seed);
    const info = await session.import(id('canary'), held);
    const secretKey = Buffer.concat([seed, info.publicKey]);
    await session.generate(id('broken'));
    at.write('broken.json', at.read('broken.json').subarray(0, 40));
    at.write('bare.json', JSON.stringify([...secretKey])); // a bare key file, in the wrong place
    at.write('swapped.json', JSON.stringify({ iv: words, encrypted: words, authTag: words }));
    await using again = await open({ writes: page, forms: [page] });
    const errors: unknown[] = [];
    for (const name of ['broken', 'bare', 'swapped', 'none']) {
      errors.push(await again.signer(id(name)).catch((error: unknown) => error));
      errors.push(await again.export(id(name)).catch((error: unknown) => error));
    }
    errors.push(await again.import(id('canary'), held).catch((error: unknown) => error));
    await listed(again);
    const said = inspect([errors, log.heard, again, info], { depth: 12, showHidden: true });
    const spellings = [
      seed.toString('hex'),
      seed.toString('base64'),
      `${seed.subarray(0, 8).join(',')}`,
      words,
    ];
    spellings.push(
      seed.subarray(0, 8).join(', '),
      seed.toString('hex').match(/../g)?.slice(0, 8).join(' ') ?? '',
    );
    expect(errors.every(error => error instanceof KeyslotError)).toBe(true);
    expect(spellings.filter(each => said.includes(each))).toEqual([]);
    for (const name of ['bare.json', 'swapped.json']) at.write(name, ''); // the test's own
    const written = at.contents().toString('latin1');
    expect([...spellings, seed.toString('latin1')].filter(each => written.includes(each))).toEqual([]);
  });
});

import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import type { Handle } from 'pkcs11js';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import {
  type Destroys,
  type Exports,
  exports as exportsKeys,
  type Generates,
  generates,
  type Imports,
  imports,
  type Session,
} from '../../../src/custody/engine.ts';
import { keyId, slotId } from '../../../src/custody/ids.ts';
import {
  CKA_CLASS,
  CKA_DECRYPT,
  CKA_DERIVE,
  CKA_ENCRYPT,
  CKA_EXTRACTABLE,
  CKA_ID,
  CKA_LABEL,
  CKA_PRIVATE,
  CKA_SENSITIVE,
  CKA_SIGN,
  CKA_TOKEN,
  CKA_UNWRAP,
  CKA_VALUE_LEN,
  CKA_VERIFY,
  CKA_WRAP,
  CKF_RW_SESSION,
  CKF_SERIAL_SESSION,
  CKM_AES_KEY_GEN,
  CKO_SECRET_KEY,
  CKU_USER,
} from '../../../src/engines/pkcs11/constants.ts';
import {
  type AttributeValue,
  CkrError,
  type Cryptoki,
  template,
} from '../../../src/engines/pkcs11/cryptoki.ts';
import { createPkcs11Engine, pkcs11Settings } from '../../../src/engines/pkcs11/index.ts';
import { Pkcs11Module } from '../../../src/engines/pkcs11/module.ts';
import { encodeBase58 } from '../../../src/foundation/base58.ts';
import { createVerifier, publicKeyFromSeed } from '../../../src/foundation/ed25519.ts';
import { silentLog } from '../../../src/foundation/log.ts';
import { Secret } from '../../../src/foundation/secret.ts';
import { softToken } from './soft-token.ts';

const token = softToken({ label: 'wrapped' });
token.addToken('elsewhere');
const root = mkdtempSync(join(tmpdir(), 'keyslot-wrapped-'));
afterAll(() => {
  token.remove();
  rmSync(root, { recursive: true, force: true });
});

const wrappingKey = 'keyslot-wrapping';
let folder = root;
beforeEach(() => {
  onToken((cryptoki, raw) => {
    for (const key of secretKeys(cryptoki, raw)) cryptoki.destroyObject(raw, key);
  });
  folder = mkdtempSync(join(root, 'keys-'));
});

const engineOf = (settings: Record<string, unknown> = {}) =>
  createPkcs11Engine(
    slotId('main'),
    pkcs11Settings.parse({
      module: token.module,
      tokenLabel: token.label,
      mode: 'wrapped',
      folder,
      ...settings,
    }),
    silentLog,
  );

type Able = Session & Generates & Imports & Exports & Destroys;

async function withSession(
  work: (session: Able) => Promise<void>,
  settings: Record<string, unknown> = {},
): Promise<void> {
  await using engine = engineOf(settings);
  const [slot] = await engine.slots();
  using pin = token.pin();
  const session = await slot?.open(pin);
  if (!session || !generates(session) || !imports(session) || !exportsKeys(session)) {
    throw new TypeError('A wrapped session has the powers to generate, import and export.');
  }
  await work(session as Able);
}

const opening = (settings: Record<string, unknown> = {}) => withSession(async () => undefined, settings);

/** What an operator does with the vendor's tools, on a login of its own or on the one that is there. */
function onToken<T>(work: (cryptoki: Cryptoki, raw: Handle) => T, label = token.label): T {
  const module = Pkcs11Module.open(token.module);
  const { cryptoki } = module;
  const slot = module.tokens().find(each => each.label === label)?.slotHandle ?? Buffer.alloc(8);
  const raw = cryptoki.openSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION);
  try {
    cryptoki.login(raw, CKU_USER, token.pinText);
  } catch (error) {
    expect(error).toMatchObject({ ckr: 0x100 }); // CKR_USER_ALREADY_LOGGED_IN, by the slot
  }
  try {
    return work(cryptoki, raw);
  } finally {
    cryptoki.closeSession(raw);
    module.close();
  }
}

const secretKeys = (cryptoki: Cryptoki, raw: Handle) =>
  cryptoki.findObjects(raw, template([CKA_CLASS, CKO_SECRET_KEY]));

const makeKey = (...changes: readonly (readonly [number, AttributeValue])[]) =>
  onToken((cryptoki, raw) => {
    cryptoki.generateKey(raw, CKM_AES_KEY_GEN, template(...soundKey, ...changes));
  });

const destroyKeys = () =>
  onToken((cryptoki, raw) => {
    for (const key of secretKeys(cryptoki, raw)) cryptoki.destroyObject(raw, key);
  });

const soundKey = [
  [CKA_LABEL, Buffer.from(wrappingKey)],
  [CKA_VALUE_LEN, 32],
  [CKA_TOKEN, true],
  [CKA_PRIVATE, true],
  [CKA_SENSITIVE, true],
  [CKA_EXTRACTABLE, false],
  [CKA_ENCRYPT, true],
  [CKA_DECRYPT, true],
  [CKA_WRAP, false],
  [CKA_UNWRAP, false],
  [CKA_SIGN, false],
  [CKA_VERIFY, false],
] as const;

const pathOf = (key: string) => join(folder, `${key}.keyslot.json`);
const fieldsOf = (key: string): Record<string, unknown> => JSON.parse(readFileSync(pathOf(key), 'utf8'));
const edit = (key: string, changes: Record<string, unknown>) =>
  writeFileSync(pathOf(key), JSON.stringify({ ...fieldsOf(key), ...changes }));

async function expectSigns(session: Session, key: string): Promise<void> {
  const signer = await session.signer(keyId(key));
  const message = randomBytes(100);
  const signature = await signer.sign(message);
  expect(await createVerifier(signer.key.publicKey).verify(message, signature)).toBe(true);
}

describe('the settings of mode wrapped', () => {
  it.each([
    ['wrappingKey', 'x'],
    ['gcmIv', 'random'],
    ['folder', '/keys'],
    ['unwrapCache_ms', 0],
  ])('refuse %s under mode native', (name, value) => {
    const settings = { module: token.module, tokenLabel: 'x', [name]: value };
    expect(pkcs11Settings.safeParse({ ...settings, mode: 'wrapped' }).success).toBe(true);
    expect(pkcs11Settings.safeParse({ ...settings, mode: 'native' }).error?.issues).toMatchObject([
      { path: [name] },
    ]);
    expect(pkcs11Settings.safeParse(settings).success).toBe(false);
  });

  it('refuse what they do not know', () => {
    const settings = { module: token.module, tokenLabel: 'x', mode: 'wrapped' };
    for (const wrong of [{ gcmIv: 'counter' }, { wrappingKey: '' }, { wrappingKey: 'a b' }, { ivBits: 96 }]) {
      expect(pkcs11Settings.safeParse({ ...settings, ...wrong }).success).toBe(false);
    }
  });

  it('cannot do without a folder', async () => {
    await expect(opening({ folder: undefined })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });
});

describe('the wrapping key', () => {
  it('is made at the first opening as it has to be, once, and found again', async () => {
    await opening();
    await opening();
    onToken((cryptoki, raw) => {
      const [key = Buffer.alloc(8), ...others] = secretKeys(cryptoki, raw);
      expect(others).toEqual([]);
      const flag = (type: number) => cryptoki.attribute(raw, key, type)?.[0];
      const yes = [CKA_TOKEN, CKA_PRIVATE, CKA_SENSITIVE, CKA_ENCRYPT, CKA_DECRYPT];
      const no = [CKA_EXTRACTABLE, CKA_WRAP, CKA_UNWRAP, CKA_SIGN, CKA_VERIFY, CKA_DERIVE];
      expect(yes.map(flag)).toEqual(yes.map(() => 1));
      expect(no.map(flag)).toEqual(no.map(() => 0));
      expect(cryptoki.attribute(raw, key, CKA_VALUE_LEN)?.readUInt32LE(0)).toBe(32);
      expect(cryptoki.attribute(raw, key, CKA_LABEL)?.toString()).toBe(wrappingKey);
    });
  });

  it('may have been made by the operator, under a label or an id of their choice', async () => {
    makeKey([CKA_LABEL, Buffer.from('theirs')]);
    makeKey([CKA_LABEL, Buffer.from('other')], [CKA_ID, Buffer.from('by-id')]);
    for (const name of ['theirs', 'by-id']) {
      await withSession(session => session.generate(keyId(name)).then(() => expectSigns(session, name)), {
        wrappingKey: name,
        folder: join(folder, name),
      });
    }
    expect(onToken((cryptoki, raw) => secretKeys(cryptoki, raw))).toHaveLength(2);
  });

  it.each<readonly [string, readonly [number, AttributeValue]]>([
    ['can be extracted', [CKA_EXTRACTABLE, true]],
    ['is not sensitive', [CKA_SENSITIVE, false]],
    ['is not private', [CKA_PRIVATE, false]],
    ['cannot encrypt', [CKA_ENCRYPT, false]],
    ['cannot decrypt', [CKA_DECRYPT, false]],
    ['can wrap other keys', [CKA_WRAP, true]],
    ['can unwrap other keys', [CKA_UNWRAP, true]],
    ['can sign', [CKA_SIGN, true]],
    ['can verify', [CKA_VERIFY, true]],
    ['can derive other keys', [CKA_DERIVE, true]],
    ['is AES-128', [CKA_VALUE_LEN, 16]],
  ])('is refused when it %s, and the slot opens once it is gone', async (_, change) => {
    makeKey(change);
    await expect(opening()).rejects.toMatchObject({ code: 'TOKEN_UNSUITABLE' });
    destroyKeys();
    await opening();
  });

  it('is refused as ambiguous when there are several', async () => {
    makeKey();
    makeKey([CKA_LABEL, Buffer.from('x')], [CKA_ID, Buffer.from(wrappingKey)]);
    await expect(opening()).rejects.toMatchObject({ code: 'KEY_AMBIGUOUS' });
  });

  it('is never made anew for keys that an older one sealed', async () => {
    await withSession(session => session.generate(keyId('old')).then(() => undefined));
    destroyKeys();
    await expect(opening()).rejects.toMatchObject({ code: 'TOKEN_UNSUITABLE' });
    expect(onToken((cryptoki, raw) => secretKeys(cryptoki, raw))).toEqual([]);
    rmSync(pathOf('old'));
    await opening();
  });

  it('fails its slot when it goes while the slot is open, and nothing new is sealed', () =>
    withSession(async session => {
      await session.generate(keyId('kept'));
      const signer = await session.signer(keyId('kept'));
      destroyKeys();
      await expect(signer.sign(Buffer.from('x'))).rejects.toMatchObject({ code: 'TOKEN_UNSUITABLE' });
      await expect(session.generate(keyId('new'))).rejects.toMatchObject({ code: 'TOKEN_UNSUITABLE' });
      makeKey(); // another one under the same name
      await expect(signer.sign(Buffer.from('x'))).rejects.toMatchObject({ code: 'TOKEN_UNSUITABLE' });
      await expect(session.generate(keyId('new'))).rejects.toMatchObject({ code: 'TOKEN_UNSUITABLE' });
      expect(readdirSync(folder)).toEqual(['kept.keyslot.json']);
    }));

  it('shows at once that a token fills in no IV where gcmIv is device', async () => {
    await expect(opening({ gcmIv: 'device' })).rejects.toMatchObject({ code: 'TOKEN_UNSUITABLE' });
    await opening({ gcmIv: 'random' });
  });
});

describe('a sealed key', () => {
  it('is a file that says whose it is', () =>
    withSession(async session => {
      const info = await session.generate(keyId('said'));
      expect(info).toMatchObject({ custody: 'hsm-wrapped', exportable: true });
      const { iv, data, createdAt, ...rest } = fieldsOf('said');
      expect(rest).toEqual({
        format: 'keyslot-key',
        v: 1,
        engine: 'pkcs11',
        alg: 'AES-256-GCM',
        slot: 'main',
        key: 'said',
        publicKey: encodeBase58(info.publicKey),
        wrappingKey,
      });
      expect(Buffer.from(String(iv), 'base64')).toHaveLength(12);
      expect(Buffer.from(String(data), 'base64')).toHaveLength(48);
      expect(new Date(String(createdAt)).toISOString()).toBe(createdAt);
    }));

  it('has an IV of its own each time', () =>
    withSession(async session => {
      using seed = Secret.fromBytes(randomBytes(32));
      for (const name of ['a', 'b', 'c']) await session.import(keyId(name), seed);
      expect(new Set(['a', 'b', 'c'].map(name => fieldsOf(name).iv)).size).toBe(3);
      expect(new Set(['a', 'b', 'c'].map(name => fieldsOf(name).data)).size).toBe(3);
    }));

  it('never shows its seed in a file, of the folder or of the token', async () => {
    const bytes = randomBytes(32);
    await withSession(async session => {
      using seed = Secret.fromBytes(bytes);
      await session.import(keyId('secret'), seed);
      await expectSigns(session, 'secret');
    });
    const needles = [bytes, ...(['hex', 'base64', 'base64url'] as const).map(form => bytes.toString(form))];
    const files = [folder, token.folder].flatMap(place =>
      readdirSync(place, { recursive: true, withFileTypes: true })
        .filter(entry => entry.isFile())
        .map(entry => readFileSync(join(entry.parentPath, entry.name))),
    );
    expect(files.length).toBeGreaterThan(3);
    expect(files.some(content => content.includes(publicKeyText(bytes)))).toBe(true); // the search finds things
    for (const needle of needles) expect(files.filter(content => content.includes(needle))).toEqual([]);
  });

  it('opens from another folder, and with the seed that went in', async () => {
    const bytes = randomBytes(32);
    await withSession(async session => {
      using seed = Secret.fromBytes(bytes);
      await session.import(keyId('moved'), seed);
    });
    const text = readFileSync(pathOf('moved'));
    folder = mkdtempSync(join(root, 'restored-'));
    writeFileSync(pathOf('moved'), text, { mode: 0o600 });
    await withSession(async session => {
      using seed = await session.export(keyId('moved'));
      expect(seed.use(each => Buffer.compare(each, bytes))).toBe(0);
    });
  });
});

const publicKeyText = (seed: Uint8Array) => encodeBase58(publicKeyFromSeed(seed));

describe('a sealed key that was changed', () => {
  const changed = (change: () => void, code: string) =>
    withSession(async session => {
      await session.generate(keyId('good'));
      await session.generate(keyId('bad'));
      await session.generate(keyId('other'));
      await session[Symbol.asyncDispose]();
    }).then(() =>
      withSession(async session => {
        change();
        for (let i = 0; i < 12; i += 1) {
          await expect(session.signer(keyId('bad'))).rejects.toMatchObject({ code });
        }
        await expectSigns(session, 'good'); // on sessions that took the place of those that failed
      }),
    );

  it('in its slot is foreign', () => changed(() => edit('bad', { slot: 'aside' }), 'KEY_FILE_FOREIGN'));

  it('in its engine is foreign', () => changed(() => edit('bad', { engine: 'memory' }), 'KEY_FILE_FOREIGN'));

  it('in its key id is foreign', () => changed(() => edit('bad', { key: 'other' }), 'KEY_FILE_FOREIGN'));

  it('for the file of another key is foreign', () =>
    changed(() => writeFileSync(pathOf('bad'), readFileSync(pathOf('other'))), 'KEY_FILE_FOREIGN'));

  it('for another file that was given its name does not open', () =>
    changed(() => edit('bad', { ...fieldsOf('other'), key: 'bad' }), 'KEY_FILE_TAMPERED'));

  it('in its public key does not open', () =>
    changed(() => edit('bad', { publicKey: fieldsOf('other').publicKey }), 'KEY_FILE_TAMPERED'));

  it.each([
    { format: 'other' },
    { v: 2 },
    { v: '1' },
    { alg: 'AES-128-GCM' },
    { iv: '' },
    { iv: Buffer.alloc(16).toString('base64') },
    { data: undefined },
    { data: Buffer.alloc(47).toString('base64') },
    { publicKey: 'x' },
    { publicKey: 7 },
    { slot: null },
  ])('to %j is malformed', change => changed(() => edit('bad', change), 'KEY_FILE_MALFORMED'));

  it('in any bit of its IV or its data does not open, and the next key does', () =>
    withSession(async session => {
      await session.generate(keyId('good'));
      await session.generate(keyId('bad'));
      const whole = fieldsOf('bad');
      const place = fc.oneof(
        fc.tuple(fc.constant('iv'), fc.nat(12 * 8 - 1)),
        fc.tuple(fc.constant('data'), fc.nat(48 * 8 - 1)),
      );
      await fc.assert(
        fc.asyncProperty(place, async ([field, bit]) => {
          const bytes = Buffer.from(String(whole[field]), 'base64');
          bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7));
          writeFileSync(pathOf('copy'), JSON.stringify({ ...whole, [field]: bytes.toString('base64') }), {
            mode: 0o600,
          });
          writeFileSync(pathOf('copy'), readFileSync(pathOf('copy'), 'utf8').replace('"bad"', '"copy"'));
          await expect(session.signer(keyId('copy'))).rejects.toMatchObject({ code: 'KEY_FILE_TAMPERED' });
        }),
        { numRuns: 40 },
      );
      await expectSigns(session, 'good');
    }));

  it('by cutting it off anywhere is malformed', () =>
    withSession(async session => {
      await session.generate(keyId('whole'));
      const text = readFileSync(pathOf('whole'), 'utf8').trimEnd();
      await fc.assert(
        fc.asyncProperty(fc.nat(text.length - 1), async length => {
          writeFileSync(pathOf('cut'), text.slice(0, length), { mode: 0o600 });
          await expect(session.signer(keyId('cut'))).rejects.toMatchObject({ code: 'KEY_FILE_MALFORMED' });
        }),
        { numRuns: 40 },
      );
    }));

  it('for the one that another token sealed under the same names does not open', async () => {
    const here = folder;
    folder = mkdtempSync(join(root, 'elsewhere-'));
    const settings = { tokenLabel: 'elsewhere' };
    await withSession(session => session.generate(keyId('same')).then(() => undefined), settings);
    const theirs = readFileSync(pathOf('same'));
    folder = here;
    await withSession(session => session.generate(keyId('own')).then(() => undefined));
    writeFileSync(pathOf('same'), theirs, { mode: 0o600 });
    await withSession(async session => {
      await expect(session.signer(keyId('same'))).rejects.toMatchObject({ code: 'KEY_FILE_TAMPERED' });
      await expectSigns(session, 'own');
    });
  });
});

describe('an open slot of sealed keys', () => {
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

  it('asks the token for every signature, unless a time is configured for which a seed may stay', async () => {
    const goneUnder = async (session: Able) => {
      await session.generate(keyId('asked'));
      const signer = await session.signer(keyId('asked'));
      await signer.sign(Buffer.from('warm'));
      destroyKeys();
      return await signer.sign(Buffer.from('cold'));
    };
    await withSession(async session => {
      await expect(goneUnder(session)).rejects.toMatchObject({ code: 'TOKEN_UNSUITABLE' });
    });
    folder = mkdtempSync(join(root, 'cached-'));
    await using engine = engineOf({ unwrapCache_ms: 60_000 });
    using pin = token.pin();
    const session = (await (await engine.slots())[0]?.open(pin)) as Able;
    expect(await goneUnder(session)).toHaveLength(64);
    const signer = await session.signer(keyId('asked'));
    await engine[Symbol.asyncDispose]();
    await expect(signer.sign(Buffer.from('late'))).rejects.toMatchObject({ code: 'SESSION_CLOSED' });
  });

  it('spends no PIN when its folder is not safe', async () => {
    rmSync(folder, { recursive: true });
    writeFileSync(folder, 'a file');
    await expect(opening()).rejects.toMatchObject({ code: 'KEY_FILE_UNSAFE' });
  });
});

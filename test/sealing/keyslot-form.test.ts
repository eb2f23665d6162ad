import { randomBytes } from 'node:crypto';
import { symlinkSync } from 'node:fs';
import { inspect } from 'node:util';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { KeyId } from '../../src/custody/ids.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { KeyFolder } from '../../src/sealing/key-folder.ts';
import { KeyslotForm, type Place } from '../../src/sealing/keyslot-form.ts';
import { hex, id, publicKeyOf, refusal, TemporaryFolder } from './folder-lab.ts';

const headerFile = 'KEYSLOT-SLOT.json';
const place: Place = { engine: 'encrypted-file', slot: 'main' };
const words = 'the secret of the slot';

/** Opens as an engine with one secret does. */
async function unlock(path: string, at: Place = place, secretWords = words): Promise<KeyslotForm> {
  using secret = Secret.fromText(secretWords);
  return await KeyslotForm.unlock(await KeyFolder.open(path), at, { secrets: [secret], needed: 1 });
}

let home: TemporaryFolder;
let form: KeyslotForm;
let header: Buffer;
const seed = randomBytes(32);
let file: Buffer;

// One opening for all that needs no other: it costs two derivations of a key.
beforeAll(async () => {
  home = new TemporaryFolder();
  form = await unlock(home.keys);
  header = home.read(headerFile);
  file = await sealed('wallet', seed);
});

afterAll(() => {
  form[Symbol.dispose]();
  home[Symbol.dispose]();
});

async function sealed(key: string, bytes: Uint8Array, by = form): Promise<Buffer> {
  using secret = Secret.fromBytes(bytes);
  return Buffer.from(await by.seal(id(key), publicKeyOf(secret), secret));
}

async function opened(key: KeyId, content: Uint8Array, by = form): Promise<string> {
  using secret = await by.read(key, content).unseal();
  return secret.use(hex);
}

const outcome = (content: Uint8Array, key = 'wallet', by = form): Promise<string> =>
  refusal(opened(id(key), content, by));

const refused = ['KEY_FILE_TAMPERED', 'KEY_FILE_MALFORMED', 'KEY_FILE_FOREIGN'];

const fieldsOf = (content: Buffer) => JSON.parse(content.toString()) as Record<string, unknown>;
const fileOf = (fields: unknown) => Buffer.from(JSON.stringify(fields));

describe('a key file of the own form', () => {
  it('opens again, as often as it is asked', async () => {
    const read = form.read(id('wallet'), file);
    for (const _ of [1, 2, 3]) {
      using again = await read.unseal();
      expect(again.use(hex)).toBe(hex(seed));
    }
  });

  it('states its public key, names its algorithm, and holds nothing of the seed in clear', () => {
    const fields = fieldsOf(file);
    expect(fields).toMatchObject({
      format: 'keyslot-key',
      v: 1,
      alg: 'HKDF-SHA-256+AES-256-GCM',
      key: 'wallet',
    });
    using secret = Secret.fromBytes(seed);
    expect(hex(form.read(id('wallet'), file).publicKey ?? seed)).toBe(hex(publicKeyOf(secret)));
    const text = file.toString('latin1');
    expect(
      [hex(seed), seed.toString('base64'), seed.toString('latin1')].filter(each => text.includes(each)),
    ).toEqual([]);
  });

  it('is another one each time the same seed is sealed', async () => {
    const [one, other] = [fieldsOf(file), fieldsOf(await sealed('wallet', seed))];
    expect(one.parts).not.toEqual(other.parts);
  });

  it('cut off anywhere is malformed', async () => {
    const end = file.toString().lastIndexOf('}');
    for (let length = 0; length <= end; length += 1) {
      expect(await outcome(file.subarray(0, length)), `${length} bytes`).toBe('KEY_FILE_MALFORMED');
    }
  });

  it('with any bit flipped is refused or holds the same seed, and never another', async () => {
    const codes = new Map<string, number>();
    for (let bit = 0; bit < file.length * 8; bit += 1) {
      const flipped = Buffer.from(file);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      const code = await refusal(opened(id('wallet'), flipped).then(found => expect(found).toBe(hex(seed))));
      codes.set(code, (codes.get(code) ?? 0) + 1);
    }
    expect([...codes.keys()].toSorted()).toEqual([...refused, 'none'].toSorted());
    // What may change unseen: the time of its making and the space between the fields.
    expect(codes.get('none')).toBeLessThan((file.length * 8) / 4);
  });

  it('with any single bit of a sealed field flipped is tampered', async () => {
    const part = (fieldsOf(file).parts as Record<string, string>[])[0] ?? {};
    await fc.assert(
      fc.asyncProperty(fc.constantFrom('iv', 'tag', 'data'), fc.nat(), async (name, at) => {
        const bytes = Buffer.from(part[name] ?? '', 'base64');
        const bit = at % (bytes.length * 8);
        bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        const parts = [{ ...part, [name]: bytes.toString('base64') }];
        expect(await outcome(fileOf({ ...fieldsOf(file), parts }))).toBe('KEY_FILE_TAMPERED');
      }),
    );
  });

  it('with anything else in any place never opens to another seed', async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(), fc.uint8Array({ minLength: 1, maxLength: 8 }), async (at, bytes) => {
        const changed = Buffer.from(file);
        changed.set(bytes.subarray(0, file.length - (at % file.length)), at % file.length);
        const code = await refusal(
          opened(id('wallet'), changed).then(found => expect(found).toBe(hex(seed))),
        );
        expect([...refused, 'none']).toContain(code);
      }),
      { numRuns: 500 },
    );
  });

  it('under the name of another key is foreign', async () => {
    expect(await outcome(file, 'other')).toBe('KEY_FILE_FOREIGN');
    expect(await outcome(fileOf({ ...fieldsOf(file), key: 'other' }), 'other')).toBe('KEY_FILE_TAMPERED');
  });

  it('with the public key of another is tampered', async () => {
    const { publicKey } = fieldsOf(await sealed('wallet', randomBytes(32)));
    expect(await outcome(fileOf({ ...fieldsOf(file), publicKey }))).toBe('KEY_FILE_TAMPERED');
  });

  it.each([
    ['engine', 'hsm-sim', 'KEY_FILE_FOREIGN'],
    ['slot', 'other', 'KEY_FILE_FOREIGN'],
    ['format', 'keyslot-slot', 'KEY_FILE_MALFORMED'],
    ['v', 2, 'KEY_FILE_MALFORMED'],
    ['alg', 'none', 'KEY_FILE_MALFORMED'],
    ['key', null, 'KEY_FILE_MALFORMED'],
    ['publicKey', '11111111111111111111111111111111111111111111', 'KEY_FILE_MALFORMED'],
    ['publicKey', '0OIl', 'KEY_FILE_MALFORMED'],
    ['parts', [], 'KEY_FILE_MALFORMED'],
    ['parts', [{}], 'KEY_FILE_MALFORMED'],
    ['parts', 'none', 'KEY_FILE_MALFORMED'],
  ])('with %s of %j is refused', async (name, value, code) => {
    expect(await outcome(fileOf({ ...fieldsOf(file), [name]: value }))).toBe(code);
  });

  it.each(['', 'null', '[]', '"text"', '{}', '\0', '{"__proto__": {"format": "keyslot-key"}}'])(
    'that is %j is malformed',
    async content => {
      expect(await outcome(Buffer.from(content))).toBe('KEY_FILE_MALFORMED');
    },
  );

  it('with sealed bytes of another length is refused', async () => {
    const [part] = fieldsOf(file).parts as Record<string, string>[];
    for (const length of [0, 31, 33, 64]) {
      const parts = [{ ...part, data: randomBytes(length).toString('base64') }];
      expect(await outcome(fileOf({ ...fieldsOf(file), parts }))).toBe('KEY_FILE_TAMPERED');
    }
  });

  it('tells nothing of what it holds when it is refused', async () => {
    for (const broken of [file.subarray(0, 200), fileOf({ ...fieldsOf(file), slot: 'other' })]) {
      const error = await opened(id('wallet'), broken).catch((thrown: unknown) => thrown);
      const shown = inspect(error, { depth: 10, showHidden: true });
      expect([words, hex(seed), seed.toString('base64')].filter(each => shown.includes(each))).toEqual([]);
    }
  });
});

describe('the header of a folder', () => {
  let at: TemporaryFolder;
  let folder: KeyFolder;

  beforeEach(async () => {
    at = new TemporaryFolder();
    folder = await KeyFolder.open(at.keys);
  });

  afterEach(() => at[Symbol.dispose]());

  /** Puts a header there with other fields, and says how the slot opens. */
  async function opening(change: Record<string, unknown>, to: Place = place): Promise<string> {
    at.write(headerFile, fileOf({ ...fieldsOf(header), ...change }));
    return await refusal(unlock(at.keys, to));
  }

  it('is made once, with a dear derivation, and opens with the same secret only', async () => {
    expect(await KeyslotForm.isIn(folder)).toBe(false);
    (await unlock(at.keys))[Symbol.dispose]();
    expect(await KeyslotForm.isIn(folder)).toBe(true);
    expect(fieldsOf(at.read(headerFile))).toMatchObject({ v: 1, kdf: 'scrypt', N: 2 ** 17, r: 8, p: 1 });
    const made = at.contents();
    (await unlock(at.keys))[Symbol.dispose]();
    expect(await refusal(unlock(at.keys, place, 'another secret'))).toBe('PIN_REFUSED');
    expect(at.contents()).toEqual(made);
  });

  it('is one, whoever of several is the first; who has another secret is refused', async () => {
    const codes = await Promise.all([
      refusal(unlock(at.keys)),
      refusal(unlock(at.keys)),
      refusal(unlock(at.keys, place, 'another secret')),
    ]);
    expect(at.names()).toEqual([headerFile]);
    expect(codes.slice(0, 2)).toEqual(
      codes[2] === 'none' ? ['PIN_REFUSED', 'PIN_REFUSED'] : ['none', 'none'],
    );
    expect(codes).toContain('PIN_REFUSED');
  });

  it.each([
    ['too cheap', { N: 2 ** 16 }],
    ['free', { N: 1 }],
    ['too dear', { N: 2 ** 21 }],
    ['endless', { N: 2 ** 60 }],
    ['no power of two', { N: 2 ** 17 + 1 }],
    ['negative', { N: -(2 ** 17) }],
    ['a text', { N: '131072' }],
    ['of another block size', { r: 16 }],
    ['of another parallelism', { p: 2 }],
    ['of another function', { kdf: 'pbkdf2' }],
  ])('with a derivation that is %s is malformed', async (_, change) => {
    expect(await opening(change)).toBe('KEY_FILE_MALFORMED');
  });

  it.each([
    ['another format', { format: 'keyslot-key' }, 'KEY_FILE_MALFORMED'],
    ['another version', { v: 2 }, 'KEY_FILE_MALFORMED'],
    ['no lock', { locks: [] }, 'KEY_FILE_MALFORMED'],
    ['a lock without a salt', { locks: [{ verifier: '' }] }, 'KEY_FILE_MALFORMED'],
    ['the name of another slot', { slot: 'other' }, 'KEY_FILE_FOREIGN'],
    ['the name of another engine', { engine: 'hsm-sim' }, 'KEY_FILE_FOREIGN'],
  ])('with %s is refused', async (_, change, code) => {
    expect(await opening(change)).toBe(code);
  });

  it('that was made for another slot or engine does not open when its name is changed', async () => {
    expect(await opening({ slot: 'other' }, { ...place, slot: 'other' })).toBe('PIN_REFUSED');
    expect(await opening({ engine: 'hsm-sim' }, { ...place, engine: 'hsm-sim' })).toBe('PIN_REFUSED');
  });

  it('with another salt or verifier refuses the PIN', async () => {
    const [lock] = fieldsOf(header).locks as Record<string, string>[];
    const other = randomBytes(32).toString('base64');
    expect(await opening({ locks: [{ ...lock, salt: other }] })).toBe('PIN_REFUSED');
    expect(await opening({ locks: [{ ...lock, verifier: other }] })).toBe('PIN_REFUSED');
  });

  it('cut off anywhere is malformed, and not replaced', async () => {
    const end = header.toString().lastIndexOf('}');
    for (let length = 0; length <= end; length += 9) {
      at.write(headerFile, header.subarray(0, length));
      expect(await refusal(unlock(at.keys))).toBe('KEY_FILE_MALFORMED');
      expect(at.read(headerFile)).toEqual(header.subarray(0, length));
    }
  });

  it('that is lost is not made anew over the keys that need it', async () => {
    at.write('wallet.keyslot.json', file);
    expect(await KeyslotForm.isIn(folder)).toBe(true);
    expect(await refusal(unlock(at.keys))).toBe('KEY_FILE_MALFORMED');
    expect(at.names()).toEqual(['wallet.keyslot.json']);
    at.write(headerFile, header);
    using back = await unlock(at.keys);
    expect(await opened(id('wallet'), at.read('wallet.keyslot.json'), back)).toBe(hex(seed));
  });

  it('of another folder with the same secret opens none of the keys, and the right one opens all again', async () => {
    using other = await unlock(at.keys);
    expect(await outcome(file, 'wallet', other)).toBe('KEY_FILE_TAMPERED');
    const theirs = await sealed('wallet', seed, other);
    expect(await outcome(theirs)).toBe('KEY_FILE_TAMPERED');
    expect(await opened(id('wallet'), theirs, other)).toBe(hex(seed));
  });

  it('is not read through a symbolic link', async () => {
    at.write('elsewhere', header);
    symlinkSync(at.path('elsewhere'), at.path(headerFile));
    expect(await refusal(unlock(at.keys))).toBe('KEY_FILE_UNSAFE');
  });

  it('leaves nothing behind when its making is aborted', async () => {
    using secret = Secret.fromText(words);
    const lock = { secrets: [secret], needed: 1 };
    expect(await refusal(KeyslotForm.unlock(folder, place, lock, AbortSignal.abort()))).toBe(
      'REQUEST_ABORTED',
    );
    expect(at.names()).toEqual([]);
  });

  it('takes all its secrets to be made', async () => {
    using secret = Secret.fromText(words);
    const lock = { secrets: [secret, undefined, secret], needed: 2 };
    expect(await refusal(KeyslotForm.unlock(folder, place, lock))).toBe('NODE_SECRET_MISSING');
    expect(at.names()).toEqual([]);
  });
});

import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type KeyId, keyId, publicKeyBytes } from '../../src/custody/ids.ts';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { publicKeyFromSeed } from '../../src/foundation/ed25519.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { type MpcForm, mpcForm } from '../../src/sealing/mpc-form.ts';
import { formOfFile, type PageSuffix } from '../../src/sealing/page-envelopes.ts';
import { encryptedFileForm, hsmForm, kmsForm, type PageForm } from '../../src/sealing/page-forms.ts';
import type { SealedTextForm } from '../../src/sealing/sealed-text.ts';
import expected from '../vectors/agentic-wallet/expected.json' with { type: 'json' };
import { freshSecretKey, oldLoad, oldSeal, slowMultiply } from './old-program.ts';

const { config } = expected;
const writings: readonly SealedTextForm[] = ['documented', 'deployed'];
const suffixes: readonly PageSuffix[] = ['.json', '.hsm.json', '.kms.json', '.mpc.json'];
const key = keyId('key-1');
const text = (words: string) => Secret.fromText(words);
const code = (name: string) => expect.objectContaining({ code: name });
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

interface Told {
  readonly key: KeyId;
  readonly shares: readonly number[];
}

type NodeWords = readonly [string | undefined, string | undefined, string | undefined];
const nodeWords: NodeWords = ['node-1-secret', 'node-2-secret', 'node-3-secret'];

function mpc(words: NodeWords, writes: SealedTextForm = 'documented', told: Told[] = []): MpcForm {
  const [first, second, third] = words.map(each => (each === undefined ? undefined : text(each)));
  const onOddShare = (odd: KeyId, shares: readonly number[]) => void told.push({ key: odd, shares });
  return mpcForm({ nodeSecrets: [first, second, third], writes, onOddShare });
}

/** The form of each suffix with the settings of the vectors, or with other secrets. */
function formFor(suffix: PageSuffix, writes: SealedTextForm = 'documented', wrong = ''): PageForm {
  switch (suffix) {
    case '.json':
      return encryptedFileForm({ secret: text(config.encryptionSecret + wrong), writes });
    case '.hsm.json': {
      const [moduleSecret, pin] = [text(config.hsmModuleSecret), text(config.hsmPin + wrong)];
      return hsmForm({ slot: config.hsmSlotId, moduleSecret, pin, writes });
    }
    case '.kms.json':
      return kmsForm({ keyId: config.kmsKeyId, masterSecret: text(config.kmsMasterSecret + wrong), writes });
    case '.mpc.json':
      return mpc([`node-1-secret${wrong}`, `node-2-secret${wrong}`, `node-3-secret${wrong}`], writes);
  }
}

async function unsealed(form: PageForm, file: Uint8Array, signal?: AbortSignal): Promise<string> {
  using seed = await form.read(key, file).unseal(signal);
  return seed.use(hex);
}

async function sealedBy(form: PageForm, seed: Uint8Array, signal?: AbortSignal): Promise<Buffer> {
  using secret = Secret.fromBytes(seed);
  return Buffer.from(await form.seal(key, publicKeyBytes(publicKeyFromSeed(seed)), secret, signal));
}

const oldFiles: Readonly<Record<PageSuffix, (file: string) => Buffer>> = {
  '.json': file => oldLoad['.json'](file, config.encryptionSecret),
  '.hsm.json': file => oldLoad['.hsm.json'](file, config.hsmModuleSecret, config.hsmPin),
  '.kms.json': file => oldLoad['.kms.json'](file, config.kmsMasterSecret),
  '.mpc.json': file => oldLoad['.mpc.json'](file, config.mpcNodeSecrets, 0, 1),
};

/** One file of each suffix in the documented form, whose keys cost nothing to derive. */
const seed = randomBytes(32);
const samples = new Map<PageSuffix, Buffer>();
for (const suffix of suffixes) samples.set(suffix, await sealedBy(formFor(suffix), seed));
const sample = (suffix: PageSuffix): Buffer => Buffer.from(samples.get(suffix) ?? []);
const sampleFields = (suffix: PageSuffix) => JSON.parse(sample(suffix).toString()) as Record<string, unknown>;
const fileOf = (fields: unknown) => Buffer.from(JSON.stringify(fields));

describe.each(writings)('the %s files of the field', writing => {
  const folder = join(import.meta.dirname, '..', 'vectors', 'agentic-wallet', writing, 'keys');
  const files = readdirSync(folder);

  it('are all listed with their public keys', () => {
    expect(files.map(name => name.split('.')[0]).sort()).toEqual(
      expected[writing].map(each => each.walletId).sort(),
    );
  });

  it.each(expected[writing])(
    'give $backend wallet $walletId its public key',
    async ({ walletId, publicKey }) => {
      const name = files.find(each => each.startsWith(walletId)) ?? '';
      const suffix = suffixes.find(each => name === `${walletId}${each}`) ?? '.json';
      const file = readFileSync(join(folder, name));
      using form = formFor(suffix);
      using found = await form.read(keyId(walletId), file).unseal();
      expect(encodeBase58(found.use(publicKeyFromSeed))).toBe(publicKey);
      expect(formOfFile(suffix, file)).toBe(writing);
    },
  );
});

describe.each(suffixes)('a %s file', suffix => {
  it.each(writings)('written in the %s form opens here and in an independent program', async writes => {
    const secretKey = freshSecretKey();
    using form = formFor(suffix, writes);
    const file = await sealedBy(form, secretKey.subarray(0, 32));
    expect(form.suffix).toBe(suffix);
    expect(formOfFile(suffix, file)).toBe(writes);
    expect(hex(oldFiles[suffix](file.toString()))).toBe(hex(secretKey));
    expect(await unsealed(form, file)).toBe(hex(secretKey.subarray(0, 32)));
  });

  it('is as the program writes it: the same fields in the same order', () => {
    const fields: Readonly<Record<PageSuffix, readonly string[]>> = {
      '.json': ['iv', 'encrypted', 'authTag'],
      '.hsm.json': ['v', 'slotId', 'wrappedSecret', 'createdAt'],
      '.kms.json': ['v', 'keyId', 'wrappedDataKey', 'encryptedSecret', 'createdAt'],
      '.mpc.json': ['v', 'threshold', 'shares', 'createdAt'],
    };
    expect(Object.keys(sampleFields(suffix))).toEqual(fields[suffix]);
    expect(sample(suffix).toString()).toBe(JSON.stringify(sampleFields(suffix)));
  });

  it('does not open with other secrets', async () => {
    using form = formFor(suffix, 'documented', 'x');
    const refusal = suffix === '.mpc.json' ? 'SHARES_INSUFFICIENT' : 'KEY_FILE_TAMPERED';
    await expect(unsealed(form, sample(suffix))).rejects.toEqual(code(refusal));
  });

  it('is malformed when it was truncated at any byte', () => {
    using form = formFor(suffix);
    const file = sample(suffix);
    for (let length = 0; length < file.length; length += 1) {
      expect(() => form.read(key, file.subarray(0, length)), String(length)).toThrow(
        code('KEY_FILE_MALFORMED'),
      );
    }
  });

  it('gives its key or one of the refusals after any one bit was flipped, and never another key', async () => {
    using form = formFor(suffix);
    const refusals = ['KEY_FILE_MALFORMED', 'KEY_FILE_TAMPERED', 'KEY_FILE_FOREIGN'];
    const bit = fc.integer({ min: 0, max: sample(suffix).length * 8 - 1 });
    await fc.assert(
      fc.asyncProperty(bit, async at => {
        const file = sample(suffix);
        file[at >> 3] = (file[at >> 3] ?? 0) ^ (1 << (at & 7));
        const outcome = await (async () => unsealed(form, file))().catch(
          (error: { code: string }) => error.code,
        );
        expect([hex(seed), ...refusals]).toContain(outcome);
      }),
      { numRuns: 1_500 },
    );
  });

  it('is malformed when it is another kind of file, no JSON, no UTF-8, or too large', () => {
    using form = formFor(suffix);
    const others = suffixes.filter(each => each !== suffix).map(sample);
    const loose = ['', ' ', 'null', '[]', '[1,2,3]', '"text"', '7', '{}', '{"v":1}', 'not json'].map(each =>
      Buffer.from(each),
    );
    const binary = [
      randomBytes(400),
      Buffer.from([0xff]),
      Buffer.concat([Buffer.from('\ufeff'), sample(suffix)]),
    ];
    const large = Buffer.concat([sample(suffix), Buffer.alloc(16 * 1024, ' ')]);
    for (const file of [...others, ...loose, ...binary, large]) {
      expect(() => form.read(key, file)).toThrow(code('KEY_FILE_MALFORMED'));
      expect(() => formOfFile(suffix, file)).toThrow(code('KEY_FILE_MALFORMED'));
    }
  });

  it('is malformed when a field is missing or of another type', () => {
    using form = formFor(suffix);
    for (const name of Object.keys(sampleFields(suffix))) {
      const { [name]: _, ...rest } = sampleFields(suffix);
      for (const fields of [rest, ...[null, 7, true, {}].map(value => ({ ...rest, [name]: value }))]) {
        expect(() => form.read(key, fileOf(fields)), name).toThrow(code('KEY_FILE_MALFORMED'));
      }
    }
  });

  it('is sealed anew each time', async () => {
    using form = formFor(suffix);
    expect(await sealedBy(form, seed)).not.toEqual(sample(suffix));
  });

  it.each(writings)('is neither sealed nor opened in the %s form for a caller who has gone', async writes => {
    using form = formFor(suffix, writes);
    const file = await sealedBy(form, seed);
    await expect(sealedBy(form, seed, AbortSignal.abort())).rejects.toEqual(code('REQUEST_ABORTED'));
    await expect(unsealed(form, file, AbortSignal.abort())).rejects.toEqual(code('REQUEST_ABORTED'));
    const leaving = new AbortController();
    const opening = unsealed(form, file, leaving.signal);
    if (writes === 'deployed') {
      setImmediate(() => leaving.abort());
      await expect(opening).rejects.toEqual(code('REQUEST_ABORTED'));
    } else expect(await opening).toBe(hex(seed));
  });

  it('opens as often and as concurrently as is asked, each time to a seed of its own', async () => {
    using form = formFor(suffix, 'deployed');
    const sealed = form.read(key, await sealedBy(form, seed));
    const seeds = await Promise.all([sealed.unseal(), sealed.unseal(), sealed.unseal()]);
    for (const each of seeds) {
      expect(each.use(hex)).toBe(hex(seed));
      each[Symbol.dispose]();
    }
    using again = await sealed.unseal();
    expect(again.use(hex)).toBe(hex(seed));
  });

  it('cannot be opened or sealed any more when its form was disposed', async () => {
    const form = formFor(suffix);
    const sealed = form.read(key, sample(suffix));
    form[Symbol.dispose]();
    form[Symbol.dispose]();
    await expect(sealed.unseal()).rejects.toThrow();
    await expect(sealedBy(form, seed)).rejects.toThrow();
  });

  it('is never sealed with a public key that is not the one of its seed', async () => {
    using form = formFor(suffix);
    using secret = Secret.fromBytes(seed);
    await expect(form.seal(key, publicKeyBytes(randomBytes(32)), secret)).rejects.toThrow(RangeError);
    expect(secret.use(hex)).toBe(hex(seed));
  });
});

describe('an envelope', () => {
  it.each(['.hsm.json', '.kms.json', '.mpc.json'] as const)(
    '%s may have fields that are not known',
    async suffix => {
      using form = formFor(suffix);
      const file = fileOf({ ...sampleFields(suffix), label: 'mine', nested: { a: [1] } });
      expect(await unsealed(form, file)).toBe(hex(seed));
    },
  );

  it('is malformed with a byte that is not UTF-8, even where nobody looks', () => {
    using form = formFor('.hsm.json');
    const file = fileOf({ ...sampleFields('.hsm.json'), label: '?' });
    file[file.lastIndexOf('?')] = 0xff;
    expect(() => form.read(key, file)).toThrow(code('KEY_FILE_MALFORMED'));
  });

  it('of another slot or of another KMS key is foreign', () => {
    using hsm = formFor('.hsm.json');
    using kms = formFor('.kms.json');
    const hsmFile = fileOf({ ...sampleFields('.hsm.json'), slotId: 'slot-1' });
    const kmsFile = fileOf({ ...sampleFields('.kms.json'), keyId: 'other-key' });
    expect(() => hsm.read(key, hsmFile)).toThrow(code('KEY_FILE_FOREIGN'));
    expect(() => kms.read(key, kmsFile)).toThrow(code('KEY_FILE_FOREIGN'));
  });

  it('whose sealed texts were exchanged or taken from another file does not open', async () => {
    using form = formFor('.kms.json');
    const fields = sampleFields('.kms.json');
    const other = JSON.parse((await sealedBy(form, randomBytes(32))).toString()) as Record<string, unknown>;
    const { wrappedDataKey, encryptedSecret } = fields;
    const exchanged = { ...fields, wrappedDataKey: encryptedSecret, encryptedSecret: wrappedDataKey };
    for (const file of [exchanged, { ...fields, wrappedDataKey: other.wrappedDataKey }]) {
      await expect(unsealed(form, fileOf(file))).rejects.toEqual(code('KEY_FILE_TAMPERED'));
    }
  });

  it('with sealed texts of both forms opens, and counts as the weaker', async () => {
    using form = formFor('.kms.json');
    const dataKey = randomBytes(32).toString('base64');
    const file = fileOf({
      ...sampleFields('.kms.json'),
      wrappedDataKey: oldSeal(dataKey, `${config.kmsMasterSecret}:${config.kmsKeyId}`, 'deployed'),
      encryptedSecret: oldSeal(freshSecretKey(seed).toString('base64'), dataKey, 'documented'),
    });
    expect(await unsealed(form, file)).toBe(hex(seed));
    expect(formOfFile('.kms.json', file)).toBe('documented');
  });
});

describe('the secrets of a form', () => {
  const made: readonly [PageSuffix, (secrets: readonly [Secret, Secret, Secret]) => PageForm][] = [
    ['.json', ([secret]) => encryptedFileForm({ secret, writes: 'documented' })],
    ['.hsm.json', ([moduleSecret, pin]) => hsmForm({ slot: 's', moduleSecret, pin, writes: 'documented' })],
    ['.kms.json', ([masterSecret]) => kmsForm({ keyId: 'k', masterSecret, writes: 'documented' })],
    ['.mpc.json', nodeSecrets => mpcForm({ nodeSecrets, writes: 'documented', onOddShare: () => undefined })],
  ];

  it.each(made)('of %s files are copies: they outlive those of its maker, and end alone', async (_, make) => {
    const secrets = [text('one'), text('two'), text('three')] as const;
    const passing = make(secrets);
    passing[Symbol.dispose]();
    expect(secrets.map(secret => secret.useText(words => words))).toEqual(['one', 'two', 'three']);
    using form = make(secrets);
    for (const secret of secrets) secret[Symbol.dispose]();
    expect(await unsealed(form, await sealedBy(form, seed))).toBe(hex(seed));
  });
});

describe('a file that opens to something else than a Solana key', () => {
  const secretKey = freshSecretKey(seed);
  const other = Buffer.concat([seed, freshSecretKey().subarray(32)]);
  const contents = [
    secretKey.subarray(0, 32),
    other,
    Buffer.concat([secretKey, Buffer.alloc(1)]),
    Buffer.alloc(0),
  ];

  it('is tampered with, be it numbers', async () => {
    using form = formFor('.json');
    const texts = [
      ...contents.map(each => JSON.stringify([...each])),
      'words',
      '[[1]]',
      secretKey.toString('base64'),
    ];
    for (const each of texts) {
      const file = Buffer.from(oldSeal(each, config.encryptionSecret, 'documented'));
      await expect(unsealed(form, file)).rejects.toEqual(code('KEY_FILE_TAMPERED'));
    }
  });

  it('is tampered with, be it base64', async () => {
    using form = formFor('.hsm.json');
    const secret = `${config.hsmModuleSecret}:${config.hsmSlotId}:${config.hsmPin}`;
    for (const each of [
      ...contents.map(bytes => bytes.toString('base64')),
      `${secretKey.toString('base64')}\n`,
    ]) {
      const file = fileOf({
        ...sampleFields('.hsm.json'),
        wrappedSecret: oldSeal(each, secret, 'documented'),
      });
      await expect(unsealed(form, file)).rejects.toEqual(code('KEY_FILE_TAMPERED'));
    }
  });
});

describe('two of three shares', () => {
  type Shares = { id: unknown; wrapped: unknown }[];
  const shares = () => (sampleFields('.mpc.json').shares as Shares).map(share => ({ ...share }));
  const withShares = (list: unknown) => fileOf({ ...sampleFields('.mpc.json'), shares: list });
  const sealedShare = (id: number, bytes: Uint8Array) =>
    oldSeal(Buffer.from(bytes).toString('base64'), nodeWords[id - 1] ?? '', 'documented');

  /** Every way in which one share can be damaged. */
  const damages: readonly [string, (share: { id: unknown; wrapped: unknown }) => unknown][] = [
    ['sealed under another secret', share => ({ ...share, wrapped: oldSeal('x', 'other', 'documented') })],
    ['changed in its content', share => ({ ...share, wrapped: flippedData(String(share.wrapped)) })],
    ['truncated', share => ({ ...share, wrapped: String(share.wrapped).slice(0, 50) })],
    ['empty', share => ({ ...share, wrapped: '' })],
    ['not a text', share => ({ ...share, wrapped: 7 })],
    ['without its text', share => ({ id: share.id })],
    ['null', () => null],
    ['under a number that is not one', share => ({ ...share, id: 'x' })],
    ['under the number of another', share => ({ ...share, id: (Number(share.id) % 3) + 1 })],
    ['of another length', share => ({ ...share, wrapped: sealedShare(Number(share.id), randomBytes(63)) })],
    ['of another secret', share => ({ ...share, wrapped: sealedShare(Number(share.id), randomBytes(64)) })],
  ];

  function flippedData(wrapped: string): string {
    const fields = JSON.parse(wrapped) as { encrypted: string };
    const data = Buffer.from(fields.encrypted, 'base64');
    data[7] = (data[7] ?? 0) ^ 4;
    return JSON.stringify({ ...fields, encrypted: data.toString('base64') });
  }

  const damagedAt = (places: readonly number[], damage: (share: Shares[number]) => unknown) =>
    withShares(shares().map((share, at) => (places.includes(at) ? damage(share) : share)));

  it('open a file whose three shares are whole, and nothing is told', async () => {
    const told: Told[] = [];
    using form = mpc(nodeWords, 'documented', told);
    expect(await unsealed(form, sample('.mpc.json'))).toBe(hex(seed));
    expect(told).toEqual([]);
  });

  it.each(damages)('open a file in which any one share is %s, and it is named', async (_, damage) => {
    for (const place of [0, 1, 2]) {
      const told: Told[] = [];
      using form = mpc(nodeWords, 'documented', told);
      expect(await unsealed(form, damagedAt([place], damage))).toBe(hex(seed));
      expect(told).toEqual([{ key, shares: [place + 1] }]);
    }
  });

  const shut = damages.filter(
    ([name]) => name !== 'of another secret' && name !== 'under the number of another',
  );

  it.each(shut)('are needed: a file in which any two are %s is refused', async (_, damage) => {
    for (const places of [
      [0, 1],
      [0, 2],
      [1, 2],
    ]) {
      const told: Told[] = [];
      using form = mpc(nodeWords, 'documented', told);
      const error = await unsealed(form, damagedAt(places, damage)).catch((thrown: Error) => thrown);
      expect(error).toEqual(code('SHARES_INSUFFICIENT'));
      for (const place of places) expect(String(error)).toContain(`share ${place + 1}`);
      expect(told).toEqual([]);
    }
  });

  it('that open and do not make up one key are refused, two or three of them', async () => {
    using form = mpc(nodeWords);
    using two = mpc(['node-1-secret', undefined, 'node-3-secret']);
    const foreign = (share: Shares[number]) => ({
      ...share,
      wrapped: sealedShare(Number(share.id), randomBytes(64)),
    });
    await expect(unsealed(form, damagedAt([0, 1], foreign))).rejects.toEqual(code('KEY_FILE_TAMPERED'));
    await expect(unsealed(form, damagedAt([0, 1, 2], foreign))).rejects.toEqual(code('KEY_FILE_TAMPERED'));
    await expect(unsealed(two, damagedAt([0], foreign))).rejects.toEqual(code('KEY_FILE_TAMPERED'));
  });

  it('of which two pairs make up two different keys are refused: which one is meant is not guessed', async () => {
    const [one, two] = [freshSecretKey(), freshSecretKey()];
    const a = randomBytes(64);
    const at = (bytes: Uint8Array, by: Uint8Array, x: number) =>
      bytes.map((value, index) => value ^ slowMultiply(by[index] ?? 0, x));
    const first = at(one, a, 1);
    const towardsTwo = first.map((value, index) => value ^ (two[index] ?? 0));
    const contents = [first, at(one, a, 2), at(two, towardsTwo, 3)];
    const file = withShares(
      contents.map((bytes, place) => ({ id: place + 1, wrapped: sealedShare(place + 1, bytes) })),
    );
    using pair = mpc([nodeWords[0], nodeWords[1], undefined]);
    using otherPair = mpc([nodeWords[0], undefined, nodeWords[2]]);
    using all = mpc(nodeWords);
    expect(await unsealed(pair, file)).toBe(hex(one.subarray(0, 32)));
    expect(await unsealed(otherPair, file)).toBe(hex(two.subarray(0, 32)));
    await expect(unsealed(all, file)).rejects.toEqual(code('KEY_FILE_TAMPERED'));
  });

  it('may stand in any order, and the third may be missing from the file', async () => {
    const told: Told[] = [];
    using form = mpc(nodeWords, 'documented', told);
    expect(await unsealed(form, withShares(shares().reverse()))).toBe(hex(seed));
    expect(told).toEqual([]);
    expect(await unsealed(form, withShares(shares().slice(1)))).toBe(hex(seed));
    expect(told).toEqual([{ key, shares: [1] }]);
    await expect(unsealed(form, withShares(shares().slice(2)))).rejects.toEqual(code('SHARES_INSUFFICIENT'));
    await expect(unsealed(form, withShares([]))).rejects.toEqual(code('SHARES_INSUFFICIENT'));
  });

  it('are read from a list of at most three with a threshold of two', () => {
    using form = mpc(nodeWords);
    for (const list of [[...shares(), ...shares()], { 0: shares()[0] }, 'shares']) {
      expect(() => form.read(key, withShares(list))).toThrow(code('KEY_FILE_MALFORMED'));
    }
    for (const threshold of [1, 3, '2']) {
      const file = fileOf({ ...sampleFields('.mpc.json'), threshold });
      expect(() => form.read(key, file)).toThrow(code('KEY_FILE_MALFORMED'));
    }
    expect(() => formOfFile('.mpc.json', withShares([]))).toThrow(code('KEY_FILE_MALFORMED'));
  });

  it('of another key in two places give that other key, which the registry is there to notice', async () => {
    const other = freshSecretKey();
    using form = mpc(nodeWords);
    const theirs = (
      JSON.parse((await sealedBy(form, other.subarray(0, 32))).toString()) as { shares: Shares }
    ).shares;
    const mixed = shares().map((share, at) => (at < 2 ? theirs[at] : share));
    expect(await unsealed(form, withShares(mixed))).toBe(hex(other.subarray(0, 32)));
  });

  const without = (place: number, word: string | undefined): NodeWords => {
    const [first, second, third] = nodeWords.map((each, at) => (at === place ? word : each));
    return [first, second, third];
  };

  const only = (place: number): NodeWords => {
    const [first, second, third] = nodeWords.map((each, at) => (at === place ? each : undefined));
    return [first, second, third];
  };

  it.each([0, 1, 2])(
    'open without the node secret at place %i, in both forms; a wrong one is told',
    async place => {
      for (const writes of writings) {
        using whole = mpc(nodeWords, writes);
        const file = await sealedBy(whole, seed);
        const told: Told[] = [];
        using missing = mpc(without(place, undefined), writes, told);
        expect(await unsealed(missing, file)).toBe(hex(seed));
        expect(told).toEqual([]);
        using wrong = mpc(without(place, 'wrong'), writes, told);
        expect(await unsealed(wrong, file)).toBe(hex(seed));
        expect(told).toEqual([{ key, shares: [place + 1] }]);
      }
    },
  );

  it.each([0, 1, 2])(
    'are refused with one node secret only, the one at place %i, and the others are named',
    async place => {
      using form = mpc(only(place));
      const error = await unsealed(form, sample('.mpc.json')).catch((thrown: Error) => thrown);
      expect(error).toEqual(code('SHARES_INSUFFICIENT'));
      const named = [1, 2, 3].filter(id => String(error).includes(`node ${id}`));
      expect(named).toEqual([1, 2, 3].filter(id => id !== place + 1));
    },
  );

  it.each([0, 1, 2])(
    'are not enough to seal: without the node secret at place %i a key is not made',
    async place => {
      using form = mpc(without(place, undefined));
      await expect(sealedBy(form, seed)).rejects.toEqual(code('NODE_SECRET_MISSING'));
    },
  );

  it('tell which node secrets are right', async () => {
    using right = mpc(nodeWords);
    using wrong = mpc(['node-1-secret', 'wrong', undefined]);
    expect(await right.openShares(sample('.mpc.json'))).toEqual([true, true, true]);
    expect(await wrong.openShares(sample('.mpc.json'))).toEqual([true, false, false]);
    await expect(wrong.openShares(Buffer.from('{}'))).rejects.toEqual(code('KEY_FILE_MALFORMED'));
    await expect(right.openShares(sample('.mpc.json'), AbortSignal.abort())).rejects.toEqual(
      code('REQUEST_ABORTED'),
    );
  });

  it('name an odd share at the first opening only; later openings use the two good ones', async () => {
    const told: Told[] = [];
    using form = mpc(nodeWords, 'documented', told);
    const foreign = (share: Shares[number]) => ({
      ...share,
      wrapped: sealedShare(Number(share.id), randomBytes(64)),
    });
    for (const place of [0, 1, 2]) {
      const sealed = form.read(key, damagedAt([place], foreign));
      for (let time = 0; time < 3; time += 1) {
        using found = await sealed.unseal();
        expect(found.use(hex)).toBe(hex(seed));
      }
    }
    expect(told.map(each => each.shares)).toEqual([[1], [2], [3]]);
  });

  it('are opened by an independent program through every pair', async () => {
    for (const [first, second] of [
      [0, 1],
      [0, 2],
      [1, 2],
      [2, 0],
    ] as const) {
      const secretKey = oldLoad['.mpc.json'](
        sample('.mpc.json').toString(),
        config.mpcNodeSecrets,
        first,
        second,
      );
      expect(hex(secretKey)).toBe(hex(freshSecretKey(seed)));
    }
  });
});

import { createPublicKey, randomBytes, verify } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { inspect } from 'node:util';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Destroys, Exports, Generates, Imports, KeyInfo, Session } from '../../../src/custody/engine.ts';
import { keyId } from '../../../src/custody/ids.ts';
import type { Log } from '../../../src/foundation/log.ts';
import { Secret } from '../../../src/foundation/secret.ts';
import { type Fault, faults } from '../../aws/kms-server.ts';
import type { EngineUnderTest } from '../../conformance/engine-suite.ts';
import { AwsLab, opened } from './aws-lab.ts';

type EnvelopeSession = Session & Generates & Imports & Exports & Destroys;

let lab: AwsLab;
let under: EngineUnderTest;
let session: EnvelopeSession;
let lines: string[];

const log: Log = {
  info: (fields, text) => void lines.push(inspect({ fields, text }, { depth: 10, showHidden: true })),
  warn: (fields, text) => log.info(fields, text),
  error: (fields, text) => log.info(fields, text),
};

beforeEach(async () => {
  lines = [];
  lab = await AwsLab.start();
  await start({});
});
afterEach(async () => {
  await under[Symbol.asyncDispose]();
  await lab[Symbol.asyncDispose]();
});

async function start(more: Record<string, unknown>): Promise<void> {
  under = lab.engine(lab.settings('aws-envelope', { maxAttempts: 1, ...more }), log);
  session = (await opened(under)) as EnvelopeSession;
}

async function restart(more: Record<string, unknown> = {}): Promise<void> {
  await under[Symbol.asyncDispose]();
  await start(more);
}

const a = keyId('a');
const b = keyId('b');
const fileOf = (id: string) => join(lab.folder, 'keys', `${id}.keyslot.json`);
const textOf = (id: string) => readFile(fileOf(id), 'utf8');
const code = (expected: string) => ({ code: expected });
const signs = async (info: KeyInfo) => {
  const message = randomBytes(40);
  const signed = await (await session.signer(info.id)).sign(message);
  const x = Buffer.from(info.publicKey).toString('base64url');
  const key = createPublicKey({ format: 'jwk', key: { kty: 'OKP', crv: 'Ed25519', x } });
  return verify(null, message, key, signed);
};

describe('a seed under a data key of KMS', () => {
  it('is sealed and opened with the encryption context of its key, and with the key named', async () => {
    const info = await session.generate(a);
    expect(await signs(info)).toBe(true);
    const EncryptionContext = { app: 'keyslot', slot: 'aws', key: 'a', v: '1' };
    const KeyId = lab.envelopeKey;
    expect(lab.kms.last('GenerateDataKey')?.input).toEqual({ KeyId, KeySpec: 'AES_256', EncryptionContext });
    expect(lab.kms.last('Decrypt')?.input).toMatchObject({ KeyId, EncryptionContext });
  });

  it('is opened by KMS for each signature, or once in a while when it may stay in memory', async () => {
    const decrypts = async () => {
      const signer = await session.signer(a);
      const before = lab.kms.count('Decrypt');
      for (let n = 0; n < 5; n++) await signer.sign(randomBytes(10));
      return lab.kms.count('Decrypt') - before;
    };
    await session.generate(a);
    expect(await decrypts()).toBe(5);
    await restart({ unwrapCache_ms: 3_600_000 });
    expect(await decrypts()).toBe(1);
  });

  it.each<[string, Fault, string]>([
    ['throttled', faults.throttled, 'KMS_THROTTLED'],
    ['an internal failure', faults.internal, 'KMS_UNAVAILABLE'],
    ['a dependency that timed out', faults.dependency, 'KMS_UNAVAILABLE'],
    ['a key that is unavailable', faults.unavailable, 'KMS_UNAVAILABLE'],
    ['a disabled key', faults.disabled, 'KMS_KEY_UNUSABLE'],
    ['a key pending deletion', faults.pendingDeletion, 'KMS_KEY_UNUSABLE'],
    ['no permission', faults.denied, 'KMS_DENIED'],
    ['a wrong context', faults.wrongContext, 'KEY_FILE_TAMPERED'],
    ['an incorrect key', faults.incorrectKey, 'KEY_FILE_TAMPERED'],
    ['a connection that is reset', 'reset', 'KMS_UNAVAILABLE'],
    ['half a reply', 'truncated', 'KMS_UNAVAILABLE'],
    ["another key's id in the reply", faults.otherKey, 'KMS_REPLY_WRONG'],
    ['a short data key', { alter: reply => ({ ...reply, Plaintext: 'AAAA' }) }, 'KMS_REPLY_WRONG'],
    ['no data key', { alter: ({ Plaintext: _, ...rest }) => rest }, 'KMS_REPLY_WRONG'],
    [
      'another data key',
      { alter: reply => ({ ...reply, Plaintext: randomBytes(32).toString('base64') }) },
      'KEY_FILE_TAMPERED',
    ],
  ])('that meets %s fails by its own code, and the next one works', async (_, fault, expected) => {
    const info = await session.generate(a);
    const signer = await session.signer(a);
    lab.kms.fault('Decrypt', fault);
    await expect(signer.sign(randomBytes(10))).rejects.toMatchObject(code(expected));
    expect(await signs(info)).toBe(true);
  });

  it('that KMS never opens fails when its time is over, or at once when its caller leaves', async () => {
    await restart({ timeout_ms: 300 });
    const info = await session.generate(a);
    const signer = await session.signer(a);
    lab.kms.fault('Decrypt', 'silence');
    await expect(signer.sign(randomBytes(10))).rejects.toMatchObject(code('KMS_UNAVAILABLE'));
    await restart({ timeout_ms: 60_000 });
    const patient = await session.signer(a);
    const before = lab.kms.count('Decrypt');
    lab.kms.fault('Decrypt', 'silence');
    const controller = new AbortController();
    const signing = patient.sign(randomBytes(10), controller.signal);
    await expect.poll(() => lab.kms.count('Decrypt')).toBe(before + 1);
    controller.abort();
    await expect(signing).rejects.toMatchObject(code('REQUEST_ABORTED'));
    expect(await signs(info)).toBe(true);
  });

  it.each<[string, Fault, string]>([
    ['no permission', faults.denied, 'KMS_DENIED'],
    ["another key's id in the reply", faults.otherKey, 'KMS_REPLY_WRONG'],
    ['half a reply', 'truncated', 'KMS_UNAVAILABLE'],
    ['a short data key', { alter: reply => ({ ...reply, Plaintext: 'AAAA' }) }, 'KMS_REPLY_WRONG'],
    ['no sealed data key', { alter: reply => ({ ...reply, CiphertextBlob: '' }) }, 'KMS_REPLY_WRONG'],
  ])('is not made when GenerateDataKey meets %s, and its id stays free', async (_, fault, expected) => {
    lab.kms.fault('GenerateDataKey', fault);
    await expect(session.generate(a)).rejects.toMatchObject(code(expected));
    await expect(session.signer(a)).rejects.toMatchObject(code('KEY_UNKNOWN'));
    expect(await signs(await session.generate(a))).toBe(true);
  });

  it('never shows in an error or the log, and neither does its data key', async () => {
    const canary = randomBytes(32);
    using seed = Secret.fromBytes(canary);
    const dataKeys: string[] = [];
    const watch: Fault = {
      alter: reply => {
        dataKeys.push(String(reply.Plaintext));
        return reply;
      },
    };
    lab.kms.fault('GenerateDataKey', watch);
    await session.import(a, seed);
    const text = await textOf('a');
    const shown: string[] = [];
    const wrongKey: Fault = {
      alter: reply => {
        dataKeys.push(String(reply.Plaintext));
        return { ...reply, KeyId: lab.envelopeKey.replace(/.$/, 'x') };
      },
    };
    const signer = await session.signer(a);
    for (const fault of [wrongKey, ...Object.values(faults), 'truncated', 'reset'] as const) {
      lab.kms.fault('Decrypt', fault);
      lab.kms.fault('GenerateDataKey', fault);
      const attempts = [signer.sign(randomBytes(10)), session.import(b, seed)];
      for (const outcome of await Promise.allSettled(attempts)) {
        if (outcome.status === 'fulfilled') continue;
        shown.push(inspect(outcome.reason, { depth: 20, showHidden: true }));
      }
      lab.kms.heal();
    }
    expect(shown.length).toBeGreaterThan(10);
    expect(dataKeys.length).toBeGreaterThan(2);
    const everything = [...shown, ...lines, text].join();
    for (const secret of [canary, ...dataKeys.map(each => Buffer.from(each, 'base64'))]) {
      for (const encoding of ['base64', 'hex'] as const) {
        const whole = secret.toString(encoding);
        // Half of it too: a parser that stumbles quotes only what is around it.
        for (const part of [whole.slice(0, 12), whole.slice(-14, -2)]) expect(everything).not.toContain(part);
      }
    }
    expect(everything).not.toContain(lab.kms.credentials.secretAccessKey);
  });
});

describe('the file of a sealed seed', () => {
  const changedBits = (text: string, field: string, bit: number): string => {
    const file = JSON.parse(text) as Record<string, string>;
    const bytes = Buffer.from(file[field] ?? '', 'base64');
    const at = bit % (bytes.length * 8);
    bytes[at >> 3] = (bytes[at >> 3] ?? 0) ^ (1 << (at & 7));
    return JSON.stringify({ ...file, [field]: bytes.toString('base64') });
  };

  it('does not open with any bit changed, and leaves the other keys working', async () => {
    await session.generate(a);
    const other = await session.generate(b);
    const text = await textOf('a');
    await fc.assert(
      fc.asyncProperty(fc.constantFrom('dataKey', 'iv', 'tag', 'data'), fc.nat(2_000), async (field, bit) => {
        await writeFile(fileOf('a'), changedBits(text, field, bit));
        await restart();
        await expect(session.signer(a)).rejects.toMatchObject(code('KEY_FILE_TAMPERED'));
      }),
      { numRuns: 40 },
    );
    expect(await signs(other)).toBe(true);
    await writeFile(fileOf('a'), text);
    await restart();
    expect(typeof (await session.signer(a)).key.publicKey).toBe('object');
  });

  it('does not open with another public key stated', async () => {
    await session.generate(a);
    await session.generate(b);
    const [mine, theirs] = [JSON.parse(await textOf('a')), JSON.parse(await textOf('b'))];
    await writeFile(fileOf('a'), JSON.stringify({ ...mine, publicKey: theirs.publicKey }));
    await restart();
    await expect(session.signer(a)).rejects.toMatchObject(code('KEY_FILE_TAMPERED'));
  });

  it("is foreign under another key's name, and tampered with when it was edited to fit there", async () => {
    await session.generate(a);
    await session.generate(b);
    const text = await textOf('b');
    await writeFile(fileOf('a'), text);
    await restart();
    await expect(session.signer(a)).rejects.toMatchObject(code('KEY_FILE_FOREIGN'));
    await writeFile(fileOf('a'), text.replace('"key": "b"', '"key": "a"'));
    await restart();
    await expect(session.signer(a)).rejects.toMatchObject(code('KEY_FILE_TAMPERED'));
  });

  it.each<[string, (text: string) => string, string]>([
    ['cut off', text => text.slice(0, -20), 'KEY_FILE_MALFORMED'],
    ['empty', () => '', 'KEY_FILE_MALFORMED'],
    ['of another format', text => text.replace('keyslot-kms-envelope', 'x'), 'KEY_FILE_MALFORMED'],
    ['of another version', text => text.replace('"v": 1', '"v": 2'), 'KEY_FILE_MALFORMED'],
    ['of another algorithm', text => text.replace('AES-256-GCM', 'AES-128-GCM'), 'KEY_FILE_MALFORMED'],
    ['without a public key', text => text.replace('"publicKey": "', '"publicKey": "0'), 'KEY_FILE_MALFORMED'],
    ['with a shorter IV', text => text.replace(/"iv": ".{4}/, '"iv": "'), 'KEY_FILE_MALFORMED'],
    ['of another slot', text => text.replace('"aws"', '"other"'), 'KEY_FILE_FOREIGN'],
    ['of another KMS key', text => text.replace('arn:aws:kms', 'arn:aws-cn:kms'), 'KEY_FILE_FOREIGN'],
  ])('that is %s fails by its own code', async (_, change, expected) => {
    await session.generate(a);
    const text = await textOf('a');
    expect(change(text)).not.toBe(text);
    await writeFile(fileOf('a'), change(text));
    await restart();
    await expect(session.signer(a)).rejects.toMatchObject(code(expected));
  });

  it('is never opened with a KMS key that the file itself names', async () => {
    const info = await session.generate(a);
    const other = lab.kms.createKey('SYMMETRIC_DEFAULT', 'ENCRYPT_DECRYPT');
    await restart({ keyId: other });
    const before = lab.kms.count('Decrypt');
    await expect(session.signer(a)).rejects.toMatchObject(code('KEY_FILE_FOREIGN'));
    expect(lab.kms.count('Decrypt')).toBe(before);
    await restart();
    expect(await signs(info)).toBe(true);
  });
});

describe('opening the slot', () => {
  const opening = async (keyId: string) => {
    await under[Symbol.asyncDispose]();
    under = lab.engine(lab.settings('aws-envelope', { keyId, maxAttempts: 1 }), log);
    return opened(under);
  };

  it('takes the KMS key by id, ARN or alias, and the files are the same', async () => {
    const info = await session.generate(a);
    lab.kms.createAlias('alias/wallets', lab.envelopeKey);
    const id = lab.envelopeKey.slice(lab.envelopeKey.indexOf('/') + 1);
    for (const reference of [id, 'alias/wallets', lab.envelopeKey.replace(/key\/.*/, 'alias/wallets')]) {
      session = (await opening(reference)) as EnvelopeSession;
      expect(await signs(info)).toBe(true);
    }
  });

  it.each<[string, () => string, string]>([
    ['a signing key', () => lab.kms.createKey('ECC_NIST_EDWARDS25519', 'SIGN_VERIFY'), 'KMS_KEY_UNSUITABLE'],
    ['a key that is not there', () => 'alias/nobody', 'KMS_KEY_UNKNOWN'],
    ['a disabled key', () => inState('Disabled'), 'KMS_KEY_UNUSABLE'],
    ['a key pending deletion', () => inState('PendingDeletion'), 'KMS_KEY_UNUSABLE'],
  ])('refuses %s', async (_, reference, expected) => {
    await expect(opening(reference())).rejects.toMatchObject(code(expected));
  });

  const inState = (state: 'Disabled' | 'PendingDeletion') => {
    lab.kms.setState(lab.envelopeKey, state);
    return lab.envelopeKey;
  };

  it.each<[Fault, string]>([
    [faults.denied, 'KMS_DENIED'],
    [faults.throttled, 'KMS_THROTTLED'],
    [faults.internal, 'KMS_UNAVAILABLE'],
    [faults.otherKey, 'opened'], // the KeyId of this reply is not where DescribeKey names its key
    [{ alter: () => ({}) }, 'KMS_REPLY_WRONG'],
  ])('answers %o by its own code, and opens afterwards', async (fault, expected) => {
    await under[Symbol.asyncDispose]();
    lab.kms.fault('DescribeKey', fault);
    const answer = await opening(lab.envelopeKey).then(
      () => 'opened',
      error => (error as { code: string }).code,
    );
    expect(answer).toBe(expected);
    expect((await opening(lab.envelopeKey)).slot).toBe('aws');
  });

  it('is refused for a signal that is aborted, and when the engine has ended', async () => {
    await session[Symbol.asyncDispose]();
    const [slot] = await under.engine.slots();
    using pin = under.pin();
    await expect(slot?.open(pin, AbortSignal.abort())).rejects.toMatchObject(code('REQUEST_ABORTED'));
    await (await slot?.open(pin))?.[Symbol.asyncDispose]();
    await under[Symbol.asyncDispose]();
    await expect(slot?.open(pin)).rejects.toMatchObject(code('TOKEN_UNAVAILABLE'));
  });
});

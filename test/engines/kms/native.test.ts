import { createPublicKey, randomBytes, verify } from 'node:crypto';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  type Adopts,
  adopts,
  type Destroys,
  type Generates,
  type KeyInfo,
  type Session,
} from '../../../src/custody/engine.ts';
import { keyId } from '../../../src/custody/ids.ts';
import type { Log } from '../../../src/foundation/log.ts';
import { type Fault, faults } from '../../aws/kms-server.ts';
import type { EngineUnderTest } from '../../conformance/engine-suite.ts';
import { AwsLab, opened, slotOf } from './aws-lab.ts';

type NativeSession = Session & Generates & Adopts & Destroys;

let lab: AwsLab;
let under: EngineUnderTest;
let session: NativeSession;
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

/** One attempt a call, unless a test says otherwise, so that one fault is one failure. */
async function start(more: Record<string, unknown>): Promise<void> {
  under = lab.engine(lab.settings('aws-native', { maxAttempts: 1, ...more }), log);
  session = (await opened(under)) as NativeSession;
}

async function restart(more: Record<string, unknown>): Promise<void> {
  await under[Symbol.asyncDispose]();
  await start(more);
}

const a = keyId('a');
const b = keyId('b');
const signingKey = () => lab.kms.createKey('ECC_NIST_EDWARDS25519', 'SIGN_VERIFY');
const arnOf = async (id: string) => JSON.parse(await readFile(fileOf(id), 'utf8')).kmsKey as string;
const fileOf = (id: string) => join(lab.folder, 'keys', `${id}.keyslot.json`);
const code = (expected: string) => ({ code: expected });
const signs = async (info: KeyInfo) => {
  const message = randomBytes(40);
  const signed = await (await session.signer(info.id)).sign(message);
  const x = Buffer.from(info.publicKey).toString('base64url');
  const key = createPublicKey({ format: 'jwk', key: { kty: 'OKP', crv: 'Ed25519', x } });
  return verify(null, message, key, signed);
};

describe('a signature of a key inside KMS', () => {
  it.each<[string, Fault, string]>([
    ['throttled', faults.throttled, 'KMS_THROTTLED'],
    ['an internal failure', faults.internal, 'KMS_UNAVAILABLE'],
    ['a dependency that timed out', faults.dependency, 'KMS_UNAVAILABLE'],
    ['a key that is unavailable', faults.unavailable, 'KMS_UNAVAILABLE'],
    ['a disabled key', faults.disabled, 'KMS_KEY_UNUSABLE'],
    ['a key pending deletion', faults.pendingDeletion, 'KMS_KEY_UNUSABLE'],
    ['no permission', faults.denied, 'KMS_DENIED'],
    ['an expired token', faults.expired, 'KMS_DENIED'],
    ['a key that is not there', faults.unknownKey, 'KMS_KEY_UNKNOWN'],
    ['a connection that is reset', 'reset', 'KMS_UNAVAILABLE'],
    ['half a reply', 'truncated', 'KMS_UNAVAILABLE'],
    ["another key's id in the reply", faults.otherKey, 'KMS_REPLY_WRONG'],
    ['a reply without a key id', { alter: ({ KeyId: _, ...rest }) => rest }, 'KMS_REPLY_WRONG'],
    ['a short signature', { alter: reply => ({ ...reply, Signature: 'AAAA' }) }, 'KMS_REPLY_WRONG'],
    ['an empty reply', { alter: () => ({}) }, 'KMS_REPLY_WRONG'],
  ])('that meets %s fails by its own code, and the next one works', async (_, fault, expected) => {
    const info = await session.generate(a);
    const signer = await session.signer(a);
    lab.kms.fault('Sign', fault);
    await expect(signer.sign(randomBytes(10))).rejects.toMatchObject(code(expected));
    expect(await signs(info)).toBe(true);
  });

  it('that KMS never answers fails when its time is over, and the next one works', async () => {
    await restart({ timeout_ms: 300 });
    const info = await session.generate(a);
    const signer = await session.signer(a);
    lab.kms.fault('Sign', 'silence');
    await expect(signer.sign(randomBytes(10))).rejects.toMatchObject(code('KMS_UNAVAILABLE'));
    expect(await signs(info)).toBe(true);
  });

  it('that KMS never answers is left by its caller at once', async () => {
    await session.generate(a);
    const signer = await session.signer(a);
    const before = lab.kms.count('Sign');
    lab.kms.fault('Sign', 'silence');
    const controller = new AbortController();
    const signing = signer.sign(randomBytes(10), controller.signal);
    await expect.poll(() => lab.kms.count('Sign')).toBe(before + 1);
    controller.abort();
    await expect(signing).rejects.toMatchObject(code('REQUEST_ABORTED'));
  });

  it('is tried again as often as the settings say when KMS throttles or fails', async () => {
    await restart({ maxAttempts: 3 });
    const info = await session.generate(a);
    lab.kms.fault('Sign', faults.throttled);
    lab.kms.fault('Sign', faults.internal);
    expect(await signs(info)).toBe(true);
    const signer = await session.signer(a);
    const before = lab.kms.count('Sign');
    lab.kms.fault('Sign', faults.internal, 3);
    await expect(signer.sign(randomBytes(10))).rejects.toMatchObject(code('KMS_UNAVAILABLE'));
    expect(lab.kms.count('Sign') - before).toBe(3);
  });

  it('with a disabled key fails, while other keys go on, until the key is enabled again', async () => {
    const [first, other] = [await session.generate(a), await session.generate(b)];
    lab.kms.setState(await arnOf('a'), 'Disabled');
    await expect(signs(first)).rejects.toMatchObject(code('KMS_KEY_UNUSABLE'));
    expect(await signs(other)).toBe(true);
    lab.kms.setState(await arnOf('a'), 'PendingDeletion');
    await expect(signs(first)).rejects.toMatchObject(code('KMS_KEY_UNUSABLE'));
    lab.kms.setState(await arnOf('a'), 'Enabled');
    expect(await signs(first)).toBe(true);
  });

  it('that is corrupted on its way is handed on as it is: verifying is for whoever releases it', async () => {
    const info = await session.generate(a);
    const signer = await session.signer(a);
    lab.kms.fault('Sign', faults.corruptedSignature);
    const message = randomBytes(40);
    const corrupted = await signer.sign(message);
    expect(corrupted).toHaveLength(64);
    expect(corrupted).not.toEqual(await signer.sign(message));
    expect(await signs(info)).toBe(true);
  });

  it('is asked for as pure Ed25519 of the raw message', async () => {
    await session.generate(a);
    await (await session.signer(a)).sign(Buffer.from('message'));
    expect(lab.kms.last('Sign')?.input).toEqual({
      KeyId: await arnOf('a'),
      Message: Buffer.from('message').toString('base64'),
      MessageType: 'RAW',
      SigningAlgorithm: 'ED25519_SHA_512',
    });
  });

  it('waits its turn with many others, and is sent away when the slot closes meanwhile', async () => {
    await session.generate(a);
    const signer = await session.signer(a);
    const outcomes = Promise.allSettled(Array.from({ length: 200 }, () => signer.sign(randomBytes(10))));
    await session[Symbol.asyncDispose]();
    const refused = (await outcomes).filter(({ status }) => status === 'rejected');
    expect(refused.length).toBeGreaterThan(0);
    for (const outcome of refused) expect(outcome).toMatchObject({ reason: code('SESSION_CLOSED') });
  });
});

describe('a new key inside KMS', () => {
  it('says in its tags and description whose it is', async () => {
    await session.generate(a);
    const made = lab.kms.keys.get(await arnOf('a'));
    expect(Object.fromEntries(made.tags)).toEqual({ 'keyslot:slot': 'aws', 'keyslot:key': 'a' });
    expect(made).toMatchObject({ spec: 'ECC_NIST_EDWARDS25519', usage: 'SIGN_VERIFY', state: 'Enabled' });
  });

  const foreignPoint = Buffer.alloc(44, 2);
  Buffer.from('302a300506032b6570032100', 'hex').copy(foreignPoint);
  it.each<[string, string, Fault, string]>([
    ['its first signature is corrupted', 'Sign', faults.corruptedSignature, 'KEY_UNVERIFIED'],
    ['it may not sign', 'Sign', faults.denied, 'KMS_DENIED'],
    ['its public key may not be read', 'GetPublicKey', faults.denied, 'KMS_DENIED'],
    ['its public key is of another key', 'GetPublicKey', faults.otherKey, 'KMS_REPLY_WRONG'],
    [
      'its public key is no point of the curve',
      'GetPublicKey',
      { alter: reply => ({ ...reply, PublicKey: foreignPoint.toString('base64') }) },
      'KMS_KEY_UNSUITABLE',
    ],
    ['GetPublicKey breaks off', 'GetPublicKey', 'truncated', 'KMS_UNAVAILABLE'],
  ])('is scheduled for deletion when %s, and its id stays free', async (_, operation, fault, expected) => {
    lab.kms.fault(operation, fault);
    await expect(session.generate(a)).rejects.toMatchObject(code(expected));
    const made = lab.kms.keys.all().filter(key => key.tags.get('keyslot:key') === 'a');
    expect(made.map(key => [key.state, key.deletionWindow_days])).toEqual([['PendingDeletion', 30]]);
    expect(await readdir(join(lab.folder, 'keys'))).toEqual([]);
    expect(lines.join()).toContain(made[0]?.arn);
    expect(await signs(await session.generate(a))).toBe(true);
  });

  it('that cannot even be scheduled for deletion is named in the log', async () => {
    lab.kms.fault('Sign', faults.corruptedSignature);
    lab.kms.fault('ScheduleKeyDeletion', faults.denied);
    await expect(session.generate(a)).rejects.toMatchObject(code('KEY_UNVERIFIED'));
    const [made] = lab.kms.keys.all().filter(key => key.tags.get('keyslot:key') === 'a');
    expect(made?.state).toBe('Enabled');
    expect(lines.join()).toContain(made?.arn);
  });

  it('is made by one request: an answer that was lost is never asked for twice', async () => {
    await restart({ maxAttempts: 3 });
    lab.kms.fault('CreateKey', 'reset');
    await expect(session.generate(a)).rejects.toMatchObject(code('KMS_UNAVAILABLE'));
    expect(lab.kms.count('CreateKey')).toBe(1);
    expect(lines.join()).toContain('keyslot:key');
  });

  it('is waited for while KMS does not know it everywhere', async () => {
    lab.kms.fault('GetPublicKey', faults.unknownKey, 2);
    lab.kms.fault('Sign', faults.unknownKey);
    expect(await signs(await session.generate(a))).toBe(true);
  });

  it.each<[Fault, string]>([
    [{ error: 'LimitExceededException' }, 'KMS_THROTTLED'],
    [{ error: 'ValidationException' }, 'KMS_KEY_UNSUITABLE'], // a region without this KeySpec
    [{ error: 'UnsupportedOperationException' }, 'KMS_KEY_UNSUITABLE'],
  ])('is not made when KMS answers %o', async (fault, expected) => {
    lab.kms.fault('CreateKey', fault);
    await expect(session.generate(a)).rejects.toMatchObject(code(expected));
    expect(lab.kms.count('GetPublicKey')).toBe(0);
  });
});

describe('destroying', () => {
  it('schedules the deletion of a key that the slot made, as late as the settings say', async () => {
    await restart({ deletionWindow_days: 7 });
    await session.generate(a);
    const arn = await arnOf('a');
    await session.destroy(a);
    expect(lab.kms.keys.get(arn)).toMatchObject({ state: 'PendingDeletion', deletionWindow_days: 7 });
    await expect(session.signer(a)).rejects.toMatchObject(code('KEY_UNKNOWN'));
  });

  it('lets go of an adopted key and leaves it alone', async () => {
    const arn = signingKey();
    await session.adopt(a, arn);
    await session.destroy(a);
    expect(lab.kms.keys.get(arn).state).toBe('Enabled');
    expect(lab.kms.count('ScheduleKeyDeletion')).toBe(0);
    expect(await readdir(join(lab.folder, 'keys'))).toEqual([]);
  });

  it('leaves an adopted key alone even when this slot once made it', async () => {
    await session.generate(a);
    const arn = await arnOf('a');
    await rm(fileOf('a'));
    await restart({});
    await session.adopt(a, arn);
    await session.destroy(a);
    expect(lab.kms.keys.get(arn).state).toBe('Enabled');
  });

  it('deletes no key only because a file says that the slot made it', async () => {
    const arn = signingKey();
    await session.adopt(a, arn);
    const file = await readFile(fileOf('a'), 'utf8');
    await writeFile(fileOf('a'), file.replace('"adopted"', '"generated"'));
    await restart({});
    await session.destroy(a);
    expect(lab.kms.keys.get(arn).state).toBe('Enabled');
  });

  it('keeps the key when KMS refuses, and can be asked again', async () => {
    const info = await session.generate(a);
    lab.kms.fault('ScheduleKeyDeletion', faults.denied);
    await expect(session.destroy(a)).rejects.toMatchObject(code('KMS_DENIED'));
    expect(await signs(info)).toBe(true);
    await session.destroy(a);
    await expect(session.signer(a)).rejects.toMatchObject(code('KEY_UNKNOWN'));
  });

  it('lets go of a key that is pending deletion already, or gone', async () => {
    await session.generate(a);
    await session.generate(b);
    lab.kms.setState(await arnOf('a'), 'PendingDeletion');
    await session.destroy(a);
    lab.kms.fault('DescribeKey', faults.unknownKey);
    await session.destroy(b);
    expect(await readdir(join(lab.folder, 'keys'))).toEqual([]);
  });

  it('happens once when it is asked for twice at a time', async () => {
    await session.generate(a);
    const outcomes = await Promise.allSettled([session.destroy(a), session.destroy(a)]);
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(outcomes).toContainEqual(
      expect.objectContaining({ reason: expect.objectContaining(code('KEY_UNKNOWN')) }),
    );
  });
});

describe('adopting a KMS key', () => {
  it('is a power of the session', () => {
    expect(adopts(session)).toBe(true);
  });

  it.each([
    ['its ARN', (arn: string) => arn],
    ['its id', (arn: string) => arn.slice(arn.indexOf('/') + 1)],
    ['an alias', () => 'alias/treasury'],
    ['the ARN of an alias', (arn: string) => arn.replace(/key\/.*/, 'alias/treasury')],
  ])('takes %s, and the key signs, also after a restart', async (_, referenceOf) => {
    const arn = signingKey();
    lab.kms.createAlias('alias/treasury', arn);
    const info = await session.adopt(a, referenceOf(arn));
    expect(info).toMatchObject({ id: 'a', custody: 'kms-native', exportable: false });
    expect(await arnOf('a')).toBe(arn);
    await restart({});
    expect(await signs(info)).toBe(true);
  });

  it.each<[string, () => string, string]>([
    ['a symmetric key', () => lab.envelopeKey, 'KMS_KEY_UNSUITABLE'],
    ['a key of another curve', () => lab.kms.createKey('ECC_NIST_P256', 'SIGN_VERIFY'), 'KMS_KEY_UNSUITABLE'],
    ['a disabled key', () => inState(signingKey(), 'Disabled'), 'KMS_KEY_UNUSABLE'],
    ['a key pending deletion', () => inState(signingKey(), 'PendingDeletion'), 'KMS_KEY_UNUSABLE'],
    ['a key that is not there', () => '00000000-0000-0000-0000-000000000000', 'KMS_KEY_UNKNOWN'],
    ['an alias that is not there', () => 'alias/nobody', 'KMS_KEY_UNKNOWN'],
    ['a key of another region', () => signingKey().replace('eu-central-1', 'us-east-1'), 'KMS_KEY_UNKNOWN'],
  ])('refuses %s', async (_, reference, expected) => {
    await expect(session.adopt(a, reference())).rejects.toMatchObject(code(expected));
    expect(lab.kms.count('GetPublicKey')).toBe(0); // its description was enough
    expect(await readdir(join(lab.folder, 'keys'))).toEqual([]);
  });

  const inState = (arn: string, state: 'Disabled' | 'PendingDeletion') => {
    lab.kms.setState(arn, state);
    return arn;
  };

  it('refuses a description of another key than was asked for', async () => {
    const [asked, other] = [signingKey(), signingKey()];
    lab.kms.fault('DescribeKey', {
      alter: reply => ({ KeyMetadata: { ...(reply.KeyMetadata as object), Arn: other } }),
    });
    await expect(session.adopt(a, asked)).rejects.toMatchObject(code('KMS_REPLY_WRONG'));
  });

  it('refuses a key that does not prove itself, and deletes nothing', async () => {
    const arn = signingKey();
    lab.kms.fault('Sign', faults.corruptedSignature);
    await expect(session.adopt(a, arn)).rejects.toMatchObject(code('KEY_UNVERIFIED'));
    expect(lab.kms.keys.get(arn).state).toBe('Enabled');
  });

  it('binds a KMS key once, and a key id once, also when both are tried at a time', async () => {
    const [arn, other] = [signingKey(), signingKey()];
    const outcomes = await Promise.allSettled([session.adopt(a, arn), session.adopt(b, arn)]);
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    const bound = (await readdir(join(lab.folder, 'keys')))[0]?.startsWith('a') ? a : b;
    await expect(session.adopt(keyId('c'), arn)).rejects.toMatchObject(code('KEY_EXISTS'));
    await expect(session.adopt(bound, other)).rejects.toMatchObject(code('KEY_EXISTS'));
    await expect(session.generate(bound)).rejects.toMatchObject(code('KEY_EXISTS'));
  });
});

describe('the file of a binding', () => {
  it.each<[string, (file: string) => string, string]>([
    ['cut off', file => file.slice(0, 40), 'KEY_FILE_MALFORMED'],
    ['of another format', file => file.replace('keyslot-kms-key', 'other'), 'KEY_FILE_MALFORMED'],
    ['of another version', file => file.replace('"v": 1', '"v": 2'), 'KEY_FILE_MALFORMED'],
    ['of another origin', file => file.replace('"generated"', '"found"'), 'KEY_FILE_MALFORMED'],
    ['of another slot', file => file.replace('"aws"', '"other"'), 'KEY_FILE_FOREIGN'],
    ['of another key', file => file.replace('"key": "a"', '"key": "b"'), 'KEY_FILE_FOREIGN'],
  ])('that is %s fails by its own code and leaves the other keys working', async (_, change, expected) => {
    await session.generate(a);
    const other = await session.generate(b);
    const file = await readFile(fileOf('a'), 'utf8');
    const changed = change(file);
    expect(changed).not.toBe(file);
    await writeFile(fileOf('a'), changed);
    await restart({});
    await expect(session.signer(a)).rejects.toMatchObject(code(expected));
    const listed: string[] = [];
    for await (const info of session.keys()) listed.push(info.id);
    expect(listed).toEqual(['b']);
    expect(await signs(other)).toBe(true);
  });

  it('that names another KMS key than its public key belongs to is not signed with', async () => {
    await session.generate(a);
    await writeFile(
      fileOf('a'),
      (await readFile(fileOf('a'), 'utf8')).replace(await arnOf('a'), signingKey()),
    );
    await restart({});
    await expect(session.signer(a)).rejects.toMatchObject(code('KEY_FILE_TAMPERED'));
  });
});

describe('credentials and configuration', () => {
  it('an unknown access key and a wrong secret are refused by KMS, and the next try with the right ones works', async () => {
    const info = await session.generate(a);
    const { AWS_SECRET_ACCESS_KEY } = lab.kms.environment;
    process.env.AWS_ACCESS_KEY_ID = 'AKIASOMEBODYELSE0000';
    await restart({});
    await expect(signs(info)).rejects.toMatchObject(code('KMS_DENIED'));
    Object.assign(process.env, lab.kms.environment, { AWS_SECRET_ACCESS_KEY: 'wrong' });
    await restart({});
    await expect(signs(info)).rejects.toMatchObject(code('KMS_DENIED'));
    Object.assign(process.env, { AWS_SECRET_ACCESS_KEY });
    await restart({});
    expect(await signs(info)).toBe(true);
  });

  it('no credentials at all are KMS_DENIED, and nothing is sent', async () => {
    delete process.env.AWS_ACCESS_KEY_ID;
    await restart({});
    await expect(session.adopt(a, 'alias/x')).rejects.toMatchObject(code('KMS_DENIED'));
    expect(lab.kms.count('DescribeKey')).toBe(0);
  });

  it('no region is CONFIG_INVALID when the slot is described or opened', async () => {
    await under[Symbol.asyncDispose]();
    delete process.env.AWS_REGION;
    under = lab.engine(lab.settings('aws-native'), log);
    await expect((await slotOf(under)).describe()).rejects.toMatchObject(code('CONFIG_INVALID'));
    await expect(opened(under)).rejects.toMatchObject(code('CONFIG_INVALID'));
  });

  it('a profile gives region, endpoint and credentials', async () => {
    const { accessKeyId, secretAccessKey } = lab.kms.credentials;
    const config = join(lab.folder, 'config');
    const credentials = join(lab.folder, 'credentials');
    const services = `[services here]\nkms =\n  endpoint_url = ${lab.kms.endpoint}\n`;
    await writeFile(config, `[profile signer]\nregion = eu-west-3\nservices = here\n${services}`);
    await writeFile(
      credentials,
      `[signer]\naws_access_key_id = ${accessKeyId}\naws_secret_access_key = ${secretAccessKey}\n`,
    );
    for (const name of Object.keys(lab.kms.environment)) delete process.env[name];
    Object.assign(process.env, {
      AWS_PROFILE: 'signer',
      AWS_CONFIG_FILE: config,
      AWS_SHARED_CREDENTIALS_FILE: credentials,
    });
    await restart({});
    expect(await signs(await session.generate(a))).toBe(true);
    expect(lab.kms.last('Sign')?.headers.authorization).toContain('/eu-west-3/kms/');
  });

  it('region and endpoint of the settings come before those of the environment', async () => {
    process.env.AWS_ENDPOINT_URL_KMS = 'http://127.0.0.1:1';
    await restart({ region: 'us-west-2', endpoint: lab.kms.endpoint });
    expect(await signs(await session.generate(a))).toBe(true);
    expect(lab.kms.last('Sign')?.headers.authorization).toContain('/us-west-2/kms/');
    expect((await (await slotOf(under)).describe()).details).toMatchObject({
      region: 'us-west-2',
      endpoint: lab.kms.endpoint,
    });
  });

  it('an endpoint where nobody listens is KMS_UNAVAILABLE', async () => {
    await restart({ endpoint: 'http://127.0.0.1:1' });
    await expect(session.generate(a)).rejects.toMatchObject(code('KMS_UNAVAILABLE'));
  });

  it('the FIPS endpoint is asked of the SDK, by the settings or by the environment', async () => {
    const fips = async () => (await (await slotOf(under)).describe()).details.fipsEndpoint;
    expect(await fips()).toBe(false);
    await restart({ useFipsEndpoint: true });
    expect(await fips()).toBe(true);
    // The SDK joins it with no other endpoint, which is how one sees here that it heard of it.
    await expect(session.generate(a)).rejects.toMatchObject(code('CONFIG_INVALID'));
    process.env.AWS_USE_FIPS_ENDPOINT = 'true';
    await restart({});
    expect(await fips()).toBe(true);
    await restart({ useFipsEndpoint: false });
    expect(await fips()).toBe(false);
    expect(await signs(await session.generate(a))).toBe(true);
  });

  it('never shows a credential, whatever fails', async () => {
    await session.generate(a);
    const signer = await session.signer(a);
    const shown: string[] = [];
    const operations = ['CreateKey', 'DescribeKey', 'GetPublicKey', 'Sign', 'ScheduleKeyDeletion'];
    const everyFault: Fault[] = [...Object.values(faults), 'reset', 'truncated'];
    for (const fault of everyFault) {
      for (const operation of operations) lab.kms.fault(operation, fault);
      const attempts = [signer.sign(randomBytes(10)), session.generate(b), session.adopt(b, lab.envelopeKey)];
      for (const outcome of await Promise.allSettled(attempts)) {
        shown.push(inspect(outcome, { depth: 20, showHidden: true }));
      }
      lab.kms.heal();
    }
    expect(shown.join()).toContain('KMS_DENIED');
    expect(lines.length).toBeGreaterThan(0);
    const everything = [...shown, ...lines].join();
    expect(everything).not.toContain(lab.kms.credentials.secretAccessKey);
    expect(everything).not.toContain('Signature=');
    expect(everything).not.toContain(lab.kms.credentials.accessKeyId);
  });
});

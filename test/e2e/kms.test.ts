import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createVerifier } from '../../src/foundation/ed25519.ts';
import { faults, KmsServer } from '../aws/kms-server.ts';
import {
  type Appliance,
  base64,
  type Client,
  expectProblem,
  type Home,
  keyslot,
  prepareHome,
  refusal,
  run,
  serve,
} from './appliance.ts';

/** AWS KMS below the whole appliance: its credentials are found by the custodian, in the environment. */

const serving = ['--port', '0', '--ops-port', '0', '--json'];
let home: Home;
let kms: KmsServer;
let appliance: Appliance;
let developer: Client;

beforeAll(async () => {
  kms = await KmsServer.start();
  const keyId = kms.createKey('SYMMETRIC_DEFAULT', 'ENCRYPT_DECRYPT');
  home = await prepareHome();
  home.configure(config => {
    const slot = { engine: 'kms', pin: 'none', access: 'identity' };
    config.slots.push(
      { id: 'native', ...slot, settings: { mode: 'aws-native' } },
      { id: 'envelope', ...slot, settings: { mode: 'aws-envelope', keyId } },
    );
  });
  appliance = await start();
});

afterAll(async () => {
  developer?.close();
  await appliance?.stop();
  await kms?.[Symbol.asyncDispose]();
  home?.remove();
});

const start = async (environment: Readonly<Record<string, string>> = kms.environment) => {
  const started = await serve(home, { args: ['--home', home.path, ...serving], environment });
  developer = started.client();
  return started;
};

const command = async (...args: readonly string[]) => {
  const { status, stdout, stderr } = await run(keyslot, [...args, '--home', home.path, '--json']);
  return { status, output: JSON.parse(stdout || stderr) as Record<string, unknown> };
};

async function expectSigns(key: string): Promise<void> {
  const shown = await developer.get(`/v1/keys/${key}`);
  const message = Buffer.from(`signed by ${key}`);
  const { status, json } = await developer.post(`/v1/keys/${key}/sign-message`, { message: base64(message) });
  expect(status).toBe(200);
  expect(json.custody).toBe(shown.json.custody);
  const verifier = createVerifier(Buffer.from(String(shown.json.publicKeyBase64), 'base64'));
  expect(await verifier.verify(message, Buffer.from(String(json.signatureBase64), 'base64'))).toBe(true);
}

describe('keys in AWS KMS', () => {
  it('are made, sign, and say in every answer what they are', async () => {
    const native = await command('keys', 'generate', 'in-kms', '--slot', 'native');
    expect(native.output).toMatchObject({ custody: 'kms-native', exportable: false });
    const envelope = await command('keys', 'generate', 'by-kms', '--slot', 'envelope');
    expect(envelope.output).toMatchObject({ custody: 'kms-envelope', exportable: true });
    for (const key of ['in-kms', 'by-kms']) await expectSigns(key);
    const ready = await appliance.client('nobody').get('/readyz');
    expect(ready.json.checks).toContainEqual({
      id: 'slot/native',
      ok: true,
      state: 'open',
      custody: 'kms-native',
      since: expect.any(String),
      required: true,
      findings: { all: 0, harmful: 0 },
    });
  });

  it('are taken in by id, ARN or alias, once each, and only when they are of the right kind', async () => {
    const arn = kms.createKey('ECC_NIST_EDWARDS25519', 'SIGN_VERIFY');
    kms.createAlias('alias/payments', arn);
    const adopt = (key: string, reference: string) =>
      command('keys', 'adopt', key, '--slot', 'native', '--reference', reference);
    expect(await adopt('payments', 'alias/payments')).toMatchObject({
      status: 0,
      output: { id: 'payments', custody: 'kms-native', origin: 'imported' },
    });
    await expectSigns('payments');
    expect((await adopt('again', arn)).output).toMatchObject({ error: { code: 'KEY_EXISTS' } });
    expect((await adopt('nowhere', 'alias/nowhere')).output).toMatchObject({
      error: { code: 'KMS_KEY_UNKNOWN' },
    });
    const other = kms.createKey('ECC_NIST_P256', 'SIGN_VERIFY');
    expect((await adopt('other', other)).output).toMatchObject({ error: { code: 'KMS_KEY_UNSUITABLE' } });
  });

  it('have no PIN: none is taken, and no PIN session is opened', async () => {
    expectProblem(await developer.post('/v1/slots/native/open', { pin: '1234' }), 400, 'SLOT_HAS_NO_PIN');
    expectProblem(await developer.post('/v1/slots/native/sessions', { pin: '1234' }), 400, 'SLOT_HAS_NO_PIN');
  });

  it('answer with what is wrong when KMS does, and go on afterwards', async () => {
    const message = base64(Buffer.from('a message'));
    const sign = (key: string) => developer.post(`/v1/keys/${key}/sign-message`, { message });
    kms.fault('Sign', faults.throttled, 10);
    expectProblem(await sign('in-kms'), 503, 'KMS_THROTTLED');
    kms.heal();
    kms.fault('Decrypt', faults.denied, 1);
    expectProblem(await sign('by-kms'), 503, 'KMS_DENIED');
    kms.heal();
    kms.fault('Sign', faults.corruptedSignature, 1);
    expectProblem(await sign('in-kms'), 503, 'SIGNATURE_WITHHELD');
    for (const key of ['in-kms', 'by-kms', 'payments']) await expectSigns(key);
  });

  it('are found again after a restart, and other slots serve while KMS is away', async () => {
    await developer.post('/v1/keys', { id: 'in-token', slot: 'main' });
    await appliance.stop();
    developer.close();
    appliance = await start();
    for (const key of ['in-kms', 'by-kms', 'payments', 'in-token']) await expectSigns(key);
    kms.fault('Sign', 'reset', 100);
    expectProblem(
      await developer.post('/v1/keys/in-kms/sign-message', { message: base64(Buffer.from('x')) }),
      503,
      'KMS_UNAVAILABLE',
    );
    await expectSigns('in-token');
    kms.heal();
  });

  it('are not served with credentials that KMS does not know, and the start says so', async () => {
    await appliance.stop();
    developer.close();
    const wrong = { ...kms.environment, AWS_SECRET_ACCESS_KEY: 'not the secret' };
    expect(await refusal(serve(home, { args: ['--home', home.path, ...serving], environment: wrong }))).toBe(
      'KMS_DENIED',
    );
    appliance = await start();
    await expectSigns('by-kms');
  });
});

import { createPublicKey, verify } from 'node:crypto';
import {
  CancelKeyDeletionCommand,
  CreateAliasCommand,
  CreateKeyCommand,
  DecryptCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EnableKeyCommand,
  EncryptCommand,
  GetPublicKeyCommand,
  KMSClient,
  ListAliasesCommand,
  ScheduleKeyDeletionCommand,
  SignCommand,
  TagResourceCommand,
  VerifyCommand,
} from '@aws-sdk/client-kms';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { KmsServer } from './kms-server.ts';

let kms: KmsServer;
let client: KMSClient;
beforeAll(async () => {
  kms = await KmsServer.start();
  client = clientWith(kms.credentials);
});
afterAll(async () => {
  client.destroy();
  await kms[Symbol.asyncDispose]();
});

const clientWith = (credentials: { accessKeyId: string; secretAccessKey: string }) =>
  new KMSClient({ endpoint: kms.endpoint, region: kms.region, credentials, maxAttempts: 1 });
const signingKey = () => kms.createKey('ECC_NIST_EDWARDS25519', 'SIGN_VERIFY');
const symmetricKey = () => kms.createKey('SYMMETRIC_DEFAULT', 'ENCRYPT_DECRYPT');
const named = (name: string) => expect.objectContaining({ name });

describe('the KMS of the tests', () => {
  it('signs pure Ed25519, which OpenSSL verifies with the 44 bytes of GetPublicKey', async () => {
    const made = await client.send(
      new CreateKeyCommand({ KeySpec: 'ECC_NIST_EDWARDS25519', KeyUsage: 'SIGN_VERIFY' }),
    );
    const KeyId = made.KeyMetadata?.KeyId;
    const { PublicKey } = await client.send(new GetPublicKeyCommand({ KeyId }));
    expect(PublicKey).toHaveLength(44);
    const Message = Buffer.alloc(4_096, 1);
    const SigningAlgorithm = 'ED25519_SHA_512';
    const signed = await client.send(
      new SignCommand({ KeyId, Message, MessageType: 'RAW', SigningAlgorithm }),
    );
    expect(signed.KeyId).toBe(made.KeyMetadata?.Arn);
    const key = createPublicKey({ key: Buffer.from(PublicKey ?? []), format: 'der', type: 'spki' });
    expect(verify(null, Message, key, signed.Signature ?? Buffer.alloc(0))).toBe(true);
    const verifying = { KeyId, Message, SigningAlgorithm, Signature: signed.Signature } as const;
    expect((await client.send(new VerifyCommand(verifying))).SignatureValid).toBe(true);
    const other = new VerifyCommand({ ...verifying, Message: Buffer.from('other') });
    await expect(client.send(other)).rejects.toEqual(named('KMSInvalidSignatureException'));
  });

  it.each([
    ['a digest', { MessageType: 'DIGEST' } as const, 'ValidationException'],
    ['4,097 bytes', { Message: Buffer.alloc(4_097) }, 'ValidationException'],
    ['the prehashed form', { SigningAlgorithm: 'ED25519_PH_SHA_512' } as const, 'InvalidKeyUsageException'],
  ])('refuses to sign %s', async (_, more, name) => {
    const request = { KeyId: signingKey(), Message: Buffer.alloc(1), SigningAlgorithm: 'ED25519_SHA_512' };
    const command = new SignCommand({ ...request, SigningAlgorithm: 'ED25519_SHA_512', ...more });
    await expect(client.send(command)).rejects.toEqual(named(name));
  });

  it('opens what it sealed for the same context and key only', async () => {
    const KeyId = symmetricKey();
    const EncryptionContext = { b: '2', a: '1' };
    const sealed = await client.send(
      new EncryptCommand({ KeyId, Plaintext: Buffer.from('plain'), EncryptionContext }),
    );
    const opening = { CiphertextBlob: sealed.CiphertextBlob, KeyId, EncryptionContext: { a: '1', b: '2' } };
    const { Plaintext } = await client.send(new DecryptCommand(opening));
    expect(Buffer.from(Plaintext ?? []).toString()).toBe('plain');
    const refused = async (more: object, name: string) =>
      expect(client.send(new DecryptCommand({ ...opening, ...more }))).rejects.toEqual(named(name));
    await refused({ EncryptionContext: { a: '1' } }, 'InvalidCiphertextException');
    await refused({ EncryptionContext: { a: '1', B: '2' } }, 'InvalidCiphertextException');
    await refused({ KeyId: symmetricKey() }, 'IncorrectKeyException');
    await refused({ CiphertextBlob: Buffer.alloc(100) }, 'InvalidCiphertextException');
  });

  it('refuses requests of an unknown access key, with a wrong signature, or with none', async () => {
    const KeyId = symmetricKey();
    const asking = async (credentials: typeof kms.credentials) => {
      using _ = { [Symbol.dispose]: () => stranger.destroy() };
      const stranger = clientWith(credentials);
      return await stranger.send(new DescribeKeyCommand({ KeyId }));
    };
    const { accessKeyId, secretAccessKey } = kms.credentials;
    await expect(asking({ accessKeyId: 'AKIAOTHER', secretAccessKey })).rejects.toEqual(
      named('UnrecognizedClientException'),
    );
    await expect(asking({ accessKeyId, secretAccessKey: 'other' })).rejects.toEqual(
      named('InvalidSignatureException'),
    );
    const unsigned = await fetch(kms.endpoint, {
      method: 'POST',
      headers: { 'x-amz-target': 'TrentService.DescribeKey' },
      body: JSON.stringify({ KeyId }),
    });
    expect(unsigned.status).toBe(400);
    expect(await unsigned.json()).toMatchObject({ __type: 'MissingAuthenticationTokenException' });
  });

  it('knows keys by alias, takes tags, and switches them off, on and away', async () => {
    const KeyId = signingKey();
    const AliasName = 'alias/somebody';
    await client.send(new CreateAliasCommand({ AliasName, TargetKeyId: KeyId }));
    expect((await client.send(new ListAliasesCommand({}))).Aliases).toMatchObject([{ AliasName }]);
    await client.send(new TagResourceCommand({ KeyId, Tags: [{ TagKey: 'team', TagValue: 'treasury' }] }));
    expect(kms.keys.get(AliasName).tags.get('team')).toBe('treasury');
    const state = async () => {
      const { KeyMetadata } = await client.send(new DescribeKeyCommand({ KeyId: AliasName }));
      return KeyMetadata?.KeyState;
    };
    const publicKey = () => client.send(new GetPublicKeyCommand({ KeyId }));
    await client.send(new DisableKeyCommand({ KeyId }));
    expect(await state()).toBe('Disabled');
    await expect(publicKey()).rejects.toEqual(named('DisabledException'));
    await client.send(new EnableKeyCommand({ KeyId }));
    expect(await state()).toBe('Enabled');
    await client.send(new ScheduleKeyDeletionCommand({ KeyId, PendingWindowInDays: 7 }));
    expect(await state()).toBe('PendingDeletion');
    await expect(publicKey()).rejects.toEqual(named('KMSInvalidStateException'));
    await client.send(new CancelKeyDeletionCommand({ KeyId }));
    expect(await state()).toBe('Disabled');
  });
});

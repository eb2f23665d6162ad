import {
  createCipheriv,
  createDecipheriv,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  randomUUID,
  sign,
  verify,
} from 'node:crypto';

/** What KMS answers instead of a reply. */
export class KmsRefusal extends Error {
  constructor(name: string, message: string) {
    super(message);
    this.name = name;
  }
}

export type KeyState = 'Enabled' | 'Disabled' | 'PendingDeletion';
type Fields = Readonly<Record<string, unknown>>;
export type Reply = Record<string, unknown>;

interface StoredKey {
  readonly id: string;
  readonly arn: string;
  readonly spec: string;
  readonly usage: string;
  readonly description: string;
  readonly tags: Map<string, string>;
  /** Absent for a symmetric key. */
  readonly pair?: { readonly privateKey: KeyObject; readonly publicKey: KeyObject };
  /** Absent for a pair. */
  readonly symmetric?: Buffer;
  state: KeyState;
  deletionWindow_days?: number;
}

/** The keys of one account in one region, and what KMS does with them, with real cryptography. */
export class KmsKeys {
  readonly region: string;
  readonly account: string;
  readonly #keys = new Map<string, StoredKey>();
  readonly #aliases = new Map<string, string>();

  constructor(region: string, account: string) {
    this.region = region;
    this.account = account;
  }

  /** The operation of that name, or nothing when this server does not speak it. */
  operation(name: string): ((input: Fields) => Reply) | undefined {
    return Object.hasOwn(this.#operations, name) ? this.#operations[name] : undefined;
  }

  all(): readonly Readonly<StoredKey>[] {
    return [...this.#keys.values()];
  }

  get(reference: string): StoredKey {
    return this.#find(reference);
  }

  readonly #operations: Readonly<Record<string, (input: Fields) => Reply>> = {
    CreateKey: input => {
      const spec = textOr(input, 'KeySpec', 'SYMMETRIC_DEFAULT');
      const made = material(spec);
      if (made === undefined) throw invalid(`Value '${spec}' at 'keySpec' failed to satisfy constraint`);
      const usage = textOr(input, 'KeyUsage', 'ENCRYPT_DECRYPT');
      if ((made.pair !== undefined) !== (usage === 'SIGN_VERIFY')) {
        throw invalid(`KeyUsage ${usage} is not compatible with KeySpec ${spec}`);
      }
      const id = randomUUID();
      const key: StoredKey = {
        id,
        arn: `arn:aws:kms:${this.region}:${this.account}:key/${id}`,
        spec,
        usage,
        description: textOr(input, 'Description', ''),
        tags: tagsOf(input),
        state: 'Enabled',
        ...made,
      };
      this.#keys.set(id, key);
      return { KeyMetadata: metadataOf(key) };
    },
    DescribeKey: input => ({ KeyMetadata: metadataOf(this.#named(input)) }),
    GetPublicKey: input => {
      const key = this.#usable(input);
      if (key.pair === undefined) throw unsupported(key);
      return {
        KeyId: key.arn,
        KeySpec: key.spec,
        CustomerMasterKeySpec: key.spec,
        KeyUsage: key.usage,
        SigningAlgorithms: ['ED25519_SHA_512', 'ED25519_PH_SHA_512'],
        PublicKey: key.pair.publicKey.export({ format: 'der', type: 'spki' }).toString('base64'),
      };
    },
    Sign: input => {
      const { key, pair, message } = this.#signing(input);
      const signed = sign(null, message, pair.privateKey);
      return { KeyId: key.arn, Signature: signed.toString('base64'), SigningAlgorithm: 'ED25519_SHA_512' };
    },
    Verify: input => {
      const { key, pair, message } = this.#signing(input);
      if (!verify(null, message, pair.publicKey, blob(input, 'Signature', 6_144))) {
        throw new KmsRefusal('KMSInvalidSignatureException', 'The signature is not valid');
      }
      return { KeyId: key.arn, SignatureValid: true, SigningAlgorithm: 'ED25519_SHA_512' };
    },
    GenerateDataKey: input => {
      const key = this.#usable(input);
      if (input.KeySpec !== 'AES_256') throw invalid(`KeySpec ${String(input.KeySpec)} is not served here`);
      const plain = randomBytes(32);
      return {
        KeyId: key.arn,
        Plaintext: plain.toString('base64'),
        CiphertextBlob: sealed(key, plain, contextOf(input)).toString('base64'),
      };
    },
    Encrypt: input => {
      const key = this.#usable(input);
      const plain = blob(input, 'Plaintext', 4_096);
      return {
        KeyId: key.arn,
        CiphertextBlob: sealed(key, plain, contextOf(input)).toString('base64'),
        EncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
      };
    },
    Decrypt: input => {
      const ciphertext = blob(input, 'CiphertextBlob', 6_144);
      const owner = this.#keys.get(ciphertext.subarray(0, 36).toString('latin1'));
      if (owner === undefined) throw new KmsRefusal('InvalidCiphertextException', '');
      const key = input.KeyId === undefined ? owner : this.#named(input);
      refuseUnusable(key);
      if (key.symmetric === undefined) throw unsupported(key);
      if (key !== owner)
        throw new KmsRefusal(
          'IncorrectKeyException',
          'The key ID in the request does not identify a CMK that can perform this operation.',
        );
      return {
        KeyId: key.arn,
        Plaintext: opened(key, ciphertext, contextOf(input)).toString('base64'),
        EncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
      };
    },
    ScheduleKeyDeletion: input => {
      const key = this.#named(input);
      const days = typeof input.PendingWindowInDays === 'number' ? input.PendingWindowInDays : 30;
      if (days < 7 || days > 30) throw invalid('PendingWindowInDays must be between 7 and 30');
      if (key.state === 'PendingDeletion') throw pendingDeletion(key);
      key.state = 'PendingDeletion';
      key.deletionWindow_days = days;
      return {
        KeyId: key.arn,
        KeyState: key.state,
        PendingWindowInDays: days,
        DeletionDate: Date.now() / 1000 + days * 86_400,
      };
    },
    CancelKeyDeletion: input => {
      const key = this.#named(input);
      if (key.state !== 'PendingDeletion') {
        throw new KmsRefusal('KMSInvalidStateException', `${key.arn} is not pending deletion.`);
      }
      key.state = 'Disabled';
      return { KeyId: key.arn };
    },
    EnableKey: input => this.#switch(input, 'Enabled'),
    DisableKey: input => this.#switch(input, 'Disabled'),
    CreateAlias: input => {
      const name = textOr(input, 'AliasName', '');
      if (!name.startsWith('alias/')) throw new KmsRefusal('InvalidAliasNameException', name);
      if (this.#aliases.has(name)) throw new KmsRefusal('AlreadyExistsException', `${name} already exists`);
      this.#aliases.set(name, this.#find(textOr(input, 'TargetKeyId', '')).id);
      return {};
    },
    ListAliases: () => ({
      Aliases: [...this.#aliases].map(([AliasName, TargetKeyId]) => ({
        AliasName,
        TargetKeyId,
        AliasArn: `arn:aws:kms:${this.region}:${this.account}:${AliasName}`,
      })),
      Truncated: false,
    }),
    TagResource: input => {
      const key = this.#named(input);
      for (const [name, value] of tagsOf(input)) key.tags.set(name, value);
      return {};
    },
  };

  #switch(input: Fields, state: KeyState): Reply {
    const key = this.#named(input);
    if (key.state === 'PendingDeletion') throw pendingDeletion(key);
    key.state = state;
    return {};
  }

  #signing(input: Fields) {
    const key = this.#usable(input);
    if (input.EncryptionContext !== undefined) throw invalid('EncryptionContext is not supported');
    if (key.pair === undefined) throw unsupported(key);
    if (input.SigningAlgorithm !== 'ED25519_SHA_512' || key.spec !== 'ECC_NIST_EDWARDS25519') {
      throw new KmsRefusal('InvalidKeyUsageException', `Algorithm ${String(input.SigningAlgorithm)}`);
    }
    const type = textOr(input, 'MessageType', 'RAW');
    if (type !== 'RAW') throw invalid(`Message type ${type} is incompatible with ED25519_SHA_512`);
    return { key, pair: key.pair, message: blob(input, 'Message', 4_096) };
  }

  #usable(input: Fields): StoredKey {
    const key = this.#named(input);
    refuseUnusable(key);
    return key;
  }

  #named(input: Fields): StoredKey {
    return this.#find(textOr(input, 'KeyId', ''));
  }

  /** By key id, ARN, alias or ARN of an alias. */
  #find(reference: string): StoredKey {
    if (reference === '') throw invalid("Value null at 'keyId' failed to satisfy constraint");
    const prefix = `arn:aws:kms:${this.region}:${this.account}:`;
    if (reference.startsWith('arn:') && !reference.startsWith(prefix)) {
      throw new KmsRefusal('NotFoundException', `Invalid arn ${reference}`);
    }
    const name = reference.startsWith(prefix) ? reference.slice(prefix.length) : reference;
    const id = name.startsWith('alias/') ? this.#aliases.get(name) : name.replace(/^key\//, '');
    const key = id === undefined ? undefined : this.#keys.get(id);
    if (key === undefined) throw new KmsRefusal('NotFoundException', `Key '${reference}' does not exist`);
    return key;
  }
}

function material(spec: string): Pick<StoredKey, 'pair' | 'symmetric'> | undefined {
  switch (spec) {
    case 'SYMMETRIC_DEFAULT':
      return { symmetric: randomBytes(32) };
    case 'ECC_NIST_EDWARDS25519':
      return { pair: generateKeyPairSync('ed25519') };
    case 'ECC_NIST_P256':
      return { pair: generateKeyPairSync('ec', { namedCurve: 'P-256' }) };
    default:
      return undefined;
  }
}

// A ciphertext: 36 bytes of key id, IV, tag, and the rest. The context is the associated data, as in KMS.
function sealed(key: StoredKey, plain: Buffer, context: Buffer): Buffer {
  if (key.symmetric === undefined) throw unsupported(key);
  const iv = randomBytes(12);
  const cipher = createCipheriv('aes-256-gcm', key.symmetric, iv);
  cipher.setAAD(context);
  const data = Buffer.concat([cipher.update(plain), cipher.final()]);
  return Buffer.concat([Buffer.from(key.id, 'latin1'), iv, cipher.getAuthTag(), data]);
}

function opened({ symmetric }: StoredKey, ciphertext: Buffer, context: Buffer): Buffer {
  if (symmetric === undefined || ciphertext.length < 65)
    throw new KmsRefusal('InvalidCiphertextException', '');
  const decipher = createDecipheriv('aes-256-gcm', symmetric, ciphertext.subarray(36, 48));
  decipher.setAAD(context);
  decipher.setAuthTag(ciphertext.subarray(48, 64));
  const plain = decipher.update(ciphertext.subarray(64));
  try {
    decipher.final();
  } catch {
    throw new KmsRefusal('InvalidCiphertextException', ''); // as terse as KMS is
  }
  return plain;
}

const metadataOf = (key: StoredKey): Reply => ({
  AWSAccountId: key.arn.split(':')[4],
  Arn: key.arn,
  KeyId: key.id,
  KeySpec: key.spec,
  CustomerMasterKeySpec: key.spec,
  KeyUsage: key.usage,
  KeyState: key.state,
  Enabled: key.state === 'Enabled',
  Description: key.description,
  KeyManager: 'CUSTOMER',
  Origin: 'AWS_KMS',
  MultiRegion: false,
});

function refuseUnusable(key: StoredKey): void {
  if (key.state === 'Disabled') throw new KmsRefusal('DisabledException', `${key.arn} is disabled.`);
  if (key.state === 'PendingDeletion') throw pendingDeletion(key);
}

const pendingDeletion = (key: StoredKey) =>
  new KmsRefusal('KMSInvalidStateException', `${key.arn} is pending deletion.`);
const unsupported = (key: StoredKey) =>
  new KmsRefusal('InvalidKeyUsageException', `${key.arn} key usage is ${key.usage}`);
const invalid = (message: string) =>
  new KmsRefusal('ValidationException', `1 validation error detected: ${message}`);

const textOr = (fields: Fields, name: string, otherwise: string): string => {
  const value = fields[name];
  return typeof value === 'string' ? value : otherwise;
};

function blob(fields: Fields, name: string, bytes_max: number): Buffer {
  const bytes = Buffer.from(textOr(fields, name, ''), 'base64');
  if (bytes.length > bytes_max) {
    throw invalid(
      `Value at '${name.toLowerCase()}' failed to satisfy constraint: Member must have length less than or equal to ${bytes_max}`,
    );
  }
  return bytes;
}

function contextOf({ EncryptionContext: context }: Fields): Buffer {
  const pairs = typeof context === 'object' && context !== null ? Object.entries(context) : [];
  return Buffer.from(JSON.stringify(pairs.sort(([a], [b]) => (a < b ? -1 : 1))));
}

function tagsOf({ Tags: tags }: Fields): Map<string, string> {
  const list = Array.isArray(tags) ? (tags as { TagKey: string; TagValue: string }[]) : [];
  return new Map(list.map(({ TagKey, TagValue }) => [TagKey, TagValue]));
}

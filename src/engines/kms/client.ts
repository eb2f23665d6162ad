import {
  CreateKeyCommand,
  DecryptCommand,
  DescribeKeyCommand,
  GenerateDataKeyCommand,
  GetPublicKeyCommand,
  type KeyMetadata,
  KMSClient,
  type KMSClientConfig,
  ScheduleKeyDeletionCommand,
  SignCommand,
} from '@aws-sdk/client-kms';
import type { PublicKeyBytes } from '../../custody/ids.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import { limits } from '../../foundation/limits.ts';
import { Secret } from '../../foundation/secret.ts';
import { kmsError } from './errors.ts';
import { abortedError, Gate } from './gate.ts';
import type { AwsKmsSettings } from './settings.ts';
import { publicKeyOfSpki } from './spki.ts';

/**
 * The seam at the AWS SDK: the operations in use, each with its reply checked. Every call has a deadline that
 * covers all its attempts, and an abort is answered at once: REQUEST_ABORTED. At most `requestsAtOnce` run at a
 * time; the others wait in order, SLOT_BUSY when too many do. What KMS refuses is translated in `errors.ts`.
 */
export class KmsClient implements Disposable {
  readonly #repeating: KMSClient;
  /** For what must not be done twice when an answer was lost: it tries once. */
  readonly #once: KMSClient;
  readonly #timeout_ms: number;
  readonly #gate = new Gate(requestsAtOnce, limits.slotQueue_items_max);

  constructor(settings: AwsKmsSettings) {
    this.#repeating = new KMSClient(configOf(settings, settings.maxAttempts));
    this.#once = new KMSClient(configOf(settings, 1));
    this.#timeout_ms = settings.timeout_ms;
  }

  /** What the settings, or else the environment, say of where KMS is. CONFIG_INVALID without a region. */
  async place(): Promise<{ readonly region: string; readonly fips: boolean }> {
    const { region, useFipsEndpoint } = this.#repeating.config;
    try {
      return { region: await region(), fips: await useFipsEndpoint() };
    } catch (cause) {
      const detail = 'No AWS region: set region of the slot, or AWS_REGION, or a profile with a region.';
      throw new KeyslotError('CONFIG_INVALID', detail, { cause });
    }
  }

  /** By key id, ARN or alias. KMS_REPLY_WRONG when the answer is about another key. */
  async describeKey(reference: string, signal?: AbortSignal): Promise<KmsKey> {
    const { KeyMetadata } = await this.#call(`DescribeKey of ${shown(reference)}`, signal, options =>
      this.#repeating.send(new DescribeKeyCommand({ KeyId: reference }), options),
    );
    const key = keyOf(KeyMetadata, reference);
    if (!answersFor(reference, key.arn)) throw wrongReply('DescribeKey', reference, key.arn);
    return key;
  }

  /** An Ed25519 signing key. Tried once: a lost answer may leave a key behind, which its tags then name. */
  async createSigningKey(description: string, tags: Readonly<Record<string, string>>): Promise<KmsKey> {
    const { KeyMetadata } = await this.#call('CreateKey', undefined, options =>
      this.#once.send(
        new CreateKeyCommand({
          KeySpec: 'ECC_NIST_EDWARDS25519',
          KeyUsage: 'SIGN_VERIFY',
          Description: description,
          Tags: Object.entries(tags).map(([TagKey, TagValue]) => ({ TagKey, TagValue })),
        }),
        options,
      ),
    );
    return keyOf(KeyMetadata, 'the new key');
  }

  async publicKey(arn: string, signal?: AbortSignal): Promise<PublicKeyBytes> {
    const { KeyId, PublicKey } = await this.#call(`GetPublicKey of ${arn}`, signal, options =>
      this.#repeating.send(new GetPublicKeyCommand({ KeyId: arn }), options),
    );
    refuseOther('GetPublicKey', arn, KeyId);
    return publicKeyOfSpki(PublicKey ?? new Uint8Array(), arn);
  }

  /** Pure Ed25519 over the message itself. The bytes are 64 and from this key; they are not verified here. */
  async sign(arn: string, message: Uint8Array, signal?: AbortSignal): Promise<Uint8Array> {
    const { KeyId, Signature } = await this.#call(`Sign with ${arn}`, signal, options =>
      this.#repeating.send(
        new SignCommand({
          KeyId: arn,
          Message: message,
          MessageType: 'RAW',
          SigningAlgorithm: 'ED25519_SHA_512',
        }),
        options,
      ),
    );
    refuseOther('Sign', arn, KeyId);
    if (Signature?.length === 64) return Signature;
    throw new KeyslotError('KMS_REPLY_WRONG', `Sign with ${arn} answered ${Signature?.length ?? 0} bytes.`);
  }

  /** 32 bytes in the clear, which the caller disposes, and sealed. */
  async generateDataKey(arn: string, context: EncryptionContext, signal?: AbortSignal): Promise<DataKey> {
    const { KeyId, Plaintext, CiphertextBlob } = await this.#call(
      `GenerateDataKey of ${arn}`,
      signal,
      options =>
        this.#repeating.send(
          new GenerateDataKeyCommand({ KeyId: arn, KeySpec: 'AES_256', EncryptionContext: context }),
          options,
        ),
    );
    const plain = taken(Plaintext);
    if (answersFor(arn, KeyId) && plain.length === dataKey_bytes && CiphertextBlob?.length) {
      return { plain, sealed: CiphertextBlob };
    }
    plain[Symbol.dispose]();
    throw wrongReply('GenerateDataKey', arn, KeyId);
  }

  /** The data key, which the caller disposes. KEY_FILE_TAMPERED for another ciphertext, key or context. */
  async decryptDataKey(
    arn: string,
    sealed: Uint8Array,
    context: EncryptionContext,
    signal?: AbortSignal,
  ): Promise<Secret> {
    const { KeyId, Plaintext } = await this.#call(`Decrypt with ${arn}`, signal, options =>
      this.#repeating.send(
        new DecryptCommand({ KeyId: arn, CiphertextBlob: sealed, EncryptionContext: context }),
        options,
      ),
    );
    const plain = taken(Plaintext);
    if (answersFor(arn, KeyId) && plain.length === dataKey_bytes) return plain;
    plain[Symbol.dispose]();
    throw wrongReply('Decrypt', arn, KeyId);
  }

  async scheduleKeyDeletion(arn: string, window_days: number): Promise<void> {
    const { KeyId } = await this.#call(`ScheduleKeyDeletion of ${arn}`, undefined, options =>
      this.#repeating.send(
        new ScheduleKeyDeletionCommand({ KeyId: arn, PendingWindowInDays: window_days }),
        options,
      ),
    );
    refuseOther('ScheduleKeyDeletion', arn, KeyId);
  }

  refuseWaiting(error: KeyslotError): void {
    this.#gate.refuseWaiting(error);
  }

  [Symbol.dispose](): void {
    this.#repeating.destroy();
    this.#once.destroy();
  }

  #call<T>(what: string, signal: AbortSignal | undefined, send: Send<T>): Promise<T> {
    return this.#gate.pass(() => this.#inTime(what, signal, send), signal);
  }

  /** Races the call with its deadline and its caller: the SDK may take its time to notice either. */
  async #inTime<T>(what: string, signal: AbortSignal | undefined, send: Send<T>): Promise<T> {
    if (signal?.aborted) throw abortedError(); // between being admitted and being served
    const { promise: ended, reject } = Promise.withResolvers<never>();
    const controller = new AbortController();
    const end = (error: KeyslotError) => {
      reject(error); // before the SDK is told, which answers with an error of its own
      controller.abort();
    };
    const aborted = () => end(abortedError());
    const timer = setTimeout(() => end(tooLate(what, this.#timeout_ms)), this.#timeout_ms);
    signal?.addEventListener('abort', aborted, { once: true });
    try {
      return await Promise.race([ended, send({ abortSignal: controller.signal })]);
    } catch (thrown) {
      throw kmsError(thrown, what);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', aborted);
    }
  }
}

/** What DescribeKey says of a key, as far as it is looked at. */
export interface KmsKey {
  readonly arn: string;
  readonly spec: string;
  readonly usage: string;
  readonly state: string;
  readonly description: string;
}

/** KMS_KEY_UNSUITABLE for a key of another kind, KMS_KEY_UNUSABLE for one that is disabled or on its way out. */
export function refuseUnfit({ arn, spec, usage, state }: KmsKey, kind: KeyKind): void {
  if (spec !== kind.spec || usage !== kind.usage) {
    const detail = `${arn} is ${spec} for ${usage}, not ${kind.spec} for ${kind.usage}.`;
    throw new KeyslotError('KMS_KEY_UNSUITABLE', detail);
  }
  if (state !== 'Enabled') throw new KeyslotError('KMS_KEY_UNUSABLE', `${arn} is in state ${state}.`);
}

type KeyKind = Pick<KmsKey, 'spec' | 'usage'>;
export const signingKind: KeyKind = { spec: 'ECC_NIST_EDWARDS25519', usage: 'SIGN_VERIFY' };
export const envelopeKind: KeyKind = { spec: 'SYMMETRIC_DEFAULT', usage: 'ENCRYPT_DECRYPT' };

export interface DataKey {
  readonly plain: Secret;
  readonly sealed: Uint8Array;
}

export type EncryptionContext = Record<string, string>;

type Send<T> = (options: { abortSignal: AbortSignal }) => Promise<T>;

/** As many as the SDK opens connections by default. */
const requestsAtOnce = 50;
const dataKey_bytes = 32;

function configOf(settings: AwsKmsSettings, maxAttempts: number): KMSClientConfig {
  const { region, endpoint, useFipsEndpoint, timeout_ms } = settings;
  const agent = { keepAlive: true, maxSockets: requestsAtOnce };
  return {
    maxAttempts,
    retryMode: 'standard',
    requestHandler: {
      connectionTimeout: timeout_ms,
      requestTimeout: timeout_ms,
      throwOnRequestTimeout: true,
      httpAgent: agent,
      httpsAgent: agent,
    },
    // What is left out is looked up by the SDK itself, as are the credentials.
    ...(region === undefined ? {} : { region }),
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(useFipsEndpoint === undefined ? {} : { useFipsEndpoint }),
  };
}

function keyOf(metadata: KeyMetadata | undefined, reference: string): KmsKey {
  const { Arn, KeySpec, KeyUsage, KeyState, Description } = metadata ?? {};
  if (Arn === undefined) throw wrongReply('KMS', reference, undefined);
  return {
    arn: Arn,
    spec: KeySpec ?? 'unknown',
    usage: KeyUsage ?? 'unknown',
    state: KeyState ?? 'unknown',
    description: Description ?? '',
  };
}

/** An alias may stand for any key; an ARN for itself, and a key id for the ARN that ends with it. */
function answersFor(reference: string, arn: string | undefined): boolean {
  if (arn === undefined) return false;
  if (/^(arn:[^/]*:)?alias\//.test(reference)) return true;
  return arn === reference || arn.endsWith(`:key/${reference}`);
}

function refuseOther(action: string, arn: string, answered: string | undefined): void {
  if (!answersFor(arn, answered)) throw wrongReply(action, arn, answered);
}

const wrongReply = (action: string, asked: string, answered: string | undefined) =>
  new KeyslotError(
    'KMS_REPLY_WRONG',
    `${action} was asked for ${shown(asked)} and answered for ${answered === undefined ? 'none, or without what was asked for' : shown(answered)}.`,
  );

const tooLate = (what: string, timeout_ms: number) =>
  new KeyslotError('KMS_UNAVAILABLE', `${what} did not finish within ${timeout_ms} ms.`);

/** The bytes as a secret, and wiped where the SDK has put them. Its text of the reply cannot be wiped. */
const taken = (bytes: Uint8Array | undefined): Secret =>
  Secret.fromBytes(bytes ?? new Uint8Array(), { wipe: true });

/** A name that a caller gave or KMS answered, short and of visible ASCII only. */
export const shown = (name: string): string => name.slice(0, 256).replace(/[^\x21-\x7e]/g, '?');

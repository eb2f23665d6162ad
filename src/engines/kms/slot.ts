import type { Session, Slot, SlotDescription } from '../../custody/engine.ts';
import type { SlotId } from '../../custody/ids.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import type { Log } from '../../foundation/log.ts';
import type { Secret } from '../../foundation/secret.ts';
import { KeyFolder } from '../../sealing/key-folder.ts';
import { SealedSession } from '../../sealing/sealed-session.ts';
import { Bindings } from './bindings.ts';
import { envelopeKind, KmsClient, refuseUnfit } from './client.ts';
import { KmsEnvelopeForm } from './envelope-form.ts';
import { abortedError } from './gate.ts';
import { NativeSession } from './session.ts';
import type { AwsKmsSettings, EnvelopeKmsSettings, NativeKmsSettings } from './settings.ts';

/** A slot in AWS KMS: what opens it is not a PIN but the credentials that the AWS SDK finds. */
export class KmsSlot implements Slot, AsyncDisposable {
  readonly id: SlotId;
  readonly #settings: AwsKmsSettings & InFolder;
  readonly #log: Log;
  readonly #client: KmsClient;
  #session: Session | undefined;
  #opening = false;
  #ended = false;

  constructor(id: SlotId, settings: AwsKmsSettings & InFolder, log: Log) {
    this.id = id;
    this.#settings = settings;
    this.#log = log;
    this.#client = new KmsClient(settings);
  }

  /** Asks nobody but the settings and the environment: opening is what shows whether KMS can be reached. */
  async describe(): Promise<SlotDescription> {
    const { mode, folder, endpoint } = this.#settings;
    const { region, fips } = await this.#client.place();
    return {
      id: this.id,
      engine: 'kms',
      custody: mode === 'aws-native' ? 'kms-native' : 'kms-envelope',
      summary:
        mode === 'aws-native'
          ? `Keys inside AWS KMS in ${region}; they never leave it.`
          : `Seeds in files, sealed under the AWS KMS key ${this.#settings.keyId} in ${region}.`,
      details: {
        mode,
        region,
        fipsEndpoint: fips,
        folder,
        ...(mode === 'aws-envelope' ? { keyId: this.#settings.keyId } : {}),
        ...(endpoint === undefined ? {} : { endpoint }),
      },
    };
  }

  /**
   * The PIN is not looked at. Envelopes: the KMS key is asked for, which proves that it can be reached and is
   * fit (KMS_UNAVAILABLE, KMS_DENIED, KMS_KEY_UNKNOWN, KMS_KEY_UNSUITABLE, KMS_KEY_UNUSABLE). Native: each key
   * is held against KMS when its signer is asked for. CONFIG_INVALID without a region, KEY_FILE_UNSAFE,
   * KEY_FILE_UNWRITABLE, SLOT_OPEN.
   */
  async open(_pin: Secret, signal?: AbortSignal): Promise<Session> {
    if (this.#ended) throw endedError(this.id);
    if (signal?.aborted) throw abortedError();
    if (this.#session || this.#opening) {
      throw new KeyslotError('SLOT_OPEN', `Slot ${this.id} is open already.`);
    }
    this.#opening = true;
    try {
      const session = await this.#opened(signal);
      if (this.#ended) throw endedError(this.id); // nothing of it is in use yet
      this.#session = session;
      return session;
    } finally {
      this.#opening = false;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    await this.#session?.[Symbol.asyncDispose]();
    this.#client[Symbol.dispose]();
  }

  async #opened(signal: AbortSignal | undefined): Promise<Session> {
    await this.#client.place();
    const folder = await KeyFolder.open(this.#settings.folder);
    switch (this.#settings.mode) {
      case 'aws-native':
        return this.#openedNative(this.#settings, folder);
      case 'aws-envelope':
        return await this.#openedEnvelope(this.#settings, folder, signal);
    }
  }

  #openedNative({ deletionWindow_days }: NativeKmsSettings, folder: KeyFolder): Session {
    return new NativeSession({
      slot: this.id,
      client: this.#client,
      bindings: new Bindings(this.id, folder, this.#log),
      deletionWindow_days,
      log: this.#log,
      closed: () => this.#closed(),
    });
  }

  async #openedEnvelope(
    { keyId, unwrapCache_ms }: EnvelopeKmsSettings,
    folder: KeyFolder,
    signal: AbortSignal | undefined,
  ): Promise<Session> {
    const key = await this.#client.describeKey(keyId, signal);
    refuseUnfit(key, envelopeKind);
    const form = new KmsEnvelopeForm(this.id, key.arn, this.#client);
    return new SealedSession({
      slot: this.id,
      folder,
      forms: [form],
      writes: form,
      custody: 'kms-envelope',
      unwrapCache_ms,
      log: this.#log,
      closed: () => this.#closed(),
    });
  }

  #closed(): void {
    this.#session = undefined;
  }
}

export interface InFolder {
  /** An absolute path. */
  readonly folder: string;
}

const endedError = (id: SlotId) =>
  new KeyslotError('TOKEN_UNAVAILABLE', `The engine of slot ${id} has ended.`);

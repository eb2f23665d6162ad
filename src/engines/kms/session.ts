import { randomBytes } from 'node:crypto';
import { setTimeout as wait } from 'node:timers/promises';
import type { Adopts, Destroys, Generates, KeyInfo, Session, Signer } from '../../custody/engine.ts';
import { isId, type KeyId, type PublicKeyBytes, type SlotId } from '../../custody/ids.ts';
import { InFlight } from '../../custody/in-flight.ts';
import { createVerifier } from '../../foundation/ed25519.ts';
import { isKeyslotError, KeyslotError } from '../../foundation/errors.ts';
import type { Log } from '../../foundation/log.ts';
import type { Binding, Bindings } from './bindings.ts';
import { type KmsClient, type KmsKey, refuseUnfit, shown, signingKind } from './client.ts';
import { NativeSigner } from './signer.ts';

/**
 * A slot whose keys are in AWS KMS and never leave it. A key id is bound to the ARN of a KMS key; a key that
 * this session had KMS make is scheduled for deletion when it is destroyed, an adopted one is only let go of.
 */
export class NativeSession implements Session, Generates, Adopts, Destroys {
  readonly slot: SlotId;
  readonly #setting: NativeSessionSetting;
  readonly #client: KmsClient;
  readonly #bindings: Bindings;
  readonly #life: InFlight;
  readonly #proven = new WeakSet<Binding>();
  /** Key ids and KMS keys that are being bound or let go of. */
  readonly #changing = new Set<string>();

  constructor(setting: NativeSessionSetting) {
    this.slot = setting.slot;
    this.#setting = setting;
    this.#client = setting.client;
    this.#bindings = setting.bindings;
    this.#life = new InFlight(setting.slot);
  }

  async *keys(): AsyncIterable<KeyInfo> {
    const bindings = await this.#life.track(() => this.#bindings.all());
    for (const binding of bindings) yield infoOf(binding);
  }

  /** Holds the public key of the file against the one of KMS, once: KEY_FILE_TAMPERED when they differ. */
  async signer(key: KeyId): Promise<Signer> {
    const binding = await this.#life.track(async () => {
      const found = await this.#bound(key);
      await this.#prove(found);
      return found;
    });
    return new NativeSigner(infoOf(binding), {
      refuseGone: () => {
        this.#life.refuseEnded();
        if (!this.#bindings.holds(binding)) throw unknownKey(key);
      },
      sign: (message, signal) => this.#life.track(() => this.#client.sign(binding.kmsKey, message, signal)),
    });
  }

  /**
   * Has KMS make the key, has it prove itself, and binds it. When that fails half-way, the new KMS key is
   * scheduled for deletion; when not even that succeeds, the log names it. KEY_EXISTS, KEY_UNVERIFIED.
   */
  async generate(key: KeyId): Promise<KeyInfo> {
    return await this.#life.track(() =>
      this.#changingAlone(key, async () => {
        await this.#refuseExisting(key);
        const made = await this.#create(key);
        try {
          const publicKey = await this.#challenged(key, made.arn);
          return await this.#bind({ key, kmsKey: made.arn, publicKey, origin: 'generated' });
        } catch (error) {
          await this.#discard(key, made.arn);
          throw error;
        }
      }),
    );
  }

  /**
   * Binds a KMS key that exists: an Ed25519 signing key, enabled, not bound here yet. It signs a challenge.
   * KEY_EXISTS, KMS_KEY_UNKNOWN, KMS_KEY_UNSUITABLE, KMS_KEY_UNUSABLE, KEY_UNVERIFIED.
   */
  async adopt(key: KeyId, reference: string): Promise<KeyInfo> {
    return await this.#life.track(() =>
      this.#changingAlone(key, async () => {
        await this.#refuseExisting(key);
        const found = await this.#client.describeKey(reference);
        refuseUnfit(found, signingKind);
        return await this.#changingAlone(found.arn, async () => {
          await this.#refuseBound(found.arn);
          const publicKey = await this.#challenged(key, found.arn);
          return await this.#bind({ key, kmsKey: found.arn, publicKey, origin: 'adopted' });
        });
      }),
    );
  }

  /** The KMS key goes first: when KMS refuses, the key is still bound and can be destroyed again. */
  async destroy(key: KeyId): Promise<void> {
    await this.#life.track(() =>
      this.#changingAlone(
        key,
        async () => {
          const binding = await this.#bound(key);
          if (binding.origin === 'generated') await this.#scheduleDeletion(binding);
          await this.#bindings.remove(key);
        },
        unknownKey(key), // it is not there yet, or not for long
      ),
    );
  }

  /** Who waits for KMS is sent away; what KMS has begun is waited for. */
  [Symbol.asyncDispose](): Promise<void> {
    const ended = this.#life.end(() => this.#setting.closed());
    this.#client.refuseWaiting(new KeyslotError('SESSION_CLOSED', `Slot ${this.slot} was closed.`));
    return ended;
  }

  async #bound(key: KeyId): Promise<Binding> {
    const binding = await this.#bindings.find(key);
    if (binding) return binding;
    throw unknownKey(key);
  }

  async #refuseExisting(key: KeyId): Promise<void> {
    if (!isId(key)) throw new KeyslotError('KEY_ID_INVALID', 'This is not a key id.');
    if (await this.#bindings.find(key)) throw existing(key);
  }

  /** One KMS key under two ids would be destroyed under both when it is destroyed under one. */
  async #refuseBound(kmsKey: string): Promise<void> {
    const other = (await this.#bindings.all()).find(binding => binding.kmsKey === kmsKey);
    if (other) throw new KeyslotError('KEY_EXISTS', `${kmsKey} is bound as ${other.key} already.`);
  }

  async #create(key: KeyId): Promise<KmsKey> {
    const tags = { 'keyslot:slot': this.slot, 'keyslot:key': key };
    try {
      return await this.#client.createSigningKey(this.#descriptionOf(key), tags);
    } catch (error) {
      if (isKeyslotError(error) && error.code === 'KMS_UNAVAILABLE') {
        const fields = { slot: this.slot, key, tags };
        this.#setting.log.warn(fields, 'nobody knows whether KMS made a key: look for one with these tags');
      }
      throw error;
    }
  }

  /** The public key, after the KMS key has signed a challenge for it. KEY_UNVERIFIED. */
  async #challenged(key: KeyId, arn: string): Promise<PublicKeyBytes> {
    const publicKey = await onceKnown(() => this.#client.publicKey(arn));
    const challenge = randomBytes(32);
    const signed = await onceKnown(() => this.#client.sign(arn, challenge));
    if (await createVerifier(publicKey).verify(challenge, signed)) return publicKey;
    throw new KeyslotError('KEY_UNVERIFIED', `The signature of ${key} (${arn}) does not verify.`);
  }

  async #bind(binding: Binding): Promise<KeyInfo> {
    await this.#bindings.add(binding);
    this.#proven.add(binding);
    const { key, kmsKey, origin } = binding;
    this.#setting.log.info({ slot: this.slot, key, kmsKey, origin }, 'a KMS key was bound');
    return infoOf(binding);
  }

  async #prove(binding: Binding): Promise<void> {
    if (this.#proven.has(binding)) return;
    const answered = await this.#client.publicKey(binding.kmsKey);
    if (Buffer.compare(answered, binding.publicKey) !== 0) {
      throw new KeyslotError(
        'KEY_FILE_TAMPERED',
        `The file of ${binding.key} states another public key than ${shown(binding.kmsKey)} has.`,
      );
    }
    this.#proven.add(binding);
  }

  /** A key that was made and cannot be used. Whatever goes wrong here must not hide why it cannot. */
  async #discard(key: KeyId, arn: string): Promise<void> {
    const fields = { slot: this.slot, key, kmsKey: arn };
    try {
      await this.#client.scheduleKeyDeletion(arn, this.#setting.deletionWindow_days);
      this.#setting.log.warn(fields, 'a new KMS key failed and is scheduled for deletion');
    } catch (err) {
      this.#setting.log.error(
        { ...fields, err },
        'a new KMS key failed and is left behind: delete it by hand',
      );
    }
  }

  /**
   * Only of a key whose own description says that this slot made it for this key id: a file alone, which
   * somebody may have written, deletes nothing. A key that is gone or going already is fine.
   */
  async #scheduleDeletion({ key, kmsKey }: Binding): Promise<void> {
    const fields = { slot: this.slot, key, kmsKey };
    const found = await this.#stillThere(kmsKey);
    if (found === undefined || found.state === 'PendingDeletion') return;
    if (found.description !== this.#descriptionOf(key)) {
      this.#setting.log.warn(fields, 'a KMS key does not say that this slot made it: it is left as it is');
      return;
    }
    await this.#client.scheduleKeyDeletion(kmsKey, this.#setting.deletionWindow_days);
    this.#setting.log.info(fields, 'a KMS key is scheduled for deletion');
  }

  async #stillThere(kmsKey: string): Promise<KmsKey | undefined> {
    try {
      return await this.#client.describeKey(kmsKey);
    } catch (error) {
      if (isKeyslotError(error) && error.code === 'KMS_KEY_UNKNOWN') return undefined;
      throw error;
    }
  }

  #descriptionOf(key: KeyId): string {
    return `Keyslot: key ${key} of slot ${this.slot}`;
  }

  async #changingAlone<T>(name: string, work: () => Promise<T>, refusal = existing(name)): Promise<T> {
    if (this.#changing.has(name)) throw refusal;
    this.#changing.add(name);
    try {
      return await work();
    } finally {
      this.#changing.delete(name);
    }
  }
}

export interface NativeSessionSetting {
  readonly slot: SlotId;
  readonly client: KmsClient;
  readonly bindings: Bindings;
  readonly deletionWindow_days: number;
  readonly log: Log;
  /** The session has ended. */
  closed(): void;
}

/** KMS is eventually consistent: a key that was made just now may not be known everywhere yet. */
async function onceKnown<T>(ask: () => Promise<T>): Promise<T> {
  for (const pause_ms of [100, 200, 400, 800]) {
    try {
      return await ask();
    } catch (error) {
      if (!isKeyslotError(error) || error.code !== 'KMS_KEY_UNKNOWN') throw error;
      await wait(pause_ms);
    }
  }
  return await ask();
}

const infoOf = ({ key, publicKey }: Binding): KeyInfo => ({
  id: key,
  publicKey,
  custody: 'kms-native',
  exportable: false,
});

const unknownKey = (key: KeyId) => new KeyslotError('KEY_UNKNOWN', `There is no key ${key}.`);
const existing = (name: string) => new KeyslotError('KEY_EXISTS', `There is a key ${name} already.`);

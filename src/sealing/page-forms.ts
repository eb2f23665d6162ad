import { randomBytes } from 'node:crypto';
import type { KeyId, PublicKeyBytes } from '../custody/ids.ts';
import { systemClock } from '../foundation/clock.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { Secret } from '../foundation/secret.ts';
import type { KeyForm, SealedKey } from './key-form.ts';
import { type PageSuffix, readEncryptedFile, readHsmFile, readKmsFile } from './page-envelopes.ts';
import { openSealedText, type SealedText, type SealedTextForm, sealText } from './sealed-text.ts';
import { secretKeyOf, seedOf } from './secret-key.ts';
import { concatenated, fromBase64Text, fromNumbersText, toBase64Text, toNumbersText } from './secret-text.ts';

/**
 * The forms of the key files that the agentic-wallet program keeps, but for its shares (`mpc-form.ts`). Each
 * reads the documented and the deployed form of sealed texts and writes the one it is told to. A form holds
 * copies of its secrets until it is disposed, which is after what it does has settled.
 *
 * These files state neither their key nor a public key: two of them that were swapped both open. Whoever reads
 * one compares the public key of the seed with the one that is registered.
 */
export interface PageForm extends KeyForm, Disposable {
  readonly suffix: PageSuffix;
}

/** `<key id>.json`: the sealed JSON array of the 64 numbers of the secret key, and nothing around it. */
export function encryptedFileForm(settings: { secret: Secret; writes: SealedTextForm }): PageForm {
  const secret = settings.secret.copy();
  return {
    suffix: '.json',
    read: (key, file) => {
      const what = fileOf(key);
      return sealedKey(what, readEncryptedFile(file, what), secret, fromNumbersText);
    },
    seal: async (_key, publicKey, seed, signal) => {
      using numbers = spelled(seed, publicKey, toNumbersText);
      return Buffer.from(await sealText(numbers, secret, settings.writes, signal));
    },
    [Symbol.dispose]: () => secret[Symbol.dispose](),
  };
}

export interface HsmFormSettings {
  /** The simulated slot, as the files name it; files of another are KEY_FILE_FOREIGN. */
  readonly slot: string;
  readonly moduleSecret: Secret;
  readonly pin: Secret;
  readonly writes: SealedTextForm;
}

/** `<key id>.hsm.json`: the simulated HSM, sealed under `<module secret>:<slot>:<PIN>`. */
export function hsmForm({ slot, moduleSecret, pin, writes }: HsmFormSettings): PageForm {
  const secret = hsmSecret({ slot, moduleSecret, pin });
  return {
    suffix: '.hsm.json',
    read: (key, file) => {
      const what = fileOf(key);
      const { slotId, wrappedSecret } = readHsmFile(file, what);
      if (slotId !== slot) throw foreign(what, 'slot', slot);
      return sealedKey(what, wrappedSecret, secret, fromBase64Text);
    },
    seal: async (_key, publicKey, seed, signal) => {
      using text = spelled(seed, publicKey, toBase64Text);
      const wrappedSecret = await sealText(text, secret, writes, signal);
      return envelope({ v: 1, slotId: slot, wrappedSecret, createdAt: now() });
    },
    [Symbol.dispose]: () => secret[Symbol.dispose](),
  };
}

/** What the simulated HSM seals under: `<module secret>:<slot>:<PIN>`. The caller disposes it. */
export function hsmSecret({ slot, moduleSecret, pin }: Omit<HsmFormSettings, 'writes'>): Secret {
  using between = Secret.fromText(`:${slot}:`);
  return concatenated(moduleSecret, between, pin);
}

export interface KmsFormSettings {
  /** The simulated KMS key, as the files name it; files of another are KEY_FILE_FOREIGN. */
  readonly keyId: string;
  readonly masterSecret: Secret;
  readonly writes: SealedTextForm;
}

/**
 * `<key id>.kms.json`: the simulated KMS. The secret key is sealed under a data key of its own, and that under
 * `<master secret>:<KMS key>`: in the deployed form each opening pays two key derivations.
 */
export function kmsForm({ keyId, masterSecret, writes }: KmsFormSettings): PageForm {
  const master = kmsSecret({ keyId, masterSecret });
  return {
    suffix: '.kms.json',
    read: (key, file) => {
      const what = fileOf(key);
      const { keyId: named, wrappedDataKey, encryptedSecret } = readKmsFile(file, what);
      if (named !== keyId) throw foreign(what, 'KMS key', keyId);
      return {
        unseal: async signal => {
          using dataKey = await openSealedText(wrappedDataKey, master, signal);
          return await sealedKey(what, encryptedSecret, dataKey, fromBase64Text).unseal(signal);
        },
      };
    },
    seal: async (_key, publicKey, seed, signal) => {
      using text = spelled(seed, publicKey, toBase64Text);
      using dataKey = freshDataKey();
      const wrappedDataKey = await sealText(dataKey, master, writes, signal);
      const encryptedSecret = await sealText(text, dataKey, writes, signal);
      return envelope({ v: 1, keyId, wrappedDataKey, encryptedSecret, createdAt: now() });
    },
    [Symbol.dispose]: () => master[Symbol.dispose](),
  };
}

/** What the simulated KMS seals under: `<master secret>:<KMS key>`. The caller disposes it. */
export function kmsSecret({ keyId, masterSecret }: Omit<KmsFormSettings, 'writes'>): Secret {
  using behind = Secret.fromText(`:${keyId}`);
  return concatenated(masterSecret, behind);
}

/** How errors name the file of a key. */
export const fileOf = (key: KeyId): string => `The file of key ${key}`;

/** An envelope as the program writes it: JSON without spaces, the fields in their order. */
export const envelope = (fields: Readonly<Record<string, unknown>>): Uint8Array =>
  Buffer.from(JSON.stringify(fields));

export const now = (): string => systemClock.utc().toISOString();

/** A key whose secret key is one sealed text, in the spelling that `decode` reads. */
function sealedKey(
  what: string,
  sealed: SealedText,
  secret: Secret,
  decode: (text: Secret) => Secret | undefined,
): SealedKey {
  return {
    unseal: async signal => {
      using text = await openSealedText(sealed, secret, signal);
      using secretKey = decode(text);
      return seedOf(secretKey, what);
    },
  };
}

function spelled(seed: Secret, publicKey: PublicKeyBytes, encode: (bytes: Secret) => Secret): Secret {
  using secretKey = secretKeyOf(seed, publicKey);
  return encode(secretKey);
}

/** 32 random bytes as base64: it is the text that serves as the secret. */
function freshDataKey(): Secret {
  using bytes = Secret.fromBytes(randomBytes(32), { wipe: true });
  return toBase64Text(bytes);
}

const foreign = (what: string, kind: string, expected: string) =>
  new KeyslotError('KEY_FILE_FOREIGN', `${what} belongs to another ${kind} than ${expected}.`);

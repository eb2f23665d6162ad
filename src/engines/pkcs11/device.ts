import { randomBytes } from 'node:crypto';
import type { KeyId, SlotId } from '../../custody/ids.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import type { Secret } from '../../foundation/secret.ts';
import { type CkrClass, ckrClass, tokenError } from './ckr.ts';
import {
  CKA_DECRYPT,
  CKA_DERIVE,
  CKA_ENCRYPT,
  CKA_EXTRACTABLE,
  CKA_ID,
  CKA_LABEL,
  CKA_PRIVATE,
  CKA_SENSITIVE,
  CKA_SIGN,
  CKA_TOKEN,
  CKA_UNWRAP,
  CKA_VERIFY,
  CKA_WRAP,
  CKK_EC,
  CKK_EC_EDWARDS,
  CKM_EC_EDWARDS_KEY_PAIR_GEN,
  CKM_EC_KEY_PAIR_GEN,
} from './constants.ts';
import { type AttributeValue, CkrError } from './cryptoki.ts';
import { edwards25519Forms } from './ec.ts';
import { type Profile, readProfile } from './profile.ts';
import { defaultProfile, type GcmIvPolicy, type Pkcs11Settings } from './settings.ts';

export type Attributes = readonly (readonly [number, AttributeValue])[];

/** The rules of one kind of token: its profile, with what the slot says otherwise. No vendor is named here. */
export class Device {
  readonly profile: Profile;
  readonly sessions: number;
  readonly sessionMode: Profile['sessions']['mode'];
  readonly gcmIv: GcmIvPolicy;
  readonly #errors: ReadonlyMap<number, Profile['errors'][number]>;
  readonly #pin: RegExp;
  readonly #label: RegExp;

  private constructor(profile: Profile, settings: Overrides) {
    this.profile = profile;
    this.sessions = settings.sessions ?? profile.sessions.count;
    this.sessionMode = settings.sessionMode ?? profile.sessions.mode;
    this.gcmIv = settings.gcmIv ?? profile.wrappingKey?.gcmIv ?? 'random';
    this.#errors = new Map(profile.errors.map(error => [Number(error.code), error]));
    this.#pin = wholly(profile.pin.pattern);
    this.#label = wholly(profile.label.pattern);
  }

  /** CONFIG_INVALID: a profile that is not one, and settings that the device cannot do. */
  static of(slot: SlotId, settings: Overrides & Pick<Pkcs11Settings, 'profile' | 'mode'>): Device {
    const name = settings.profile ?? defaultProfile;
    const device = new Device(readProfile(name), settings);
    const { count_max } = device.profile.sessions;
    if (device.sessions > count_max) {
      throw new KeyslotError(
        'CONFIG_INVALID',
        `Slot ${slot}: sessions is ${device.sessions}; a device of profile ${name} takes at most ${count_max}.`,
      );
    }
    if (settings.mode === 'wrapped' && !device.profile.wrappingKey) {
      throw new KeyslotError(
        'CONFIG_INVALID',
        `Slot ${slot}: a device of profile ${name} has no AES-GCM, which mode wrapped needs; use mode: native.`,
      );
    }
    return device;
  }

  ckrClass(ckr: number): CkrClass {
    return this.#errors.get(ckr)?.class ?? ckrClass(ckr);
  }

  /** A failure as one of the table, with what this device means by it. */
  error(thrown: unknown, place: string): unknown {
    const own = thrown instanceof CkrError ? this.#errors.get(thrown.ckr) : undefined;
    return tokenError(thrown, place, own);
  }

  /** PIN_REFUSED, before the token hears of it, for a PIN that cannot be one of this device. */
  refuseMalformedPin(pin: Secret, place: string): void {
    if (pin.useText(text => this.#pin.test(text))) return;
    throw new KeyslotError(
      'PIN_REFUSED',
      `${place} takes its PIN in the form ${this.profile.pin.form}; no attempt was spent.`,
    );
  }

  /** KEY_ID_INVALID when the device has no label that long. */
  refuseLongId(key: KeyId): void {
    if (this.takesLabel(key)) return;
    const { bytes_max } = this.profile.label;
    throw new KeyslotError(
      'KEY_ID_INVALID',
      `The device takes labels of at most ${bytes_max} bytes: "${key}".`,
    );
  }

  takesLabel(label: string): boolean {
    return Buffer.byteLength(label) <= this.profile.label.bytes_max && this.#label.test(label);
  }

  /** The attribute that holds the name of an object, by which it is found. */
  get nameType(): number {
    return this.profile.keyId === 'text' ? CKA_ID : CKA_LABEL;
  }

  named(name: string): readonly [number, Buffer] {
    return [this.nameType, Buffer.from(name)];
  }

  /** CKA_ID and CKA_LABEL of a new object, the same for both halves of a pair. */
  names(name: string, taken: (id: Buffer) => boolean): Attributes {
    const id = this.profile.keyId === 'text' ? Buffer.from(name) : freeNumber(taken);
    return [
      [CKA_ID, id],
      [CKA_LABEL, Buffer.from(name)],
    ];
  }

  /** What a pair can be made with, in the order of trying. */
  get generations(): readonly { mechanism: number; params: Buffer }[] {
    return this.profile.keyPair.mechanisms.flatMap(name =>
      this.curveForms.map(params => ({ mechanism: mechanisms[name], params })),
    );
  }

  get curveForms(): readonly Buffer[] {
    return this.profile.keyPair.curveForms.map(form => edwards25519Forms[form]);
  }

  get keyTypes(): readonly number[] {
    return this.profile.keyPair.keyTypes.map(name => keyTypes[name]);
  }

  get publicAttributes(): Attributes {
    return this.profile.keyPair.publicAttributes.map(name => publicValues[name]);
  }

  get privateAttributes(): Attributes {
    return this.profile.keyPair.privateAttributes.map(name => privateValues[name]);
  }

  get wrappingAttributes(): Attributes {
    return this.profile.wrappingKey?.attributes.map(name => wrappingValues[name]) ?? [];
  }
}

type Overrides = Partial<Pick<Pkcs11Settings, 'sessions' | 'sessionMode' | 'gcmIv'>>;

type Values<Name extends string> = Readonly<Record<Name, readonly [number, boolean]>>;

// What every key is, whatever the profile: the profile only says which of it the device wants to be told.
const publicValues: Values<Profile['keyPair']['publicAttributes'][number]> = {
  TOKEN: [CKA_TOKEN, true],
  PRIVATE: [CKA_PRIVATE, false],
  VERIFY: [CKA_VERIFY, true],
};

const privateValues: Values<Profile['keyPair']['privateAttributes'][number]> = {
  TOKEN: [CKA_TOKEN, true],
  PRIVATE: [CKA_PRIVATE, true],
  SENSITIVE: [CKA_SENSITIVE, true],
  EXTRACTABLE: [CKA_EXTRACTABLE, false],
  SIGN: [CKA_SIGN, true],
  DERIVE: [CKA_DERIVE, false],
};

const wrappingValues: Values<NonNullable<Profile['wrappingKey']>['attributes'][number]> = {
  TOKEN: [CKA_TOKEN, true],
  PRIVATE: [CKA_PRIVATE, true],
  SENSITIVE: [CKA_SENSITIVE, true],
  EXTRACTABLE: [CKA_EXTRACTABLE, false],
  ENCRYPT: [CKA_ENCRYPT, true],
  DECRYPT: [CKA_DECRYPT, true],
  WRAP: [CKA_WRAP, false],
  UNWRAP: [CKA_UNWRAP, false],
  SIGN: [CKA_SIGN, false],
  VERIFY: [CKA_VERIFY, false],
  DERIVE: [CKA_DERIVE, false],
};

const mechanisms: Readonly<Record<Profile['keyPair']['mechanisms'][number], number>> = {
  CKM_EC_EDWARDS_KEY_PAIR_GEN,
  CKM_EC_KEY_PAIR_GEN,
};

const keyTypes: Readonly<Record<Profile['keyPair']['keyTypes'][number], number>> = { CKK_EC_EDWARDS, CKK_EC };

const wholly = (pattern: string): RegExp => new RegExp(`^(?:${pattern})$`, 'u');

/** Two bytes that no object has. 0 lets a device choose for itself, and ffff stands for none. */
function freeNumber(taken: (id: Buffer) => boolean): Buffer {
  for (let attempt = 0; attempt < freeNumber_attempts; attempt += 1) {
    const id = randomBytes(2);
    const number = id.readUInt16BE();
    if (number !== 0 && number !== 0xffff && !taken(id)) return id;
  }
  throw new KeyslotError('TOKEN_CAPACITY', 'The token has hardly a free key number left.', {
    retryAfter_s: 30,
  });
}

const freeNumber_attempts = 64;

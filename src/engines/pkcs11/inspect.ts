import { basename } from 'node:path';
import {
  CKF_PROTECTED_AUTHENTICATION_PATH,
  CKF_TOKEN_INITIALIZED,
  CKF_USER_PIN_COUNT_LOW,
  CKF_USER_PIN_FINAL_TRY,
  CKF_USER_PIN_INITIALIZED,
  CKF_USER_PIN_LOCKED,
  CKM_AES_GCM,
  CKM_EC_EDWARDS_KEY_PAIR_GEN,
  CKM_EDDSA,
} from './constants.ts';
import { type MechanismView, Pkcs11Module, type TokenView } from './module.ts';
import { profileNames, readProfile } from './profile.ts';
import { defaultProfile, type Pkcs11Settings } from './settings.ts';

/** What a module and its tokens say of themselves, without a login. */
export interface ModuleReport {
  readonly module: string;
  readonly library: { description: string; manufacturer: string; version: string; cryptoki: string };
  /** Device profiles that name this library, and the one for every token. */
  readonly profiles: readonly string[];
  readonly tokens: readonly TokenReport[];
}

export interface TokenReport {
  readonly label: string;
  readonly serial: string;
  readonly model: string;
  readonly manufacturer: string;
  readonly firmware: string;
  readonly initialized: boolean;
  readonly sessions_max: number;
  readonly mechanisms: readonly string[];
  readonly eddsa: boolean;
  readonly edwardsKeyPairGen: boolean;
  readonly aesGcm: boolean;
  /** The modes that a slot on this token can have: with EdDSA native, with AES-GCM wrapped. */
  readonly modes: readonly Pkcs11Settings['mode'][];
  readonly pin: PinState;
}

export type PinState =
  | 'set'
  | 'not-initialized'
  | 'count-low'
  | 'final-try'
  | 'locked'
  | 'protected-authentication-path';

/** Loads the module into this process and leaves it finalised. MODULE_UNUSABLE, TOKEN_UNAVAILABLE. */
export function inspectModule(path: string, libraryParameters?: string): ModuleReport {
  const module = Pkcs11Module.open(path, libraryParameters);
  try {
    const { library } = module;
    return {
      module: path,
      library,
      profiles: fittingProfiles(path),
      tokens: module.tokens().map(tokenReport),
    };
  } finally {
    module.close();
  }
}

/** Profiles that name a library of this file name; the one for every token is always the last. */
export function fittingProfiles(module: string): readonly string[] {
  const named = profileNames.filter(name =>
    readProfile(name).modules.some(path => basename(path) === basename(module)),
  );
  return [...named, defaultProfile];
}

function tokenReport(token: TokenView): TokenReport {
  const mechanisms = token.mechanisms();
  const offers = (type: number) => mechanisms.some(mechanism => mechanism.type === type);
  return {
    label: token.label,
    serial: token.serial,
    model: token.model,
    manufacturer: token.manufacturer,
    firmware: token.firmware,
    initialized: (token.flags & CKF_TOKEN_INITIALIZED) !== 0,
    sessions_max: token.sessions_max,
    mechanisms: mechanisms.map(nameOf),
    eddsa: offers(CKM_EDDSA),
    edwardsKeyPairGen: offers(CKM_EC_EDWARDS_KEY_PAIR_GEN),
    aesGcm: offers(CKM_AES_GCM),
    modes: [
      ...(offers(CKM_EDDSA) ? (['native'] as const) : []),
      ...(offers(CKM_AES_GCM) ? (['wrapped'] as const) : []),
    ],
    pin: pinState(token.flags),
  };
}

function pinState(flags: number): PinState {
  if (flags & CKF_PROTECTED_AUTHENTICATION_PATH) return 'protected-authentication-path';
  if (flags & CKF_USER_PIN_LOCKED) return 'locked';
  if (flags & CKF_USER_PIN_FINAL_TRY) return 'final-try';
  if (flags & CKF_USER_PIN_COUNT_LOW) return 'count-low';
  return flags & CKF_USER_PIN_INITIALIZED ? 'set' : 'not-initialized';
}

/** The library behind the listing knows the names of PKCS#11 v2.40 only, and calls all others unknown. */
const nameOf = ({ type, name }: MechanismView): string =>
  edwardsNames.get(type) ?? (name === 'unknown' ? `0x${type.toString(16)}` : name);

const edwardsNames: ReadonlyMap<number, string> = new Map([
  [CKM_EC_EDWARDS_KEY_PAIR_GEN, 'EC_EDWARDS_KEY_PAIR_GEN'],
  [CKM_EDDSA, 'EDDSA'],
]);

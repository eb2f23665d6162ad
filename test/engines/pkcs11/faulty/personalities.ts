import {
  CKM_AES_GCM,
  CKM_EC_EDWARDS_KEY_PAIR_GEN,
  CKM_EDDSA,
} from '../../../../src/engines/pkcs11/constants.ts';

/** How a device departs from SoftHSM. A number of 0 is the same as nothing. softhsm/faulty/README.md says more. */
export interface Quirks {
  /** Attributes of a key pair beyond the whitelist of a YubiHSM: CKR_ATTRIBUTE_TYPE_INVALID or _VALUE_INVALID. */
  readonly 'strict-templates'?: boolean;
  /** CKA_EC_PARAMS as PrintableString "edwards25519" and nothing else: CKR_CURVE_NOT_SUPPORTED. */
  readonly 'printable-curve'?: boolean;
  /** No session objects: CKA_TOKEN false is refused, and left out it is true. */
  readonly 'token-objects'?: boolean;
  readonly 'no-slot-events'?: boolean;
  /** C_OpenSession without CKF_RW_SESSION: CKR_FUNCTION_FAILED. */
  readonly 'read-write-only'?: boolean;
  /** AES-GCM takes a zeroed IV and ulIvBits 0, and writes the IV that it made into the caller's buffer. */
  readonly 'device-iv'?: boolean;
  /** Attributes that AWS CloudHSM does not document: CKR_TEMPLATE_INCONSISTENT, read CKR_ATTRIBUTE_TYPE_INVALID. */
  readonly 'documented-attributes'?: boolean;
  /** Edwards keys by CKM_EC_KEY_PAIR_GEN and the OID; CKM_EC_EDWARDS_KEY_PAIR_GEN: CKR_MECHANISM_INVALID. */
  readonly 'edwards-by-ec'?: boolean;
  /** C_CreateObject of a private key: CKR_TEMPLATE_INCONSISTENT. */
  readonly 'no-private-import'?: boolean;
  readonly 'point-on-private'?: boolean;
  /** CKA_EC_POINT as 32 bytes without a wrapping. */
  readonly 'raw-point'?: boolean;
  /** Calls that the device works on at the same time, in one process; others wait. */
  readonly parallel?: number;
  /** Entries of a log that has to be drained (`drainLog`); CKR_DEVICE_MEMORY when it is full. */
  readonly 'log-max'?: number;
  /** Objects of the device; a key whose id has not 2 bytes takes two. CKR_DEVICE_MEMORY. */
  readonly 'objects-max'?: number;
  /** Commands in each window of `throttle-ms` (default 1000); CKR_FUNCTION_FAILED beyond. */
  readonly 'throttle-calls'?: number;
  readonly 'throttle-ms'?: number;
  /** How long a key that this process made cannot be used: CKR_FUNCTION_FAILED. */
  readonly 'available-ms'?: number;
  /** Wrong PINs in a row, in all processes together, until CKR_PIN_LOCKED; flags as a token shows them. */
  readonly 'pin-limit'?: number;
  /** Flags that C_GetTokenInfo shows in addition. */
  readonly 'pin-flags'?: number;
}

export type Personality = 'yubihsm' | 'cloudhsm' | 'raw-ec-point' | 'no-eddsa';

/** Devices as data. What is not on record of the real one is marked so in softhsm/faulty/README.md. */
export const personalities: Readonly<
  Record<Personality, { readonly quirks: Quirks; readonly masked: readonly number[] }>
> = {
  yubihsm: {
    quirks: {
      'strict-templates': true,
      'printable-curve': true,
      'token-objects': true,
      'no-slot-events': true,
      parallel: 1,
      'objects-max': 256,
    },
    masked: [CKM_AES_GCM],
  },
  cloudhsm: {
    quirks: {
      'read-write-only': true,
      'device-iv': true,
      'documented-attributes': true,
      'no-private-import': true,
      'point-on-private': true,
    },
    masked: [],
  },
  'raw-ec-point': { quirks: { 'raw-point': true }, masked: [] },
  'no-eddsa': { quirks: {}, masked: [CKM_EDDSA, CKM_EC_EDWARDS_KEY_PAIR_GEN] },
};

/** Entries of the log of a YubiHSM 2: with forced audit, the quirk `log-max`. */
export const yubihsmLog_entries = 62;

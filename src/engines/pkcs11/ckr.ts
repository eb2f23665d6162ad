import { type ErrorCode, isKeyslotError, KeyslotError } from '../../foundation/errors.ts';
import { CkrError } from './cryptoki.ts';

/**
 * What a CKR code means for whoever is holding the session, and for the caller. Classes, not single codes:
 * vendors answer different codes of one class for the same event.
 */
export type CkrClass =
  | 'caller'
  | 'capability'
  | 'stale-handle'
  | 'session'
  | 'login'
  | 'capacity'
  | 'transient'
  | 'device'
  | 'pin';

export function ckrClass(ckr: number): CkrClass {
  return classes.get(ckr) ?? 'transient';
}

/**
 * A failure of the module as one of the table, said with the place it happened in; the rest passes through.
 * `own` is what the code means on this device, where that is on record.
 */
export function tokenError(
  thrown: unknown,
  place: string,
  own?: { readonly class: CkrClass; readonly meaning: string },
): unknown {
  if (isKeyslotError(thrown) || !(thrown instanceof CkrError)) return thrown;
  const { code, text } = answers[own?.class ?? ckrClass(thrown.ckr)];
  const said = own ? `${text}: ${own.meaning}` : text;
  return new KeyslotError(pinCodes.get(thrown.ckr) ?? code, `${place}: ${said}`, {
    cause: thrown,
    ...(code === 'TOKEN_CAPACITY' ? { retryAfter_s: 30 } : {}),
  });
}

/** The same as a PIN was presented: only here may a PIN code mean that the PIN was refused. */
export const isPinRefusal = (thrown: unknown): boolean =>
  thrown instanceof CkrError && ckrClass(thrown.ckr) === 'pin';

const answers: Record<CkrClass, { code: ErrorCode; text: string }> = {
  caller: { code: 'TOKEN_ERROR', text: 'the token refused the call as it was made' },
  capability: { code: 'TOKEN_UNSUITABLE', text: 'the token does not offer what the call needs' },
  'stale-handle': { code: 'KEY_UNKNOWN', text: 'the token no longer holds the key' },
  session: { code: 'TOKEN_UNAVAILABLE', text: 'the token ended the session' },
  login: { code: 'TOKEN_UNAVAILABLE', text: 'the token has forgotten the login' },
  capacity: { code: 'TOKEN_CAPACITY', text: 'the token has no room left' },
  transient: { code: 'TOKEN_ERROR', text: 'the token answered with an error' },
  device: { code: 'TOKEN_UNAVAILABLE', text: 'the device does not answer' },
  pin: { code: 'PIN_REFUSED', text: 'the token refused the PIN' },
};

const pinCodes: ReadonlyMap<number, ErrorCode> = new Map([[0xa4, 'PIN_LOCKED']]);

// PKCS#11 v3.1 §3.6; the grouping is ours.
const table: Record<CkrClass, readonly number[]> = {
  // ARGUMENTS_BAD, ATTRIBUTE_*, DATA_*, KEY_SIZE_RANGE, KEY_TYPE_INCONSISTENT, KEY_FUNCTION_NOT_PERMITTED,
  // MECHANISM_PARAM_INVALID, TEMPLATE_*, SESSION_READ_ONLY
  caller: [0x07, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x62, 0x63, 0x68, 0x71, 0xd0, 0xd1, 0xb5],
  // ACTION_PROHIBITED, FUNCTION_NOT_SUPPORTED, MECHANISM_INVALID, DOMAIN_PARAMS_INVALID, CURVE_NOT_SUPPORTED,
  // FUNCTION_REJECTED
  capability: [0x1b, 0x54, 0x70, 0x130, 0x140, 0x200],
  // KEY_HANDLE_INVALID, OBJECT_HANDLE_INVALID
  'stale-handle': [0x60, 0x82],
  // OPERATION_ACTIVE, OPERATION_NOT_INITIALIZED, SESSION_CLOSED, SESSION_HANDLE_INVALID
  session: [0x90, 0x91, 0xb0, 0xb3],
  // USER_NOT_LOGGED_IN
  login: [0x101],
  // HOST_MEMORY, DEVICE_MEMORY, SESSION_COUNT, TOKEN_RESOURCE_EXCEEDED
  capacity: [0x02, 0x31, 0xb1, 0x201],
  // FUNCTION_FAILED, CANT_LOCK, FUNCTION_CANCELED
  transient: [0x06, 0x0a, 0x50],
  // GENERAL_ERROR, DEVICE_ERROR, DEVICE_REMOVED, TOKEN_NOT_PRESENT, TOKEN_NOT_RECOGNIZED, CRYPTOKI_NOT_INITIALIZED
  device: [0x05, 0x30, 0x32, 0xe0, 0xe1, 0x190],
  // PIN_INCORRECT, PIN_INVALID, PIN_LEN_RANGE, PIN_EXPIRED, PIN_LOCKED, USER_PIN_NOT_INITIALIZED
  pin: [0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0x102],
};

const classes: ReadonlyMap<number, CkrClass> = new Map(
  Object.entries(table).flatMap(([name, codes]) => codes.map(ckr => [ckr, name as CkrClass] as const)),
);

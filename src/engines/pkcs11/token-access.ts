import type { Handle } from 'pkcs11js';
import type { SlotId } from '../../custody/ids.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import type { Log } from '../../foundation/log.ts';
import type { Secret } from '../../foundation/secret.ts';
import { isPinRefusal } from './ckr.ts';
import {
  CKF_PROTECTED_AUTHENTICATION_PATH,
  CKF_RW_SESSION,
  CKF_SERIAL_SESSION,
  CKF_USER_PIN_COUNT_LOW,
  CKF_USER_PIN_FINAL_TRY,
  CKF_USER_PIN_INITIALIZED,
  CKF_USER_PIN_LOCKED,
  CKM_AES_GCM,
  CKM_EDDSA,
  CKU_USER,
} from './constants.ts';
import { CkrError } from './cryptoki.ts';
import type { Device } from './device.ts';
import type { Pkcs11Module, TokenView } from './module.ts';
import type { Pkcs11Settings } from './settings.ts';

/** The way to the token of a slot: finding it, looking at it, and logging in, at the opening and after an outage. */
export class TokenAccess {
  readonly #slot: SlotId;
  readonly #settings: Pkcs11Settings;
  readonly #device: Device;
  readonly #module: Pkcs11Module;
  readonly #log: Log;

  constructor(options: {
    id: SlotId;
    settings: Pkcs11Settings;
    device: Device;
    module: Pkcs11Module;
    log: Log;
  }) {
    this.#slot = options.id;
    this.#settings = options.settings;
    this.#device = options.device;
    this.#module = options.module;
    this.#log = options.log;
  }

  /** Found by label or serial and never by number: tokens change their slot numbers. */
  token(): TokenView {
    const { tokenLabel, tokenSerial } = this.#settings;
    const tokens = this.#module.tokens();
    const matching = tokens.filter(
      token =>
        (tokenLabel === undefined || token.label === tokenLabel) &&
        (tokenSerial === undefined || token.serial === tokenSerial),
    );
    const [token] = matching;
    const wanted = [tokenLabel && `tokenLabel "${tokenLabel}"`, tokenSerial && `tokenSerial "${tokenSerial}"`]
      .filter(Boolean)
      .join(' and ');
    if (token === undefined) {
      const present = tokens.map(({ label, serial }) => `"${label}" (serial ${serial})`).join(', ');
      throw new KeyslotError(
        'TOKEN_NOT_FOUND',
        `No token of ${this.#module.path} has the ${wanted} of slot ${this.#slot}; present: ${present || 'none'}.`,
      );
    }
    if (matching.length > 1) {
      const serials = matching.map(({ serial }) => serial).join(', ');
      throw new KeyslotError(
        'TOKEN_AMBIGUOUS',
        `${matching.length} tokens have the ${wanted} of slot ${this.#slot}: serials ${serials}.`,
      );
    }
    return token;
  }

  /** The form of the PIN and the token's flags, before an attempt is spent: PIN_REFUSED, PIN_LAST_TRY, PIN_LOCKED. */
  refuseUnsuitable(token: TokenView, pin: Secret): void {
    const has = (flag: number) => (token.flags & flag) !== 0;
    const place = `Token "${token.label}"`;
    this.#refuseMechanisms(token, place);
    this.#device.refuseMalformedPin(pin, place);
    if (has(CKF_PROTECTED_AUTHENTICATION_PATH)) {
      throw new KeyslotError(
        'TOKEN_UNSUITABLE',
        `${place} takes its PIN on a device of its own, not from software.`,
      );
    }
    if (!has(CKF_USER_PIN_INITIALIZED)) {
      throw new KeyslotError(
        'TOKEN_UNSUITABLE',
        `${place} has no user PIN yet; its security officer must set one.`,
      );
    }
    if (has(CKF_USER_PIN_LOCKED)) throw new KeyslotError('PIN_LOCKED', `${place} reports its PIN as locked.`);
    if (has(CKF_USER_PIN_FINAL_TRY)) {
      throw new KeyslotError('PIN_LAST_TRY', `${place} reports that one attempt is left.`);
    }
    if (has(CKF_USER_PIN_COUNT_LOW)) {
      this.#log.warn({ slot: this.#slot }, 'the token reports failed logins before this one');
    }
    refusePinLength(token, pin, place);
  }

  /** The list of the token is believed: without EdDSA in it, some tokens still make such keys, and never sign. */
  #refuseMechanisms(token: TokenView, place: string): void {
    const { mode } = this.#settings;
    const aesGcm = offers(token, CKM_AES_GCM);
    if (mode === 'native' && !offers(token, CKM_EDDSA)) {
      const instead = aesGcm
        ? 'Set mode: wrapped, which seals keys with an AES key of the token and signs in process memory.'
        : 'Nor does it list CKM_AES_GCM, so that mode "wrapped" is not possible either.';
      throw new KeyslotError(
        'TOKEN_UNSUITABLE',
        `${place} does not list CKM_EDDSA, which mode "native" needs. ${instead}`,
      );
    }
    if (mode === 'wrapped' && !aesGcm) {
      throw new KeyslotError(
        'TOKEN_UNSUITABLE',
        `${place} does not list CKM_AES_GCM, which mode "wrapped" needs.`,
      );
    }
  }

  /** The session that holds the login for as long as the slot is open, and serves everything but signing. */
  openAnchor(token: TokenView): Handle {
    try {
      return this.#module.cryptoki.openSession(token.slotHandle, CKF_SERIAL_SESSION | CKF_RW_SESSION);
    } catch (thrown) {
      throw this.#device.error(thrown, `Opening a session on token "${token.label}"`);
    }
  }

  /**
   * One C_Login. Where somebody is logged in already: `anew` logs out first, because that says nothing of this
   * PIN; otherwise it is the login that was looked for.
   */
  logIn(anchor: Handle, token: TokenView, pin: Secret, anew: boolean): void {
    const { cryptoki } = this.#module;
    const login = () => pin.useText(text => cryptoki.login(anchor, CKU_USER, text));
    try {
      try {
        login();
      } catch (thrown) {
        if (!(thrown instanceof CkrError) || thrown.ckr !== CKR_USER_ALREADY_LOGGED_IN) throw thrown;
        if (!anew) return;
        cryptoki.logout(anchor);
        login();
      }
    } catch (thrown) {
      this.closeQuietly(anchor);
      if (isPinRefusal(thrown))
        this.#log.error({ slot: this.#slot, err: thrown }, 'the token refused the PIN');
      throw this.#device.error(thrown, `Logging in to token "${token.label}"`);
    }
  }

  /** Ends a session that is not used again, and that the token has usually ended itself. */
  closeQuietly(session: Handle): void {
    try {
      this.#module.cryptoki.closeSession(session);
    } catch (thrown) {
      this.#log.info({ slot: this.#slot, err: thrown }, 'a session could not be closed');
    }
  }
}

const CKR_USER_ALREADY_LOGGED_IN = 0x100; // PKCS#11 v3.1 §5.6.8

/** PIN_REFUSED, before an attempt is spent. A longest PIN of 0 bytes is how some tokens say that there is none. */
export function refusePinLength(
  { pinLength_min, pinLength_max }: Pick<TokenView, 'pinLength_min' | 'pinLength_max'>,
  pin: Secret,
  place: string,
): void {
  const tooLong = pinLength_max > 0 && pin.length > pinLength_max;
  if (pin.length >= pinLength_min && !tooLong) return;
  const taken = pinLength_max > 0 ? `${pinLength_min} to ${pinLength_max}` : `at least ${pinLength_min}`;
  throw new KeyslotError('PIN_REFUSED', `${place} takes PINs of ${taken} bytes; no attempt was spent.`);
}

export const offers = (token: TokenView, type: number): boolean =>
  token.mechanisms().some(mechanism => mechanism.type === type);

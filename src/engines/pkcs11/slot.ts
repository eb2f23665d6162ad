import type { Handle } from 'pkcs11js';
import type { Session, Slot, SlotDescription } from '../../custody/engine.ts';
import type { SlotId } from '../../custody/ids.ts';
import { type ErrorCode, isKeyslotError, KeyslotError } from '../../foundation/errors.ts';
import { limits } from '../../foundation/limits.ts';
import type { Log } from '../../foundation/log.ts';
import type { Secret } from '../../foundation/secret.ts';
import { KeyFolder } from '../../sealing/key-folder.ts';
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
import { TokenLogin } from './login.ts';
import type { Pkcs11Module, TokenView } from './module.ts';
import { abortedError, SessionPool } from './pool.ts';
import { Pkcs11Session } from './session.ts';
import { custodyOfMode, defaultProfile, defaultWrappingKey, type Pkcs11Settings } from './settings.ts';
import { WrappedSession } from './wrapped-session.ts';

export class Pkcs11Slot implements Slot {
  readonly id: SlotId;
  readonly #settings: Pkcs11Settings;
  readonly #device: Device;
  readonly #module: Pkcs11Module;
  readonly #log: Log;
  #login: TokenLogin | undefined;
  #session: Session | undefined;

  constructor(options: {
    id: SlotId;
    settings: Pkcs11Settings;
    device: Device;
    module: Pkcs11Module;
    log: Log;
  }) {
    this.id = options.id;
    this.#settings = options.settings;
    this.#device = options.device;
    this.#module = options.module;
    this.#log = options.log;
  }

  async describe(): Promise<SlotDescription> {
    const token = this.#token();
    const { library } = this.#module;
    const { attempts_max } = this.#device.profile.pin;
    return {
      id: this.id,
      engine: 'pkcs11',
      custody: custodyOfMode[this.#settings.mode],
      summary: `token "${token.label}" (${token.manufacturer} ${token.model}, serial ${token.serial})`,
      details: {
        module: this.#module.path,
        library: `${library.description} ${library.version}, Cryptoki ${library.cryptoki}`,
        tokenLabel: token.label,
        tokenSerial: token.serial,
        tokenModel: token.model,
        firmware: token.firmware,
        profile: this.#settings.profile ?? defaultProfile,
        sessions: this.#device.sessions,
        mode: this.#settings.mode,
        eddsa: offers(token, CKM_EDDSA),
        aesGcm: offers(token, CKM_AES_GCM),
        ...(this.#settings.mode === 'wrapped'
          ? { wrappingKey: this.#settings.wrappingKey ?? defaultWrappingKey }
          : {}),
        ...(attempts_max === null ? {} : { pinAttempts_max: attempts_max }),
        pinCountLow: (token.flags & CKF_USER_PIN_COUNT_LOW) !== 0,
      },
    };
  }

  /**
   * Logs in with one C_Login. The form of the PIN and the token's flags are looked at first, so that no attempt
   * is spent on a PIN that cannot be right, nor the last one.
   * One session a token: a second opening fails with SLOT_OPEN, because PKCS#11 would answer "already logged
   * in" without looking at the PIN. A token that cannot be reached is looked for once more after the module was
   * initialised anew; the PIN is not involved in that.
   */
  async open(pin: Secret, signal?: AbortSignal): Promise<Session> {
    const folder = await this.#folder(); // before a PIN is spent
    if (signal?.aborted) throw abortedError();
    const { token, anchor } = this.#reached(pin);
    this.#logIn(anchor, token, pin);
    this.#module.tokensInUse.add(token.serial);
    const login = new TokenLogin({
      slot: this.id,
      cryptoki: this.#module.cryptoki,
      device: this.#device,
      anchor,
      pool: this.#pool(token),
      whenClosed: settled => {
        if (!settled) this.#module.hung = true;
        this.#module.tokensInUse.delete(token.serial);
        this.#login = undefined;
        this.#session = undefined;
      },
    });
    this.#login = login;
    this.#session = folder ? await this.#wrapped(login, folder) : new Pkcs11Session(login);
    return this.#session;
  }

  /** True when nothing of this slot is running in the module any more. */
  async close(): Promise<boolean> {
    const login = this.#login;
    await this.#session?.[Symbol.asyncDispose]();
    return (await login?.close()) ?? true;
  }

  async #wrapped(login: TokenLogin, folder: KeyFolder): Promise<Session> {
    try {
      return await WrappedSession.open(login, folder, this.#settings, this.#log);
    } catch (error) {
      await login.close();
      throw error;
    }
  }

  /** Where the sealed seeds are; nothing in mode native. KEY_FILE_UNSAFE, CONFIG_INVALID. */
  async #folder(): Promise<KeyFolder | undefined> {
    const { mode, folder } = this.#settings;
    if (mode === 'native') return undefined;
    if (folder !== undefined) return await KeyFolder.open(folder);
    throw new KeyslotError('CONFIG_INVALID', `Slot ${this.id} with mode "wrapped" needs a folder.`);
  }

  #reached(pin: Secret): { token: TokenView; anchor: Handle } {
    try {
      return this.#reach(pin);
    } catch (error) {
      const lost = isKeyslotError(error) && unreached.has(error.code);
      if (!lost || !this.#module.refresh()) throw error;
      this.#log.warn(
        { slot: this.id, err: error },
        'the module was initialised anew to find its token again',
      );
      return this.#reach(pin);
    }
  }

  #reach(pin: Secret): { token: TokenView; anchor: Handle } {
    const token = this.#token();
    if (this.#module.tokensInUse.has(token.serial)) {
      throw new KeyslotError('SLOT_OPEN', `The token "${token.label}" is open in this process already.`);
    }
    this.#refuseUnsuitable(token, pin);
    return { token, anchor: this.#openAnchor(token) };
  }

  /** Found by label or serial and never by number: tokens change their slot numbers. */
  #token(): TokenView {
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
        `No token of ${this.#module.path} has the ${wanted} of slot ${this.id}; present: ${present || 'none'}.`,
      );
    }
    if (matching.length > 1) {
      const serials = matching.map(({ serial }) => serial).join(', ');
      throw new KeyslotError(
        'TOKEN_AMBIGUOUS',
        `${matching.length} tokens have the ${wanted} of slot ${this.id}: serials ${serials}.`,
      );
    }
    return token;
  }

  #refuseUnsuitable(token: TokenView, pin: Secret): void {
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
      this.#log.warn({ slot: this.id }, 'the token reports failed logins before this one');
    }
    if (pin.length < token.pinLength_min || pin.length > token.pinLength_max) {
      throw new KeyslotError(
        'PIN_REFUSED',
        `${place} takes PINs of ${token.pinLength_min} to ${token.pinLength_max} bytes; no attempt was spent.`,
      );
    }
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
  #openAnchor(token: TokenView): Handle {
    try {
      return this.#module.cryptoki.openSession(token.slotHandle, CKF_SERIAL_SESSION | CKF_RW_SESSION);
    } catch (thrown) {
      throw this.#device.error(thrown, `Opening a session on token "${token.label}"`);
    }
  }

  #logIn(anchor: Handle, token: TokenView, pin: Secret): void {
    const { cryptoki } = this.#module;
    const login = () => pin.useText(text => cryptoki.login(anchor, CKU_USER, text));
    try {
      try {
        login();
      } catch (thrown) {
        if (!(thrown instanceof CkrError) || thrown.ckr !== CKR_USER_ALREADY_LOGGED_IN) throw thrown;
        // A login that this process did not make or has forgotten: it says nothing about this PIN.
        cryptoki.logout(anchor);
        login();
      }
    } catch (thrown) {
      cryptoki.closeSession(anchor);
      if (isPinRefusal(thrown)) this.#log.error({ slot: this.id, err: thrown }, 'the token refused the PIN');
      throw this.#device.error(thrown, `Logging in to token "${token.label}"`);
    }
  }

  #pool(token: TokenView): SessionPool {
    const { cryptoki } = this.#module;
    const { sessions, sessionMode } = this.#device;
    const mode = sessionMode === 'read-write' ? CKF_RW_SESSION : 0;
    return new SessionPool({
      size: sessions,
      queue_max: limits.slotQueue_items_max,
      open: () => cryptoki.openSession(token.slotHandle, CKF_SERIAL_SESSION | mode),
      discard: session => {
        try {
          cryptoki.closeSession(session);
        } catch (thrown) {
          // The token has usually ended it already; what matters is that it is never used again.
          this.#log.info({ slot: this.id, err: thrown }, 'a spoiled session could not be closed');
        }
      },
    });
  }
}

const unreached: ReadonlySet<ErrorCode> = new Set(['TOKEN_NOT_FOUND', 'TOKEN_UNAVAILABLE']);

const CKR_USER_ALREADY_LOGGED_IN = 0x100; // PKCS#11 v3.1 §5.6.8

const offers = (token: TokenView, type: number): boolean =>
  token.mechanisms().some(mechanism => mechanism.type === type);

import type { Handle } from 'pkcs11js';
import type { Session, Slot, SlotDescription } from '../../custody/engine.ts';
import type { SlotId } from '../../custody/ids.ts';
import { type ErrorCode, isKeyslotError, KeyslotError } from '../../foundation/errors.ts';
import { limits } from '../../foundation/limits.ts';
import type { Log } from '../../foundation/log.ts';
import type { Secret } from '../../foundation/secret.ts';
import { isPinRefusal, tokenError } from './ckr.ts';
import {
  CKF_PROTECTED_AUTHENTICATION_PATH,
  CKF_RW_SESSION,
  CKF_SERIAL_SESSION,
  CKF_USER_PIN_COUNT_LOW,
  CKF_USER_PIN_FINAL_TRY,
  CKF_USER_PIN_INITIALIZED,
  CKF_USER_PIN_LOCKED,
  CKM_EDDSA,
  CKU_USER,
} from './constants.ts';
import { CkrError } from './cryptoki.ts';
import type { Pkcs11Module, TokenView } from './module.ts';
import { abortedError, SessionPool } from './pool.ts';
import { Pkcs11Session } from './session.ts';
import type { Pkcs11Settings } from './settings.ts';

export class Pkcs11Slot implements Slot {
  readonly id: SlotId;
  readonly #settings: Pkcs11Settings;
  readonly #module: Pkcs11Module;
  readonly #log: Log;
  #session: Pkcs11Session | undefined;

  constructor(id: SlotId, settings: Pkcs11Settings, module: Pkcs11Module, log: Log) {
    this.id = id;
    this.#settings = settings;
    this.#module = module;
    this.#log = log;
  }

  async describe(): Promise<SlotDescription> {
    const token = this.#token();
    const { library } = this.#module;
    return {
      id: this.id,
      engine: 'pkcs11',
      custody: 'hsm-native',
      summary: `token "${token.label}" (${token.manufacturer} ${token.model}, serial ${token.serial})`,
      details: {
        module: this.#module.path,
        library: `${library.description} ${library.version}, Cryptoki ${library.cryptoki}`,
        tokenLabel: token.label,
        tokenSerial: token.serial,
        tokenModel: token.model,
        firmware: token.firmware,
        eddsa: offersEddsa(token),
        pinCountLow: (token.flags & CKF_USER_PIN_COUNT_LOW) !== 0,
      },
    };
  }

  /**
   * Logs in with one C_Login. The token's flags are read first, so that a PIN is never spent on its last try.
   * One session a token: a second opening fails with SLOT_OPEN, because PKCS#11 would answer "already logged
   * in" without looking at the PIN. A token that cannot be reached is looked for once more after the module was
   * initialised anew; the PIN is not involved in that.
   */
  async open(pin: Secret, signal?: AbortSignal): Promise<Session> {
    if (signal?.aborted) throw abortedError();
    const { token, anchor } = this.#reached(pin);
    this.#login(anchor, token, pin);
    this.#module.tokensInUse.add(token.serial);
    this.#session = new Pkcs11Session({
      slot: this.id,
      cryptoki: this.#module.cryptoki,
      anchor,
      pool: this.#pool(token),
      whenClosed: settled => {
        if (!settled) this.#module.hung = true;
        this.#module.tokensInUse.delete(token.serial);
        this.#session = undefined;
      },
    });
    return this.#session;
  }

  /** True when nothing of this slot is running in the module any more. */
  async close(): Promise<boolean> {
    return (await this.#session?.close()) ?? true;
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
    if (!offersEddsa(token)) {
      throw new KeyslotError(
        'TOKEN_UNSUITABLE',
        `${place} does not list CKM_EDDSA, which mode "native" needs.`,
      );
    }
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

  /** The session that holds the login for as long as the slot is open, and serves everything but signing. */
  #openAnchor(token: TokenView): Handle {
    try {
      return this.#module.cryptoki.openSession(token.slotHandle, CKF_SERIAL_SESSION | CKF_RW_SESSION);
    } catch (thrown) {
      throw tokenError(thrown, `Opening a session on token "${token.label}"`);
    }
  }

  #login(anchor: Handle, token: TokenView, pin: Secret): void {
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
      throw tokenError(thrown, `Logging in to token "${token.label}"`);
    }
  }

  #pool(token: TokenView): SessionPool {
    const { cryptoki } = this.#module;
    const { sessions, sessionMode } = this.#settings;
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

const offersEddsa = (token: TokenView): boolean =>
  token.mechanisms().some(mechanism => mechanism.type === CKM_EDDSA);

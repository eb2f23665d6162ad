import type { Handle } from 'pkcs11js';
import type { Session, Slot, SlotDescription } from '../../custody/engine.ts';
import type { SlotId } from '../../custody/ids.ts';
import { type ErrorCode, isKeyslotError, KeyslotError } from '../../foundation/errors.ts';
import type { Log } from '../../foundation/log.ts';
import type { Secret } from '../../foundation/secret.ts';
import { KeyFolder } from '../../sealing/key-folder.ts';
import { CKF_USER_PIN_COUNT_LOW, CKM_AES_GCM, CKM_EDDSA } from './constants.ts';
import type { Device } from './device.ts';
import { TokenLogin } from './login.ts';
import type { Pkcs11Module, TokenView } from './module.ts';
import { abortedError } from './pool.ts';
import type { Patience } from './recovery.ts';
import { Pkcs11Session } from './session.ts';
import { custodyOfMode, defaultProfile, defaultWrappingKey, type Pkcs11Settings } from './settings.ts';
import { offers, TokenAccess } from './token-access.ts';
import { WrappedSession } from './wrapped-session.ts';

export class Pkcs11Slot implements Slot {
  readonly id: SlotId;
  readonly #settings: Pkcs11Settings;
  readonly #device: Device;
  readonly #module: Pkcs11Module;
  readonly #log: Log;
  readonly #access: TokenAccess;
  readonly #patience: Patience;
  #login: TokenLogin | undefined;
  #session: Session | undefined;

  constructor(options: {
    id: SlotId;
    settings: Pkcs11Settings;
    device: Device;
    module: Pkcs11Module;
    log: Log;
    patience: Patience;
  }) {
    this.id = options.id;
    this.#settings = options.settings;
    this.#device = options.device;
    this.#module = options.module;
    this.#log = options.log;
    this.#access = new TokenAccess(options);
    this.#patience = options.patience;
  }

  async describe(): Promise<SlotDescription> {
    const token = this.#access.token();
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
    this.#access.logIn(anchor, token, pin, true);
    const login = new TokenLogin({
      slot: this.id,
      module: this.#module,
      device: this.#device,
      access: this.#access,
      patience: this.#patience,
      log: this.#log,
      token,
      anchor,
      pin: pin.copy(),
      whenClosed: () => {
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
    const token = this.#access.token();
    if (this.#module.tokensInUse.has(token.serial)) {
      throw new KeyslotError('SLOT_OPEN', `The token "${token.label}" is open in this process already.`);
    }
    this.#access.refuseUnsuitable(token, pin);
    return { token, anchor: this.#access.openAnchor(token) };
  }
}

const unreached: ReadonlySet<ErrorCode> = new Set(['TOKEN_NOT_FOUND', 'TOKEN_UNAVAILABLE']);

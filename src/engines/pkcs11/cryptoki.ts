import type { AesGCM, Attribute, Handle, Mechanism, PKCS11 } from 'pkcs11js';
import { CKM_AES_GCM } from './constants.ts';

/**
 * The seam at the vendor library: the PKCS#11 functions that Keyslot calls, and nothing else.
 *
 * A malformed template or mechanism does not fail inside the addon, it kills the process. So every value
 * passes a guard here before native code sees it, and every failure leaves as a `CkrError` with its number.
 * Calls are synchronous and block the event loop for as long as the token takes, except `sign`, `encrypt` and
 * `decrypt`.
 */
export class Cryptoki {
  readonly #lib: PKCS11;
  // The addon keeps no reference to the buffers of a running call: whoever lends them memory must.
  readonly #lent = new Set<readonly Buffer[]>();

  constructor(lib: PKCS11) {
    this.#lib = lib;
  }

  /** C_SignInit and C_Sign (v3.1 §5.13): one signature of at most 64 bytes, off the event loop. */
  async sign(session: Handle, mechanism: MechanismType, key: Handle, message: Buffer): Promise<Buffer> {
    this.#call(() => this.#lib.C_SignInit(session, guardedMechanism(mechanism), guardedHandle(key)));
    const output = Buffer.alloc(64);
    return await this.#lending([message, output], () => this.#lib.C_SignAsync(session, message, output));
  }

  /**
   * C_EncryptInit and C_Encrypt (v3.1 §5.8) with AES-GCM, off the event loop: ciphertext and tag. A token that
   * makes the IV itself writes it into `gcm.iv` until this resolves.
   */
  async encrypt(session: Handle, gcm: Gcm, key: Handle, plain: Buffer): Promise<Buffer> {
    this.#call(() => this.#lib.C_EncryptInit(guardedHandle(session), guardedGcm(gcm), guardedHandle(key)));
    const output = Buffer.alloc(plain.length + gcmTag_bytes);
    return await this.#lending([plain, output, gcm.iv, gcm.aad], () =>
      this.#lib.C_EncryptAsync(session, plain, output),
    );
  }

  /**
   * C_DecryptInit and C_Decrypt (v3.1 §5.10) with AES-GCM, off the event loop. `UnsealError` when the data
   * does not open. Whoever called wipes the plain bytes; after a failure none remain.
   */
  async decrypt(session: Handle, gcm: Gcm, key: Handle, sealed: Buffer): Promise<Buffer> {
    this.#call(() => this.#lib.C_DecryptInit(guardedHandle(session), guardedGcm(gcm), guardedHandle(key)));
    const output = Buffer.alloc(sealed.length); // as large as what goes in: SoftHSM insists on that much room
    try {
      return await this.#lending([sealed, output, gcm.iv, gcm.aad], () =>
        this.#lib.C_DecryptAsync(session, sealed, output),
      );
    } catch (thrown) {
      output.fill(0);
      const refused = thrown instanceof CkrError && dataRefusals.has(thrown.ckr);
      throw refused ? new UnsealError(thrown.ckr) : thrown;
    }
  }

  openSession(slot: Handle, flags: number): Handle {
    return this.#call(() => this.#lib.C_OpenSession(guardedHandle(slot), flags));
  }

  closeSession(session: Handle): void {
    this.#call(() => this.#lib.C_CloseSession(guardedHandle(session)));
  }

  /** CK_STATE of a session (v3.1 §3.3): whether it may read or write, and who is logged in. */
  sessionState(session: Handle): number {
    return this.#call(() => this.#lib.C_GetSessionInfo(guardedHandle(session)).state);
  }

  login(session: Handle, userType: number, pin: string): void {
    this.#call(() => this.#lib.C_Login(guardedHandle(session), userType, pin));
  }

  logout(session: Handle): void {
    this.#call(() => this.#lib.C_Logout(guardedHandle(session)));
  }

  /** C_InitToken (v3.1 §5.5.7): erases whatever the token holds. The label is padded as the standard asks. */
  initToken(slot: Handle, soPin: string, label: string): void {
    this.#call(() => this.#lib.C_InitToken(guardedHandle(slot), soPin, label.padEnd(32, ' ')));
  }

  initPin(session: Handle, pin: string): void {
    this.#call(() => this.#lib.C_InitPIN(guardedHandle(session), pin));
  }

  /** Every object that matches. The search is always finished, so the session stays usable. */
  findObjects(session: Handle, template: Template): Handle[] {
    this.#call(() => this.#lib.C_FindObjectsInit(guardedHandle(session), guardedTemplate(template)));
    try {
      const found: Handle[] = [];
      for (;;) {
        const page = this.#call(() => this.#lib.C_FindObjects(session, findPage));
        for (const handle of page) found.push(Buffer.from(handle));
        if (page.length < findPage) return found;
      }
    } finally {
      this.#call(() => this.#lib.C_FindObjectsFinal(session));
    }
  }

  /** One attribute a call: a single one that is missing or sensitive would fail all the others with it. */
  attribute(session: Handle, object: Handle, type: number): Buffer | undefined {
    try {
      const [result] = this.#call(() =>
        this.#lib.C_GetAttributeValue(guardedHandle(session), guardedHandle(object), [{ type }]),
      );
      return result && Buffer.from(result.value);
    } catch (error) {
      if (error instanceof CkrError && attributeAbsent.has(error.ckr)) return undefined;
      throw error;
    }
  }

  // The synchronous form: the asynchronous one leaks its templates at every call.
  generateKeyPair(session: Handle, mechanism: MechanismType, publicKey: Template, privateKey: Template) {
    return this.#call(() =>
      this.#lib.C_GenerateKeyPair(
        guardedHandle(session),
        guardedMechanism(mechanism),
        guardedTemplate(publicKey),
        guardedTemplate(privateKey),
      ),
    );
  }

  // The synchronous form, for the same reason.
  generateKey(session: Handle, mechanism: MechanismType, template: Template): Handle {
    return this.#call(() =>
      this.#lib.C_GenerateKey(guardedHandle(session), guardedMechanism(mechanism), guardedTemplate(template)),
    );
  }

  createObject(session: Handle, template: Template): Handle {
    return this.#call(() => this.#lib.C_CreateObject(guardedHandle(session), guardedTemplate(template)));
  }

  destroyObject(session: Handle, object: Handle): void {
    this.#call(() => this.#lib.C_DestroyObject(guardedHandle(session), guardedHandle(object)));
  }

  /** Only promise forms: the callback forms let buffers be collected while the token still writes to them. */
  async #lending(buffers: readonly Buffer[], native: () => Promise<Buffer>): Promise<Buffer> {
    this.#lent.add(buffers);
    try {
      return await native();
    } catch (thrown) {
      throw ckrError(thrown);
    } finally {
      this.#lent.delete(buffers);
    }
  }

  #call<T>(native: () => T): T {
    try {
      return native();
    } catch (thrown) {
      throw ckrError(thrown);
    }
  }
}

const findPage = 128;

// CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID (v3.1 §5.7.5)
const attributeAbsent: ReadonlySet<number> = new Set([0x11, 0x12]);

/** A PKCS#11 return value other than CKR_OK (v3.1 §3.6). The text of the addon is not repeated to callers. */
export class CkrError extends Error {
  readonly ckr: number;

  constructor(ckr: number, name: string) {
    super(`${name} (0x${ckr.toString(16)})`);
    this.name = 'CkrError';
    this.ckr = ckr;
  }
}

/**
 * C_Decrypt, as opposed to C_DecryptInit, did not open the data. With CKR_GENERAL_ERROR that may also be a
 * device that fails: SoftHSM answers it to a wrong tag.
 */
export class UnsealError extends CkrError {
  readonly certain: boolean;

  constructor(ckr: number) {
    super(ckr, 'C_Decrypt refused');
    this.name = 'UnsealError';
    this.certain = ckr !== CKR_GENERAL_ERROR;
  }
}

const CKR_GENERAL_ERROR = 0x05;

// And CKR_ENCRYPTED_DATA_INVALID, CKR_ENCRYPTED_DATA_LEN_RANGE, CKR_AEAD_DECRYPT_FAILED (v3.1 §5.10.2)
const dataRefusals: ReadonlySet<number> = new Set([CKR_GENERAL_ERROR, 0x40, 0x41, 0x42]);

// C_FindObjects bypasses the addon's error class and throws a plain Error whose text is "CKR_NAME:number".
const ckrText = /(CKR_\w+):(\d+)/;

/** What the addon throws as the `CkrError` that it is; anything else passes through. */
export function ckrError(thrown: unknown): unknown {
  if (!(thrown instanceof Error)) return thrown;
  const code = 'code' in thrown ? thrown.code : undefined;
  if (typeof code === 'number' && code > 0) return new CkrError(code, thrown.message);
  const match = ckrText.exec(`${thrown.message}\n${thrown.stack ?? ''}`);
  return match?.[1] && match[2] ? new CkrError(Number(match[2]), match[1]) : thrown;
}

export type AttributeValue = boolean | number | string | Buffer;
export type Template = ReadonlyMap<number, AttributeValue>;
export type MechanismType = number;

/** CK_GCM_PARAMS (v3.1 §6.13.3). `ivBits` is 0 where the token makes the IV. */
export interface Gcm {
  readonly iv: Buffer;
  readonly ivBits: number;
  readonly aad: Buffer;
}

export const gcmIv_bytes = 12;
export const gcmTag_bytes = 16;

/** The only way to a template: attribute type to value, nothing that came from outside as a type. */
export const template = (...attributes: readonly (readonly [number, AttributeValue])[]): Template =>
  new Map(attributes);

/** Throws a TypeError before native code can read what is not there. Exported for its test. */
export function guardedTemplate(attributes: Template): Attribute[] {
  return [...attributes].map(([type, value]) => {
    if (!isCkUlong(type)) throw new TypeError('An attribute type is not an unsigned integer.');
    const sound =
      typeof value === 'boolean' || typeof value === 'string' || Buffer.isBuffer(value) || isCkUlong(value);
    if (!sound) throw new TypeError(`The value of attribute 0x${type.toString(16)} has an unusable type.`);
    return { type, value };
  });
}

/** AES-GCM with a tag of 16 bytes; the addon would take a missing IV for a pointer. Exported for its test. */
export function guardedGcm({ iv, ivBits, aad }: Gcm): Mechanism {
  if (!Buffer.isBuffer(iv) || iv.length !== gcmIv_bytes) throw new TypeError('A GCM IV has 12 bytes.');
  if (ivBits !== 0 && ivBits !== 8 * gcmIv_bytes) throw new TypeError('A GCM IV has 96 bits, or none yet.');
  // Never empty: SoftHSM 2.6 crashes without additional data.
  if (!Buffer.isBuffer(aad) || aad.length === 0) throw new TypeError('GCM takes additional data.');
  const parameter: AesGCM = { type: gcmParameters, iv, ivBits, aad, tagBits: 8 * gcmTag_bytes };
  return { mechanism: CKM_AES_GCM, parameter };
}

// CK_PARAMS_AES_GCM_v240 of pkcs11js: the structure of the standard, whose older one lacked ulIvBits.
const gcmParameters = 7;

/** Mechanisms without parameters only: pure Ed25519 never takes CK_EDDSA_PARAMS. Exported for its test. */
export function guardedMechanism(mechanism: MechanismType): Mechanism {
  if (!isCkUlong(mechanism)) throw new TypeError('A mechanism is not an unsigned integer.');
  return { mechanism };
}

/** Exported for its test. */
export function guardedHandle(handle: Handle): Handle {
  if (!Buffer.isBuffer(handle) || handle.length !== 8) throw new TypeError('A handle has 8 bytes.');
  return handle;
}

const isCkUlong = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

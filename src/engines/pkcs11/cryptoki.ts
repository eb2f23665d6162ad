import type { Attribute, Handle, Mechanism, PKCS11 } from 'pkcs11js';

/**
 * The seam at the vendor library: the PKCS#11 functions that Keyslot calls, and nothing else.
 *
 * A malformed template or mechanism does not fail inside the addon, it kills the process. So every value
 * passes a guard here before native code sees it, and every failure leaves as a `CkrError` with its number.
 * Calls are synchronous and block the event loop for as long as the token takes, except `sign`.
 */
export class Cryptoki {
  readonly #lib: PKCS11;
  // The addon keeps no reference to the buffers of a running call: whoever lends them memory must.
  readonly #lent = new Set<readonly [Buffer, Buffer]>();

  constructor(lib: PKCS11) {
    this.#lib = lib;
  }

  /** C_SignInit and C_Sign (v3.1 §5.13): one signature of at most 64 bytes, off the event loop. */
  async sign(session: Handle, mechanism: MechanismType, key: Handle, message: Buffer): Promise<Buffer> {
    this.#call(() => this.#lib.C_SignInit(session, guardedMechanism(mechanism), guardedHandle(key)));
    const output = Buffer.alloc(64);
    const lent = [message, output] as const;
    this.#lent.add(lent);
    try {
      // Only the promise form: the callback form lets the buffers be collected while the token writes to them.
      return await this.#lib.C_SignAsync(session, message, output);
    } catch (thrown) {
      throw ckrError(thrown);
    } finally {
      this.#lent.delete(lent);
    }
  }

  openSession(slot: Handle, flags: number): Handle {
    return this.#call(() => this.#lib.C_OpenSession(guardedHandle(slot), flags));
  }

  closeSession(session: Handle): void {
    this.#call(() => this.#lib.C_CloseSession(guardedHandle(session)));
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

  createObject(session: Handle, template: Template): Handle {
    return this.#call(() => this.#lib.C_CreateObject(guardedHandle(session), guardedTemplate(template)));
  }

  destroyObject(session: Handle, object: Handle): void {
    this.#call(() => this.#lib.C_DestroyObject(guardedHandle(session), guardedHandle(object)));
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

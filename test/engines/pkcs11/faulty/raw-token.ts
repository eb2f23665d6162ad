import { randomBytes } from 'node:crypto';
import type { Handle } from 'pkcs11js';
import {
  CKA_CLASS,
  CKA_EC_PARAMS,
  CKA_EC_POINT,
  CKA_EXTRACTABLE,
  CKA_ID,
  CKA_PRIVATE,
  CKA_SENSITIVE,
  CKA_SIGN,
  CKA_TOKEN,
  CKA_VERIFY,
  CKF_RW_SESSION,
  CKF_SERIAL_SESSION,
  CKM_EC_EDWARDS_KEY_PAIR_GEN,
  CKM_EDDSA,
  CKO_PRIVATE_KEY,
  CKO_PUBLIC_KEY,
  CKU_USER,
} from '../../../../src/engines/pkcs11/constants.ts';
import { type AttributeValue, type Cryptoki, template } from '../../../../src/engines/pkcs11/cryptoki.ts';
import { edwards25519Params, publicKeyOfEcPoint } from '../../../../src/engines/pkcs11/ec.ts';
import { Pkcs11Module, type TokenView } from '../../../../src/engines/pkcs11/module.ts';
import { createVerifier } from '../../../../src/foundation/ed25519.ts';

export type Attribute = readonly [number, AttributeValue];

export const edwardsOid = edwards25519Params[0] ?? Buffer.alloc(0);
export const edwardsPrintable = edwards25519Params[1] ?? Buffer.alloc(0);

/** A token without the engine above it: what the module itself answers, as a `CkrError`. */
export class RawToken implements Disposable {
  readonly module: Pkcs11Module;
  readonly #label: string;
  readonly #pin: string;
  #session: Handle;

  constructor(path: string, label: string, pin: string) {
    this.#label = label;
    this.#pin = pin;
    this.module = Pkcs11Module.open(path);
    try {
      this.#session = this.openSession();
      this.login();
    } catch (error) {
      this.module.close();
      throw error;
    }
  }

  get cryptoki(): Cryptoki {
    return this.module.cryptoki;
  }

  get session(): Handle {
    return this.#session;
  }

  get view(): TokenView {
    const token = this.module.tokens().find(each => each.label === this.#label);
    if (!token) throw new Error('The token is not there.');
    return token;
  }

  openSession(flags = CKF_SERIAL_SESSION | CKF_RW_SESSION): Handle {
    return this.cryptoki.openSession(this.view.slotHandle, flags);
  }

  /** Goes on with a session of its own, not logged in. */
  begin(): void {
    this.#session = this.openSession();
  }

  login(): void {
    this.cryptoki.login(this.#session, CKU_USER, this.#pin);
  }

  /** Both handles of a new pair; `more` goes into both halves. */
  generate(
    options: { id?: Buffer; params?: Buffer; mechanism?: number; token?: boolean; more?: Attribute } = {},
  ) {
    const { params = edwardsOid, mechanism = CKM_EC_EDWARDS_KEY_PAIR_GEN, token = true } = options;
    const id: Attribute = [CKA_ID, options.id ?? randomBytes(8)];
    const more = options.more ? [options.more] : [];
    const half = [[CKA_TOKEN, token], id, ...more] as const;
    return this.cryptoki.generateKeyPair(
      this.#session,
      mechanism,
      template(...half, [CKA_EC_PARAMS, params], [CKA_VERIFY, true]),
      template(
        ...half,
        [CKA_PRIVATE, true],
        [CKA_SENSITIVE, true],
        [CKA_EXTRACTABLE, false],
        [CKA_SIGN, true],
      ),
    );
  }

  find(id: Buffer, objectClass = CKO_PRIVATE_KEY): Handle | undefined {
    return this.cryptoki.findObjects(this.#session, template([CKA_CLASS, objectClass], [CKA_ID, id]))[0];
  }

  sign(key: Handle, message = Buffer.from('message'), session = this.#session): Promise<Buffer> {
    return this.cryptoki.sign(session, CKM_EDDSA, key, message);
  }

  /** Whether this is the signature of the message by the key whose public half is on the token under the id. */
  async verifies(id: Buffer, signature: Buffer, message = Buffer.from('message')): Promise<boolean> {
    const handle = this.find(id, CKO_PUBLIC_KEY);
    const point = handle && this.cryptoki.attribute(this.#session, handle, CKA_EC_POINT);
    if (!point) throw new Error('The token shows no public key.');
    return createVerifier(publicKeyOfEcPoint(point)).verify(message, signature);
  }

  [Symbol.dispose](): void {
    this.module.close();
  }
}

import type { Handle } from 'pkcs11js';
import { KeyslotError } from '../../foundation/errors.ts';
import {
  CKA_CLASS,
  CKA_DECRYPT,
  CKA_DERIVE,
  CKA_ENCRYPT,
  CKA_EXTRACTABLE,
  CKA_ID,
  CKA_KEY_TYPE,
  CKA_LABEL,
  CKA_PRIVATE,
  CKA_SENSITIVE,
  CKA_SIGN,
  CKA_TOKEN,
  CKA_UNWRAP,
  CKA_VALUE_LEN,
  CKA_VERIFY,
  CKA_WRAP,
  CKK_AES,
  CKM_AES_KEY_GEN,
  CKO_SECRET_KEY,
} from './constants.ts';
import { template } from './cryptoki.ts';
import type { TokenLogin } from './login.ts';

/**
 * The AES-256 key of a token that seals the seeds of a slot. It can encrypt and decrypt and nothing else: a key
 * that could also wrap or derive would lead other keys, or itself, out of the token. What the token says of it
 * is read back at every opening.
 */
export class WrappingKey {
  readonly name: string;
  readonly #login: TokenLogin;
  #handle: Handle;
  #epoch: number;

  private constructor(login: TokenLogin, name: string, handle: Handle) {
    this.#login = login;
    this.name = name;
    this.#handle = handle;
    this.#epoch = login.epoch;
  }

  /**
   * Finds the key by CKA_LABEL or CKA_ID, or makes it. `sealedKeys` is how many keys it is needed for already:
   * with any, none is made, because a new one would open nothing. TOKEN_UNSUITABLE, KEY_AMBIGUOUS.
   */
  static open(login: TokenLogin, name: string, sealedKeys: number): WrappingKey {
    const found = login.work(() => findOne(login, name));
    if (found) {
      login.work(() => refuseUnsuitable(login, name, found));
      return new WrappingKey(login, name, found);
    }
    if (sealedKeys > 0) {
      throw new KeyslotError(
        'TOKEN_UNSUITABLE',
        `Slot ${login.slot} has ${sealedKeys} sealed keys, but its token holds no AES key "${name}" to open them. ` +
          'Restore the key or the token from its backup, or correct tokenLabel, tokenSerial or wrappingKey; ' +
          'a new key is made only for an empty folder.',
      );
    }
    return new WrappingKey(login, name, make(login, name));
  }

  /** Nothing when it has to be looked up and proven first. */
  get handle(): Handle | undefined {
    return this.#epoch === this.#login.epoch ? this.#handle : undefined;
  }

  /** What is there under the name now, which may be another key. */
  lookUp(): Handle | undefined {
    const found = findOne(this.#login, this.name);
    if (!found) this.#login.refuseLoggedOut();
    return found;
  }

  /** Goes on with this handle, which was proven in this epoch to be the same key. */
  adopt(handle: Handle, epoch: number): void {
    this.#handle = handle;
    this.#epoch = epoch;
  }

  /** The token does not know the handle any more. */
  forget(handle: Handle): void {
    if (this.#handle === handle) this.#epoch = -1;
  }
}

function findOne(login: TokenLogin, name: string): Handle | undefined {
  const under = (type: number) =>
    login.find(template([CKA_CLASS, CKO_SECRET_KEY], [type, Buffer.from(name)]));
  const types = new Set([CKA_LABEL, login.device.nameType]);
  const found = new Map([...types].flatMap(under).map(handle => [handle.toString('hex'), handle]));
  if (found.size > 1) {
    throw new KeyslotError('KEY_AMBIGUOUS', `The token of slot ${login.slot} holds several keys "${name}".`);
  }
  return [...found.values()][0];
}

/** What came of it is looked at, and removed again when it is not what was asked for: nothing is sealed yet. */
function make(login: TokenLogin, name: string): Handle {
  const { cryptoki, anchor } = login;
  if (!login.device.takesLabel(name)) {
    throw new KeyslotError(
      'CONFIG_INVALID',
      `Slot ${login.slot}: the device takes no label "${name}": wrappingKey.`,
    );
  }
  const handle = login.work(() =>
    cryptoki.generateKey(anchor, CKM_AES_KEY_GEN, wrappingTemplate(login, name)),
  );
  try {
    login.work(() => {
      findOne(login, name); // another process may have made one at the same time
      refuseUnsuitable(login, name, handle);
    });
    return handle;
  } catch (error) {
    login.work(() => cryptoki.destroyObject(anchor, handle));
    throw error;
  }
}

const mustBe = [
  ['TOKEN', CKA_TOKEN],
  ['PRIVATE', CKA_PRIVATE],
  ['SENSITIVE', CKA_SENSITIVE],
  ['ENCRYPT', CKA_ENCRYPT],
  ['DECRYPT', CKA_DECRYPT],
] as const;

/** What else a key can be for. A token that does not know the attribute cannot do it either. */
const mayNot = [
  ['WRAP', CKA_WRAP],
  ['UNWRAP', CKA_UNWRAP],
  ['SIGN', CKA_SIGN],
  ['VERIFY', CKA_VERIFY],
  ['DERIVE', CKA_DERIVE],
] as const;

const wrappingTemplate = (login: TokenLogin, name: string) =>
  template(
    ...login.device.names(name, id => login.find(template([CKA_ID, id])).length > 0),
    [CKA_VALUE_LEN, aesKey_bytes],
    ...login.device.wrappingAttributes,
  );

const aesKey_bytes = 32;

function refuseUnsuitable(login: TokenLogin, name: string, handle: Handle): void {
  const flag = (type: number) => login.attribute(handle, type)?.[0];
  const number = (type: number) => login.attribute(handle, type)?.readUInt32LE(0);
  const wrong = [
    ...(number(CKA_KEY_TYPE) === CKK_AES && number(CKA_VALUE_LEN) === aesKey_bytes ? [] : ['not AES-256']),
    ...mustBe.filter(([, type]) => flag(type) !== 1).map(([attribute]) => `not ${attribute}`),
    ...(flag(CKA_EXTRACTABLE) === 0 ? [] : ['EXTRACTABLE']),
    ...mayNot.filter(([, type]) => flag(type) === 1).map(([attribute]) => attribute),
  ];
  if (wrong.length === 0) return;
  throw new KeyslotError(
    'TOKEN_UNSUITABLE',
    `Key "${name}" in the token of slot ${login.slot} is ${wrong.join(', ')}; it has to be an AES-256 key that ` +
      'is TOKEN, PRIVATE, SENSITIVE, not EXTRACTABLE, and for ENCRYPT and DECRYPT only.',
  );
}

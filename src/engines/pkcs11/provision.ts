import { KeyslotError } from '../../foundation/errors.ts';
import type { Secret } from '../../foundation/secret.ts';
import { tokenError } from './ckr.ts';
import {
  CKF_RW_SESSION,
  CKF_SERIAL_SESSION,
  CKF_TOKEN_INITIALIZED,
  CKF_USER_PIN_INITIALIZED,
  CKU_SO,
} from './constants.ts';
import { Pkcs11Module } from './module.ts';

/**
 * Initialises an empty token (C_InitToken, C_InitPIN) unless one with this label exists; says whether it did.
 * The PINs go to the library directly, never through the arguments of another program. A token that holds
 * anything is never touched.
 */
export function provisionToken(options: {
  module: string;
  libraryParameters?: string;
  label: string;
  soPin: Secret;
  userPin: Secret;
}): boolean {
  const { label, soPin, userPin } = options;
  const module = Pkcs11Module.open(options.module, options.libraryParameters);
  try {
    const present = module.tokens().find(token => token.label === label);
    if (present) {
      // Left behind by a run that was interrupted between the two steps.
      if ((present.flags & CKF_USER_PIN_INITIALIZED) === 0) setUserPin(module, label, soPin, userPin);
      return false;
    }
    const empty = module.tokens().find(token => (token.flags & CKF_TOKEN_INITIALIZED) === 0);
    if (!empty) throw new KeyslotError('TOKEN_NOT_FOUND', `${module.path} has no empty token to initialise.`);
    soPin.useText(pin => module.cryptoki.initToken(empty.slotHandle, pin, label));
    setUserPin(module, label, soPin, userPin);
    return true;
  } catch (thrown) {
    throw tokenError(thrown, `Initialising token "${label}"`);
  } finally {
    module.close();
  }
}

function setUserPin(module: Pkcs11Module, label: string, soPin: Secret, userPin: Secret): void {
  // Looked for again by label: initialising a SoftHSM token moves it to another slot number.
  const token = module.tokens().find(candidate => candidate.label === label);
  if (!token) throw new KeyslotError('TOKEN_NOT_FOUND', `Token "${label}" is gone after it was initialised.`);
  const { cryptoki } = module;
  const session = cryptoki.openSession(token.slotHandle, CKF_SERIAL_SESSION | CKF_RW_SESSION);
  try {
    soPin.useText(pin => cryptoki.login(session, CKU_SO, pin));
    userPin.useText(pin => cryptoki.initPin(session, pin));
    cryptoki.logout(session);
  } finally {
    cryptoki.closeSession(session);
  }
}

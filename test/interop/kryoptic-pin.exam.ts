import { afterAll, expect, it } from 'vitest';
import { slotId } from '../../src/custody/ids.ts';
import { CKF_RW_SESSION, CKF_SERIAL_SESSION, CKU_USER } from '../../src/engines/pkcs11/constants.ts';
import { createPkcs11Engine, pkcs11Settings } from '../../src/engines/pkcs11/index.ts';
import { Pkcs11Module } from '../../src/engines/pkcs11/module.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { kryopticModule, kryopticToken } from './kryoptic-token.ts';

/** SoftHSM never locks a PIN. This token does, after the ten wrong ones that its profile names. */
const token = kryopticToken(kryopticModule(), 'locking');
afterAll(() => token[Symbol.dispose]());

const settings = pkcs11Settings.parse({
  module: token.module,
  profile: 'kryoptic',
  tokenLabel: token.label,
});

it('the last attempt at a PIN is never spent, and a token that another program locked is not asked', async () => {
  await using engine = createPkcs11Engine(slotId('main'), settings, silentLog);
  const [slot] = await engine.slots();
  if (!slot) throw new Error('The engine has no slot.');
  const openedWith = async (make: () => Secret): Promise<string> => {
    using pin = make();
    try {
      await using session = await slot.open(pin);
      return `opened ${session.slot}`;
    } catch (error) {
      if (isKeyslotError(error)) return error.code;
      throw error;
    }
  };
  const wrong = () => Secret.fromText('0'.repeat(16));
  const short = () => Secret.fromText('0'.repeat(7));

  expect(await openedWith(wrong)).toBe('PIN_REFUSED');
  expect(await openedWith(token.pin)).toBe('opened main'); // which sets the count back
  for (let attempt = 1; attempt <= 9; attempt += 1) {
    expect(await openedWith(short)).toBe('PIN_REFUSED'); // and spends none
    expect(await openedWith(wrong)).toBe('PIN_REFUSED');
  }
  for (const pin of [wrong, token.pin]) expect(await openedWith(pin)).toBe('PIN_LAST_TRY');
  logInElsewhere('0'.repeat(16));
  for (const pin of [wrong, token.pin]) expect(await openedWith(pin)).toBe('PIN_LOCKED');
});

/** As a program that does not look at the flags of the token. */
function logInElsewhere(pin: string): void {
  const module = Pkcs11Module.open(token.module);
  try {
    const found = module.tokens().find(({ label }) => label === token.label);
    if (!found) throw new Error('The token is gone.');
    const session = module.cryptoki.openSession(found.slotHandle, CKF_SERIAL_SESSION | CKF_RW_SESSION);
    expect(() => module.cryptoki.login(session, CKU_USER, pin)).toThrow();
    module.cryptoki.closeSession(session);
  } finally {
    module.close();
  }
}

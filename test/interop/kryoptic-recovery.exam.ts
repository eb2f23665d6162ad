import { randomBytes } from 'node:crypto';
import { afterAll, expect, it } from 'vitest';
import { generates, type Signer } from '../../src/custody/engine.ts';
import { keyId, slotId } from '../../src/custody/ids.ts';
import { CKA_ID, CKF_RW_SESSION, CKF_SERIAL_SESSION } from '../../src/engines/pkcs11/constants.ts';
import { template } from '../../src/engines/pkcs11/cryptoki.ts';
import { createPkcs11Engine, pkcs11Settings } from '../../src/engines/pkcs11/index.ts';
import { Pkcs11Module } from '../../src/engines/pkcs11/module.ts';
import { createVerifier } from '../../src/foundation/ed25519.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { kryopticModule, kryopticToken } from './kryoptic-token.ts';

/** What a second implementation answers when its login or an object is gone: the ladder climbs on its codes too. */
const token = kryopticToken(kryopticModule(), 'recovery');
afterAll(() => token[Symbol.dispose]());

const settings = pkcs11Settings.parse({
  module: token.module,
  profile: 'kryoptic',
  tokenLabel: token.label,
});

it('a login that was ended behind the back of the slot is made again, and a key that was removed is unknown', async () => {
  await using engine = createPkcs11Engine(slotId('main'), settings, silentLog);
  const [slot] = await engine.slots();
  using pin = token.pin();
  await using session = await slot?.open(pin);
  if (!session || !generates(session)) throw new Error('The slot makes no keys.');
  const kept = await session.signer((await session.generate(keyId('kept'))).id);
  const removed = await session.signer((await session.generate(keyId('removed'))).id);
  await expectSigns(kept);
  await expectSigns(removed);

  elsewhere((module, other) => module.cryptoki.logout(other));
  await Promise.all([1, 2, 3, 4].map(() => expectSigns(kept)));
  await expectSigns(removed);

  elsewhere((module, other) => {
    for (const object of module.cryptoki.findObjects(other, template([CKA_ID, Buffer.from('removed')]))) {
      module.cryptoki.destroyObject(other, object);
    }
  });
  await expect(removed.sign(randomBytes(32))).rejects.toMatchObject({ code: 'KEY_UNKNOWN' });
  await expectSigns(kept);
});

async function expectSigns(signer: Signer): Promise<void> {
  const message = randomBytes(64);
  expect(await createVerifier(signer.key.publicKey).verify(message, await signer.sign(message))).toBe(true);
}

/** Another session of this process, which shares its login. */
function elsewhere(work: (module: Pkcs11Module, session: Buffer) => void): void {
  const module = Pkcs11Module.open(token.module);
  try {
    const found = module.tokens().find(({ label }) => label === token.label);
    if (!found) throw new Error('The token is gone.');
    const session = module.cryptoki.openSession(found.slotHandle, CKF_SERIAL_SESSION | CKF_RW_SESSION);
    work(module, session);
    module.cryptoki.closeSession(session);
  } finally {
    module.close();
  }
}

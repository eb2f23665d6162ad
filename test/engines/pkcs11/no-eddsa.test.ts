import { afterAll, expect, it } from 'vitest';
import { slotId } from '../../../src/custody/ids.ts';
import { createPkcs11Engine, inspectModule, pkcs11Settings } from '../../../src/engines/pkcs11/index.ts';
import { silentLog } from '../../../src/foundation/log.ts';
import { softToken } from './soft-token.ts';

// SoftHSM ignores the first name of a negative list, hence the empty one.
const token = softToken({ label: 'old', mechanisms: '-,CKM_EDDSA,CKM_EC_EDWARDS_KEY_PAIR_GEN' });
afterAll(() => token.remove());

it('refuses mode native on a token that does not list CKM_EDDSA, before a PIN is spent, and names mode wrapped', async () => {
  const report = inspectModule(token.module).tokens.find(each => each.label === token.label);
  expect(report).toMatchObject({ eddsa: false, edwardsKeyPairGen: false });
  const settings = pkcs11Settings.parse({ module: token.module, tokenLabel: token.label });
  await using engine = createPkcs11Engine(slotId('main'), settings, silentLog);
  const [slot] = await engine.slots();
  using pin = token.pin();
  await expect(slot?.open(pin)).rejects.toMatchObject({
    code: 'TOKEN_UNSUITABLE',
    message: expect.stringContaining('mode: wrapped'),
  });
});

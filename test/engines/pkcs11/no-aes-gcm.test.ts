import { afterAll, expect, it } from 'vitest';
import { slotId } from '../../../src/custody/ids.ts';
import { createPkcs11Engine, inspectModule, pkcs11Settings } from '../../../src/engines/pkcs11/index.ts';
import { silentLog } from '../../../src/foundation/log.ts';
import { Secret } from '../../../src/foundation/secret.ts';
import { softToken } from './soft-token.ts';

const token = softToken({ label: 'no-gcm', mechanisms: '-,CKM_AES_GCM' });
afterAll(() => token.remove());

it('refuses mode wrapped on a token that does not list CKM_AES_GCM, before a PIN is spent', async () => {
  const report = inspectModule(token.module).tokens.find(each => each.label === token.label);
  expect(report).toMatchObject({ aesGcm: false, modes: ['native'] });
  const settings = pkcs11Settings.parse({
    module: token.module,
    tokenLabel: token.label,
    mode: 'wrapped',
    folder: `${token.folder}/keys`,
  });
  await using engine = createPkcs11Engine(slotId('main'), settings, silentLog);
  const [slot] = await engine.slots();
  using wrong = Secret.fromText('not-the-pin');
  await expect(slot?.open(wrong)).rejects.toMatchObject({ code: 'TOKEN_UNSUITABLE' });
  const after = inspectModule(token.module).tokens.find(each => each.label === token.label);
  expect(after?.pin).toBe('set'); // no failed login was counted
  expect((await slot?.describe())?.details).toMatchObject({ mode: 'wrapped', aesGcm: false });
});

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { slotId } from '../../src/custody/ids.ts';
import { createPkcs11Engine, inspectModule, pkcs11Settings } from '../../src/engines/pkcs11/index.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { softToken } from '../engines/pkcs11/soft-token.ts';
import { describeEngine, type EngineUnderTest } from './engine-suite.ts';

// A token that cannot do Ed25519 at all. SoftHSM ignores the first name of a negative list, hence the empty one.
const token = softToken({ label: 'exam', mechanisms: '-,CKM_EDDSA,CKM_EC_EDWARDS_KEY_PAIR_GEN' });
const folder = mkdtempSync(join(tmpdir(), 'keyslot-wrapped-'));
afterAll(() => {
  token.remove();
  rmSync(folder, { recursive: true, force: true });
});

it('is examined on a token that lists neither CKM_EDDSA nor CKM_EC_EDWARDS_KEY_PAIR_GEN', () => {
  const report = inspectModule(token.module).tokens.find(each => each.label === token.label);
  expect(report).toMatchObject({ eddsa: false, edwardsKeyPairGen: false, modes: ['wrapped'] });
});

describeEngine('pkcs11 in mode wrapped (SoftHSM without EdDSA)', {
  engineName: 'pkcs11',
  custody: 'hsm-wrapped',
  powers: { generate: true, import: true, export: true, destroy: true },
  persistent: true,
  start: async () => start(),
});

function start(): EngineUnderTest {
  const slot = slotId('main');
  const settings = pkcs11Settings.parse({
    module: token.module,
    tokenLabel: token.label,
    mode: 'wrapped',
    folder: join(folder, 'keys'),
  });
  const engine = createPkcs11Engine(slot, settings, silentLog);
  return {
    engine,
    slot,
    pin: token.pin,
    wrongPin: () => Secret.fromText('0'.repeat(16)), // SoftHSM never locks
    restart: async () => {
      await engine[Symbol.asyncDispose]();
      return start();
    },
    [Symbol.asyncDispose]: () => engine[Symbol.asyncDispose](),
  };
}

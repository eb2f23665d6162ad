import { afterAll } from 'vitest';
import { slotId } from '../../src/custody/ids.ts';
import { createPkcs11Engine, pkcs11Settings } from '../../src/engines/pkcs11/index.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { softToken } from '../engines/pkcs11/soft-token.ts';
import { describeEngine, type EngineUnderTest } from './engine-suite.ts';

const token = softToken({ label: 'exam' });
afterAll(() => token.remove());

describeEngine('pkcs11 (SoftHSM)', {
  engineName: 'pkcs11',
  custody: 'hsm-native',
  powers: { generate: true, import: true, export: false, destroy: true },
  persistent: true,
  start: async () => start(),
});

function start(): EngineUnderTest {
  const slot = slotId('main');
  const settings = pkcs11Settings.parse({ module: token.module, tokenLabel: token.label });
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

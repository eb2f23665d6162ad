import { join } from 'node:path';
import { afterAll } from 'vitest';
import { slotId } from '../../src/custody/ids.ts';
import { createPkcs11Engine, pkcs11Settings } from '../../src/engines/pkcs11/index.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { describeEngine, type EngineUnderTest } from '../conformance/engine-suite.ts';
import { kryopticModule, kryopticToken } from './kryoptic-token.ts';

const token = kryopticToken(kryopticModule(), 'exam');
afterAll(() => token[Symbol.dispose]());

describeEngine('pkcs11 in mode wrapped (Kryoptic)', {
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
    profile: 'kryoptic',
    tokenLabel: token.label,
    mode: 'wrapped',
    folder: join(token.folder, 'keys'),
  });
  const engine = createPkcs11Engine(slot, settings, silentLog);
  return {
    engine,
    slot,
    pin: token.pin,
    wrongPin: () => Secret.fromText('0'.repeat(16)), // once: it locks after ten
    restart: async () => {
      await engine[Symbol.asyncDispose]();
      return start();
    },
    [Symbol.asyncDispose]: () => engine[Symbol.asyncDispose](),
  };
}

import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { slotId } from '../../src/custody/ids.ts';
import {
  createPkcs11Engine,
  inspectModule,
  pkcs11Settings,
  provisionToken,
} from '../../src/engines/pkcs11/index.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { describeEngine, type EngineUnderTest } from './engine-suite.ts';

/** Another implementation of PKCS#11 than the one that everything else is tested with: it has AES-GCM, no EdDSA. */
const softoken = (): string => {
  const found = [
    '/usr/lib/x86_64-linux-gnu/libsoftokn3.so',
    '/usr/lib/aarch64-linux-gnu/libsoftokn3.so',
    '/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so',
    '/usr/lib/aarch64-linux-gnu/nss/libsoftokn3.so',
    '/usr/lib64/libsoftokn3.so',
  ].find(existsSync);
  if (found) return found;
  throw new Error('NSS is not installed: run scripts/test, which installs it.');
};

const module = softoken();
const folder = mkdtempSync(join(tmpdir(), 'keyslot-nss-'));
const libraryParameters = `configdir='sql:${folder}' certPrefix='' keyPrefix='' secmod='' flags=`;
const tokenLabel = 'NSS Certificate DB';
const pin = () => Secret.fromText('right-pin-of-nss');
process.env.NSS_MAX_MP_PBE_ITERATION_COUNT = '1'; // its database derives a key for every attribute
provisionToken({ module, libraryParameters, label: tokenLabel, soPin: Secret.fromText(''), userPin: pin() });
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it('is examined on a token that lists CKM_AES_GCM and not CKM_EDDSA', () => {
  const report = inspectModule(module, libraryParameters).tokens.find(each => each.label === tokenLabel);
  expect(report).toMatchObject({ aesGcm: true, eddsa: false, modes: ['wrapped'], pin: 'set' });
  expect(report?.mechanisms.filter(name => /^0x[0-9a-f]+$/.test(name))).not.toEqual([]); // of its own maker
  expect(report?.mechanisms).not.toContain('unknown');
});

describeEngine('pkcs11 in mode wrapped (NSS softoken)', {
  engineName: 'pkcs11',
  custody: 'hsm-wrapped',
  powers: { generate: true, import: true, export: true, destroy: true },
  persistent: true,
  start: async () => start(),
});

function start(): EngineUnderTest {
  const slot = slotId('main');
  const settings = pkcs11Settings.parse({
    module,
    libraryParameters,
    tokenLabel,
    mode: 'wrapped',
    folder: join(folder, 'keys'),
  });
  const engine = createPkcs11Engine(slot, settings, silentLog);
  return {
    engine,
    slot,
    pin,
    wrongPin: () => Secret.fromText('wrong-pin-of-nss'), // softoken never locks
    restart: async () => {
      await engine[Symbol.asyncDispose]();
      return start();
    },
    [Symbol.asyncDispose]: () => engine[Symbol.asyncDispose](),
  };
}

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe } from 'vitest';
import { slotId } from '../../src/custody/ids.ts';
import { createPkcs11Engine, pkcs11Settings, provisionToken } from '../../src/engines/pkcs11/index.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { Faulty } from '../engines/pkcs11/faulty/faulty.ts';
import type { Personality, Quirks } from '../engines/pkcs11/faulty/personalities.ts';
import { softToken } from '../engines/pkcs11/soft-token.ts';
import { describeEngine, type EngineLab, type EngineUnderTest } from './engine-suite.ts';

/** The exam on devices that are stricter than SoftHSM, each with the profile that is written for it. */
const token = softToken({ label: 'spare' });
const faulty = await Faulty.make({ inner: token.module });
const root = mkdtempSync(join(tmpdir(), 'keyslot-devices-'));
afterAll(() => {
  faulty[Symbol.dispose]();
  token.remove();
  rmSync(root, { recursive: true, force: true });
});

interface DeviceUnderTest {
  readonly label: string;
  readonly personality: readonly Personality[];
  readonly quirks?: Quirks;
  readonly pinText: string;
  readonly wrongPinText: string;
  readonly settings: Readonly<Record<string, unknown>>;
}

const exam = (
  name: string,
  device: DeviceUnderTest,
  lab: Omit<EngineLab, 'engineName' | 'persistent' | 'start'>,
) =>
  describe(name, () => {
    beforeAll(() => {
      const pins = { soPin: Secret.fromText('so-pin-of-exam'), userPin: Secret.fromText(device.pinText) };
      faulty.become([]);
      provisionToken({ module: faulty.modulePath, label: device.label, ...pins });
      faulty.become(device.personality, device.quirks);
    });
    describeEngine(name, {
      ...lab,
      engineName: 'pkcs11',
      persistent: true,
      start: async () => start(device),
    });
  });

// The exam has key ids of 63 characters, and more keys than fit such a device: a profile of one's own says so.
const yubihsm2 = join(root, 'yubihsm2.json');
const shipped = join(import.meta.dirname, '../../hsm-config/yubihsm2.json');
const { label, ...rest } = JSON.parse(readFileSync(shipped, 'utf8'));
writeFileSync(yubihsm2, JSON.stringify({ ...rest, label: { ...label, bytes_max: 63 } }));

exam(
  'pkcs11 on a device like a YubiHSM, profile yubihsm2',
  {
    label: 'yubihsm',
    personality: ['yubihsm'],
    quirks: { 'objects-max': 0 },
    pinText: '0001password',
    wrongPinText: '0001passw0rd',
    settings: { profile: yubihsm2 },
  },
  {
    custody: 'hsm-native',
    powers: { generate: true, import: true, export: false, destroy: true },
    message_bytes_max: 2_048,
  },
);

// And with points in the raw form, which nobody has on record for it: every token may have them.
exam(
  'pkcs11 on a device like AWS CloudHSM, profile aws-cloudhsm',
  {
    label: 'cloudhsm',
    personality: ['cloudhsm', 'raw-ec-point'],
    quirks: { 'edwards-by-ec': true },
    pinText: 'exam:right-password',
    wrongPinText: 'exam:wrong-password',
    settings: { profile: 'aws-cloudhsm' },
  },
  { custody: 'hsm-native', powers: { generate: true, import: false, export: false, destroy: true } },
);

exam(
  'pkcs11 in mode wrapped on a device like AWS CloudHSM in FIPS mode, profile aws-cloudhsm',
  {
    label: 'cloudhsm-fips',
    personality: ['cloudhsm', 'no-eddsa'],
    pinText: 'exam:right-password',
    wrongPinText: 'exam:wrong-password',
    settings: { profile: 'aws-cloudhsm', mode: 'wrapped', folder: join(root, 'fips') },
  },
  { custody: 'hsm-wrapped', powers: { generate: true, import: true, export: true, destroy: true } },
);

function start(device: DeviceUnderTest): EngineUnderTest {
  const slot = slotId('main');
  const place = { module: faulty.modulePath, tokenLabel: device.label };
  const engine = createPkcs11Engine(slot, pkcs11Settings.parse({ ...place, ...device.settings }), silentLog);
  return {
    engine,
    slot,
    pin: () => Secret.fromText(device.pinText),
    wrongPin: () => Secret.fromText(device.wrongPinText), // nothing is counted here
    restart: async () => {
      await engine[Symbol.asyncDispose]();
      return start(device);
    },
    [Symbol.asyncDispose]: () => engine[Symbol.asyncDispose](),
  };
}

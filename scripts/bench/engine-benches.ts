import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  createEncryptedFileEngine,
  createHsmSimEngine,
  createKmsEngine,
  createMemoryEngine,
  createMpcEngine,
  createPkcs11Engine,
  type Engine,
  encryptedFileSettings,
  hsmSimSettings,
  kmsSettings,
  mpcSettings,
  pkcs11Settings,
  Secret,
  silentLog,
  slotId,
} from '../../src/index.ts';
import { KmsServer } from '../../test/aws/kms-server.ts';
import { softToken } from '../../test/engines/pkcs11/soft-token.ts';

/** One custody as it is measured: how to make its engine over a fresh place, and its PIN. */
export interface EngineBench {
  readonly name: string;
  readonly pin: string;
  readonly promised?: string;
  make(): Engine;
  /** How many requests a KMS has seen so far. */
  requests?(): number;
}

/** All custodies, each over a place of its own that the stack removes. */
export async function engineBenches(stack: AsyncDisposableStack): Promise<readonly EngineBench[]> {
  const root = mkdtempSync(join(tmpdir(), 'keyslot-engines-'));
  stack.defer(() => rmSync(root, { recursive: true, force: true }));
  const kms = await KmsServer.start();
  stack.use(kms);
  // The SDK finds its credentials where every program of AWS does.
  Object.assign(process.env, kms.environment);
  const symmetric = kms.createKey('SYMMETRIC_DEFAULT', 'ENCRYPT_DECRYPT');
  const token = softToken({ label: 'native' });
  stack.defer(() => token.remove());
  token.addToken('wrapped');

  const slot = slotId('bench');
  let count = 0;
  const folder = () => join(root, `keys-${count++}`);
  const page = { envelope: 'agentic-wallet' };
  const requests = () => kms.count('Sign') + kms.count('Decrypt');
  const module = token.module;

  const encryptedFile = (settings: object) => () =>
    createEncryptedFileEngine(
      slot,
      { ...encryptedFileSettings.parse(settings), folder: folder() },
      silentLog,
    );
  const hsmSim = (settings: object) => () =>
    createHsmSimEngine(
      slot,
      { ...hsmSimSettings.parse(settings), folder: folder() },
      async () => Secret.fromText('a module secret'),
      silentLog,
    );
  const mpc = (settings: object) => () =>
    createMpcEngine(slot, { ...mpcSettings.parse(settings), folder: folder() }, silentLog);
  const kmsEngine = (settings: object) => () =>
    createKmsEngine(slot, { ...kmsSettings.parse(settings), folder: folder() }, silentLog);
  const pkcs11 = (settings: object) => () =>
    createPkcs11Engine(
      slot,
      { ...pkcs11Settings.parse({ module, ...settings }), folder: folder() },
      silentLog,
    );

  return [
    { name: 'memory', pin: 'any', promised: '< 1 / < 1', make: () => createMemoryEngine(slot) },
    { name: 'encrypted-file', pin: 'secret', promised: '5-10 / 5-10', make: encryptedFile({}) },
    { name: 'encrypted-file (page form)', pin: 'secret', make: encryptedFile(page) },
    { name: 'hsm-sim', pin: '123456', promised: '10-30 / 10-30', make: hsmSim({}) },
    { name: 'hsm-sim (page form)', pin: '123456', make: hsmSim(page) },
    {
      name: 'kms simulated',
      pin: 'master',
      promised: '10-20 / 10-20',
      make: kmsEngine({ mode: 'simulated' }),
    },
    { name: 'kms simulated (page form)', pin: 'master', make: kmsEngine({ mode: 'simulated', ...page }) },
    {
      name: 'kms aws-envelope (local server)',
      pin: '',
      requests,
      make: kmsEngine({ mode: 'aws-envelope', keyId: symmetric }),
    },
    {
      name: 'kms aws-native (local server)',
      pin: '',
      requests,
      make: kmsEngine({ mode: 'aws-native' }),
    },
    { name: 'mpc (shamir)', pin: 'one,two,three', promised: '15-30 / 20-40', make: mpc({}) },
    { name: 'mpc (shamir, page form)', pin: 'one,two,three', make: mpc(page) },
    { name: 'pkcs11 native (SoftHSM)', pin: token.pinText, make: pkcs11({ tokenLabel: token.label }) },
    {
      name: 'pkcs11 wrapped (SoftHSM)',
      pin: token.pinText,
      make: pkcs11({ tokenLabel: 'wrapped', mode: 'wrapped' }),
    },
  ];
}

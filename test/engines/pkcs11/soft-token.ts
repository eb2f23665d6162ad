import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { provisionToken } from '../../../src/engines/pkcs11/index.ts';
import { Secret } from '../../../src/foundation/secret.ts';

/** Where Debian and Ubuntu put SoftHSM's library; scripts/test installs it. */
export const softHsmModule = (): string => {
  const found = ['/usr/lib/softhsm/libsofthsm2.so', '/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so'].find(
    existsSync,
  );
  if (found) return found;
  throw new Error('SoftHSM is not installed: run scripts/test, which installs it.');
};

export interface SoftToken {
  readonly module: string;
  readonly label: string;
  readonly configuration: string;
  /** Everything of this SoftHSM; removed with it. */
  readonly folder: string;
  pin(): Secret;
  pinText: string;
  /** Another token in the same directory. */
  addToken(label: string): void;
  remove(): void;
}

/**
 * A SoftHSM with a token directory of its own. The library reads SOFTHSM2_CONF once per process, so a test file
 * (a process of its own) has one of these.
 */
export function softToken(options: { label?: string; mechanisms?: string } = {}): SoftToken {
  const label = options.label ?? 'keyslot-test';
  const folder = mkdtempSync(join(tmpdir(), 'keyslot-softhsm-'));
  mkdirSync(join(folder, 'tokens'), { mode: 0o700 });
  const configuration = join(folder, 'softhsm2.conf');
  const lines = [
    `directories.tokendir = ${join(folder, 'tokens')}`,
    'objectstore.backend = file',
    'log.level = ERROR',
    'slots.removable = false',
    ...(options.mechanisms ? [`slots.mechanisms = ${options.mechanisms}`] : []),
  ];
  writeFileSync(configuration, `${lines.join('\n')}\n`);
  process.env.SOFTHSM2_CONF = configuration;
  const module = softHsmModule();
  const pinText = randomBytes(8).toString('hex');
  const soPin = Secret.fromText(randomBytes(8).toString('hex'));
  const pin = () => Secret.fromText(pinText);
  const addToken = (name: string) => {
    provisionToken({ module, label: name, soPin, userPin: pin() });
  };
  addToken(label);
  return {
    module,
    label,
    configuration,
    folder,
    pin,
    pinText,
    addToken,
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

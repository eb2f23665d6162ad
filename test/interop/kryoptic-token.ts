import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { provisionToken } from '../../src/engines/pkcs11/index.ts';
import { Secret } from '../../src/foundation/secret.ts';

/** Where `npm run interop` has put the library that it compiled. */
export function kryopticModule(): string {
  const module = process.env.KEYSLOT_KRYOPTIC;
  if (module) return module;
  throw new Error('KEYSLOT_KRYOPTIC names no library: run npm run interop, which compiles it.');
}

export interface KryopticToken extends Disposable {
  readonly module: string;
  readonly label: string;
  /** Everything of this token; removed with it. */
  readonly folder: string;
  /** What its library reads, in this process and in others. */
  readonly environment: Readonly<Record<string, string>>;
  readonly pinFile: string;
  pin(): Secret;
}

/** A token of Kryoptic in a database of its own, initialised by Keyslot. The library reads its variable once. */
export function kryopticToken(module: string, label: string): KryopticToken {
  const folder = mkdtempSync(join(tmpdir(), 'keyslot-kryoptic-'));
  const configuration = join(folder, 'token.conf');
  const slot = ['[[slots]]', 'slot = 1', 'dbtype = "sqlite"', `dbargs = "${join(folder, 'token.sql')}"`];
  writeFileSync(configuration, `${slot.join('\n')}\n`);
  const environment = { KRYOPTIC_CONF: configuration };
  Object.assign(process.env, environment);
  const pinText = randomBytes(8).toString('hex');
  const pinFile = join(folder, 'user.pin');
  writeFileSync(pinFile, pinText, { mode: 0o600 });
  const pin = () => Secret.fromText(pinText);
  const soPin = Secret.fromText(randomBytes(8).toString('hex'));
  const remove = () => rmSync(folder, { recursive: true, force: true });
  try {
    provisionToken({ module, label, soPin, userPin: pin() });
  } catch (error) {
    remove();
    throw error;
  }
  return {
    module,
    label,
    folder,
    environment,
    pinFile,
    pin,
    [Symbol.dispose]: remove,
  };
}

import { readFile, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { joinNodeSecrets } from '../engines/mpc/node-secrets.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import { Secret } from '../foundation/secret.ts';
import type { Config, SecretSource, SlotConfig } from './config.ts';
import { credentialsFolder, environmentVariable } from './environment.ts';

/** Reads a secret where its setting says it is, anew each time. SECRET_UNREADABLE names the setting. */
export async function readSecret(
  config: Pick<Config, 'home'>,
  source: SecretSource,
  setting: string,
): Promise<Secret> {
  if ('env' in source) return fromEnvironment(source.env, setting);
  if ('file' in source) return fromFile(resolve(config.home, source.file), `${setting}.file`, ownerOnly);
  const folder = credentialsFolder();
  if (folder) return fromFile(join(folder, source.credential), `${setting}.credential`, anyMode);
  throw unreadable(
    `${setting}.credential`,
    'CREDENTIALS_DIRECTORY is not set: systemd sets it for LoadCredential=',
  );
}

/**
 * How the PIN of a slot is read, anew each time; nothing for an attended slot. The PIN of a slot without one is
 * empty. Of three node secrets one may be unreadable: that is logged, and two of them are the PIN.
 */
export function pinReader(config: Config, slot: SlotConfig, log: Log): (() => Promise<Secret>) | undefined {
  const { pin, id } = slot;
  const setting = `slots.${id}.pin`;
  if (pin === 'none') return async () => Secret.fromText('');
  if ('attended' in pin) return undefined;
  if (!('nodes' in pin)) return () => readSecret(config, pin, setting);
  return async () => {
    using held = new DisposableStack();
    const secrets: (Secret | undefined)[] = [];
    const failures: KeyslotError[] = [];
    for (const [at, source] of pin.nodes.entries()) {
      try {
        secrets.push(held.use(await readSecret(config, source, `${setting}.nodes.${at}`)));
      } catch (error) {
        if (!(error instanceof KeyslotError)) throw error;
        secrets.push(undefined);
        failures.push(error);
      }
    }
    const [failure, second] = failures;
    if (second) throw second;
    if (failure) log.warn({ slot: id, err: failure }, 'a node secret cannot be read; the other two are used');
    const [first, other, third] = secrets;
    return joinNodeSecrets([first, other, third]);
  };
}

function fromEnvironment(name: string, setting: string): Secret {
  const value = environmentVariable(name);
  if (value) return Secret.fromText(value);
  throw unreadable(`${setting}.env`, `the variable ${name} is not set or empty`);
}

async function fromFile(
  path: string,
  setting: string,
  acceptable: (mode: number) => boolean,
): Promise<Secret> {
  try {
    const { mode } = await stat(path);
    if (!acceptable(mode)) {
      throw unreadable(setting, `${path} has mode ${(mode & 0o777).toString(8)}; others must not read it`);
    }
    const bytes = await readFile(path);
    const secret = Secret.fromBytes(bytes.subarray(0, lengthOfFirstLine(bytes)));
    bytes.fill(0);
    if (secret.length > 0) return secret;
  } catch (cause) {
    if (cause instanceof KeyslotError) throw cause;
    throw unreadable(setting, `${path} cannot be read`, cause);
  }
  throw unreadable(setting, `${path} is empty`);
}

const ownerOnly = (mode: number): boolean => (mode & 0o077) === 0;
const anyMode = (): boolean => true; // systemd's own folder, readable for the unit alone

/** Editors end a file with a line break that nobody typed into the PIN. */
function lengthOfFirstLine(bytes: Uint8Array): number {
  const end = bytes.findIndex(byte => byte === 0x0a || byte === 0x0d);
  return end < 0 ? bytes.length : end;
}

const unreadable = (setting: string, reason: string, cause?: unknown) =>
  new KeyslotError('SECRET_UNREADABLE', `${setting}: ${reason}.`, { cause });

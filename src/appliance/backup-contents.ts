import { type Dirent, existsSync } from 'node:fs';
import { lstat, readdir, readFile, stat } from 'node:fs/promises';
import { isAbsolute, join, relative, resolve } from 'node:path';
import { KeyslotError } from '../foundation/errors.ts';
import type { BackupManifest } from './backup-manifest.ts';
import {
  type Config,
  configFile,
  inHome,
  keyFolderOf,
  type SecretSource,
  type SlotConfig,
} from './config.ts';

/** What of an appliance goes into a backup, and what does not because it is a secret or somewhere else. */

export interface BackedUp {
  /** In the archive, and below the restored state folder. */
  readonly name: string;
  readonly path: string;
}

/**
 * Below a state folder a file keeps its place; what the configuration has elsewhere goes into a folder of its own,
 * since a restore writes nothing outside the folder that it is given.
 */
export function archiveName(home: string, path: string): string {
  const inside = relative(resolve(home), resolve(path));
  return inside === '' || inside.startsWith('..') || isAbsolute(inside)
    ? join(elsewhere, resolve(path))
    : inside;
}

export const elsewhere = 'outside';

/** Configuration, policies and certificates. Whatever holds a private key is left out, and named. */
export async function configurationFiles(config: Config): Promise<{ files: BackedUp[]; left: Left[] }> {
  const policies = inHome(config, config.policies.folder);
  const found = [
    ...['keyslot.yaml', 'freeze'].map(name => ({ setting: name, path: join(config.home, name) })),
    ...(await filesIn(policies, 'follow')).map(path => ({ setting: 'policies.folder', path })),
    ...publicFiles(config).map(([setting, path]) => ({ setting, path: inHome(config, path) })),
  ];
  const files = new Map<string, BackedUp>();
  const left: Left[] = [];
  for (const { setting, path } of found) {
    const name = archiveName(config.home, path);
    if (files.has(name)) continue;
    if (!existsSync(path)) {
      if (setting !== configFile && setting !== 'freeze')
        left.push({ setting, what: `${path} was not there.` });
    } else if (await holdsPrivateKey(path)) {
      left.push({ setting, what: `${path} holds a private key.` });
    } else files.set(name, { name, path });
  }
  return { files: [...files.values()], left };
}

/** The key files of every slot that has any, with those that an upgrade of their form has set aside. */
export async function keyFiles(config: Config): Promise<readonly BackedUp[]> {
  const folders = config.slots.map(slot => keyFolderOf(config, slot));
  const paths: string[] = [];
  for (const folder of folders.flatMap(each => [each, join(each, supersededFolder)])) {
    for (const path of await filesIn(folder, 'skip')) {
      if ((await lstat(path)).size <= keyFile_bytes_max) paths.push(path);
    }
  }
  return paths.map(path => ({ name: archiveName(config.home, path), path }));
}

/** As `envelope-upgrade.ts` names it. */
const supersededFolder = 'superseded';

/** What is larger is no key file: a folder may be shared with another program. */
const keyFile_bytes_max = 64 * 1024;

/**
 * Plain files, without hidden ones: that is how those begin that are being written. Links are followed where the
 * appliance follows them: to policies, and never to key files.
 */
async function filesIn(folder: string, links: 'follow' | 'skip'): Promise<readonly string[]> {
  const found: string[] = [];
  for (const entry of await entriesOf(folder)) {
    if (entry.name.startsWith('.')) continue;
    const path = join(folder, entry.name);
    const linked = links === 'follow' && entry.isSymbolicLink() && existsSync(path);
    if (entry.isFile() || (linked && (await stat(path)).isFile())) found.push(path);
  }
  return found.sort();
}

async function entriesOf(folder: string): Promise<readonly Dirent[]> {
  try {
    return await readdir(folder, { withFileTypes: true });
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw new KeyslotError('BACKUP_FAILED', `${folder} cannot be read.`, { cause });
  }
}

async function holdsPrivateKey(path: string): Promise<boolean> {
  try {
    return /-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(await readFile(path, 'latin1'));
  } catch (cause) {
    throw new KeyslotError('BACKUP_FAILED', `${path} cannot be read.`, { cause });
  }
}

/** Every file of the configuration that is no secret, by its setting. */
function publicFiles(config: Config): readonly (readonly [string, string])[] {
  const { tls, command, identities, jwtIssuers, slots } = config;
  const named: (readonly [string, string])[] = [
    ['tls.certificate', tls.certificate],
    ['tls.clientCa', tls.clientCa],
  ];
  if (command) named.push(['command.certificate', command.certificate], ['command.ca', command.ca]);
  for (const identity of identities) {
    const setting = `identities.${identity.name}`;
    if ('certificate' in identity && 'file' in identity.certificate) {
      named.push([`${setting}.certificate`, identity.certificate.file]);
    }
    if ('ca' in identity && identity.ca && 'file' in identity.ca)
      named.push([`${setting}.ca`, identity.ca.file]);
  }
  for (const { name, jwks } of jwtIssuers) {
    if ('file' in jwks) named.push([`jwtIssuers.${name}.jwks`, jwks.file]);
    else if (jwks.ca !== undefined) named.push([`jwtIssuers.${name}.jwks.ca`, jwks.ca]);
  }
  for (const { id, engine, settings } of slots) {
    if (engine === 'pkcs11' && settings.profile !== undefined && isAbsolute(settings.profile)) {
      named.push([`slots.${id}.settings.profile`, settings.profile]);
    }
  }
  return named;
}

export type Left = BackupManifest['separately'][number];

/** What whoever restores has to bring: secrets by where they are, tokens, and what is told to others. */
export function broughtSeparately(config: Config): readonly Left[] {
  const { home, tls, command, slots, identities, apiTokens, audit } = config;
  const left: Left[] = [];
  if (!existsSync(join(home, configFile))) {
    left.push({ setting: configFile, what: 'there is none: the environment describes this appliance.' });
  }
  left.push({ setting: 'tls.key', what: `the private key of the server, ${tls.key}; or a new certificate.` });
  if (command) left.push({ setting: 'command.key', what: `the private key ${command.key}; or another.` });
  for (const slot of slots) left.push(...besides(slot));
  for (const identity of identities) {
    const setting = `identities.${identity.name}`;
    if ('token' in identity) left.push({ setting: `${setting}.token`, what: sourceText(identity.token) });
    if ('appRole' in identity) {
      left.push({ setting: `${setting}.appRole.secretId`, what: sourceText(identity.appRole.secretId) });
    }
  }
  if (apiTokens.enabled) {
    left.push({ setting: 'apiTokens', what: 'state/api-tokens.key; without it, issue new API tokens.' });
  }
  if (audit.witnesses.length > 0) {
    left.push({
      setting: 'audit.witnesses',
      what: 'what they have seen since the backup is not in its log: a new log has to be begun.',
    });
  }
  return left;
}

function besides(slot: SlotConfig): readonly Left[] {
  const setting = `slots.${slot.id}`;
  const left: Left[] = [];
  const { pin } = slot;
  if (pin !== 'none' && !('attended' in pin)) {
    const sources = 'nodes' in pin ? pin.nodes : [pin];
    left.push(...sources.map(source => ({ setting: `${setting}.pin`, what: sourceText(source) })));
  } else if (pin !== 'none')
    left.push({ setting: `${setting}.pin`, what: 'the PIN, which an operator has.' });
  switch (slot.engine) {
    case 'pkcs11': {
      const { module, tokenLabel, tokenSerial } = slot.settings;
      const token = tokenLabel ?? tokenSerial ?? '';
      left.push({
        setting,
        what: `the token ${token} of ${module}, by the backup of the device (docs/hsm).`,
      });
      break;
    }
    case 'hsm-sim':
      left.push({ setting: `${setting}.moduleSecret`, what: sourceText(slot.moduleSecret) });
      break;
    case 'kms':
      if (slot.settings.mode !== 'simulated') {
        left.push({ setting, what: 'the keys in AWS KMS, and credentials that may use them.' });
      }
      break;
    case 'memory':
      left.push({ setting, what: 'keys in memory are in no backup.' });
      break;
    case 'encrypted-file':
    case 'mpc':
      break;
  }
  return left;
}

function sourceText(source: SecretSource): string {
  if ('file' in source) return `the secret in the file ${source.file}.`;
  if ('env' in source) return `the secret in the variable ${source.env}.`;
  return `the systemd credential ${source.credential}.`;
}

import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { KeyslotError } from '../foundation/errors.ts';
import { Secret } from '../foundation/secret.ts';
import { everythingAllowed } from '../policy/permissive.ts';
import { type Config, configFile } from './config.ts';
import { privateFolder } from './home.ts';

/**
 * A state folder for development: a SoftHSM token directory with random PINs, a CA of its own with a server and
 * a client certificate, a bearer token, and a `keyslot.yaml` that puts them together. Whatever is there already
 * is kept, so it may be called again at every start. The token itself is made by `provisionToken`, in a process
 * that has SOFTHSM2_CONF in its environment.
 */
export async function prepareDevelopmentHome(options: {
  home: string;
  module: string;
  tokenLabel: string;
  port: number;
  opsPort: number;
}): Promise<DevelopmentHome> {
  const { home } = options;
  privateFolder(home);
  for (const folder of ['softhsm', 'softhsm/tokens', 'policies']) privateFolder(join(home, folder));
  const bearerToken = await prepareLocalAccess(home);
  const files = {
    soPin: join(home, 'secrets', 'so.pin'),
    userPin: join(home, 'secrets', 'user.pin'),
    auditPin: join(home, 'secrets', 'audit.pin'),
    bearerToken,
    softhsmConf: join(home, 'softhsm', 'softhsm2.conf'),
  };
  keepOrWrite(files.soPin, () => randomPin());
  keepOrWrite(files.userPin, () => randomPin());
  keepOrWrite(files.auditPin, () => randomPin());
  keepOrWrite(join(home, 'policies', 'demo.yaml'), demoPolicy);
  // Written anew each time, because it names the folder, and folders are moved.
  writeFileSync(files.softhsmConf, softhsmConf(join(home, 'softhsm', 'tokens')), { mode: 0o600 });
  keepOrWrite(join(home, configFile), () => developmentConfig(options));
  return files;
}

/**
 * What `localAccess` refers to: a CA of its own with a server and a client certificate, and a bearer token,
 * whose file is returned. Whatever is there already is kept.
 */
export async function prepareLocalAccess(home: string): Promise<string> {
  for (const folder of [home, join(home, 'secrets'), join(home, 'tls')]) privateFolder(folder);
  const bearerToken = join(home, 'secrets', 'developer.token');
  keepOrWrite(bearerToken, () => randomBytes(32).toString('base64url'));
  await keepOrIssueCertificates(join(home, 'tls'));
  return bearerToken;
}

/**
 * That program has no policies, so what describes its appliance lets everything through, in a file that whoever
 * runs it sees and can change. Kept when it is there already.
 */
export function preparePagePolicy(config: Pick<Config, 'home' | 'slots'>): void {
  privateFolder(join(config.home, 'policies'));
  const slots = config.slots.map(({ id }) => id);
  const document = everythingAllowed('agentic-wallet', { slots });
  keepOrWrite(join(config.home, 'policies', 'agentic-wallet.yaml'), () => stringify(document).trimEnd());
}

/** The PIN of a slot that nobody has to know. Kept when it is there already. */
export const prepareRandomPin = (path: string): void => keepOrWrite(path, () => randomPin());

export interface DevelopmentHome {
  readonly soPin: string;
  readonly userPin: string;
  /** Of the token that holds the audit key, whose label is `auditLabel` of the token's. */
  readonly auditPin: string;
  readonly bearerToken: string;
  readonly softhsmConf: string;
}

/** The label of the token that holds the audit key. */
export const auditLabel = (tokenLabel: string): string => `${tokenLabel}-audit`;

const demoPolicy = (): string =>
  [
    '# What the development appliance lets the key "demo" sign: everything. A key that no policy names signs nothing.',
    '# docs/policy.md has the rules that a policy for keys that matter is made of.',
    stringify(everythingAllowed('demo', { keys: ['demo'], tags: ['demo'] })).trimEnd(),
  ].join('\n');

/** Where Debian, Ubuntu, Fedora and Alpine put SoftHSM's library. MODULE_UNUSABLE when it is nowhere. */
export function findSoftHsm(): string {
  const found = softHsmPaths.find(path => existsSync(path));
  if (found) return found;
  throw new KeyslotError(
    'MODULE_UNUSABLE',
    `SoftHSM is not installed: none of ${softHsmPaths.join(', ')} exists.`,
  );
}

const softHsmPaths = [
  '/usr/lib/softhsm/libsofthsm2.so',
  '/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so',
  '/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so',
  '/usr/lib64/softhsm/libsofthsm2.so',
];

export const secretFile = (path: string): Secret => Secret.fromText(readFileSync(path, 'utf8').trim());

/** Exclusive creation: two starts at once never end up with two halves of different secrets. */
function keepOrWrite(path: string, content: () => string): void {
  try {
    writeFileSync(path, `${content()}\n`, { mode: 0o600, flag: 'wx' });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}

export const randomPin = (): string => randomBytes(12).toString('hex');

export const softhsmConf = (tokens: string): string =>
  [
    `directories.tokendir = ${tokens}`,
    'objectstore.backend = file',
    'objectstore.umask = 0077',
    'log.level = ERROR',
    'slots.removable = false',
    '',
  ].join('\n');

async function keepOrIssueCertificates(folder: string): Promise<void> {
  if (existsSync(join(folder, 'complete'))) return;
  // Only when it is needed: loading it takes longer than most commands.
  const { createAuthority } = await import('./certificates.ts');
  const authority = await createAuthority('Keyslot development CA');
  const server = await authority.issueServer(['localhost', '127.0.0.1', '::1']);
  const developer = await authority.issueClient('developer');
  const pairs = { ca: authority, server, developer };
  for (const [name, { certificate, key }] of Object.entries(pairs)) {
    writeFileSync(join(folder, `${name}.crt`), `${certificate}\n`, { mode: 0o644 });
    writeFileSync(join(folder, `${name}.key`), `${key}\n`, { mode: 0o600 });
  }
  writeFileSync(join(folder, 'complete'), '');
}

const developmentConfig = (options: {
  module: string;
  tokenLabel: string;
  port: number;
  opsPort: number;
}): string =>
  stringify({
    profile: 'development',
    listen: { host: '127.0.0.1', port: options.port },
    ops: { host: '127.0.0.1', port: options.opsPort },
    tls: localAccess.tls,
    slots: [
      {
        id: 'main',
        engine: 'pkcs11',
        pin: { file: 'secrets/user.pin' },
        access: 'identity',
        settings: {
          module: options.module,
          tokenLabel: options.tokenLabel,
          environment: { SOFTHSM2_CONF: '${home}/softhsm/softhsm2.conf' },
        },
      },
      {
        id: 'audit',
        engine: 'pkcs11',
        pin: { file: 'secrets/audit.pin' },
        access: 'identity',
        settings: {
          module: options.module,
          tokenLabel: auditLabel(options.tokenLabel),
          environment: { SOFTHSM2_CONF: '${home}/softhsm/softhsm2.conf' },
        },
      },
    ],
    audit: { slot: 'audit' },
    identities: localAccess.identities,
    command: localAccess.command,
  }).trimEnd();

/** The settings by which whoever owns the state folder, and nobody else, uses the appliance of this machine. */
export const localAccess = {
  tls: { certificate: 'tls/server.crt', key: 'tls/server.key', clientCa: 'tls/ca.crt' },
  identities: [
    {
      name: 'developer',
      roles: ['admin', 'operator', 'signer', 'auditor'],
      slots: '*',
      certificate: { file: 'tls/developer.crt' },
    },
    {
      name: 'developer-token',
      roles: ['admin', 'operator', 'signer', 'auditor'],
      slots: '*',
      token: { file: 'secrets/developer.token' },
    },
  ],
  command: { certificate: 'tls/developer.crt', key: 'tls/developer.key', ca: 'tls/ca.crt' },
} as const;

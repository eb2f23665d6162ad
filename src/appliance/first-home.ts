import { closeSync, existsSync, fsyncSync, openSync, rmSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { parse as parseYaml } from 'yaml';
import { KeyslotError } from '../foundation/errors.ts';
import { Secret } from '../foundation/secret.ts';
import { parsePolicy } from '../policy/document.ts';
import { checkedConfig, configFile } from './config.ts';
import { auditLabel, randomPin, softhsmConf } from './development.ts';
import { type FirstAppliance, firstConfigText, firstPolicyText } from './first-config.ts';
import { privateFolder } from './home.ts';
import { createToken } from './tokens.ts';

/** What `keyslot init` makes besides its texts. */
export interface FirstHome {
  readonly home: string;
  readonly appliance: FirstAppliance;
  /** PINs that go into files, by their path in the state folder. */
  readonly pins: Readonly<Record<string, Secret>>;
  /** SoftHSM tokens to make: the one with this label, and the one for the audit key. */
  readonly newTokens?:
    | { readonly module: string; readonly label: string; readonly userPin: Secret; readonly auditPin: Secret }
    | undefined;
  /** Whether the private key of the CA stays, for the certificates of more clients. */
  readonly keepCa: boolean;
}

/** The SoftHSM settings in the state folder, for tokens that are made there. */
export const ownSofthsmConf = 'softhsm/softhsm2.conf';

/**
 * Writes a state folder that is complete, or nothing: what is there already is kept and named, and what a failure
 * leaves behind is taken away again. Returns the files, by their path in it. HOME_INVALID, CONFIG_INVALID.
 */
export async function writeFirstHome(first: FirstHome): Promise<readonly string[]> {
  const { home, appliance, newTokens } = first;
  const config = firstConfigText(appliance);
  const policy = firstPolicyText(appliance);
  checkedConfig(parseYaml(config), home, configFile);
  parsePolicy(parseYaml(policy));
  const certificates = await certificatesOf(first);
  const files = [configFile, ...Object.keys(certificates), policyFile, ...Object.keys(first.pins)];
  refuseToOverwrite(home, [...files, ...(newTokens ? ['softhsm', soPinFile] : [])]);
  const written: string[] = [];
  using undo = new DisposableStack();
  const write = (path: string, content: string | Secret, mode: number) => {
    writeNew(join(home, path), content, mode);
    undo.defer(() => rmSync(join(home, path), { force: true }));
    written.push(path);
  };
  privateFolder(home);
  for (const name of ['tls', 'secrets', 'policies', ...(newTokens ? ['softhsm'] : [])]) {
    const folder = join(home, name);
    if (!existsSync(folder)) undo.defer(() => rmSync(folder, { recursive: true, force: true }));
    privateFolder(folder);
  }
  for (const [path, pem] of Object.entries(certificates)) {
    write(path, pem, path.endsWith('.crt') ? 0o644 : 0o600);
  }
  write(policyFile, policy, 0o600);
  for (const [path, pin] of Object.entries(first.pins)) write(path, pin, 0o600);
  if (newTokens) await makeTokens(home, newTokens, write);
  write(configFile, config, 0o600); // last: without it there is no appliance here
  undo.move(); // everything is there and stays
  return written;
}

const policyFile = 'policies/first.yaml';
const soPinFile = 'secrets/so.pin';

/** HOME_INVALID names what is in the way. */
export function refuseToOverwrite(home: string, paths: readonly string[]): void {
  const there = paths.find(path => existsSync(join(home, path)));
  if (there === undefined) return;
  throw new KeyslotError(
    'HOME_INVALID',
    `${join(home, there)} is there already and is kept; nothing was written. Name another folder with --home.`,
  );
}

async function certificatesOf({ appliance, keepCa }: FirstHome): Promise<Readonly<Record<string, string>>> {
  const { host, operator, client } = appliance;
  // Loading it takes longer than most of what else is done here.
  const { createAuthority } = await import('./certificates.ts');
  const authority = await createAuthority('Keyslot CA');
  const everywhere = host === '0.0.0.0' || host === '::';
  const names = new Set(['localhost', '127.0.0.1', '::1', everywhere ? hostname() : host]);
  const issued = {
    server: await authority.issueServer([...names]),
    [operator]: await authority.issueClient(operator),
    [client]: await authority.issueClient(client),
  };
  return {
    'tls/ca.crt': `${authority.certificate}\n`,
    ...(keepCa ? { 'secrets/ca.key': `${authority.key}\n` } : {}),
    ...Object.fromEntries(
      Object.entries(issued).flatMap(([name, { certificate, key }]) => [
        [`tls/${name}.crt`, `${certificate}\n`],
        [`tls/${name}.key`, `${key}\n`],
      ]),
    ),
  };
}

async function makeTokens(
  home: string,
  { module, label, userPin, auditPin }: NonNullable<FirstHome['newTokens']>,
  write: (path: string, content: string | Secret, mode: number) => void,
): Promise<void> {
  const tokens = privateFolder(join(home, 'softhsm', 'tokens'));
  write(ownSofthsmConf, softhsmConf(tokens), 0o600);
  using soPin = Secret.fromText(randomPin());
  write(soPinFile, soPin, 0o600); // before there is a token that only this can reset
  const environment = { SOFTHSM2_CONF: join(home, ownSofthsmConf) };
  for (const [name, pin] of [[label, userPin] as const, [auditLabel(label), auditPin] as const]) {
    await createToken({ module, label: name, soPin, userPin: pin }, environment);
  }
}

/** On the disk when it returns: a token whose PIN was lost is lost too. */
function writeNew(path: string, content: string | Secret, mode: number): void {
  try {
    const file = openSync(path, 'wx', mode);
    try {
      if (typeof content === 'string') writeSync(file, content);
      else content.useText(text => writeSync(file, `${text}\n`));
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
  } catch (cause) {
    throw new KeyslotError('HOME_INVALID', `${path} cannot be written.`, { cause });
  }
}

import { createHash, X509Certificate } from 'node:crypto';
import type { Command } from 'commander';
import { KeyslotError } from '../../foundation/errors.ts';
import type { GrantShape, IdentityView } from '../../wire/identities.ts';
import { Connection, configOf, type SharedOptions } from '../connection.ts';
import { listing, misused, print, printJson, table } from '../output.ts';
import { fileText } from '../secret-input.ts';

type GrantOptions = {
  slot?: readonly string[];
  key?: readonly string[];
  tag?: readonly string[];
  operation?: readonly string[];
};
type AddOptions = SharedOptions &
  GrantOptions & {
    role: readonly string[];
    certificate?: string;
    spki?: string;
    san?: string;
    ca?: string;
    jwt?: string;
    subject?: string;
    claim?: readonly string[];
  };

export function addIdentities(program: Command, shared: (command: Command) => Command): void {
  shared(program.command('whoami').description('whom the appliance takes this command for')).action(whoami);
  const identities = program.command('identities').description('who may ask for what');
  shared(
    identities.command('list').description('those of the configuration and those that were added'),
  ).action(list);
  shared(identities.command('add').description('add an identity with one grant').argument('<name>'))
    .requiredOption('--role <role>', 'what it may do at all; may be repeated', collected)
    .option('--slot <slot>', "a slot of the grant, or '*'; may be repeated", collected)
    .option('--key <key>', 'a key of the grant; may be repeated', collected)
    .option('--tag <tag>', 'a tag of the grant; may be repeated', collected)
    .option('--operation <operation>', "what the grant is for (default: '*'); may be repeated", collected)
    .option('--certificate <file>', 'recognised by this client certificate')
    .option('--spki <digest>', 'recognised by the SHA-256 of its public key')
    .option('--san <name>', 'recognised by a name in its certificate: dns:, uri:, email: or ip:')
    .option('--ca <digest>', 'with --san: the SHA-256 of the public key of the CA that issued it')
    .option('--jwt <issuer>', 'recognised by a JWT of this issuer')
    .option('--subject <subject>', 'with --jwt: whom it is about')
    .option('--claim <name=value>', 'with --jwt: what else it must say; may be repeated', collected)
    .action(add);
  shared(
    identities.command('remove').description('its sessions and tokens end at once').argument('<name>'),
  ).action(remove);
}

const collected = (value: string, list: readonly string[] = []): string[] => [...list, value];

async function whoami(options: SharedOptions): Promise<void> {
  printIdentity(await new Connection(configOf(options)).get<IdentityView>('/v1/whoami'), options);
}

async function list(options: SharedOptions): Promise<void> {
  const answer = await new Connection(configOf(options)).get<{ identities: IdentityView[] }>(
    '/v1/identities',
  );
  if (options.json) return printJson(answer);
  const rows = answer.identities.map(each => [
    each.name,
    each.roles.join(','),
    each.grants.map(grantText).join(' '),
    each.source,
    each.recognisedBy,
  ]);
  print(table(['IDENTITY', 'ROLES', 'GRANTS', 'FROM', 'RECOGNISED BY'], rows));
}

async function add(name: string, options: AddOptions, command: Command): Promise<void> {
  const ways = [options.certificate, options.spki, options.san, options.jwt].filter(way => way !== undefined);
  if (ways.length > 1) {
    command.error('Give at most one of --certificate, --spki, --san, --jwt.', { exitCode: misused });
  }
  const recognisedBy = recognitionOf(options);
  const body = {
    name,
    roles: options.role,
    grants: grantsOf(options),
    ...(recognisedBy ? { recognisedBy } : {}),
  };
  printIdentity(await new Connection(configOf(options)).post<IdentityView>('/v1/identities', body), options);
}

async function remove(name: string, options: SharedOptions): Promise<void> {
  const path = `/v1/identities/${encodeURIComponent(name)}`;
  printIdentity(await new Connection(configOf(options)).delete<IdentityView>(path), options);
}

function grantsOf({ slot, key, tag, operation }: GrantOptions) {
  if (!slot && !key && !tag) return [];
  const everything = operation === undefined || operation.includes('*');
  const grant = {
    ...(slot ? { slots: slot.includes('*') ? '*' : slot } : {}),
    ...(key ? { keys: key } : {}),
    ...(tag ? { tags: tag } : {}),
    operations: everything ? '*' : operation,
  };
  return [grant];
}

function recognitionOf({ certificate, spki, san, ca, jwt, subject, claim }: AddOptions) {
  if (certificate !== undefined) return { spki: spkiOf(certificate) };
  if (spki !== undefined) return { spki };
  if (san !== undefined) return { san, ...(ca === undefined ? {} : { ca }) };
  if (jwt === undefined) return undefined;
  const claims = Object.fromEntries((claim ?? []).map(parted));
  return { jwt, subject, ...(claim ? { claims } : {}) };
}

function parted(claim: string): [string, string] {
  const at = claim.indexOf('=');
  return at < 0 ? [claim, ''] : [claim.slice(0, at), claim.slice(at + 1)];
}

function spkiOf(file: string): string {
  const pem = fileText(file);
  try {
    const spki = new X509Certificate(pem).publicKey.export({ format: 'der', type: 'spki' });
    return createHash('sha256').update(spki).digest('hex');
  } catch (cause) {
    throw new KeyslotError('IDENTITY_INVALID', `${file} is not a certificate.`, { cause });
  }
}

function printIdentity(identity: IdentityView, options: SharedOptions): void {
  if (options.json) {
    printJson(identity);
    return;
  }
  const { roles, grants, ...rest } = identity;
  print(listing({ ...rest, roles: roles.join(', '), grants: grants.map(grantText).join(' ') || 'none' }));
}

/** As `sign-message,raw@slot:main`. */
function grantText({ keys = [], tags = [], slots = [], operations }: GrantShape): string {
  const of = [
    ...(slots === '*' ? ['slot:*'] : slots.map(slot => `slot:${slot}`)),
    ...keys.map(key => `key:${key}`),
    ...tags.map(tag => `tag:${tag}`),
  ];
  return `${operations === '*' ? '*' : operations.join(',')}@${of.join(',')}`;
}

import { createHash, randomBytes, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { link, open, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { grantsOf } from '../custodian/grants.ts';
import type { Identity } from '../custodian/identities.ts';
import type { JwtIssuer } from '../custodian/jwt.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Secret } from '../foundation/secret.ts';
import { type Config, type IdentityConfig, inHome } from './config.ts';
import { jwksSource } from './jwks-source.ts';
import { readSecret } from './secrets.ts';

/**
 * The identities of the configuration as the custodian knows them. Of tokens and secret ids only their digests go
 * on: the custodian can recognise them and not repeat them. CONFIG_INVALID, SECRET_UNREADABLE.
 */
export const identitiesOf = (config: Config): Promise<readonly Identity[]> =>
  Promise.all(
    config.identities.map(async identity => ({
      name: identity.name,
      roles: identity.roles,
      grants: [...grantsOf(identity.slots ?? []), ...identity.grants],
      source: 'configuration' as const,
      ...(await recognisedBy(config, identity)),
    })),
  );

/** The issuers of JWTs, each with where its keys are. */
export const jwtIssuersOf = (config: Config): readonly JwtIssuer[] =>
  config.jwtIssuers.map(({ name, issuer, audience, algorithms, clockSkew_s, ...rest }) => ({
    name,
    issuer,
    audience: typeof audience === 'string' ? [audience] : audience,
    algorithms,
    clockSkew_s,
    keys: jwksSource(config, rest),
  }));

/** Whether somebody may be recognised by something else than a certificate, so that a connection needs none. */
export const takesTokens = ({ identities, jwtIssuers, apiTokens }: Config): boolean =>
  jwtIssuers.length > 0 ||
  apiTokens.enabled ||
  identities.some(identity => 'token' in identity || 'appRole' in identity);

/**
 * What API tokens are hashed with: 32 random bytes in a file beside the store, made when there is none. Beside it
 * and not in it, so that a copy of the store, as a backup or a database server has one, cannot test a token or
 * make one; without this file all tokens are good for nothing, and new ones are issued. SECRET_UNREADABLE.
 */
export async function apiTokensKey(config: Pick<Config, 'home'>): Promise<Secret> {
  const source = { file: join('state', 'api-tokens.key') };
  await makeUnlessThere(inHome(config, source.file));
  return readSecret(config, source, 'state/api-tokens.key');
}

/** Whole or not at all: a crash leaves no half of it behind, and of two at once both read the same. */
async function makeUnlessThere(path: string): Promise<void> {
  const draft = join(dirname(path), `.api-tokens-${randomBytes(8).toString('hex')}`);
  const file = await open(draft, 'wx', 0o600);
  try {
    await file.writeFile(randomBytes(32).toString('hex'));
    await file.sync();
    await link(draft, path);
  } catch (error) {
    if (!isThere(error)) throw error;
  } finally {
    await file.close();
    await rm(draft);
  }
}

const isThere = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && error.code === 'EEXIST';

async function recognisedBy(
  config: Config,
  identity: IdentityConfig,
): Promise<Pick<Identity, 'recognisedBy' | 'appRole'>> {
  const setting = `identities.${identity.name}`;
  if ('apiTokens' in identity) return {};
  if ('appRole' in identity) return { appRole: await appRoleOf(config, identity.appRole, setting) };
  if ('token' in identity) {
    using token = await readSecret(config, identity.token, `${setting}.token`);
    return { recognisedBy: { token: token.use(sha256) } };
  }
  if ('jwt' in identity) {
    const { jwt, subject, claims } = identity;
    return { recognisedBy: { jwt, subject, ...(claims ? { claims } : {}) } };
  }
  if ('san' in identity) {
    const { san, ca } = identity;
    return { recognisedBy: { san, ...(ca ? { ca: spkiOf(config, ca, `${setting}.ca`) } : {}) } };
  }
  return { recognisedBy: { spki: spkiOf(config, identity.certificate, `${setting}.certificate`) } };
}

async function appRoleOf(
  config: Config,
  { roleId, secretId }: Extract<IdentityConfig, { appRole: unknown }>['appRole'],
  identity: string,
): Promise<NonNullable<Identity['appRole']>> {
  const setting = `${identity}.appRole.secretId`;
  using secret = await readSecret(config, secretId, setting);
  // Whoever knows the role id may try: what protects it is that nobody can guess this.
  if (secret.length >= secretId_bytes_min) return { roleId, secretId: secret.use(sha256) };
  throw new KeyslotError(
    'CONFIG_INVALID',
    `${setting}: it has fewer than ${secretId_bytes_min} characters; openssl rand -hex 32 makes a good one.`,
  );
}

const secretId_bytes_min = 16;

/** The digest of a certificate's public key, as it is written there or as the file has it. */
function spkiOf(config: Config, named: { spki: string } | { file: string }, setting: string): string {
  if ('spki' in named) return named.spki;
  const path = inHome(config, named.file);
  try {
    const { publicKey } = new X509Certificate(readFileSync(path));
    return sha256(publicKey.export({ format: 'der', type: 'spki' }));
  } catch (cause) {
    throw new KeyslotError('CONFIG_INVALID', `${setting}.file: ${path} is not a certificate.`, { cause });
  }
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

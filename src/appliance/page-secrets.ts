import { resolve } from 'node:path';
import { splitNodeSecrets } from '../engines/mpc/node-secrets.ts';
import { isKeyslotError, KeyslotError } from '../foundation/errors.ts';
import type { Secret } from '../foundation/secret.ts';
import type { SecretSource } from './config.ts';
import { environmentVariable } from './environment.ts';
import { readSecret } from './secrets.ts';

/**
 * The secrets that the agentic-wallet page names. Each is in the variable of its name, or in the file that
 * `<NAME>_FILE` names; none has a default.
 */
export type PageSecretName =
  | 'WALLET_KEY_ENCRYPTION_SECRET'
  | 'WALLET_KMS_MASTER_SECRET'
  | 'WALLET_HSM_PIN'
  | 'WALLET_HSM_MODULE_SECRET'
  | 'WALLET_MPC_NODE_SECRETS'
  | (typeof nodeSecretNames)[number]
  | (typeof tokenPinNames)[number];

export const nodeSecretNames = [
  'WALLET_MPC_NODE1_SECRET',
  'WALLET_MPC_NODE2_SECRET',
  'WALLET_MPC_NODE3_SECRET',
] as const;

/** The PIN of a real token, the first that is set. */
export const tokenPinNames = ['KEYSLOT_PKCS11_PIN', 'PKCS11_PIN', 'WALLET_HSM_PIN'] as const;

/** The value of a variable; an empty one counts as not set. */
export const given = (name: string): string | undefined => environmentVariable(name) || undefined;

export const isSecretGiven = (name: PageSecretName): boolean =>
  given(name) !== undefined || given(`${name}_FILE`) !== undefined;

/** Where the secret is, whether or not it is there. CONFIG_INVALID when both variables are set. */
export function pageSecretSource(name: PageSecretName): SecretSource {
  const file = given(`${name}_FILE`);
  if (file === undefined) return { env: name };
  if (given(name) === undefined) return { file: resolve(file) };
  throw new KeyslotError('CONFIG_INVALID', `${name} and ${name}_FILE are both set; unset one of them.`);
}

/** Node secrets come all in one variable, separated by commas, or each in its own. CONFIG_INVALID for both. */
export function nodeSecretsInOne(): boolean {
  const single = nodeSecretNames.find(isSecretGiven);
  if (!isSecretGiven('WALLET_MPC_NODE_SECRETS')) return false;
  if (single === undefined) return true;
  throw new KeyslotError(
    'CONFIG_INVALID',
    `WALLET_MPC_NODE_SECRETS and ${single} are both set; unset one of them.`,
  );
}

/**
 * The caller disposes it. CONFIG_INVALID when it is missing, empty, or the name of a key where a secret belongs;
 * SECRET_UNREADABLE for a file that is missing or that others may read. All name the variable.
 */
export async function pageSecret(name: PageSecretName): Promise<Secret> {
  const source = pageSecretSource(name);
  if ('env' in source && given(name) === undefined) throw missing(name);
  const secret = await readSecret({ home: '/' }, source, 'file' in source ? `${name}_FILE` : name);
  if (!secret.useText(text => arn.test(text))) return secret;
  secret[Symbol.dispose]();
  throw new KeyslotError(
    'CONFIG_INVALID',
    `${name} is the name of an AWS KMS key and no secret: everybody may know it. Use a random secret here, or ` +
      'AWS KMS itself with engine: kms and mode: aws-envelope in keyslot.yaml.',
  );
}

/** Those of the three that are there, two at least; the caller disposes them. CONFIG_INVALID, SECRET_UNREADABLE. */
export async function pageNodeSecrets(): Promise<ReturnType<typeof splitNodeSecrets>> {
  if (nodeSecretsInOne()) return await splitInOne();
  const names = nodeSecretNames.filter(isSecretGiven);
  const [absent] = nodeSecretNames.filter(name => !names.includes(name));
  if (names.length < 2) throw missing(absent ?? nodeSecretNames[0], ' (any two of the three, or all three)');
  using held = new DisposableStack();
  const secrets: (Secret | undefined)[] = [];
  for (const name of nodeSecretNames) {
    secrets.push(names.includes(name) ? held.use(await pageSecret(name)) : undefined);
  }
  held.move();
  const [first, second, third] = secrets;
  return [first, second, third];
}

/** What the program falls back to where nothing is set, and everybody can read in its source. */
export const wellKnownSecret = 'local-dev-wallet-secret-change-me';

const arn = /^\s*arn:aws[a-z-]*:kms:/;

async function splitInOne(): Promise<ReturnType<typeof splitNodeSecrets>> {
  using all = await pageSecret('WALLET_MPC_NODE_SECRETS');
  try {
    return splitNodeSecrets(all);
  } catch (error) {
    if (!isKeyslotError(error) || error.code !== 'SLOT_PIN_REQUIRED') throw error;
    const text =
      'WALLET_MPC_NODE_SECRETS has to hold three secrets, separated by commas; one may be left empty.';
    throw new KeyslotError('CONFIG_INVALID', text);
  }
}

function missing(name: PageSecretName, more = ''): KeyslotError {
  const state = environmentVariable(name) === undefined ? 'not set' : 'empty';
  return new KeyslotError(
    'CONFIG_INVALID',
    `${name} is ${state}: set it${more}, for example to what openssl rand -base64 32 prints, or set ${name}_FILE.`,
  );
}

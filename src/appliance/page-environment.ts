import { existsSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { KeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { Secret } from '../foundation/secret.ts';
import {
  adoptedSuffix,
  type Config,
  checkedConfig,
  configFile,
  inHome,
  readConfig,
  type SecretSource,
} from './config.ts';
import { localAccess, prepareLocalAccess, preparePagePolicy, prepareRandomPin } from './development.ts';
import { Home } from './home.ts';
import {
  given,
  isSecretGiven,
  nodeSecretNames,
  nodeSecretsInOne,
  type PageSecretName,
  pageNodeSecrets,
  pageSecret,
  pageSecretSource,
  tokenPinNames,
  wellKnownSecret,
} from './page-secrets.ts';

/**
 * The environment of the agentic-wallet page as a complete appliance of one slot, without a `keyslot.yaml`. It
 * becomes a `Config` by the same checks as a file; secrets stay where they are. `docs/environment.md` lists the
 * variables.
 */
export const pageBackends = ['encrypted-file', 'memory', 'kms', 'hsm', 'mpc'] as const;
export type PageBackend = (typeof pageBackends)[number];

/** What WALLET_SIGNER_BACKEND says; nothing when it is not set. CONFIG_INVALID for an unknown one. */
export function pageBackend(): PageBackend | undefined {
  const named = given('WALLET_SIGNER_BACKEND');
  const backend = pageBackends.find(each => each === named);
  if (named === undefined || backend) return backend;
  throw new KeyslotError(
    'CONFIG_INVALID',
    `WALLET_SIGNER_BACKEND is ${JSON.stringify(named)}; it has to be one of ${pageBackends.join(', ')}.`,
  );
}

/** Where the state folder is when the environment describes the appliance and nothing names the folder. */
export function pageHome(): string | undefined {
  const data = given('WALLET_ENGINE_DATA_DIR');
  return given('WALLET_SIGNER_BACKEND') && data ? resolve(data, 'keyslot') : undefined;
}

/**
 * The configuration of a state folder: its `keyslot.yaml`, or the page's environment where WALLET_SIGNER_BACKEND
 * is set. CONFIG_INVALID, also when both are there: which one is meant is not guessed. HOME_INVALID.
 */
export function configOfHome(home: string): Config {
  const backend = pageBackend();
  if (backend === undefined) return readConfig(home);
  const file = join(home, configFile);
  if (!existsSync(file)) return pageConfig(backend, resolve(home));
  throw new KeyslotError(
    'CONFIG_INVALID',
    `${file} and WALLET_SIGNER_BACKEND each describe an appliance: unset the variable to use the file, or use ` +
      'another state folder to use the environment.',
  );
}

/**
 * What the configuration of the environment refers to, before the appliance starts: the secrets are there, and
 * so are certificates and a token of this machine. Says in the log what was chosen. CONFIG_INVALID and
 * SECRET_UNREADABLE name the variable; HOME_IN_USE, HOME_INVALID.
 */
export async function preparePageHome(backend: PageBackend, config: Config, log: Log): Promise<void> {
  await refuseWithoutSecrets(backend, log);
  // Two starts at once would end up with halves of two sets of certificates.
  using _taken = new Home(config.home);
  const bearerToken = await prepareLocalAccess(config.home);
  if (backend === 'memory') prepareRandomPin(inHome(config, memoryPin));
  preparePagePolicy(config);
  log.info({ backend, home: config.home, bearerToken }, 'configured by the environment: no keyslot.yaml');
  if (backend === 'hsm') sayWhichHsm(config, log);
  const { adopt } = config.compat;
  if (adopt !== undefined && !existsSync(adopt)) {
    throw new KeyslotError('CONFIG_INVALID', `WALLET_ENGINE_DATA_DIR: there is no folder ${adopt}.`);
  }
  warnOfUnusedWallets(config, log);
}

function pageConfig(backend: PageBackend, home: string): Config {
  const slot = slotOf(backend);
  const port = portOf('WALLET_ENGINE_PORT');
  const data = given('WALLET_ENGINE_DATA_DIR');
  const database = given('WALLET_ENGINE_DB_PATH');
  const agenticWallet = isOn('KEYSLOT_COMPAT_AGENTIC_WALLET');
  const settings = {
    profile: 'development',
    ...(port === undefined ? {} : { listen: { port }, ops: { port: opsPortFor(port) } }),
    ...localAccess,
    slots: [slot],
    solanaRpcUrl: given('SOLANA_RPC_URL'),
  };
  const plain = checked(settings, home);
  const [only] = plain.slots;
  if (!agenticWallet || !only) return plain;
  const adopts = data !== undefined && adoptedSuffix(only) !== undefined;
  const compat = {
    agenticWallet,
    ...(adopts ? { adopt: resolve(data) } : {}),
    ...(adopts && database !== undefined ? { adoptDatabase: resolve(database) } : {}),
  };
  return checked({ ...settings, compat }, home);
}

/** The checks of a file, whose errors name the variable instead of the setting. */
function checked(settings: unknown, home: string): Config {
  try {
    return checkedConfig(settings, home, 'the environment');
  } catch (thrown) {
    if (!(thrown instanceof KeyslotError)) throw thrown;
    const text = Object.entries(variableOf).reduce(
      (said, [setting, variable]) => said.replace(`: ${setting}:`, `: ${variable}:`),
      thrown.message,
    );
    throw new KeyslotError(thrown.code, text, { cause: thrown });
  }
}

const variableOf: Readonly<Record<string, string>> = {
  solanaRpcUrl: 'SOLANA_RPC_URL',
  'slots.0.settings.envelope': 'KEYSLOT_ENVELOPE',
  'slots.0.settings.keyId': 'WALLET_KMS_KEY_ID',
  'slots.0.settings.slot': 'WALLET_HSM_SLOT',
  'slots.0.settings.module': 'KEYSLOT_PKCS11_MODULE',
  'slots.0.settings.tokenLabel': 'KEYSLOT_PKCS11_TOKEN_LABEL',
};

const memoryPin = 'secrets/memory.pin';

/** One `slots:` entry, as a file would have it; its id is the name of the backend. */
function slotOf(backend: PageBackend): unknown {
  const envelope = given('KEYSLOT_ENVELOPE');
  switch (backend) {
    case 'encrypted-file': {
      const pin = pageSecretSource('WALLET_KEY_ENCRYPTION_SECRET');
      return { id: backend, engine: 'encrypted-file', pin, settings: { envelope } };
    }
    case 'memory':
      return { id: backend, engine: 'memory', pin: { file: memoryPin } };
    case 'kms': {
      const pin = pageSecretSource('WALLET_KMS_MASTER_SECRET');
      const settings = { mode: 'simulated', keyId: given('WALLET_KMS_KEY_ID'), envelope };
      return { id: backend, engine: 'kms', pin, settings };
    }
    case 'hsm': {
      const module = pkcs11Module();
      if (module !== undefined) return tokenSlot(backend, module);
      return {
        id: backend,
        engine: 'hsm-sim',
        pin: pageSecretSource('WALLET_HSM_PIN'),
        moduleSecret: pageSecretSource('WALLET_HSM_MODULE_SECRET'),
        settings: { slot: given('WALLET_HSM_SLOT'), envelope },
      };
    }
    case 'mpc':
      return { id: backend, engine: 'mpc', pin: nodeSecretSources(), settings: { envelope } };
  }
}

/** Whether the hsm backend is a real token is decided here and by nothing that a token answers later. */
const pkcs11Module = (): string | undefined =>
  given('KEYSLOT_PKCS11_MODULE') ?? given('PKCS11_MODULE') ?? given('PKCS11_PATH');

function tokenSlot(id: string, module: string): unknown {
  const tokenLabel = given('KEYSLOT_PKCS11_TOKEN_LABEL') ?? given('PKCS11_TOKEN_LABEL');
  if (tokenLabel === undefined) {
    const text =
      'KEYSLOT_PKCS11_TOKEN_LABEL is not set: name the token; keyslot doctor lists those there are.';
    throw new KeyslotError('CONFIG_INVALID', text);
  }
  const environment = Object.fromEntries(
    moduleVariables.flatMap(name => {
      const value = given(name);
      return value === undefined ? [] : [[name, value]];
    }),
  );
  return {
    id,
    engine: 'pkcs11',
    pin: pageSecretSource(tokenPinName()),
    settings: { module, tokenLabel, environment },
  };
}

const tokenPinName = (): PageSecretName => tokenPinNames.find(isSecretGiven) ?? tokenPinNames[0];

/** What common libraries are configured by; a library that reads other variables takes a `keyslot.yaml`. */
const moduleVariables = ['SOFTHSM2_CONF', 'YUBIHSM_PKCS11_CONF'];

const nodeSecretSources = (): SecretSource | { nodes: readonly SecretSource[] } =>
  nodeSecretsInOne()
    ? pageSecretSource('WALLET_MPC_NODE_SECRETS')
    : { nodes: nodeSecretNames.map(pageSecretSource) };

function portOf(name: string): number | undefined {
  const text = given(name);
  if (text === undefined) return undefined;
  if (/^\d{1,5}$/.test(text) && Number(text) <= 65_535) return Number(text);
  throw new KeyslotError('CONFIG_INVALID', `${name} is no port: a number from 0 to 65535.`);
}

/** As `keyslot serve --port` does it: 1,000 above, if there is room. */
const opsPortFor = (port: number): number => (port === 0 ? 0 : port > 64_535 ? port - 1_000 : port + 1_000);

function isOn(name: string): boolean {
  const text = given(name);
  if (text === undefined || text === 'false') return false;
  if (text === 'true') return true;
  throw new KeyslotError('CONFIG_INVALID', `${name} is true or false.`);
}

/** Each secret is read once and dropped: a start that is refused names the variable, not the slot. */
async function refuseWithoutSecrets(backend: PageBackend, log: Log): Promise<void> {
  if (backend === 'mpc') return await refuseWithoutNodes(log);
  for (const name of secretsOf(backend)) {
    using secret = await pageSecret(name);
    if (secret.useText(text => text === wellKnownSecret)) {
      log.warn({ variable: name }, 'this secret is written in the source of a program: anybody can use it');
    }
  }
}

async function refuseWithoutNodes(log: Log): Promise<void> {
  using held = new DisposableStack();
  const secrets: readonly (Secret | undefined)[] = await pageNodeSecrets();
  for (const secret of secrets) held.use(secret);
  const missing = secrets.flatMap((secret, at) => (secret ? [] : [at + 1]));
  if (missing.length > 0) {
    log.warn({ missing }, 'two of three node secrets: keys sign, and none can be made or imported');
  }
}

function secretsOf(backend: Exclude<PageBackend, 'mpc'>): readonly PageSecretName[] {
  switch (backend) {
    case 'encrypted-file':
      return ['WALLET_KEY_ENCRYPTION_SECRET'];
    case 'memory':
      return [];
    case 'kms':
      return ['WALLET_KMS_MASTER_SECRET'];
    case 'hsm':
      return pkcs11Module() ? [tokenPinName()] : ['WALLET_HSM_PIN', 'WALLET_HSM_MODULE_SECRET'];
  }
}

function sayWhichHsm({ slots }: Config, log: Log): void {
  const [slot] = slots;
  if (slot?.engine === 'pkcs11') {
    const { module, tokenLabel } = slot.settings;
    log.info({ slot: slot.id, module, tokenLabel }, 'backend hsm is the PKCS#11 module that is configured');
  } else {
    log.warn({ slot: slot?.id }, 'backend hsm is simulated: KEYSLOT_PKCS11_MODULE names no module');
  }
}

/** Nobody should wonder where their wallets are. */
function warnOfUnusedWallets(config: Config, log: Log): void {
  const data = given('WALLET_ENGINE_DATA_DIR');
  if (data === undefined || config.compat.adopt !== undefined) return;
  const folder = resolve(data, 'keys');
  if (!existsSync(folder) || !readdirSync(folder).some(name => name.endsWith('.json'))) return;
  log.warn(
    { folder },
    'key files are there that are not served; KEYSLOT_COMPAT_AGENTIC_WALLET=true serves those of this backend',
  );
}

import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { parse as parseYaml, YAMLParseError } from 'yaml';
import { z } from 'zod';
import { isId } from '../custody/ids.ts';
import { memorySettings } from '../engines/memory/settings.ts';
// The settings alone: whoever reads the configuration must not load a native addon.
import { pkcs11Settings } from '../engines/pkcs11/settings.ts';
import { KeyslotError } from '../foundation/errors.ts';

/**
 * `keyslot.yaml`, parsed once into a closed type: unknown names are refused, secrets are only referred to, and
 * no secret has a default. `docs/keyslot.schema.json` is generated from here.
 */

const id = z.string().refine(isId, 'must be 1 to 63 characters of a-z, 0-9 and "-"');

/** Where a secret is, never what it is. */
const secretSource = z.union([
  z.strictObject({ file: z.string().min(1) }),
  z.strictObject({ env: z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/) }),
  z.strictObject({ credential: z.string().regex(/^[A-Za-z0-9._-]+$/) }),
]);
export type SecretSource = z.infer<typeof secretSource>;

const slotCommon = {
  id,
  pin: z
    .union([...secretSource.options, z.strictObject({ attended: z.literal(true) })])
    .describe('Where the PIN is; attended: an operator opens the slot.'),
  access: z
    .enum(['session', 'identity', 'both'])
    .default('identity')
    .describe('What signing takes: a PIN session, a grant of the slot, or both.'),
};

const slot = z.discriminatedUnion('engine', [
  z.strictObject({ ...slotCommon, engine: z.literal('pkcs11'), settings: pkcs11Settings }),
  z.strictObject({ ...slotCommon, engine: z.literal('memory'), settings: memorySettings.default({}) }),
]);
export type SlotConfig = z.infer<typeof slot>;

const identityCommon = {
  name: z.string().regex(/^[A-Za-z0-9._@-]{1,63}$/),
  roles: z.array(z.enum(['operator', 'signer'])).min(1),
  slots: z.union([z.literal('*'), z.array(id)]).describe("The slots it may use: a list of ids, or '*'."),
};

const identity = z.union([
  z.strictObject({
    ...identityCommon,
    certificate: z
      .union([
        z.strictObject({ file: z.string().min(1) }),
        z.strictObject({ spki: z.string().regex(/^[0-9a-f]{64}$/, 'must be SHA-256 in hexadecimal') }),
      ])
      .describe('A client certificate by its file, or by the SHA-256 of its public key (SPKI).'),
  }),
  z.strictObject({
    ...identityCommon,
    token: secretSource.describe('A bearer token: development profile on loopback only.'),
  }),
]);
export type IdentityConfig = z.infer<typeof identity>;

const listener = (port: number) =>
  z.strictObject({
    host: z.string().min(1).default('127.0.0.1'),
    port: z.int().min(0).max(65535).default(port),
  });

export const configSchema = z.strictObject({
  profile: z.enum(['production', 'development']).default('production'),
  listen: listener(8443).prefault({}).describe('Where callers connect.'),
  ops: listener(9443).prefault({}).describe('Where health is asked: /healthz, /readyz.'),
  tls: z.strictObject({
    certificate: z.string().min(1).describe('PEM file of the server certificate and its chain.'),
    key: z.string().min(1).describe('PEM file of its private key.'),
    clientCa: z.string().min(1).describe('PEM file of the CA that signs client certificates.'),
  }),
  slots: z.array(slot).min(1),
  identities: z.array(identity).min(1),
  sessions: z
    .strictObject({
      idle_s: z.int().min(1).max(86_400).default(900),
      absolute_s: z.int().min(1).max(604_800).default(28_800),
    })
    .prefault({})
    .describe('How long a PIN session of a caller lives.'),
  custodian: z
    .strictObject({
      threads: z
        .int()
        .min(1)
        .max(1024)
        .optional()
        .describe(
          'Threads that sign and verify; default: one a core. A slow token wants as many as sessions.',
        ),
    })
    .prefault({}),
  allowSoftwareEngines: z
    .array(z.enum(['memory']))
    .default([])
    .describe('Engines without hardware that the production profile may use all the same.'),
  command: z
    .strictObject({ certificate: z.string().min(1), key: z.string().min(1), ca: z.string().min(1) })
    .optional()
    .describe('The client certificate that the keyslot command presents, and the CA of the server.'),
});

export type Config = z.infer<typeof configSchema> & { readonly home: string };

/** Reads and checks `keyslot.yaml` in the state folder. CONFIG_INVALID names the setting; HOME_INVALID. */
export function readConfig(home: string): Config {
  const path = join(home, configFile);
  const parsed = configSchema.safeParse(parsedYaml(path));
  if (!parsed.success) throw new KeyslotError('CONFIG_INVALID', `${path}: ${firstIssue(parsed.error)}`);
  const config = { ...parsed.data, home };
  refuseContradictions(config, path);
  return Object.freeze(config);
}

export const configFile = 'keyslot.yaml';

/** A path of the configuration: relative ones are inside the state folder. */
export const inHome = (config: Config, path: string): string =>
  isAbsolute(path) ? path : join(config.home, path);

/** What the PKCS#11 libraries read in the custodian; `${home}` stands for the state folder. */
export function moduleEnvironment(config: Config): Record<string, string> {
  const variables = config.slots.flatMap(({ engine, settings }) =>
    engine === 'pkcs11' ? Object.entries(settings.environment) : [],
  );
  return Object.fromEntries(
    variables.map(([name, value]) => [name, value.replaceAll('${home}', config.home)]),
  );
}

/** Names of environment variables that hold secrets of the slots, for the custodian alone. */
export const secretVariables = (config: Config): readonly string[] =>
  config.slots.flatMap(({ pin }) => ('env' in pin ? [pin.env] : []));

export const signingThreads = (config: Config): number => config.custodian.threads ?? availableParallelism();

function parsedYaml(path: string): unknown {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new KeyslotError('HOME_INVALID', `${path} cannot be read; scripts/start makes a development one.`, {
      cause,
    });
  }
  try {
    return parseYaml(text);
  } catch (error) {
    if (!(error instanceof YAMLParseError)) throw error;
    throw new KeyslotError('CONFIG_INVALID', `${path}: ${error.message.split('\n')[0]}`);
  }
}

/** What the shape alone cannot say. */
function refuseContradictions(config: Config, path: string): void {
  const refuse = (setting: string, text: string): never => {
    throw new KeyslotError('CONFIG_INVALID', `${path}: ${setting}: ${text}`);
  };
  refuseRepeats(config, refuse);
  const hasTokens = config.identities.some(each => 'token' in each);
  if (config.profile === 'development') {
    if (hasTokens && !isLoopback(config.listen.host)) {
      refuse('identities', 'bearer tokens are for loopback only; use client certificates.');
    }
    return;
  }
  if (hasTokens)
    refuse('identities', 'bearer tokens are for the development profile; use client certificates.');
  for (const { engine, id: slotId } of config.slots) {
    if (engine !== 'pkcs11' && !config.allowSoftwareEngines.includes(engine)) {
      refuse(
        `slots.${slotId}`,
        `engine ${engine} keeps keys in software; name it in allowSoftwareEngines to allow it.`,
      );
    }
  }
}

function refuseRepeats(config: Config, refuse: (setting: string, text: string) => never): void {
  const slots = config.slots.map(each => each.id);
  const names = config.identities.map(each => each.name);
  const tokens = config.slots.flatMap(({ engine, settings }) =>
    engine === 'pkcs11'
      ? [`${settings.module} ${settings.tokenLabel ?? ''} ${settings.tokenSerial ?? ''}`]
      : [],
  );
  const lists: readonly (readonly [string, readonly string[]])[] = [
    ['slots', slots],
    ['identities', names],
    ['slots', tokens],
  ];
  for (const [setting, list] of lists) {
    const repeated = list.find((value, at) => list.indexOf(value) !== at);
    if (repeated !== undefined) refuse(setting, `${repeated} stands there twice.`);
  }
  for (const { name, slots: granted } of config.identities) {
    const unknown = granted === '*' ? undefined : granted.find(slotId => !slots.includes(slotId));
    if (unknown !== undefined) refuse(`identities.${name}.slots`, `there is no slot ${unknown}.`);
  }
}

const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host);

function firstIssue(error: z.ZodError): string {
  const [first] = error.issues;
  if (!first) return 'not valid.';
  const issue = insideUnion(first);
  if (issue.code === 'unrecognized_keys') {
    return `${[...issue.path, issue.keys[0]].join('.')} is not a setting of Keyslot.`;
  }
  return `${issue.path.join('.') || 'the file'}: ${issue.message}.`;
}

/** What is wrong with the member of a union that was meant: the one with the fewest failures, if it is alone. */
function insideUnion(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== 'invalid_union') return issue;
  const [best, next] = issue.errors.toSorted((one, other) => one.length - other.length);
  const inner = best?.[0];
  if (!inner || best.length === next?.length) return issue;
  return insideUnion({ ...inner, path: [...issue.path, ...inner.path] });
}

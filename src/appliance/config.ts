import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { parse as parseYaml, YAMLParseError } from 'yaml';
import { z } from 'zod';
import { canaryKey } from '../custody/canary-key.ts';
import { isId } from '../custody/ids.ts';
// The settings alone: whoever reads the configuration must not load a native addon or a vendor's library.
import { encryptedFileSettings } from '../engines/encrypted-file/settings.ts';
import { hsmSimSettings } from '../engines/hsm-sim/settings.ts';
import { kmsSettings } from '../engines/kms/settings.ts';
import { memorySettings } from '../engines/memory/settings.ts';
import { mpcSettings } from '../engines/mpc/settings.ts';
import { pkcs11Settings } from '../engines/pkcs11/settings.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { grant, jwtAlgorithms, recognition, roles } from '../wire/identities.ts';

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

const attended = z.strictObject({ attended: z.literal(true) });
const pin = z
  .union([...secretSource.options, attended])
  .describe('Where the PIN is; attended: an operator opens the slot.');

/** Any two of the three open the slot, so one that cannot be read is said and no failure. */
const nodeSecrets = z
  .union([
    z.strictObject({ nodes: z.tuple([secretSource, secretSource, secretSource]) }),
    ...secretSource.options,
    attended,
  ])
  .describe(
    'Where the three node secrets are: each in its place, or all in one, separated by commas; attended: an ' +
      'operator opens the slot with them.',
  );

const credentialsOrPin = z
  .union([z.literal('none'), ...secretSource.options, attended])
  .describe('none for KMS itself, where credentials take the place of a PIN; simulated: the master secret.');

const slotCommon = {
  id,
  access: z
    .enum(['session', 'identity', 'both'])
    .default('identity')
    .describe('What signing takes: a PIN session, a grant of the slot, or both.'),
  canary: z
    .union([z.literal('off'), z.strictObject({ every_s: z.number().min(1).max(3_600) })])
    .optional()
    .describe(
      'How often a key of its own shows that the slot signs. Default: every 30 s for pkcs11, off for the others.',
    ),
  required: z.boolean().default(true).describe('Whether the appliance is ready only while this slot is.'),
};

const slot = z.discriminatedUnion('engine', [
  z.strictObject({ ...slotCommon, pin, engine: z.literal('pkcs11'), settings: pkcs11Settings }),
  z.strictObject({
    ...slotCommon,
    pin: pin.describe('Where the secret is that the key files are sealed with.'),
    engine: z.literal('encrypted-file'),
    settings: encryptedFileSettings.prefault({}),
  }),
  z.strictObject({
    ...slotCommon,
    pin,
    moduleSecret: secretSource.describe('Where the module secret is, the other half of what seals the keys.'),
    engine: z.literal('hsm-sim'),
    settings: hsmSimSettings.prefault({}),
  }),
  z.strictObject({ ...slotCommon, pin: credentialsOrPin, engine: z.literal('kms'), settings: kmsSettings }),
  z.strictObject({
    ...slotCommon,
    pin: nodeSecrets,
    engine: z.literal('mpc'),
    settings: mpcSettings.prefault({}),
  }),
  z.strictObject({ ...slotCommon, pin, engine: z.literal('memory'), settings: memorySettings.default({}) }),
]);
export type SlotConfig = z.infer<typeof slot>;

const spkiDigest = z.string().regex(/^[0-9a-f]{64}$/, 'must be SHA-256 in hexadecimal');

const identityCommon = {
  name: z.string().regex(/^[A-Za-z0-9._@-]{1,63}$/),
  roles: z.array(z.enum(roles)).min(1),
  slots: z
    .union([z.literal('*'), z.array(id)])
    .optional()
    .describe("The slots it may use, for everything but raw and export: a list of ids, or '*'."),
  grants: z
    .array(grant)
    .max(100)
    .default([])
    .describe('What it may do with which keys, tags and slots; besides slots.'),
};

const [, sanRecognition, jwtRecognition] = recognition.options;

const identity = z.union([
  z.strictObject({
    ...identityCommon,
    certificate: z
      .union([z.strictObject({ file: z.string().min(1) }), z.strictObject({ spki: spkiDigest })])
      .describe('A client certificate by its file, or by the SHA-256 of its public key (SPKI).'),
  }),
  z.strictObject({
    ...identityCommon,
    ...sanRecognition.shape,
    san: sanRecognition.shape.san.describe(
      'A name in the certificate that a CA gave: dns:, uri:, email: or ip:.',
    ),
    ca: z
      .union([z.strictObject({ file: z.string().min(1) }), z.strictObject({ spki: spkiDigest })])
      .optional()
      .describe('The CA that issued the certificate; without it, whichever tls.clientCa trusts.'),
  }),
  z.strictObject({
    ...identityCommon,
    ...jwtRecognition.shape,
    jwt: z.string().min(1).describe('The name of one of jwtIssuers.'),
  }),
  z.strictObject({
    ...identityCommon,
    apiTokens: z.literal(true).describe('It has API tokens alone, which an admin issues.'),
  }),
  z.strictObject({
    ...identityCommon,
    token: secretSource.describe(
      'A bearer token: development profile on loopback only, or any profile with facade.vaultTransit.',
    ),
  }),
  z.strictObject({
    ...identityCommon,
    appRole: z
      .strictObject({ roleId: z.string().regex(/^[A-Za-z0-9._-]{1,128}$/), secretId: secretSource })
      .describe('A role id and a secret id, to log in with as Vault has it: with facade.vaultTransit.'),
  }),
]);
export type IdentityConfig = z.infer<typeof identity>;

const jwtIssuer = z.strictObject({
  name: id.describe('What identities call it.'),
  issuer: z.string().min(1).max(500).describe('iss, letter by letter.'),
  audience: z
    .union([z.string().min(1), z.array(z.string().min(1)).min(1).max(10)])
    .describe('aud: the token must be meant for one of these.'),
  jwks: z
    .union([
      z.strictObject({ file: z.string().min(1) }),
      z.strictObject({
        url: z.string().refine(isJwksUrl, 'must be an https URL without a user, or http on loopback'),
        ca: z
          .string()
          .min(1)
          .optional()
          .describe('PEM file of the CA of that server; default: the public ones.'),
      }),
    ])
    .describe('Where its public keys are. A file is read again when it has changed.'),
  refresh_s: z
    .int()
    .min(1)
    .max(86_400)
    .default(300)
    .describe('How old keys from a URL may be before they are read again.'),
  max_s: z
    .int()
    .min(1)
    .max(604_800)
    .default(3_600)
    .describe('How old they may be at most while they cannot be read.'),
  algorithms: z
    .array(z.enum(jwtAlgorithms))
    .min(1)
    .default(['EdDSA', 'Ed25519', 'ES256', 'RS256', 'PS256'])
    .describe('The signature algorithms that are accepted.'),
  clockSkew_s: z.int().min(0).max(300).default(30),
});
export type JwtIssuerConfig = z.infer<typeof jwtIssuer>;

const listener = (port: number) =>
  z.strictObject({
    host: z.string().min(1).default('127.0.0.1'),
    port: z.int().min(0).max(65535).default(port),
  });

/** What stands behind /v1/ already, or is Vault's own. */
const takenMounts: readonly string[] = [
  'approvals',
  'audit',
  'auth',
  'drain',
  'freezes',
  'groups',
  'health',
  'identities',
  'keys',
  'migrations',
  'policies',
  'reload',
  'sessions',
  'slots',
  'sys',
  'tokens',
  'whoami',
];

/** What keeps keys without hardware or a service behind it, as `allowSoftwareEngines` names it. */
const softwareEngines = ['memory', 'encrypted-file', 'hsm-sim', 'kms-simulated', 'mpc'] as const;

const group = z.strictObject({
  id,
  members: z
    .array(
      z.strictObject({
        slot: id,
        weight: z
          .int()
          .min(0)
          .max(100)
          .default(1)
          .describe('Its share of the signatures; 0 stands by and signs only when no other can.'),
      }),
    )
    .min(2)
    .max(8)
    .describe('Slots of the same custody and access. A slot is in one group at most.'),
});

export const configSchema = z.strictObject({
  profile: z.enum(['production', 'development']).default('production'),
  listen: listener(8443).prefault({}).describe('Where callers connect.'),
  ops: listener(9443)
    .prefault({})
    .describe('Where health is asked: /healthz, /readyz, /v1/health, /metrics.'),
  tls: z.strictObject({
    certificate: z.string().min(1).describe('PEM file of the server certificate and its chain.'),
    key: z.string().min(1).describe('PEM file of its private key.'),
    clientCa: z.string().min(1).describe('PEM file of the CA that signs client certificates.'),
  }),
  slots: z.array(slot).min(1),
  groups: z
    .array(group)
    .max(32)
    .default([])
    .describe('Slots that hold the same keys: when one cannot sign, another one does.'),
  identities: z.array(identity).min(1),
  jwtIssuers: z
    .array(jwtIssuer)
    .max(16)
    .default([])
    .describe('Who else says who people are: OpenID Connect, JWTs.'),
  apiTokens: z
    .strictObject({
      enabled: z.boolean().default(false),
      max_s: z.int().min(60).max(31_536_000).default(31_536_000).describe('How long one may live at most.'),
    })
    .prefault({})
    .describe('Bearer tokens that an admin issues, for programs without a certificate.'),
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
  supervision: z
    .strictObject({
      unresponsive_s: z
        .number()
        .min(1)
        .max(3_600)
        .default(30)
        .describe(
          'How long a process may say nothing before it is killed and started anew. No call to a token that ' +
            'all others wait for, such as C_Login, may take longer.',
        ),
    })
    .prefault({})
    .describe('How the processes of the appliance are watched.'),
  cloudhsm: z
    .strictObject({
      cluster: z
        .string()
        .regex(/^cluster-[a-z0-9]{1,32}$/, 'must be the id of a cluster: cluster-…')
        .describe('The id of the cluster.'),
      slot: id.describe('The slot that uses it: its mode is what the cluster must be able to do.'),
      region: z.string().min(1).optional().describe('Default: as AWS_REGION says.'),
      endpoint: z
        .string()
        .refine(isJwksUrl, 'must be an https URL without a user, or http on loopback')
        .optional()
        .describe(
          'Where the API of CloudHSM is, such as an interface endpoint; default: as the region has it.',
        ),
      libraryConfig: z
        .string()
        .min(1)
        .optional()
        .describe('The configuration of the PKCS#11 library; default: where its installer puts it.'),
      every_s: z.int().min(60).max(86_400).default(300).describe('How often AWS is asked.'),
    })
    .optional()
    .describe('An AWS CloudHSM cluster whose preflight is shown by /readyz. Needs credentials of AWS.'),
  allowModules: z
    .array(z.string().refine(isAbsolute, 'must be an absolute path of a PKCS#11 library'))
    .default([])
    .describe('Libraries that production loads although others than root could replace them.'),
  allowSoftwareEngines: z
    .array(z.enum(softwareEngines))
    .default([])
    .describe('Engines without hardware that the production profile may use all the same.'),
  compat: z
    .strictObject({
      agenticWallet: z
        .boolean()
        .default(false)
        .describe("Whether the routes of the agentic-wallet program's wallet engine are served."),
      slot: id.optional().describe('The slot where new wallets are made; default: the only one.'),
      adopt: z
        .string()
        .min(1)
        .optional()
        .describe('The data folder of that program, whose wallets are copied into the slot.'),
      adoptDatabase: z
        .string()
        .min(1)
        .optional()
        .describe('The wallets database of that program; default: wallet-engine.sqlite in its data folder.'),
    })
    .prefault({})
    .describe("Serving the agentic-wallet program's clients."),
  facade: z
    .strictObject({
      vaultTransit: z
        .boolean()
        .default(false)
        .describe("Whether the calls of Vault's transit engine are served, for clients that make them."),
      mount: z
        .string()
        .regex(/^[a-z0-9_-]+(\/[a-z0-9_-]+)*$/, 'must be a path of a-z, 0-9, "_" and "-"')
        .max(200)
        .refine(mount => !takenMounts.includes(mount.split('/')[0] ?? ''), 'is a path of Keyslot itself')
        .default('transit')
        .describe('Where the engine is mounted: /v1/<mount>/sign/<key>.'),
      namespace: z
        .string()
        .min(1)
        .regex(/^[^/].*[^/]$|^[^/]$/, 'must not begin or end with "/"')
        .optional()
        .describe('What X-Vault-Namespace must say; without it, it may say anything.'),
      lease_s: z
        .int()
        .min(1)
        .max(86_400)
        .default(3_600)
        .describe('How long a token is good that a role id and a secret id were given.'),
    })
    .prefault({})
    .describe("Serving other signers' clients."),
  policies: z
    .strictObject({
      folder: z
        .string()
        .min(1)
        .default('policies')
        .describe('The folder of policy documents: *.yaml, *.json.'),
    })
    .prefault({})
    .describe('What may be signed. A key that no policy names signs nothing.'),
  audit: z
    .strictObject({
      node: z
        .string()
        .regex(/^[a-z0-9][a-z0-9.-]{0,62}$/, 'must be 1 to 63 characters of a-z, 0-9, "." and "-"')
        .default('keyslot')
        .describe('The name of this appliance in its audit log; of several, each has its own.'),
      folder: z.string().min(1).default('state/audit').describe('Where the audit log is.'),
      slot: id
        .optional()
        .describe('The slot of the key that signs checkpoints, and of nothing else. Production needs one.'),
      key: id.default('audit').describe('The id of that key; it is made when the slot has none.'),
      unsigned: z
        .boolean()
        .default(false)
        .describe(
          'Whether production may do without signed checkpoints: then the log proves its order alone.',
        ),
      checkpoint: z
        .strictObject({
          every_s: z.number().min(0.1).max(3_600).default(1),
          records: z.int().min(1).max(100_000).default(1_000),
        })
        .prefault({})
        .describe('When a checkpoint is made: after this time or so many records, whichever comes first.'),
      segmentRecords: z
        .int()
        .refine(
          count => count >= 16 && count <= 2 ** 20 && (count & (count - 1)) === 0,
          'must be a power of two',
        )
        .default(65_536)
        .describe('Records in one file of the log.'),
      witnesses: z
        .array(
          z.union([
            z.strictObject({ file: z.string().min(1) }),
            z.strictObject({ url: z.string().refine(isRpcUrl, 'must be an http or https URL') }),
          ]),
        )
        .max(8)
        .default([])
        .describe('Where checkpoints are told to: a file elsewhere, or whoever takes them by HTTP POST.'),
    })
    .prefault({})
    .describe('The tamper-evident record of everything that was asked for.'),
  logging: z
    .strictObject({
      requests: z
        .enum(['all', 'errors', 'off'])
        .default('all')
        .describe('Which requests get a line: all, those that were answered with 400 or more, or none.'),
      probes: z
        .enum(['all', 'changes', 'off'])
        .default('changes')
        .describe('Which requests for health or metrics do; changes: another answer than before.'),
      clientAddress: z
        .boolean()
        .default(false)
        .describe('Whether lines of requests name the address of the client.'),
    })
    .prefault({})
    .describe('What the log says of requests (docs/ops/logs.md).'),
  tracing: z
    .strictObject({
      endpoint: z
        .string()
        .refine(isRpcUrl, 'must be an http or https URL without a user or a password')
        .describe('Where spans are sent by OTLP over HTTP: http://127.0.0.1:4318/v1/traces.'),
      ratio: z
        .number()
        .min(0)
        .max(1)
        .default(1)
        .describe('Which part of the traces that begin here is recorded; callers decide on their own.'),
      service: z
        .string()
        .regex(/^[A-Za-z0-9._-]{1,63}$/)
        .default('keyslot')
        .describe('service.name of the spans.'),
    })
    .optional()
    .describe('OpenTelemetry spans of requests (docs/ops/tracing.md). Without it nothing is traced.'),
  drain: z
    .strictObject({
      grace_s: z
        .number()
        .min(0)
        .max(600)
        .default(5)
        .describe('How long requests are still answered once draining begins; /readyz says so at once.'),
    })
    .prefault({})
    .describe('Taking leave of callers before a stop: POST /v1/drain, or SIGUSR2.'),
  idempotency: z
    .strictObject({ retention_s: z.int().min(60).max(2_592_000).default(86_400) })
    .prefault({})
    .describe('How long a repeated request gets the answer of the first.'),
  exports: z
    .strictObject({ enabled: z.boolean().default(false) })
    .prefault({})
    .describe('Whether keys may leave, with approvals, from slots that can give them out.'),
  dualControl: z
    .strictObject({
      approvals: z.int().min(1).max(10).default(2).describe('How many people besides the one who asks.'),
      operations: z
        .array(z.enum(['put-policy', 'delete-policy', 'thaw', 'destroy-copies', 'create-identity']))
        .default([])
        .describe('What takes approvals, besides export-key and destroy-key, which always do.'),
    })
    .prefault({})
    .describe('What nobody does alone.'),
  solanaRpcUrl: z
    .string()
    .refine(isRpcUrl, 'must be an http or https URL without a user or a password')
    .optional()
    .describe('The Solana node that is asked for the balances of wallets.'),
  command: z
    .strictObject({ certificate: z.string().min(1), key: z.string().min(1), ca: z.string().min(1) })
    .optional()
    .describe('The client certificate that the keyslot command presents, and the CA of the server.'),
});

export type Config = z.infer<typeof configSchema> & { readonly home: string };

/** Reads and checks `keyslot.yaml` in the state folder. CONFIG_INVALID names the setting; HOME_INVALID. */
export function readConfig(home: string): Config {
  const path = join(home, configFile);
  return checkedConfig(parsedYaml(path), home, path);
}

/** A configuration from wherever it was written; `origin` begins what is said against it. CONFIG_INVALID. */
export function checkedConfig(settings: unknown, home: string, origin: string): Config {
  const parsed = configSchema.safeParse(settings);
  if (!parsed.success) throw new KeyslotError('CONFIG_INVALID', `${origin}: ${firstIssue(parsed.error)}`);
  const config = { ...parsed.data, home };
  refuseContradictions(config, origin);
  return Object.freeze(config);
}

export const configFile = 'keyslot.yaml';

/** A path of the configuration: relative ones are inside the state folder. */
export const inHome = (config: Pick<Config, 'home'>, path: string): string =>
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
  config.slots.flatMap(secretSources).flatMap(source => ('env' in source ? [source.env] : []));

/** Where all the secrets of a slot are. */
function secretSources(slot: SlotConfig): readonly SecretSource[] {
  const more = slot.engine === 'hsm-sim' ? [slot.moduleSecret] : [];
  if (slot.pin === 'none' || 'attended' in slot.pin) return more;
  return 'nodes' in slot.pin ? slot.pin.nodes : [slot.pin, ...more];
}

/** Whether a slot asks AWS, whose credentials are then the custodian's to find. */
export const asksAws = ({ slots }: Config): boolean =>
  slots.some(({ engine, settings }) => engine === 'kms' && settings.mode !== 'simulated');

/** Whether a library must be root's alone before it is loaded. */
export const checksModule = ({ profile, allowModules }: Config, module: string): boolean =>
  profile === 'production' && !allowModules.includes(module);

/** How often the canary of a slot signs. Not everywhere by itself: a key of KMS costs money, others may read files. */
export function canaryOf({ engine, canary }: SlotConfig): { readonly every_ms: number } | undefined {
  if (canary === 'off' || (canary === undefined && engine !== 'pkcs11')) return undefined;
  return { every_ms: (canary?.every_s ?? canary_s) * 1000 };
}

const canary_s = 30;

/** The folder of a slot that keeps key files. */
export function keyFolderOf(config: Config, slot: SlotConfig): string {
  const folder = 'folder' in slot.settings ? slot.settings.folder : undefined;
  return inHome(config, folder ?? join('keys', slot.id));
}

/** The slot that new wallets are made in; none while their routes are off. */
export const walletSlot = ({ compat, slots, audit }: Config): string | undefined =>
  compat.agenticWallet ? (compat.slot ?? slots.find(each => each.id !== audit.slot)?.id) : undefined;

/**
 * Threads that sign and verify, one that waits for the disk of the audit log, and two more where keys are derived
 * from secrets while others sign.
 */
export const signingThreads = (config: Config): number =>
  (config.custodian.threads ?? availableParallelism()) + 1 + (config.slots.some(derivesKeys) ? 2 : 0);

const derivesKeys = ({ engine, settings }: SlotConfig): boolean =>
  engine === 'encrypted-file' ||
  engine === 'hsm-sim' ||
  engine === 'mpc' ||
  (engine === 'kms' && settings.mode === 'simulated');

function parsedYaml(path: string): unknown {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new KeyslotError('HOME_INVALID', `${path} cannot be read; keyslot init makes one.`, { cause });
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
  refuseGroups(config, refuse);
  refuseCompat(config, refuse);
  for (const slot of config.slots) refuseUnfitPin(slot, refuse);
  refuseAppRoles(config, refuse);
  refuseAudit(config, refuse);
  refuseIssuers(config, refuse);
  refuseCluster(config, refuse);
  const hasTokens = config.identities.some(each => 'token' in each || 'appRole' in each);
  if (config.profile === 'development') {
    if (hasTokens && !isLoopback(config.listen.host)) {
      refuse('identities', 'bearer tokens are for loopback only; use client certificates.');
    }
    return;
  }
  if (hasTokens && !config.facade.vaultTransit)
    refuse('identities', 'bearer tokens are for the development profile; use client certificates.');
  for (const each of config.identities) {
    const role = ['admin', 'operator', 'approver'].find(name => each.roles.some(own => own === name));
    if (role === undefined || !('token' in each || 'appRole' in each)) continue;
    refuse(
      `identities.${each.name}.roles`,
      `in production the role ${role} takes a client certificate or a JWT.`,
    );
  }
  for (const slot of config.slots) {
    const software = softwareEngineOf(slot);
    if (software && !config.allowSoftwareEngines.includes(software)) {
      refuse(
        `slots.${slot.id}`,
        `engine ${software} keeps keys in software; name it in allowSoftwareEngines to allow it.`,
      );
    }
  }
}

/** Members stand in for each other, so what holds for one of them holds for all. */
function refuseGroups(
  { groups, slots, audit }: Config,
  refuse: (setting: string, text: string) => never,
): void {
  const seen = new Set<string>();
  for (const { id: name, members } of groups) {
    if (seen.has(`group ${name}`)) refuse('groups', `${name} stands there twice.`);
    seen.add(`group ${name}`);
    if (members.every(({ weight }) => weight === 0)) refuse(`groups.${name}`, 'every weight is 0.');
    const first = slots.find(each => each.id === members[0]?.slot);
    for (const { slot: member } of members) {
      const found = slots.find(each => each.id === member);
      if (!found) refuse(`groups.${name}`, `there is no slot ${member}.`);
      if (member === audit.slot) refuse(`groups.${name}`, `${member} holds the audit key and nothing else.`);
      if (seen.has(member)) refuse(`groups.${name}`, `slot ${member} is in a group already.`);
      seen.add(member);
      if (found?.access === first?.access) continue;
      refuse(`groups.${name}`, `${member} has another access than ${first?.id}: they must be alike.`);
    }
  }
}

/** The audit key has a slot of its own: whoever uses wallets cannot use it, and whoever keeps it uses no wallets. */
function refuseAudit(config: Config, refuse: (setting: string, text: string) => never): void {
  const { audit, slots, profile } = config;
  const slot = slots.find(each => each.id === audit.slot);
  if (audit.slot !== undefined && !slot) refuse('audit.slot', `there is no slot ${audit.slot}.`);
  if (audit.key === canaryKey) refuse('audit.key', `${canaryKey} is the id of the canary keys.`);
  if (slot && slot.access !== 'identity')
    refuse('audit.slot', 'it takes no sessions; write access: identity.');
  if (slot && walletSlot(config) === slot.id) refuse('audit.slot', 'no wallets are made in it.');
  if (slots.length === 1 && slot)
    refuse('audit.slot', 'it is the only slot; keys of wallets need another one.');
  if (profile === 'production' && !slot && !audit.unsigned) {
    refuse('audit.slot', 'name the slot of the key that signs checkpoints, or say audit.unsigned: true.');
  }
}

/** JWTs and API tokens have their settings, and an identity that needs them has them too. */
function refuseIssuers(config: Config, refuse: (setting: string, text: string) => never): void {
  const { jwtIssuers, identities, apiTokens } = config;
  for (const list of [jwtIssuers.map(({ name }) => name), jwtIssuers.map(({ issuer }) => issuer)]) {
    const repeated = list.find((value, at) => list.indexOf(value) !== at);
    if (repeated !== undefined) refuse('jwtIssuers', `${repeated} stands there twice.`);
  }
  for (const { name, refresh_s, max_s } of jwtIssuers) {
    if (max_s < refresh_s) refuse(`jwtIssuers.${name}.max_s`, 'it is less than refresh_s.');
  }
  for (const each of identities) {
    if ('jwt' in each && !jwtIssuers.some(({ name }) => name === each.jwt)) {
      refuse(`identities.${each.name}.jwt`, `there is no issuer ${each.jwt} in jwtIssuers.`);
    }
    if (!('apiTokens' in each)) continue;
    if (!apiTokens.enabled) refuse(`identities.${each.name}.apiTokens`, 'set apiTokens.enabled to true.');
    const role = (['admin', 'operator', 'approver'] as const).find(name => each.roles.includes(name));
    if (role) refuse(`identities.${each.name}.roles`, `the role ${role} takes no API token.`);
  }
}

function refuseCluster({ cloudhsm, slots }: Config, refuse: (setting: string, text: string) => never): void {
  if (cloudhsm === undefined) return;
  const slot = slots.find(each => each.id === cloudhsm.slot);
  if (!slot) refuse('cloudhsm.slot', `there is no slot ${cloudhsm.slot}.`);
  if (slot?.engine !== 'pkcs11') refuse('cloudhsm.slot', `slot ${cloudhsm.slot} has no PKCS#11 module.`);
}

/** They log in by a route of the facade, and by no other. */
function refuseAppRoles(config: Config, refuse: (setting: string, text: string) => never): void {
  const roles = config.identities.filter(each => 'appRole' in each);
  const [first] = roles;
  if (first && !config.facade.vaultTransit) {
    refuse(`identities.${first.name}.appRole`, 'role ids are for clients of Vault: set facade.vaultTransit.');
  }
  const ids = roles.map(({ appRole }) => appRole.roleId);
  const repeated = ids.find((value, at) => ids.indexOf(value) !== at);
  if (repeated !== undefined) refuse('identities', `the role id ${repeated} stands there twice.`);
}

function softwareEngineOf({ engine, settings }: SlotConfig): (typeof softwareEngines)[number] | undefined {
  switch (engine) {
    case 'pkcs11':
      return undefined;
    case 'kms':
      return settings.mode === 'simulated' ? 'kms-simulated' : undefined;
    case 'memory':
    case 'encrypted-file':
    case 'hsm-sim':
    case 'mpc':
      return engine;
  }
}

/** KMS itself has no PIN and so no PIN sessions; its simulation has a secret like every slot of files. */
function refuseUnfitPin(slot: SlotConfig, refuse: (setting: string, text: string) => never): void {
  if (slot.engine !== 'kms') return;
  const { id: name, settings, pin: given, access } = slot;
  if (settings.mode === 'simulated') {
    if (given === 'none') refuse(`slots.${name}.pin`, 'mode simulated needs the master secret as its PIN.');
    return;
  }
  if (given !== 'none') refuse(`slots.${name}.pin`, `mode ${settings.mode} has no PIN; write pin: none.`);
  if (access !== 'identity') {
    refuse(`slots.${name}.access`, 'a slot without a PIN has no PIN sessions; write access: identity.');
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
  const folders = config.slots.filter(keepsFiles).map(slot => keyFolderOf(config, slot));
  const lists: readonly (readonly [string, readonly string[]])[] = [
    ['slots', slots],
    ['identities', names],
    ['slots', tokens],
    ['slots', folders],
  ];
  for (const [setting, list] of lists) {
    const repeated = list.find((value, at) => list.indexOf(value) !== at);
    if (repeated !== undefined) refuse(setting, `${repeated} stands there twice.`);
  }
  for (const { name, slots: named, grants } of config.identities) {
    const granted = [['slots', named], ...grants.map(each => ['grants', each.slots])] as const;
    for (const [setting, list] of granted) {
      const unknown = Array.isArray(list) ? list.find(slotId => !slots.includes(slotId)) : undefined;
      if (unknown !== undefined) refuse(`identities.${name}.${setting}`, `there is no slot ${unknown}.`);
    }
  }
}

const keepsFiles = ({ engine, settings }: SlotConfig): boolean =>
  engine !== 'memory' && (engine !== 'pkcs11' || settings.mode === 'wrapped');

function refuseCompat(config: Config, refuse: (setting: string, text: string) => never): void {
  const { compat, slots, solanaRpcUrl, profile } = config;
  if (compat.slot !== undefined && !slots.some(each => each.id === compat.slot)) {
    refuse('compat.slot', `there is no slot ${compat.slot}.`);
  }
  const candidates = slots.filter(each => each.id !== config.audit.slot);
  if (compat.agenticWallet && compat.slot === undefined && candidates.length > 1) {
    refuse('compat.slot', 'name the slot where new wallets are made: there are several.');
  }
  if (compat.adopt !== undefined) {
    const slot = slots.find(each => each.id === walletSlot(config));
    if (!slot) refuse('compat.adopt', 'wallets are adopted for their routes: set agenticWallet to true.');
    else if (adoptedSuffix(slot) === undefined) {
      refuse('compat.adopt', `slot ${slot.id} keeps no key files of that program.`);
    }
  }
  const rpc = solanaRpcUrl === undefined ? null : URL.parse(solanaRpcUrl);
  const rpcHost = rpc?.hostname.replace(/^\[(.*)\]$/, '$1') ?? '';
  if (rpc?.protocol === 'http:' && profile !== 'development' && !isLoopback(rpcHost)) {
    refuse('solanaRpcUrl', 'the production profile asks other hosts over https only.');
  }
}

/** How the agentic-wallet program ends the names of the key files that a slot of this engine can open. */
export function adoptedSuffix({ engine, settings }: SlotConfig): string | undefined {
  const mode = 'mode' in settings ? settings.mode : undefined;
  const suffixes: Readonly<Record<string, string>> = {
    'encrypted-file': '.json',
    'hsm-sim': '.hsm.json',
    'kms simulated': '.kms.json',
    'mpc shamir': '.mpc.json',
  };
  return suffixes[mode === undefined ? engine : `${engine} ${mode}`];
}

/** Fetch takes no credentials in a URL; an access key in its path or query is fine. */
function isRpcUrl(text: string): boolean {
  const url = URL.parse(text);
  if (url === null || url.username !== '' || url.password !== '') return false;
  return url.protocol === 'https:' || url.protocol === 'http:';
}

/** Keys that came over a wire that anybody could write on would make anybody an issuer. */
function isJwksUrl(text: string): boolean {
  const url = URL.parse(text);
  if (url === null || url.username !== '' || url.password !== '') return false;
  return (
    url.protocol === 'https:' ||
    (url.protocol === 'http:' && isLoopback(url.hostname.replace(/^\[(.*)\]$/, '$1')))
  );
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

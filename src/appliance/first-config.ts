import { Document, isMap, isPair, isScalar, isSeq, type Pair, visit } from 'yaml';
import type { Config } from './config.ts';

/**
 * The first `keyslot.yaml` and the first policy of an appliance, as texts that explain themselves: each setting has a
 * comment, and what comes next stands there commented out. Nothing here reads or writes a file.
 */

/** What a newcomer says, or leaves to the defaults. */
export interface FirstAppliance {
  readonly profile: Config['profile'];
  readonly host: string;
  readonly port: number;
  readonly opsPort: number;
  readonly device: FirstDevice;
  /** The slot that keys are made in. */
  readonly slot: FirstSlot;
  /** The slot of the key that signs checkpoints of the audit log; without it they are not signed. */
  readonly auditSlot?: FirstSlot | undefined;
  readonly operator: string;
  readonly client: string;
}

export const firstDevices = ['softhsm2', 'aws-cloudhsm', 'yubihsm2', 'kms', 'files', 'generic'] as const;
export type FirstDevice = (typeof firstDevices)[number];

/** A slot as `keyslot.yaml` has it, without its name. */
export interface FirstSlot {
  readonly engine: 'pkcs11' | 'kms' | 'encrypted-file';
  readonly pin: 'none' | { readonly [source: string]: string | true };
  readonly settings: Readonly<Record<string, unknown>>;
}

export const mainSlot = 'main';
export const auditSlotId = 'audit';

/** Where to read on, in the folder that Keyslot came in. */
export const devicePages: Readonly<Record<FirstDevice, string>> = {
  softhsm2: 'docs/hsm/softhsm2.md',
  'aws-cloudhsm': 'docs/hsm/aws-cloudhsm.md',
  yubihsm2: 'docs/hsm/yubihsm2.md',
  kms: 'docs/engines.md',
  files: 'docs/engines.md',
  generic: 'docs/hsm/profiles.md',
};

/** `keyslot.yaml`. */
export function firstConfigText(first: FirstAppliance): string {
  const document = new Document(settingsOf(first), { aliasDuplicateObjects: false });
  const explained = new Set<string>();
  const itemComments = commentsOfItems(first);
  const once = (path: string) => {
    if (explained.has(path)) return undefined;
    explained.add(path);
    return commentOf(path, first);
  };
  visit(document, {
    Pair: (_key, pair, ancestors) => {
      const parents = ancestors.filter(isPair).map(nameOf);
      const path = [...parents, nameOf(pair)].join('.');
      if (onOneLine.has(path) && (isMap(pair.value) || isSeq(pair.value))) pair.value.flow = true;
      if (path === 'identities.grants' && isSeq(pair.value)) {
        for (const item of pair.value.items) if (isMap(item)) item.flow = true;
      }
      explain(pair, ancestors, itemComments[`${path} ${textOf(pair)}`] ?? once(path));
    },
  });
  const head = [
    `# The settings of this appliance. Relative paths are inside this folder; secrets are only referred to.`,
    `# All settings: docs/keyslot.schema.json. This device: ${devicePages[first.device]}. keyslot doctor examines it.`,
  ];
  return [...head, '', document.toString({ lineWidth: 0 }).trimEnd(), adminSuggestion, ''].join('\n');
}

/** A policy that lets a first text be signed and nothing that moves funds, with one for transfers commented out. */
export const firstPolicyText = ({ client }: Pick<FirstAppliance, 'client'>): string =>
  `# What the keys of slot ${mainSlot} sign: a greeting, and nothing else. A text that begins like this is no transaction.
# A key that no policy names signs nothing. Every rule: docs/policy.md; keyslot policy check tries a change.
name: first
appliesTo: { slots: [${mainSlot}] } # or keys: [treasury], or tags: [hot]
identities: [${JSON.stringify(client)}] # who may ask; permission for the slot is in keyslot.yaml
messages:
  bytes:
    prefixes: ['${greeting}'] # texts that begin like this
  # offchain: true # texts in Solana's off-chain envelope, such as logins of web sites; never a transaction
# Transfers of SOL, to listed addresses and with a cap: take the "# " away and write addresses and amounts.
# transactions:
#   programs:
#     - { program: system, instructions: [transfer] }
#     - { program: compute-budget }
#   destinations: [self] # addresses; self is the key itself
#   caps:
#     perTransaction: { lamports: 10000000 } # 0.01 SOL
#     windows: [{ window: 24h, lamports: 50000000 }] # 0.05 SOL in any 24 hours
#   fees: { max_lamports: 100000 }
`;

/** What every text begins with that the first policy lets through. */
export const greeting = 'Hello from ';

function settingsOf(first: FirstAppliance): object {
  const { profile, host, port, opsPort, device, slot, auditSlot, operator, client } = first;
  const slots = [{ id: mainSlot, ...slot }, ...(auditSlot ? [{ id: auditSlotId, ...auditSlot }] : [])];
  const certificate = (name: string) => ({ file: `tls/${name}.crt` });
  return {
    profile,
    listen: { host, port },
    ops: { host: '127.0.0.1', port: opsPort },
    tls: { certificate: 'tls/server.crt', key: 'tls/server.key', clientCa: 'tls/ca.crt' },
    slots,
    ...(device === 'files' ? { allowSoftwareEngines: ['encrypted-file'] } : {}),
    audit: auditSlot
      ? { slot: auditSlotId, ...(device === 'kms' ? { checkpoint: { every_s: 60 } } : {}) }
      : { unsigned: true },
    policies: { folder: 'policies' },
    command: { certificate: `tls/${operator}.crt`, key: `tls/${operator}.key`, ca: 'tls/ca.crt' },
    identities: [
      {
        name: operator,
        roles: ['operator'],
        certificate: certificate(operator),
        grants: [
          { slots: slots.map(({ id }) => id), operations: ['manage'] },
          { slots: [mainSlot], operations: ['generate', 'import'] },
        ],
      },
      {
        name: client,
        roles: ['signer'],
        certificate: certificate(client),
        grants: [{ slots: [mainSlot], operations: ['sign-message', 'sign-transaction'] }],
      },
    ],
  };
}

const nameOf = ({ key }: Pair): string => (isScalar(key) ? String(key.value) : String(key));
const textOf = ({ value }: Pair): string => (isScalar(value) ? String(value.value) : '');

const onOneLine: ReadonlySet<string> = new Set([
  'allowSoftwareEngines',
  'slots.pin',
  'slots.settings.environment',
  'audit.checkpoint',
  'identities.roles',
  'identities.certificate',
]);

/** Above the setting; of the first setting of an item of a list, above the item. */
function explain(pair: Pair, ancestors: readonly unknown[], comment: string | undefined): void {
  const parent = ancestors.at(-1);
  const first = isMap(parent) && parent.items[0] === pair;
  const item = first && isSeq(ancestors.at(-2));
  const bearer = item ? parent : pair.key;
  if (comment !== undefined && (isScalar(bearer) || isMap(bearer))) {
    bearer.commentBefore = comment
      .split('\n')
      .map(line => ` ${line}`)
      .join('\n');
  }
  if (ancestors.filter(isPair).length === 0 && !first && isScalar(pair.key)) pair.key.spaceBefore = true;
}

function commentOf(path: string, { device, auditSlot }: FirstAppliance): string | undefined {
  const own: Readonly<Record<string, string>> = {
    slots: `The places that hold keys. More about this device: ${devicePages[device]}`,
    'audit.slot': 'The slot of the audit key, which is made there and signs nothing else.',
    'slots.settings.mode': device === 'kms' ? comments.kmsMode : comments.tokenMode,
    audit: auditSlot
      ? 'The tamper-evident record of everything that was asked for: docs/audit.md'
      : 'The record of everything that was asked for: docs/audit.md. Signed by no key, it proves its order alone.',
  };
  return own[path] ?? settingComments[path];
}

/** What is said above an item of a list, by its name. */
const commentsOfItems = ({ operator, client }: FirstAppliance): Readonly<Record<string, string>> => ({
  [`slots.id ${mainSlot}`]:
    'For the keys of wallets. Its id is its name in the API, in grants and in policies.',
  [`slots.id ${auditSlotId}`]: 'For the key that signs checkpoints of the audit log, and for nothing else.',
  [`identities.name ${operator}`]:
    'Opens slots and makes keys; signs nothing. The name is the one in the audit log.',
  [`identities.name ${client}`]: 'Asks for signatures, and for nothing else.',
});

const comments = {
  tokenMode:
    'native: the key signs inside the token. wrapped: an AES key of the token seals keys that sign in memory.',
  kmsMode: 'aws-native: one KMS key for each key. aws-envelope: sealed files, opened by one KMS key.',
} as const;

const settingComments: Readonly<Record<string, string>> = {
  profile: 'production refuses what keys that matter must not meet; development is for trying things out.',
  listen: 'Where clients connect, with a certificate of tls.clientCa.',
  'listen.host': '127.0.0.1: this machine alone. Another address must be in the server certificate.',
  'listen.port': 'keyslot serve --port chooses another one for once.',
  ops: 'Where health is asked, without credentials: /healthz, /readyz.',
  'ops.host': 'Keep it on this machine, or on a network of operators.',
  'ops.port': 'Another one than listen.port.',
  tls: 'PEM files.',
  'tls.certificate': 'What the appliance shows to clients.',
  'tls.key': 'Its private key.',
  'tls.clientCa': 'Who signs client certificates. keyslot init made this CA; your own may take its place.',
  'slots.engine': 'What keeps the keys: docs/engines.md',
  'slots.pin':
    'Where the PIN is, never the PIN itself: file (mode 0600), credential (systemd), env, or attended: true,\n' +
    'and then an operator opens the slot after each start: keyslot slots open',
  'slots.settings': 'What the engine needs to know.',
  'slots.settings.module': 'The PKCS#11 library. In production it must be writable for root alone.',
  'slots.settings.profile': 'What is special about this kind of device: docs/hsm/profiles.md',
  'slots.settings.tokenLabel': 'The token, by its label; slot numbers change and are never used.',
  'slots.settings.tokenSerial': 'The token, by its serial number, because its label says too little.',
  'slots.settings.environment': 'Variables that the library reads; ${home} is this folder.',
  'slots.settings.region':
    'Without it, AWS_REGION or the profile of the AWS tools decides. Credentials come from there too.',
  'slots.settings.keyId': 'The symmetric KMS key that seals the files.',
  allowSoftwareEngines: 'Keys in files are as safe as this machine: production wants that said.',
  'audit.unsigned':
    'Put a second token into slots:, name it in audit.slot, and take this away: then checkpoints are signed.',
  'audit.checkpoint': 'One signature each, which KMS charges for.',
  policies: 'What may be signed. A key that no policy names signs nothing: docs/policy.md',
  'policies.folder': 'Every *.yaml in it is a policy.',
  command: 'Whom the keyslot command is on this machine; keyslot --as NAME is somebody else for once.',
  'command.certificate': 'Its client certificate.',
  'command.key': 'Its private key.',
  'command.ca': 'The CA of the server certificate.',
  identities: 'Who may ask for what; roles and grants are both needed: docs/permissions.md',
  'identities.roles': 'operator: slots and keys, no signatures. signer: signatures, nothing else.',
  'identities.certificate': 'By which they are recognised.',
  'identities.grants': 'With which slots, keys or tags, and what for.',
};

const adminSuggestion = [
  '  # Somebody else, who lifts freezes, changes policies through the API, and reads the audit log:',
  '  # - name: admin',
  '  #   roles: [admin, auditor]',
  '  #   certificate: { file: tls/admin.crt }',
].join('\n');

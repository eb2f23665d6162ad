import { readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { configSchema } from '../src/appliance/config.ts';
import { rights } from '../src/custodian/authority.ts';
import { profileForm, profileNames, readProfile } from '../src/engines/pkcs11/index.ts';
import { errorTable } from '../src/foundation/errors.ts';
import { openApiDocument } from '../src/wire/api/document.ts';
import { grantOperations, roles } from '../src/wire/identities.ts';
import { metrics } from '../src/wire/metrics.ts';
import { asvs } from '../test/security/asvs.ts';
import { type Proof, threats } from '../test/security/threats.ts';

/** Documents that are generated from the code: `npm run docs` writes them, a test holds them equal. */
export const generatedDocs: Readonly<Record<string, () => string>> = {
  'docs/errors.md': errorsPage,
  'docs/keyslot.schema.json': configJsonSchema,
  'docs/openapi.json': openApi,
  'docs/ops/metrics.md': metricsPage,
  'docs/permissions.md': permissionsPage,
  'docs/hsm/profiles.md': profilesPage,
  'docs/security.md': securityPage,
  'hsm-config/schema.json': profileJsonSchema,
};

function errorsPage(): string {
  const rows = Object.entries(errorTable)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(
      ([code, { status, title, retryable, remedy }]) =>
        `| \`${code}\` | ${status} | ${retryable ? 'yes' : 'no'} | ${title}. | ${remedy} |`,
    );
  return [
    '# Errors',
    '',
    'Every failure is `application/problem+json` (RFC 9457) with `type`, `title`, `status`, `detail`, `code`,',
    '`remedy`, `retryable` and `requestId`; the command line prints the same code. Codes never change their',
    'meaning. *Repeat* says whether the same request may succeed later without anybody changing it; `Retry-After`',
    'says when. Codes with status 500 that name a setting are refusals at start.',
    '',
    'Generated from `src/foundation/errors.ts` by `npm run docs`; a test holds the two equal.',
    '',
    '| code | status | repeat | what happened | what to do |',
    '|---|---|---|---|---|',
    ...rows,
    '',
  ].join('\n');
}

function permissionsPage(): string {
  const mark = (yes: boolean) => (yes ? 'yes' : '·');
  const cells = (right: (typeof rights)[keyof typeof rights]) =>
    roles.map(role => mark(typeof right.roles === 'string' || right.roles.includes(role)));
  const note = (right: (typeof rights)[keyof typeof rights]) => {
    if (right.roles === 'nobody') return 'no credential';
    return right.grants?.map(each => `\`${each}\``).join(' or ') ?? '';
  };
  const rows = Object.entries(rights).map(
    ([operation, right]) => `| \`${operation}\` | ${cells(right).join(' | ')} | ${note(right)} |`,
  );
  return [
    '# Permissions',
    '',
    'Who may do what takes three things, and each of them says no where it does not say yes: a **role** for the kind',
    'of work, a **grant** for the key or slot, and the **policy** of the key for what is signed. No role implies',
    'another. The custodian decides all three; the gateway decides nothing.',
    '',
    'A call without the role is `PERMISSION_DENIED` (403), whatever it names. A key or slot that no grant covers',
    'looks as if it did not exist (`KEY_UNKNOWN`, `SLOT_UNKNOWN`, 404), to everybody but `admin` and `auditor`, who',
    'read all names. With a grant of it for something else, it is `PERMISSION_DENIED`. The state of a slot (locked,',
    'open, failed, latched) changes nothing of this: who may not is refused before anybody looks at the slot.',
    '',
    '## Grants',
    '',
    `\`keys\`, \`tags\` and \`slots\` (ids, or \`'*'\`) say of what: any of them is enough. \`operations\` says what for:`,
    `${grantOperations.map(each => `\`${each}\``).join(', ')}.`,
    '',
    `- \`'*'\` stands for all of them but \`raw\` and \`export\`, which are named or not granted.`,
    '- `raw` signs bytes that read as a transaction without having been decoded as one; `sign-message` refuses those.',
    '- What is done with a slot (opening it, making keys in it) takes a grant of the slot; its keys and tags do not count.',
    "- `slots: '*'` or a list beside the roles is short for one grant of these slots with `operations: '*'`.",
    '- In a slot with `access: session` the PIN takes the place of the grant for signing, not for `raw`.',
    '',
    '## Operations and roles',
    '',
    '`grant` names what the key or slot must be granted for; where there are several, one lets the caller in, and each',
    'item then takes its own. Where none is named, any grant that covers the key or slot will do.',
    '',
    `| operation | ${roles.join(' | ')} | grant |`,
    `|---|${roles.map(() => ':-:').join('|')}|---|`,
    ...rows,
    '',
    'Generated from `src/custodian/authority.ts` by `npm run docs`; a test asks every operation with every role in',
    'every state of a slot and holds the answers against this table.',
    '',
  ].join('\n');
}

function configJsonSchema(): string {
  const schema = z.toJSONSchema(configSchema, { io: 'input', unrepresentable: 'any' });
  return `${JSON.stringify({ title: 'keyslot.yaml', ...schema }, null, 2)}\n`;
}

function openApi(): string {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
  return `${JSON.stringify(openApiDocument(version), null, 2)}\n`;
}

function profileJsonSchema(): string {
  const schema = z.toJSONSchema(profileForm, { io: 'input', unrepresentable: 'any' });
  return `${JSON.stringify({ title: 'Device profile', ...schema }, null, 2)}\n`;
}

function metricsPage(): string {
  return remade('docs/ops/metrics.md', { metrics: metricRows() });
}

function profilesPage(): string {
  const parts = { profiles: profileRows(), fields: fieldTable(), notes: profileNotes() };
  return remade('docs/hsm/profiles.md', parts);
}

function securityPage(): string {
  return remade('docs/security.md', { threats: threatRows(), asvs: asvsRows() });
}

/** The page as it is, with its marked parts made anew. */
function remade(path: string, parts: Readonly<Record<string, readonly string[]>>): string {
  return Object.entries(parts).reduce(
    (page, [name, lines]) =>
      page.replace(
        new RegExp(`(<!-- generated: ${name} -->\n)[^]*?(<!-- end -->)`),
        (_, begin: string, end: string) => `${begin}\n${lines.join('\n')}\n\n${end}`,
      ),
    readFileSync(join(root, path), 'utf8'),
  );
}

const threatRows = () => [
  row(['#', 'who', 'tries', 'the defence', 'proven by']),
  row(Array(5).fill('---')),
  ...threats.map(({ row: number, attacker, tries, defence, proof }) =>
    row([String(number), attacker, tries, defence, proofText(proof)]),
  ),
];

const asvsRows = () => [
  row(['item', 'asks for', 'state', 'how', 'proven by']),
  row(Array(5).fill('---')),
  ...asvs.map(({ item, asks, state, how, proof }) =>
    row([item, asks, state === 'met' ? state : `**${state}**`, how, proofText(proof)]),
  ),
];

const proofText = (proof: readonly Proof[]): string =>
  proof.map(({ file, test }) => `\`${file}\`: ${test.replaceAll('|', '\\|')}`).join('<br>');

const metricRows = () => [
  row(['metric', 'type', 'labels', 'what it says']),
  row(Array(4).fill('---')),
  ...Object.entries(metrics).map(([name, { type, labels, help }]) =>
    row([`\`${name}\``, type, labels.map(label => `\`${label}\``).join(', '), help]),
  ),
];

const profiles = () => profileNames.map(name => ({ name, ...readProfile(name) }));

const profileRows = () => [
  row(['profile', 'device', 'modes', 'import', 'CKA_ID', 'sessions', 'PIN', 'tested']),
  row(Array(8).fill('---')),
  ...profiles().map(({ name, device, testedOnHardware, keyPair, wrappingKey, keyId, sessions, pin }) =>
    row([
      `\`${name}\``,
      device,
      wrappingKey ? `native, wrapped (IV: ${wrappingKey.gcmIv})` : 'native',
      keyPair.import ? 'yes' : 'no',
      keyId === 'text' ? 'the key id' : 'two bytes',
      `${sessions.count} of at most ${sessions.count_max}, ${sessions.mode}`,
      `${pin.form}; ${pin.attempts_max === null ? 'no lock on record' : `locks after ${pin.attempts_max}`}`,
      testedOnHardware === false ? 'no' : testedOnHardware,
    ]),
  ),
];

const profileNotes = () =>
  profiles()
    .map(({ name, notes, sources }) =>
      [`### ${name}`, '', ...notes.map(note => `- ${note}`), '', `Read in: ${sources.join('; ')}.`].join(
        '\n',
      ),
    )
    .flatMap((note, at) => (at === 0 ? [note] : ['', note]));

const fieldTable = () => [row(['field', 'meaning']), row(['---', '---']), ...fieldRows(profileForm)];

/** Every field that has a description, those of its parts behind it. */
function fieldRows(form: z.ZodObject, path = ''): readonly string[] {
  return Object.entries(form.shape).flatMap(([name, field]) => {
    const type: unknown = field instanceof z.ZodOptional ? field.unwrap() : field;
    const own = field.description ? [row([`\`${path}${name}\``, field.description])] : [];
    return [...own, ...(type instanceof z.ZodObject ? fieldRows(type, `${path}${name}.`) : [])];
  });
}

const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;

const root = resolve(import.meta.dirname, '..');

/** The documents whose file differs from what the code says. */
export const outdatedDocs = (): readonly string[] =>
  Object.entries(generatedDocs)
    .filter(([path, make]) => readFileSync(join(root, path), 'utf8') !== make())
    .map(([path]) => path);

if (import.meta.main) {
  for (const [path, make] of Object.entries(generatedDocs)) writeFileSync(join(root, path), make());
}

import { realpathSync } from 'node:fs';
import { delimiter, isAbsolute, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { configFile, readConfig } from '../../appliance/config.ts';
import { environmentVariable } from '../../appliance/environment.ts';
import {
  auditSlotId,
  devicePages,
  type FirstAppliance,
  firstDevices,
  greeting,
  mainSlot,
} from '../../appliance/first-config.ts';
import { refuseToOverwrite, writeFirstHome } from '../../appliance/first-home.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import { misused, print, printJson, refused } from '../output.ts';
import { ProgressLine } from '../progress-line.ts';
import { Questions } from '../questions.ts';
import { examine } from './doctor.ts';
import { type Problem, problemText } from './doctor-problems.ts';
import { type InitOptions, type PinAnswer, type SlotAnswers, slotAnswers } from './init-slots.ts';

/**
 * The first hour: asks, or takes flags, and writes a state folder that `keyslot serve` runs: settings that explain
 * themselves, a CA with certificates for an operator and a client, and a policy that lets a greeting be signed.
 */
export function addInit(program: Command, shared: (command: Command) => Command): void {
  const command = shared(program.command('init'))
    .description(
      'write a state folder: keyslot.yaml, certificates and a first policy; asks for what no flag says',
    )
    .addOption(new Option('--hsm <device>', 'what keeps the keys').choices(firstDevices))
    .option('--module <path>', 'the PKCS#11 library (default: where its installer puts it)')
    .option('--token <label>', 'the token, by its label')
    .option('--serial <number>', 'the token, by its serial number')
    .option(
      '--create-token',
      'make new SoftHSM tokens in the state folder, with PINs that nobody has to know',
    )
    .option('--env <name=value>', 'a variable that the library reads; may be repeated', variable, {})
    .option('--pin-file <file>', 'the file that the PIN is in; - for standard input')
    .addOption(new Option('--attended', 'an operator opens the slot').conflicts('pinFile'))
    .addOption(
      new Option('--pin-credential <name>', 'a systemd credential holds the PIN').conflicts([
        'pinFile',
        'attended',
        'createToken',
      ]),
    )
    .option('--audit-token <label>', 'a second token, for the key that signs the audit log')
    .option('--audit-pin-file <file>', 'the file that its PIN is in')
    .option('--region <name>', 'with --hsm kms: the AWS region')
    .option(
      '--kms-key <id>',
      'with --hsm kms: the symmetric key that seals key files, in place of keys in KMS',
    )
    .addOption(
      new Option('--profile <profile>', 'default: production').choices(['production', 'development']),
    )
    .option('--host <host>', 'where clients connect (default: 127.0.0.1)', hostName)
    .option('--port <port>', 'default: 8443; health is 1,000 above', portNumber)
    .option('--operator <name>', 'who opens slots and makes keys', identityName, 'operator')
    .option('--client <name>', 'who asks for signatures', identityName, 'client')
    .option('--no-keep-ca', 'throw the private key of the CA away: it signs no more certificates')
    .option('--yes', 'ask nothing: the defaults are the answers');
  command.action((options: InitOptions) => init(options, command));
}

async function init(options: InitOptions, command: Command): Promise<void> {
  if (options.home === undefined) {
    throw new KeyslotError('HOME_INVALID', 'No state folder is named: use --home or set KEYSLOT_HOME.');
  }
  if (options.operator === options.client) {
    command.error('error: operator and client are two identities', { exitCode: misused });
  }
  const home = resolve(options.home);
  refuseToOverwrite(home, [configFile]); // before anything is asked
  const terminal = process.stdin.isTTY === true && process.stderr.isTTY === true;
  const questions = new Questions(terminal && options.yes !== true && options.json !== true);
  const answers = await slotAnswers({ ...options, home }, questions);
  using pins = new DisposableStack();
  for (const { value } of pinAnswers(answers)) if (value) pins.use(value);
  const appliance = await applianceOf(answers, options, questions);
  const files = await written(home, appliance, answers, options);
  const problems = await problemsIn(home);
  if (problems.length > 0) process.exitCode = refused;
  const warnings = warningsOf(answers, options);
  const next = nextCommands(home, answers, options);
  if (options.json) printJson({ home, files, problems, warnings, next: next.map(({ text }) => text) });
  else printFirstHour({ home, files, problems, warnings, next }, answers);
}

async function applianceOf(
  { device, slot, auditSlot }: SlotAnswers,
  options: InitOptions,
  questions: Questions,
): Promise<FirstAppliance> {
  const host = options.host ?? (await questions.text('Listen on', '127.0.0.1'));
  const port = options.port ?? portNumber(await questions.text('Port', '8443'));
  const profile =
    options.profile ??
    (await questions.choice('Profile', ['production', 'development'] as const, 'production'));
  return {
    profile,
    host,
    port,
    opsPort: port === 0 ? 0 : port + 1000,
    device,
    slot,
    auditSlot,
    operator: options.operator,
    client: options.client,
  };
}

async function written(
  home: string,
  appliance: FirstAppliance,
  { newTokens, pin, auditPin }: SlotAnswers,
  { keepCa }: InitOptions,
): Promise<readonly string[]> {
  using progress = new ProgressLine();
  progress.show(newTokens ? 'making certificates and tokens' : 'making certificates');
  const inFiles = [pin, auditPin].flatMap(answer =>
    answer?.value && answer.path !== undefined ? [[answer.path, answer.value] as const] : [],
  );
  return await writeFirstHome({ home, appliance, newTokens, keepCa, pins: Object.fromEntries(inFiles) });
}

const pinAnswers = ({ pin, auditPin }: SlotAnswers): readonly PinAnswer[] => [
  ...(pin ? [pin] : []),
  ...(auditPin ? [auditPin] : []),
];

/** What `keyslot doctor` says of the slots. A credential is there under systemd only. */
async function problemsIn(home: string): Promise<readonly Problem[]> {
  const config = readConfig(home);
  const problems: Problem[] = [];
  for (const slot of config.slots) {
    const elsewhere = typeof slot.pin === 'object' && 'credential' in slot.pin;
    const found = (await examine(config, slot)).problems;
    problems.push(...found.filter(({ code }) => !elsewhere || code !== 'SECRET_UNREADABLE'));
  }
  return problems;
}

function warningsOf({ device, auditSlot }: SlotAnswers, { keepCa }: InitOptions): readonly string[] {
  return [
    ...(device === 'softhsm2' || device === 'files'
      ? ['The keys are files of this machine: nothing but its own protection is in front of them.']
      : []),
    ...(auditSlot
      ? []
      : ['No key signs the audit log: it proves its order alone. A second token does: --audit-token.']),
    keepCa
      ? 'secrets/ca.key makes client certificates: move it to a safe place when there are enough of them.'
      : 'The key of the CA is gone: for another client, make another CA and name it in tls.clientCa.',
  ];
}

interface NextCommand {
  readonly text: string;
  readonly why: string;
}

/** As they are typed: each works as it is printed. */
function nextCommands(
  home: string,
  { pin, auditPin }: SlotAnswers,
  { client }: InitOptions,
): readonly NextCommand[] {
  const keyslot = shellWord(ownName());
  const folder = shellWord(home);
  const command = (words: string, why: string) => ({ text: `${keyslot} ${words} --home ${folder}`, why });
  const attended = (answer: PinAnswer | undefined, slot: string) =>
    answer !== undefined && typeof answer.pin === 'object' && 'attended' in answer.pin
      ? [command(`slots open ${slot}`, 'Asks for the PIN; after every start')]
      : [];
  return [
    command('serve', 'The appliance; leave it running, and go on in another terminal'),
    ...attended(auditPin, auditSlotId),
    ...attended(pin, mainSlot),
    command(`keys generate first --slot ${mainSlot}`, 'Makes a key and prints its address'),
    command(
      `sign first --message '${greeting}Keyslot' --as ${client}`,
      'A signature, asked for by the client',
    ),
    command('status', 'The appliance at a glance'),
  ];
}

function printFirstHour(
  told: {
    home: string;
    files: readonly string[];
    problems: readonly Problem[];
    warnings: readonly string[];
    next: readonly NextCommand[];
  },
  { device }: SlotAnswers,
): void {
  print(`Written in ${told.home}: ${told.files.join(', ')}.\n`);
  for (const warning of told.warnings) print(`note: ${warning}`);
  for (const problem of told.problems) print(problemText(problem));
  if (told.problems.length === 0) print('keyslot doctor finds no problem.');
  print(`\nYour device: ${devicePages[device]}. To the first signature:\n`);
  for (const { text, why } of told.next) print(`${why}:\n  ${text}`);
}

/** `keyslot` where that is this program, else where it is. */
function ownName(): string {
  const own = fileURLToPath(new URL('../../../bin/keyslot', import.meta.url));
  const folders = (environmentVariable('PATH') ?? '').split(delimiter).filter(isAbsolute);
  return folders.some(folder => isFile(join(folder, 'keyslot'), own)) ? 'keyslot' : own;
}

function isFile(path: string, own: string): boolean {
  try {
    return realpathSync(path) === realpathSync(own);
  } catch (error) {
    if (error instanceof Error && 'code' in error) return false; // there is none
    throw error;
  }
}

/** A path as a shell reads it back in one piece. */
const shellWord = (path: string): string =>
  /^[\w./-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`;

function variable(text: string, before: Readonly<Record<string, string>>): Record<string, string> {
  const [, name, value] = /^([A-Z][A-Z0-9_]*)=(.*)$/s.exec(text) ?? [];
  if (name === undefined || value === undefined) throw new InvalidArgumentError('It is written NAME=VALUE.');
  return { ...before, [name]: value };
}

function identityName(text: string): string {
  if (/^[A-Za-z0-9_][A-Za-z0-9._@-]{0,62}$/.test(text) && text !== 'ca' && text !== 'server') return text;
  throw new InvalidArgumentError(
    'It is 1 to 63 of A-Z, a-z, 0-9, ".", "_", "@" and "-", and not ca or server.',
  );
}

function hostName(text: string): string {
  if (/^[A-Za-z0-9.:-]{1,253}$/.test(text)) return text;
  throw new InvalidArgumentError('It is the name or the address of a host.');
}

function portNumber(text: string): number {
  const port = Number(text);
  if (Number.isInteger(port) && port >= 0 && port <= 64_535) return port;
  throw new InvalidArgumentError('A port is a number from 0 to 64535.');
}

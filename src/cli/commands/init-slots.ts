import { existsSync } from 'node:fs';
import { isAbsolute, relative, resolve, sep } from 'node:path';
import { auditLabel, randomPin } from '../../appliance/development.ts';
import { environmentVariable } from '../../appliance/environment.ts';
import {
  auditSlotId,
  type FirstAppliance,
  type FirstDevice,
  type FirstSlot,
  firstDevices,
  mainSlot,
} from '../../appliance/first-config.ts';
import { type FirstHome, ownSofthsmConf } from '../../appliance/first-home.ts';
import { readSecret } from '../../appliance/secrets.ts';
import { slotSettings } from '../../appliance/slot-snippet.ts';
import { examineModule } from '../../appliance/tokens.ts';
import type { ModuleReport } from '../../engines/pkcs11/index.ts';
import { profileNames, readProfile } from '../../engines/pkcs11/profile.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import { Secret } from '../../foundation/secret.ts';
import type { SharedOptions } from '../connection.ts';
import type { Questions } from '../questions.ts';
import { readPin } from '../secret-input.ts';

/** What `keyslot init` finds out about the slots: from flags, from the devices that are there, and from who is asked. */

export interface InitOptions extends SharedOptions {
  readonly hsm?: FirstDevice;
  readonly module?: string;
  readonly token?: string;
  readonly serial?: string;
  readonly createToken?: boolean;
  readonly env: Readonly<Record<string, string>>;
  readonly pinFile?: string;
  readonly attended?: boolean;
  readonly pinCredential?: string;
  readonly auditToken?: string;
  readonly auditPinFile?: string;
  readonly region?: string;
  readonly kmsKey?: string;
  readonly profile?: FirstAppliance['profile'];
  readonly host?: string;
  readonly port?: number;
  readonly operator: string;
  readonly client: string;
  readonly keepCa: boolean;
  readonly yes?: boolean;
}

export interface SlotAnswers {
  readonly device: FirstDevice;
  readonly slot: FirstSlot;
  readonly auditSlot?: FirstSlot;
  readonly pin?: PinAnswer;
  readonly auditPin?: PinAnswer;
  readonly newTokens?: FirstHome['newTokens'];
}

/** Where a PIN will be; and the PIN, when it goes into a new file. */
export interface PinAnswer {
  readonly pin: FirstSlot['pin'];
  readonly value?: Secret;
  readonly path?: string;
}

type Options = InitOptions & { readonly home: string };

/** MODULE_UNUSABLE, TOKEN_NOT_FOUND, TOKEN_AMBIGUOUS, TOKEN_UNSUITABLE, SECRET_UNREADABLE, PIN_REFUSED. */
export async function slotAnswers(options: Options, questions: Questions): Promise<SlotAnswers> {
  const device =
    options.hsm ?? (await questions.choice('What keeps the keys?', firstDevices, likelyDevice(options)));
  switch (device) {
    case 'kms':
      return kmsAnswers(options, questions);
    case 'files':
      return filesAnswers(options, questions);
    case 'softhsm2':
    case 'aws-cloudhsm':
    case 'yubihsm2':
    case 'generic':
      return tokenAnswers(device, options, questions);
  }
}

/** The device whose library is installed here. */
function likelyDevice({ module }: Options): FirstDevice {
  if (module !== undefined) return 'generic';
  return firstDevices.find(device => installedModule(device) !== undefined) ?? 'files';
}

function installedModule(device: FirstDevice): string | undefined {
  const profile = profileNames.find(name => name === device);
  return profile && readProfile(profile).modules.find(path => existsSync(path));
}

async function kmsAnswers(options: Options, questions: Questions): Promise<SlotAnswers> {
  const region = options.region ?? (await questions.text('AWS region (empty: as AWS_REGION says)', ''));
  const keyId =
    options.kmsKey ??
    (await questions.text('KMS key that seals files (empty: keys are made in KMS itself)', ''));
  const settings = {
    mode: keyId ? 'aws-envelope' : 'aws-native',
    ...(keyId ? { keyId } : {}),
    ...(region ? { region } : {}),
  };
  const slot: FirstSlot = { engine: 'kms', pin: 'none', settings };
  return { device: 'kms', slot, auditSlot: slot };
}

async function filesAnswers(options: Options, questions: Questions): Promise<SlotAnswers> {
  const pin = await pinAnswer({ slot: mainSlot, options, questions, random: true });
  const auditPin = randomAnswer(auditSlotId);
  const settings = {};
  return {
    device: 'files',
    slot: { engine: 'encrypted-file', pin: pin.pin, settings },
    auditSlot: { engine: 'encrypted-file', pin: auditPin.pin, settings },
    pin,
    auditPin,
  };
}

type TokenDevice = Exclude<FirstDevice, 'kms' | 'files'>;

async function tokenAnswers(
  device: TokenDevice,
  options: Options,
  questions: Questions,
): Promise<SlotAnswers> {
  const found = options.module ?? installedModule(device);
  const named = found ?? (await questions.text('PKCS#11 library', ''));
  if (!named) {
    throw new KeyslotError('MODULE_UNUSABLE', `No library of ${device} was found: name one with --module.`);
  }
  const module = isAbsolute(named) ? named : resolve(named);
  if (options.createToken) return newTokenAnswers(device, module, options, questions);
  const environment = { ...variablesOfShell(device), ...options.env };
  const report = await examineModule(module, inHomeOf(options, environment));
  const tokens = report.tokens.filter(({ initialized }) => initialized);
  if (
    device === 'softhsm2' &&
    questions.asks &&
    options.token === undefined &&
    options.serial === undefined
  ) {
    const labels = tokens.map(({ label }) => label);
    const question = `Token (${[...labels, 'new'].join(', ')})`;
    const label = await questions.text(question, labels.length === 1 ? (labels[0] ?? 'new') : 'new');
    if (label === 'new') return newTokenAnswers(device, module, options, questions);
    return ownTokenAnswers({ device, environment, report, tokens }, { ...options, token: label }, questions);
  }
  return ownTokenAnswers({ device, environment, report, tokens }, options, questions);
}

interface Found {
  readonly device: TokenDevice;
  readonly environment: Readonly<Record<string, string>>;
  readonly report: ModuleReport;
  readonly tokens: ModuleReport['tokens'];
}

/** Slots on tokens that are there. */
async function ownTokenAnswers(found: Found, options: Options, questions: Questions): Promise<SlotAnswers> {
  const { device, tokens } = found;
  const labels = tokens.map(({ label }) => label);
  const several = options.token === undefined && options.serial === undefined && tokens.length > 1;
  const token =
    several && questions.asks
      ? await questions.text(`Token (${labels.join(', ')})`, labels[0] ?? '')
      : options.token;
  const settings = tokenSettings(found, token, options.serial);
  const pin = await pinAnswer({ slot: mainSlot, options, questions, profile: profileOf(settings) });
  const slot: FirstSlot = { engine: 'pkcs11', pin: pin.pin, settings };
  const auditToken =
    options.auditToken ??
    (tokens.length > 1 ? await questions.text('Token of the audit key (empty: none)', '') : '');
  if (!auditToken) return { device, slot, pin };
  const auditSettings = tokenSettings(found, auditToken, undefined);
  const auditPin = await pinAnswer({
    slot: auditSlotId,
    options: {
      ...options,
      pinFile: options.auditPinFile,
      pinCredential: options.pinCredential && `${options.pinCredential}-audit`,
    },
    questions,
    profile: profileOf(auditSettings),
  });
  const auditSlot: FirstSlot = { engine: 'pkcs11', pin: auditPin.pin, settings: auditSettings };
  return { device, slot, auditSlot, pin, auditPin };
}

/** Slots on two tokens that are made in the state folder. */
async function newTokenAnswers(
  device: TokenDevice,
  module: string,
  options: Options,
  questions: Questions,
): Promise<SlotAnswers> {
  if (device !== 'softhsm2') {
    throw new KeyslotError(
      'TOKEN_UNSUITABLE',
      `Tokens of ${device} are made with the tools of their vendor.`,
    );
  }
  const label = options.token ?? 'keyslot';
  const settings = (tokenLabel: string) => ({
    module,
    profile: device,
    tokenLabel,
    mode: 'native',
    environment: { SOFTHSM2_CONF: `\${home}/${ownSofthsmConf}` },
  });
  const main = settings(label);
  const pin = await pinAnswer({ slot: mainSlot, options, questions, profile: device, random: true });
  const audit = settings(auditLabel(label));
  const auditPin = randomAnswer(auditSlotId);
  const userPin = pin.value ?? (await newPin(pin, options, device));
  return {
    device,
    slot: { engine: 'pkcs11', pin: pin.pin, settings: main },
    auditSlot: { engine: 'pkcs11', pin: auditPin.pin, settings: audit },
    pin: { ...pin, value: userPin },
    auditPin,
    newTokens: { module, label, userPin, auditPin: auditPin.value },
  };
}

/** The PIN that a new token is given, where it goes into no new file. */
async function newPin({ pin }: PinAnswer, options: Options, profile: string): Promise<Secret> {
  if (typeof pin === 'object' && 'file' in pin && typeof pin.file === 'string') {
    return readSecret(options, { file: pin.file }, '--pin-file');
  }
  return checkedPin(await readPin(undefined, 'PIN of the new token (it is not shown): '), profile);
}

function tokenSettings(found: Found, label: string | undefined, serial: string | undefined) {
  const { device, environment, report, tokens } = found;
  const matching = tokens.filter(
    token =>
      (label === undefined || token.label === label) && (serial === undefined || token.serial === serial),
  );
  const [token] = matching;
  if (!token || matching.length > 1) {
    const present = tokens.map(each => `"${each.label}" (serial ${each.serial})`).join(', ') || 'none';
    throw token
      ? new KeyslotError('TOKEN_AMBIGUOUS', `Name a token with --token or --serial: ${present}.`)
      : new KeyslotError(
          'TOKEN_NOT_FOUND',
          `There is no such token in ${report.module}; present: ${present}.${hint(device)}`,
        );
  }
  const [first] = token.modes;
  const settings = slotSettings({
    module: report.module,
    environment,
    profile: device === 'generic' ? (report.profiles[0] ?? device) : device,
    tokenLabel: token.label,
    tokenSerial: token.serial,
    labelRepeated: report.tokens.filter(each => each.label === token.label).length > 1,
    verdict: first === undefined ? 'unusable' : first === 'native' ? 'native' : 'wrapped-only',
  });
  if (settings) return settings;
  throw new KeyslotError('TOKEN_UNSUITABLE', `Token "${token.label}" has neither EdDSA nor AES-GCM.`);
}

const hint = (device: TokenDevice): string =>
  device === 'softhsm2' ? ' --create-token makes one in the state folder.' : '';

/** What the library reads where it runs now; the custodian has no variables of a shell. */
function variablesOfShell(device: TokenDevice): Readonly<Record<string, string>> {
  const name = {
    softhsm2: 'SOFTHSM2_CONF',
    yubihsm2: 'YUBIHSM_PKCS11_CONF',
    'aws-cloudhsm': '',
    generic: '',
  }[device];
  const value = name ? environmentVariable(name) : undefined;
  return value ? { [name]: resolve(value) } : {};
}

const inHomeOf = ({ home }: Options, variables: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(variables).map(([name, value]) => [name, value.replaceAll('${home}', home)]),
  );

/** `random`: nobody has to know this PIN, so one is made unless another was named. */
async function pinAnswer(given: {
  slot: string;
  options: Pick<Options, 'home' | 'attended'> & {
    readonly pinFile?: string | undefined;
    readonly pinCredential?: string | undefined;
  };
  questions: Questions;
  /** The device profile that says what a PIN looks like. */
  profile?: string;
  random?: boolean;
}): Promise<PinAnswer> {
  const { slot, options, questions, profile, random = false } = given;
  const { pinFile, home } = options;
  const newFile = `secrets/${slot}.pin`;
  if (options.attended) return { pin: { attended: true } };
  if (options.pinCredential) return { pin: { credential: options.pinCredential } };
  if (pinFile !== undefined && pinFile !== '-') {
    const file = pathFor(home, resolve(pinFile));
    using _pin = checkedPin(await readSecret({ home }, { file }, '--pin-file'), profile);
    return { pin: { file } };
  }
  if (pinFile === '-')
    return { pin: { file: newFile }, path: newFile, value: checkedPin(await readPin('-', ''), profile) };
  const how = await questions.choice(
    `PIN of slot ${slot}`,
    random ? withRandom : withoutRandom,
    random ? 'random' : 'file',
  );
  if (how === 'attended') return { pin: { attended: true } };
  if (how === 'credential') return { pin: { credential: `keyslot-${slot}.pin` } };
  if (how === 'random') return randomAnswer(slot);
  if (!questions.asks) {
    throw new KeyslotError(
      'SECRET_UNREADABLE',
      `Nothing says where the PIN of slot ${slot} is: use --pin-file, --attended or --pin-credential.`,
    );
  }
  const value = checkedPin(await readPin(undefined, `PIN of slot ${slot} (it is not shown): `), profile);
  return { pin: { file: newFile }, path: newFile, value };
}

/** In the form that the device takes, so that no attempt is spent on another. PIN_REFUSED. */
function checkedPin(pin: Secret, profile: string | undefined): Secret {
  if (profile === undefined) return pin;
  const { form, pattern } = readProfile(profile).pin;
  const whole = new RegExp(`^(?:${pattern})$`, 'u');
  if (pin.useText(text => whole.test(text))) return pin;
  pin[Symbol.dispose]();
  throw new KeyslotError(
    'PIN_REFUSED',
    `The device takes its PIN in the form ${form}; no attempt was spent.`,
  );
}

const profileOf = (settings: Readonly<Record<string, unknown>>): string => String(settings.profile);

/** Relative where it is inside the state folder, which may be moved. */
function pathFor(home: string, path: string): string {
  const inside = relative(home, path);
  return inside === '..' || inside.startsWith(`..${sep}`) || isAbsolute(inside) ? path : inside;
}

const withoutRandom = ['file', 'attended', 'credential'] as const;
const withRandom = ['random', ...withoutRandom] as const;

function randomAnswer(slot: string): PinAnswer & { readonly value: Secret } {
  const path = `secrets/${slot}.pin`;
  return { pin: { file: path }, path, value: Secret.fromText(randomPin()) };
}

import { type Command, InvalidArgumentError } from 'commander';
import { type Config, checksModule, moduleEnvironment, type SlotConfig } from '../../appliance/config.ts';
import { pinReader } from '../../appliance/secrets.ts';
import { examineModule } from '../../appliance/tokens.ts';
import type { ModuleReport } from '../../engines/pkcs11/index.ts';
import { refuseForeignModule, refuseOtherModule } from '../../engines/pkcs11/module-file.ts';
import { silentLog } from '../../foundation/log.ts';
import { configOf, type SharedOptions } from '../connection.ts';
import { listing, misused, print, printJson, refused } from '../output.ts';
import { ProgressLine } from '../progress-line.ts';
import { doctorOfModule, type ModuleOptions } from './doctor-module.ts';
import { mechanismProblems, type Problem, pinProblems, problemOf, problemText } from './doctor-problems.ts';

export interface SlotReport {
  readonly slot: string;
  readonly engine: string;
  readonly report?: ModuleReport;
  readonly token?: ModuleReport['tokens'][number];
  readonly problems: readonly Problem[];
}

export function addDoctor(program: Command, shared: (command: Command) => Command): void {
  const command = shared(program.command('doctor'))
    .description(
      'examine the configured modules and tokens, or one that is named; no PIN is spent without --pin-file',
    )
    .option('--module <path>', 'a PKCS#11 library, whether or not a slot names it')
    .option('--token <label>', 'with --module: the token')
    .option('--serial <number>', 'with --module: the token')
    .option(
      '--pin-file <file>',
      'with --module: log in once and try the token with a key that is thrown away',
    )
    .option('--profile <name>', 'with --module: a device profile, or the absolute path of one')
    .option(
      '--env <name=value>',
      'with --module: a variable that the library reads; may be repeated',
      variable,
      {},
    )
    .option('--library-parameters <text>', 'with --module: what C_Initialize is given')
    .option('--clean', 'with --pin-file: remove keys that earlier examinations left behind')
    .option('--cloudhsm-cluster <id>', 'ask AWS about the cluster, and knock at its HSMs')
    .option('--mode <mode>', 'with --cloudhsm-cluster: native or wrapped, as the slot has it', mode, 'native')
    .option('--library-config <file>', 'with --cloudhsm-cluster: the configuration of its library')
    .option('--region <name>', 'with --cloudhsm-cluster: default as the AWS tools have it')
    .option('--endpoint <url>', 'with --cloudhsm-cluster: where AWS is asked');
  command.action(async (options: DoctorOptions) => {
    const { module, cloudhsmCluster: cluster } = options;
    const stray = moduleOnly.find(name => options[name] !== undefined);
    if (module === undefined && stray)
      command.error('error: that option needs --module', { exitCode: misused });
    if (module !== undefined) return await doctorOfModule({ ...options, module });
    if (cluster === undefined) return await doctor(options);
    const { doctorOfCluster } = await import('./doctor-cloudhsm.ts'); // the AWS SDK takes its time to load
    await doctorOfCluster({ ...options, cluster });
  });
}

interface DoctorOptions extends SharedOptions, Partial<ModuleOptions> {
  readonly json?: boolean;
  readonly cloudhsmCluster?: string;
  readonly mode: 'native' | 'wrapped';
  readonly libraryConfig?: string;
  readonly region?: string;
  readonly endpoint?: string;
}

const moduleOnly = ['token', 'serial', 'pinFile', 'profile', 'libraryParameters', 'clean'] as const;

function variable(text: string, before: Readonly<Record<string, string>>): Record<string, string> {
  const [, name, value] = /^([A-Z][A-Z0-9_]*)=(.*)$/s.exec(text) ?? [];
  if (name === undefined || value === undefined) throw new InvalidArgumentError('It is written NAME=VALUE.');
  return { ...before, [name]: value };
}

function mode(text: string): 'native' | 'wrapped' {
  if (text === 'native' || text === 'wrapped') return text;
  throw new InvalidArgumentError('It is native or wrapped.');
}

async function doctor(options: SharedOptions): Promise<void> {
  const config = configOf(options);
  const reports: SlotReport[] = [];
  {
    using progress = new ProgressLine();
    for (const slot of config.slots) {
      progress.show(`examining slot ${slot.id}`);
      reports.push(await examine(config, slot));
    }
  }
  if (reports.some(report => report.problems.length > 0)) process.exitCode = refused;
  if (options.json) printJson({ slots: reports });
  else print(reports.map(slotText).join('\n\n'));
}

export async function examine(config: Config, slot: SlotConfig): Promise<SlotReport> {
  const found = { slot: slot.id, engine: slot.engine };
  const pinProblems = await problemsOfPin(config, slot);
  if (slot.engine !== 'pkcs11') return { ...found, problems: pinProblems };
  try {
    if (checksModule(config, slot.settings.module)) refuseForeignModule(slot.settings.module);
    refuseOtherModule(slot.settings);
    const report = await examineModule(
      slot.settings.module,
      moduleEnvironment(config),
      slot.settings.libraryParameters,
    );
    const matching = report.tokens.filter(matches(slot.settings));
    const [token] = matching;
    const problems = [
      ...pinProblems,
      ...(matching.length === 1 && token
        ? problemsOf(token, slot.settings.mode)
        : [wrongCount(slot, matching.length, report)]),
    ];
    return { ...found, report, ...(matching.length === 1 && token ? { token } : {}), problems };
  } catch (thrown) {
    return { ...found, problems: [...pinProblems, problemOf(thrown)] };
  }
}

/** The source of the PIN is read, to see that it can be; the token does not hear of it. */
async function problemsOfPin(config: Config, slot: SlotConfig): Promise<readonly Problem[]> {
  try {
    using _readable = await pinReader(config, slot, silentLog)?.();
    return [];
  } catch (thrown) {
    return [problemOf(thrown)];
  }
}

const matches =
  (settings: { tokenLabel?: string | undefined; tokenSerial?: string | undefined }) =>
  (token: ModuleReport['tokens'][number]): boolean =>
    (settings.tokenLabel === undefined || token.label === settings.tokenLabel) &&
    (settings.tokenSerial === undefined || token.serial === settings.tokenSerial);

function wrongCount(slot: SlotConfig, count: number, report: ModuleReport): Problem {
  const present = report.tokens
    .filter(token => token.initialized)
    .map(token => `"${token.label}" (serial ${token.serial})`);
  return count === 0
    ? {
        code: 'TOKEN_NOT_FOUND',
        detail: `No token matches slots.${slot.id}.settings; present: ${present.join(', ') || 'none'}.`,
        remedy: 'Set tokenLabel or tokenSerial to one that is present, or initialise the token.',
      }
    : {
        code: 'TOKEN_AMBIGUOUS',
        detail: `${count} tokens match slots.${slot.id}.settings: ${present.join(', ')}.`,
        remedy: 'Set tokenSerial: labels need not be unique.',
      };
}

function problemsOf(token: ModuleReport['tokens'][number], mode: 'native' | 'wrapped'): readonly Problem[] {
  return [...mechanismProblems[mode](token), ...pinProblems[token.pin]];
}

function slotText({ slot, engine, report, token, problems }: SlotReport): string {
  const found = {
    slot,
    engine,
    module: report?.module,
    library:
      report &&
      `${report.library.description} (${report.library.manufacturer}) ${report.library.version}, Cryptoki ${report.library.cryptoki}`,
    token:
      token &&
      `"${token.label}", ${token.manufacturer} ${token.model}, serial ${token.serial}, firmware ${token.firmware}`,
    EdDSA: token && (token.eddsa ? 'yes' : 'NO'),
    'AES-GCM': token && (token.aesGcm ? 'yes' : 'NO'),
    'possible modes': token && (token.modes.join(', ') || 'none'),
    'EdDSA key generation': token && (token.edwardsKeyPairGen ? 'yes' : 'NO'),
    PIN: token?.pin,
    mechanisms: token && `${token.mechanisms.length}: ${token.mechanisms.join(' ')}`,
  };
  const verdict = problems.length === 0 ? ['No problem found.'] : problems.map(problemText);
  return [listing(found), ...verdict].join('\n');
}

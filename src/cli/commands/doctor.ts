import type { Command } from 'commander';
import { type Config, moduleEnvironment, type SlotConfig } from '../../appliance/config.ts';
import { pinReader } from '../../appliance/secrets.ts';
import { examineModule } from '../../appliance/tokens.ts';
import type { ModuleReport } from '../../engines/pkcs11/index.ts';
import { toKeyslotError } from '../../foundation/errors.ts';
import { silentLog } from '../../foundation/log.ts';
import { configOf, type SharedOptions } from '../connection.ts';
import { listing, print, printJson, refused } from '../output.ts';

/** What is wrong and what to do about it. */
interface Problem {
  readonly code: string;
  readonly detail: string;
  readonly remedy: string;
}

interface SlotReport {
  readonly slot: string;
  readonly engine: string;
  readonly report?: ModuleReport;
  readonly token?: ModuleReport['tokens'][number];
  readonly problems: readonly Problem[];
}

export function addDoctor(program: Command, shared: (command: Command) => Command): void {
  shared(program.command('doctor'))
    .description('examine the configured modules and tokens; no PIN is spent')
    .action(doctor);
}

async function doctor(options: SharedOptions): Promise<void> {
  const config = configOf(options);
  const reports: SlotReport[] = [];
  for (const slot of config.slots) reports.push(await examine(config, slot));
  if (reports.some(report => report.problems.length > 0)) process.exitCode = refused;
  if (options.json) printJson({ slots: reports });
  else print(reports.map(slotText).join('\n\n'));
}

async function examine(config: Config, slot: SlotConfig): Promise<SlotReport> {
  const found = { slot: slot.id, engine: slot.engine };
  const pinProblems = await problemsOfPin(config, slot);
  if (slot.engine !== 'pkcs11') return { ...found, problems: pinProblems };
  try {
    const report = await examineModule(slot.settings.module, moduleEnvironment(config));
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

const unsuitable = (detail: string, remedy: string): Problem => ({
  code: 'TOKEN_UNSUITABLE',
  detail,
  remedy,
});

const mechanismProblems: Record<
  'native' | 'wrapped',
  (token: ModuleReport['tokens'][number]) => readonly Problem[]
> = {
  native: ({ eddsa, edwardsKeyPairGen, modes }) => [
    ...(eddsa
      ? []
      : [
          unsuitable(
            'EdDSA absent: the token does not list CKM_EDDSA.',
            `On AWS CloudHSM: Client SDK with EdDSA, hsm2m.medium, a NON_FIPS cluster. Elsewhere: newer firmware, or enable the mechanism.${
              modes.includes('wrapped') ? ' Or set mode: wrapped, which this token can do.' : ''
            }`,
          ),
        ]),
    ...(edwardsKeyPairGen || !eddsa
      ? []
      : [
          unsuitable(
            'The token does not list CKM_EC_EDWARDS_KEY_PAIR_GEN: keys cannot be generated in it.',
            'Import keys, or enable the mechanism.',
          ),
        ]),
  ],
  wrapped: ({ aesGcm }) =>
    aesGcm
      ? []
      : [
          unsuitable(
            'AES-GCM absent: the token does not list CKM_AES_GCM.',
            'Enable the mechanism, or use mode: native where the token lists CKM_EDDSA.',
          ),
        ],
};

const pinProblems: Record<ModuleReport['tokens'][number]['pin'], readonly Problem[]> = {
  set: [],
  'not-initialized': [
    {
      code: 'TOKEN_UNSUITABLE',
      detail: 'The user PIN is not set.',
      remedy: 'Have the security officer set it.',
    },
  ],
  'count-low': [
    {
      code: 'PIN_INCORRECT',
      detail: 'Wrong PINs were presented to the token since the last login.',
      remedy: 'Find out who tried; a good login resets the counter.',
    },
  ],
  'final-try': [
    {
      code: 'PIN_LAST_TRY',
      detail: 'One PIN attempt is left; Keyslot does not spend it.',
      remedy: 'Log in once with the vendor tool to reset the counter.',
    },
  ],
  locked: [
    { code: 'PIN_LOCKED', detail: 'The PIN is locked.', remedy: 'Have the security officer reset it.' },
  ],
  'protected-authentication-path': [
    {
      code: 'TOKEN_UNSUITABLE',
      detail: 'The token takes its PIN on a device of its own.',
      remedy: 'Use a token whose PIN software may present.',
    },
  ],
};

function problemOf(thrown: unknown): Problem {
  const error = toKeyslotError(thrown);
  return { code: error.code, detail: error.message, remedy: error.entry.remedy };
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

const problemText = ({ code, detail, remedy }: Problem): string =>
  `problem: ${code}: ${detail}\n  to do: ${remedy}`;

import { isAbsolute, resolve } from 'node:path';
import { type Examined, slotSnippet } from '../../appliance/slot-snippet.ts';
import { examineModule, tryToken } from '../../appliance/tokens.ts';
import type { ModuleReport, TokenExamination, Verdict } from '../../engines/pkcs11/index.ts';
import { isKeyslotError, KeyslotError } from '../../foundation/errors.ts';
import { confirmed } from '../confirmation.ts';
import { listing, print, printJson, refused, table } from '../output.ts';
import { ProgressLine } from '../progress-line.ts';
import { readPin } from '../secret-input.ts';
import { type Problem, pinProblems, problemOf, problemText } from './doctor-problems.ts';

export interface ModuleOptions {
  readonly module: string;
  readonly token?: string;
  readonly serial?: string;
  readonly pinFile?: string;
  readonly profile?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly libraryParameters?: string;
  readonly clean?: boolean;
  readonly json?: boolean;
}

type TokenReport = ModuleReport['tokens'][number];

/** A token with what it is good for. Without a PIN that is what its lists say, and nothing was tried. */
interface Judged extends TokenReport {
  readonly verdict: Verdict;
  readonly tried: boolean;
  readonly reasons: readonly string[];
  readonly examination?: TokenExamination;
  readonly problems: readonly Problem[];
  /** What keyslot.yaml needs to say, as YAML. */
  readonly snippet?: string;
}

/**
 * Examines a module that no slot needs to name. Its own process takes a crash or a hang, which is a verdict like
 * others. With a PIN, one login is spent and the token is tried; Ctrl-C takes away what was made in it.
 */
export async function doctorOfModule(options: ModuleOptions): Promise<void> {
  using progress = new ProgressLine();
  const module = isAbsolute(options.module) ? options.module : resolve(options.module);
  const environment = { ...options.env };
  let report: ModuleReport;
  try {
    report = await examineModule(module, environment, options.libraryParameters);
  } catch (thrown) {
    if (!isKeyslotError(thrown)) throw thrown;
    return unusable(module, problemOf(thrown), options);
  }
  const wanted = report.tokens.filter(
    token =>
      token.initialized &&
      (options.token === undefined || token.label === options.token) &&
      (options.serial === undefined || token.serial === options.serial),
  );
  const profiles = report.profiles;
  const tokens: Judged[] = [];
  for (const token of wanted) {
    tokens.push(await judged({ token, report, environment, alone: wanted.length === 1, options, progress }));
  }
  progress[Symbol.dispose]();
  const missing = wanted.length === 0 ? [noToken(report)] : [];
  if (missing.length > 0 || tokens.some(isBad)) process.exitCode = refused;
  const { library } = report;
  if (options.json) return printJson({ module, library, profiles, tokens, problems: missing });
  print(listing({ module, library: libraryText(library), profiles: profiles.join(', ') }));
  for (const token of tokens) print(`\n${tokenText(token)}`);
  for (const problem of missing) print(problemText(problem));
}

async function judged(given: {
  token: TokenReport;
  report: ModuleReport;
  environment: Readonly<Record<string, string>>;
  /** Whether this is the one token that was meant: several are not all given the same PIN. */
  alone: boolean;
  options: ModuleOptions;
  progress: ProgressLine;
}): Promise<Judged> {
  const { token, report, environment, alone, options } = given;
  const profile = options.profile ?? report.profiles[0] ?? 'generic';
  const found: { examination?: TokenExamination; problems: Problem[] } = {
    problems: [...pinProblems[token.pin]],
  };
  // Where the PIN cannot be presented, the reason is among the problems already.
  if (options.pinFile !== undefined && (token.pin === 'set' || token.pin === 'count-low')) {
    try {
      if (!alone)
        throw new KeyslotError('TOKEN_AMBIGUOUS', 'Several tokens match: name one with --token or --serial.');
      found.examination = await tried({ ...given, profile });
    } catch (thrown) {
      if (!isKeyslotError(thrown) || thrown.code === 'REQUEST_ABORTED') throw thrown;
      found.problems.push(problemOf(thrown));
    }
  }
  const { examination, problems } = found;
  const failed = problems.find(({ code }) => code === 'MODULE_UNUSABLE');
  const verdict = failed ? 'unusable' : (examination?.verdict ?? listed(token));
  const left = examination?.leftovers.filter(label => !examination.cleaned.includes(label)) ?? [];
  if (left.length > 0) problems.push(leftBehind(left));
  const labelRepeated = report.tokens.filter(({ label }) => label === token.label).length > 1;
  const examined: Examined = {
    module: report.module,
    libraryParameters: options.libraryParameters,
    environment,
    profile,
    tokenLabel: token.label,
    tokenSerial: token.serial,
    labelRepeated,
    verdict,
    pinFile: options.pinFile === undefined || options.pinFile === '-' ? undefined : resolve(options.pinFile),
    examination,
  };
  const snippet = slotSnippet(examined);
  return {
    ...token,
    verdict,
    tried: examination !== undefined,
    reasons: examination?.reasons ?? (failed ? [failed.detail] : listedReasons(token)),
    ...(examination ? { examination } : {}),
    problems,
    ...(snippet === undefined ? {} : { snippet }),
  };
}

/** One login; a second one only to remove what was left behind, when the person at the terminal wants it. */
async function tried(given: {
  token: TokenReport;
  report: ModuleReport;
  environment: Readonly<Record<string, string>>;
  profile: string;
  options: ModuleOptions;
  progress: ProgressLine;
}): Promise<TokenExamination> {
  const { token, report, environment, profile, options, progress } = given;
  using pin = await readPin(options.pinFile, '');
  const calledOff = new AbortController();
  const callOff = () => calledOff.abort();
  // A second Ctrl-C ends the command, and the process that it started takes away what it made all the same.
  process.once('SIGINT', callOff);
  process.once('SIGTERM', callOff);
  const once = (clean: boolean) =>
    tryToken(
      {
        module: report.module,
        libraryParameters: options.libraryParameters,
        tokenLabel: token.label,
        tokenSerial: token.serial,
        profile,
        pin,
        clean,
        signal: calledOff.signal,
        told: step => progress.show(step),
      },
      environment,
    );
  try {
    const first = await once(options.clean === true);
    const left = first.leftovers.length - first.cleaned.length;
    if (left === 0 || options.json || !process.stdin.isTTY || !process.stderr.isTTY) return first;
    progress[Symbol.dispose]();
    const question = `Keys of earlier examinations in the token: ${left}. Type "remove" to remove them: `;
    return (await confirmed(question, 'remove')) ? await once(true) : first;
  } finally {
    process.off('SIGINT', callOff);
    process.off('SIGTERM', callOff);
  }
}

/** What the list of mechanisms promises. */
function listed({ modes }: TokenReport): Verdict {
  if (modes.includes('native')) return 'native';
  return modes.includes('wrapped') ? 'wrapped-only' : 'unusable';
}

const listedReasons = (token: TokenReport): readonly string[] => [
  ...(token.eddsa ? [] : ['EdDSA absent: the token does not list CKM_EDDSA.']),
  ...(token.aesGcm ? [] : ['AES-GCM absent: the token does not list CKM_AES_GCM.']),
  'Nothing was tried: that takes --pin-file.',
];

/** A counter that is low is no reason not to use the token. */
const isBad = ({ verdict, problems }: Judged): boolean =>
  verdict === 'unusable' || problems.some(({ code }) => code !== 'PIN_INCORRECT');

function unusable(module: string, problem: Problem, { json }: ModuleOptions): void {
  process.exitCode = refused;
  if (json) printJson({ module, verdict: 'unusable', tokens: [], problems: [problem] });
  else print(`${listing({ module, verdict: 'unusable' })}\n${problemText(problem)}`);
}

const noToken = (report: ModuleReport): Problem => ({
  code: 'TOKEN_NOT_FOUND',
  detail: `No initialised token matches; present: ${report.tokens.map(({ label, serial }) => `"${label}" (serial ${serial})`).join(', ') || 'none'}.`,
  remedy: 'Initialise a token with the vendor tool, or name another with --token or --serial.',
});

const leftBehind = (labels: readonly string[]): Problem => ({
  code: 'KEY_EXISTS',
  detail: `Keys of earlier examinations are in the token: ${labels.join(', ')}.`,
  remedy: 'Run it again with --clean, which removes them.',
});

const libraryText = ({ description, manufacturer, version, cryptoki }: ModuleReport['library']): string =>
  `${description} (${manufacturer}) ${version}, Cryptoki ${cryptoki}`;

function tokenText(token: Judged): string {
  const { examination, snippet } = token;
  const pair = examination?.pair;
  const speed = examination?.speed;
  const facts = {
    token: `"${token.label}", ${token.manufacturer} ${token.model}, serial ${token.serial}, firmware ${token.firmware}`,
    PIN: token.pin,
    verdict: `${token.verdict}${token.tried ? '' : ' (by its list of mechanisms; not tried)'}`,
    profile: examination?.profile,
    'made by': pair && `${pair.mechanism}, curve as ${pair.curve}, ${pair.object} object`,
    'public key': pair && `EC_POINT ${pair.ecPoint}, EC_PARAMS ${pair.ecParams}`,
    'AES-GCM': examination && (examination.gcmIv ? `works, IV: ${examination.gcmIv}` : 'no'),
    'signing sessions': examination?.sessionMode,
    latency:
      speed && `${speed.operation}: p50 ${speed.p50_ms} ms, p99 ${speed.p99_ms} ms over ${speed.calls} calls`,
    'useful sessions': speed && `${speed.usefulSessions} (ended by: ${speed.endedBy})`,
    mechanisms: `${token.mechanisms.length}: ${token.mechanisms.join(' ')}`,
  };
  const levels =
    speed &&
    table(
      ['sessions', 'per second'],
      speed.levels.map(level => [String(level.sessions), String(level.perSecond)]),
    );
  const reasons = token.reasons.map(reason => `- ${reason}`).join('\n');
  return [listing(facts), levels, reasons, ...token.problems.map(problemText), snippet && `\n${snippet}`]
    .filter(Boolean)
    .join('\n');
}

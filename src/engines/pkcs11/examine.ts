import type { Handle } from 'pkcs11js';
import { slotId } from '../../custody/ids.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import type { Secret } from '../../foundation/secret.ts';
import { Bench, type Operation, textOf } from './bench.ts';
import {
  CKF_PROTECTED_AUTHENTICATION_PATH,
  CKF_RW_SESSION,
  CKF_USER_PIN_FINAL_TRY,
  CKF_USER_PIN_INITIALIZED,
  CKF_USER_PIN_LOCKED,
  CKU_USER,
} from './constants.ts';
import { CkrError } from './cryptoki.ts';
import { Device } from './device.ts';
import { fittingProfiles } from './inspect.ts';
import { measure, type Speed } from './measure.ts';
import { Pkcs11Module, type TokenView } from './module.ts';
import { type Attempt, type PairForm, tryNative } from './native-trial.ts';
import { defaultProfile, type GcmIvPolicy } from './settings.ts';
import { refusePinLength } from './token-access.ts';
import { tryWrapped } from './wrapped-trial.ts';

/** What a token can be used for: keys in it, seeds sealed by it, or neither. */
export type Verdict = 'native' | 'wrapped-only' | 'unusable';

/** What came of trying a token with a key that was thrown away again. */
export interface TokenExamination {
  readonly verdict: Verdict;
  /** Why it is not more than that, and what was found on the way. */
  readonly reasons: readonly string[];
  readonly profile: string;
  readonly generations: readonly Attempt[];
  /** The pair that was made, signed, and was verified; absent where none did. */
  readonly pair?: PairForm;
  /** Who made the IV of AES-GCM when sealing and opening worked; absent where it did not. */
  readonly gcmIv?: GcmIvPolicy;
  readonly sessionMode: 'read-only' | 'read-write';
  readonly speed?: Speed;
  /** Labels of keys that earlier examinations left in the token, and those of them that were removed now. */
  readonly leftovers: readonly string[];
  readonly cleaned: readonly string[];
  /** Whether everything that this examination made is gone again. */
  readonly tidy: boolean;
}

export interface ExamineOptions {
  readonly module: string;
  readonly libraryParameters?: string | undefined;
  readonly tokenLabel?: string | undefined;
  readonly tokenSerial?: string | undefined;
  /** A name or an absolute path; without it the first of `fittingProfiles`. */
  readonly profile?: string | undefined;
  readonly pin: Secret;
  /** Whether what earlier examinations left behind is removed. */
  readonly clean: boolean;
  readonly sessions_max: number;
  readonly signal: AbortSignal;
  /** Hears what is done next. */
  told(step: string): void;
}

/**
 * Logs in to a token with one C_Login and tries it: pairs are made in every known way until one signs, AES-GCM
 * seals and opens, and both are timed. Whatever was made is destroyed again, also when `signal` calls it off.
 *
 * The module must not be in use in this process: a crash of it ends the process, and a call that hangs never
 * comes back. TOKEN_NOT_FOUND, TOKEN_AMBIGUOUS; before any login PIN_LOCKED, PIN_LAST_TRY, PIN_REFUSED,
 * TOKEN_UNSUITABLE; REQUEST_ABORTED.
 */
export async function examineToken(options: ExamineOptions): Promise<TokenExamination> {
  const profile = options.profile ?? fittingProfiles(options.module)[0] ?? defaultProfile;
  const device = Device.of(slotId('doctor'), { profile, mode: 'native' });
  options.told('C_Initialize');
  const module = Pkcs11Module.open(options.module, options.libraryParameters);
  try {
    options.told('C_GetTokenInfo');
    const token = oneToken(module.tokens(), options);
    refuseLogin(token, device, options.pin);
    const bench = new Bench({ cryptoki: module.cryptoki, token, device }, profile, options);
    try {
      return await examined(bench, options);
    } finally {
      bench.close(bench.session); // the login ends with its last session
    }
  } catch (thrown) {
    throw device.error(thrown, `Examining ${options.module}`);
  } finally {
    module.close();
  }
}

async function examined(bench: Bench, options: ExamineOptions): Promise<TokenExamination> {
  const { keys, reasons, profile } = bench;
  bench.step('C_Login');
  options.pin.useText(text => bench.cryptoki.login(bench.session, CKU_USER, text));
  bench.step('C_FindObjects: what earlier examinations left');
  const leftovers = keys.leftovers();
  const cleaned = options.clean ? keys.clean(leftovers) : [];
  const sessionMode = signingMode(bench);
  let tidy = false;
  let found: Found;
  try {
    found = await tried(bench, options.sessions_max);
  } finally {
    options.told('C_DestroyObject');
    tidy = keys.destroy();
  }
  if (!tidy) reasons.push(`A key of this examination could not be removed: ${keys.label}.`);
  const verdict = found.pair ? 'native' : found.gcmIv ? 'wrapped-only' : 'unusable';
  return { verdict, reasons, profile, ...found, sessionMode, leftovers, cleaned, tidy };
}

async function tried(bench: Bench, sessions_max: number): Promise<Found> {
  const { generations, signs } = await tryNative(bench);
  const wrapped = await tryWrapped(bench);
  const call = signs?.sign ?? wrapped?.open;
  if (!call) return { generations };
  bench.step('measuring');
  const speed = await speedOf(bench, signs ? 'sign' : 'open', call, sessions_max);
  return {
    generations,
    ...(signs && speed ? { pair: signs.pair } : {}),
    ...(wrapped ? { gcmIv: wrapped.gcmIv } : {}),
    ...(speed ? { speed } : {}),
  };
}

/** Where read-only sessions are refused, signing takes others. */
function signingMode(bench: Bench): TokenExamination['sessionMode'] {
  try {
    bench.close(bench.open(0));
    return 'read-only';
  } catch (thrown) {
    if (!(thrown instanceof CkrError)) throw thrown;
    return 'read-write';
  }
}

/** Nothing when a call fails or answers something wrong; the reason is kept. */
async function speedOf(
  bench: Bench,
  operation: Speed['operation'],
  call: Operation,
  sessions_max: number,
): Promise<Speed | undefined> {
  const { count_max } = bench.device.profile.sessions;
  const ofToken = bench.token.sessions_max; // 0: as many as one likes; v3.1 §3.2
  const own = ofToken > 1 && Number.isSafeInteger(ofToken) ? ofToken - 1 : Number.POSITIVE_INFINITY;
  const work = {
    operation,
    ...call,
    open: () => bench.open(CKF_RW_SESSION),
    close: (session: Handle) => bench.close(session),
    goOn: () => bench.goOn(),
  };
  try {
    return await measure(work, Math.min(sessions_max, count_max, own));
  } catch (thrown) {
    bench.reasons.push(`Measuring: ${textOf(thrown)}.`);
    return undefined;
  }
}

type Found = Pick<TokenExamination, 'generations' | 'pair' | 'gcmIv' | 'speed'>;

function oneToken(tokens: readonly TokenView[], { tokenLabel, tokenSerial }: ExamineOptions): TokenView {
  const [token, second] = tokens.filter(
    each =>
      (tokenLabel === undefined || each.label === tokenLabel) &&
      (tokenSerial === undefined || each.serial === tokenSerial),
  );
  if (!token) throw new KeyslotError('TOKEN_NOT_FOUND', 'The module shows no such token any more.');
  if (second) throw new KeyslotError('TOKEN_AMBIGUOUS', 'Several tokens match: name one by its serial.');
  return token;
}

/** As for a slot: no attempt is spent on a PIN that cannot be right, nor the last one. */
function refuseLogin(token: TokenView, device: Device, pin: Secret): void {
  const place = `Token "${token.label}"`;
  const has = (flag: number) => (token.flags & flag) !== 0;
  if (has(CKF_PROTECTED_AUTHENTICATION_PATH)) {
    throw new KeyslotError('TOKEN_UNSUITABLE', `${place} takes its PIN on a device of its own.`);
  }
  if (!has(CKF_USER_PIN_INITIALIZED))
    throw new KeyslotError('TOKEN_UNSUITABLE', `${place} has no user PIN yet.`);
  if (has(CKF_USER_PIN_LOCKED)) throw new KeyslotError('PIN_LOCKED', `${place} reports its PIN as locked.`);
  if (has(CKF_USER_PIN_FINAL_TRY)) {
    throw new KeyslotError('PIN_LAST_TRY', `${place} reports that one attempt is left.`);
  }
  device.refuseMalformedPin(pin, place);
  refusePinLength(token, pin, place);
}

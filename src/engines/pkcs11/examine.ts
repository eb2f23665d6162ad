import { randomBytes, randomFillSync } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Handle } from 'pkcs11js';
import { slotId } from '../../custody/ids.ts';
import { createVerifier } from '../../foundation/ed25519.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import type { Secret } from '../../foundation/secret.ts';
import {
  CKA_EC_PARAMS,
  CKA_EC_POINT,
  CKA_EXTRACTABLE,
  CKA_SENSITIVE,
  CKA_TOKEN,
  CKA_VALUE_LEN,
  CKF_PROTECTED_AUTHENTICATION_PATH,
  CKF_RW_SESSION,
  CKF_SERIAL_SESSION,
  CKF_USER_PIN_FINAL_TRY,
  CKF_USER_PIN_INITIALIZED,
  CKF_USER_PIN_LOCKED,
  CKM_AES_GCM,
  CKM_AES_KEY_GEN,
  CKM_EC_EDWARDS_KEY_PAIR_GEN,
  CKM_EC_KEY_PAIR_GEN,
  CKM_EDDSA,
  CKU_USER,
} from './constants.ts';
import { CkrError, type Cryptoki, gcmIv_bytes, gcmTag_bytes, template, UnsealError } from './cryptoki.ts';
import { Device } from './device.ts';
import { edwards25519Forms, publicKeyOfEcPoint } from './ec.ts';
import { fittingProfiles } from './inspect.ts';
import { measure, type Speed, type Work } from './measure.ts';
import { Pkcs11Module, type TokenView } from './module.ts';
import { abortedError } from './pool.ts';
import { defaultProfile, type GcmIvPolicy } from './settings.ts';
import { placed, ThrowAwayKeys } from './throw-away.ts';

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

export interface Attempt {
  readonly mechanism: string;
  readonly curve: keyof typeof edwards25519Forms;
  readonly object: 'session' | 'token';
  /** `made`, or the CKR code that the device answered. */
  readonly outcome: string;
}

export interface PairForm extends Omit<Attempt, 'outcome'> {
  readonly ecPoint: 'raw' | 'octet-string' | 'bit-string' | 'public-key-info';
  readonly ecParams: keyof typeof edwards25519Forms | 'other' | 'not shown';
  readonly extractable: boolean;
  readonly sensitive: boolean;
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
    return await new Trial(module.cryptoki, token, device, profile, options).run();
  } catch (thrown) {
    throw device.error(thrown, `Examining ${options.module}`);
  } finally {
    module.close();
  }
}

class Trial {
  readonly #cryptoki: Cryptoki;
  readonly #token: TokenView;
  readonly #device: Device;
  readonly #profile: string;
  readonly #options: ExamineOptions;
  readonly #reasons: string[] = [];
  readonly #generations: Attempt[] = [];
  readonly #offered: ReadonlySet<number>;

  constructor(
    cryptoki: Cryptoki,
    token: TokenView,
    device: Device,
    profile: string,
    options: ExamineOptions,
  ) {
    this.#cryptoki = cryptoki;
    this.#token = token;
    this.#device = device;
    this.#profile = profile;
    this.#options = options;
    this.#offered = new Set(token.mechanisms().map(({ type }) => type));
  }

  async run(): Promise<TokenExamination> {
    this.#step('C_OpenSession');
    const session = this.#open(CKF_RW_SESSION);
    try {
      this.#step('C_Login');
      this.#options.pin.useText(text => this.#cryptoki.login(session, CKU_USER, text));
      const keys = new ThrowAwayKeys(this.#cryptoki, this.#device, session);
      return await this.#examined(session, keys);
    } finally {
      this.#closed(session); // the login ends with its last session
    }
  }

  async #examined(session: Handle, keys: ThrowAwayKeys): Promise<TokenExamination> {
    this.#step('C_FindObjects: what earlier examinations left');
    const leftovers = keys.leftovers();
    const cleaned = this.#options.clean ? keys.clean(leftovers) : [];
    const sessionMode = this.#sessionMode();
    let tidy = true;
    let found: Found;
    try {
      found = await this.#tried(session, keys);
    } finally {
      this.#options.told('C_DestroyObject');
      tidy = keys.destroy();
    }
    const { pair, gcmIv, speed } = found;
    if (!tidy) this.#reasons.push(`A key of this examination could not be removed: ${keys.label}.`);
    return {
      verdict: pair ? 'native' : gcmIv ? 'wrapped-only' : 'unusable',
      reasons: this.#reasons,
      profile: this.#profile,
      generations: this.#generations,
      ...(pair ? { pair } : {}),
      ...(gcmIv ? { gcmIv } : {}),
      sessionMode,
      ...(speed ? { speed } : {}),
      leftovers,
      cleaned,
      tidy,
    };
  }

  async #tried(session: Handle, keys: ThrowAwayKeys): Promise<Found> {
    const native = await this.#native(session, keys);
    const wrapped = await this.#wrapped(session, keys);
    const work = native?.sign ?? wrapped?.open;
    if (!work) return {};
    this.#step('measuring');
    const speed = await this.#speed(native ? 'sign' : 'open', work);
    return {
      ...(native && speed ? { pair: native.pair } : {}),
      ...(wrapped ? { gcmIv: wrapped.gcmIv } : {}),
      ...(speed ? { speed } : {}),
    };
  }

  /** Where read-only sessions are refused, signing takes others. */
  #sessionMode(): TokenExamination['sessionMode'] {
    try {
      this.#closed(this.#open(0));
      return 'read-only';
    } catch (thrown) {
      if (!(thrown instanceof CkrError)) throw thrown;
      return 'read-write';
    }
  }

  async #native(session: Handle, keys: ThrowAwayKeys): Promise<Native | undefined> {
    if (!this.#offered.has(CKM_EDDSA)) {
      // Some tokens make such keys all the same, and never sign with them: the list is believed.
      this.#reasons.push(
        'EdDSA absent: the token does not list CKM_EDDSA. It takes newer firmware or the mechanism switched on; on AWS CloudHSM a Client SDK 5 with EdDSA, hsm2m.medium, and a NON_FIPS cluster.',
      );
      return undefined;
    }
    const made = this.#madePair(session, keys);
    if (!made) {
      const answers = [...new Set(this.#generations.map(({ outcome }) => outcome))].join(', ');
      this.#reasons.push(`No Ed25519 pair could be made: ${answers}.`);
      return undefined;
    }
    return await this.#signing(session, made);
  }

  /** As an object of the session first, which ends by itself; in every way that is known. */
  #madePair(session: Handle, keys: ThrowAwayKeys): Made | undefined {
    for (const object of ['session', 'token'] as const) {
      for (const { mechanism, curve, known } of this.#candidates()) {
        this.#step(`C_GenerateKeyPair: ${mechanism}, ${curve}, ${object} object`);
        const attempt = { mechanism, curve, object };
        try {
          const handles = this.#generate(session, keys, attempt);
          this.#generations.push({ ...attempt, outcome: 'made' });
          if (!known) {
            this.#reasons.push(
              `Profile ${this.#profile} does not name ${mechanism} with ${curve}, which works: use another, or one of your own.`,
            );
          }
          return { ...attempt, ...handles };
        } catch (thrown) {
          if (!(thrown instanceof CkrError)) throw thrown;
          this.#generations.push({ ...attempt, outcome: thrown.message });
        }
      }
    }
    return undefined;
  }

  /** What the profile names, and then everything else. */
  #candidates(): readonly (Pick<Attempt, 'mechanism' | 'curve'> & { known: boolean })[] {
    const { mechanisms, curveForms } = this.#device.profile.keyPair;
    const all = Object.keys(pairMechanisms) as (keyof typeof pairMechanisms)[];
    const forms = Object.keys(edwards25519Forms) as Attempt['curve'][];
    return all
      .flatMap(mechanism => forms.map(curve => ({ mechanism, curve })))
      .map(each => ({
        ...each,
        known: mechanisms.includes(each.mechanism) && curveForms.includes(each.curve),
      }))
      .toSorted((one, other) => Number(other.known) - Number(one.known));
  }

  #generate(session: Handle, keys: ThrowAwayKeys, attempt: Omit<Attempt, 'outcome'>) {
    const inToken = attempt.object === 'token';
    const names = keys.names();
    return this.#cryptoki.generateKeyPair(
      session,
      pairMechanisms[attempt.mechanism as keyof typeof pairMechanisms],
      template(
        [CKA_EC_PARAMS, edwards25519Forms[attempt.curve]],
        ...placed(this.#device.publicAttributes, inToken),
        ...names,
      ),
      template(...placed(this.#device.privateAttributes, inToken), ...names),
    );
  }

  async #signing(session: Handle, made: Made): Promise<Native | undefined> {
    this.#step('C_GetAttributeValue: what was made');
    const read = (object: Handle, type: number) => this.#cryptoki.attribute(session, object, type);
    const point = read(made.publicKey, CKA_EC_POINT) ?? read(made.privateKey, CKA_EC_POINT);
    if (!point) {
      this.#reasons.push('The token shows no public key: neither half of the pair has CKA_EC_POINT.');
      return undefined;
    }
    const pair: PairForm = {
      mechanism: made.mechanism,
      curve: made.curve,
      object: read(made.privateKey, CKA_TOKEN)?.[0] === 1 ? 'token' : 'session',
      ecPoint: pointForms.get(point.length) ?? 'octet-string',
      ecParams: paramsForm(read(made.publicKey, CKA_EC_PARAMS) ?? read(made.privateKey, CKA_EC_PARAMS)),
      extractable: read(made.privateKey, CKA_EXTRACTABLE)?.[0] === 1,
      sensitive: read(made.privateKey, CKA_SENSITIVE)?.[0] === 1,
    };
    if (pair.extractable || !pair.sensitive) {
      this.#reasons.push('The token did not make the key sensitive and unextractable, as it was asked to.');
      return undefined;
    }
    const verifier = createVerifier(publicKeyOfEcPoint(point));
    const message = randomBytes(message_bytes);
    const sign: Operation = {
      once: own => this.#cryptoki.sign(own, CKM_EDDSA, made.privateKey, message),
      check: async signature => {
        if (!(await verifier.verify(message, signature))) throw new UnverifiedError();
      },
    };
    this.#step('C_Sign');
    return (await this.#works('Signing', sign)) ? { pair, sign } : undefined;
  }

  /** AES-GCM with a key that is thrown away, and the IV of either side. */
  async #wrapped(session: Handle, keys: ThrowAwayKeys): Promise<Wrapped | undefined> {
    if (!this.#offered.has(CKM_AES_GCM)) {
      this.#reasons.push('AES-GCM absent: the token does not list CKM_AES_GCM, so there is no mode wrapped.');
      return undefined;
    }
    if (!this.#device.profile.wrappingKey) {
      this.#reasons.push(`Profile ${this.#profile} has no mode wrapped, so AES-GCM was not tried.`);
      return undefined;
    }
    const key = this.#wrappingKey(session, keys);
    if (!key) return undefined;
    const policies: readonly GcmIvPolicy[] =
      this.#device.gcmIv === 'random' ? ['random', 'device'] : ['device', 'random'];
    for (const gcmIv of policies) {
      this.#step(`C_Encrypt: AES-GCM, IV: ${gcmIv}`);
      const opened = await this.#sealing(key, gcmIv);
      if (opened) return { gcmIv, open: opened };
    }
    return undefined;
  }

  #wrappingKey(session: Handle, keys: ThrowAwayKeys): Handle | undefined {
    for (const object of ['session', 'token'] as const) {
      this.#step(`C_GenerateKey: AES, ${object} object`);
      try {
        return this.#cryptoki.generateKey(
          session,
          CKM_AES_KEY_GEN,
          template(
            ...keys.names(),
            [CKA_VALUE_LEN, 32],
            ...placed(this.#device.wrappingAttributes, object === 'token'),
          ),
        );
      } catch (thrown) {
        if (!(thrown instanceof CkrError)) throw thrown;
        if (object === 'token') this.#reasons.push(`No AES key could be made: ${thrown.message}.`);
      }
    }
    return undefined;
  }

  /** What opens the sealed bytes again; nothing when that way of sealing does not work. */
  async #sealing(key: Handle, policy: GcmIvPolicy): Promise<Operation | undefined> {
    const plain = randomBytes(32);
    const aad = Buffer.from('keyslot-doctor');
    const ivBits = policy === 'random' ? 8 * gcmIv_bytes : 0;
    const iv = Buffer.alloc(gcmIv_bytes);
    if (policy === 'random') randomFillSync(iv);
    let sealed: Buffer = Buffer.alloc(0);
    const seal: Operation = {
      once: own => this.#cryptoki.encrypt(own, { iv, ivBits, aad }, key, Buffer.from(plain)),
      check: async answer => {
        const whole = answer.length === plain.length + gcmTag_bytes && iv.some(byte => byte !== 0);
        if (!whole) throw new UnverifiedError();
        sealed = answer;
      },
    };
    const open: Operation = {
      once: own => this.#cryptoki.decrypt(own, { iv: Buffer.from(iv), ivBits, aad }, key, sealed),
      check: async opened => {
        if (!opened.equals(plain)) throw new UnverifiedError();
      },
    };
    const refuseOther: Operation = {
      once: async own => {
        const other = { iv: Buffer.from(iv), ivBits, aad: Buffer.from('keyslot-other') };
        try {
          return await this.#cryptoki.decrypt(own, other, key, sealed);
        } catch (thrown) {
          if (thrown instanceof UnsealError) return Buffer.alloc(0);
          throw thrown;
        }
      },
      check: async opened => {
        if (opened.length > 0) throw new UnverifiedError();
      },
    };
    const what = `AES-GCM with an IV of the ${policy === 'random' ? 'host' : 'device'}`;
    const works =
      (await this.#works(`${what}: sealing`, seal)) &&
      (await this.#works(`${what}: opening`, open)) &&
      (await this.#works(`${what}: refusing other data`, refuseOther));
    return works ? open : undefined;
  }

  /** Whether it works on a session of its own; a key that is new may take a moment to be everywhere. */
  async #works(what: string, operation: Operation): Promise<boolean> {
    const until = performance.now() + available_ms;
    for (;;) {
      this.#goOn();
      const own = this.#open(CKF_RW_SESSION);
      try {
        await operation.check(await operation.once(own));
        return true;
      } catch (thrown) {
        const passing = thrown instanceof CkrError && this.#device.ckrClass(thrown.ckr) === 'transient';
        if (!passing || performance.now() > until) {
          this.#reasons.push(`${what}: ${textOf(thrown)}.`);
          return false;
        }
      } finally {
        this.#closed(own);
      }
      await sleep(retry_ms);
    }
  }

  async #speed(operation: Speed['operation'], call: Operation): Promise<Speed | undefined> {
    const { count_max } = this.#device.profile.sessions;
    const ofToken = this.#token.sessions_max; // 0: as many as one likes; v3.1 §3.2
    const own = ofToken > 1 && Number.isSafeInteger(ofToken) ? ofToken - 1 : Number.POSITIVE_INFINITY;
    try {
      return await measure(
        {
          operation,
          ...call,
          open: () => this.#open(CKF_RW_SESSION),
          close: session => this.#closed(session),
          goOn: () => this.#goOn(),
        },
        Math.min(this.#options.sessions_max, count_max, own),
      );
    } catch (thrown) {
      this.#reasons.push(`Measuring: ${textOf(thrown)}.`);
      return undefined;
    }
  }

  #open(flags: number): Handle {
    return this.#cryptoki.openSession(this.#token.slotHandle, CKF_SERIAL_SESSION | flags);
  }

  #closed(session: Handle): void {
    try {
      this.#cryptoki.closeSession(session);
    } catch (thrown) {
      if (!(thrown instanceof CkrError)) throw thrown; // the token has ended it already
    }
  }

  #step(text: string): void {
    this.#goOn();
    this.#options.told(text);
  }

  #goOn(): void {
    if (this.#options.signal.aborted) throw abortedError();
  }
}

interface Found {
  readonly pair?: PairForm;
  readonly gcmIv?: GcmIvPolicy;
  readonly speed?: Speed;
}

type Operation = Pick<Work, 'once' | 'check'>;

interface Native {
  readonly pair: PairForm;
  readonly sign: Operation;
}

interface Wrapped {
  readonly gcmIv: GcmIvPolicy;
  readonly open: Operation;
}

interface Made extends Omit<Attempt, 'outcome'> {
  readonly publicKey: Handle;
  readonly privateKey: Handle;
}

/** The token answered without an error, and wrongly. */
class UnverifiedError extends Error {
  constructor() {
    super('the token answered something wrong');
    this.name = 'UnverifiedError';
  }
}

/** Anything else is a defect, or the end of the examination, and goes on its way. */
function textOf(thrown: unknown): string {
  if (thrown instanceof CkrError || thrown instanceof UnverifiedError) return thrown.message;
  throw thrown;
}

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
  if (pin.length < token.pinLength_min || pin.length > token.pinLength_max) {
    throw new KeyslotError(
      'PIN_REFUSED',
      `${place} takes PINs of ${token.pinLength_min} to ${token.pinLength_max} bytes; no attempt was spent.`,
    );
  }
}

function paramsForm(params: Buffer | undefined): PairForm['ecParams'] {
  if (!params) return 'not shown';
  const forms = Object.keys(edwards25519Forms) as Attempt['curve'][];
  return forms.find(form => edwards25519Forms[form].equals(params)) ?? 'other';
}

const pairMechanisms = { CKM_EC_EDWARDS_KEY_PAIR_GEN, CKM_EC_KEY_PAIR_GEN } as const;

const pointForms: ReadonlyMap<number, PairForm['ecPoint']> = new Map([
  [32, 'raw'],
  [34, 'octet-string'],
  [35, 'bit-string'],
  [44, 'public-key-info'],
]);

const message_bytes = 256; // about what a transaction has
const available_ms = 3_000;
const retry_ms = 100;

import { randomBytes } from 'node:crypto';
import type { Handle } from 'pkcs11js';
import { createVerifier } from '../../foundation/ed25519.ts';
import { isKeyslotError } from '../../foundation/errors.ts';
import { type Bench, type Operation, UnverifiedError } from './bench.ts';
import {
  CKA_EC_PARAMS,
  CKA_EC_POINT,
  CKA_EXTRACTABLE,
  CKA_SENSITIVE,
  CKA_TOKEN,
  CKM_EC_EDWARDS_KEY_PAIR_GEN,
  CKM_EC_KEY_PAIR_GEN,
  CKM_EDDSA,
} from './constants.ts';
import { CkrError, template } from './cryptoki.ts';
import { edwards25519Forms, publicKeyOfEcPoint } from './ec.ts';
import { placed } from './throw-away.ts';

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

export interface NativeTrial {
  readonly generations: readonly Attempt[];
  /** The pair that signed, and how it does; absent where none did. */
  readonly signs?: { readonly pair: PairForm; readonly sign: Operation };
}

/** Pairs are made in every known way until one is there; it has to sign what verifies. */
export async function tryNative(bench: Bench): Promise<NativeTrial> {
  const generations: Attempt[] = [];
  if (!bench.offers(CKM_EDDSA)) {
    // Some tokens make such keys all the same, and never sign with them: the list is believed.
    bench.reasons.push(
      'EdDSA absent: the token does not list CKM_EDDSA. It takes newer firmware or the mechanism switched on; on AWS CloudHSM a Client SDK 5 with EdDSA, hsm2m.medium, and a NON_FIPS cluster.',
    );
    return { generations };
  }
  const made = madePair(bench, generations);
  if (!made) {
    const answers = [...new Set(generations.map(({ outcome }) => outcome))].join(', ');
    bench.reasons.push(`No Ed25519 pair could be made: ${answers}.`);
    return { generations };
  }
  return { generations, ...(await signing(bench, made)) };
}

/** As an object of the session first, which ends by itself; in every way that is known. */
function madePair(bench: Bench, generations: Attempt[]): Made | undefined {
  for (const object of ['session', 'token'] as const) {
    for (const { mechanism, curve, known } of candidates(bench)) {
      bench.step(`C_GenerateKeyPair: ${mechanism}, ${curve}, ${object} object`);
      const attempt = { mechanism, curve, object };
      try {
        const handles = generate(bench, attempt);
        generations.push({ ...attempt, outcome: 'made' });
        if (!known) {
          bench.reasons.push(
            `Profile ${bench.profile} does not name ${mechanism} with ${curve}, which works: use another, or one of your own.`,
          );
        }
        return { ...attempt, ...handles };
      } catch (thrown) {
        if (!(thrown instanceof CkrError)) throw thrown;
        generations.push({ ...attempt, outcome: thrown.message });
      }
    }
  }
  return undefined;
}

/** What the profile names, and then everything else. */
function candidates(bench: Bench): readonly (Pick<Attempt, 'mechanism' | 'curve'> & { known: boolean })[] {
  const { mechanisms, curveForms } = bench.device.profile.keyPair;
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

function generate(bench: Bench, attempt: Omit<Attempt, 'outcome'>) {
  const inToken = attempt.object === 'token';
  const names = bench.keys.names();
  return bench.cryptoki.generateKeyPair(
    bench.session,
    pairMechanisms[attempt.mechanism as keyof typeof pairMechanisms],
    template(
      [CKA_EC_PARAMS, edwards25519Forms[attempt.curve]],
      ...placed(bench.device.publicAttributes, inToken),
      ...names,
    ),
    template(...placed(bench.device.privateAttributes, inToken), ...names),
  );
}

async function signing(bench: Bench, made: Made): Promise<Pick<NativeTrial, 'signs'> | undefined> {
  bench.step('C_GetAttributeValue: what was made');
  const read = (object: Handle, type: number) => bench.cryptoki.attribute(bench.session, object, type);
  const point = read(made.publicKey, CKA_EC_POINT) ?? read(made.privateKey, CKA_EC_POINT);
  if (!point) {
    bench.reasons.push('The token shows no public key: neither half of the pair has CKA_EC_POINT.');
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
    bench.reasons.push('The token did not make the key sensitive and unextractable, as it was asked to.');
    return undefined;
  }
  const publicKey = publicKeyIn(point, bench);
  if (!publicKey) return undefined;
  const verifier = createVerifier(publicKey);
  const message = randomBytes(message_bytes);
  const sign: Operation = {
    once: own => bench.cryptoki.sign(own, CKM_EDDSA, made.privateKey, message),
    check: async signature => {
      if (!(await verifier.verify(message, signature))) throw new UnverifiedError();
    },
  };
  bench.step('C_Sign');
  return (await bench.works('Signing', sign)) ? { signs: { pair, sign } } : undefined;
}

function publicKeyIn(point: Buffer, bench: Bench): Uint8Array | undefined {
  try {
    return publicKeyOfEcPoint(point);
  } catch (thrown) {
    if (!isKeyslotError(thrown)) throw thrown;
    bench.reasons.push(thrown.message);
    return undefined;
  }
}

interface Made extends Omit<Attempt, 'outcome'> {
  readonly publicKey: Handle;
  readonly privateKey: Handle;
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

import type { ModuleReport } from '../../engines/pkcs11/index.ts';
import { toKeyslotError } from '../../foundation/errors.ts';

/** What is wrong and what to do about it. */
export interface Problem {
  readonly code: string;
  readonly detail: string;
  readonly remedy: string;
}

export const problemText = ({ code, detail, remedy }: Problem): string =>
  `problem: ${code}: ${detail}\n  to do: ${remedy}`;

const unsuitable = (detail: string, remedy: string): Problem => ({
  code: 'TOKEN_UNSUITABLE',
  detail,
  remedy,
});

export const mechanismProblems: Record<
  'native' | 'wrapped',
  (token: ModuleReport['tokens'][number]) => readonly Problem[]
> = {
  native: ({ eddsa, edwardsKeyPairGen, mechanisms, modes }) => [
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
    // Some make Edwards pairs by the mechanism of the other curves; whether this one does is seen when it is tried.
    ...(edwardsKeyPairGen || !eddsa || mechanisms.includes('EC_KEY_PAIR_GEN')
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

export const pinProblems: Record<ModuleReport['tokens'][number]['pin'], readonly Problem[]> = {
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

export function problemOf(thrown: unknown): Problem {
  const error = toKeyslotError(thrown);
  return { code: error.code, detail: error.message, remedy: error.entry.remedy };
}

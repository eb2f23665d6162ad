import { z } from 'zod';
import type { CustodyLabel } from '../custody/engine.ts';
import { isId } from '../custody/ids.ts';
import { decodeBase58 } from '../foundation/base58.ts';
import { publicKey_bytes } from '../foundation/ed25519.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { programNames } from './named-programs.ts';
import { powers } from './programs/powers.ts';

/**
 * A policy as people write it, in YAML or JSON. Whatever it does not allow is refused, and so is a field that is
 * not described here. `docs/policy.md` explains each rule.
 *
 * Throws POLICY_INVALID and names the field.
 *
 * @example
 * const policy = compilePolicy(parsePolicy({ name: 'quiet', appliesTo: 'all', messages: { offchain: true } }), 1);
 */
export function parsePolicy(given: unknown): PolicyDocument {
  const parsed = policyDocument.safeParse(given);
  if (!parsed.success) throw new KeyslotError('POLICY_INVALID', firstIssue(parsed.error));
  return parsed.data;
}

const u64_max = 2n ** 64n - 1n;

/** Milliseconds of `90s`, `15m`, `24h` or `7d`. */
export function duration_ms(text: string): number {
  return Number(text.slice(0, -1)) * (units_ms[text.at(-1) ?? ''] ?? Number.NaN);
}

const units_ms: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const window_ms_max = 31 * 86_400_000;

const id = z.string().refine(isId, 'must be 1 to 63 of a-z, 0-9 and "-", beginning with a letter or a digit');
const identity = z.string().min(1).max(255);

const address = z
  .string()
  .refine(text => decodeBase58(text, 44)?.length === publicKey_bytes, 'must be an address in base58');

const program = z
  .string()
  .refine(
    text => programNames.includes(text) || decodeBase58(text, 44)?.length === publicKey_bytes,
    `must be an address in base58, or one of ${programNames.join(', ')}`,
  );

const power = z
  .string()
  .refine(text => Object.hasOwn(powers, text), `must be one of ${Object.keys(powers).join(', ')}`);

/** A whole number: as a number up to 2^53 - 1, beyond that as decimal digits in quotes. */
const amount = z
  .union([z.int().nonnegative(), z.string().regex(/^\d{1,20}$/, 'must be a whole number')])
  .transform(value => BigInt(value))
  .refine(value => value <= u64_max, 'must be below 2^64');

const duration = z
  .string()
  .regex(/^[1-9]\d{0,5}[smhd]$/, 'must be a duration like 90s, 15m, 24h or 7d')
  .refine(text => duration_ms(text) <= window_ms_max, 'must be at most 31d');

const any = z.literal('any');

/** `self` stands for the key that signs. */
const self = z.literal('self');

const timeOfDay = z.string().regex(/^(([01]\d|2[0-3]):[0-5]\d|24:00)$/, 'must be a time like 08:30');

const zone = z.string().max(64).refine(isTimeZone, 'must be an IANA time zone like Europe/Zurich');

const custodyLabels = [
  'hsm-native',
  'hsm-wrapped',
  'kms-native',
  'kms-envelope',
  'threshold',
  'shamir-envelope',
  'simulated-hsm',
  'simulated-kms',
  'encrypted-file',
  'memory',
] as const satisfies readonly CustodyLabel[];

const programs = z.union([
  any,
  z
    .array(
      z.strictObject({
        program,
        instructions: z.union([any, z.array(z.string().regex(/^[a-z0-9-]{1,60}$/)).max(100)]).default('any'),
        /** Instructions that Keyslot cannot read are let through: what they do is not counted by any rule. */
        opaque: z.boolean().default(false),
      }),
    )
    .max(100),
]);

const windowCap = z
  .strictObject({
    id: id.optional(),
    window: duration,
    lamports: amount.optional(),
    mint: address.optional(),
    amount: amount.optional(),
    per: z.enum(['policy', 'key', 'identity']).default('policy'),
  })
  .refine(
    cap =>
      (cap.mint === undefined) === (cap.amount === undefined) &&
      (cap.lamports === undefined) !== (cap.mint === undefined),
    'must have either lamports, or mint and amount',
  );

const caps = z.strictObject({
  perTransaction: z
    .strictObject({
      lamports: amount.optional(),
      tokens: z
        .array(z.strictObject({ mint: address, amount }))
        .max(100)
        .default([]),
    })
    .default({ tokens: [] }),
  windows: z.array(windowCap).max(50).default([]),
});

const transactions = z.strictObject({
  programs: programs.default([]),
  /** Whom lamports and tokens may go to. An address stands for its associated token accounts of `mints` too. */
  destinations: z.union([any, z.array(z.union([self, z.literal('nobody'), address])).max(500)]).default([]),
  mints: z.union([any, z.array(address).max(100)]).default([]),
  caps: caps.default({ perTransaction: { tokens: [] }, windows: [] }),
  /** When the key pays. Without it only the base fee of 5,000 lamports a signature is paid. */
  fees: z
    .union([
      any,
      z.strictObject({ max_lamports: amount.optional(), priority_max_lamports: amount.optional() }),
    ])
    .default({ priority_max_lamports: 0n }),
  feePayer: z.union([self, any, z.array(z.union([self, address])).max(100)]).default('self'),
  durableNonce: z.enum(['allow', 'refuse']).default('refuse'),
  authorityChanges: z
    .union([
      z.enum(['none', 'any']),
      z
        .array(
          z.strictObject({
            powers: z.union([any, z.array(power).min(1).max(50)]),
            accounts: z.union([any, z.array(address).max(500)]).default('any'),
            to: z.union([any, z.array(z.union([self, z.literal('nobody'), address])).max(500)]),
          }),
        )
        .max(100),
    ])
    .default('none'),
  /** The programs that new accounts may be given to. */
  createAccounts: z.union([z.enum(['none', 'any']), z.array(program).max(100)]).default('none'),
  lookupTables: z
    .union([
      z.enum(['refuse', 'resolved', 'any']),
      z.array(z.strictObject({ table: address, addresses: z.array(address).max(256).optional() })).max(100),
    ])
    .default('refuse'),
});

const messages = z.union([
  z.literal('none'),
  z.strictObject({
    /** Messages in the off-chain envelope, which no transaction can begin with. */
    offchain: z.boolean().default(false),
    bytes: z
      .union([
        z.enum(['none', 'any']),
        z.strictObject({ prefixes: z.array(z.string().min(1).max(200)).min(1).max(50) }),
      ])
      .default('none'),
    /** Bytes that a validator would read as a transaction. Whoever may sign these, may sign anything. */
    raw: z.boolean().default(false),
  }),
]);

const days = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const;

export const policyDocument = z
  .strictObject({
    name: id,
    description: z.string().max(2_000).default(''),
    appliesTo: z.union([
      z.literal('all'),
      z
        .strictObject({
          keys: z.array(id).max(1_000).default([]),
          tags: z.array(z.string().min(1).max(63)).max(100).default([]),
          slots: z.array(id).max(100).default([]),
        })
        .refine(
          scope => scope.keys.length + scope.tags.length + scope.slots.length > 0,
          'must name a key, a tag or a slot',
        ),
    ]),
    /** Who may ask; without it everybody whom the grants let in. */
    identities: z.array(identity).max(500).optional(),
    /** What the key must be kept in; without it any custody. */
    custody: z.array(z.enum(custodyLabels)).min(1).optional(),
    /** When it may sign; without it at any time. */
    times: z
      .array(
        z
          .strictObject({ days: z.array(z.enum(days)).min(1), from: timeOfDay, to: timeOfDay, zone })
          .refine(time => time.from !== time.to, 'must not end when it begins')
          .refine(time => time.from !== '24:00', 'must not begin at 24:00'),
      )
      .min(1)
      .max(50)
      .optional(),
    rate: z
      .array(
        z.strictObject({
          id: id.optional(),
          max: z.int().min(0).max(1_000_000_000),
          window: duration,
          per: z.enum(['policy', 'key', 'identity']).default('key'),
        }),
      )
      .max(20)
      .default([]),
    transactions: transactions.optional(),
    messages: messages.default('none'),
  })
  .superRefine((document, context) => {
    const spending = document.transactions;
    if (!spending) return;
    const { destinations, mints } = spending;
    if (handsOnToAnybody(spending) && !letsAnythingLeave(spending)) {
      const message =
        'may go to anybody only where destinations are any and nothing is capped: powers move funds';
      context.addIssue({ code: 'custom', path: ['transactions', 'authorityChanges'], message });
    }
    if (destinations === 'any' || mints === 'any') return;
    if (destinations.length * mints.length > associatedAccounts_max) {
      const message = `destinations times mints must be at most ${associatedAccounts_max}`;
      context.addIssue({ code: 'custom', path: ['transactions', 'destinations'], message });
    }
  });

// Each pair means two associated token accounts, which take a millisecond or more each to derive.
const associatedAccounts_max = 250;

export type PolicyDocument = z.output<typeof policyDocument>;
export type TransactionRules = NonNullable<PolicyDocument['transactions']>;
export type MessageRules = PolicyDocument['messages'];
export type Weekday = (typeof days)[number];

function handsOnToAnybody({ authorityChanges }: z.output<typeof transactions>): boolean {
  if (typeof authorityChanges === 'string') return authorityChanges === 'any';
  return authorityChanges.some(change => change.to === 'any');
}

function letsAnythingLeave({
  destinations,
  caps: { perTransaction, windows },
}: z.output<typeof transactions>) {
  const capped = perTransaction.lamports !== undefined || perTransaction.tokens.length + windows.length > 0;
  return destinations === 'any' && !capped;
}

function isTimeZone(text: string): boolean {
  try {
    new Intl.DateTimeFormat('en-US', { timeZone: text });
    return true;
  } catch (error) {
    if (error instanceof RangeError) return false;
    throw error;
  }
}

function firstIssue(error: z.ZodError): string {
  const [first] = error.issues;
  if (!first) return 'The policy is not valid.';
  const issue = insideUnion(first);
  if (issue.code === 'unrecognized_keys') {
    return `${[...issue.path, issue.keys[0]].join('.')} is not a field of a policy.`;
  }
  return `${issue.path.join('.') || 'The policy'}: ${issue.message}.`;
}

/** What is wrong with the member of a union that was meant: the one that failed deepest. */
function insideUnion(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== 'invalid_union') return issue;
  const inner = issue.errors
    .flatMap(member => member.slice(0, 1))
    .map(one => insideUnion({ ...one, path: [...issue.path, ...one.path] }))
    .toSorted((one, other) => depth(other) - depth(one))[0];
  return inner && depth(inner) > issue.path.length ? inner : issue;
}

const depth = (issue: z.core.$ZodIssue): number =>
  issue.path.length + (issue.code === 'unrecognized_keys' ? 1 : 0);

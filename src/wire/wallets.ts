import { z } from 'zod';

/**
 * The bodies of the wallet routes, which are another program's contract: there unknown fields are ignored, and
 * a body that does not fit is answered with zod's flat list of what is wrong. And what a Solana RPC node answers.
 */

export const walletBodies = {
  create: z.object({
    label: z.string().min(1).max(128).optional(),
    autoFund: z.boolean().optional(),
    fundLamports: z.int().positive().max(10_000_000_000).optional(),
  }),
  sign: z
    .object({ transaction: z.string().min(1).optional(), message: z.string().min(1).optional() })
    .refine(({ transaction, message }) => (transaction === undefined) !== (message === undefined), {
      message: 'Provide exactly one of transaction or message',
    }),
} as const;

export interface FlatIssues {
  readonly formErrors: readonly string[];
  readonly fieldErrors: Readonly<Record<string, readonly string[] | undefined>>;
}

/** The body, or what is wrong with it. */
export function readWalletBody<S extends z.ZodType>(
  schema: S,
  body: unknown,
): { readonly body: z.infer<S> } | { readonly issues: FlatIssues } {
  const parsed = schema.safeParse(body);
  return parsed.success ? { body: parsed.data } : { issues: z.flattenError(parsed.error) };
}

const rpcFailure = z.object({ error: z.object({ code: z.number() }) });

/** JSON-RPC 2.0 replies of a node, as far as they are used. */
export const rpcReplies = {
  getBalance: z.union([rpcFailure, z.object({ result: z.object({ value: z.number().nonnegative() }) })]),
  getTokenAccountsByOwner: z.union([
    rpcFailure,
    z.object({
      result: z.object({
        value: z.array(z.object({ account: z.object({ data: z.unknown() }) })),
      }),
    }),
  ]),
} as const;

/** A token account as `jsonParsed` shows it; what the node could not parse, or is no account, is none. */
export const tokenAccount = z.object({
  program: z.enum(['spl-token', 'spl-token-2022']),
  parsed: z.object({
    type: z.literal('account'),
    info: z.object({
      mint: z.string(),
      tokenAmount: z.object({
        amount: z.string(),
        decimals: z.int().nonnegative(),
        uiAmount: z.number().nullable(),
      }),
    }),
  }),
});

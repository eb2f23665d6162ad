import { encodeBase58 } from '../foundation/base58.ts';
import type { Account, Effect, Facts, MessageFacts, TransactionFacts } from './facts.ts';

/** Facts as people and JSON read them: addresses in base58, amounts in decimal digits. */
export type FactsDescription = TransactionDescription | MessageDescription;

export interface TransactionDescription {
  readonly kind: 'transaction';
  readonly version: string;
  readonly feePayer: string;
  readonly durableNonce: boolean;
  readonly fees: {
    readonly base_lamports: string;
    /** `null` when the instructions contradict one another. */
    readonly priority_lamports: string | null;
    readonly computeUnitLimit?: number;
    readonly computeUnitPrice_microLamports?: string;
  };
  readonly lookupTables: readonly { readonly address: string; readonly resolved: string }[];
  readonly instructions: readonly InstructionDescription[];
}

export interface InstructionDescription {
  readonly program: string;
  readonly name: string;
  readonly understood: boolean;
  readonly accounts: readonly AccountDescription[];
  /** In base64. */
  readonly data: string;
  readonly effects: readonly EffectDescription[];
}

export interface AccountDescription {
  /** `#7 (hidden)` for the seventh account when a lookup table hides its address. */
  readonly address: string;
  readonly signer: boolean;
  readonly writable: boolean;
  readonly table?: string;
}

/** `kind`, and the other fields of the effect. */
export type EffectDescription = Readonly<Record<string, string | number | boolean | null>>;

export interface MessageDescription {
  readonly kind: 'message';
  readonly form: MessageFacts['form'];
  readonly length_bytes: number;
  readonly offchain?: {
    readonly version: number;
    readonly signers: readonly string[];
    readonly text: string;
  };
}

/** The whole decode. Encodes every address, so it is for people who ask and not for each signature. */
export function describeFacts(facts: Facts): FactsDescription {
  return facts.kind === 'transaction' ? describeTransaction(facts) : describeMessage(facts);
}

function describeTransaction(facts: TransactionFacts): TransactionDescription {
  const { base_lamports, priority_lamports, computeUnitLimit, computeUnitPrice_microLamports } = facts.fees;
  return {
    kind: 'transaction',
    version: facts.view.version,
    feePayer: addressOf(facts.feePayer),
    durableNonce: facts.durableNonce,
    fees: {
      base_lamports: String(base_lamports),
      priority_lamports: priority_lamports === undefined ? null : String(priority_lamports),
      ...(computeUnitLimit !== undefined && { computeUnitLimit }),
      ...(computeUnitPrice_microLamports !== undefined && {
        computeUnitPrice_microLamports: String(computeUnitPrice_microLamports),
      }),
    },
    lookupTables: facts.tables.map(({ key, resolved }) => ({ address: encodeBase58(key), resolved })),
    instructions: facts.instructions.map(({ program, name, understood, accounts, data, effects }) => ({
      program: addressOf(program),
      name,
      understood,
      accounts: accounts.map(describeAccount),
      data: Buffer.from(data).toString('base64'),
      effects: effects.map(describeEffect),
    })),
  };
}

const describeAccount = (account: Account): AccountDescription => ({
  address: addressOf(account),
  signer: account.signer,
  writable: account.writable,
  ...(account.table && { table: encodeBase58(account.table) }),
});

function describeEffect(effect: Effect): EffectDescription {
  switch (effect.kind) {
    case 'lamports':
      return {
        kind: effect.kind,
        from: addressOf(effect.from),
        to: addressOf(effect.to),
        amount: String(effect.amount),
      };
    case 'tokens':
      return {
        kind: effect.kind,
        program: effect.program,
        mint: effect.mint ? addressOf(effect.mint) : null,
        ...(effect.decimals !== undefined && { decimals: effect.decimals }),
        from: effect.from ? addressOf(effect.from) : null,
        to: effect.to ? addressOf(effect.to) : null,
        authority: addressOf(effect.authority),
        amount: String(effect.amount),
      };
    case 'authority':
      return {
        kind: effect.kind,
        power: effect.power,
        account: addressOf(effect.account),
        to: effect.unseen ? 'hidden' : effect.toKey ? encodeBase58(effect.toKey) : null,
        ...(effect.limit !== undefined && { limit: String(effect.limit) }),
        ...(effect.initial && { initial: true }),
      };
    case 'create-account':
      return {
        kind: effect.kind,
        account: addressOf(effect.account),
        owner: encodeBase58(effect.owner),
        space_bytes: String(effect.space),
        ...(effect.associated && {
          wallet: addressOf(effect.associated.wallet),
          mint: addressOf(effect.associated.mint),
        }),
      };
    case 'memo':
      return { kind: effect.kind, text: effect.text ?? null };
    case 'other':
      return { kind: effect.kind };
  }
}

const describeMessage = ({ form, bytes, offchain }: MessageFacts): MessageDescription => ({
  kind: 'message',
  form,
  length_bytes: bytes.length,
  ...(offchain && {
    offchain: {
      version: offchain.version,
      signers: offchain.signers.map(encodeBase58),
      text: Buffer.from(offchain.body).toString('utf8'),
    },
  }),
});

const addressOf = ({ key, index }: Account): string =>
  key === undefined ? `#${index} (hidden)` : encodeBase58(key);

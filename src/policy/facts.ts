import type { OffchainMessage } from '../solana/offchain-message.ts';
import type { TransactionView } from '../solana/transaction.ts';

/**
 * What a request would do, as far as its bytes say: the ground that every rule of a policy stands on. Facts are
 * made once a request, before any policy is asked, and say of everything that they could not read that it could
 * not be read. Keys are subarrays of the transaction; amounts are raw (lamports, or the token's smallest unit).
 */
export type Facts = TransactionFacts | MessageFacts;

export interface TransactionFacts {
  readonly kind: 'transaction';
  readonly view: TransactionView;
  /** Static keys first, then what the lookup tables load: first the writable ones of all tables, then the others. */
  readonly accounts: readonly Account[];
  readonly feePayer: Account;
  readonly instructions: readonly InstructionFacts[];
  readonly fees: Fees;
  /** Begins with AdvanceNonceAccount (and so its blockhash is a nonce): such a transaction does not expire. */
  readonly durableNonce: boolean;
  readonly tables: readonly LookupTable[];
}

export interface MessageFacts {
  readonly kind: 'message';
  /** Off-chain envelope, or any other bytes; `transaction` bytes are facts of a message only under the raw right. */
  readonly form: 'offchain' | 'bytes' | 'raw-transaction';
  readonly bytes: Uint8Array;
  readonly offchain?: OffchainMessage;
}

export interface Account {
  readonly index: number;
  /** Absent when a lookup table loads it that could not be seen through. */
  readonly key: Uint8Array | undefined;
  readonly signer: boolean;
  readonly writable: boolean;
  /** The table that loads it. */
  readonly table?: Uint8Array;
}

export interface LookupTable {
  readonly key: Uint8Array;
  /** How its addresses became known: from a node, from the policy or configuration that lists them, or not at all. */
  readonly resolved: 'rpc' | 'listed' | 'unresolved';
}

export interface InstructionFacts {
  readonly index: number;
  readonly program: Account;
  /** `system.transfer`, `token.transfer-checked`, `token-2022.set-authority` …; `unknown` for a program without a decoder. */
  readonly name: string;
  /**
   * False when there is no decoder for the program, or its decoder did not recognise or fully consume the data, or
   * may do more than the effects say. The effects may still hold what is known.
   */
  readonly understood: boolean;
  readonly accounts: readonly Account[];
  readonly data: Uint8Array;
  readonly effects: readonly Effect[];
}

/** What an understood instruction would do. An instruction may have several effects, and none (a memo has one). */
export type Effect =
  /**
   * Lamports leave an account: this amount, or at most this where it depends on the chain (rent of an account that
   * may be there already). `all` when it is what the account holds (a closed account), which the bytes do not say.
   */
  | {
      readonly kind: 'lamports';
      readonly from: Account;
      readonly to: Account;
      readonly amount: bigint | 'all';
    }
  /**
   * Token units leave a token account, are burned (`to` absent), or are minted (`from` absent). The mint is known
   * from the checked forms; `undefined` where the bytes do not say it. `authority` signs for it.
   */
  | {
      readonly kind: 'tokens';
      readonly program: 'token' | 'token-2022';
      readonly mint: Account | undefined;
      readonly decimals: number | undefined;
      readonly from: Account | undefined;
      readonly to: Account | undefined;
      readonly authority: Account;
      readonly amount: bigint | 'all';
    }
  /**
   * The power over an account is handed to somebody: an owner, a delegate, a close, mint or freeze authority, a
   * staker, a withdrawer, a voter, a nonce authority, an owning program (`assign`). `to` is absent when the power
   * is given up, and the key is absent in it when the bytes hold one that is no account of the transaction: then
   * `toKey` has it. `limit` is what a delegate may move. `initial` when the account is being initialised, so that
   * nobody had the power before. `unseen` when somebody does get it, whose key a lookup table hides.
   */
  | {
      readonly kind: 'authority';
      readonly power: string;
      readonly account: Account;
      readonly toKey: Uint8Array | undefined;
      readonly limit?: bigint;
      readonly initial?: true;
      readonly unseen?: true;
    }
  /**
   * An account is made with lamports and given to a program; the lamports are an effect of their own. An associated
   * token account says whose it is and of which mint: then `space` is the most that it may need.
   */
  | {
      readonly kind: 'create-account';
      readonly account: Account;
      readonly owner: Uint8Array;
      readonly space: bigint;
      readonly associated?: { readonly wallet: Account; readonly mint: Account };
    }
  | { readonly kind: 'memo'; readonly text: string | undefined }
  /** Anything else that an understood instruction does and that moves nothing (sync-native, initialise …). */
  | { readonly kind: 'other' };

export interface Fees {
  /** 5,000 lamports a signature. */
  readonly base_lamports: bigint;
  /**
   * What the transaction offers beyond that, at most: of ComputeBudget (limit × price, rounded up; the limit that a
   * validator assumes where none is set), or of the config of v1. `undefined` when the instructions contradict
   * one another, which no validator executes.
   */
  readonly priority_lamports: bigint | undefined;
  readonly computeUnitLimit: number | undefined;
  readonly computeUnitPrice_microLamports: bigint | undefined;
}

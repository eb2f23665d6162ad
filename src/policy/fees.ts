import type { TransactionView } from '../solana/transaction.ts';
import type { Fees } from './facts.ts';
import { computeBudget } from './programs/compute-budget.ts';
import { type Program, u32At, u64At } from './programs/instruction.ts';
import { precompiles } from './programs/precompiles.ts';

/** Collects, instruction by instruction, what a transaction pays beyond what it moves, at most. */
export class Budget {
  #limit: number | undefined;
  #price_microLamports: bigint | undefined;
  #seen = 0;
  #contradicts = false;
  // Where no limit is set: more than a validator assumes, which takes 3,000 units for programs that are built in.
  #assumedLimit = 0;
  // Precompiles verify signatures, each of which costs what a signature of the transaction costs.
  #verifications = 0;

  take(program: Program | undefined, data: Uint8Array): void {
    this.#assumedLimit += program === computeBudget ? unitsOfBudget : unitsOfInstruction;
    if (program === computeBudget) this.#set(data);
    else if (program && precompiles.includes(program)) this.#verifications += data[0] ?? 0;
  }

  fees(view: TransactionView): Fees {
    const { config } = view;
    const limits = [this.#limit, config?.computeUnitLimit].filter(one => one !== undefined);
    const limit = limits.length === 0 ? undefined : Math.max(...limits);
    const contradicts = this.#contradicts;
    return {
      base_lamports: BigInt((view.signatureCount + this.#verifications) * lamportsPerSignature),
      // v1 offers lamports in its config. The instructions have no effect beside it: to count them errs upwards.
      priority_lamports: contradicts ? undefined : (config?.priorityFee ?? 0n) + this.#offer_lamports(limit),
      computeUnitLimit: contradicts ? undefined : limit,
      computeUnitPrice_microLamports: contradicts ? undefined : this.#price_microLamports,
    };
  }

  // ComputeBudgetInstruction, in borsh; bytes behind it count for nothing. No validator executes a transaction that
  // has one of them twice, or one that cannot be read, or the long gone RequestUnits (0).
  #set(data: Uint8Array): void {
    const tag = data[0] ?? 0;
    const length_min = tag === 3 ? 9 : 5;
    if (tag < 1 || tag > 4 || data.length < length_min || this.#seen & (1 << tag)) this.#contradicts = true;
    else if (tag === 2) this.#limit = u32At(data, 1);
    else if (tag === 3) this.#price_microLamports = u64At(data, 1);
    this.#seen |= 1 << (tag & 7);
  }

  #offer_lamports(limit: number | undefined): bigint {
    if (this.#price_microLamports === undefined) return 0n;
    const units = Math.min(limit ?? this.#assumedLimit, units_max);
    const offer = (BigInt(units) * this.#price_microLamports + 999_999n) / 1_000_000n;
    return offer > u64_max ? u64_max : offer;
  }
}

const lamportsPerSignature = 5_000;
const units_max = 1_400_000;
const u64_max = 2n ** 64n - 1n;
// MAX_BUILTIN_ALLOCATION_COMPUTE_UNIT_LIMIT and DEFAULT_INSTRUCTION_COMPUTE_UNIT_LIMIT of Agave.
const unitsOfBudget = 3_000;
const unitsOfInstruction = 200_000;

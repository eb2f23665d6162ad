import { isKeyAt } from '../solana/public-key.ts';
import type { Effect, InstructionFacts, TransactionFacts } from './facts.ts';
import { nativeMints } from './named-programs.ts';

/**
 * Everything that a transaction moves, added up: what caps are held against. Rather too much than too little: it
 * counts whoever's funds they are and wherever they go, wrapped SOL as a token and as lamports, and the fees when
 * the key pays them.
 */
export interface Movement {
  lamports: bigint;
  /** One entry a mint. */
  readonly tokens: { readonly mint: Uint8Array; amount: bigint }[];
  /** What could not be counted: a cap on it cannot be kept, and refuses. */
  readonly uncounted: Uncounted[];
}

export interface Uncounted {
  readonly what: 'lamports' | 'anything';
  readonly reason: string;
  readonly instruction?: number;
}

/** `self` is the key that signs. */
export function movementOf(facts: TransactionFacts, self: Uint8Array): Movement {
  const movement: Movement = { lamports: 0n, tokens: [], uncounted: [] };
  for (const instruction of facts.instructions) {
    if (instruction.understood) {
      for (const effect of instruction.effects) count(movement, instruction, effect, self);
    } else {
      uncounted(
        movement,
        'anything',
        `${instruction.name} cannot be read, so what it moves is not known`,
        instruction,
      );
    }
  }
  if (isSelf(facts.feePayer.key, self)) countFees(movement, facts);
  return movement;
}

/** The amount of one mint. */
export function tokensOf(movement: Movement, mint: Uint8Array): bigint {
  for (const entry of movement.tokens) if (isKeyAt(mint, 0, entry.mint)) return entry.amount;
  return 0n;
}

export const isSelf = (key: Uint8Array | undefined, self: Uint8Array): boolean =>
  key !== undefined && isKeyAt(self, 0, key);

function count(movement: Movement, instruction: InstructionFacts, effect: Effect, self: Uint8Array): void {
  if (effect.kind === 'lamports') {
    if (effect.amount !== 'all') movement.lamports += effect.amount;
    // What an account held and the key itself receives leaves nobody's hands.
    else if (!isSelf(effect.to.key, self)) {
      uncounted(movement, 'lamports', `${instruction.name} moves whatever an account holds`, instruction);
    }
  } else if (effect.kind === 'tokens') {
    const mint = effect.mint?.key;
    if (mint === undefined) {
      uncounted(
        movement,
        'anything',
        `${instruction.name} does not say which token it moves; its checked form does`,
        instruction,
      );
    } else if (effect.amount === 'all') {
      uncounted(
        movement,
        'anything',
        `${instruction.name} moves whatever a token account holds`,
        instruction,
      );
    } else {
      countTokens(movement, mint, effect.amount);
    }
  }
}

function countTokens(movement: Movement, mint: Uint8Array, amount: bigint): void {
  if (nativeMints.some(native => isKeyAt(mint, 0, native))) movement.lamports += amount;
  for (const entry of movement.tokens) {
    if (!isKeyAt(mint, 0, entry.mint)) continue;
    entry.amount += amount;
    return;
  }
  movement.tokens.push({ mint, amount });
}

function countFees(movement: Movement, { fees }: TransactionFacts): void {
  movement.lamports += fees.base_lamports;
  if (fees.priority_lamports === undefined) {
    movement.uncounted.push({ what: 'lamports', reason: 'the priority fee is contradictory' });
  } else {
    movement.lamports += fees.priority_lamports;
  }
}

function uncounted(
  movement: Movement,
  what: Uncounted['what'],
  reason: string,
  instruction: InstructionFacts,
): void {
  movement.uncounted.push({ what, reason, instruction: instruction.index });
}

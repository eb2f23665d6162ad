import type { SlotId } from '../custody/ids.ts';
import { type CallAccount, type StageView, stageNames, trail_items_max } from '../wire/account.ts';
import type { Call, OperationName } from '../wire/custodian.ts';
import { type StageBoard, StageClock } from './stages.ts';

/** A call while it is answered: with what is to be told of it, where somebody wants to be told. */
export interface Noted extends Call {
  readonly notes?: CallNotes | undefined;
}

/** What is gathered of one call for its account. */
export class CallNotes {
  readonly began_ms: number = performance.now();
  identity: string | undefined;
  readonly #trail: StageView[] | undefined;
  #items = 0;
  #unsigned = 0;
  #slot: SlotId | undefined;
  #verdict: CallAccount['verdict'];
  #stages: number[] | undefined;

  constructor({ traced }: { readonly traced: boolean }) {
    this.#trail = traced ? [] : undefined;
  }

  get traced(): boolean {
    return this.#trail !== undefined;
  }

  /** A signature has ended, made or refused. */
  add(clock: StageClock): void {
    this.#items += 1;
    if (clock.outcome !== 'ok') this.#unsigned += 1;
    this.#slot = clock.slot;
    if (this.#verdict !== 'deny') this.#verdict = clock.verdict ?? this.#verdict;
    this.#stages ??= stageNames.map(() => 0);
    for (const [at, stage] of stageNames.entries()) this.#stages[at] = (this.#stages[at] ?? 0) + clock[stage];
    this.#trail?.push(...clock.trail);
  }

  /** `existing`: what the call named, as far as there is such a thing. */
  account(
    operation: OperationName,
    existing: { readonly key?: string; readonly slot?: string },
  ): CallAccount {
    const slot = this.#slot ?? existing.slot;
    return {
      operation,
      ...(this.identity === undefined ? {} : { identity: this.identity }),
      ...(existing.key === undefined ? {} : { key: existing.key }),
      ...(slot === undefined ? {} : { slot }),
      ...(this.#verdict ? { verdict: this.#verdict } : {}),
      ...(this.#items > 1 ? { items: this.#items, unsigned: this.#unsigned } : {}),
      took_ms: micro(performance.now() - this.began_ms),
      ...(this.#stages ? { stages: this.#stages.map(micro) } : {}),
      ...(this.#trail ? { trail: this.#trail.slice(0, trail_items_max).map(each => this.#since(each)) } : {}),
    };
  }

  #since(view: StageView): StageView {
    return { ...view, from_ms: micro(view.from_ms - this.began_ms), took_ms: micro(view.took_ms) };
  }
}

/** Measures a signature where somebody wants to know: whoever listens to the board, or the call's notes. */
export function stageClock(
  board: StageBoard,
  notes: CallNotes | undefined,
  about: { readonly operation: OperationName; readonly slot: SlotId },
): StageClock | undefined {
  if (!notes && !board.isHeard) return undefined;
  const ended = (clock: StageClock) => {
    notes?.add(clock);
    if (board.isHeard) board.tell(clock);
  };
  return new StageClock(about, ended, notes?.traced ? [] : undefined);
}

/** More digits say nothing, and are longer to write. */
const micro = (time_ms: number): number => Math.max(0, Math.round(time_ms * 1_000) / 1_000);

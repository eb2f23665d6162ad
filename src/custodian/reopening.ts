import { type ErrorCode, toKeyslotError } from '../foundation/errors.ts';
import { jittered } from '../foundation/jitter.ts';
import type { Log } from '../foundation/log.ts';
import type { SlotKeeper } from './slot-keeper.ts';

/**
 * Brings unattended slots back whose device was away when they were opened: tries again with growing pauses until
 * the slot opens, or its failure is one that time does not mend. A PIN that was refused is never tried again.
 */
export class Reopening implements Disposable {
  readonly #open: (keeper: SlotKeeper) => Promise<void>;
  readonly #log: Log;
  readonly #timers = new Map<SlotKeeper, NodeJS.Timeout>();
  #ended = false;

  readonly #unfollow = new Map<SlotKeeper, () => void>();

  constructor(open: (keeper: SlotKeeper) => Promise<void>, log: Log) {
    this.#open = open;
    this.#log = log;
  }

  follow(keeper: SlotKeeper): void {
    this.#unfollow.set(
      keeper,
      keeper.onState(() => this.#look(keeper)),
    );
    this.#look(keeper);
  }

  /** It is nobody's slot any more. */
  forget(keeper: SlotKeeper): void {
    this.#unfollow.get(keeper)?.();
    this.#unfollow.delete(keeper);
    clearTimeout(this.#timers.get(keeper));
    this.#timers.delete(keeper);
  }

  [Symbol.dispose](): void {
    this.#ended = true;
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  /** Somebody else may have opened or locked it meanwhile: then there is nothing to try. */
  #look(keeper: SlotKeeper): void {
    if (this.#ended || this.#timers.has(keeper) || !needsOpening(keeper)) return;
    this.#tryIn(keeper, pause_ms_min);
  }

  #tryIn(keeper: SlotKeeper, bound_ms: number): void {
    this.#timers.set(keeper, setTimeout(() => void this.#try(keeper, bound_ms), jittered(bound_ms)).unref());
  }

  async #try(keeper: SlotKeeper, bound_ms: number): Promise<void> {
    if (needsOpening(keeper)) {
      await this.#open(keeper).then(
        () => this.#log.info({ slot: keeper.id }, 'a slot opened again by itself'),
        thrown => this.#log.warn({ slot: keeper.id, err: toKeyslotError(thrown) }, 'a slot is still away'),
      );
    }
    this.#timers.delete(keeper);
    if (!this.#ended && this.#unfollow.has(keeper) && needsOpening(keeper))
      this.#tryIn(keeper, Math.min(bound_ms * 2, pause_ms_max));
  }
}

const needsOpening = (keeper: SlotKeeper): boolean =>
  !keeper.attended &&
  keeper.state === 'failed' &&
  !keeper.holdsSession &&
  keeper.reason !== undefined &&
  isAway(keeper.reason.code);

/** Whether it is the failure of a device that is away, and not of its settings or its PIN. */
export const isAway = (code: ErrorCode): boolean => away.has(code);

const away: ReadonlySet<ErrorCode> = new Set([
  'TOKEN_UNAVAILABLE',
  'TOKEN_NOT_FOUND',
  'TOKEN_ERROR',
  'TOKEN_CAPACITY',
  'KMS_UNAVAILABLE',
  'KMS_THROTTLED',
]);

const pause_ms_min = 1_000;
const pause_ms_max = 30_000;

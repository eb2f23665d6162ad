import type { SlotId } from '../custody/ids.ts';
import type { ErrorCode } from '../foundation/errors.ts';
import type { Stage, StageView } from '../wire/account.ts';
import type { OperationName } from '../wire/custodian.ts';

/** Where the time of one signature went. A stage that was not reached took none. */
export interface SignatureStages {
  readonly operation: OperationName;
  /** The slot that made the signature; where none was made, the one that its key is registered in. */
  readonly slot: SlotId;
  readonly outcome: 'ok' | ErrorCode;
  /** In milliseconds. */
  readonly times: StageTimes;
}

export type StageTimes = Readonly<Record<Stage, number>>;
export type StagesListener = (signature: SignatureStages) => void;

/**
 * Who is told of each signature when it has ended, made or refused; an item of a batch counts by itself. Listeners
 * are called in the turn of the signature, so they count and return.
 */
export class StageBoard {
  readonly #listeners = new Set<StagesListener>();

  /** Until it is disposed. */
  listen(listener: StagesListener): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  get isHeard(): boolean {
    return this.#listeners.size > 0;
  }

  tell(signature: SignatureStages): void {
    for (const listener of this.#listeners) listener(signature);
  }
}

/** Measures one signature, which begins by being decoded. It is in one stage at a time, or in none. */
export class StageClock implements SignatureStages, StageTimes {
  readonly operation: OperationName;
  slot: SlotId;
  outcome: 'ok' | ErrorCode = 'ok';
  decode = 0;
  policy = 0;
  intent = 0;
  sign = 0;
  verify = 0;
  result = 0;
  readonly #whenEnded: (clock: StageClock) => void;
  readonly #trail: StageView[] | undefined;
  #stage: Stage | undefined = 'decode';
  #since_ms: number;

  /** Its trail, where one is kept, has times of the monotonic clock. */
  constructor(
    about: { readonly operation: OperationName; readonly slot: SlotId },
    whenEnded: (clock: StageClock) => void,
    trail?: StageView[],
  ) {
    this.operation = about.operation;
    this.slot = about.slot;
    this.#whenEnded = whenEnded;
    this.#trail = trail;
    this.#since_ms = performance.now();
  }

  get times(): StageTimes {
    return this;
  }

  get trail(): readonly StageView[] {
    return this.#trail ?? [];
  }

  /** Whether a policy said yes; undefined when none was asked. */
  get verdict(): 'allow' | 'deny' | undefined {
    if (this.outcome === 'POLICY_DENIED') return 'deny';
    return this.intent > 0 || this.#stage === 'intent' ? 'allow' : undefined;
  }

  enter(stage: Stage): void {
    this.#leave(undefined);
    this.#stage = stage;
  }

  /** The signature is made, and has to be verified. */
  signedBy(slot: SlotId): void {
    this.slot = slot;
    this.enter('verify');
  }

  /** Waits for something that is no stage of this signature: for another request that makes the same one. */
  rest(): void {
    this.#leave(undefined);
    this.#stage = undefined;
  }

  /** The stage that it is in has failed, and is left. */
  failed(code: ErrorCode): void {
    this.#leave(code);
    this.#stage = undefined;
  }

  ended(outcome: 'ok' | ErrorCode): void {
    this.outcome = outcome;
    this.#leave(outcome === 'ok' ? undefined : outcome);
    this.#stage = undefined;
    this.#whenEnded(this);
  }

  #leave(code: ErrorCode | undefined): void {
    const now_ms = performance.now();
    const stage = this.#stage;
    if (stage) {
      const took_ms = now_ms - this.#since_ms;
      this[stage] += took_ms;
      const { slot } = this;
      this.#trail?.push({ stage, from_ms: this.#since_ms, took_ms, slot, ...(code ? { code } : {}) });
    }
    this.#since_ms = now_ms;
  }
}

import type { Handle } from 'pkcs11js';
import type { QueueState, SessionFigures } from '../../custody/engine.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import { limits } from '../../foundation/limits.ts';

/**
 * The sessions of one slot that sign, handed out first come, first served.
 *
 * A session on which an operation failed half-way is thrown away and a fresh one opened in its place: PKCS#11
 * leaves it in an active operation that nothing here could end (v3.1 §5.2). A call that does not come back is
 * answered with DEADLINE_EXCEEDED and its session written off: nobody touches it before the call has returned,
 * and then it is closed. The queue is bounded: SLOT_BUSY.
 *
 * The pool is also the circuit of its slot: paused it lets everybody wait, refusing it turns everybody away.
 */
export class SessionPool {
  readonly #open: () => Handle;
  readonly #discard: (session: Handle) => void;
  readonly #queue_max: number;
  readonly #call_ms: number;
  readonly #hung: Set<object>;
  readonly #whenHung: () => void;
  readonly #isFull: (error: unknown) => boolean;
  readonly #size: number;
  readonly #idle: Handle[] = [];
  readonly #waiting = new Set<Waiter>();
  readonly #calls = new Set<Call>();
  readonly #pauses = new Set<object>();
  #refusal: (() => KeyslotError) | undefined;
  #missing: number;
  #generation = 0;
  #closed = false;
  #whenIdle: PromiseWithResolvers<void> | undefined;
  #watch: NodeJS.Timeout | undefined;
  #full_until_ms = 0;
  #work_ms = 0;
  #writtenOffTotal = 0;

  /**
   * `hung` is where the calls are entered that have not come back in time, for as long as they have not.
   * `isFull` says of a failure to open a session that the token has none left: then those that there are do.
   */
  constructor(options: {
    size: number;
    queue_max: number;
    open(): Handle;
    discard(session: Handle): void;
    call_ms?: number;
    hung?: Set<object>;
    whenHung?(): void;
    isFull?(error: unknown): boolean;
  }) {
    this.#open = options.open;
    this.#discard = options.discard;
    this.#queue_max = options.queue_max;
    this.#call_ms = options.call_ms ?? limits.request_ms;
    this.#hung = options.hung ?? new Set();
    this.#whenHung = options.whenHung ?? (() => undefined);
    this.#isFull = options.isFull ?? (() => false);
    this.#size = options.size;
    this.#missing = options.size;
  }

  get busy(): number {
    return this.#calls.size;
  }

  /** Calls that have not come back in time. */
  get writtenOff(): number {
    let count = 0;
    for (const call of this.#calls) if (call.holdsPlace && call.writtenOff) count += 1;
    return count;
  }

  get figures(): Pick<SessionFigures, 'places_max' | 'busy' | 'waiting' | 'writtenOff' | 'writtenOffTotal'> {
    return {
      places_max: this.#size,
      busy: this.#calls.size,
      waiting: this.#waiting.size,
      writtenOff: this.writtenOff,
      writtenOffTotal: this.#writtenOffTotal,
    };
  }

  /** How busy it is; nothing is known of that while it is paused. */
  get queue(): QueueState {
    return { places: this.#size, work_ms: this.#pauses.size > 0 ? 0 : this.#work_ms };
  }

  /** True when every session has been written off, so that nothing can be done any more. */
  get exhausted(): boolean {
    return this.writtenOff >= this.#size;
  }

  /**
   * Runs the work on a session that nobody else uses meanwhile; any failure of the work ruins the session.
   * DEADLINE_EXCEEDED when the work does not come back in time.
   */
  async use<T>(work: (session: Handle) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const call = this.#take() ?? (await this.#wait(signal));
    if (signal?.aborted) {
      this.#giveBack(call);
      throw abortedError();
    }
    return await this.#run(call, work);
  }

  /** Runs the work on a session of its own, also while the pool is paused: how a token is tried. */
  async useFresh<T>(work: (session: Handle) => Promise<T>): Promise<T> {
    if (this.#closed) throw closedError();
    return await this.#run(this.#begun(this.#open(), false), work);
  }

  /** Lends no session until the returned function is called; who comes meanwhile waits. */
  pause(): () => void {
    const pause = {};
    this.#pauses.add(pause);
    return () => {
      if (this.#pauses.delete(pause)) this.#serveWaiting();
    };
  }

  /** Turns away who waits and who comes, until `admit`. */
  refuse(refusal: () => KeyslotError): void {
    this.#refusal = refusal;
    this.#turnAway(refusal);
  }

  admit(): void {
    this.#refusal = undefined;
    this.#serveWaiting();
  }

  /**
   * Has fresh sessions opened from here on. Those that are lent belong to nobody any more when they come back:
   * their numbers may be those of other sessions by then. `close` ends the idle ones, which makes sense only
   * while the module still knows them.
   */
  forget(close: boolean): void {
    this.#generation += 1;
    for (const call of this.#calls) if (!call.writtenOff) call.holdsPlace = false;
    this.#missing = this.#size - this.writtenOff;
    for (const session of this.#idle.splice(0)) if (close) this.#discard(session);
  }

  /** True when no call is running, within `bound_ms`. */
  async settled(bound_ms: number): Promise<boolean> {
    if (this.#calls.size === 0) return true;
    this.#whenIdle ??= Promise.withResolvers<void>();
    const idle = this.#whenIdle.promise.then(() => true);
    const late = Promise.withResolvers<boolean>();
    const timer = setTimeout(late.resolve, bound_ms, false);
    try {
      return await Promise.race([idle, late.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Refuses new work and who is waiting, then resolves when no session is in use; false after `bound_ms`. */
  async drain(bound_ms: number): Promise<boolean> {
    this.#closed = true;
    this.#turnAway(closedError);
    // Calls that were written off have had their time.
    const awaited = [...this.#calls].some(call => !call.writtenOff);
    const settled = awaited ? await this.settled(bound_ms) : this.#calls.size === 0;
    clearTimeout(this.#watch);
    for (const call of this.#calls) this.#hung.add(call);
    return settled;
  }

  /** The sessions that were idle at the end, for whoever closes them. */
  takeAll(): Handle[] {
    return this.#idle.splice(0);
  }

  #run<T>(call: Call, work: (session: Handle) => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      call.giveUp = reject;
      this.#worked(call, work).then(resolve, reject);
    });
  }

  async #worked<T>(call: Call, work: (session: Handle) => Promise<T>): Promise<T> {
    let result: T;
    try {
      result = await work(call.session);
    } catch (error) {
      this.#replace(call);
      throw error;
    }
    if (call.writtenOff && isDisposable(result)) result[Symbol.dispose](); // nobody takes it any more
    this.#work_ms += (performance.now() - call.since_ms - this.#work_ms) * recent;
    if (call.holdsPlace && !call.writtenOff) this.#giveBack(call);
    else this.#replace(call);
    return result;
  }

  #take(): Call | undefined {
    if (this.#closed) throw closedError();
    if (this.#refusal) throw this.#refusal();
    if (this.#pauses.size > 0) return undefined;
    const session = this.#idle.pop() ?? this.#openMissing();
    return session && this.#begun(session);
  }

  #begun(session: Handle, holdsPlace = true): Call {
    const call: Call = {
      session,
      generation: this.#generation,
      holdsPlace,
      since_ms: performance.now(),
      writtenOff: false,
      giveUp: undefined,
    };
    this.#calls.add(call);
    if (!this.#watch) this.#lookIn(this.#call_ms);
    return call;
  }

  /** One timer for all calls, because there are many calls and hardly one that hangs. */
  #lookIn(delay_ms: number, final = false): void {
    const due_ms = performance.now() + delay_ms;
    this.#watch = setTimeout(() => {
      this.#watch = undefined;
      // When the process stood still, calls have come back of which nobody has heard yet: once more, then.
      if (!final && performance.now() - due_ms > late_ms_max) this.#lookIn(late_ms_max, true);
      else this.#look();
    }, delay_ms).unref();
  }

  #look(): void {
    const now_ms = performance.now();
    let next_ms = Number.POSITIVE_INFINITY;
    for (const call of this.#calls) {
      if (call.writtenOff) continue;
      const left_ms = call.since_ms + this.#call_ms - now_ms;
      if (left_ms > 1) next_ms = Math.min(next_ms, left_ms);
      else this.#writeOff(call);
    }
    if (next_ms < Number.POSITIVE_INFINITY) {
      clearTimeout(this.#watch); // one that began meanwhile is due later
      this.#lookIn(next_ms);
    }
  }

  #writeOff(call: Call): void {
    call.writtenOff = true;
    this.#writtenOffTotal += 1;
    this.#hung.add(call);
    call.giveUp?.(hungError());
    this.#whenHung();
  }

  #openMissing(): Handle | undefined {
    if (this.#missing === 0) return undefined;
    const others = this.#calls.size > 0;
    if (others && performance.now() < this.#full_until_ms) return undefined;
    try {
      const opened = this.#open();
      this.#missing -= 1;
      return opened;
    } catch (error) {
      if (!others || !this.#isFull(error)) throw error;
      this.#full_until_ms = performance.now() + full_ms;
      return undefined;
    }
  }

  #wait(signal: AbortSignal | undefined): Promise<Call> {
    if (this.#waiting.size >= this.#queue_max) {
      throw new KeyslotError('SLOT_BUSY', `${this.#waiting.size} requests are waiting for a session.`, {
        retryAfter_s: 1,
      });
    }
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#waiting.delete(waiter);
        reject(abortedError());
      };
      const waiter: Waiter = {
        serve: call => {
          signal?.removeEventListener('abort', leave);
          resolve(call);
        },
        refuse: error => {
          signal?.removeEventListener('abort', leave);
          reject(error);
        },
      };
      signal?.addEventListener('abort', leave, { once: true });
      this.#waiting.add(waiter);
    });
  }

  #giveBack(call: Call): void {
    const [next] = this.#waiting;
    if (next && this.#pauses.size === 0 && !this.#refusal) {
      // From hand to hand, with no moment in which nothing runs, so that a drain waits for it.
      this.#serve(next, this.#begun(call.session));
    } else this.#idle.push(call.session);
    this.#ended(call);
  }

  #serve(waiter: Waiter, call: Call): void {
    this.#waiting.delete(waiter);
    waiter.serve(call);
  }

  #replace(call: Call): void {
    if (call.holdsPlace) this.#missing += 1;
    if (call.generation === this.#generation) this.#discard(call.session);
    this.#ended(call);
    this.#serveWaiting();
  }

  #serveWaiting(): void {
    try {
      for (const waiter of this.#waiting) {
        if (this.#closed || this.#refusal) return;
        const call = this.#take();
        if (!call) return; // served when a session comes back
        this.#serve(waiter, call);
      }
    } catch (error) {
      // Nobody else would serve them once no session is left.
      const [next] = this.#waiting;
      if (this.#calls.size === 0) this.#turnAway(() => error);
      else if (next) {
        this.#waiting.delete(next);
        next.refuse(error);
      }
    }
  }

  #turnAway(refusal: () => unknown): void {
    const turnedAway = [...this.#waiting];
    this.#waiting.clear();
    for (const waiter of turnedAway) waiter.refuse(refusal());
  }

  #ended(call: Call): void {
    this.#calls.delete(call);
    this.#hung.delete(call);
    if (this.#calls.size > 0) return;
    this.#whenIdle?.resolve();
    this.#whenIdle = undefined;
  }
}

// How long a token that had no session left is not asked for another one.
const full_ms = 30_000;

const late_ms_max = 100;

/** The weight of the last call in how long calls take of late. */
const recent = 1 / 16;

/** One session that is lent, and what became of it. */
interface Call {
  readonly session: Handle;
  readonly generation: number;
  readonly since_ms: number;
  /** Whether no other session may be opened in its place. */
  holdsPlace: boolean;
  writtenOff: boolean;
  giveUp: ((error: unknown) => void) | undefined;
}

const isDisposable = (value: unknown): value is Disposable =>
  typeof value === 'object' && value !== null && Symbol.dispose in value;

interface Waiter {
  serve(call: Call): void;
  refuse(error: unknown): void;
}

export const closedError = () => new KeyslotError('SESSION_CLOSED', 'The session of this slot was closed.');
export const abortedError = () =>
  new KeyslotError('REQUEST_ABORTED', 'The request was aborted while waiting.');
const hungError = () =>
  new KeyslotError('DEADLINE_EXCEEDED', 'A call to the token has not come back in time.');

/** Answers an abort at once; what the token has begun it finishes, on a session that stays taken meanwhile. */
export function untilAborted<T>(
  work: Promise<T>,
  signal: AbortSignal,
  refusal: () => KeyslotError = abortedError,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(refusal());
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

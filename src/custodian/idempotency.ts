import { createHash, createHmac, randomBytes } from 'node:crypto';
import type { Clock } from '../foundation/clock.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { Secret } from '../foundation/secret.ts';
import type { IdempotencyRow, IdempotencyRows } from '../store/idempotency.ts';
import { InFlightRepeats, refuseOther } from './in-flight-repeats.ts';

/**
 * Repeats of calls that change something, signing aside: under one Idempotency-Key of one identity a call is
 * made once, and a repeat within the retention gets the first answer again. Failures are not kept.
 *
 * An answer is durable before it is given. Secrets never are: what carries bytes in its request (a PIN, a seed)
 * is kept in memory alone, with a digest under a key of this boot, so that nothing is left from which a PIN could
 * be guessed; bytes of an answer (a token, an exported seed) are kept in memory for ten minutes. After that, or
 * after a restart, a repeat of such a call is refused with IDEMPOTENCY_CONFLICT rather than made again.
 *
 * A crash between the doing and the keeping is not hidden: the repeat is made again and meets the natural answer,
 * KEY_EXISTS or SLOT_OPEN. So does the repeat, after a restart, of a call that carried a PIN or a seed.
 */
export class Idempotency implements Disposable {
  readonly #rows: IdempotencyRows;
  readonly #clock: Clock;
  readonly #retention_ms: number;
  readonly #held_max: number;
  readonly #repeats = new InFlightRepeats<Answer>();
  /** The oldest first. */
  readonly #held = new Map<string, Held>();
  readonly #key = randomBytes(32);
  readonly #timer: NodeJS.Timeout;

  constructor(options: {
    rows: IdempotencyRows;
    clock: Clock;
    /** Default: a day. */
    retention_ms?: number;
    held_max?: number;
  }) {
    this.#rows = options.rows;
    this.#clock = options.clock;
    this.#retention_ms = options.retention_ms ?? retention_ms;
    this.#held_max = options.held_max ?? held_max;
    this.#timer = setInterval(() => this.#dropExpired(), sweep_ms).unref();
  }

  /**
   * IDEMPOTENCY_CONFLICT when the key was used for another call or other bytes. STORE_FAILED when the answer could
   * not be kept durably: the call was made, and a repeat gets its answer for as long as this process lives.
   */
  once<T extends Answer>(call: RepeatableCall, work: () => Promise<T>): Promise<T> {
    const id = sha256('call', call.identity, call.idempotencyKey);
    const digest = this.#digest(call);
    const outcome = this.#repeats.join(id.toString('hex'), digest, async () => {
      return (await this.#kept(id, digest)) ?? this.#keep({ id, digest, call, answer: await work() });
    });
    // The digest covers the operation: what was kept is an answer of the same one.
    return outcome as Promise<T>;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    for (const name of [...this.#held.keys()]) this.#drop(name);
  }

  async #kept(id: Buffer, digest: Uint8Array): Promise<Answer | undefined> {
    this.#dropExpired();
    const held = this.#held.get(id.toString('hex'));
    if (held) {
      refuseOther(held.digest, digest);
      return answerOf(held);
    }
    const row = await this.#rows.get(id, this.#clock.utc().getTime());
    if (!row) return undefined;
    refuseOther(row.digest, digest);
    return durableAnswer(row);
  }

  async #keep({ id, digest, call, answer }: Kept): Promise<Answer> {
    const name = id.toString('hex');
    const hasBytes = (answer.bytes?.length ?? 0) > 0;
    this.#hold(name, digest, answer, hasBytes ? secret_ms : this.#retention_ms);
    if (call.bytes?.length) return answer;
    const created_ms = this.#clock.utc().getTime();
    const output = hasBytes ? { withheld: true } : { output: answer.output };
    const expires_ms = created_ms + this.#retention_ms;
    await this.#rows.put([{ id, digest, output, bytes: [], created_ms, expires_ms }]);
    if (!hasBytes) this.#drop(name);
    return answer;
  }

  #hold(name: string, digest: Uint8Array, answer: Answer, for_ms: number): void {
    this.#held.set(name, {
      digest,
      output: structuredClone(answer.output),
      bytes: answer.bytes?.map(bytes => Secret.fromBytes(bytes)),
      until_ms: this.#clock.monotonic_ms() + for_ms,
    });
    for (const oldest of this.#held.keys()) {
      if (this.#held.size <= this.#held_max) break;
      this.#drop(oldest);
    }
  }

  #dropExpired(): void {
    const now_ms = this.#clock.monotonic_ms();
    for (const [name, { until_ms }] of this.#held) if (until_ms <= now_ms) this.#drop(name);
  }

  #drop(name: string): void {
    for (const secret of this.#held.get(name)?.bytes ?? []) secret[Symbol.dispose]();
    this.#held.delete(name);
  }

  #digest({ operation, input, bytes = [] }: RepeatableCall): Buffer {
    if (bytes.length === 0) return sha256(operation, input);
    const digest = createHmac('sha256', this.#key).update(canonical([operation, input, bytes.length]));
    for (const each of bytes) digest.update(`${each.length}:`).update(each);
    return digest.digest();
  }
}

export interface RepeatableCall {
  readonly identity: string;
  readonly operation: string;
  readonly input: unknown;
  /** What stands beside the input: for the calls that this is for, always secret. */
  readonly bytes?: readonly Uint8Array[] | undefined;
  readonly idempotencyKey: string;
}

/** As the custodian answers: JSON, and byte strings beside it. */
export interface Answer {
  readonly output: unknown;
  readonly bytes?: readonly Uint8Array[];
}

interface Kept {
  readonly id: Buffer;
  readonly digest: Uint8Array;
  readonly call: RepeatableCall;
  readonly answer: Answer;
}

interface Held {
  readonly digest: Uint8Array;
  readonly output: unknown;
  readonly bytes: readonly Secret[] | undefined;
  readonly until_ms: number;
}

const answerOf = ({ output, bytes }: Held): Answer => ({
  output: structuredClone(output),
  ...(bytes ? { bytes: bytes.map(secret => secret.use(each => Uint8Array.from(each))) } : {}),
});

function durableAnswer({ output: kept }: IdempotencyRow): Answer {
  if (typeof kept === 'object' && kept !== null && 'output' in kept) return { output: kept.output };
  throw new KeyslotError(
    'IDEMPOTENCY_CONFLICT',
    'The call was made under this Idempotency-Key; its answer held a secret and is not kept any more.',
  );
}

const sha256 = (...parts: readonly unknown[]): Buffer =>
  createHash('sha256').update(canonical(parts)).digest();

/** JSON with the fields of every object in one order, whatever order they were sent in. */
const canonical = (value: unknown): string =>
  JSON.stringify(value, (_name, each: unknown) =>
    typeof each === 'object' && each !== null && !Array.isArray(each)
      ? Object.fromEntries(Object.entries(each).sort(([a], [b]) => (a < b ? -1 : 1)))
      : each,
  );

const retention_ms = 24 * 60 * 60_000;
/** How long an answer with a secret is kept. */
const secret_ms = 10 * 60_000;
const sweep_ms = 30_000;
/** Answers in memory. */
const held_max = 1_000;

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { StoredCheckpoint } from './checkpoint-files.ts';
import { errnoOf } from './log-file.ts';
import { replaceFile } from './replace-file.ts';
import { type Consistent, type Witness, type WitnessSettings, witnessOf } from './witness.ts';

/**
 * Whoever keeps copies of the checkpoints where the owner of this machine cannot take them back. Each witness
 * gets the newest checkpoint that it does not have, in its own time: one that is slow or away never holds up a
 * signature. How far each has come survives a restart.
 */
export class Witnesses {
  readonly #lanes: readonly Lane[];
  readonly #file: string;
  readonly #log: Log;
  #saving: Promise<void> = Promise.resolve();

  private constructor(folder: string, lanes: readonly Lane[], log: Log) {
    this.#file = join(folder, 'witnesses.json');
    this.#lanes = lanes;
    this.#log = log;
    for (const lane of lanes) lane.onWitnessed = () => this.#save();
  }

  static async open(options: WitnessesOptions): Promise<Witnesses> {
    const known = await savedSizes(join(options.folder, 'witnesses.json'));
    const lanes = options.witnesses.map(settings => {
      const witness = witnessOf(settings, options.consistent);
      return new Lane(witness, known.get(witness.id) ?? 0, options);
    });
    return new Witnesses(options.folder, lanes, options.log);
  }

  /** The largest size that any witness has. */
  get size(): number {
    return Math.max(0, ...this.#lanes.map(lane => lane.size));
  }

  status(): readonly { readonly id: string; readonly size: number; readonly error?: string }[] {
    return this.#lanes.map(({ id, size, error }) => ({
      id,
      size,
      ...(error === undefined ? {} : { error }),
    }));
  }

  /**
   * Holds the log against what witnesses have, as far as they can be asked: AUDIT_TAMPERED when one has seen
   * more than the log has, or something else.
   */
  async check(log_size: number): Promise<void> {
    for (const lane of this.#lanes) {
      if (lane.size > log_size) {
        const seen = `Witness ${lane.id} has seen ${lane.size} records`;
        throw new KeyslotError('AUDIT_TAMPERED', `${seen}, the log has ${log_size}: it was rolled back.`);
      }
      await lane.check();
    }
  }

  offer(checkpoint: StoredCheckpoint): void {
    for (const lane of this.#lanes) lane.offer(checkpoint);
  }

  /** Waits a moment for what is under way, and gives up the rest: it is offered again at the next start. */
  async stop(): Promise<void> {
    await Promise.all(this.#lanes.map(lane => lane.stop()));
    await this.#saving;
  }

  #save(): void {
    this.#saving = this.#saving.then(async () => {
      const sizes = Object.fromEntries(this.#lanes.map(({ id, size }) => [id, size]));
      try {
        await replaceFile(this.#file, `${JSON.stringify({ sizes })}\n`);
      } catch (err) {
        this.#log.warn({ err }, 'how far the witnesses are cannot be written');
      }
    });
  }
}

export interface WitnessesOptions {
  readonly folder: string;
  readonly witnesses: readonly WitnessSettings[];
  readonly consistent: Consistent;
  /** Hears of a witness that has something else than the log. */
  readonly tampered: (error: KeyslotError) => void;
  /** How long to wait behind the first failure; twice as long behind each next one, up to a minute. */
  readonly retry_ms: number;
  readonly log: Log;
}

/** One witness and what it does not have yet: only ever the newest checkpoint. */
class Lane {
  readonly id: string;
  onWitnessed: () => void = () => undefined;
  readonly #witness: Witness;
  readonly #options: WitnessesOptions;
  readonly #stopping = new AbortController();
  #size: number;
  #error: string | undefined;
  #pending: StoredCheckpoint | undefined;
  #running: Promise<void> | undefined;

  constructor(witness: Witness, size: number, options: WitnessesOptions) {
    this.id = witness.id;
    this.#witness = witness;
    this.#size = size;
    this.#options = options;
  }

  get size(): number {
    return this.#size;
  }

  get error(): string | undefined {
    return this.#error;
  }

  /** A witness that cannot be asked is no reason not to start. */
  async check(): Promise<void> {
    try {
      const answer = Promise.resolve(this.#witness.newest?.());
      const size = await Promise.race([answer, sleep(check_ms, 'late' as const, { ref: false })]);
      if (size === 'late') throw new KeyslotError('AUDIT_UNAVAILABLE', 'The witness did not answer in time.');
      if (size !== undefined) this.#size = size;
    } catch (error) {
      this.#refused(error);
      if (isTampered(error)) throw error;
    }
  }

  offer(checkpoint: StoredCheckpoint): void {
    if (this.#stopping.signal.aborted) return;
    this.#pending = checkpoint;
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    const late = new AbortController();
    const bound = pause(this.#error === undefined ? stop_ms : 0, late.signal);
    // A file system that hangs cannot be aborted: it is left behind.
    await Promise.race([this.#running, bound]);
    late.abort();
    this.#stopping.abort();
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    for (let wait_ms = this.#options.retry_ms; this.#pending && !signal.aborted; ) {
      const checkpoint = this.#pending;
      try {
        await this.#witness.give(checkpoint, signal);
        this.#witnessed(checkpoint);
        wait_ms = this.#options.retry_ms;
      } catch (error) {
        this.#refused(error);
        if (isTampered(error)) this.#options.tampered(error);
        await pause(wait_ms, signal);
        wait_ms = Math.min(wait_ms * 2, retry_ms_max);
      }
    }
    this.#running = undefined;
  }

  #witnessed(checkpoint: StoredCheckpoint): void {
    if (this.#error !== undefined) this.#options.log.info({ witness: this.id }, 'a witness is back');
    this.#error = undefined;
    this.#size = checkpoint.size;
    if (this.#pending === checkpoint) this.#pending = undefined;
    this.onWitnessed();
  }

  /** Said once an outage, not at every try. */
  #refused(error: unknown): void {
    const known = this.#error !== undefined;
    this.#error = error instanceof KeyslotError ? error.message : errnoOf(error);
    if (!known) this.#options.log.warn({ witness: this.id, err: error }, 'a witness takes no checkpoints');
  }
}

const isTampered = (error: unknown): error is KeyslotError =>
  error instanceof KeyslotError && error.code === 'AUDIT_TAMPERED';

async function pause(wait_ms: number, signal: AbortSignal): Promise<void> {
  try {
    await sleep(wait_ms, undefined, { signal });
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

/** A file that cannot be read as ours tells nothing, and is written anew. */
async function savedSizes(path: string): Promise<ReadonlyMap<string, number>> {
  try {
    const { sizes } = JSON.parse(await readFile(path, 'utf8')) as { sizes: Record<string, number> };
    return new Map(Object.entries(sizes).filter(([, size]) => Number.isSafeInteger(size)));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || error instanceof SyntaxError || error instanceof TypeError)
      return new Map();
    throw new KeyslotError('AUDIT_FAILED', `${path} cannot be read (${errnoOf(error)}).`, { cause: error });
  }
}

const retry_ms_max = 60_000;
const stop_ms = 2_000;
const check_ms = 5_000;

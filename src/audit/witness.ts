import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { KeyslotError } from '../foundation/errors.ts';
import { Secret } from '../foundation/secret.ts';
import { parseStored, type StoredCheckpoint } from './checkpoint-files.ts';
import { errnoOf } from './log-file.ts';

/** Keeps checkpoints elsewhere. */
export interface Witness {
  /** What status and settings call it; never a secret. */
  readonly id: string;
  /** Resolves when the witness has it. */
  give(checkpoint: StoredCheckpoint, signal: AbortSignal): Promise<void>;
  /** The size that it has, once that is known to agree with the log. AUDIT_TAMPERED when it does not. */
  newest?(): Promise<number | undefined>;
}

export type WitnessSettings =
  | { readonly file: string }
  | {
      readonly url: string;
      readonly headers?: Readonly<Record<string, string | Secret>> | undefined;
      readonly timeout_ms?: number | undefined;
    };

/** Whether the log has this checkpoint's root at its size. */
export type Consistent = (checkpoint: StoredCheckpoint) => Promise<boolean>;

export const witnessOf = (settings: WitnessSettings, consistent: Consistent): Witness =>
  'file' in settings ? new FileWitness(settings.file, consistent) : new HttpWitness(settings);

/**
 * A file on another machine, in a folder that only appends, on a medium that is written once. Before each line
 * the last one is read: when the log does not agree with it, two logs are writing under one name, or this one
 * was put back to an earlier state.
 */
class FileWitness implements Witness {
  readonly id: string;
  readonly #consistent: Consistent;
  /** The newest note that was seen to agree. */
  #agreed: string | undefined;

  constructor(path: string, consistent: Consistent) {
    this.id = path;
    this.#consistent = consistent;
  }

  async newest(): Promise<number | undefined> {
    try {
      await using file = await open(this.id, constants.O_RDONLY | constants.O_NONBLOCK);
      return (await this.#last(file)).checkpoint?.size;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw error;
    }
  }

  async give(checkpoint: StoredCheckpoint): Promise<void> {
    const { O_RDWR, O_APPEND, O_CREAT, O_NONBLOCK } = constants;
    await using file = await open(this.id, O_RDWR | O_APPEND | O_CREAT | O_NONBLOCK, 0o600);
    const last = await this.#last(file);
    if (last.checkpoint?.note === checkpoint.note) return;
    const line = `${JSON.stringify({ note: checkpoint.note })}\n`;
    await file.appendFile(last.ended ? line : `\n${line}`);
    await file.sync();
    this.#agreed = checkpoint.note;
  }

  /** The last line that is a checkpoint, which agrees with the log; a line that was cut off behind it is none. */
  async #last(file: FileHandle): Promise<{ checkpoint: StoredCheckpoint | undefined; ended: boolean }> {
    const { size } = await file.stat();
    const start = Math.max(0, size - tail_bytes);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(size - start), 0, size - start, start);
    const text = buffer.toString('utf8', 0, bytesRead);
    const checkpoint = text
      .split('\n')
      .toReversed()
      .map(parseStored)
      .find(found => found !== undefined);
    if (size > 0 && !checkpoint) throw new KeyslotError('AUDIT_FAILED', `${this.id} has no checkpoints.`);
    if (checkpoint && checkpoint.note !== this.#agreed) await this.#compare(checkpoint);
    return { checkpoint, ended: size === 0 || text.endsWith('\n') };
  }

  async #compare(checkpoint: StoredCheckpoint): Promise<void> {
    if (!(await this.#consistent(checkpoint))) {
      const seen = `Witness ${this.id} has a checkpoint of ${checkpoint.size} records`;
      throw new KeyslotError('AUDIT_TAMPERED', `${seen} that this log does not have.`);
    }
    this.#agreed = checkpoint.note;
  }
}

/** Gets each note as the body of a POST, and has it when it answers 2xx. */
class HttpWitness implements Witness {
  readonly id: string;
  readonly #url: string;
  readonly #headers: Readonly<Record<string, string | Secret>>;
  readonly #timeout_ms: number;

  constructor(settings: Extract<WitnessSettings, { url: string }>) {
    const { origin, pathname } = new URL(settings.url);
    this.id = `${origin}${pathname}`; // what else is in the address may be a secret
    this.#url = settings.url;
    this.#headers = settings.headers ?? {};
    this.#timeout_ms = settings.timeout_ms ?? 5_000;
  }

  async give(checkpoint: StoredCheckpoint, signal: AbortSignal): Promise<void> {
    const answer = await this.#post(
      checkpoint.note,
      AbortSignal.any([signal, AbortSignal.timeout(this.#timeout_ms)]),
    );
    await answer.body?.cancel();
    if (!answer.ok) throw unreachable(`answered ${answer.status}`);
  }

  async #post(note: string, signal: AbortSignal): Promise<Response> {
    const headers = new Headers({ 'content-type': 'text/plain; charset=utf-8' });
    for (const [name, value] of Object.entries(this.#headers)) {
      if (value instanceof Secret) value.useText(text => headers.set(name, text));
      else headers.set(name, value);
    }
    try {
      return await fetch(this.#url, { method: 'POST', body: note, headers, signal, redirect: 'error' });
    } catch (cause) {
      throw unreachable(signal.aborted ? 'did not answer in time' : 'cannot be reached', cause);
    }
  }
}

const unreachable = (what: string, cause?: unknown): KeyslotError =>
  new KeyslotError('AUDIT_UNAVAILABLE', `The witness ${what}.`, { cause });

/** Notes have less than a kibibyte: the last ones are in here. */
const tail_bytes = 16 * 1024;

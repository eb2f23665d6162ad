import type { Clock } from '../foundation/clock.ts';
import { createVerifier } from '../foundation/ed25519.ts';
import { KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { CheckpointSigner } from './audit-log.ts';
import { type CheckpointFiles, storedCheckpoint } from './checkpoint-files.ts';
import { checkpointText, noteOf, originOf, parseNote, verifyNote } from './note.ts';
import type { Witnesses } from './witnesses.ts';
import type { AuditWriter } from './writer.ts';

/**
 * Makes checkpoints: every so many milliseconds or records, at the end of a segment and at the end of the
 * process, and only when there is something new. A checkpoint is signed, then durable, then given to the
 * witnesses. While the audit key is out of reach none is made, and signing goes on: a signed log does not fall
 * back to unsigned checkpoints.
 */
export class Checkpointer {
  readonly #parts: CheckpointerParts;
  readonly #timer: NodeJS.Timeout;
  #signer: CheckpointSigner | undefined;
  #proven = false;
  #making: Promise<string | undefined> | undefined;
  #next: Promise<string | undefined> | undefined;
  #complained = false;

  constructor(parts: CheckpointerParts) {
    this.#parts = parts;
    this.#timer = setInterval(() => this.#inBackground(), parts.every_ms).unref();
  }

  /** Of everything that is durable now; the one that is being made may have begun too early for that. */
  make(): Promise<string | undefined> {
    if (!this.#making) {
      this.#making = this.#make().finally(() => {
        this.#making = undefined;
      });
      return this.#making;
    }
    this.#next ??= this.#making
      .catch(() => undefined) // whoever asked for that one hears of it
      .then(() => {
        this.#next = undefined;
        return this.make();
      });
    return this.#next;
  }

  /** To be called whenever more is durable. */
  durable(): void {
    const { writer, files, records } = this.#parts;
    if (this.#making || this.#complained) return; // the timer tries again
    const news = writer.size - (files.newest?.size ?? 0);
    if (news >= records || writer.size % writer.records === 0) this.#inBackground();
  }

  /** With a last checkpoint, if one can be made. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    if (this.#parts.writer.state !== 'failed') await this.#quietly();
    await this.#next;
  }

  #inBackground(): void {
    const { writer, files } = this.#parts;
    if (this.#making || writer.state === 'failed' || writer.size === (files.newest?.size ?? 0)) return;
    void this.#quietly();
  }

  async #quietly(): Promise<void> {
    try {
      await this.make();
      this.#complained = false;
    } catch (thrown) {
      const { writer, log } = this.#parts;
      const error = toKeyslotError(thrown);
      if (error.code === 'AUDIT_FAILED' || error.code === 'AUDIT_TAMPERED') writer.fail(error);
      else if (!this.#complained) log.warn({ err: error }, 'no checkpoint of the audit log can be made');
      this.#complained = true;
    }
  }

  async #make(): Promise<string | undefined> {
    const { writer, files, witnesses } = this.#parts;
    const { size, root, chain } = writer.snapshot();
    if (size === (files.newest?.size ?? 0)) return undefined;
    const note = await this.#note({ size, root, chain });
    const stored = note === undefined ? undefined : storedCheckpoint(note);
    if (!stored) return undefined;
    await files.add(stored, writer.records);
    witnesses.offer(stored);
    return note;
  }

  async #note(place: { size: number; root: Buffer; chain: string }): Promise<string | undefined> {
    const { writer, files, clock, signer } = this.#parts;
    const origin = originOf(writer.node);
    const time = clock.utc().toISOString();
    const text = checkpointText({ origin, ...place, time, previous: files.previous });
    if (!signer) return noteOf(text);
    this.#signer ??= await signer();
    if (!this.#signer) return undefined;
    await this.#prove(this.#signer);
    return noteOf(text, {
      name: origin,
      publicKey: this.#signer.publicKey,
      signature: await this.#signed(this.#signer, Buffer.from(text, 'utf8')),
    });
  }

  /** The checkpoint that this log goes on from: when it names this key, it is signed by it. AUDIT_TAMPERED. */
  async #prove(signer: CheckpointSigner): Promise<void> {
    if (this.#proven) return;
    const { files, learned } = this.#parts;
    const newest = files.newest?.note;
    if (newest !== undefined && verifyNote(parseNote(newest), signer.publicKey) === 'forged') {
      throw new KeyslotError(
        'AUDIT_TAMPERED',
        'The newest checkpoint does not have a signature of the audit key.',
      );
    }
    await learned(signer.publicKey);
    this.#proven = true;
  }

  /** A signature that is one; after any failure the signer is asked for anew, because its slot may have closed. */
  async #signed(signer: CheckpointSigner, text: Buffer): Promise<Uint8Array> {
    try {
      const signature = await within(sign_ms, signer.sign(text));
      if (await createVerifier(signer.publicKey).verify(text, signature)) return signature;
      throw new KeyslotError('INTERNAL', 'The audit key made a signature that is not valid.');
    } catch (error) {
      this.#signer = undefined;
      throw error;
    }
  }
}

export interface CheckpointerParts {
  readonly writer: AuditWriter;
  readonly files: CheckpointFiles;
  readonly witnesses: Witnesses;
  /** Absent when no audit key is configured: then checkpoints are not signed. */
  readonly signer: (() => Promise<CheckpointSigner | undefined>) | undefined;
  /** Hears of the key that signs, once. */
  readonly learned: (publicKey: Uint8Array) => Promise<void>;
  readonly every_ms: number;
  readonly records: number;
  readonly clock: Clock;
  readonly log: Log;
}

const sign_ms = 10_000;

async function within<T>(wait_ms: number, work: Promise<T>): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    reject(new KeyslotError('TOKEN_UNAVAILABLE', `The audit key did not sign within ${wait_ms} ms.`));
  }, wait_ms);
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

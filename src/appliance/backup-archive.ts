import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { Decrypter, Encrypter } from 'age-encryption';
import { createTarDecoder, createTarPacker, type ParsedTarEntry, type TarPackController } from 'modern-tar';
import { isKeyslotError, KeyslotError } from '../foundation/errors.ts';
import type { Secret } from '../foundation/secret.ts';
import { aborted } from './backup-failure.ts';

/**
 * A tar archive inside an age file, written and read as a stream: what it holds may be larger than the memory, and
 * nothing of it is on a disk unencrypted. Any age and any tar open it as well.
 */
export class ArchiveWriter {
  readonly #tar: TarPackController;
  readonly #written: Promise<void>;

  private constructor(tar: TarPackController, written: Promise<void>) {
    this.#tar = tar;
    this.#written = written;
    written.catch(() => undefined); // `add` and `finish` fail with it
  }

  /** For recipients of which `isRecipient` holds. The signal ends it at the next piece that is written. */
  static async begin(
    recipients: readonly string[],
    write: (bytes: Uint8Array) => Promise<void>,
    signal: AbortSignal | undefined,
  ): Promise<ArchiveWriter> {
    const age = new Encrypter();
    for (const recipient of recipients) age.addRecipient(recipient);
    const { readable, controller } = createTarPacker();
    const encrypted = await age.encrypt(readable);
    const written = encrypted.pipeTo(new WritableStream({ write }), signal ? { signal } : {});
    return new ArchiveWriter(controller, written);
  }

  /** Exactly so many bytes under this name; their SHA-256. Fails as `write` or the reading of the body fails. */
  async add(name: string, bytes: number, body: AsyncIterable<Uint8Array>): Promise<string> {
    const sha256 = createHash('sha256');
    const entry = this.#tar.add({ name, size: bytes, mode: 0o600, mtime: new Date(0) }).getWriter();
    try {
      for await (const piece of body) {
        sha256.update(piece);
        await entry.write(piece);
      }
      await entry.close();
    } catch (thrown) {
      await this.abandon(thrown);
      throw thrown;
    }
    return sha256.digest('hex');
  }

  /** Resolves when the last byte was written. */
  async finish(): Promise<void> {
    this.#tar.finalize();
    await this.#written;
  }

  /** Nothing is written any more when this resolves. */
  async abandon(why: unknown): Promise<void> {
    this.#tar.error(why);
    await this.#written.catch(() => undefined);
  }
}

/** Whether this is a public key that a backup can be encrypted to. */
export function isRecipient(text: string): boolean {
  try {
    new Encrypter().addRecipient(text);
    return true;
  } catch (error) {
    if (error instanceof Error) return false;
    throw error;
  }
}

export interface ArchiveEntry {
  readonly name: string;
  readonly bytes: number;
  /** Has to be read to its end before the next entry is asked for. */
  readonly body: AsyncIterable<Uint8Array>;
}

/**
 * The entries of an archive, in its order. Names are relative and lead nowhere else, no name comes twice, and nothing
 * but plain files is let through. BACKUP_UNREADABLE when none of the identities opens it, BACKUP_INVALID for all else;
 * what came before a failure is not to be trusted.
 */
export async function* readArchive(
  file: FileHandle,
  identities: Secret,
  options: { signal?: AbortSignal | undefined; progress?: ((bytes: number) => void) | undefined } = {},
): AsyncGenerator<ArchiveEntry> {
  const { signal, progress } = options;
  const { size } = await file.stat();
  const names = new Set<string>();
  try {
    const plain = await decrypter(identities).decrypt(ReadableStream.from(piecesOf(file, signal, progress)));
    for await (const { header, body } of plain.pipeThrough(createTarDecoder({ strict: true }))) {
      const { name, size: bytes, type } = header;
      if (type !== 'file') throw invalid(`An entry of it is of the type ${type}, not a file.`);
      if (!isSafeName(name)) throw invalid('An entry of it has a name that leads elsewhere.');
      if (names.has(name)) throw invalid(`It has two entries ${JSON.stringify(name)}.`);
      if (bytes > size) throw invalid('An entry of it is larger than the backup.'); // nothing in it is compressed
      names.add(name);
      yield { name, bytes, body: bodyOf(body, bytes) };
    }
  } catch (thrown) {
    throw unreadable(thrown);
  }
}

function unreadable(thrown: unknown): KeyslotError {
  if (isKeyslotError(thrown)) return thrown;
  const unmatched = thrown instanceof Error && thrown.message.startsWith('no identity matched');
  if (unmatched) return new KeyslotError('BACKUP_UNREADABLE', 'It was made for others.', { cause: thrown });
  return invalid('It is damaged, cut off, or no backup.', thrown);
}

function decrypter(identities: Secret): Decrypter {
  const age = new Decrypter();
  const lines = identities.useText(text => text.split('\n').map(line => line.trim()));
  for (const line of lines.filter(each => each !== '' && !each.startsWith('#'))) {
    try {
      age.addIdentity(line);
    } catch (error) {
      if (!(error instanceof Error)) throw error;
      // Without its cause, which may repeat what it read.
      throw new KeyslotError('BACKUP_UNREADABLE', 'The identity file has a line that is no age identity.');
    }
  }
  return age;
}

async function* piecesOf(
  file: FileHandle,
  signal: AbortSignal | undefined,
  progress: ((bytes: number) => void) | undefined,
): AsyncGenerator<Uint8Array> {
  for (let at = 0; ; ) {
    if (signal?.aborted) throw aborted();
    const buffer = new Uint8Array(piece_bytes);
    const { bytesRead } = await file.read(buffer, 0, piece_bytes, at);
    if (bytesRead === 0) return;
    at += bytesRead;
    progress?.(at);
    yield buffer.subarray(0, bytesRead);
  }
}

async function* bodyOf(body: ParsedTarEntry['body'], bytes: number): AsyncGenerator<Uint8Array> {
  let seen = 0;
  const reader = body.getReader();
  for (;;) {
    // Only what is read from below is translated: what the reader of this body throws is its own.
    const { done, value } = await reader.read().catch(thrown => {
      throw unreadable(thrown);
    });
    if (done) break;
    seen += value.length;
    yield value;
  }
  if (seen !== bytes) throw invalid('An entry of it ends too early.');
}

function isSafeName(name: string): boolean {
  const parts = name.split('/');
  return (
    Buffer.byteLength(name) <= 4_096 &&
    parts.every(part => part !== '' && part !== '.' && part !== '..' && Buffer.byteLength(part) <= 255) &&
    !/\p{Cc}|\\/u.test(name)
  );
}

const invalid = (what: string, cause?: unknown) => new KeyslotError('BACKUP_INVALID', what, { cause });

const piece_bytes = 256 * 1024;

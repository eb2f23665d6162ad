import type { MerkleFrontier } from './merkle.ts';
import { type Note, noteHash, zeroHash } from './note.ts';
import { checkpointsFirst } from './segment.ts';
import { type AuditFiles, allLinesOf } from './verify-files.ts';
import { type AuditFinding, type Place, TamperFound } from './verify-findings.ts';
import type { NoteReader } from './verify-note.ts';
import { objectOf, textOf } from './verify-record.ts';

/** The checkpoints that lie beside a log, in their order, each held against the log when it has its size. */
export class CheckpointTrail {
  readonly #files: AuditFiles;
  readonly #notes: NoteReader;
  /** From `#at` on: those that the log has not reached yet. Never more than those of two segments. */
  #waiting: KeptCheckpoint[] = [];
  #at = 0;
  #last: KeptCheckpoint | undefined;
  count = 0;
  countSigned = 0;
  /** The size of the newest signed one that the log agreed with. */
  signed = 0;

  constructor(files: AuditFiles, notes: NoteReader) {
    this.#files = files;
    this.#notes = notes;
  }

  get next(): KeptCheckpoint | undefined {
    return this.#waiting[this.#at];
  }

  /** The newest that is known: of the segments so far. */
  get newest(): KeptCheckpoint | undefined {
    return this.#waiting.at(-1) ?? this.#last;
  }

  /** Takes up a file of checkpoints, which cover sizes above `first` and up to `last`. Throws TamperFound. */
  async load(file: string, first: number, last: number): Promise<string | undefined> {
    this.#waiting = this.#waiting.slice(this.#at);
    this.#at = 0;
    const lines = await allLinesOf(this.#files, file);
    const whole = lines.filter(({ ended }) => ended);
    for (let at = 0; at < whole.length; at += batch_notes) {
      const batch = whole.slice(at, at + batch_notes);
      const read = await Promise.all(
        batch.map(({ bytes, number }) =>
          this.#read(bytes, { file, line: number }, batch.length <= few_notes),
        ),
      );
      for (const kept of read) this.#admit(kept, first, last);
    }
    const torn = lines.at(-1);
    return torn?.ended === false
      ? `${file} ends in an unfinished line of ${torn.bytes.length} bytes`
      : undefined;
  }

  #admit(kept: KeptCheckpoint, first: number, last: number): void {
    const { place, note } = kept;
    const { size } = note.checkpoint;
    const before = this.newest?.note.checkpoint.size ?? 0;
    if (size === before && this.newest) {
      throw found('forked', place, `a second checkpoint of the size ${size} stands here`, size - 1);
    }
    if (size < before) throw found('reordered', place, `size ${size} stands behind size ${before}`, size - 1);
    if (size <= first || size > last) {
      throw found(
        'reordered',
        place,
        `a checkpoint of size ${size} stands in another segment's file`,
        size - 1,
      );
    }
    this.#waiting.push(kept);
  }

  /** Checkpoints of pruned records: their order and links alone, since their lines are elsewhere. */
  async passTo(first: number): Promise<void> {
    for (let next = this.next; next && next.note.checkpoint.size < first; next = this.next) {
      const broken = this.#last ? await this.#brokenLink(next) : undefined;
      if (broken) throw new TamperFound(broken);
      this.#pass(next);
    }
  }

  /**
   * Holds the log against the checkpoint of this size, if there is one. `from` is the first record that no earlier
   * checkpoint vouches for. Resolves to true when there was one and the log agrees. Throws TamperFound.
   */
  async compare(log: {
    readonly tree: MerkleFrontier;
    readonly chain: string;
    readonly from: Place & { readonly seq: number };
    readonly header: Place;
  }): Promise<boolean> {
    const next = this.next;
    const { size } = log.tree;
    if (next?.note.checkpoint.size !== size) return false;
    const { root, chain } = next.note.checkpoint;
    const linked = this.#isLinked(next);
    if (!log.tree.root().equals(root)) {
      if (chain === log.chain) throw found('edited', log.header, 'the roots of earlier segments are wrong');
      if (!linked) throw found('forked', next.place, 'a checkpoint belongs to another history', size - 1);
      const { file, line, seq } = log.from;
      const what = `the lines were written anew: their root at size ${size} is not the one of the checkpoint`;
      throw new TamperFound({ class: 'edited', file, line, seq, through: size - 1, what });
    }
    if (chain !== log.chain) throw found('edited', next.place, 'its chain line is wrong', size - 1);
    const broken = linked ? undefined : await this.#brokenLink(next);
    if (broken) throw new TamperFound(broken);
    this.#pass(next);
    return true;
  }

  #pass(next: KeptCheckpoint): void {
    this.#at += 1;
    this.#last = next;
    this.count += 1;
    if (!next.signed) return;
    this.countSigned += 1;
    this.signed = next.note.checkpoint.size;
  }

  #isLinked({ note }: KeptCheckpoint): boolean {
    if (this.#last) return note.checkpoint.previous === noteHash(this.#last.text);
    return this.#beheaded || note.checkpoint.previous === zeroHash;
  }

  /** Whether the first checkpoints went with segments that were pruned. */
  #beheaded = false;
  behead(): void {
    this.#beheaded = true;
  }

  async #brokenLink(next: KeptCheckpoint): Promise<AuditFinding | undefined> {
    if (this.#isLinked(next)) return undefined;
    const { previous, size } = next.note.checkpoint;
    const elsewhere = await this.#placeOf(previous);
    const { place } = next;
    if (elsewhere) {
      const what = `the checkpoint before this one stands at ${elsewhere.file}:${elsewhere.line}`;
      return { class: 'reordered', ...place, seq: size - 1, what };
    }
    if (this.#last && !this.#last.signed) {
      return { class: 'edited', ...this.#last.place, what: 'an unsigned checkpoint was changed or put in' };
    }
    return { class: 'deleted', ...place, seq: size - 1, what: 'the checkpoint before this one is missing' };
  }

  async #placeOf(hash: string): Promise<Place | undefined> {
    for (const file of this.#files.names.filter(name => checkpointsFirst(name) !== undefined)) {
      for (const { bytes, number } of await allLinesOf(this.#files, file)) {
        const note = noteOfLine(bytes);
        if (note !== undefined && noteHash(note) === hash) return { file, line: number };
      }
    }
    return undefined;
  }

  async #read(bytes: Uint8Array, place: Place, few: boolean): Promise<KeptCheckpoint> {
    const text = noteOfLine(bytes);
    if (text === undefined) throw found('edited', place, 'the line holds no checkpoint');
    return { text, place, ...(await this.#notes.read(text, place, few)) };
  }
}

export interface KeptCheckpoint {
  readonly note: Note;
  readonly text: string;
  readonly place: Place;
  /** By one of the keys that were given. */
  readonly signed: boolean;
}

/** The note of a line of a file of checkpoints, which is exactly `{"note":"…"}`. */
function noteOfLine(bytes: Uint8Array): string | undefined {
  const text = textOf(bytes);
  const note = text === undefined ? undefined : objectOf(text)?.note;
  return typeof note === 'string' && JSON.stringify({ note }) === text ? note : undefined;
}

/** Signatures that are verified at the same time. */
const batch_notes = 64;
const few_notes = 8;

function found(kind: AuditFinding['class'], place: Place, what: string, seq?: number): TamperFound {
  return new TamperFound({ class: kind, file: place.file, line: place.line, seq, what });
}

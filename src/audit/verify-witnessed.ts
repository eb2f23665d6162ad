import type { MerkleFrontier } from './merkle.ts';
import type { Checkpoint } from './note.ts';
import { type Place, TamperFound } from './verify-findings.ts';
import type { NoteReader } from './verify-note.ts';

/** Checkpoints that somebody else has kept: the log must have been, at each of their sizes, what they say. */
export class WitnessTrail {
  #notes: readonly { readonly checkpoint: Checkpoint; readonly place: Place }[] = [];
  #at = 0;
  /** The newest size at which log and witness agree. */
  agreed = 0;
  /** Those of records that were pruned: nothing is left to hold against them. */
  passed = 0;

  /**
   * Throws TamperFound for a note that is not signed with one of the keys, if there are any; but for those of before
   * the log had its key, which vouch for nothing.
   */
  async load(notes: readonly string[], reader: NoteReader): Promise<void> {
    const read = await Promise.all(
      notes.map(async (text, at) => {
        const place = { file: 'witness', line: at + 1 };
        const { note, signed } = await reader.read(text, place);
        return { checkpoint: note.checkpoint, place, signed };
      }),
    );
    read.sort((one, other) => one.checkpoint.size - other.checkpoint.size);
    if (!reader.hasKeys) {
      this.#notes = read;
      return;
    }
    const first = read.findIndex(note => note.signed);
    const unsigned = first < 0 ? read[0] : read.slice(first).find(note => !note.signed);
    if (unsigned) {
      const what = 'the checkpoint of the witness is not signed';
      throw new TamperFound({ class: 'bad-signature', ...unsigned.place, what });
    }
    this.#notes = first < 0 ? [] : read.slice(first);
  }

  passTo(first: number): void {
    while ((this.#notes[this.#at]?.checkpoint.size ?? first) < first) {
      this.#at += 1;
      this.passed += 1;
    }
  }

  /** Whether a witness has seen this size. Throws TamperFound when it saw another log. */
  compare(size: number, tree: MerkleFrontier): boolean {
    const from = this.#at;
    for (let next = this.#notes[from]; next?.checkpoint.size === size; next = this.#notes[this.#at]) {
      if (!tree.root().equals(next.checkpoint.root)) {
        const what = `the witness saw another log of size ${size}`;
        throw new TamperFound({ class: 'forked', ...next.place, seq: size - 1, what });
      }
      this.agreed = size;
      this.#at += 1;
    }
    return this.#at > from;
  }

  /** The log has ended, and a witness has seen more of it. */
  ahead(size: number, place: Place): TamperFound | undefined {
    const newest = this.#notes.at(-1)?.checkpoint.size ?? 0;
    if (newest <= size) return undefined;
    const what = `log and checkpoints end at ${size}, and the witness has seen ${newest} records`;
    return new TamperFound({ class: 'rolled-back', ...place, seq: size, what });
  }
}

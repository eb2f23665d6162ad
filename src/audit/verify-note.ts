import { createVerifier, type Verifier } from '../foundation/ed25519.ts';
import { keyHashOf, type Note, NoteError, parseNote } from './note.ts';
import { type Place, TamperFound } from './verify-findings.ts';

/** Reads checkpoints with the public keys that were given; a key is prepared once. */
export class NoteReader {
  readonly #publicKeys: readonly Uint8Array[];
  readonly #verifiers: readonly Verifier[];

  constructor(publicKeys: readonly Uint8Array[]) {
    this.#publicKeys = publicKeys;
    this.#verifiers = publicKeys.map(createVerifier);
  }

  get hasKeys(): boolean {
    return this.#publicKeys.length > 0;
  }

  /** A note that is in order: signed with one of the keys, or not signed at all. With `few`, on the spot. Throws TamperFound. */
  async read(text: string, place: Place, few = false): Promise<{ note: Note; signed: boolean }> {
    const note = parsedNote(text, place);
    if (!this.hasKeys || note.signatures.length === 0) return { note, signed: false };
    const { origin, size } = note.checkpoint;
    const message = Buffer.from(note.text, 'utf8');
    let known = false;
    for (const { name, keyHash, signature } of note.signatures) {
      const at = this.#publicKeys.findIndex(
        publicKey => name === origin && keyHashOf(name, publicKey).equals(keyHash),
      );
      known ||= at >= 0;
      const verifier = this.#verifiers[at];
      const valid = few
        ? verifier?.verifyNow(message, signature)
        : await verifier?.verify(message, signature);
      if (valid) return { note, signed: true };
    }
    const what = known
      ? 'the signature of the checkpoint does not verify'
      : 'the checkpoint is signed with another key than was given';
    throw new TamperFound({ class: 'bad-signature', ...place, seq: size - 1, what });
  }
}

function parsedNote(text: string, place: Place): Note {
  try {
    return parseNote(text);
  } catch (error) {
    if (!(error instanceof NoteError)) throw error;
    throw new TamperFound({ class: 'edited', ...place, what: `this is no checkpoint: ${error.message}` });
  }
}

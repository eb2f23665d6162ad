import { decodeBase64 } from '../foundation/base64.ts';
import type { InclusionProof } from './audit-log.ts';
import { leafHash, verifyInclusion } from './merkle.ts';
import { type AuditRecord, lineHash } from './record.ts';
import { type AuditFiles, linesOf } from './verify-files.ts';
import { type AuditFinding, type Place, TamperFound } from './verify-findings.ts';
import { NoteReader } from './verify-note.ts';
import { isPlace, objectOf, recordOfLine, textOf } from './verify-record.ts';

/** What an export proves: these records stand in the log, at these places. */
export interface ExportVerdict {
  readonly ok: boolean;
  readonly finding?: AuditFinding | undefined;
  readonly warnings: readonly string[];
  readonly node: string | undefined;
  readonly checked: { readonly records: number; readonly proven: number; readonly proofs: number };
}

/**
 * Verifies an export: canonical lines, the chain between neighbours, and the proofs that lead to a checkpoint of
 * the log. That nothing was left out between records is proven only where they follow one on the other.
 */
export async function verifyAuditExport(
  files: AuditFiles,
  name: string,
  publicKeys: readonly Uint8Array[],
): Promise<ExportVerdict> {
  const walk = new ExportWalk(name, publicKeys);
  try {
    for await (const lines of linesOf(files, name)) {
      for (const { bytes, number } of lines) await walk.line(bytes, { file: name, line: number });
    }
    return walk.verdict();
  } catch (thrown) {
    if (thrown instanceof TamperFound) return walk.verdict(thrown.finding);
    throw thrown;
  }
}

class ExportWalk {
  readonly #file: string;
  readonly #notes: NoteReader;
  #last: { readonly record: AuditRecord; readonly bytes: Uint8Array } | undefined;
  /** Records that follow one on the other and have no proof yet. */
  #unproven = 0;
  #begun = false;
  #records = 0;
  #proven = 0;
  #proofs = 0;

  constructor(file: string, publicKeys: readonly Uint8Array[]) {
    this.#file = file;
    this.#notes = new NoteReader(publicKeys);
  }

  async line(bytes: Uint8Array, place: Place): Promise<void> {
    const fields = objectOf(textOf(bytes) ?? '');
    if (!this.#begun) {
      if (fields?.['keyslot-audit-export'] !== 1)
        throw found('malformed', place, 'this is no export of a log');
      this.#begun = true;
    } else if (fields && Object.hasOwn(fields, 'proof')) await this.#proof(fields.proof, place);
    else this.#record(bytes, place);
  }

  verdict(finding?: AuditFinding): ExportVerdict {
    const unproven = this.#unproven > 0 || !this.#begun;
    const place = { file: this.#file, line: 1 };
    const missing = found('truncated', place, 'the proof of the last record is missing').finding;
    const wrong = finding ?? (unproven ? missing : undefined);
    return {
      ok: wrong === undefined,
      finding: wrong,
      warnings: this.#notes.hasKeys ? [] : ['no audit key was given: nothing signed was used'],
      node: this.#last?.record.node,
      checked: { records: this.#records, proven: this.#proven, proofs: this.#proofs },
    };
  }

  #record(bytes: Uint8Array, place: Place): void {
    const record = recordOfLine(bytes);
    if (typeof record === 'string') throw found('edited', place, `the line ${record}`);
    const last = this.#last;
    if (last && record.seq <= last.record.seq) {
      throw found('reordered', place, `record ${record.seq} stands behind ${last.record.seq}`, record.seq);
    }
    const follows = last?.record.seq === record.seq - 1;
    if (last && follows && record.prev !== lineHash(last.bytes).toString('hex')) {
      throw found(
        'edited',
        { ...place, line: place.line - 1 },
        'its hash is not what the next record names',
        last.record.seq,
      );
    }
    if (!follows && this.#unproven > 0) {
      throw found('deleted', place, `records are missing before record ${record.seq}`, record.seq - 1);
    }
    this.#last = { record, bytes: Uint8Array.from(bytes) };
    this.#records += 1;
    this.#unproven += 1;
  }

  async #proof(claimed: unknown, place: Place): Promise<void> {
    const last = this.#last;
    const proof = proofOf(claimed);
    if (!last || !proof || proof.seq !== last.record.seq) {
      throw found('malformed', place, 'the proof is not of the record before it', last?.record.seq);
    }
    await verifyProof(proof, last.bytes, this.#notes, place);
    this.#proofs += 1;
    this.#proven += this.#unproven;
    this.#unproven = 0;
  }
}

/** Throws TamperFound unless the proof leads from the line to its checkpoint, and that is signed if keys are given. */
export async function verifyProof(
  { seq, size, path, checkpoint }: InclusionProof,
  line: Uint8Array,
  notes: NoteReader,
  place: Place,
): Promise<void> {
  const { note, signed } = await notes.read(checkpoint, place);
  if (notes.hasKeys && !signed) throw found('bad-signature', place, 'the checkpoint is not signed', seq);
  const hashes = path.map(decodeBase64).filter(hash => hash !== undefined);
  const { root } = note.checkpoint;
  const leaf = leafHash(line);
  const leads =
    note.checkpoint.size === size &&
    hashes.length === path.length &&
    verifyInclusion({ leaf, index: seq, size, path: hashes, root });
  if (!leads) throw found('edited', place, 'the proof does not lead from the record to the checkpoint', seq);
}

function proofOf(value: unknown): InclusionProof | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { seq, size, path, checkpoint, leaf } = value as Partial<Record<keyof InclusionProof, unknown>>;
  const isText = (each: unknown) => typeof each === 'string';
  if (!isPlace(seq) || !isPlace(size) || typeof checkpoint !== 'string' || typeof leaf !== 'string')
    return undefined;
  return Array.isArray(path) && path.every(isText) ? { seq, size, path, checkpoint, leaf } : undefined;
}

function found(kind: AuditFinding['class'], place: Place, what: string, seq?: number): TamperFound {
  return new TamperFound({ class: kind, ...place, seq, what });
}

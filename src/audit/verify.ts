import { leafHash, MerkleFrontier } from './merkle.ts';
import { zeroHash } from './note.ts';
import { manifestName } from './pruning.ts';
import { type AuditRecord, lineHash } from './record.ts';
import {
  checkpointsFirst,
  headerLine,
  parseHeader,
  type SegmentHeader,
  segmentFirst,
  segmentName,
} from './segment.ts';
import { CheckpointTrail } from './verify-checkpoints.ts';
import {
  diagnosePrev,
  diagnoseSeq,
  diagnoseUnreadable,
  lineBehind,
  type Misfit,
} from './verify-diagnosis.ts';
import { type AuditFiles, type FileLine, linesOf } from './verify-files.ts';
import { type AuditFinding, type AuditVerdict, type Place, TamperFound } from './verify-findings.ts';
import { NoteReader } from './verify-note.ts';
import { type PrunedPlace, readPruned } from './verify-pruned.ts';
import { recordOfLine, textOf } from './verify-record.ts';
import { Settlement } from './verify-settlement.ts';
import { WitnessTrail } from './verify-witnessed.ts';

export interface VerifyOptions {
  readonly files: AuditFiles;
  /** The audit keys that checkpoints may be signed with. Without any, nothing signed is used. */
  readonly publicKeys: readonly Uint8Array[];
  /** Checkpoints that somebody else kept, as notes. */
  readonly witnessed?: readonly string[];
  readonly progress?: ((done_bytes: number, of_bytes: number) => void) | undefined;
}

/**
 * Reads a whole log, line by line, and says whether it is what was written, or what is the first thing that is
 * wrong and what kind of tampering that is. Needs the files and the public keys, and nothing of the appliance. What a
 * key-less intruder could have made again (hashes, headers) proves nothing by itself: lines stand on the signed
 * checkpoint that covers them, and the newest checkpoints on the witness.
 *
 * @example
 * const { ok, finding } = await verifyAuditLog({ files: folderFiles(folder), publicKeys: [publicKey] });
 */
export async function verifyAuditLog(options: VerifyOptions): Promise<AuditVerdict> {
  const walk = new LogWalk(options);
  try {
    await walk.run();
    return walk.verdict(undefined);
  } catch (thrown) {
    if (thrown instanceof TamperFound) return walk.verdict(thrown.finding);
    throw thrown;
  }
}

class LogWalk {
  readonly #options: VerifyOptions;
  readonly #files: AuditFiles;
  readonly #notes: NoteReader;
  readonly #checkpoints: CheckpointTrail;
  readonly #witness = new WitnessTrail();
  readonly #settlement = new Settlement();
  readonly #warnings: string[] = [];
  readonly #tree = new MerkleFrontier();
  #segmentTree = new MerkleFrontier();
  readonly #roots: string[] = [];
  #header: (SegmentHeader & { readonly place: Place }) | undefined;
  #lastHash = zeroHash;
  #last: { readonly place: Place; readonly isBoot: boolean } | undefined;
  /** The first record that no checkpoint vouches for yet. */
  #unvouched: (Place & { readonly seq: number }) | undefined;
  #vouched = 0;
  /** Something that is wrong with what a line means; it stands unless the line itself turns out to be wrong. */
  #held: AuditFinding | undefined;
  #torn: { readonly place: Place; readonly ended: boolean } | undefined;
  #first = 0;
  #segments = 0;
  #done_bytes = 0;

  constructor(options: VerifyOptions) {
    this.#options = options;
    this.#files = options.files;
    this.#notes = new NoteReader(options.publicKeys);
    this.#checkpoints = new CheckpointTrail(options.files, this.#notes);
  }

  async run(): Promise<void> {
    await this.#witness.load(this.#options.witnessed ?? [], this.#notes);
    const segments = named(this.#files, segmentFirst);
    const [oldest] = segments;
    if (!oldest) throw found('truncated', { file: 'segment-*.jsonl', line: 1 }, 'there is no segment', 0);
    this.#first = oldest.first;
    const pruned = await readPruned(this.#files, oldest);
    await this.#loadEarlier(oldest.first);
    for (const [at, segment] of segments.entries()) {
      await this.#segment(segment, { isOldest: at === 0, isNewest: at === segments.length - 1, pruned });
    }
    await this.#conclude();
  }

  verdict(finding: AuditFinding | undefined): AuditVerdict {
    const { intents, results, signatures, signaturesByHash, boots } = this.#settlement;
    const { count, countSigned, signed } = this.#checkpoints;
    const witnessed = this.#witness.agreed;
    return {
      ok: finding === undefined,
      finding,
      warnings: this.#warnings,
      node: this.#header?.node,
      tamperEvidence: signed === 0 ? 'chain' : witnessed === 0 ? 'local' : 'witnessed',
      checked: {
        first: this.#first,
        size: this.#tree.size,
        segments: this.#segments,
        boots,
        intents,
        results,
        signatures,
        signaturesByHash,
        checkpoints: count,
        checkpointsSigned: countSigned,
        signed,
        witnessed,
      },
    };
  }

  /** Checkpoints of segments that were pruned stay as long as there is no later one. */
  async #loadEarlier(first: number): Promise<void> {
    // The first checkpoints went with the segments that were pruned, and do not come back from an archive with them.
    if (first > 0 || this.#files.names.includes(manifestName)) this.#checkpoints.behead();
    for (const file of named(this.#files, checkpointsFirst)) {
      if (file.first < first) this.#warn(await this.#checkpoints.load(file.name, file.first, first));
    }
    await this.#checkpoints.passTo(first);
    this.#witness.passTo(first);
  }

  async #segment(
    { name, first }: Named,
    { isOldest, isNewest, pruned }: { isOldest: boolean; isNewest: boolean; pruned: readonly PrunedPlace[] },
  ): Promise<void> {
    this.#segments += 1;
    let header: SegmentHeader | undefined;
    for await (const lines of linesOf(this.#files, name)) {
      for (const line of lines) {
        this.#done_bytes += line.bytes.length + 1;
        const place = { file: name, line: line.number };
        if (header === undefined) {
          if (isNewest && !line.ended) return this.#warn(`${name} has an unfinished header`);
          header = await this.#begin(line, { name, first }, isOldest, pruned);
        } else {
          await this.#line(line, place, isNewest);
        }
      }
      this.#options.progress?.(this.#done_bytes, this.#files.bytes);
    }
    if (header === undefined && !isNewest)
      throw found('edited', { file: name, line: 1 }, 'it is empty', first);
    const isFull = header !== undefined && this.#tree.size - first === header.records;
    if (isFull) this.#roots.push(this.#segmentTree.root().toString('hex'));
    this.#segmentTree = new MerkleFrontier();
  }

  async #begin(
    line: FileLine,
    { name, first }: Named,
    isOldest: boolean,
    pruned: readonly PrunedPlace[],
  ): Promise<SegmentHeader> {
    const place = { file: name, line: 1 };
    const header = parseHeader(textOf(line.bytes) ?? '');
    const expected = isOldest ? first : this.#tree.size;
    if (first !== expected || header?.first !== first) await this.#gap(place, first, expected);
    if (!header) throw await this.#resolved(found('edited', place, 'its first line is no header', first));
    if (isOldest) this.#start(header, first, place, pruned);
    const { node, records } = this.#header ?? header;
    const open = this.#settlement.open();
    const due = { ...header, node, first, records, prev: this.#lastHash, roots: this.#roots, open };
    if (headerLine(due) !== headerLine(header)) {
      throw await this.#resolved(await this.#contradiction(header, place));
    }
    this.#header = { ...header, place };
    if (isOldest && first > 0) await this.#compare();
    this.#warn(await this.#checkpoints.load(nameOfCheckpoints(name), first, first + records));
    return header;
  }

  /** A header does not say what comes before it: its first record knows whether that was changed, or the header. */
  async #contradiction(header: SegmentHeader, place: Place): Promise<TamperFound> {
    const { first, prev } = header;
    const bytes = await lineBehind(this.#files, place);
    const record = bytes ? recordOfLine(bytes) : '';
    if (bytes && prev !== this.#lastHash && typeof record !== 'string' && record.prev === prev) {
      return await this.#misfits(record, { bytes, number: 2, ended: true }, { ...place, line: 2 });
    }
    return found('edited', place, 'its header does not say what comes before it', first);
  }

  /** Where the oldest segment begins is taken from its header: its checkpoints will confirm it, or not. */
  #start(header: SegmentHeader, first: number, place: Place, pruned: readonly PrunedPlace[]): void {
    if (header.first !== first) throw found('edited', place, 'its header and its name differ', first);
    for (const [at, root] of header.roots.entries()) {
      const manifest = pruned[at];
      if (manifest && (manifest.root !== root || manifest.last !== manifest.first + header.records - 1)) {
        throw found(
          'edited',
          { file: manifestName, line: at + 1 },
          'it contradicts the segments',
          manifest.first,
        );
      }
      this.#tree.append(Buffer.from(root, 'hex'), header.records);
      this.#roots.push(root);
    }
    const newest = pruned.at(-1);
    if (newest && newest.lastHash !== header.prev) {
      const file = { file: manifestName, line: pruned.length };
      throw found('edited', file, 'its last hash is not the one that the log continues', newest.last);
    }
    this.#lastHash = header.prev;
    this.#settlement.carry(header.open, place);
  }

  async #line(line: FileLine, place: Place, isNewest: boolean): Promise<void> {
    const record = line.ended ? recordOfLine(line.bytes) : 'has no end';
    if (typeof record === 'string' && isNewest && !(await lineBehind(this.#files, place))) {
      return this.#tear(line, place);
    }
    const expected = this.#tree.size;
    const misfit = this.#misfit(line, place);
    if (typeof record === 'string') {
      throw await this.#resolved(new TamperFound(await diagnoseUnreadable(this.#files, misfit, record)));
    }
    const { seq } = record;
    if (seq !== expected) {
      throw await this.#resolved(new TamperFound(await diagnoseSeq(this.#files, { ...misfit, seq })));
    }
    if (record.prev !== this.#lastHash) {
      throw await this.#resolved(await this.#misfits(record, line, place));
    }
    if (this.#header && seq >= this.#header.first + this.#header.records) {
      const isNextThere = this.#files.names.includes(segmentName(seq));
      throw await this.#resolved(
        isNextThere
          ? found('reordered', place, 'the record stands in another segment', seq)
          : found('edited', this.#header.place, 'its header says that the segment is smaller', seq),
      );
    }
    await this.#accept(record, line.bytes, place);
  }

  /** The record names another hash than the line before has. */
  async #misfits(record: AuditRecord, line: FileLine, place: Place): Promise<TamperFound> {
    const bootUnknown = record.type !== 'boot' && !this.#settlement.knows(record.boot);
    const misfit = { ...this.#misfit(line, place), seq: record.seq, bootUnknown };
    return new TamperFound(await diagnosePrev(this.#files, misfit));
  }

  async #accept(record: AuditRecord, bytes: Uint8Array, place: Place): Promise<void> {
    const { seq } = record;
    const leaf = leafHash(bytes);
    this.#tree.append(leaf);
    this.#segmentTree.append(leaf);
    this.#lastHash = lineHash(bytes).toString('hex');
    this.#unvouched ??= { ...place, seq };
    if (record.node !== this.#header?.node) {
      if (!this.#last)
        throw found('edited', this.#header?.place ?? place, 'its header names another node', seq);
      this.#hold({ class: 'forked', ...place, seq, what: 'the record is of another node' });
    }
    this.#hold(this.#settlement.take(record, place, this.#first > 0));
    this.#last = { place, isBoot: record.type === 'boot' };
    if (this.#settlement.pending >= batch_signatures) this.#hold(await this.#settlement.verifySignatures());
    await this.#compare();
  }

  /** Holds the log, as far as it has been read, against what was said of this size. */
  async #compare(): Promise<void> {
    const { size } = this.#tree;
    const isLocal = this.#checkpoints.next?.note.checkpoint.size === size;
    if (isLocal) {
      const place = this.#header?.place ?? nowhere;
      const from = this.#unvouched ?? { ...place, seq: size - 1 };
      try {
        await this.#checkpoints.compare({ tree: this.#tree, chain: this.#lastHash, from, header: place });
      } catch (thrown) {
        throw thrown instanceof TamperFound ? await this.#resolved(thrown) : thrown;
      }
    }
    const isWitnessed = this.#witness.compare(size, this.#tree);
    if (!isLocal && !isWitnessed) return;
    const isSigned = this.#checkpoints.signed === size || !this.#notes.hasKeys;
    if (!isSigned && !isWitnessed) return;
    this.#vouched = size;
    this.#unvouched = undefined;
    if (this.#held) throw new TamperFound(this.#held);
  }

  #misfit({ bytes }: FileLine, place: Place): Misfit {
    const newest = this.#checkpoints.newest?.note.checkpoint;
    return {
      place,
      bytes,
      expected: this.#tree.size,
      before: this.#last?.place ?? this.#header?.place ?? place,
      beforeIsBoot: this.#last?.isBoot ?? false,
      beforeVouched: this.#vouched === this.#tree.size,
      bootUnknown: false,
      newest,
    };
  }

  /** The segment does not follow on the one before: whatever its first record is, it is not the next. */
  async #gap(header: Place, first: number, expected: number): Promise<void> {
    const bytes = (await lineBehind(this.#files, header)) ?? new Uint8Array();
    const record = recordOfLine(bytes);
    const seq = typeof record === 'string' ? first : record.seq;
    if (seq === expected) return;
    const misfit = this.#misfit({ bytes, number: 2, ended: true }, { ...header, line: 2 });
    throw await this.#resolved(new TamperFound(await diagnoseSeq(this.#files, { ...misfit, expected, seq })));
  }

  /** The last line was never finished: a crash leaves that, and nobody was told that the record was there. */
  #tear(line: FileLine, place: Place): void {
    this.#torn = { place, ended: line.ended };
    this.#warn(`${place.file} ends in an unfinished line of ${line.bytes.length} bytes`);
  }

  async #conclude(): Promise<void> {
    const { size } = this.#tree;
    const segments = new Set(named(this.#files, segmentFirst).map(({ first }) => first));
    for (const file of named(this.#files, checkpointsFirst)) {
      if (file.first < this.#first || segments.has(file.first)) continue;
      this.#warn(await this.#checkpoints.load(file.name, file.first, Number.MAX_SAFE_INTEGER));
    }
    const ahead = this.#checkpoints.newest;
    if (ahead && ahead.note.checkpoint.size > size) {
      const what = `the log ends at ${size}, and its checkpoint ${ahead.place.file}:${ahead.place.line} at ${ahead.note.checkpoint.size}`;
      const place = this.#torn?.place ?? this.#last?.place ?? this.#header?.place ?? nowhere;
      throw await this.#resolved(found(this.#torn?.ended ? 'edited' : 'truncated', place, what, size));
    }
    const rolledBack = this.#witness.ahead(size, this.#last?.place ?? nowhere);
    if (rolledBack) throw await this.#resolved(rolledBack);
    this.#hold(await this.#settlement.verifySignatures());
    this.#hold(this.#settlement.unsettled());
    if (this.#held) throw new TamperFound(this.#held);
    this.#concludeSigned(size);
  }

  #concludeSigned(size: number): void {
    const { signed, countSigned } = this.#checkpoints;
    const open = this.#settlement.open();
    if (open.length > 0)
      this.#warn(`${open.length} intents at the end have no result yet: ${open.slice(0, 5)}`);
    if (!this.#notes.hasKeys) {
      this.#warn(
        'no audit key was given: nothing signed was used, and whoever rewrote all of it is not found',
      );
      return;
    }
    if (countSigned === 0 && size > 0) {
      throw found('bad-signature', nowhere, 'no checkpoint is signed with a key that was given', size - 1);
    }
    if (signed < size)
      this.#warn(`records ${signed} to ${size - 1} are not covered by a signed checkpoint yet`);
  }

  #hold(finding: AuditFinding | undefined): void {
    if (finding && (this.#held?.seq ?? Number.MAX_SAFE_INTEGER) > (finding.seq ?? -1)) this.#held = finding;
  }

  /** What is reported of what was just found and what is wrong with the lines before it: whichever comes first. */
  async #resolved(thrown: TamperFound): Promise<TamperFound> {
    this.#hold(await this.#settlement.verifySignatures());
    const { seq = this.#tree.size } = thrown.finding;
    return this.#held && (this.#held.seq ?? seq) < seq ? new TamperFound(this.#held) : thrown;
  }

  #warn(warning: string | undefined): void {
    if (warning !== undefined) this.#warnings.push(warning);
  }
}

interface Named {
  readonly name: string;
  readonly first: number;
}

const nowhere: Place = { file: 'checkpoints-*.jsonl', line: 1 };
const batch_signatures = 256;

const named = (files: AuditFiles, firstOf: (name: string) => number | undefined): Named[] =>
  files.names
    .flatMap(name => {
      const first = firstOf(name);
      return first === undefined ? [] : [{ name, first }];
    })
    .sort((one, other) => one.first - other.first);

const nameOfCheckpoints = (segment: string): string => segment.replace(/^segment-/, 'checkpoints-');

function found(kind: AuditFinding['class'], place: Place, what: string, seq: number): TamperFound {
  return new TamperFound({ class: kind, ...place, seq, what });
}

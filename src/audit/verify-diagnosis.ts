import { lineHash } from './record.ts';
import { segmentFirst } from './segment.ts';
import { type AuditFiles, linesOf } from './verify-files.ts';
import type { AuditFinding, Place } from './verify-findings.ts';
import { prevOfLine, seqOfLine } from './verify-record.ts';

/** What the walk knew when it came to a line that does not fit. */
export interface Misfit {
  readonly place: Place;
  readonly bytes: Uint8Array;
  /** The seq that belongs here, and that of the line. */
  readonly expected: number;
  readonly seq?: number;
  /** The line before. */
  readonly before: Place;
  readonly beforeIsBoot: boolean;
  /** Whether a checkpoint vouches for the line before. */
  readonly beforeVouched: boolean;
  /** Whether the line belongs to a boot that has not begun. */
  readonly bootUnknown: boolean;
  /** What the newest checkpoint so far says: its size, and the hash of its last line. */
  readonly newest: { readonly size: number; readonly chain: string } | undefined;
}

/** A line has another seq than its place: lines are missing, moved, or there twice, or only its seq was changed. */
export async function diagnoseSeq(files: AuditFiles, misfit: Misfit): Promise<AuditFinding> {
  const { place, expected, seq = -1, newest } = misfit;
  const say = (kind: AuditFinding['class'], what: string): AuditFinding => ({
    class: kind,
    ...place,
    seq: expected,
    what,
  });
  const elsewhere = seq > expected ? await placeOf(files, expected, place) : undefined;
  if (elsewhere) {
    return say(
      'reordered',
      `record ${seq} stands here, and ${expected} at ${elsewhere.file}:${elsewhere.line}`,
    );
  }
  const next = await lineBehind(files, place);
  const onlyThis = next ? seqOfLine(next) === expected + 1 : newest?.size === expected + 1;
  if (onlyThis)
    return say('edited', `the record says that it is ${seq}, between ${expected - 1} and ${expected + 1}`);
  if (seq < expected) return say('forked', `a second line claims to be record ${seq}`);
  return say('deleted', `${seq - expected} records are missing before record ${seq}`);
}

/** A line has its seq and names another hash of the line before. */
export async function diagnosePrev(files: AuditFiles, misfit: Misfit): Promise<AuditFinding> {
  const { place, before, expected, bytes } = misfit;
  const what = `the record continues another history than record ${expected - 1}`;
  const fork: AuditFinding = { class: 'forked', ...place, seq: expected, what };
  // A line that was only changed still says the boot that it was written in.
  if (misfit.bootUnknown && !misfit.beforeIsBoot) return fork;
  if (!(await isVouched(files, misfit))) {
    return { class: 'edited', ...place, seq: expected, what: 'the line is not the one that was recorded' };
  }
  if (misfit.beforeVouched) return fork;
  const hash = prevOfLine(bytes)?.slice(0, 8);
  return {
    class: 'edited',
    ...before,
    seq: expected - 1,
    what: `the hash of the line is not the one that record ${expected} names (${hash}…)`,
  };
}

/** A line is no record. */
export async function diagnoseUnreadable(
  files: AuditFiles,
  misfit: Misfit,
  why: string,
): Promise<AuditFinding> {
  const { place, expected } = misfit;
  const kind = (await isVouched(files, misfit)) ? 'malformed' : 'edited';
  return { class: kind, ...place, seq: expected, what: `the line ${why}` };
}

/** Whether what comes behind a line, or its checkpoint, knows the line as it is. */
async function isVouched(files: AuditFiles, { place, bytes, newest, expected }: Misfit): Promise<boolean> {
  const hash = lineHash(bytes).toString('hex');
  const next = await lineBehind(files, place);
  if (next) return prevOfLine(next) === hash;
  return newest?.size === expected + 1 && newest.chain === hash;
}

/** The line of the record behind a place, in its file or at the beginning of the next. */
export async function lineBehind(files: AuditFiles, place: Place): Promise<Uint8Array | undefined> {
  for (const file of segmentsFrom(files, place.file)) {
    for await (const lines of linesOf(files, file)) {
      for (const { bytes, number } of lines) {
        if (number > (file === place.file ? place.line : 1)) return bytes;
      }
    }
  }
  return undefined;
}

async function placeOf(files: AuditFiles, seq: number, from: Place): Promise<Place | undefined> {
  for (const file of segmentsFrom(files, from.file)) {
    for await (const lines of linesOf(files, file)) {
      for (const { bytes, number } of lines) {
        const isBehind = file !== from.file || number > from.line;
        if (isBehind && seqOfLine(bytes) === seq) return { file, line: number };
      }
    }
  }
  return undefined;
}

const segmentsFrom = (files: AuditFiles, from: string): string[] =>
  files.names.filter(name => segmentFirst(name) !== undefined && name >= from);

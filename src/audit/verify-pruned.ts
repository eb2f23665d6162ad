import { manifestName, type PrunedSegment } from './pruning.ts';
import { type AuditFiles, allLinesOf } from './verify-files.ts';
import { TamperFound } from './verify-findings.ts';
import { isHash, isPlace, objectOf, textOf } from './verify-record.ts';

/** What the manifest says that can be held against the segments that are still here. */
export type PrunedPlace = Pick<PrunedSegment, 'first' | 'last' | 'root' | 'lastHash'>;

/**
 * The segments that were pruned before the oldest that is here, from record 0 without a gap: what is missing and is
 * not in the manifest was deleted. Throws TamperFound.
 */
export async function readPruned(
  files: AuditFiles,
  oldest: { readonly name: string; readonly first: number },
): Promise<readonly PrunedPlace[]> {
  const pruned: PrunedPlace[] = [];
  let next = 0;
  for (const { bytes, number, ended } of await allLinesOf(files, manifestName)) {
    if (!ended) break; // the manifest is written before a segment is removed
    const segment = segmentOf(bytes);
    const place = { file: manifestName, line: number, seq: next };
    if (!segment)
      throw new TamperFound({ class: 'edited', ...place, what: 'the line is not of the manifest' });
    // Named here, and still there: pruning was interrupted, or has just begun.
    if (segment.first >= oldest.first) break;
    if (segment.first !== next) {
      const what = `segments from ${next} on are missing in the manifest`;
      throw new TamperFound({ class: 'deleted', ...place, what });
    }
    pruned.push(segment);
    next = segment.last + 1;
  }
  if (next === oldest.first) return pruned;
  const what = `records ${next} to ${oldest.first - 1} are missing, and the manifest does not have them`;
  throw new TamperFound({ class: 'deleted', file: oldest.name, line: 1, seq: next, what });
}

function segmentOf(bytes: Uint8Array): PrunedPlace | undefined {
  const fields = objectOf(textOf(bytes) ?? '');
  if (!fields) return undefined;
  const { first, last, root, lastHash } = fields;
  if (!isPlace(first) || !isPlace(last) || last < first || !isHash(root) || !isHash(lastHash))
    return undefined;
  return { first, last, root, lastHash };
}

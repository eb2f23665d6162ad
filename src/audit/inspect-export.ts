import type { InclusionProof } from './audit-log.ts';
import type { AuditSource } from './inspect.ts';
import { parseRecord } from './segment.ts';

/** What of a log is exported. */
export interface ExportChoice {
  readonly from?: number | undefined;
  /** The first record that is not exported any more. */
  readonly to?: number | undefined;
  /** Only records since then, by their own time. */
  readonly since?: Date | undefined;
  /** Only records that name this key. */
  readonly key?: string | undefined;
}

/** The first line of an export. */
export interface ExportHead {
  readonly 'keyslot-audit-export': 1;
  /** Whether the records follow one on the other: then the proof of the last one stands for all, by the chain. */
  readonly contiguous: boolean;
}

/**
 * The lines of an export: a head, the records as they stand in the log, and the proofs that they do: one behind
 * the last record, or one behind each where records were left out between them. Records that no checkpoint
 * covers yet are not exported.
 */
export async function* exportLines(source: AuditSource, choice: ExportChoice): AsyncGenerator<string> {
  const contiguous = choice.key === undefined;
  const head: ExportHead = { 'keyslot-audit-export': 1, contiguous };
  yield JSON.stringify(head);
  let last: number | undefined;
  const { checkpointed } = await source.size();
  const end = Math.min(choice.to ?? checkpointed, checkpointed);
  for await (const line of source.lines(choice.from ?? 0)) {
    const record = parseRecord(line);
    if (!record || record.seq >= end) break;
    // A wall clock may step back: once a record is in, all that follow are.
    if (last === undefined && choice.since && new Date(record.utc) < choice.since) continue;
    if (choice.key !== undefined && record.key !== choice.key) continue;
    last = record.seq;
    yield line;
    if (!contiguous) yield proofLine(await source.proof(record.seq));
  }
  if (contiguous && last !== undefined) yield proofLine(await source.proof(last));
}

export const proofLine = (proof: InclusionProof): string => JSON.stringify({ proof });

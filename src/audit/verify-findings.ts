/**
 * What was done to a log. `edited`: a line says something else than was recorded; `deleted`: lines or checkpoints
 * are missing; `reordered`: they are all there, in another order; `forked`: the place of one record is claimed by
 * two, or two histories were joined; `truncated`: the log ends before its newest checkpoint; `rolled-back`: log
 * and checkpoints end before what a witness has seen; `bad-signature`: a checkpoint or a released signature does
 * not verify; `orphan-intent`: intents and results do not belong together; `malformed`: whoever wrote the line
 * meant it, and it is no record.
 */
export const tamperClasses = [
  'edited',
  'deleted',
  'reordered',
  'forked',
  'truncated',
  'rolled-back',
  'bad-signature',
  'orphan-intent',
  'malformed',
] as const;

export type TamperClass = (typeof tamperClasses)[number];

/** The first thing that is wrong. */
export interface AuditFinding {
  readonly class: TamperClass;
  readonly file: string;
  /** From 1; the header of a segment is its line 1. */
  readonly line: number;
  readonly seq?: number | undefined;
  /** Where only a range can be told: the wrong record is one of `seq` to `through`. */
  readonly through?: number | undefined;
  readonly what: string;
}

export interface AuditVerdict {
  readonly ok: boolean;
  readonly finding?: AuditFinding | undefined;
  /** What is not wrong and should be known: an unfinished line at the end, records that no checkpoint covers yet. */
  readonly warnings: readonly string[];
  readonly node: string | undefined;
  /** `chain`: nothing signed was used; `local`: signed checkpoints; `witnessed`: and a copy from elsewhere. */
  readonly tamperEvidence: 'chain' | 'local' | 'witnessed';
  readonly checked: AuditChecked;
}

/** What was looked at, until the end or the first finding. */
export interface AuditChecked {
  /** The seq of the oldest record that is here, and of the one that comes next. */
  readonly first: number;
  readonly size: number;
  readonly segments: number;
  readonly boots: number;
  readonly intents: number;
  readonly results: number;
  /** Released signatures that were verified over the message of their transaction. */
  readonly signatures: number;
  /** Released signatures of messages that the log keeps only the hash of. */
  readonly signaturesByHash: number;
  readonly checkpoints: number;
  readonly checkpointsSigned: number;
  /** Records that the newest signed checkpoint covers. */
  readonly signed: number;
  /** Records that the newest witnessed checkpoint covers. */
  readonly witnessed: number;
}

/** Where a line stands. */
export interface Place {
  readonly file: string;
  readonly line: number;
}

/** Ends the walk over a log at the first thing that is wrong with it. */
export class TamperFound extends Error {
  readonly finding: AuditFinding;

  constructor(finding: AuditFinding) {
    super(finding.what);
    this.name = 'TamperFound';
    this.finding = finding;
  }
}

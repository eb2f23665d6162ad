import type { AuditEntry, AuditRecord, Receipt } from './record.ts';

/**
 * The audit log as the custodian uses it. A record is durable when `append` resolves: written and fdatasync'ed,
 * by group commit (whatever waits is written as soon as the last commit is done, never after a fixed time).
 *
 * Fail-closed: AUDIT_UNAVAILABLE (nothing was written and the disk may have room again later: full, quota),
 * AUDIT_FAILED (a write or an fsync failed in a way after which nobody knows what is on the disk: the log takes
 * nothing more until the custodian starts again). Records that were appended in one turn stand in that order.
 */
export interface AuditLog extends AsyncDisposable {
  append(entry: AuditEntry): Promise<Receipt>;
  status(): AuditStatus;
  figures(): AuditFigures;
  /** Durable records from a place on, in order, at most so many. AUDIT_PRUNED when they are not here any more. */
  read(from: number, limit: number): Promise<readonly AuditLine[]>;
  /** RFC 6962 §2.1.1, under the newest checkpoint or one of this size. AUDIT_RECORD_UNKNOWN. */
  inclusionProof(seq: number, size?: number): Promise<InclusionProof>;
  /** RFC 6962 §2.1.2. AUDIT_RECORD_UNKNOWN for sizes that the log has not reached. */
  consistencyProof(from: number, to: number): Promise<ConsistencyProof>;
  checkpoints(from: number, limit: number): Promise<readonly string[]>;
  /** Makes a checkpoint of everything that is durable now, if there is anything new. */
  checkpoint(): Promise<string | undefined>;
  /** Removes whole segments below a witnessed checkpoint, and says which. AUDIT_UNWITNESSED. */
  prune(below: number): Promise<{ readonly removed: readonly string[]; readonly first: number }>;
}

export interface AuditLine {
  readonly record: AuditRecord;
  /** The line as it stands in the file. */
  readonly line: string;
}

export interface AuditStatus {
  readonly node: string;
  readonly boot: string;
  readonly state: 'ok' | 'full' | 'failed';
  /** Durable records; the seq of the next one. */
  readonly size: number;
  /** The oldest record that is still here. */
  readonly first: number;
  /** Records that the newest signed checkpoint covers. */
  readonly checkpointed: number;
  /** Records that the newest witnessed checkpoint covers. */
  readonly witnessed: number;
  /**
   * Against whom the log speaks: `chain`, checkpoints are not signed; `local`, signed, and whoever owns the machine
   * could cut the end off together with its checkpoints; `witnessed`, a copy of the checkpoints is elsewhere.
   */
  readonly tamperEvidence: 'chain' | 'local' | 'witnessed';
  readonly witnesses: readonly { readonly id: string; readonly size: number; readonly error?: string }[];
}

/** What is measured of the log, beside its status. */
export interface AuditFigures {
  /** Records that wait to be written. */
  readonly waiting: number;
  /** When the newest checkpoint was made, as it says itself. */
  readonly checkpointedAt?: string;
}

export interface InclusionProof {
  readonly seq: number;
  readonly size: number;
  /** Hashes in base64, from the leaf up. */
  readonly leaf: string;
  readonly path: readonly string[];
  /** The signed note that the path leads to. */
  readonly checkpoint: string;
}

export interface ConsistencyProof {
  readonly from: number;
  readonly to: number;
  readonly path: readonly string[];
}

/** Signs checkpoints: the audit key, in whatever slot it is. */
export interface CheckpointSigner {
  readonly publicKey: Uint8Array;
  sign(note: Uint8Array): Promise<Uint8Array>;
}

/** Called for each record once it is durable, in order, before whoever appended it is told. It must not throw. */
export type AuditObserver = (record: AuditRecord, hash: Buffer) => void;

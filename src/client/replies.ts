import type { AuditStatus, ReceiptView } from '../wire/audit.ts';
import type { ApprovalView, FreezeView, PolicyView, VerdictView } from '../wire/policies.ts';
import type {
  CanaryView,
  Health,
  KeyView,
  MigrationKeyView,
  MigrationPlanView,
  MigrationView,
  SessionView,
  SlotView,
  TrialView,
} from '../wire/views.ts';
import { type Check, flag, list, number, optional, record, shape, text, word } from './checks.ts';
import type { Violation } from './errors.ts';

/** The shapes of the replies, one check a route: the same as `wire/views.ts`, which only the types come from. */

const reason = shape<{ code: string; detail: string }>({ code: text, detail: text });

export const slot = shape<SlotView>({
  id: text,
  engine: text,
  custody: word(),
  state: word(),
  reason: optional(reason),
  access: word(),
  attended: flag,
  summary: text,
  details: record(
    (value): value is string | number | boolean =>
      typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean',
  ),
  findings: list(shape<SlotView['findings'][number]>({ key: text, problem: word() })),
});

export const slots = shape<{ slots: SlotView[] }>({ slots: list(slot) });

export const key = shape<KeyView>({
  id: text,
  slot: text,
  publicKey: text,
  publicKeyBase64: text,
  custody: word(),
  exportable: flag,
  state: word(),
  tags: list(text),
  origin: word(),
  createdAt: text,
  attributes: optional(record(flag)),
});

/** The 64 numbers of a Solana key file, beside the key that they are of. */
export type ExportedKey = KeyView & { secretKey: number[] };
const isSecretKey = shape<{ secretKey: number[] }>({ secretKey: list(number) });
export const exportedKey: Check<ExportedKey> = (value): value is ExportedKey =>
  key(value) && isSecretKey(value);

export interface KeyPage {
  keys: KeyView[];
  /** The cursor of the next page; absent on the last one. */
  next?: string | undefined;
}
export const keyPage = shape<KeyPage>({ keys: list(key), next: optional(text) });

/** A session token goes into a header, so it may only hold what a header can carry. */
const token: Check<string> = (value): value is string =>
  typeof value === 'string' && /^[A-Za-z0-9._~+/=-]{16,512}$/.test(value);

export type OpenedSession = SessionView & { token: string };
export const session = shape<OpenedSession>({ token, slot: text, expiresAt: text, idle_s: number });

export type Custody = KeyView['custody'];
/** `raw-transaction` only where the caller asked for `raw`. */
export type MessageKind = 'bytes' | 'offchain' | 'raw-transaction';
export type TransactionVersion = 'legacy' | 'v0' | 'v1';

/** Where a signature stands in the audit log, and where the proof of it is. */
export type Receipt = ReceiptView;

interface ToldMessage {
  signatureBase64: string;
  kind: MessageKind;
  receipt: Receipt;
}
interface ToldTransaction {
  signatureBase64: string;
  signedTransaction: string;
  version: TransactionVersion;
  receipt: Receipt;
}
interface By {
  publicKey: string;
  custody: Custody;
}

const receipt = shape<Receipt>({ node: text, seq: number, hash: text, proof: text });
const message = { signatureBase64: text, kind: word<MessageKind>(), receipt };
const transaction = {
  signatureBase64: text,
  signedTransaction: text,
  version: word<TransactionVersion>(),
  receipt,
};
const by = { publicKey: text, custody: word<Custody>() };

export const signedMessage = shape<ToldMessage & By>({ ...message, ...by });
export const signedTransaction = shape<ToldTransaction & By>({ ...transaction, ...by });

export interface Problem {
  code: string;
  detail: string;
  retryable: boolean;
  requestId: string;
  violations?: Violation[] | undefined;
}
const violation = shape<Violation>({ rule: text, reason: text });
export const problem = shape<Problem>({
  code: text,
  detail: text,
  retryable: flag,
  requestId: text,
  violations: optional(list(violation)),
});

export type ToldResult = ToldMessage | ToldTransaction | { error: Problem };
const isMessage = shape<ToldMessage>(message);
const isTransaction = shape<ToldTransaction>(transaction);
const isError = shape<{ error: Problem }>({ error: problem });
const result: Check<ToldResult> = (value): value is ToldResult =>
  isMessage(value) || isTransaction(value) || isError(value);
export const batch = shape<By & { results: ToldResult[] }>({ results: list(result), ...by });

export const verified = shape<{ valid: boolean }>({ valid: flag });

const canary = shape<CanaryView>({
  ok: flag,
  state: word(),
  every_s: number,
  age_s: optional(number),
  signatures: number,
  failures: number,
  unverified: number,
  lastError: optional(shape<{ code: string; at: string }>({ code: text, at: text })),
});

export const trial = shape<TrialView>({
  ok: flag,
  took_ms: number,
  at: text,
  error: optional(reason),
});

export const health = shape<Health>({
  ready: flag,
  checks: list(
    shape<Health['checks'][number]>({
      id: text,
      ok: flag,
      state: text,
      custody: optional(word()),
      since: optional(text),
      required: optional(flag),
      group: optional(text),
      findings: optional(shape<{ all: number; harmful: number }>({ all: number, harmful: number })),
      canary: optional(canary),
      members: optional(list(shape<{ slot: string; ok: boolean }>({ slot: text, ok: flag }))),
      tamperEvidence: optional(word()),
      preflight: optional(record(word())),
      askedAt: optional(text),
    }),
  ),
});
export const alive = shape<{ status: string }>({ status: text });

const plannedKey = shape<MigrationPlanView['keys'][number]>({
  key: text,
  publicKey: optional(text),
  possible: flag,
  reason: optional(reason),
});

export const migrationPlan = shape<MigrationPlanView>({
  from: text,
  to: text,
  possible: number,
  impossible: number,
  obstacle: optional(reason),
  notes: list(text),
  keys: list(plannedKey),
});

const migrationFields: { readonly [F in keyof MigrationView]-?: Check<MigrationView[F]> } = {
  id: text,
  from: text,
  to: text,
  createdAt: text,
  createdBy: text,
  state: word(),
  counts: record(number),
  failed: number,
};

export const migration = shape<MigrationView>(migrationFields);
export const migrations = shape<{ migrations: MigrationView[] }>({ migrations: list(migration) });

export type StartedMigration = MigrationView & { leftOut: MigrationPlanView['keys'] };
export const startedMigration = shape<StartedMigration>({ ...migrationFields, leftOut: list(plannedKey) });

const migrationKey = shape<MigrationKeyView>({
  key: text,
  publicKey: text,
  step: word(),
  custodyBefore: word(),
  custodyAfter: optional(word()),
  times: record(text),
  proof: optional(
    shape<NonNullable<MigrationKeyView['proof']>>({
      slot: text,
      at: text,
      challenge: text,
      challengeSha256: text,
      signature: text,
    }),
  ),
  error: optional(reason),
});

export interface MigrationPage {
  migration: MigrationView;
  keys: MigrationKeyView[];
  /** `after` of the next part; absent when every key has had its turn. */
  next?: string | undefined;
}
export const migrationPage = shape<MigrationPage>({
  migration,
  keys: list(migrationKey),
  next: optional(text),
});

const anything: Check<unknown> = (_value): _value is unknown => true;

export const policy = shape<PolicyView>({
  name: text,
  version: number,
  source: word(),
  permissive: flag,
  document: record(anything),
  createdAt: text,
  createdBy: text,
});
export const policies = shape<{ policies: PolicyView[] }>({ policies: list(policy) });

const finding = { rule: text, reason: text, instruction: optional(number) };
export const verdict = shape<VerdictView>({
  allowed: flag,
  policies: list(text),
  violations: list(shape<VerdictView['violations'][number]>(finding)),
  rules: list(shape<VerdictView['rules'][number]>({ ...finding, verdict: word() })),
  charges: list(shape<VerdictView['charges'][number]>({ counter: text, window_s: number, amount: text })),
  decoded: shape<VerdictView['decoded']>({ kind: text }),
});

export const freeze = shape<FreezeView>({
  id: text,
  scope: word(),
  target: optional(text),
  reason: text,
  since: text,
  by: text,
});
export const freezes = shape<{ freezes: FreezeView[] }>({ freezes: list(freeze) });

export const approval = shape<ApprovalView>({
  id: text,
  operation: text,
  input: record(anything),
  digest: text,
  requestedBy: text,
  reason: text,
  needed: number,
  approvedBy: list(text),
  rejectedBy: list(text),
  state: word(),
  expiresAt: text,
});
export const approvals = shape<{ approvals: ApprovalView[] }>({ approvals: list(approval) });

export const auditStatus = shape<AuditStatus>({
  node: text,
  boot: text,
  state: word(),
  size: number,
  first: number,
  checkpointed: number,
  witnessed: number,
  tamperEvidence: word(),
  witnesses: list(shape<AuditStatus['witnesses'][number]>({ id: text, size: number, error: optional(text) })),
  publicKey: optional(text),
});

export interface AuditLines {
  /** As they stand in the log, byte by byte. */
  lines: string[];
  next?: number | undefined;
  size: number;
}
export const auditLines = shape<AuditLines>({ lines: list(text), next: optional(number), size: number });

export interface InclusionProof {
  seq: number;
  size: number;
  leaf: string;
  path: string[];
  /** The signed note of the tree that the path leads to. */
  checkpoint: string;
}
export const inclusionProof = shape<InclusionProof>({
  seq: number,
  size: number,
  leaf: text,
  path: list(text),
  checkpoint: text,
});

export interface ConsistencyProof {
  from: number;
  to: number;
  path: string[];
}
export const consistencyProof = shape<ConsistencyProof>({ from: number, to: number, path: list(text) });
export const checkpoints = shape<{ checkpoints: string[] }>({ checkpoints: list(text) });

/** What a route without an answer answers. */
export const nothing = shape<object>({});

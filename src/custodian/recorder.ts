import type { AuditLog } from '../audit/audit-log.ts';
import type { AuditEntry, Receipt } from '../audit/record.ts';
import { isId } from '../custody/ids.ts';
import type { Clock } from '../foundation/clock.ts';
import { isKeyslotError, type KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { Call, Credential, OperationName } from '../wire/custodian.ts';
import type { Identity } from './identities.ts';

/**
 * What the custodian writes into the audit log. Whatever changes something is written twice, before (`intent`)
 * and after (`result`); what merely happened, once; every refusal, once. A result that could not be written is
 * owed: it is written, as unknown, before the next intent is taken.
 */
export class Recorder {
  readonly #audit: AuditLog;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #recorded = new WeakSet<KeyslotError>();
  readonly #owed: AuditEntry[] = [];
  #settling: Promise<void> | undefined;
  #strangers = { since_ms: 0, count: 0, unsaid: 0 };

  constructor(audit: AuditLog, clock: Clock, log: Log) {
    this.#audit = audit;
    this.#clock = clock;
    this.#log = log;
  }

  /** Durable when it resolves. AUDIT_UNAVAILABLE, AUDIT_FAILED: then nothing may be done. */
  async intent(entry: Omit<AuditEntry, 'type'>): Promise<Receipt> {
    if (this.#owed.length > 0) await this.#settled();
    return this.#audit.append({ type: 'intent', ...entry });
  }

  /** Durable when it resolves; until then nothing leaves. The failures of `intent`, and then it is owed. */
  async result(intent: Receipt, entry: Omit<AuditEntry, 'type' | 'intent'>): Promise<Receipt> {
    const whole: AuditEntry = { type: 'result', ...entry, intent: intent.seq };
    try {
      return await this.#audit.append(whole);
    } catch (thrown) {
      const { signature: _unreleased, idempotency: _undone, ...rest } = whole;
      this.#owed.push({ ...rest, outcome: 'unknown', code: toKeyslotError(thrown).code });
      throw thrown;
    }
  }

  event(entry: Omit<AuditEntry, 'type'>): Promise<Receipt> {
    return this.#audit.append({ type: 'event', ...entry });
  }

  /**
   * Writes a refusal down, once, however many hands it passes through. What cannot be written is logged: the
   * answer is a refusal either way. Callers who are nobody are counted, and written down some times a second
   * only, so that they cannot fill the disk.
   */
  async refusal(error: KeyslotError, entry: Omit<AuditEntry, 'type' | 'outcome' | 'code'>): Promise<void> {
    if (this.#recorded.has(error)) return;
    this.#recorded.add(error);
    const unsaid = entry.actor === undefined ? this.#strangersUnsaid() : 0;
    if (unsaid === undefined) return;
    const rules = error.violations?.map(violation => violation.rule);
    const detail = unsaid > 0 ? { detail: { ...entry.detail, unsaid } } : {};
    const whole = { ...entry, ...(rules ? { decision: 'deny' as const, rules } : {}), ...detail };
    try {
      await this.#audit.append({ type: 'refusal', ...whole, outcome: 'refused', code: error.code });
    } catch (thrown) {
      if (!isKeyslotError(thrown)) throw thrown;
      this.#log.error(
        { requestId: entry.requestId, code: error.code, err: thrown },
        'a refusal is not in the audit log',
      );
    }
  }

  /** Whether the failure stands in the log already. */
  knows(error: KeyslotError): boolean {
    return this.#recorded.has(error);
  }

  /** The failure of an intent stands in its result, and needs no refusal of its own. */
  noteRecorded(error: KeyslotError): void {
    this.#recorded.add(error);
  }

  /** One at a time, so that nothing is owed twice. */
  #settled(): Promise<void> {
    this.#settling ??= this.#settle().finally(() => {
      this.#settling = undefined;
    });
    return this.#settling;
  }

  async #settle(): Promise<void> {
    for (let oldest = this.#owed[0]; oldest; oldest = this.#owed[0]) {
      await this.#audit.append(oldest);
      this.#owed.shift();
    }
  }

  /** How many were left out since the last one that is written; undefined for one that is left out itself. */
  #strangersUnsaid(): number | undefined {
    const now_ms = this.#clock.monotonic_ms();
    if (now_ms - this.#strangers.since_ms >= 1_000) {
      this.#strangers = { since_ms: now_ms, count: 0, unsaid: this.#strangers.unsaid };
    }
    if (this.#strangers.count >= strangers_perSecond) {
      this.#strangers.unsaid += 1;
      return undefined;
    }
    const { unsaid } = this.#strangers;
    this.#strangers.count += 1;
    this.#strangers.unsaid = 0;
    return unsaid;
  }
}

const strangers_perSecond = 10;

/** Who asked, as records name them. */
export const asker = (operation: OperationName, call: Call, identity: Identity | undefined) => ({
  requestId: call.requestId,
  ...(identity ? { actor: identity.name } : {}),
  ...(call.credential ? { credential: credentialText(call.credential) } : {}),
  operation,
});

function credentialText(credential: Credential): string {
  if ('certificate' in credential) return `certificate:${credential.certificate}`;
  // A token's digest would let whoever reads the log recognise a token; its beginning tells tokens apart.
  return 'token' in credential ? `token:${credential.token.slice(0, 16)}` : 'jwt';
}

/**
 * What of an operation is written down when it succeeds: `sign` by the pipeline itself, `change` before and
 * after, `event` after, `read` nothing. Refusals of all of them are.
 */
export const traceOf: Readonly<Record<OperationName, 'sign' | 'change' | 'event' | 'read'>> = {
  'list-slots': 'read',
  'list-groups': 'read',
  'show-slot': 'read',
  'open-slot': 'change',
  'lock-slot': 'change',
  'clear-latch': 'change',
  'try-slot': 'read',
  'open-session': 'event',
  'close-session': 'event',
  'list-keys': 'read',
  'show-key': 'read',
  'generate-key': 'change',
  'import-key': 'change',
  'adopt-key': 'change',
  'tag-key': 'change',
  'disable-key': 'change',
  'enable-key': 'change',
  'export-key': 'change',
  'destroy-key': 'change',
  'sign-message': 'sign',
  'sign-transaction': 'sign',
  'sign-batch': 'sign',
  'sign-bytes': 'sign',
  verify: 'read',
  'create-wallet': 'change',
  'list-wallets': 'read',
  'show-wallet': 'read',
  'plan-migration': 'read',
  'start-migration': 'change',
  'list-migrations': 'read',
  'show-migration': 'read',
  'run-migration': 'change',
  'verify-migration': 'change',
  'rollback-migration': 'change',
  'destroy-copies': 'change',
  login: 'event',
  'list-policies': 'read',
  'show-policy': 'read',
  'put-policy': 'change',
  'delete-policy': 'change',
  'evaluate-policy': 'read',
  'list-freezes': 'read',
  freeze: 'change',
  thaw: 'change',
  'list-approvals': 'read',
  'show-approval': 'read',
  'request-approval': 'change',
  'decide-approval': 'change',
  'who-am-i': 'read',
  'list-identities': 'read',
  'create-identity': 'change',
  'delete-identity': 'change',
  'list-tokens': 'read',
  'issue-token': 'change',
  'revoke-token': 'change',
  'audit-status': 'read',
  'read-audit': 'read',
  'prove-audit': 'read',
  'audit-consistency': 'read',
  'list-checkpoints': 'read',
  'prune-audit': 'change',
  health: 'read',
  'show-health': 'read',
  metrics: 'read',
  drain: 'event',
  reload: 'change',
  'show-reload': 'read',
};

/** What an operation is about, from its input: ids only, never what is secret or large. */
export function subjectOf(input: Readonly<Record<string, unknown>>): Omit<AuditEntry, 'type'> {
  const detail: Record<string, string | number | boolean> = {};
  for (const name of described) {
    const value = input[name];
    if (typeof value === 'string')
      detail[name] = ids.includes(name) && !isId(value) ? '?' : value.slice(0, 200);
    else if (typeof value === 'number' || typeof value === 'boolean') detail[name] = value;
    else if (Array.isArray(value)) detail[name] = value.map(String).join(',').slice(0, 200);
  }
  return {
    ...(typeof input.key === 'string' && isId(input.key) ? { key: input.key } : {}),
    ...(typeof input.slot === 'string' && isId(input.slot) ? { slot: input.slot } : {}),
    ...(Object.keys(detail).length > 0 ? { detail } : {}),
  };
}

/** Names of things, in whose place a token is easily pasted: what cannot be one is not written down. */
const ids: readonly string[] = ['policy', 'migration', 'token', 'approval'];

const described = [
  'from',
  'to',
  'migration',
  'policy',
  'version',
  'identity',
  'token',
  'expires_s',
  'scope',
  'target',
  'freeze',
  'approval',
  'decision',
  'operation',
  'reason',
  'roleId',
  'tags',
  'below',
  'drain',
];

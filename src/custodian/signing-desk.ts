import type { AuditEntry, Receipt } from '../audit/record.ts';
import { encodeBase64 } from '../foundation/base64.ts';
import type { Clock } from '../foundation/clock.ts';
import { KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { type CompiledPolicy, listedAddresses } from '../policy/compile.ts';
import { describeFacts } from '../policy/describe-facts.ts';
import { evaluate } from '../policy/evaluate.ts';
import type { Facts } from '../policy/facts.ts';
import { readFacts, summaryOf } from '../policy/read-facts.ts';
import type { Subject, Verdict } from '../policy/verdict.ts';
import type { KeyRecord } from '../store/key-registry.ts';
import type { Call, OperationName } from '../wire/custodian.ts';
import type { VerdictView } from '../wire/policies.ts';
import { type Decoded, decode, type Order } from './decode.ts';
import type { FreezeBoard } from './freeze-board.ts';
import type { GrantOperation } from './grants.ts';
import type { Identity } from './identities.ts';
import { keyUnknown } from './keys.ts';
import { auditCharges, type Ledger, namedSigning, naturalSigning } from './ledger.ts';
import type { LookupTables } from './lookup-tables.ts';
import type { PolicyBook } from './policy-book.ts';
import { asker, type Recorder } from './recorder.ts';
import type { Recorded } from './recovered-requests.ts';
import type { BoundSigner, Made } from './slot-keeper.ts';
import type { StageClock } from './stages.ts';

/**
 * Where a signature is decided on and written down: freezes, policies and their counters, the intent before it
 * and the result after it, and the memory of what was signed already. `sign.ts` says in which order.
 */
export class SigningDesk {
  readonly #world: DeskWorld;

  constructor(world: DeskWorld) {
    this.#world = world;
  }

  /** Work whose failure is a refusal: it stands in the audit log before anybody hears of it. */
  async refusing<T>(asking: Asking, decoded: Decoded | undefined, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (thrown) {
      const error = toKeyslotError(thrown);
      const what = decoded ? aboutMessage(decoded) : {};
      await this.#world.recorder.refusal(error, { ...aboutKey(asking), ...what });
      throw error;
    }
  }

  /**
   * The signature that was made of this request before, or the one that the work makes. A frozen key gives out
   * neither. FROZEN, IDEMPOTENCY_CONFLICT.
   */
  async once(decoded: Decoded, asking: Asking, work: () => Promise<Recorded>): Promise<Recorded> {
    const { ledger, freezes } = this.#world;
    const { record } = asking;
    return this.refusing(asking, decoded, async () => {
      freezes.refuse(record.id, record.slot);
      const before = ledger.recovered(requestOf(asking, decoded));
      if (before && 'signature' in before) return before;
      const id = repeatId(asking, decoded);
      return id === undefined ? await work() : await ledger.once(id, requestOf(asking, decoded), work);
    });
  }

  /**
   * Asks every policy of the key, and charges its counters in the same turn: nobody else is judged in between.
   * FROZEN, POLICY_DENIED with the rules that refused.
   */
  async decide(decoded: Decoded, asking: Asking): Promise<Decision> {
    const { book, freezes, ledger, clock } = this.#world;
    const { record, identity, call } = asking;
    let policies = book.of(record);
    let facts = await this.facts(decoded, policies, call.signal);
    // A policy that was changed while a node was asked for lookup tables holds already.
    for (let now = book.of(record); !isSame(now, policies); now = book.of(record)) {
      policies = now;
      facts = await this.facts(decoded, policies, call.signal);
    }
    // From here on nothing is awaited: what is judged is what is charged.
    freezes.refuse(record.id, record.slot);
    const at = clock.utc();
    const verdict = evaluate(policies, facts, subjectOf(asking, identity, at), ledger.live);
    this.#world.decided?.(verdict);
    if (!verdict.allowed) throw denied(record, verdict);
    const charged = ledger.recovered(requestOf(asking, decoded)) !== undefined;
    const charges = charged ? [] : verdict.charges;
    ledger.charge(charges, at.getTime());
    return { verdict, facts, charges, at_ms: at.getTime() };
  }

  /** What the request would do; lookup tables are seen through as far as that goes. */
  async facts(
    decoded: Decoded,
    policies: readonly CompiledPolicy[],
    signal: AbortSignal | undefined,
  ): Promise<Facts> {
    if (decoded.kind !== 'transaction') return messageFacts(decoded);
    const { view } = decoded;
    if (view.version !== 'v0' || view.addressTableLookups.length === 0) return readFacts(view);
    const listed = (table: Uint8Array) => listedAddresses(policies, table);
    return readFacts(view, await this.#world.tables.resolve(view, listed, signal));
  }

  /** What every rule would say of an order, without signing it, counting it, or asking whether it is frozen. */
  async explain(order: Order, question: Question): Promise<VerdictView> {
    const { book, ledger, clock } = this.#world;
    const { record, identity, signal, policies = book.of(record) } = question;
    const { id, slot, tags, publicKey, custody } = record;
    if (!publicKey || !custody) throw keyUnknown(id);
    const facts = await this.facts(decode(order, { id, publicKey }, true), policies, signal);
    const subject = { key: { id, publicKey, slot, tags, custody }, identity: identity.name, at: clock.utc() };
    const verdict = evaluate(policies, facts, subject, ledger.live, { explain: true });
    return {
      allowed: verdict.allowed,
      policies: [...verdict.policies],
      violations: [...verdict.violations],
      rules: [...(verdict.rules ?? [])],
      charges: [...auditCharges(verdict.charges)],
      decoded: { ...describeFacts(facts) },
    };
  }

  /** Durable when it resolves: only now may the module be called. AUDIT_UNAVAILABLE, AUDIT_FAILED. */
  async intend(decoded: Decoded, asking: Asking, decision: Decision): Promise<Intent> {
    const { recorder, ledger } = this.#world;
    const { verdict, facts, charges, at_ms } = decision;
    const about = { ...aboutKey(asking), ...aboutMessage(decoded) };
    const idempotency = repeatId(asking, decoded);
    try {
      const receipt = await recorder.intent({
        ...about,
        summary: summaryOf(facts),
        policies: verdict.policies,
        decision: 'allow',
        ...(charges.length > 0 ? { charges: auditCharges(charges) } : {}),
        idempotency,
      });
      return { receipt, about, charges, at_ms, idempotency };
    } catch (thrown) {
      ledger.refund(charges, at_ms); // nothing was signed and nothing will be
      throw thrown;
    }
  }

  /** Durable when it resolves: only now may the signature leave. The result names the slot that made it. AUDIT_UNAVAILABLE, AUDIT_FAILED. */
  async release(intent: Intent, { signature, slot }: Pick<Made, 'signature' | 'slot'>): Promise<Recorded> {
    const { requestId, actor, operation, key, publicKey, kind, message } = intent.about;
    const entry = { requestId, actor, operation, key, publicKey, slot, kind, message };
    const receipt = await this.#world.recorder
      .result(intent.receipt, {
        ...entry,
        outcome: 'ok',
        signature: encodeBase64(signature),
        idempotency: intent.idempotency,
      })
      .catch(thrown => {
        const error = toKeyslotError(thrown);
        this.#world.recorder.noteRecorded(error); // it is owed, and its charges stay: the signature exists
        throw error;
      });
    return { signature, receipt };
  }

  /** No signature was released: what it was charged is given back, and the log says what happened. */
  async giveUp(intent: Intent, error: KeyslotError): Promise<KeyslotError> {
    const { recorder, ledger } = this.#world;
    if (recorder.knows(error)) return error;
    recorder.noteRecorded(error);
    const { requestId, actor, operation, key, slot, kind, message } = intent.about;
    ledger.refund(intent.charges, intent.at_ms);
    try {
      const entry = { requestId, actor, operation, key, slot, kind, message };
      await recorder.result(intent.receipt, { ...entry, outcome: 'failed', code: error.code });
    } catch (thrown) {
      const unwritten = toKeyslotError(thrown);
      recorder.noteRecorded(unwritten);
      return unwritten;
    }
    return error;
  }
}

const isSame = (some: readonly CompiledPolicy[], others: readonly CompiledPolicy[]): boolean =>
  some.length === others.length && some.every((policy, at) => policy === others[at]);

/** What the pipeline needs of it. */
export type Desk = Pick<SigningDesk, 'refusing' | 'once' | 'decide' | 'intend' | 'release' | 'giveUp'>;

export interface DeskWorld {
  readonly book: PolicyBook;
  readonly freezes: FreezeBoard;
  readonly ledger: Ledger;
  readonly recorder: Recorder;
  readonly tables: LookupTables;
  readonly clock: Clock;
  /** Counts what policies have decided. */
  readonly decided?: (verdict: Verdict) => void;
}

/** Who wants what signed with which key. */
export interface Asking {
  readonly operation: OperationName;
  readonly call: Call;
  readonly identity: Identity;
  readonly record: KeyRecord;
  readonly key: BoundSigner;
  /** Whether bytes are to be signed that read as a transaction. */
  readonly raw: boolean;
  /** PERMISSION_DENIED when the caller has no grant for this kind of signature. */
  readonly refuse: (kind: GrantOperation) => void;
  /** The same, when the signature is about to be made: what has changed since then counts. */
  readonly refuseMeanwhile: (kind: GrantOperation) => void;
  /** The place in a batch. */
  readonly item?: number;
  /** Measures a signature of the request, where somebody wants to know. */
  readonly clock?: () => StageClock | undefined;
}

/** Whose policies an order is held against. */
export interface Question {
  readonly record: KeyRecord;
  readonly identity: Identity;
  /** Candidates in place of the key's own. */
  readonly policies?: readonly CompiledPolicy[] | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface Decision {
  readonly verdict: Verdict;
  readonly facts: Facts;
  readonly charges: Verdict['charges'];
  readonly at_ms: number;
}

export interface Intent {
  readonly receipt: Receipt;
  readonly about: Omit<AuditEntry, 'type'>;
  readonly charges: Verdict['charges'];
  readonly at_ms: number;
  readonly idempotency: string | undefined;
}

export function subjectOf(
  { record, key }: Pick<Asking, 'record' | 'key'>,
  identity: Identity,
  at: Date,
): Subject {
  const { publicKey, custody } = key.signer.key;
  const { id, slot, tags } = record;
  return { key: { id, publicKey, slot, tags, custody }, identity: identity.name, at };
}

const aboutKey = ({ operation, call, identity, record, key }: Asking) => ({
  ...asker(operation, call, identity),
  key: record.id,
  publicKey: key.address,
  slot: record.slot,
  engine: key.engine,
  custody: key.signer.key.custody,
});

const aboutMessage = (decoded: Decoded) => ({
  kind: decoded.kind,
  message: decoded.digest,
  ...(decoded.kind === 'transaction' ? { transaction: encodeBase64(decoded.message) } : {}),
});

/** Under which id a repeat of this request finds its signature; none for one that its caller did not name. */
function repeatId({ identity, call, item, ...asking }: Asking, decoded: Decoded): string | undefined {
  if (call.idempotencyKey !== undefined) return namedSigning(identity.name, call.idempotencyKey, item);
  if (!call.requestIdGiven) return undefined;
  return naturalSigning(requestOf({ identity, call, ...asking }, decoded));
}

const requestOf = ({ operation, identity, call, record }: Asking, decoded: Decoded) => ({
  operation,
  requestId: call.requestId,
  actor: identity.name,
  key: record.id,
  message: decoded.digest,
});

const messageFacts = (decoded: Exclude<Decoded, { kind: 'transaction' }>): Facts => ({
  kind: 'message',
  form: decoded.kind,
  bytes: decoded.message,
  ...(decoded.kind === 'offchain' ? { offchain: decoded.offchain } : {}),
});

function denied(record: KeyRecord, { violations, policies }: Verdict): KeyslotError {
  const asked = policies.length > 0 ? policies.join(', ') : 'no policy';
  const rules = violations.map(violation => violation.rule).slice(0, 5);
  return new KeyslotError('POLICY_DENIED', `${record.id} (${asked}) is refused by ${rules.join(', ')}.`, {
    violations: violations.map(({ rule, reason }) => ({ rule, reason })),
  });
}

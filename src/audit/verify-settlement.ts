import { createHash } from 'node:crypto';
import { decodeBase58 } from '../foundation/base58.ts';
import { decodeBase64 } from '../foundation/base64.ts';
import { createVerifier, publicKey_bytes, type Verifier } from '../foundation/ed25519.ts';
import type { AuditRecord } from './record.ts';
import type { AuditFinding, Place } from './verify-findings.ts';

/** What a record means beside the records before it: boots, intents and their results, released signatures. */
export class Settlement {
  readonly #boots = new Set<string>();
  readonly #open = new Map<number, OpenIntent>();
  /** Released signatures whose verification is still to be done, in the order of the log. */
  #signatures: SignatureCheck[] = [];
  readonly #verifiers = new Map<string, Verifier>();
  #boot: string | undefined;
  #mono_ms = 0;
  /** Open intents of boots before this one. */
  #left = 0;
  intents = 0;
  results = 0;
  signatures = 0;
  signaturesByHash = 0;

  get boots(): number {
    return this.#boots.size;
  }

  /** Whether this boot has been seen. */
  knows(boot: string): boolean {
    return this.#boots.has(boot);
  }

  /** Intents of records that are not here any more. */
  carry(open: readonly number[], place: Place): void {
    for (const seq of open) this.#open.set(seq, { boot: '', place, mono_ms: 0, record: undefined });
    this.#left = open.length;
  }

  /** The seqs of the intents without a result, in order. */
  open(): number[] {
    return [...this.#open.keys()];
  }

  /** The first thing that is wrong with a record whose line is in order. */
  take(record: AuditRecord, place: Place, continued: boolean): AuditFinding | undefined {
    // Each of them is done, whatever the one before has found: what is open is counted on.
    const found = [
      this.#bootOf(record, place, continued),
      this.#digest(record, place),
      this.#leftOver(record),
      this.#settle(record, place),
    ];
    return found.find(each => each !== undefined);
  }

  /** Whether intents remain that somebody should have settled; others are what a living log looks like. */
  unsettled(): AuditFinding | undefined {
    for (const intent of this.#open.values()) {
      if (intent.boot === this.#boot && this.#mono_ms - intent.mono_ms > settled_ms) {
        return orphan(intent.place, intent.record?.seq, 'an intent has no result, long after any deadline');
      }
    }
    return undefined;
  }

  get pending(): number {
    return this.#signatures.length;
  }

  /** Verifies the signatures that were taken up; the first that is wrong. */
  async verifySignatures(): Promise<AuditFinding | undefined> {
    const checks = this.#signatures;
    this.#signatures = [];
    const valid = await Promise.all(
      checks.map(({ publicKey, message, signature }) =>
        // A few are done sooner on the spot than handed over.
        checks.length <= few_signatures
          ? this.#verifier(publicKey)?.verifyNow(message, signature)
          : this.#verifier(publicKey)?.verify(message, signature),
      ),
    );
    this.signatures += valid.filter(Boolean).length;
    const wrong = checks[valid.findIndex(each => each !== true)];
    return (
      wrong && {
        class: 'bad-signature',
        ...wrong.place,
        seq: wrong.seq,
        what: 'the signature that was released does not verify over the message of its transaction',
      }
    );
  }

  #bootOf(record: AuditRecord, place: Place, continued: boolean): AuditFinding | undefined {
    const { boot, type, seq } = record;
    const fork = (what: string): AuditFinding => ({ class: 'forked', ...place, seq, what });
    this.#mono_ms = boot === this.#boot ? Math.max(this.#mono_ms, record.mono_ms) : record.mono_ms;
    if (boot === this.#boot) {
      return type === 'boot' ? fork('a boot begins a second time') : undefined;
    }
    const known = this.#boots.has(boot);
    const first = this.#boot === undefined && continued;
    this.#boots.add(boot);
    this.#boot = boot;
    this.#left = first ? 0 : this.#open.size;
    if (known) return fork('a boot goes on after another one has begun');
    if (type !== 'boot' && !first) return fork('records of another boot begin without its boot record');
    return undefined;
  }

  /** The message that is kept has the hash that is told. */
  #digest({ transaction, message, seq }: AuditRecord, place: Place): AuditFinding | undefined {
    if (transaction === undefined || message === undefined) return undefined;
    const digest = createHash('sha256').update(transaction, 'base64').digest('hex');
    if (digest === message) return undefined;
    return { class: 'malformed', ...place, seq, what: 'message is not the SHA-256 of transaction' };
  }

  /** The first thing that a boot does is to close what the boots before it have left open. */
  #leftOver(record: AuditRecord): AuditFinding | undefined {
    const closing = record.type === 'result' && record.outcome === 'unknown';
    if (this.#left <= 0 || record.type === 'boot' || closing) return undefined;
    this.#left = 0;
    const [left] = this.#open.values();
    return left && orphan(left.place, left.record?.seq, 'an intent was left without a result');
  }

  #settle(record: AuditRecord, place: Place): AuditFinding | undefined {
    if (record.type === 'intent') {
      this.intents += 1;
      this.#open.set(record.seq, { boot: record.boot, place, mono_ms: record.mono_ms, record });
    }
    if (record.type === 'result') return this.#result(record, place);
    if (record.intent === undefined) return undefined;
    return {
      class: 'malformed',
      ...place,
      seq: record.seq,
      what: 'a record that is no result names an intent',
    };
  }

  #result(record: AuditRecord, place: Place): AuditFinding | undefined {
    this.results += 1;
    const wrong = (what: string) => orphan(place, record.seq, what);
    if (record.intent === undefined) return wrong('a result names no intent');
    const intent = this.#open.get(record.intent);
    if (!intent) return wrong(`a result names ${record.intent}, which is no intent that waits for one`);
    this.#open.delete(record.intent);
    if (intent.boot !== record.boot) this.#left -= 1;
    if (intent.record && intent.boot !== record.boot && record.outcome !== 'unknown') {
      return wrong(`a result of intent ${record.intent} comes from another boot`);
    }
    const other = sameFields.find(
      field => intent.record && record[field] !== undefined && record[field] !== intent.record[field],
    );
    if (other) return wrong(`a result has another ${other} than its intent ${record.intent}`);
    this.#release(record, intent, place);
    return undefined;
  }

  #release(record: AuditRecord, { record: intent }: OpenIntent, place: Place): void {
    if (record.signature === undefined) return;
    const message = decodeBase64(record.transaction ?? intent?.transaction ?? '');
    const signature = decodeBase64(record.signature);
    const publicKey = record.publicKey ?? intent?.publicKey;
    if (!message || message.length === 0 || !signature || publicKey === undefined) {
      this.signaturesByHash += 1;
    } else {
      this.#signatures.push({ place, seq: record.seq, publicKey, message, signature });
    }
  }

  #verifier(publicKey: string): Verifier | undefined {
    const known = this.#verifiers.get(publicKey);
    if (known) return known;
    const bytes = decodeBase58(publicKey);
    if (bytes?.length !== publicKey_bytes) return undefined;
    if (this.#verifiers.size >= verifiers_max) this.#verifiers.clear();
    const verifier = createVerifier(bytes);
    this.#verifiers.set(publicKey, verifier);
    return verifier;
  }
}

interface OpenIntent {
  readonly boot: string;
  readonly place: Place;
  readonly mono_ms: number;
  /** Absent when the record was pruned. */
  readonly record: AuditRecord | undefined;
}

interface SignatureCheck {
  readonly place: Place;
  readonly seq: number;
  readonly publicKey: string;
  readonly message: Uint8Array;
  readonly signature: Uint8Array;
}

const orphan = (place: Place, seq: number | undefined, what: string): AuditFinding => ({
  class: 'orphan-intent',
  ...place,
  seq,
  what,
});

/** What a result may repeat of its intent. */
const sameFields = ['key', 'publicKey', 'message', 'transaction', 'kind'] as const;

/** No request waits nearly so long. */
const settled_ms = 10 * 60_000;
const verifiers_max = 10_000;
const few_signatures = 8;

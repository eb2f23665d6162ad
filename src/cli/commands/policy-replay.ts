import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { policyDocument } from '../../appliance/policy-files.ts';
import type { AuditRecord } from '../../audit/record.ts';
import { parseRecord } from '../../audit/segment.ts';
import type { CustodyLabel } from '../../custody/engine.ts';
import { decodeBase58 } from '../../foundation/base58.ts';
import { decodeBase64 } from '../../foundation/base64.ts';
import { isKeyslotError, KeyslotError } from '../../foundation/errors.ts';
import { limits } from '../../foundation/limits.ts';
import { type CompiledPolicy, compilePolicy, listedAddresses } from '../../policy/compile.ts';
import { duration_ms, parsePolicy } from '../../policy/document.ts';
import type { Facts } from '../../policy/facts.ts';
import { holds } from '../../policy/lookup-tables.ts';
import { readFacts } from '../../policy/read-facts.ts';
import { type PastRequest, replay } from '../../policy/replay.ts';
import { parseTransaction } from '../../solana/transaction.ts';
import { unsignedWire } from '../../solana/unsigned-wire.ts';
import type { AuditStatus } from '../../wire/audit.ts';
import type { KeyView } from '../../wire/views.ts';
import { Connection, configOf, type SharedOptions } from '../connection.ts';
import { misused, print, printJson, table } from '../output.ts';
import { ProgressBar } from './migration-progress.ts';

/**
 * Takes the requests that policies decided on out of the audit log, judges each anew at its time, and says where
 * the answer would be another one. Keys have the tags that they have now: the log does not hold those of then.
 */
export async function replayPolicies(
  options: SharedOptions & { policy: string[]; since: string },
  command: Command,
): Promise<void> {
  const candidates = options.policy.map(file => compilePolicy(parsePolicy(policyDocument(file)), 0));
  const since_ms = timeOf(options.since, command);
  const connection = new Connection(configOf(options));
  const tags = await tagsOf(connection);
  using spool = new Spool();
  {
    using bar = new ProgressBar('reading', options.json !== true, 'records');
    for await (const { record, done, of } of recordsSince(connection, since_ms)) {
      if (isDecision(record)) spool.add(record);
      bar.show(done, of);
    }
  }
  const outcome = replay(pastOf(spool, candidates, tags), candidates);
  if (options.json) {
    printJson(outcome);
    return;
  }
  const rows = outcome.changes.map(({ seq, was, now, violations }) => [
    String(seq),
    was,
    now,
    violations.map(({ rule, reason }) => `${rule}: ${reason}`).join('; '),
  ]);
  if (rows.length > 0) print(table(['RECORD', 'WAS', 'NOW', 'WHY'], rows));
  const { judged, unreadable, changes } = outcome;
  print(`${judged} judged, ${changes.length} would change, ${unreadable} not in the log in full.`);
}

function timeOf(text: string, command: Command): number {
  if (/^[1-9]\d{0,5}[smhd]$/.test(text)) return Date.now() - duration_ms(text);
  const time_ms = Date.parse(text);
  if (!Number.isNaN(time_ms)) return time_ms;
  return command.error(`--since ${text} is neither like 7d nor a time.`, { exitCode: misused });
}

/** The records from a time on, in pages, with how far they have come. */
async function* recordsSince(connection: Connection, since_ms: number) {
  const from = await firstSince(connection, since_ms);
  let at: number | undefined = from;
  while (at !== undefined) {
    const page: Page = await connection.get<Page>(`/v1/audit?from=${at}&limit=${limits.page_items_max}`);
    for (const record of page.lines.map(recordOf)) {
      if (Date.parse(record.utc) < since_ms) continue;
      yield { record, done: record.seq - from + 1, of: page.size - from };
    }
    at = page.next;
  }
}

/** The first record that is not older: the log is in the order of time, so it is found by halving. */
async function firstSince(connection: Connection, since_ms: number): Promise<number> {
  const { first, size } = await connection.get<AuditStatus>('/v1/audit/status');
  let [low, high] = [first, size];
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const { lines } = await connection.get<Page>(`/v1/audit?from=${middle}&limit=1`);
    if (Date.parse(recordOf(lines[0] ?? '').utc) < since_ms) low = middle + 1;
    else high = middle;
  }
  return low;
}

interface Page {
  readonly lines: readonly string[];
  readonly next?: number;
  readonly size: number;
}

function recordOf(line: string): AuditRecord {
  const record = parseRecord(line);
  if (record) return record;
  throw new KeyslotError('AUDIT_TAMPERED', 'The appliance answered a line that is no record.');
}

async function tagsOf(connection: Connection): Promise<ReadonlyMap<string, readonly string[]>> {
  const tags = new Map<string, readonly string[]>();
  let cursor: string | undefined;
  do {
    const query = new URLSearchParams({
      limit: String(limits.page_items_max),
      ...(cursor ? { cursor } : {}),
    });
    const page = await connection.get<{ keys: KeyView[]; next?: string }>(`/v1/keys?${query}`);
    for (const key of page.keys) if (key.tags.length > 0) tags.set(key.id, key.tags);
    cursor = page.next;
  } while (cursor);
  return tags;
}

/** Requests to sign that a policy decided on; what failed otherwise tells nothing of policies. */
const isDecision = ({ type, decision, kind, key, publicKey }: AuditRecord): boolean =>
  (type === 'intent' || type === 'refusal') &&
  decision !== undefined &&
  kind !== undefined &&
  key !== undefined &&
  publicKey !== undefined;

function* pastOf(
  spool: Spool,
  candidates: readonly CompiledPolicy[],
  tags: ReadonlyMap<string, readonly string[]>,
): Generator<PastRequest> {
  for (const record of spool.records()) {
    const { seq, key = '', publicKey = '', slot = '', custody = '', actor = '', utc } = record;
    const subject = {
      key: {
        id: key,
        publicKey: decodeBase58(publicKey, 44) ?? new Uint8Array(),
        slot,
        tags: tags.get(key) ?? [],
        custody: custody as CustodyLabel,
      },
      identity: actor,
      at: new Date(utc),
    };
    yield { seq, subject, was: record.decision ?? 'deny', facts: factsOf(record, candidates) };
  }
}

/** Nothing where the log does not hold what the candidates would want to see. */
function factsOf(
  { kind, transaction }: AuditRecord,
  candidates: readonly CompiledPolicy[],
): Facts | undefined {
  if (kind !== 'transaction') return messageFacts(kind, candidates);
  const message = decodeBase64(transaction ?? '');
  if (!message) return undefined;
  try {
    const view = parseTransaction(unsignedWire(message));
    const tables = view.addressTableLookups.map(lookup => {
      const addresses = listedAddresses(candidates, lookup.tableKey);
      const known = addresses && { addresses, resolved: 'listed' as const };
      return known && holds(known, lookup) ? known : undefined;
    });
    return readFacts(view, tables);
  } catch (thrown) {
    if (isKeyslotError(thrown)) return undefined;
    throw thrown;
  }
}

/** The texts of messages are not in the log: only candidates that want to see their beginning miss them. */
function messageFacts(form: string | undefined, candidates: readonly CompiledPolicy[]): Facts | undefined {
  const bytes = new Uint8Array();
  if (form === 'offchain' || form === 'raw-transaction') return { kind: 'message', form, bytes };
  const wanted = candidates.some(({ messages }) => typeof messages?.bytes === 'object');
  return form === 'bytes' && !wanted ? { kind: 'message', form, bytes } : undefined;
}

/** Records in a file that nobody else can read, one a line: there may be more of them than fit into memory. */
class Spool implements Disposable {
  readonly #folder = mkdtempSync(join(tmpdir(), 'keyslot-replay-'));
  readonly #path = join(this.#folder, 'records.jsonl');
  readonly #file = openSync(this.#path, 'wx+', 0o600);

  add(record: AuditRecord): void {
    writeSync(this.#file, `${JSON.stringify(record)}\n`);
  }

  *records(): Generator<AuditRecord> {
    const chunk = Buffer.alloc(chunk_bytes);
    let rest = Buffer.alloc(0);
    for (let at = 0; ; ) {
      const read_bytes = readSync(this.#file, chunk, 0, chunk.length, at);
      if (read_bytes === 0) return;
      at += read_bytes;
      rest = Buffer.concat([rest, chunk.subarray(0, read_bytes)]);
      for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
        yield recordOf(rest.toString('utf8', 0, end));
        rest = rest.subarray(end + 1);
      }
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#file);
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

const chunk_bytes = 256 * 1024;

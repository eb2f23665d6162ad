import { closeSync, fsyncSync, openSync, readFileSync, statSync, writeSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Command, InvalidArgumentError } from 'commander';
import { auditKeyName } from '../../audit/audit-key.ts';
import type { AuditStatus, InclusionProof } from '../../audit/audit-log.ts';
import { type AuditSource, openFolderSource } from '../../audit/inspect.ts';
import { exportLines, proofLine } from '../../audit/inspect-export.ts';
import { parseRecord } from '../../audit/segment.ts';
import { verifyAuditLog } from '../../audit/verify.ts';
import { type ExportVerdict, verifyAuditExport, verifyProof } from '../../audit/verify-export.ts';
import { type AuditFiles, folderFiles } from '../../audit/verify-files.ts';
import { type AuditFinding, type AuditVerdict, TamperFound } from '../../audit/verify-findings.ts';
import { NoteReader } from '../../audit/verify-note.ts';
import { decodeBase58 } from '../../foundation/base58.ts';
import { publicKey_bytes } from '../../foundation/ed25519.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import { limits } from '../../foundation/limits.ts';
import { Connection, configOf, type SharedOptions } from '../connection.ts';
import { listing, misused, print, printJson, refused } from '../output.ts';
import { ProgressBar } from './migration-progress.ts';

interface VerifyOptions {
  readonly folder?: string;
  readonly file?: string;
  readonly key?: string[];
  readonly witness?: string[];
  readonly trustFolderKey?: boolean;
  readonly json?: boolean;
}

type ExportOptions = SharedOptions & {
  folder?: string;
  from?: number;
  to?: number;
  since?: string;
  key?: string;
  output: string;
};

export function addAudit(program: Command, shared: (command: Command) => Command): void {
  const audit = program.command('audit').description('the audit log: verify, read, prove');
  const several = (value: string, values: string[] = []) => [...values, value];
  audit
    .command('verify')
    .description('check a log offline, from its files and the public audit key alone')
    .option('--folder <dir>', 'the folder of the log')
    .option('--file <file>', 'an export instead of a folder')
    .option('--key <public key>', 'the audit key, base58; may be repeated', several)
    .option('--witness <file>', 'checkpoints that were kept elsewhere; may be repeated', several)
    .option(
      '--trust-folder-key',
      'take the key from audit-key.json: proves less, whoever owns the folder owns it',
    )
    .option('--json', 'print JSON instead of tables')
    .exitOverride()
    .action(verify);
  shared(audit.command('export').description('write records and their proofs into a file'))
    .requiredOption('--output <file>', 'a file that does not exist yet')
    .option('--folder <dir>', 'read the files of a log instead of asking the appliance')
    .option('--from <seq>', 'the first record', seqOption)
    .option('--to <seq>', 'the record to stop before', seqOption)
    .option('--since <time>', 'records since then: 7d, 12h, 30m, or an ISO time')
    .option('--key <id>', 'only records that name this key')
    .action(exportLog);
  shared(audit.command('tail').description('the newest records'))
    .option('-n, --lines <count>', 'how many', seqOption, 10)
    .option('-f, --follow', 'go on as records come')
    .action(tail);
  shared(audit.command('proof').description('prove that a record is in the log, and check the proof'))
    .argument('<seq>', 'the record', seqOption)
    .option('--key <public key>', 'the audit key, base58', several)
    .action(proof);
  shared(audit.command('checkpoints').description('print checkpoints, one JSON object a line'))
    .option('--from <size>', 'of at least this size', seqOption, 0)
    .option('--limit <count>', 'at most so many', seqOption, 100)
    .action(checkpoints);
  shared(audit.command('status').description('what the log says of itself')).action(status);
  shared(audit.command('prune').description('remove whole segments that witnesses have seen'))
    .requiredOption('--below <seq>', 'keep from this record on', seqOption)
    .action(prune);
}

/** Status 0 when everything is in order, 1 when something is not, 2 when the command was misused. */
async function verify(options: VerifyOptions, command: Command): Promise<void> {
  const { folder, file, json } = options;
  if ((folder === undefined) === (file === undefined)) {
    command.error('Give either --folder or --file.', { exitCode: misused });
  }
  const trusted = options.trustFolderKey && folder !== undefined ? folderKeys(folder, command) : [];
  const publicKeys = [...(options.key ?? []), ...trusted].map(key => publicKeyOf(key, command));
  const witnessed = (options.witness ?? []).flatMap(path => witnessNotes(path, command));
  if (file !== undefined) {
    using bar = new LogBar();
    const files = watchedFile(dirname(file), basename(file), bar);
    const verdict = await verifyAuditExport(files, basename(file), publicKeys);
    return conclude(verdict, json, [
      ['records', `${verdict.checked.records} (${verdict.checked.proven} proven)`],
    ]);
  }
  using bar = new LogBar();
  const progress = (done: number, of: number) => bar.show(done, of);
  const verdict = await verifyAuditLog({ files: folderFiles(folder ?? ''), publicKeys, witnessed, progress });
  conclude(verdict, json, rowsOf(verdict));
}

function rowsOf({ tamperEvidence, checked }: AuditVerdict): readonly (readonly [string, string])[] {
  const { first, size, segments, boots, intents, results, signatures, signaturesByHash } = checked;
  const { checkpoints: count, checkpointsSigned, signed, witnessed } = checked;
  return [
    ['records', `${size - first} (${first} to ${size}, in ${segments} segments)`],
    ['boots', String(boots)],
    ['intents', `${intents}, results ${results}`],
    ['signatures', `${signatures} verified, ${signaturesByHash} of messages that are kept as a hash`],
    ['checkpoints', `${count}, signed ${checkpointsSigned}`],
    ['signed up to', String(signed)],
    ['witnessed up to', String(witnessed)],
    ['tamper evidence', tamperEvidence],
  ];
}

function conclude(
  verdict: AuditVerdict | ExportVerdict,
  json: boolean | undefined,
  rows: readonly (readonly [string, string])[],
): void {
  if (!verdict.ok) process.exitCode = refused;
  if (json) {
    printJson(verdict);
    return;
  }
  print(listing({ log: verdict.node, ...Object.fromEntries(rows) }));
  for (const warning of verdict.warnings) print(`warning: ${warning}`);
  print(verdict.finding ? `NOT IN ORDER: ${sentence(verdict.finding)}` : 'in order');
}

function sentence({ class: kind, file, line, seq, through, what }: AuditFinding): string {
  const range =
    through === undefined || through === seq ? `record ${seq}` : `one of the records ${seq} to ${through}`;
  return `${kind}: ${file}, line ${line}${seq === undefined ? '' : `, ${range}`}: ${what}.`;
}

async function exportLog(options: ExportOptions, command: Command): Promise<void> {
  const { from, to, key, folder, output, json } = options;
  const since = options.since === undefined ? undefined : timeOf(options.since, command);
  const opened = folder === undefined ? applianceSource(options) : await openFolderSource(folder);
  const file = newFile(output, command);
  let lines = 0;
  try {
    using bar = new ProgressBar('exporting', json !== true, 'records');
    const source = watchedSource(opened, bar);
    for await (const line of exportLines(source, { from, to, since, key })) {
      writeSync(file, `${line}\n`);
      lines += 1;
    }
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  if (json) printJson({ output, lines });
  else print(listing({ output, lines }));
}

async function tail(options: SharedOptions & { lines: number; follow?: boolean }): Promise<void> {
  const source = applianceSource(options);
  let at = Math.max(0, (await source.size()).size - options.lines);
  for (;;) {
    for await (const line of source.lines(at)) {
      const record = parseRecord(line);
      at = (record?.seq ?? at) + 1;
      if (options.json || !record) print(line);
      else {
        const { seq, utc, type, actor, operation, key, decision, outcome, code } = record;
        print(
          [seq, utc, type, actor, operation, key, decision, outcome, code]
            .filter(each => each !== undefined)
            .join('  '),
        );
      }
    }
    if (!options.follow) return;
    await sleep(poll_ms);
  }
}

async function proof(
  seq: number,
  options: SharedOptions & { key?: string[] },
  command: Command,
): Promise<void> {
  const source = applianceSource(options);
  const publicKeys = (options.key ?? []).map(key => publicKeyOf(key, command));
  const made = await source.proof(seq);
  for await (const line of source.lines(seq)) {
    try {
      const place = { file: 'proof', line: 1 };
      await verifyProof(made, Buffer.from(line, 'utf8'), new NoteReader(publicKeys), place);
    } catch (thrown) {
      if (!(thrown instanceof TamperFound)) throw thrown;
      throw new KeyslotError('AUDIT_TAMPERED', `${sentence(thrown.finding)}`);
    }
    if (publicKeys.length === 0) console.error('keyslot: no --key was given: the signature was not checked.');
    if (options.json) return printJson({ line, proof: made });
    print(line);
    return print(proofLine(made));
  }
}

async function checkpoints(options: SharedOptions & { from: number; limit: number }): Promise<void> {
  const connection = new Connection(configOf(options));
  const query = new URLSearchParams({ from: String(options.from), limit: String(options.limit) });
  const answer = await connection.get<{ checkpoints: string[] }>(`/v1/audit/checkpoints?${query}`);
  if (options.json) return printJson(answer);
  for (const note of answer.checkpoints) print(JSON.stringify({ note }));
}

async function status(options: SharedOptions): Promise<void> {
  const answer = await new Connection(configOf(options)).get<AuditStatus>('/v1/audit/status');
  if (options.json) return printJson(answer);
  const { witnesses, ...others } = answer;
  print(listing({ ...others }));
  for (const { id, size, error } of witnesses) print(`witness ${id}: ${size}${error ? `, ${error}` : ''}`);
}

async function prune(options: SharedOptions & { below: number }): Promise<void> {
  const connection = new Connection(configOf(options));
  const { below } = options;
  const answer = await connection.post<{ removed: string[]; first: number }>('/v1/audit/prune', { below });
  if (options.json) return printJson(answer);
  print(listing({ first: answer.first, removed: answer.removed.length }));
  for (const name of answer.removed) print(name);
}

/** The log of a running appliance. */
function applianceSource(options: SharedOptions): AuditSource {
  const connection = new Connection(configOf(options));
  return {
    size: () => connection.get<AuditStatus>('/v1/audit/status'),
    proof: seq => connection.get<InclusionProof>(`/v1/audit/${seq}/proof`),
    async *lines(from) {
      const { first } = await connection.get<AuditStatus>('/v1/audit/status');
      for (let at: number | undefined = Math.max(from, first); at !== undefined; ) {
        const query = new URLSearchParams({ from: String(at), limit: String(limits.page_items_max) });
        const page: Page = await connection.get<Page>(`/v1/audit?${query}`);
        yield* page.lines;
        at = page.next;
      }
    },
  };
}

interface Page {
  readonly lines: readonly string[];
  readonly next?: number;
  readonly size: number;
}

/** The log with a bar that says how many of its records were read. */
function watchedSource(source: AuditSource, bar: ProgressBar): AuditSource {
  return {
    size: () => source.size(),
    proof: seq => source.proof(seq),
    async *lines(from) {
      const { checkpointed } = await source.size();
      let done = 0;
      const show = () => bar.show(from + done, Math.max(checkpointed, from + done));
      try {
        for await (const line of source.lines(from)) {
          done += 1;
          if (done % bar_records === 1) show();
          yield line;
        }
      } finally {
        show();
      }
    },
  };
}

/** One file of a folder, with a bar that says how much of it was read. */
function watchedFile(folder: string, name: string, bar: LogBar): AuditFiles {
  const files = folderFiles(folder);
  return {
    ...files,
    async *read(wanted) {
      const of = statSync(join(folder, wanted)).size;
      let done = 0;
      for await (const chunk of files.read(wanted)) {
        yield chunk;
        done += chunk.length;
        if (wanted === name) bar.show(done, of);
      }
    },
  };
}

/** How far the reading of a long log has come, on a terminal; nothing in a pipe. */
class LogBar implements Disposable {
  #shown = -1;

  show(done: number, of: number): void {
    const percent = of === 0 ? 100 : Math.min(100, Math.floor((done / of) * 100));
    if (process.stderr.isTTY !== true || of < long_bytes || percent === this.#shown) return;
    this.#shown = percent;
    const bar = '#'.repeat(Math.round((percent / 100) * width)).padEnd(width, '.');
    process.stderr.write(`\rverifying [${bar}] ${percent} %`);
  }

  [Symbol.dispose](): void {
    if (this.#shown >= 0) process.stderr.write('\n');
  }
}

/** The keys that the folder itself names. */
function folderKeys(folder: string, command: Command): string[] {
  const path = join(folder, auditKeyName);
  const keys = jsonFor(readFor(path, command), path, command);
  const named = Array.isArray(keys) ? keys.map((key: { publicKey?: unknown }) => key?.publicKey) : [];
  return named.filter(key => typeof key === 'string');
}

/** The newest notes of a witness's file, one JSON object a line. */
function witnessNotes(path: string, command: Command): string[] {
  const lines = readFor(path, command).split('\n').slice(0, -1).slice(-witness_notes_max);
  return lines.map((line, at) => {
    const { note } = jsonFor(line, path, command) as { note?: unknown };
    if (typeof note === 'string') return note;
    return command.error(`${path}, line ${at + 1}, holds no checkpoint.`, { exitCode: misused });
  });
}

function jsonFor(text: string, path: string, command: Command): object {
  try {
    return Object(JSON.parse(text)) as object;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return command.error(`${path} is not JSON.`, { exitCode: misused });
  }
}

function readFor(path: string, command: Command): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    const reason = cause instanceof Error && 'code' in cause ? String(cause.code) : 'unknown';
    return command.error(`${path} cannot be read (${reason}).`, { exitCode: misused });
  }
}

function newFile(path: string, command: Command): number {
  try {
    return openSync(path, 'wx', 0o600);
  } catch (cause) {
    const reason = cause instanceof Error && 'code' in cause ? String(cause.code) : 'unknown';
    return command.error(`${path} cannot be made (${reason}).`, { exitCode: misused });
  }
}

function publicKeyOf(text: string, command: Command): Uint8Array {
  const bytes = decodeBase58(text);
  if (bytes?.length === publicKey_bytes) return bytes;
  return command.error(`${text} is not a public key in base58.`, { exitCode: misused });
}

/** `7d`, `12h`, `30m`: so long ago; or a time. */
function timeOf(text: string, command: Command): Date {
  const [, count, unit = ''] = /^(\d{1,6})([dhm])$/.exec(text) ?? [];
  const unit_ms = { d: 86_400_000, h: 3_600_000, m: 60_000 }[unit];
  const time = unit_ms === undefined ? new Date(text) : new Date(Date.now() - Number(count) * unit_ms);
  if (!Number.isNaN(time.getTime())) return time;
  return command.error(`--since ${text} is neither like 7d nor a time.`, { exitCode: misused });
}

function seqOption(text: string): number {
  const seq = Number(text);
  if (/^\d{1,15}$/.test(text) && Number.isSafeInteger(seq)) return seq;
  throw new InvalidArgumentError('It is not a place in the log.');
}

const poll_ms = 1_000;
const bar_records = 100;
const long_bytes = 16 * 1024 * 1024;
const width = 30;
const witness_notes_max = 10_000;

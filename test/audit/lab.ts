import { generateKeyPairSync, sign } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { AuditLog, CheckpointSigner } from '../../src/audit/audit-log.ts';
import type { FileSeam, LogFile } from '../../src/audit/log-file.ts';
import { type AuditLogOptions, openAuditLog, type Recovered } from '../../src/audit/open.ts';
import { type AuditEntry, lineHash, type Receipt } from '../../src/audit/record.ts';
import { parseRecord } from '../../src/audit/segment.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { silentLog } from '../../src/foundation/log.ts';

/** A folder for a log of small segments; it and the logs that were opened in it are gone at the end. */
export class AuditLab implements AsyncDisposable {
  readonly folder = mkdtempSync(join(tmpdir(), 'keyslot-audit-'));
  readonly #opened: AuditLog[] = [];

  /** Checkpoints are made when a test asks for them, at the end of a segment, and at the end. */
  async open(more: Partial<AuditLogOptions> = {}): Promise<AuditLog & { readonly recovered: Recovered }> {
    const log = await openAuditLog({
      folder: join(this.folder, 'log'),
      node: 'test',
      segment_records: 8,
      checkpoint: { every_ms: 3_600_000, records: 1_000_000 },
      witnesses: [],
      log: silentLog,
      ...more,
    });
    this.#opened.push(log);
    return log;
  }

  path(...names: readonly string[]): string {
    return join(this.folder, 'log', ...names);
  }

  names(kind = 'segment'): readonly string[] {
    return readdirSync(this.path())
      .filter(name => name.startsWith(`${kind}-`))
      .sort();
  }

  /** Every line of every segment as it stands on the disk, headers left out. */
  lines(): readonly string[] {
    return this.names().flatMap(name => readFileSync(this.path(name), 'utf8').split('\n').slice(1, -1));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const log of this.#opened) await log[Symbol.asyncDispose]();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export const event = (at: number | string): AuditEntry => ({
  type: 'event',
  operation: 'test',
  requestId: `request-${at}`,
});

export async function appendMany(log: AuditLog, count: number, from = 0): Promise<readonly Receipt[]> {
  return await Promise.all(Array.from({ length: count }, (_, at) => log.append(event(from + at))));
}

/** What is wrong with these lines as a whole log, or nothing. */
export function flawOf(lines: readonly string[]): string | undefined {
  let prev = '0'.repeat(64);
  for (const [seq, line] of lines.entries()) {
    const record = parseRecord(line);
    if (!record) return `line ${seq} is not canonical`;
    if (record.seq !== seq) return `line ${seq} has seq ${record.seq}`;
    if (record.prev !== prev) return `line ${seq} does not follow`;
    prev = lineHash(line).toString('hex');
  }
  return undefined;
}

export async function codeOf(work: () => unknown): Promise<string> {
  try {
    await work();
    return 'none';
  } catch (error) {
    if (error instanceof KeyslotError) return error.code;
    throw error;
  }
}

export function auditSigner(): CheckpointSigner {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  const raw = publicKey.export({ type: 'spki', format: 'der' }).subarray(-32);
  return { publicKey: raw, sign: async note => sign(null, note, privateKey) };
}

export type Operation = keyof LogFile;

/** Stands in front of the real file and is asked before each operation; `before` may throw or never come back. */
export function faulty(
  before: (operation: Operation, file: LogFile, path: string, bytes: Uint8Array, position: number) => unknown,
): FileSeam {
  const nothing = new Uint8Array();
  return (file, path) => ({
    write: async (bytes, position) => {
      await before('write', file, path, bytes, position);
      await file.write(bytes, position);
    },
    datasync: async () => {
      await before('datasync', file, path, nothing, 0);
      await file.datasync();
    },
    truncate: async length => {
      await before('truncate', file, path, nothing, length);
      await file.truncate(length);
    },
    close: () => file.close(),
  });
}

export const errno = (code: string): Error =>
  Object.assign(new Error(`${code}: as the system says it`), { code });

import { readdirSync } from 'node:fs';
import { eachLine } from '../../src/audit/reader.ts';
import { type AuditRecord, lineHash } from '../../src/audit/record.ts';
import { parseRecord, segmentFirst } from '../../src/audit/segment.ts';
import { verifyAuditLog } from '../../src/audit/verify.ts';
import { folderFiles } from '../../src/audit/verify-files.ts';
import { decodeBase58 } from '../../src/foundation/base58.ts';
import { type Signing, signedOf } from './signing.ts';

/** What the audit log of an appliance that has ended says of the signatures that were released. */
export class Trail {
  readonly #results = new Map<number, Result>();
  readonly #signatures = new Map<string, number>();
  readonly #boots = new Map<number, string>();

  /** Reads all of it, and checks that it is in order. */
  static async read(folder: string, publicKey: string, note: (text: string) => void): Promise<Trail> {
    const trail = new Trail();
    const names = readdirSync(folder).filter(name => segmentFirst(name) !== undefined);
    for (const name of names.sort()) {
      await eachLine(`${folder}/${name}`, line => trail.#take(line));
    }
    const publicKeys = [decodeBase58(publicKey) ?? Buffer.of()];
    const { ok, finding } = await verifyAuditLog({ files: folderFiles(folder), publicKeys });
    if (!ok) {
      trail.findings += 1;
      note(`The audit log is not in order: ${JSON.stringify(finding)}`);
    }
    return trail;
  }

  /** What is wrong with the log itself: nothing, or the first thing that is. */
  findings = 0;

  /** Signatures that were promised, and that the log has not, or not so. */
  lost(signings: readonly Signing[]): number {
    return signedOf(signings).filter(({ outcome }) => {
      const result = this.#results.get(outcome.seq);
      return result?.signature !== outcome.signature.toString('base64') || result.hash !== outcome.hash;
    }).length;
  }

  /** Signatures beyond the first of an Idempotency-Key. */
  get duplicates(): number {
    let count = 0;
    for (const made of this.#signatures.values()) count += made - 1;
    return count;
  }

  /** The start of the custodian in which a record was written. */
  boot(seq: number): string | undefined {
    return this.#boots.get(seq);
  }

  /** How often signing ended with this code. */
  readonly codes: Record<string, number> = {};

  #take(line: Buffer): void {
    const record = parseRecord(line.toString());
    if (!record) return; // the header of a segment
    this.#boots.set(record.seq, record.boot);
    if (record.type === 'result') this.#takeResult(record, line);
  }

  #takeResult({ seq, outcome, code, signature, idempotency }: AuditRecord, line: Buffer): void {
    if (code) this.codes[code] = (this.codes[code] ?? 0) + 1;
    if (outcome !== 'ok' || !signature) return;
    this.#results.set(seq, { signature, hash: lineHash(line).toString('hex') });
    if (idempotency) this.#signatures.set(idempotency, (this.#signatures.get(idempotency) ?? 0) + 1);
  }
}

interface Result {
  readonly signature: string;
  readonly hash: string;
}

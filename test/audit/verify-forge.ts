import { createHash, type KeyObject, sign } from 'node:crypto';
import { leafHash, MerkleFrontier } from '../../src/audit/merkle.ts';
import { checkpointText, noteHash, noteOf, originOf, zeroHash } from '../../src/audit/note.ts';
import { type AuditEntry, type AuditRecord, canonicalLine, lineHash } from '../../src/audit/record.ts';
import { checkpointsFirstOf, checkpointsName, headerLine, segmentName } from '../../src/audit/segment.ts';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { privateKeyFromSeed, publicKeyFromSeed } from '../../src/foundation/ed25519.ts';

/**
 * Writes whole logs into memory, whatever they are to say: what an intruder could do who has the disk, and, with
 * `signer`, one who has the audit key as well.
 */
export interface Plan {
  readonly node: string;
  /** In a segment. */
  readonly records: number;
  readonly content: readonly AuditRecord[];
  /** The sizes at which checkpoints are made. */
  readonly sizes: readonly number[];
  readonly signer: Signer | undefined;
}

export interface Signer {
  readonly publicKey: Uint8Array;
  readonly key: KeyObject;
}

export type Files = ReadonlyMap<string, Buffer>;

/** Seq and chain are given anew; everything else stays as it is in the content. */
export function forge(plan: Plan): Map<string, Buffer> {
  const { node, records, content, sizes, signer } = plan;
  const lines = new Map<string, string[]>();
  const put = (name: string, line: string) => {
    const file = lines.get(name) ?? [];
    if (file.length === 0) lines.set(name, file);
    file.push(line);
  };
  const tree = new MerkleFrontier();
  let segment = new MerkleFrontier();
  const roots: string[] = [];
  const open = new Set<number>();
  let prev = zeroHash;
  let previous = zeroHash;
  content.forEach((each, seq) => {
    const first = Math.floor(seq / records) * records;
    if (seq === first) {
      if (seq > 0) roots.push(segment.root().toString('hex'));
      segment = new MerkleFrontier();
      put(
        segmentName(first),
        headerLine({ 'keyslot-audit': 1, node, first, records, prev, roots, open: [...open] }),
      );
    }
    const record = { ...each, seq, prev };
    const line = canonicalLine(record);
    put(segmentName(first), line);
    if (record.type === 'intent') open.add(seq);
    else if (record.intent !== undefined) open.delete(record.intent);
    prev = lineHash(line).toString('hex');
    tree.append(leafHash(line));
    segment.append(leafHash(line));
    const size = seq + 1;
    if (!sizes.includes(size)) return;
    const text = checkpointText({
      origin: originOf(node),
      size,
      root: tree.root(),
      chain: prev,
      time: new Date(1_790_000_000_000 + size * 1_000).toISOString(),
      previous,
    });
    const note = signedNote(text, node, signer);
    previous = noteHash(note);
    put(checkpointsName(checkpointsFirstOf(size, records)), JSON.stringify({ note }));
  });
  return new Map(lines.entries().map(([name, all]) => [name, Buffer.from(`${all.join('\n')}\n`)]));
}

export function signedNote(text: string, node: string, signer: Signer | undefined): string {
  if (!signer) return noteOf(text);
  const signature = sign(null, Buffer.from(text), signer.key);
  return noteOf(text, { name: originOf(node), publicKey: signer.publicKey, signature });
}

/** The notes of a log, in their order. */
export const notesOf = (files: Files): string[] =>
  [...files.keys()]
    .filter(name => name.startsWith('checkpoints-'))
    .sort()
    .flatMap(name => linesIn(files, name).map(line => (JSON.parse(line) as { note: string }).note));

export const linesIn = (files: Files, name: string): string[] =>
  (files.get(name)?.toString('utf8') ?? '').split('\n').slice(0, -1);

export const withLines = (files: Files, name: string, lines: readonly string[]): Map<string, Buffer> =>
  new Map([...files, [name, Buffer.from(lines.map(line => `${line}\n`).join(''))]]);

export function signerOf(name: string): Signer {
  const seed = createHash('sha256').update(name).digest();
  return { publicKey: publicKeyFromSeed(seed), key: privateKeyFromSeed(seed) };
}

/** Numbers that are the same in every run. */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit;
  }

  one<T>(of: readonly T[]): T {
    return of[this.below(of.length)] as T;
  }
}

/** What a custodian writes in its life: several boots, signatures of three kinds, refusals, a crash in between. */
export function lifeOf(
  signer: Signer,
  options: { boots: number; length: number; seed: number },
): AuditRecord[] {
  const dice = new Dice(options.seed);
  const records: AuditRecord[] = [];
  const publicKey = encodeBase58(signer.publicKey);
  let boot = '';
  let mono_ms = 0;
  const add = (entry: AuditEntry): number => {
    mono_ms += dice.below(40);
    const utc = new Date(1_790_000_000_000 + records.length * 250).toISOString();
    const seq = records.length;
    records.push({ v: 1, node: 'keyslot', boot, seq, utc, mono_ms, ...entry, prev: zeroHash });
    return seq;
  };
  let unsettled: number | undefined;
  for (let at = 0; at < options.boots; at += 1) {
    boot = createHash('sha256').update(`${options.seed} ${at}`).digest('hex').slice(0, 32);
    mono_ms = 0;
    add({ type: 'boot', detail: { version: '0.1.0', tornTail_bytes: 0 } });
    if (unsettled !== undefined) add({ type: 'result', intent: unsettled, outcome: 'unknown' });
    unsettled = undefined;
    const until = Math.floor(((at + 1) * options.length) / options.boots);
    while (records.length < until - 3) {
      const kind = dice.below(6);
      if (kind === 0) add({ type: 'refusal', actor: 'shop', operation: 'sign-message', code: 'FORBIDDEN' });
      else if (kind === 1) add({ type: 'event', actor: 'root', operation: 'open-slot', slot: 'main' });
      else signed(add, dice, signer, publicKey, kind === 2);
    }
    if (at < options.boots - 1)
      unsettled = add({ type: 'intent', key: 'k', kind: 'bytes', message: digest('lost') });
  }
  return records;
}

function signed(
  add: (entry: AuditEntry) => number,
  dice: Dice,
  signer: Signer,
  publicKey: string,
  isTransaction: boolean,
): void {
  const bytes = Buffer.from(`a message ${dice.below(1_000_000)}`);
  const whose = { actor: 'shop', key: 'k', publicKey, message: digest(bytes) };
  const intent = add({
    type: 'intent',
    requestId: `r-${dice.below(1_000_000)}`,
    operation: 'sign',
    kind: isTransaction ? 'transaction' : 'bytes',
    ...(isTransaction ? { transaction: bytes.toString('base64'), summary: ['system.transfer 5'] } : {}),
    charges: [{ counter: 'shop/daily/k', window_s: 86_400, amount: '5' }],
    decision: 'allow',
    ...whose,
  });
  const signature = isTransaction ? sign(null, bytes, signer.key) : Buffer.alloc(64, dice.below(256));
  add({ type: 'result', intent, outcome: 'ok', signature: signature.toString('base64'), ...whose });
}

const digest = (bytes: string | Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { encodeBase58 } from '../foundation/base58.ts';
import type { Clock } from '../foundation/clock.ts';
import type { Log } from '../foundation/log.ts';
import { errnoOf } from './log-file.ts';
import { replaceFile } from './replace-file.ts';

/** The keys that have signed checkpoints, for whoever looks which they were. It proves nothing: keep them elsewhere. */
export interface AuditKey {
  readonly node: string;
  readonly publicKey: string;
  readonly since: string;
}

export const auditKeyName = 'audit-key.json';

/** Adds the key to the list in the folder, once. A list that cannot be written stops nothing. */
export async function rememberAuditKey(
  { folder, node, log }: { folder: string; node: string; log: Log },
  publicKey: Uint8Array,
  clock: Clock,
): Promise<void> {
  const path = join(folder, auditKeyName);
  try {
    const known = await knownKeys(path);
    const key = { node, publicKey: encodeBase58(publicKey), since: clock.utc().toISOString() };
    if (known.some(each => each.node === node && each.publicKey === key.publicKey)) return;
    await replaceFile(path, `${JSON.stringify([...known, key], undefined, 2)}\n`);
  } catch (err) {
    log.warn({ err }, 'the public key of the audit log could not be written beside it');
  }
}

async function knownKeys(path: string): Promise<readonly AuditKey[]> {
  try {
    const keys: unknown = JSON.parse(await readFile(path, 'utf8'));
    return Array.isArray(keys) ? (keys as AuditKey[]) : [];
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || error instanceof SyntaxError) return [];
    throw error;
  }
}

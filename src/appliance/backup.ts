import { randomBytes } from 'node:crypto';
import { constants, existsSync } from 'node:fs';
import { mkdtemp, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { KeyslotError } from '../foundation/errors.ts';
import { snapshotStore } from '../store/snapshot.ts';
import { type Backup, BackupDraft, type BackupOptions } from './backup-draft.ts';
import { aborted, explained, failed } from './backup-failure.ts';
import type { Config } from './config.ts';

/**
 * Writes everything of an appliance that is neither a secret nor in a token into one archive, which the recipients
 * alone can open: whoever runs this cannot. The appliance may be running. What is copied fits together: the store
 * first, the key files behind it, the audit log last, so that the log is never behind what the store has counted.
 *
 * The file is there whole or not at all. HOME_INVALID when there is nothing to back up, REQUEST_ABORTED,
 * STORE_FAILED, BACKUP_FAILED: no room, or keys were moved or removed meanwhile.
 */
export async function writeBackup(config: Config, options: BackupOptions): Promise<Backup> {
  const { output, signal } = options;
  const store = join(config.home, 'state', 'keyslot.db');
  if (!existsSync(store)) throw new KeyslotError('HOME_INVALID', `${config.home} has no state to back up.`);
  if (existsSync(output)) throw failed(`${output} exists, and is not overwritten`);
  await using undo = new AsyncDisposableStack();
  try {
    const scratch = await privateScratch(config);
    undo.defer(() => rm(scratch, { recursive: true, force: true }));
    const snapshot = join(scratch, 'keyslot.db');
    await snapshotStore(store, snapshot);
    const draft = `${output}.${randomBytes(4).toString('hex')}.part`;
    undo.defer(() => rm(draft, { force: true }));
    const backup = await new BackupDraft(config, options, draft).write(store, snapshot);
    if (signal?.aborted) throw aborted();
    await rename(draft, output);
    await synced(dirname(output));
    return backup;
  } catch (thrown) {
    throw explained(thrown, output, signal);
  }
}

/**
 * For the copy of the store, on its disk and not on that of the backup: it is not encrypted. What a backup that was
 * killed left there is swept away.
 */
async function privateScratch(config: Config): Promise<string> {
  const state = join(config.home, 'state');
  for (const name of await readdir(state)) {
    if (!name.startsWith(scratchPrefix)) continue;
    const { mtimeMs } = await stat(join(state, name));
    if (Date.now() - mtimeMs > stale_ms) await rm(join(state, name), { recursive: true, force: true });
  }
  return await mkdtemp(join(state, scratchPrefix)); // 0700
}

const scratchPrefix = '.backup-';
const stale_ms = 86_400_000;

async function synced(folder: string): Promise<void> {
  await using handle = await open(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  await handle.sync();
}

import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { KeyslotError } from '../../foundation/errors.ts';
import type { MigrationKeyView, MigrationPlanView, MigrationView } from '../../wire/views.ts';

/** What was done of a migration, key by key, with the proof of each; docs/migration.md describes the fields. */
export interface MigrationReport {
  readonly migration: MigrationView;
  readonly keys: readonly MigrationKeyView[];
  /** Keys of the source that could not be moved. */
  readonly leftOut: MigrationPlanView['keys'];
}

/**
 * Makes sure that a report can be written there, mode 0600, and writes it whole or not at all. An earlier
 * report stays until then. HOME_INVALID.
 */
export function claimReport(path: string): { write(report: MigrationReport): string } & Disposable {
  const draft = `${path}.${process.pid}.new`;
  const file = guarded(path, () => openSync(draft, 'wx', 0o600));
  let written = false;
  return {
    write: report =>
      guarded(path, () => {
        writeSync(file, `${JSON.stringify(report, null, 2)}\n`);
        fsyncSync(file);
        renameSync(draft, path);
        written = true;
        const folder = openSync(dirname(path), 'r');
        fsyncSync(folder);
        closeSync(folder);
        return path;
      }),
    [Symbol.dispose]: () => {
      closeSync(file);
      if (!written) rmSync(draft, { force: true });
    },
  };
}

function guarded<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    throw new KeyslotError('HOME_INVALID', `The report ${path} cannot be written.`, { cause });
  }
}

import { KeyslotError, toKeyslotError } from '../foundation/errors.ts';

/** What stops a backup or a restore, said as what it is. */
export function explained(thrown: unknown, path: string, signal: AbortSignal | undefined): KeyslotError {
  if (thrown instanceof KeyslotError) return thrown;
  if (signal?.aborted) return aborted();
  const errno = errnoOf(thrown);
  return errno ? failed(`${path} cannot be written (${errno})`, thrown) : toKeyslotError(thrown);
}

export function failed(what: string, cause?: unknown): KeyslotError {
  return new KeyslotError('BACKUP_FAILED', `${what.charAt(0).toUpperCase()}${what.slice(1)}.`, { cause });
}

export const aborted = () => new KeyslotError('REQUEST_ABORTED', 'It was called off.');

/** The name of what the file system refused. */
export const errnoOf = (error: unknown): string | undefined =>
  error instanceof Error && 'errno' in error && 'code' in error ? String(error.code) : undefined;

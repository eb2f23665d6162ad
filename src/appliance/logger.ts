import { destination, pino } from 'pino';
import { KeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';

/** One JSON line an event, on standard error, written before the call returns: a crash loses no line. */
export const createLog = (process: string): Log =>
  pino({ base: { process }, serializers: { err: describedError } }, destination({ dest: 2, sync: true }));

/** Errors with their code and everything below them; a `Secret` prints as `[secret]` wherever it turns up. */
function describedError(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const code = 'code' in error ? error.code : undefined;
  const stack = error instanceof KeyslotError && error.code !== 'INTERNAL' ? undefined : error.stack;
  return {
    type: error.name,
    message: error.message,
    ...(code === undefined ? {} : { code }),
    ...(stack === undefined ? {} : { stack }),
    ...(error.cause === undefined ? {} : { cause: describedError(error.cause) }),
  };
}

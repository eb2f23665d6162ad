import { destination, pino } from 'pino';
import { KeyslotError } from '../foundation/errors.ts';
import type { Log, LogFields } from '../foundation/log.ts';
import { LineWriter } from './line-writer.ts';

/** One JSON line an event, on standard error, written before the call returns: a crash loses no line. */
export const createLog = (process: string): Log => linesTo(process, destination({ dest: 2, sync: true }));

/**
 * The same, and the lines of requests, which are gathered and written some at a time: one system call a request would
 * cost as much as the rest of its line. They keep their place among the others, and wait for a moment at most; only a
 * kill loses those of that moment. A line that cannot be written stops no request.
 */
export class GatewayLog implements Disposable {
  readonly log: Log;
  readonly #lines: pino.Logger;
  readonly #out: LineWriter;

  constructor(name: string, fd = 2) {
    this.#out = new LineWriter(fd);
    this.#lines = linesTo(name, this.#out);
    const atOnce = (level: 'info' | 'warn' | 'error') => (fields: LogFields, text: string) => {
      this.#lines[level](fields, text);
      this.flush();
    };
    this.log = { info: atOnce('info'), warn: atOnce('warn'), error: atOnce('error') };
    process.on('exit', this.flush); // also after an error that nobody caught
  }

  /** Lines that could not be written, such as to a disk that is full. */
  get lost(): number {
    return this.#out.lost;
  }

  /** A line of a request; one that the appliance failed is a warning. */
  readonly request = (fields: LogFields, failed: boolean): void => {
    if (failed) this.#lines.warn(fields, 'request');
    else this.#lines.info(fields, 'request');
  };

  readonly flush = (): void => this.#out.flush();

  [Symbol.dispose](): void {
    this.flush();
    process.off('exit', this.flush);
  }
}

const linesTo = (process: string, out: pino.DestinationStream): pino.Logger =>
  pino({ base: { process }, serializers: { err: describedError } }, out);

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

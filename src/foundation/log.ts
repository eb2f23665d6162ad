/**
 * What a room may say to the operator's log. The appliance hands in the real logger; a `Secret` prints as
 * `[secret]` in every field.
 */
export interface Log {
  info(fields: LogFields, text: string): void;
  warn(fields: LogFields, text: string): void;
  error(fields: LogFields, text: string): void;
}

export type LogFields = Readonly<Record<string, unknown>>;

export const silentLog: Log = { info: () => undefined, warn: () => undefined, error: () => undefined };

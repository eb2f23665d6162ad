/**
 * Small checks of what came over the network. They hold what this client reads and let the rest pass, so that
 * an older client still understands a newer appliance.
 */
export type Check<T> = (value: unknown) => value is T;

export const text: Check<string> = value => typeof value === 'string';
export const number: Check<number> = value => typeof value === 'number';
export const flag: Check<boolean> = value => typeof value === 'boolean';

/** A word of a vocabulary that may grow: whichever it is, it is text. */
export const word = <T extends string>(): Check<T> => text as Check<T>;

export const optional =
  <T>(check: Check<T>): Check<T | undefined> =>
  (value): value is T | undefined =>
    value === undefined || check(value);

export const list =
  <T>(check: Check<T>): Check<T[]> =>
  (value): value is T[] =>
    Array.isArray(value) && value.every(check);

export const record =
  <K extends string, T>(check: Check<T>): Check<Record<K, T>> =>
  (value): value is Record<K, T> =>
    isObject(value) && Object.values(value).every(check);

/** An object with these fields; the type says that none is forgotten. */
export const shape =
  <T extends object>(fields: { readonly [F in keyof T]-?: Check<T[F]> }): Check<T> =>
  (value): value is T =>
    isObject(value) && Object.entries<Check<unknown>>(fields).every(([name, check]) => check(value[name]));

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

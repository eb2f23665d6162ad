import { KeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';

/** Query parameters, read and bounded. Everything that is wrong with one is QUERY_INVALID and names it. */

/** A page of a listing: so many behind a cursor. `more` are other parameters that the route takes. */
export function pageOf(query: URLSearchParams, more: readonly string[] = []) {
  onlyParameters(query, ['cursor', 'limit', ...more]);
  const cursor = query.get('cursor') ?? undefined;
  if (cursor !== undefined && cursor.length > 63) {
    throw new KeyslotError('QUERY_INVALID', 'The parameter cursor is not one that a listing gave out.');
  }
  return { limit: limitOf(query), cursor };
}

/** A stretch of something that is counted: so many from a place on. */
export function stretchOf(query: URLSearchParams) {
  onlyParameters(query, ['from', 'limit']);
  return { from: numberOf(query, 'from') ?? 0, limit: limitOf(query) };
}

/** A parameter that a route cannot do without. */
export function requiredNumber(query: URLSearchParams, name: string): number {
  const number = numberOf(query, name);
  if (number !== undefined) return number;
  throw new KeyslotError('QUERY_INVALID', `The parameter ${name} is missing.`);
}

/** A whole number from `min` to `max`; absent when the query does not say it. */
export function numberOf(
  query: URLSearchParams,
  name: string,
  { min = 0, max = Number.MAX_SAFE_INTEGER }: { readonly min?: number; readonly max?: number } = {},
): number | undefined {
  const text = query.get(name);
  if (text === null) return undefined;
  const number = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (number >= min && number <= max) return number;
  throw new KeyslotError('QUERY_INVALID', `The parameter ${name} is a whole number from ${min} to ${max}.`);
}

/** A parameter that a route does not know is refused: whoever wrote it meant something. */
export function onlyParameters(query: URLSearchParams, names: readonly string[]): void {
  for (const name of query.keys()) {
    if (names.includes(name)) continue;
    throw new KeyslotError(
      'QUERY_INVALID',
      `There is no query parameter ${JSON.stringify(name.slice(0, 80))}.`,
    );
  }
}

const limitOf = (query: URLSearchParams): number =>
  numberOf(query, 'limit', { min: 1, max: limits.page_items_max }) ?? limits.page_items_default;

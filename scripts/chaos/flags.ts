import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

export interface Flags {
  readonly short: boolean;
  readonly json: boolean;
  /** Names of scenarios, in the order in which they run. */
  readonly only: readonly string[];
  /** Where the figures are left. */
  readonly result: string;
}

export const usage = (scenarios: readonly string[]): string =>
  `usage: npm run chaos -- [--short] [--json] [--only SCENARIO,SCENARIO] [--result FILE]

  --short   few of everything but audit, in a minute or two
  --json    one line of JSON last, a field for each figure
  --only    of ${scenarios.join(', ')}
  --result  where the figures are left (var/chaos/long.json, var/chaos/short.json)`;

/** Throws a TypeError that says which flag is wrong. */
export function parsedFlags(
  args: readonly string[],
  scenarios: readonly string[],
  ordinary: { readonly long: readonly string[]; readonly short: readonly string[] },
): Flags {
  const { values } = parseArgs({
    args: [...args],
    options: {
      short: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      only: { type: 'string' },
      result: { type: 'string' },
    },
  });
  const { short, json } = values;
  const only = values.only?.split(',') ?? ordinary[short ? 'short' : 'long'];
  const unknown = only.find(name => !scenarios.includes(name));
  if (unknown !== undefined) throw new TypeError(`--only has no scenario ${unknown}.`);
  const result = values.result ?? join(root, 'var', 'chaos', short ? 'short.json' : 'long.json');
  return { short, json, only: scenarios.filter(name => only.includes(name)), result: resolve(result) };
}

const root = resolve(import.meta.dirname, '..', '..');

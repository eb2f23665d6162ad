import { type Lock, packageName, productionPlaces } from './lock.ts';

/** What production is made of and under which licences, from the lock file alone. */

export interface Licensed {
  readonly name: string;
  readonly version: string;
  readonly license: string;
}

/** Every package of production, by name; a licence that is not stated says so. */
export function productionLicenses(lock: Lock): readonly Licensed[] {
  const found = productionPlaces(lock).map(place => {
    const { version = '', license = 'not stated' } = lock.packages[place] ?? {};
    return { name: packageName(place), version, license };
  });
  const unique = new Map(found.map(each => [`${each.name}@${each.version}`, each]));
  return [...unique.values()].sort((one, other) =>
    `${one.name}@${one.version}` < `${other.name}@${other.version}` ? -1 : 1,
  );
}

/** Packages under a licence that nobody has agreed to. */
export const unacceptable = (list: readonly Licensed[]): readonly string[] =>
  list
    .filter(({ license }) => !accepted.has(license))
    .map(each => `${each.name}@${each.version}: ${each.license}`);

/** They ask for their notice to be kept and for nothing else. */
const accepted: ReadonlySet<string> = new Set([
  '0BSD',
  'Apache-2.0',
  'BSD-2-Clause',
  'BSD-3-Clause',
  'ISC',
  'MIT',
]);

/** A table for people, with the number of packages of each licence at its head. */
export function licensePage(list: readonly Licensed[]): string {
  const counts = Object.entries(Object.groupBy(list, ({ license }) => license))
    .map(([license, each = []]) => `${license}: ${each.length}`)
    .sort();
  const rows = list.map(({ name, version, license }) => `| ${name} | ${version} | ${license} |`);
  return [
    '# Licences of what runs',
    '',
    `${counts.join(', ')}.`,
    '',
    '| package | version | licence |',
    '|---|---|---|',
    ...rows,
    '',
  ].join('\n');
}

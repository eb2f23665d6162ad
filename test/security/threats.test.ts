import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { asvs } from './asvs.ts';
import { type Proof, threats } from './threats.ts';

const tests = join(import.meta.dirname, '..');

/** Whether the source has a test of this name, in whichever quotes. */
const has = (source: string, name: string): boolean =>
  [`'${name}'`, `"${name}"`, `\`${name}\``].some(quoted => {
    const at = source.indexOf(`${quoted},`);
    return at >= 0 && /(\b(it|test)|\))\(\s*$/.test(source.slice(0, at));
  });

function expectThere(proof: readonly Proof[]): void {
  for (const { file, test } of proof)
    expect(has(readFileSync(join(tests, file), 'utf8'), test), `${file}: ${test}`).toBe(true);
}

it.each(threats.map(threat => [threat.row, threat.tries, threat] as const))(
  'the threat %s, %s, has its tests, and they are there',
  (_row, _tries, { proof }) => {
    expect(proof.length).toBeGreaterThan(0);
    expectThere(proof);
  },
);

it('every row of the table that speaks of the appliance is here, once', () => {
  const rows = threats.map(({ row }) => row);
  expect(new Set(rows).size).toBe(rows.length);
  expect(rows.filter(row => typeof row === 'number')).toEqual([
    1, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30,
  ]);
});

it.each(asvs.map(each => [each.item, each] as const))(
  'what is said of ASVS %s has its tests, and they are there',
  (_item, { state, proof }) => {
    expect(proof.length > 0).toBe(state !== 'not met');
    expectThere(proof);
  },
);

it('an item of ASVS is here once, in order', () => {
  const numbers = asvs.map(({ item }) =>
    item
      .split('.')
      .map(part => part.padStart(2, '0'))
      .join('.'),
  );
  expect(numbers).toEqual([...new Set(numbers)].sort());
});

it('whatever else the page names below test/ is there', () => {
  const page = readFileSync(join(tests, '..', 'docs', 'security.md'), 'utf8');
  const named = [...page.matchAll(/`test\/([^`]+)`/g)].map(([, path = '']) => path);
  expect(named.length).toBeGreaterThan(5);
  expect(named.filter(path => !existsSync(join(tests, path)))).toEqual([]);
});

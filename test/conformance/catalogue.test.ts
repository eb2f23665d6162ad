import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { catalogue } from '../../src/appliance/catalogue.ts';

it('has an exam for every engine of the catalogue', () => {
  const examined = readdirSync(import.meta.dirname)
    .filter(name => name.endsWith('.test.ts'))
    .map(name => readFileSync(join(import.meta.dirname, name), 'utf8'))
    .filter(text => text.includes('describeEngine('))
    .flatMap(text => [...text.matchAll(/engineName: '([^']+)'/g)].map(([, name]) => name));
  for (const engine of Object.keys(catalogue)) {
    expect(examined, `engine ${engine} has no file in test/conformance that runs the exam`).toContain(engine);
  }
});

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { parse } from 'yaml';
import { outdatedDocs } from '../scripts/generate-docs.ts';
import { checkedConfig } from '../src/appliance/config.ts';
import { parsePolicy } from '../src/policy/document.ts';
import { permissive } from '../src/policy/permissive.ts';

it('keeps the generated documents equal to the code: npm run docs writes them', () => {
  expect(outdatedDocs()).toEqual([]);
});

it('shows a configuration and a policy on the front page that production takes', () => {
  const readme = readFileSync(join(import.meta.dirname, '..', 'README.md'), 'utf8');
  const [config, policy] = [...readme.matchAll(/```yaml\n([\s\S]*?)```/g)].map(([, yaml = '']) =>
    parse(yaml),
  );
  expect(checkedConfig(config, '/nowhere', 'README.md')).toMatchObject({
    profile: 'production',
    audit: { slot: 'audit' },
  });
  expect(permissive(parsePolicy(policy))).toBe(false);
});

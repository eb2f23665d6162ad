import { readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { configSchema } from '../src/appliance/config.ts';
import { errorTable } from '../src/foundation/errors.ts';

/** Documents that are generated from the code: `npm run docs` writes them, a test holds them equal. */
export const generatedDocs: Readonly<Record<string, () => string>> = {
  'docs/errors.md': errorsPage,
  'docs/keyslot.schema.json': configJsonSchema,
};

function errorsPage(): string {
  const rows = Object.entries(errorTable)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(
      ([code, { status, title, retryable, remedy }]) =>
        `| \`${code}\` | ${status} | ${retryable ? 'yes' : 'no'} | ${title}. | ${remedy} |`,
    );
  return [
    '# Errors',
    '',
    'Every failure is `application/problem+json` (RFC 9457) with `type`, `title`, `status`, `detail`, `code`,',
    '`remedy`, `retryable` and `requestId`; the command line prints the same code. Codes never change their',
    'meaning. *Repeat* says whether the same request may succeed later without anybody changing it; `Retry-After`',
    'says when. Codes with status 500 that name a setting are refusals at start.',
    '',
    'Generated from `src/foundation/errors.ts` by `npm run docs`; a test holds the two equal.',
    '',
    '| code | status | repeat | what happened | what to do |',
    '|---|---|---|---|---|',
    ...rows,
    '',
  ].join('\n');
}

function configJsonSchema(): string {
  const schema = z.toJSONSchema(configSchema, { io: 'input', unrepresentable: 'any' });
  return `${JSON.stringify({ title: 'keyslot.yaml', ...schema }, null, 2)}\n`;
}

const root = resolve(import.meta.dirname, '..');

/** The documents whose file differs from what the code says. */
export const outdatedDocs = (): readonly string[] =>
  Object.entries(generatedDocs)
    .filter(([path, make]) => readFileSync(join(root, path), 'utf8') !== make())
    .map(([path]) => path);

if (import.meta.main) {
  for (const [path, make] of Object.entries(generatedDocs)) writeFileSync(join(root, path), make());
}

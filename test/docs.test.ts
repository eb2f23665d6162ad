import { expect, it } from 'vitest';
import { outdatedDocs } from '../scripts/generate-docs.ts';

it('keeps the generated documents equal to the code: npm run docs writes them', () => {
  expect(outdatedDocs()).toEqual([]);
});

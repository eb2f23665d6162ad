import { afterAll, beforeAll } from 'vitest';
import { AwsLab } from '../engines/kms/aws-lab.ts';
import { describeEngine } from './engine-suite.ts';

let lab: AwsLab;
beforeAll(async () => {
  lab = await AwsLab.start();
});
afterAll(() => lab[Symbol.asyncDispose]());

describeEngine('kms (aws-envelope)', {
  engineName: 'kms',
  custody: 'kms-envelope',
  powers: { generate: true, import: true, export: true, destroy: true },
  persistent: true,
  // A key may stay open for a while, so that the ten thousand signatures are not ten thousand requests.
  start: async () => lab.engine(lab.settings('aws-envelope', { timeout_ms: 30_000, unwrapCache_ms: 1_000 })),
});

import { afterAll, beforeAll } from 'vitest';
import { AwsLab } from '../engines/kms/aws-lab.ts';
import { describeEngine } from './engine-suite.ts';

let lab: AwsLab;
beforeAll(async () => {
  lab = await AwsLab.start();
});
afterAll(() => lab[Symbol.asyncDispose]());

describeEngine('kms (aws-native)', {
  engineName: 'kms',
  custody: 'kms-native',
  powers: { generate: true, import: false, export: false, destroy: true },
  persistent: true,
  message_bytes_max: 4_096,
  start: async () => lab.engine(lab.settings('aws-native', { timeout_ms: 30_000 })),
});

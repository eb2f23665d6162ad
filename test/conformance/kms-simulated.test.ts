import { createKmsEngine, kmsSettings } from '../../src/engines/kms/index.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { describeEngine } from './engine-suite.ts';
import { allPowers, fileLab, pageForm } from './file-lab.ts';

const exam = (name: string, settings: object) =>
  describeEngine(name, {
    engineName: 'kms',
    custody: 'simulated-kms',
    powers: allPowers,
    persistent: true,
    start: fileLab((slot, folder) =>
      createKmsEngine(slot, { ...kmsSettings.parse({ mode: 'simulated', ...settings }), folder }, silentLog),
    ),
  });

exam('kms (simulated)', {});
exam('kms (simulated, envelope: agentic-wallet)', pageForm);

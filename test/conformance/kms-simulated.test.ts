import { createKmsEngine, kmsSettings } from '../../src/engines/kms/index.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { describeEngine } from './engine-suite.ts';
import { allPowers, fileLab } from './file-lab.ts';
import '../sealing/remembered-scrypt.ts';

describeEngine('kms (simulated)', {
  engineName: 'kms',
  custody: 'simulated-kms',
  powers: allPowers,
  persistent: true,
  start: fileLab((slot, folder) =>
    createKmsEngine(slot, { ...kmsSettings.parse({ mode: 'simulated' }), folder }, silentLog),
  ),
});

import { createHsmSimEngine, hsmSimSettings } from '../../src/engines/hsm-sim/index.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { describeEngine } from './engine-suite.ts';
import { allPowers, fileLab } from './file-lab.ts';
import '../sealing/remembered-scrypt.ts';

describeEngine('hsm-sim', {
  engineName: 'hsm-sim',
  custody: 'simulated-hsm',
  powers: allPowers,
  persistent: true,
  start: fileLab((slot, folder) =>
    createHsmSimEngine(
      slot,
      { ...hsmSimSettings.parse({}), folder },
      async () => Secret.fromText('a module secret'),
      silentLog,
    ),
  ),
});

import { createHsmSimEngine, hsmSimSettings } from '../../src/engines/hsm-sim/index.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { describeEngine } from './engine-suite.ts';
import { allPowers, fileLab, pageForm } from './file-lab.ts';

const exam = (name: string, settings: object) =>
  describeEngine(name, {
    engineName: 'hsm-sim',
    custody: 'simulated-hsm',
    powers: allPowers,
    persistent: true,
    start: fileLab((slot, folder) =>
      createHsmSimEngine(
        slot,
        { ...hsmSimSettings.parse(settings), folder },
        async () => Secret.fromText('a module secret'),
        silentLog,
      ),
    ),
  });

exam('hsm-sim', {});
exam('hsm-sim (envelope: agentic-wallet)', pageForm);

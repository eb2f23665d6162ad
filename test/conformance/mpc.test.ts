import { createMpcEngine, mpcSettings } from '../../src/engines/mpc/index.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { describeEngine } from './engine-suite.ts';
import { allPowers, fileLab, pageForm } from './file-lab.ts';
import '../sealing/remembered-scrypt.ts';

const pins = { pin: 'node one,node two,node three', wrongPin: 'node one,node 2,node 3' };

const exam = (name: string, settings: object) =>
  describeEngine(name, {
    engineName: 'mpc',
    custody: 'shamir-envelope',
    powers: allPowers,
    persistent: true,
    start: fileLab(
      (slot, folder) => createMpcEngine(slot, { ...mpcSettings.parse(settings), folder }, silentLog),
      pins,
    ),
  });

exam('mpc (shamir)', {});
exam('mpc (shamir, envelope: agentic-wallet)', pageForm);

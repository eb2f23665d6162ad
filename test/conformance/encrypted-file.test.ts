import { createEncryptedFileEngine, encryptedFileSettings } from '../../src/engines/encrypted-file/index.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { describeEngine } from './engine-suite.ts';
import { allPowers, fileLab, pageForm } from './file-lab.ts';
import '../sealing/remembered-scrypt.ts';

const exam = (name: string, settings: object) =>
  describeEngine(name, {
    engineName: 'encrypted-file',
    custody: 'encrypted-file',
    powers: allPowers,
    persistent: true,
    start: fileLab((slot, folder) =>
      createEncryptedFileEngine(slot, { ...encryptedFileSettings.parse(settings), folder }, silentLog),
    ),
  });

exam('encrypted-file', {});
exam('encrypted-file (envelope: agentic-wallet)', pageForm);

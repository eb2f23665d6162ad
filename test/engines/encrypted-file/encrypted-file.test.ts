import { createEncryptedFileEngine } from '../../../src/engines/encrypted-file/index.ts';
import { describeBadFiles, describeOwnForm, type FileEngine } from '../file-engine-suite.ts';
import '../../sealing/remembered-scrypt.ts';

const engine: FileEngine = {
  pin: 'canary-5b1e4c-correct horse',
  wrongPin: 'canary-9d20f7-correct house',
  secrets: [],
  suffix: '.json',
  damagedPage: { cut: 'KEY_FILE_MALFORMED', changed: 'KEY_FILE_TAMPERED' },
  start: (slot, folder, envelope, log) =>
    createEncryptedFileEngine(slot, { folder, envelope, unwrapCache_ms: 0 }, log),
};

describeBadFiles('encrypted-file', engine, ['keyslot', 'agentic-wallet']);
describeOwnForm('encrypted-file', engine);

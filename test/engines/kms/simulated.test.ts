import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type SlotId, slotId } from '../../../src/custody/ids.ts';
import { simulatedSlot } from '../../../src/engines/kms/simulated.ts';
import type { Log } from '../../../src/foundation/log.ts';
import { expectSigns, HeardLog, id, refusal, TemporaryFolder } from '../../sealing/folder-lab.ts';
import { describeBadFiles, type Envelope, opened } from '../file-engine-suite.ts';
import '../../sealing/remembered-scrypt.ts';

const pin = 'canary-c81d0b-master secret';

const slotOf = (slot: SlotId, folder: string, envelope: Envelope, log: Log, keyId = 'alias/wallets') =>
  simulatedSlot(slot, { mode: 'simulated', folder, envelope, unwrapCache_ms: 0, keyId }, log);

describeBadFiles('kms (simulated)', {
  pin,
  wrongPin: 'canary-3f97aa-other secret',
  secrets: [],
  suffix: '.kms.json',
  damagedPage: { cut: 'KEY_FILE_MALFORMED', changed: 'KEY_FILE_TAMPERED' },
  start: (id, folder, envelope, log) => {
    const slot = slotOf(id, folder, envelope, log);
    return {
      name: 'kms',
      slots: async () => [slot],
      [Symbol.asyncDispose]: () => slot[Symbol.asyncDispose](),
    };
  },
});

describe('the simulated KMS', () => {
  let at: TemporaryFolder;
  let log: HeardLog;

  beforeEach(() => {
    at = new TemporaryFolder();
    log = new HeardLog();
  });

  afterEach(() => at[Symbol.dispose]());

  const open = (keyId: string) => opened(slotOf(slotId('main'), at.keys, 'agentic-wallet', log, keyId), pin);

  it('says at its start that it is none', async () => {
    await open('alias/wallets');
    expect(log.heard.map(({ level, fields }) => ({ level, custody: fields.custody }))).toEqual([
      { level: 'warn', custody: 'simulated-kms' },
    ]);
  });

  it('takes files of another KMS key for foreign', async () => {
    await (await open('alias/wallets')).generate(id('key'));
    const other = await open('alias/others');
    expect(await refusal(other.signer(id('key')))).toBe('KEY_FILE_FOREIGN');
    await expectSigns(other, await other.generate(id('another')));
  });
});

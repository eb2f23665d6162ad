import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { slotId } from '../../../src/custody/ids.ts';
import { createHsmSimEngine } from '../../../src/engines/hsm-sim/index.ts';
import { Secret } from '../../../src/foundation/secret.ts';
import { expectSigns, HeardLog, id, refusal, TemporaryFolder } from '../../sealing/folder-lab.ts';
import { describeBadFiles, opened } from '../file-engine-suite.ts';
import '../../sealing/remembered-scrypt.ts';

const moduleWords = 'canary-7aa3e1-module secret';
const pin = 'canary-41c09d-pin';

describeBadFiles('hsm-sim', {
  pin,
  wrongPin: 'canary-e6b852-other pin',
  secrets: [moduleWords],
  suffix: '.hsm.json',
  damagedPage: { cut: 'KEY_FILE_MALFORMED', changed: 'KEY_FILE_TAMPERED' },
  start: (slot, folder, envelope, log) =>
    createHsmSimEngine(
      slot,
      { folder, envelope, unwrapCache_ms: 0, slot: 'slot-0' },
      async () => Secret.fromText(moduleWords),
      log,
    ),
});

describe('the simulated HSM', () => {
  let at: TemporaryFolder;
  let log: HeardLog;

  beforeEach(() => {
    at = new TemporaryFolder();
    log = new HeardLog();
  });

  afterEach(() => at[Symbol.dispose]());

  async function open(
    words: string,
    name = 'slot-0',
    envelope: 'keyslot' | 'agentic-wallet' = 'agentic-wallet',
  ) {
    const settings = { folder: at.keys, envelope, unwrapCache_ms: 0, slot: name };
    const engine = createHsmSimEngine(slotId('main'), settings, async () => Secret.fromText(words), log);
    const [slot] = await engine.slots();
    if (!slot) throw new TypeError('The engine has no slot.');
    return await opened(slot, pin);
  }

  it('says at its start that it is none', async () => {
    await open(moduleWords);
    expect(log.heard.map(({ level, fields }) => ({ level, custody: fields.custody }))).toEqual([
      { level: 'warn', custody: 'simulated-hsm' },
    ]);
  });

  it.each(['keyslot', 'agentic-wallet'] as const)(
    'opens with its module secret only (%s)',
    async envelope => {
      const info = await (await open(moduleWords, 'slot-0', envelope)).generate(id('key'));
      expect(await refusal(open('another module secret', 'slot-0', envelope))).toBe('PIN_REFUSED');
      expect(await refusal(open('', 'slot-0', envelope))).toBe('SLOT_PIN_REQUIRED');
      await expectSigns(await open(moduleWords, 'slot-0', envelope), info);
    },
  );

  it('takes files of another simulated slot for foreign', async () => {
    await (await open(moduleWords, 'slot-0')).generate(id('key'));
    const other = await open(moduleWords, 'slot-1');
    expect(await refusal(other.signer(id('key')))).toBe('KEY_FILE_FOREIGN');
    await expectSigns(other, await other.generate(id('another')));
  });
});

import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { KeyInfo } from '../../../src/custody/engine.ts';
import { createMpcEngine } from '../../../src/engines/mpc/index.ts';
import { KeyFolder } from '../../../src/sealing/key-folder.ts';
import { expectOnlyDamaged, expectSigns, id, refusal } from '../../sealing/folder-lab.ts';
import { describeBadFiles, type Envelope, type FileEngine, FileSlot } from '../file-engine-suite.ts';
import '../../sealing/remembered-scrypt.ts';

const words = ['canary-b47d10-node 1', 'canary-08fe9c-node 2', 'canary-5532da-node 3'] as const;
const wrong = 'canary-9a9a9a-wrong';

const engine: FileEngine = {
  pin: words.join(','),
  wrongPin: `${words[0]},${wrong},${wrong}`,
  secrets: [...words, wrong],
  suffix: '.mpc.json',
  damagedPage: { cut: 'KEY_FILE_MALFORMED', changed: 'SHARES_INSUFFICIENT' },
  start: (slot, folder, envelope, log) =>
    createMpcEngine(slot, { mode: 'shamir', folder, envelope, unwrapCache_ms: 0 }, log),
};

describeBadFiles('mpc', engine);

const envelopes: readonly Envelope[] = ['keyslot', 'agentic-wallet'];

describe.each(envelopes)('three shares (%s)', envelope => {
  let slot: FileSlot;
  let kept: KeyInfo;
  let odd: KeyInfo;
  const made = new Map<string, Buffer>();
  const fileOf = (key: string) => (envelope === 'keyslot' ? `${key}.keyslot.json` : `${key}.mpc.json`);
  const ones = [[1], [2], [3]];
  const twos = [
    [1, 2],
    [1, 3],
    [2, 3],
  ];
  const infos = new Map<readonly number[], KeyInfo>();

  // Made once: with three secrets that costs as many derivations of a key as all that comes after.
  beforeAll(async () => {
    await using first = new FileSlot(engine);
    const session = await first.open(envelope);
    kept = await session.generate(id('kept'));
    odd = await session.generate(id('odd'));
    for (const shares of [...ones, ...twos]) {
      infos.set(shares, await session.generate(id(`odd-${shares.join('-')}`)));
    }
    await session[Symbol.asyncDispose]();
    for (const name of first.at.names()) made.set(name, first.at.read(name));
  });

  beforeEach(async () => {
    slot = new FileSlot(engine);
    await KeyFolder.open(slot.at.keys);
    for (const [name, content] of made) slot.at.write(name, content);
  });

  afterEach(() => slot[Symbol.asyncDispose]());

  /** Changes these shares of one key, so that they do not open. */
  function damage(shares: readonly number[]): KeyInfo {
    const info = infos.get(shares) ?? odd;
    const file = fileOf(info.id);
    let at = 0;
    const content = slot.at.read(file).toString();
    const tags = /("tag\W+)[A-Za-z0-9+/]{4}|(tag\\":\\")[A-Za-z0-9+/]{4}/g;
    const changed = content.replaceAll(tags, (found: string) => {
      at += 1;
      return shares.includes(at) ? `${found.slice(0, -4)}AAAA` : found;
    });
    expect(at).toBe(3);
    slot.at.write(file, changed);
    return info;
  }

  const saidOf = (field: string) =>
    slot.log.heard.filter(({ fields }) => field in fields).map(({ level, fields }) => [level, fields[field]]);

  it('sign with any one share damaged, and the log names it once', async () => {
    const damaged = ones.map(damage);
    await using session = await slot.open(envelope);
    for (const info of [...damaged, ...damaged, ...damaged, kept]) await expectSigns(session, info);
    const named = damaged.map(({ id: key }, at) => ({ level: 'warn', slot: 'main', key, shares: [at + 1] }));
    expect(slot.log.heard.map(({ level, fields }) => ({ level, ...fields }))).toEqual(named);
  });

  it('say so when any two shares are damaged; the other keys sign', async () => {
    const damaged = twos.map(damage);
    await using session = await slot.open(envelope);
    for (const info of damaged) {
      expect(await refusal(session.signer(info.id))).toBe('SHARES_INSUFFICIENT');
    }
    await expectOnlyDamaged(session, id('odd-1-2'), 'SHARES_INSUFFICIENT', [kept, odd]);
  });

  it.each([
    [1, `,${words[1]},${words[2]}`],
    [2, `${words[0]},,${words[2]}`],
    [3, `${words[0]},${words[1]}`],
  ])('sign without node secret %i, and no key is made', async (_, pin) => {
    await using session = await slot.open(envelope, pin);
    await expectSigns(session, odd);
    expect(await refusal(session.generate(id('new')))).toBe('NODE_SECRET_MISSING');
    await expectSigns(session, kept);
    expect(slot.at.names().filter(name => name.startsWith('new'))).toEqual([]);
    expect(slot.log.heard).toEqual([]); // it is no news
  });

  it.each([1, 2, 3])(
    'sign with a wrong secret of node %i, which the log names; no key is made',
    async node => {
      const pin = words.map((each, at) => (at === node - 1 ? wrong : each)).join(',');
      await using session = await slot.open(envelope, pin);
      await expectSigns(session, odd);
      await expectSigns(session, kept);
      expect(saidOf('nodes')).toEqual([['warn', [node]]]);
      expect(await refusal(session.generate(id('new')))).toBe('NODE_SECRET_MISSING');
    },
  );

  it('do not open with two wrong secrets, or with one wrong and one missing', async () => {
    for (const pin of [`${words[0]},${wrong},${wrong}`, `${wrong},,${words[2]}`, `,${wrong},${wrong}`]) {
      expect(await refusal(slot.open(envelope, pin))).toBe('PIN_REFUSED');
    }
  });

  it('do not open with the secrets in another order', async () => {
    expect(await refusal(slot.open(envelope, [words[1], words[2], words[0]].join(',')))).toBe('PIN_REFUSED');
  });
});

describe('a folder of the agentic-wallet program', () => {
  let slot: FileSlot;
  let info: KeyInfo;

  beforeEach(async () => {
    slot = new FileSlot(engine);
    const session = await slot.open('agentic-wallet');
    info = await session.generate(id('theirs'));
    await session[Symbol.asyncDispose]();
  });

  afterEach(() => slot[Symbol.asyncDispose]());

  it('opens with two node secrets and signs; the header waits for all three', async () => {
    const session = await slot.open('keyslot', `${words[0]},,${words[2]}`);
    await expectSigns(session, info);
    expect(await refusal(session.generate(id('new')))).toBe('NODE_SECRET_MISSING');
    expect(slot.at.names()).toEqual(['theirs.mpc.json']);
    await session[Symbol.asyncDispose]();

    const whole = await slot.open('keyslot');
    const made = await whole.generate(id('new'));
    await whole[Symbol.asyncDispose]();
    expect(slot.at.names()).toEqual(['KEYSLOT-SLOT.json', 'new.keyslot.json', 'theirs.mpc.json']);
    await using again = await slot.open('keyslot', `,${words[1]},${words[2]}`);
    for (const each of [info, made]) await expectSigns(again, each);
  });

  it('gets no header that holds a wrong node secret', async () => {
    const session = await slot.open('keyslot', `${words[0]},${words[1]},${wrong}`);
    await expectSigns(session, info);
    expect(await refusal(session.generate(id('new')))).toBe('NODE_SECRET_MISSING');
    expect(slot.at.names()).toEqual(['theirs.mpc.json']);
  });

  it('seals no share under a wrong node secret that only the header knows to be wrong', async () => {
    await (await slot.open('keyslot'))[Symbol.asyncDispose](); // makes the header
    const session = await slot.open('agentic-wallet', `${words[0]},${words[1]},${wrong}`);
    await expectSigns(session, info);
    expect(await refusal(session.generate(id('new')))).toBe('NODE_SECRET_MISSING');
    expect(slot.at.names()).toEqual(['KEYSLOT-SLOT.json', 'theirs.mpc.json']);
  });
});

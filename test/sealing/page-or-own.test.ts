import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Secret } from '../../src/foundation/secret.ts';
import { KeyFolder } from '../../src/sealing/key-folder.ts';
import { encryptedFileForm } from '../../src/sealing/page-forms.ts';
import { type Envelope, type UnlockedForms, unlockPageOrOwn } from '../../src/sealing/page-or-own.ts';
import { hex, id, publicKeyOf, quickForm, refusal, TemporaryFolder } from './folder-lab.ts';

const place = { engine: 'encrypted-file', slot: 'main' };
const words = 'the secret of the slot';

let at: TemporaryFolder;

beforeEach(() => {
  at = new TemporaryFolder();
});

afterEach(() => at[Symbol.dispose]());

async function unlock(envelope: Envelope, secretWords = words, signal?: AbortSignal): Promise<UnlockedForms> {
  const folder = await KeyFolder.open(at.keys);
  using secret = Secret.fromText(secretWords);
  const page = encryptedFileForm({ secret, writes: 'documented' });
  return await unlockPageOrOwn(
    { folder, place, page, lock: { secrets: [secret], needed: 1 }, envelope },
    signal,
  );
}

/** A file of the agentic-wallet program, under this secret. */
async function pageFile(key: string, secretWords = words): Promise<string> {
  using form = quickForm(secretWords);
  using seed = Secret.fromBytes(randomBytes(32));
  await KeyFolder.open(at.keys);
  at.write(`${key}.json`, await form.seal(id(key), publicKeyOf(seed), seed));
  return seed.use(hex);
}

const suffixes = ({ forms }: UnlockedForms) => forms.map(form => form.suffix);

describe('a folder of the agentic-wallet program', () => {
  it('opens with its secret and no header, where its form is written', async () => {
    const seed = await pageFile('wallet');
    using unlocked = await unlock('agentic-wallet');
    expect(suffixes(unlocked)).toEqual(['.json']);
    expect(unlocked.writes.suffix).toBe('.json');
    using opened = await unlocked.writes.read(id('wallet'), at.read('wallet.json')).unseal();
    expect(opened.use(hex)).toBe(seed);
    expect(at.names()).toEqual(['wallet.json']);
  });

  it('gets a header where the own form is written, and is read as before', async () => {
    const seed = await pageFile('wallet');
    using unlocked = await unlock('keyslot');
    expect(suffixes(unlocked)).toEqual(['.keyslot.json', '.json']);
    expect(unlocked.writes.suffix).toBe('.keyslot.json');
    using opened = await unlocked.forms[1]?.read(id('wallet'), at.read('wallet.json')).unseal();
    expect(opened?.use(hex)).toBe(seed);
    expect(at.names()).toEqual(['KEYSLOT-SLOT.json', 'wallet.json']);
  });

  it('that has a header is read in both forms, whichever is written', async () => {
    (await unlock('keyslot'))[Symbol.dispose]();
    using unlocked = await unlock('agentic-wallet');
    expect(suffixes(unlocked)).toEqual(['.keyslot.json', '.json']);
    expect(unlocked.writes.suffix).toBe('.json');
    expect(await refusal(unlock('agentic-wallet', 'another secret'))).toBe('PIN_REFUSED');
  });

  it.each(['keyslot', 'agentic-wallet'] as const)(
    'refuses a wrong secret before it writes anything (%s)',
    async envelope => {
      for (const key of ['one', 'two', 'three']) await pageFile(key);
      expect(await refusal(unlock(envelope, 'another secret'))).toBe('PIN_REFUSED');
      expect(at.names()).toEqual(['one.json', 'three.json', 'two.json']);
    },
  );

  it('opens as long as one of its files does', async () => {
    await pageFile('right');
    for (const key of ['wrong-1', 'wrong-2', 'wrong-3']) await pageFile(key, 'another secret');
    expect(await refusal(unlock('agentic-wallet'))).toBe('none');
    expect(await refusal(unlock('agentic-wallet', 'another secret'))).toBe('none');
    expect(await refusal(unlock('agentic-wallet', 'a third secret'))).toBe('PIN_REFUSED');
  });

  it('takes a file that is broken for no witness: neither for the secret nor against it', async () => {
    await KeyFolder.open(at.keys);
    at.write('broken.json', '{}');
    at.write('NO-KEY.json', '{}');
    expect(await refusal(unlock('agentic-wallet'))).toBe('none');
    await pageFile('wallet');
    expect(await refusal(unlock('agentic-wallet'))).toBe('none');
    expect(await refusal(unlock('agentic-wallet', 'another secret'))).toBe('PIN_REFUSED');
  });

  it('opens with no empty secret', async () => {
    for (const envelope of ['keyslot', 'agentic-wallet'] as const) {
      expect(await refusal(unlock(envelope, ''))).toBe('SLOT_PIN_REQUIRED');
    }
    expect(at.names()).toEqual([]);
  });

  it('is left when its opening is aborted', async () => {
    await pageFile('wallet');
    expect(await refusal(unlock('keyslot', words, AbortSignal.abort()))).toBe('REQUEST_ABORTED');
    expect(at.names()).toEqual(['wallet.json']);
  });

  it('is refused when it lost its header, whichever form is written', async () => {
    await pageFile('wallet');
    at.write('own.keyslot.json', '{}');
    for (const envelope of ['keyslot', 'agentic-wallet'] as const) {
      expect(await refusal(unlock(envelope))).toBe('KEY_FILE_MALFORMED');
    }
    expect(at.names()).toEqual(['own.keyslot.json', 'wallet.json']);
  });
});

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { LocalCustodian } from '../../src/custodian/custodian.ts';
import { slotId } from '../../src/custody/ids.ts';
import { createEncryptedFileEngine, encryptedFileSettings } from '../../src/engines/encrypted-file/index.ts';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import { Store } from '../../src/store/store.ts';
import { askOf, auditOf, people, refusal } from './lab.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keyslot-half-made-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const storeFile = () => join(folder, 'keyslot.db');
const keyFile = () => join(folder, 'keys', 'wallet.keyslot.json');

async function withCustodian<T>(work: (custodian: LocalCustodian) => Promise<T>): Promise<T> {
  await using opened = new AsyncDisposableStack();
  const store = opened.use(new Store(storeFile()));
  const settings = { ...encryptedFileSettings.parse({}), folder: join(folder, 'keys') };
  const engine = opened.use(createEncryptedFileEngine(slotId('files'), settings, silentLog));
  const slots = (await engine.slots()).map(slot => ({
    slot,
    access: 'identity' as const,
    readPin: async () => Secret.fromText('a long enough secret'),
  }));
  const custodian = opened.use(
    await LocalCustodian.create({
      store,
      slots,
      identities: Object.values(people),
      sessions: { idle_ms: 60_000, absolute_ms: 60_000 },
      audit: auditOf(join(folder, 'audit')),
      policies: { documents: [everythingAllowed('everything', 'all')] },
      log: silentLog,
    }),
  );
  expect(await custodian.openUnattended()).toEqual([]);
  return await work(custodian);
}

const show = (custodian: LocalCustodian) => askOf(custodian, 'both', 'show-key', { key: 'wallet' });

/** As a crash leaves it: the file is there, and the registry knows only that it was to be made. */
function crashBeforeCompletion(): void {
  using store = new Store(storeFile());
  store.run("UPDATE keys SET state = 'pending', public_key = NULL, custody = NULL WHERE id = 'wallet'");
}

it('takes the public key of a key that was being made from its seed, never from what its file states', async () => {
  const made = await withCustodian(async custodian => {
    const { output } = await askOf(custodian, 'both', 'generate-key', { key: 'wallet', slot: 'files' });
    return output;
  });
  crashBeforeCompletion();
  const honest = readFileSync(keyFile(), 'utf8');
  const other = encodeBase58(new Uint8Array(32).fill(7));
  writeFileSync(keyFile(), honest.replace(made.publicKey, other));

  await withCustodian(async custodian => {
    expect(await refusal(show(custodian))).toBe('KEY_UNKNOWN');
    const signing = askOf(
      custodian,
      'both',
      'sign-message',
      { key: 'wallet' },
      { bytes: [Buffer.from('x')] },
    );
    expect(await refusal(signing)).toBe('KEY_UNKNOWN');
  });

  writeFileSync(keyFile(), honest);
  await withCustodian(async custodian => {
    expect((await show(custodian)).output.publicKey).toBe(made.publicKey);
  });
});

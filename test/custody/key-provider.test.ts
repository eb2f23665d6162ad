import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Keypair } from '@solana/web3.js';
import { afterAll, describe, expect, it } from 'vitest';
import '../sealing/remembered-scrypt.ts';
import {
  createEncryptedFileEngine,
  createHsmSimEngine,
  createKeyProvider,
  createKmsEngine,
  createMemoryEngine,
  createMpcEngine,
  createPkcs11Engine,
  type Engine,
  encryptedFileSettings,
  hsmSimSettings,
  type KeyProvider,
  kmsSettings,
  mpcSettings,
  pkcs11Settings,
  Secret,
  silentLog,
  slotId,
} from '../../src/index.ts';
import { softToken } from '../engines/pkcs11/soft-token.ts';

const root = mkdtempSync(join(tmpdir(), 'keyslot-provider-'));
const token = softToken({ label: 'provider' });
afterAll(() => {
  rmSync(root, { recursive: true, force: true });
  token.remove();
});

const slot = slotId('wallets');
const folder = join(root, 'keys');
const pinned = (text: string) => () => Secret.fromText(text);

/** Every backend of the page, as the library makes it. */
const backends: readonly [string, () => Engine, () => Secret, object][] = [
  ['memory', () => createMemoryEngine(slot), pinned('any'), { backend: 'memory', custody: 'local' }],
  [
    'encrypted-file',
    () =>
      createEncryptedFileEngine(
        slot,
        { ...encryptedFileSettings.parse({}), folder: `${folder}-file` },
        silentLog,
      ),
    pinned('a secret'),
    { backend: 'encrypted-file', custody: 'local' },
  ],
  [
    'kms',
    () => {
      const settings = { ...kmsSettings.parse({ mode: 'simulated' }), folder: `${folder}-kms` };
      return createKmsEngine(slot, settings, silentLog);
    },
    pinned('a master secret'),
    { backend: 'kms', custody: 'external' },
  ],
  [
    'hsm',
    () =>
      createHsmSimEngine(
        slot,
        { ...hsmSimSettings.parse({}), folder: `${folder}-hsm` },
        async () => Secret.fromText('a module secret'),
        silentLog,
      ),
    pinned('123456'),
    { backend: 'hsm', custody: 'external' },
  ],
  [
    'mpc',
    () => createMpcEngine(slot, { ...mpcSettings.parse({}), folder: `${folder}-mpc` }, silentLog),
    pinned('one,two,three'),
    { backend: 'mpc', custody: 'external' },
  ],
];

describe.each(backends)('the key provider over %s', (_, makeEngine, pin, provenance) => {
  it('loads the key pair that was saved, and says where it lives', async () => {
    await using lab = await opened(makeEngine(), pin());
    const keypair = Keypair.generate();
    const walletId = crypto.randomUUID();
    await lab.provider.save(walletId, keypair);
    const loaded = await lab.provider.load(walletId);
    expect(loaded.publicKey.equals(keypair.publicKey)).toBe(true);
    expect(Buffer.from(loaded.secretKey).equals(Buffer.from(keypair.secretKey))).toBe(true);
    expect(lab.provider.provenance()).toEqual({ ...provenance, deterministicAddressing: false });
  });

  it('takes the same key twice, and no other under its id', async () => {
    await using lab = await opened(makeEngine(), pin());
    const keypair = Keypair.generate();
    const walletId = crypto.randomUUID();
    await lab.provider.save(walletId, keypair);
    await lab.provider.save(walletId, keypair);
    await expect(lab.provider.save(walletId, Keypair.generate())).rejects.toMatchObject({
      code: 'KEY_EXISTS',
    });
    expect((await lab.provider.load(walletId)).publicKey.equals(keypair.publicKey)).toBe(true);
  });

  it('refuses ids that are paths, and knows no wallet that was never saved', async () => {
    await using lab = await opened(makeEngine(), pin());
    for (const id of ['../escape', 'a/b', '']) {
      await expect(lab.provider.load(id)).rejects.toMatchObject({ code: 'KEY_ID_INVALID' });
      await expect(lab.provider.save(id, Keypair.generate())).rejects.toMatchObject({
        code: 'KEY_ID_INVALID',
      });
    }
    await expect(lab.provider.load(crypto.randomUUID())).rejects.toMatchObject({ code: 'KEY_UNKNOWN' });
  });
});

describe('the key provider over a token that keeps its keys', () => {
  it('saves, and asks for a signer instead of loading', async () => {
    const settings = pkcs11Settings.parse({ module: token.module, tokenLabel: token.label });
    await using lab = await opened(createPkcs11Engine(slot, settings, silentLog), token.pin());
    const keypair = Keypair.generate();
    const walletId = crypto.randomUUID();
    await lab.provider.save(walletId, keypair);
    await expect(lab.provider.load(walletId)).rejects.toMatchObject({ code: 'KEY_NOT_EXPORTABLE' });
    expect(lab.provider.provenance().backend).toBe('hsm');
  });
});

async function opened(engine: Engine, pin: Secret): Promise<AsyncDisposable & { provider: KeyProvider }> {
  await using held = new AsyncDisposableStack();
  held.use(engine);
  held.use(pin);
  const [first] = await engine.slots();
  if (!first) throw new Error('The engine has no slot.');
  const session = held.use(await first.open(pin));
  const provider = createKeyProvider(session, await first.describe());
  const kept = held.move();
  return { provider, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

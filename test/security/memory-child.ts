import { once } from 'node:events';
import { join } from 'node:path';
import { readSecret } from '../../src/appliance/secrets.ts';
import { imports } from '../../src/custody/engine.ts';
import { keyId, slotId } from '../../src/custody/ids.ts';
import { createEncryptedFileEngine, encryptedFileSettings } from '../../src/engines/encrypted-file/index.ts';
import { silentLog } from '../../src/foundation/log.ts';

/**
 * Opens a slot with its PIN, imports a seed, signs with it and locks the slot. Says where it is and waits: once while
 * the slot is open, and once when it is locked and the garbage collector has been there.
 */
const [home = ''] = process.argv.slice(2);
const settings = { ...encryptedFileSettings.parse({}), folder: join(home, 'keys') };
const engine = createEncryptedFileEngine(slotId('main'), settings, silentLog);

async function lookedAt(stage: string): Promise<void> {
  process.stdout.write(stage);
  await once(process.stdin, 'data');
}

async function used(): Promise<void> {
  const [slot] = await engine.slots();
  using pin = await readSecret({ home }, { file: 'pin' }, 'slots.main.pin');
  await using session = await slot?.open(pin);
  if (!session || !imports(session)) throw new TypeError('The slot imports no keys.');
  {
    using seed = await readSecret({ home }, { file: 'seed' }, 'seed');
    await session.import(keyId('treasury'), seed);
  }
  const signer = await session.signer(keyId('treasury'));
  for (let time = 0; time < 20; time += 1) await signer.sign(Buffer.from(`message ${time}`));
  await lookedAt('open');
}

await used();
globalThis.gc?.();
await lookedAt('locked');
process.exit();

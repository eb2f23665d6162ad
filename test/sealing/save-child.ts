import { createPublicKey, verify } from 'node:crypto';
import type { KeyInfo } from '../../src/custody/engine.ts';
import { keyId, slotId } from '../../src/custody/ids.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { KeyFolder } from '../../src/sealing/key-folder.ts';
import { encryptedFileForm } from '../../src/sealing/page-forms.ts';
import { SealedSession } from '../../src/sealing/sealed-session.ts';

/*
 * Makes keys in a folder and prints a line for each, once it is acknowledged. Of whatever cannot be made it
 * prints the code, and which of the other keys go on signing. Without ids it makes keys until it is killed and
 * prints the public key of each.
 */
const [path = '', ...ids] = process.argv.slice(2);
process.on('SIGXFSZ', () => undefined); // else a limit of the file size kills instead of answering EFBIG
using secret = Secret.fromText('the secret of the slot');
using form = encryptedFileForm({ secret, writes: 'documented' });
await using session = new SealedSession({
  slot: slotId('main'),
  folder: await KeyFolder.open(path),
  forms: [form],
  writes: form,
  custody: 'encrypted-file',
  unwrapCache_ms: 0,
  log: silentLog,
  closed: () => undefined,
});

if (ids.length === 0) {
  const run = process.pid.toString(36);
  for (let count = 0; ; count += 1) {
    const info = await session.generate(keyId(`key-${run}-${count}`));
    process.stdout.write(`${info.id} ${Buffer.from(info.publicKey).toString('hex')}\n`);
  }
}
for (const id of ids) process.stdout.write(`${id} ${await made(id)}\n`);

async function made(id: string): Promise<string> {
  try {
    await session.generate(keyId(id));
    return 'made';
  } catch (error) {
    if (!isKeyslotError(error)) throw error;
    const signing: string[] = [];
    for await (const info of session.keys()) if (await signs(info)) signing.push(info.id);
    return `${error.code}, ${signing.join(' ')} signs`;
  }
}

async function signs(info: KeyInfo): Promise<boolean> {
  const message = Buffer.from('a message');
  const signed = await (await session.signer(info.id)).sign(message);
  const x = Buffer.from(info.publicKey).toString('base64url');
  const key = createPublicKey({ format: 'jwk', key: { kty: 'OKP', crv: 'Ed25519', x } });
  return verify(null, message, key, signed);
}

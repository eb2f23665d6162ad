import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import {
  address,
  appendTransactionMessageInstruction,
  compileTransaction,
  createTransactionMessage,
  generateKeyPairSigner,
  getBase64EncodedWireTransaction,
  getSignatureFromTransaction,
  getTransactionDecoder,
  pipe,
  setTransactionMessageFeePayer,
  setTransactionMessageLifetimeUsingBlockhash,
} from '@solana/kit';
import { startAppliance } from '../appliance.ts';
import { Chain, transfer } from '../chain.ts';

/** Plain HTTP: `sign-transaction.sh` is the application; what it has signed is made and executed here. */

await using appliance = await startAppliance();
const chain = new Chain();
chain.airdrop(appliance.address);
const treasury = address(appliance.address);
const { address: recipient } = await generateKeyPairSigner();

const message = pipe(
  createTransactionMessage({ version: 0 }),
  empty => setTransactionMessageFeePayer(treasury, empty),
  paid => setTransactionMessageLifetimeUsingBlockhash(chain.latest, paid),
  timed => appendTransactionMessageInstruction(transfer(treasury, recipient, 10_000_000n), timed),
);
const unsigned = getBase64EncodedWireTransaction(compileTransaction(message));
const { certificate, key, token } = appliance.files;
const signed = await sign(unsigned, { KEYSLOT_CERTIFICATE: certificate, KEYSLOT_KEY: key });
const again = await sign(unsigned, { KEYSLOT_TOKEN_FILE: token });
if (signed !== again) throw new Error('A message has one Ed25519 signature, whoever asks for it.');
const transaction = getTransactionDecoder().decode(Buffer.from(signed, 'base64'));
chain.send(Buffer.from(signed, 'base64'));

console.log(
  `executed ${getSignatureFromTransaction(transaction)}, recipient ${chain.balance(recipient)} SOL`,
);

/** What the script prints for this transaction, with one credential or the other. */
async function sign(wire: string, credential: Record<string, string>): Promise<string> {
  const script = spawn('sh', [join(import.meta.dirname, 'sign-transaction.sh'), 'treasury'], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, KEYSLOT_URL: appliance.url, KEYSLOT_CA: appliance.files.ca, ...credential },
  });
  const exited = new Promise<number | null>(done => script.on('exit', done));
  script.stdin.end(wire);
  const printed = (await text(script.stdout)).trim();
  if ((await exited) !== 0) throw new Error('sign-transaction.sh failed.');
  return printed;
}

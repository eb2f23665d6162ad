import { readFileSync } from 'node:fs';
import {
  appendTransactionMessageInstruction,
  createTransactionMessage,
  generateKeyPairSigner,
  getSignatureFromTransaction,
  getTransactionEncoder,
  pipe,
  setTransactionMessageFeePayerSigner,
  setTransactionMessageLifetimeUsingBlockhash,
  signTransactionMessageWithSigners,
} from '@solana/kit';
import { createKeyslotClient, createKeyslotSigner } from 'keyslot/client';
import { mtlsFetch } from 'keyslot/client/node';
import { startAppliance } from '../appliance.ts';
import { Chain, transfer } from '../chain.ts';

/** Kit: a key of the appliance pays the fee and the transfer, and Kit signs as with any other signer. */

await using appliance = await startAppliance();
const chain = new Chain();

// The application: a client certificate, and a signer of one key.
await using fetch = mtlsFetch({
  certificate: readFileSync(appliance.files.certificate),
  key: readFileSync(appliance.files.key),
  ca: readFileSync(appliance.files.ca),
});
const client = createKeyslotClient({ url: appliance.url, fetch });
const signer = await createKeyslotSigner({ client, keyId: 'treasury', address: appliance.address });

chain.airdrop(signer.address);
const { address: recipient } = await generateKeyPairSigner();
const message = pipe(
  createTransactionMessage({ version: 0 }),
  empty => setTransactionMessageFeePayerSigner(signer, empty),
  paid => setTransactionMessageLifetimeUsingBlockhash(chain.latest, paid),
  timed => appendTransactionMessageInstruction(transfer(signer.address, recipient, 10_000_000n), timed),
);
const transaction = await signTransactionMessageWithSigners(message);
chain.send(getTransactionEncoder().encode(transaction));

console.log(
  `executed ${getSignatureFromTransaction(transaction)}, recipient ${chain.balance(recipient)} SOL`,
);

import { readFileSync } from 'node:fs';
import { assertIsSolanaSigner, assertSignatureValid, type SolanaSigner } from '@solana/keychain-core';
import {
  appendTransactionMessageInstruction,
  compileTransaction,
  createTransactionMessage,
  generateKeyPairSigner,
  getBase58Decoder,
  getTransactionEncoder,
  pipe,
  setTransactionMessageFeePayer,
  setTransactionMessageLifetimeUsingBlockhash,
} from '@solana/kit';
import { createKeyslotClient, createKeyslotSigner } from 'keyslot/client';
import { mtlsFetch } from 'keyslot/client/node';
import { startAppliance } from '../appliance.ts';
import { Chain, transfer } from '../chain.ts';

/** Solana Keychain: a program that takes any of its signers takes a key of the appliance. */

await using appliance = await startAppliance();
const chain = new Chain();

// The application: a bearer token this time, and the CA of the appliance's certificate.
await using fetch = mtlsFetch({ ca: readFileSync(appliance.files.ca) });
const bearerToken = () => readFileSync(appliance.files.token, 'utf8').trim();
const client = createKeyslotClient({ url: appliance.url, fetch, auth: { bearerToken } });
const signer = await createKeyslotSigner({ client, keyId: 'treasury' });
assertIsSolanaSigner(signer);

chain.airdrop(signer.address);
const { address: recipient } = await generateKeyPairSigner();
const signature = await pay(signer);

console.log(`executed ${signature}, recipient ${chain.balance(recipient)} SOL`);

/** Written for Keychain; knows nothing of Keyslot. */
async function pay(from: SolanaSigner): Promise<string> {
  if (!(await from.isAvailable())) throw new Error(`${from.address} cannot sign now.`);
  const message = pipe(
    createTransactionMessage({ version: 0 }),
    empty => setTransactionMessageFeePayer(from.address, empty),
    paid => setTransactionMessageLifetimeUsingBlockhash(chain.latest, paid),
    timed => appendTransactionMessageInstruction(transfer(from.address, recipient, 10_000_000n), timed),
  );
  const transaction = compileTransaction(message);
  const [signatures] = await from.signTransactions([transaction as Signable]);
  const own = signatures?.[from.address];
  if (!own) throw new Error(`${from.address} did not sign.`);
  await assertSignatureValid({ data: transaction.messageBytes, signature: own, signerAddress: from.address });
  const signed = { ...transaction, signatures: { ...transaction.signatures, ...signatures } };
  chain.send(getTransactionEncoder().encode(signed));
  return getBase58Decoder().decode(own);
}

/** Keychain wants it said that the transaction is small enough, which one transfer is. */
type Signable = Parameters<SolanaSigner['signTransactions']>[0][number];

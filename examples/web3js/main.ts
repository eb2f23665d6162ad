import { readFileSync } from 'node:fs';
import { getBase58Decoder } from '@solana/kit';
import {
  Keypair,
  type PublicKey,
  SystemProgram,
  Transaction,
  TransactionMessage,
  VersionedTransaction,
} from '@solana/web3.js';
import { createKeyslotClient, createKeyslotSigner } from 'keyslot/client';
import { mtlsFetch } from 'keyslot/client/node';
import { toWeb3Wallet } from 'keyslot/client/web3';
import { startAppliance } from '../appliance.ts';
import { Chain } from '../chain.ts';

/** web3.js 1.x: a wallet, for a versioned transaction and for a legacy one that somebody else has signed too. */

await using appliance = await startAppliance();
const chain = new Chain();

// The application: a client certificate, and a wallet of one key.
await using fetch = mtlsFetch({
  certificate: readFileSync(appliance.files.certificate),
  key: readFileSync(appliance.files.key),
  ca: readFileSync(appliance.files.ca),
});
const client = createKeyslotClient({ url: appliance.url, fetch });
const wallet = toWeb3Wallet(await createKeyslotSigner({ client, keyId: 'treasury' }));

const partner = Keypair.generate();
const recipient = Keypair.generate().publicKey;
for (const { publicKey } of [wallet, partner]) chain.airdrop(publicKey.toBase58());
const transfer = (fromPubkey: PublicKey) =>
  SystemProgram.transfer({ fromPubkey, toPubkey: recipient, lamports: 10_000_000 });
const { blockhash, lastValidBlockHeight } = chain.latest;

const versioned = new VersionedTransaction(
  new TransactionMessage({
    payerKey: wallet.publicKey,
    recentBlockhash: blockhash,
    instructions: [transfer(wallet.publicKey)],
  }).compileToV0Message(),
);
chain.send((await wallet.signTransaction(versioned)).serialize());

// The partner signs first; its signature is still there afterwards.
const legacy = new Transaction({
  feePayer: wallet.publicKey,
  blockhash,
  lastValidBlockHeight: Number(lastValidBlockHeight),
}).add(transfer(wallet.publicKey), transfer(partner.publicKey));
legacy.partialSign(partner);
chain.send((await wallet.signTransaction(legacy)).serialize());

const signature = getBase58Decoder().decode(legacy.signature ?? new Uint8Array());
console.log(`executed ${signature}, recipient ${chain.balance(recipient.toBase58())} SOL`);

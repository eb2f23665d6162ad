import { readFileSync } from 'node:fs';
import { VaultSigner } from '@solana/keychain-vault';
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
  type TransactionPartialSigner,
} from '@solana/kit';
import { Chain, transfer } from '../chain.ts';

/** The application as it was with Vault: other values of its settings, and no other code. */

const { VAULT_ADDR = '', VAULT_TOKEN_FILE = '', TREASURY_ADDRESS = '' } = process.env;
const vault = new VaultSigner({
  vaultAddr: VAULT_ADDR,
  vaultToken: readFileSync(VAULT_TOKEN_FILE, 'utf8').trim(),
  keyName: 'treasury',
  publicKey: TREASURY_ADDRESS,
});
if (!(await vault.isAvailable())) throw new Error(`${vault.address} cannot sign now.`);
// Its types are those of an earlier Kit; what it does is what this one expects.
const signer = vault as unknown as TransactionPartialSigner;

const chain = new Chain();
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

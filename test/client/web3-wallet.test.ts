import {
  Keypair,
  type MessageV0,
  PublicKey,
  SystemProgram,
  Transaction,
  TransactionMessage,
  VersionedTransaction,
} from '@solana/web3.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createKeyslotSigner, type KeyslotClient, type KeyslotSigner } from '../../src/client/index.ts';
import { toWeb3Wallet, type Web3Wallet } from '../../src/client/web3-wallet.ts';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { type Appliance, type Home, prepareHome, serve } from '../e2e/appliance.ts';
import { Chain, isSignature, other, transfers } from '../e2e/transactions.ts';
import { clientOf, codeOf } from './lab.ts';

/** The wallet of a key in a real token, with the transactions of web3.js. */

let home: Home;
let appliance: Appliance;
let client: KeyslotClient;
let signer: KeyslotSigner;
let wallet: Web3Wallet;

beforeAll(async () => {
  home = await prepareHome();
  appliance = await serve(home);
  client = clientOf(home, appliance);
  await client.keys.generate('k', 'main');
  signer = await createKeyslotSigner({ client, keyId: 'k' });
  wallet = toWeb3Wallet(signer);
});

afterAll(async () => {
  const exit = await appliance?.stop();
  home?.remove();
  expect(exit?.status).toBe(0);
});

/** A transfer of the wallet and one of each other signer. */
function legacy(to: string, blockhash: string, others: readonly Keypair[] = []): Transaction {
  const transaction = new Transaction({ feePayer: wallet.publicKey, blockhash, lastValidBlockHeight: 10 });
  return transaction.add(...instructions(to, others));
}

function versioned(to: string, blockhash: string, others: readonly Keypair[] = []): VersionedTransaction {
  const payerKey = wallet.publicKey;
  const message = new TransactionMessage({
    payerKey,
    recentBlockhash: blockhash,
    instructions: instructions(to, others),
  });
  return new VersionedTransaction(message.compileToV0Message());
}

const instructions = (to: string, others: readonly Keypair[]) =>
  [wallet.publicKey, ...others.map(({ publicKey }) => publicKey)].map(fromPubkey =>
    SystemProgram.transfer({ fromPubkey, toPubkey: new PublicKey(to), lamports: 1_000_000 }),
  );

const recent = () => other().address;

it('is the wallet of the signer', () => {
  expect(wallet.publicKey).toBeInstanceOf(PublicKey);
  expect(wallet.publicKey.toBase58()).toBe(signer.address);
  expect(Object.isFrozen(wallet)).toBe(true);
});

describe('a transaction', () => {
  it('is signed beside another signer, whoever is first, and executed', async () => {
    const second = Keypair.generate();
    for (const order of ['first', 'last']) {
      for (const make of [legacy, versioned]) {
        const chain = new Chain();
        chain.fund([signer.address, second.publicKey.toBase58()]);
        const to = other().address;
        const transaction = make(to, chain.blockhash, [second]);
        const theirs = () =>
          transaction instanceof Transaction ? transaction.partialSign(second) : transaction.sign([second]);
        if (order === 'last') theirs();
        expect(await wallet.signTransaction(transaction)).toBe(transaction);
        if (order === 'first') theirs();
        expect(chain.executes(transaction.serialize(), to)).toBe(true);
      }
    }
  });

  it('of version 1, whose message web3.js does not serialise, gets no signature', async () => {
    const transaction = VersionedTransaction.deserialize(transfers('v1', [signer.address]));
    await expect(wallet.signTransaction(transaction)).rejects.toThrow('version 1');
    expect(transaction.signatures.map(each => Uint8Array.from(each))).toEqual([new Uint8Array(64)]);
  });

  it('that does not want this signature is refused, and so are those beside it', async () => {
    const foreign = new VersionedTransaction(
      new TransactionMessage({
        payerKey: Keypair.generate().publicKey,
        recentBlockhash: recent(),
        instructions: [],
      }).compileToV0Message(),
    );
    const ours = versioned(recent(), recent());
    expect(await codeOf(wallet.signAllTransactions([ours, foreign]))).toBe('KEY_NOT_A_SIGNER');
    expect(ours.signatures).toEqual([new Uint8Array(64)]);
  });

  it('that is changed while it is being signed gets no signature', async () => {
    const [steady, changed] = [versioned(recent(), recent()), versioned(recent(), recent())];
    const signing = codeOf(wallet.signAllTransactions([steady, changed]));
    if (changed) (changed.message as MessageV0).recentBlockhash = recent();
    expect(await signing).toBe('CLIENT_SIGNATURE_INVALID');
    expect([steady, changed].map(each => each?.signatures)).toEqual([
      [new Uint8Array(64)],
      [new Uint8Array(64)],
    ]);
    const late = legacy(recent(), recent());
    const alsoSigning = codeOf(wallet.signTransaction(late));
    late.recentBlockhash = recent();
    expect(await alsoSigning).toBe('CLIENT_SIGNATURE_INVALID');
    expect(late.signature).toBeNull();
  });

  it('is left when the signal says so', async () => {
    const config = { abortSignal: AbortSignal.abort() };
    expect(await codeOf(wallet.signTransaction(versioned(recent(), recent()), config))).toBe(
      'CLIENT_ABORTED',
    );
  });
});

describe('a message', () => {
  it('is signed, unless it is a transaction', async () => {
    const message = new TextEncoder().encode('sign in to example.com');
    const signature = await wallet.signMessage(message);
    expect(await isSignature(signer.address, message, encodeBase58(signature))).toBe(true);
    const sneaky = versioned(recent(), recent()).message.serialize();
    expect(await codeOf(wallet.signMessage(sneaky))).toBe('MESSAGE_IS_TRANSACTION');
  });
});

describe('a thousand at the same time', () => {
  const thousand = () =>
    Array.from({ length: 1_000 }, (_, at) => (at % 2 ? legacy : versioned)(recent(), recent()));

  it.each([
    [
      'one by one',
      (all: (Transaction | VersionedTransaction)[]) =>
        Promise.all(all.map(each => wallet.signTransaction(each))),
    ],
    ['together', (all: (Transaction | VersionedTransaction)[]) => wallet.signAllTransactions(all)],
  ])('come back each with its own signature, %s', async (_how, sign) => {
    const all = thousand();
    const signed = await sign(all);
    expect(signed.map((each, at) => each === all[at])).toEqual(all.map(() => true));
    const signatures = signed.map(each =>
      encodeBase58((each instanceof Transaction ? each.signature : each.signatures[0]) ?? new Uint8Array()),
    );
    expect(new Set(signatures).size).toBe(1_000);
    for (const [at, each] of signed.entries()) {
      const message = each instanceof Transaction ? each.serializeMessage() : each.message.serialize();
      expect(await isSignature(signer.address, message, signatures[at])).toBe(true);
    }
  });
});

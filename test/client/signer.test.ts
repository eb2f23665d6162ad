import { assertIsSolanaSigner, assertSignatureValid } from '@solana/keychain-core';
import {
  address,
  appendTransactionMessageInstruction,
  assertIsMessagePartialSigner,
  assertIsTransactionPartialSigner,
  createSignableMessage,
  createTransactionMessage,
  getTransactionDecoder,
  getTransactionEncoder,
  isMessageModifyingSigner,
  isTransactionModifyingSigner,
  isTransactionSendingSigner,
  type SignatureDictionary,
  setTransactionMessageFeePayerSigner,
  setTransactionMessageLifetimeUsingBlockhash,
  signTransactionMessageWithSigners,
} from '@solana/kit';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  createKeyslotClient,
  createKeyslotSigner,
  type KeyslotClient,
  type KeyslotSigner,
} from '../../src/client/index.ts';
import { unsignedWire } from '../../src/client/wire-form.ts';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { type Appliance, type Home, prepareHome, serve } from '../e2e/appliance.ts';
import { Chain, isSignature, other, readWire, transfers, versions } from '../e2e/transactions.ts';
import { clientOf, codeOf, FalseAppliance, tell } from './lab.ts';

/** The signer of a key in a real token, used by the real libraries. */

let home: Home;
let appliance: Appliance;
let client: KeyslotClient;
let signer: KeyslotSigner;

beforeAll(async () => {
  home = await prepareHome();
  appliance = await serve(home);
  client = clientOf(home, appliance);
  await client.keys.generate('k', 'main');
  signer = await createKeyslotSigner({ client, keyId: 'k' });
});

afterAll(async () => {
  const exit = await appliance?.stop();
  home?.remove();
  expect(exit?.status).toBe(0);
});

const decoded = (wire: Uint8Array) => getTransactionDecoder().decode(wire);
const signatureIn = (dictionary: SignatureDictionary | undefined) =>
  encodeBase58(dictionary?.[signer.address] ?? new Uint8Array());

describe('the object', () => {
  it('is what Kit and Keychain look for, and nothing that sends or modifies', () => {
    assertIsTransactionPartialSigner(signer);
    assertIsMessagePartialSigner(signer);
    assertIsSolanaSigner(signer);
    expect(Object.isFrozen(signer)).toBe(true);
    expect(Object.keys(signer).sort()).toEqual([
      'address',
      'isAvailable',
      'signMessages',
      'signTransactions',
    ]);
    const wrong = [isTransactionModifyingSigner, isTransactionSendingSigner, isMessageModifyingSigner];
    expect(wrong.map(is => is(signer))).toEqual([false, false, false]);
  });

  it('is of the address that was asked for, or is not made', async () => {
    const same = await createKeyslotSigner({ client, keyId: 'k', address: signer.address });
    expect(same.address).toBe(signer.address);
    const wrong = createKeyslotSigner({ client, keyId: 'k', address: other().address });
    expect(await codeOf(wrong)).toBe('CLIENT_ADDRESS_MISMATCH');
    expect(await codeOf(createKeyslotSigner({ client, keyId: 'none' }))).toBe('KEY_UNKNOWN');
  });

  it('is available while its slot is open', async () => {
    expect(await signer.isAvailable()).toBe(true);
    await client.slots.lock('main');
    expect(await signer.isAvailable()).toBe(false);
    const { content } = createSignableMessage('x');
    expect(await codeOf(signer.signMessages([{ content }]))).toBe('SLOT_LOCKED');
    await client.slots.open('main');
    expect(await signer.isAvailable()).toBe(true);
  });
});

describe('transactions', () => {
  it.each(versions)('of version %s are signed beside other signers, and executed', async version => {
    const second = other();
    const to = other().address;
    const chain = new Chain();
    chain.fund([signer.address, second.address]);
    const unsigned = decoded(transfers(version, [signer.address, second.address], to, chain.blockhash));
    const theirs = new Uint8Array(second.sign(Uint8Array.from(unsigned.messageBytes)));
    const transaction = {
      ...unsigned,
      signatures: { ...unsigned.signatures, [second.address]: theirs },
    } as typeof unsigned;
    const [ours] = await signer.signTransactions([transaction]);
    expect(Object.keys(ours ?? {})).toEqual([signer.address]);
    await assertSignatureValid({
      data: transaction.messageBytes,
      signature: ours?.[signer.address] as never,
      signerAddress: signer.address,
    });
    const complete = { ...transaction, signatures: { ...transaction.signatures, ...ours } };
    expect(chain.executes(Uint8Array.from(getTransactionEncoder().encode(complete)), to)).toBe(true);
  });

  it("are signed through Kit's own signing of a message with signers", async () => {
    const chain = new Chain();
    const empty = createTransactionMessage({ version: 0 });
    const paid = setTransactionMessageFeePayerSigner(signer, empty);
    const lifetime = { blockhash: chain.blockhash, lastValidBlockHeight: 10n };
    const timed = setTransactionMessageLifetimeUsingBlockhash(lifetime, paid);
    const memo = { programAddress: address(other().address), data: new Uint8Array([1]) };
    const signed = await signTransactionMessageWithSigners(appendTransactionMessageInstruction(memo, timed));
    const signature = signed.signatures[signer.address] ?? new Uint8Array();
    const message = Uint8Array.from(signed.messageBytes);
    expect(await isSignature(signer.address, message, encodeBase58(signature))).toBe(true);
  });

  it('become the wire form that Kit makes of them, whatever their version and number of signers', () => {
    fc.assert(
      fc.property(fc.constantFrom(...versions), fc.integer({ min: 1, max: 9 }), (version, count) => {
        const wire = transfers(
          version,
          Array.from({ length: count }, () => other().address),
        );
        expect(Buffer.from(unsignedWire(readWire(wire).message)).equals(wire)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });

  it('that are none are refused by the appliance, and nothing breaks here', async () => {
    for (const messageBytes of [[], [0], [0x81], [0x82, 1, 2], [0xff, 0xff], [1, 2, 3]]) {
      expect(
        await codeOf(signer.signTransactions([{ messageBytes: Uint8Array.from(messageBytes) }])),
      ).toMatch(/^(TRANSACTION_|COMPACT_U16_|KEY_NOT_A_SIGNER|BODY)/);
    }
  });

  it('go out in one request a hundred, and none comes back when one of them is refused', async () => {
    const asked: string[] = [];
    const fetch = clientOf(home, appliance).fetch;
    const counting = createKeyslotClient({
      url: appliance.url,
      fetch: (url, init) => {
        asked.push(new URL(url).pathname);
        return fetch(url, init);
      },
    });
    const its = await createKeyslotSigner({ client: counting, keyId: 'k' });
    const ours = Array.from({ length: 101 }, () => decoded(transfers('v0', [signer.address])));
    expect(await its.signTransactions(ours)).toHaveLength(101);
    expect(asked.filter(path => path.endsWith('/sign-batch'))).toHaveLength(2);
    const foreign = decoded(transfers('v0', [other().address]));
    const refused = await its.signTransactions([...ours, foreign]).catch((error: unknown) => error);
    expect(refused).toMatchObject({ code: 'KEY_NOT_A_SIGNER', index: 101 });
    expect(await its.signTransactions([])).toEqual([]);
    await fetch.close();
  });
});

describe('messages', () => {
  it('are signed as they are; a transaction message is not signed as one', async () => {
    const contents = ['hello', 'hello', 'world'].map(text => createSignableMessage(text));
    const signed = await signer.signMessages(contents);
    for (const [at, { content }] of contents.entries()) {
      expect(await isSignature(signer.address, content, signatureIn(signed[at]))).toBe(true);
    }
    const { message } = readWire(transfers('legacy', [signer.address]));
    const error = await signer.signMessages([...contents, { content: message }]).catch((e: unknown) => e);
    expect(error).toMatchObject({ code: 'MESSAGE_IS_TRANSACTION', index: 3 });
  });

  it('go out in as many requests as their bytes need', async () => {
    const contents = Array.from({ length: 100 }, (_, at) =>
      createSignableMessage(`${at}`.padEnd(16_000, '-')),
    );
    const signed = await signer.signMessages(contents);
    expect(new Set(signed.map(signatureIn)).size).toBe(100);
  });

  it('are left when the signal says so', async () => {
    const config = { abortSignal: AbortSignal.abort() };
    expect(await codeOf(signer.signMessages([createSignableMessage('x')], config))).toBe('CLIENT_ABORTED');
    expect(await codeOf(signer.signTransactions([decoded(transfers('v0', [signer.address]))], config))).toBe(
      'CLIENT_ABORTED',
    );
  });
});

describe('a thousand at the same time', () => {
  it('come back each with its own signature: none is lost, doubled or mixed up', async () => {
    const all = Array.from({ length: 1_000 }, (_, at) =>
      decoded(transfers(at % 2 ? 'v0' : 'legacy', [signer.address])),
    );
    const signed = await Promise.all(all.map(each => signer.signTransactions([each])));
    expect(new Set(signed.map(([each]) => signatureIn(each))).size).toBe(1_000);
    for (const [at, { messageBytes }] of all.entries()) {
      const signature = signatureIn(signed[at]?.[0]);
      expect(await isSignature(signer.address, Uint8Array.from(messageBytes), signature)).toBe(true);
    }
  });
});

const receipt = { node: 'here', seq: 1, hash: 'ab'.repeat(32), proof: '/v1/audit/1/proof' };

describe('a signature that is wrong', () => {
  it('is not released, and neither are the right ones beside it', async () => {
    const key = other();
    const honest = await client.keys.show('k');
    let wrong: 'bytes' | 'swapped' | 'few' = 'bytes';
    await using liar = await FalseAppliance.start((response, { method, body }) => {
      const by = { publicKey: key.address, custody: 'memory' };
      if (method === 'GET') return tell(response, 200, { ...honest, ...by });
      const { items } = JSON.parse(body) as { items: { message: string }[] };
      const results = items.map(({ message }) => {
        const signature = key.sign(Buffer.from(message, 'base64'));
        return { signatureBase64: signature.toString('base64'), kind: 'bytes', receipt };
      });
      if (wrong === 'bytes' && results[1])
        results[1].signatureBase64 = Buffer.alloc(64, 1).toString('base64');
      if (wrong === 'swapped') results.reverse();
      if (wrong === 'few') results.pop();
      return tell(response, 200, { ...by, results });
    });
    const its = await createKeyslotSigner({ client: createKeyslotClient({ url: liar.url }), keyId: 'k' });
    const contents = ['a', 'b'].map(text => createSignableMessage(text));
    const error = await its.signMessages(contents).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'CLIENT_SIGNATURE_INVALID', index: 1 });
    wrong = 'swapped';
    expect(await codeOf(its.signMessages(contents))).toBe('CLIENT_SIGNATURE_INVALID');
    wrong = 'few';
    expect(await codeOf(its.signMessages(contents))).toBe('CLIENT_REPLY_INVALID');
  });

  it('is one of another address too, and what is no address makes no signer', async () => {
    const honest = await client.keys.show('k');
    let publicKey = other().address;
    await using liar = await FalseAppliance.start((response, { method }) => {
      const result = { signatureBase64: Buffer.alloc(64).toString('base64'), kind: 'bytes', receipt };
      if (method === 'GET') tell(response, 200, { ...honest, publicKey });
      else tell(response, 200, { results: [result], publicKey, custody: 'memory' });
    });
    const lying = createKeyslotClient({ url: liar.url });
    const its = await createKeyslotSigner({ client: lying, keyId: 'k' });
    expect(await codeOf(its.signMessages([createSignableMessage('a')]))).toBe('CLIENT_SIGNATURE_INVALID');
    publicKey = 'not an address';
    expect(await codeOf(createKeyslotSigner({ client: lying, keyId: 'k' }))).toBe('CLIENT_REPLY_INVALID');
  });
});

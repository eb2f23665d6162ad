import { setImmediate as nextTurn } from 'node:timers/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Signature, signature } from '../../src/custody/ids.ts';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import {
  createVerifier,
  privateKeyFromSeed,
  publicKeyFromSeed,
  signMessage,
} from '../../src/foundation/ed25519.ts';
import { isKeyslotError, KeyslotError } from '../../src/foundation/errors.ts';
import { parseTransaction } from '../../src/solana/transaction.ts';
import type { ReceiptView } from '../../src/wire/audit.ts';
import { compiledMessages, messageBytes, plain, plainV0, plainV1, wireBytes } from '../solana/compiled.ts';
import { Device, Gate, type SignRequest } from './device.ts';
import { Lab, refusal, sha256, text } from './lab.ts';

// The keys of `compiled.ts` are made of these seeds: key(2) is the second signer of `plain`, key(3) is no signer.
const seedOf = (number: number): Uint8Array => new Uint8Array(32).fill(number);
const publicKey = (number: number) => publicKeyFromSeed(seedOf(number));

let device: Device;
let lab: Lab;

beforeAll(async () => {
  device = await Device.make();
  lab = await Lab.open({ slot: device.slot });
  for (const number of [1, 2, 3]) {
    await lab.ask(
      'operator',
      'import-key',
      { key: `key-${number}`, slot: 'main' },
      { bytes: [seedOf(number)] },
    );
  }
});

beforeEach(() => {
  device.onSign = ({ honest }) => honest();
  device.asked.length = 0;
});

afterAll(async () => {
  await lab[Symbol.asyncDispose]();
  await device[Symbol.asyncDispose]();
});

const signTheMessage = (message: Uint8Array, key = 'key-1') =>
  lab.ask('signer', 'sign-message', { key }, { bytes: [message] });
const signTheTransaction = (wire: Uint8Array, key = 'key-1') =>
  lab.ask('signer', 'sign-transaction', { key }, { bytes: [wire] });

function offchain(body: string): Uint8Array {
  const length = Buffer.from(body).length;
  return Buffer.concat([
    Buffer.from('ff736f6c616e61206f6666636861696e', 'hex'),
    Uint8Array.of(0),
    new Uint8Array(32).fill(7),
    Uint8Array.of(0, 1),
    publicKey(1),
    Uint8Array.of(length & 0xff, length >> 8),
    Buffer.from(body),
  ]);
}

/** The record that a receipt names is the result of the signature, and the receipt is its hash. */
async function recordOf(receipt: ReceiptView) {
  const read = { from: receipt.seq, limit: 1 };
  const [line = ''] = (await lab.ask('auditor', 'read-audit', read)).output.lines;
  expect(sha256(line)).toBe(receipt.hash);
  return JSON.parse(line) as unknown;
}

describe('the receipt of a signature', () => {
  it('names the record of the result, which an auditor reads', async () => {
    const { output, bytes } = await signTheMessage(text('to be found again'));
    const { receipt } = output;
    expect(receipt).toEqual({
      node: 'lab',
      seq: receipt.seq,
      hash: receipt.hash,
      proof: `/v1/audit/${receipt.seq}/proof`,
    });
    expect(await recordOf(receipt)).toMatchObject({
      type: 'result',
      seq: receipt.seq,
      actor: 'signer',
      operation: 'sign-message',
      outcome: 'ok',
      key: 'key-1',
      message: sha256('to be found again'),
      signature: Buffer.from(bytes?.[0] ?? []).toString('base64'),
    });
  });

  it('comes later in the log than that of the signature before, in a batch one an item', async () => {
    const first = (await signTheMessage(text('first'))).output.receipt;
    const second = (await signTheTransaction(wireBytes(plain), 'key-2')).output.receipt;
    const { output } = await lab.ask(
      'signer',
      'sign-batch',
      { key: 'key-1', items: ['message', 'message', 'message'] },
      { bytes: [text('a'), new Uint8Array(), text('b')] },
    );
    const seqs = output.results.flatMap(result => ('receipt' in result ? [result.receipt.seq] : []));
    expect(second.seq).toBeGreaterThan(first.seq);
    expect(new Set(seqs).size).toBe(2);
    expect(Math.min(...seqs)).toBeGreaterThan(second.seq);
  });
});

describe('signing a message', () => {
  it('answers with a signature of exactly these bytes, and says whose it is', async () => {
    const message = text('a message of somebody');
    const { output, bytes } = await signTheMessage(message);
    const { receipt, ...rest } = output;
    expect(rest).toEqual({ publicKey: encodeBase58(publicKey(1)), custody: 'memory', kind: 'bytes' });
    expect(await recordOf(receipt)).toMatchObject({ type: 'result', outcome: 'ok' });
    expect(bytes).toHaveLength(1);
    const signed = bytes?.[0] ?? new Uint8Array();
    expect(Buffer.from(signed)).toEqual(await signMessage(privateKeyFromSeed(seedOf(1)), message));
    const { output: checked } = await lab.ask(
      'signer',
      'verify',
      { key: 'key-1' },
      { bytes: [message, signed] },
    );
    expect(checked).toEqual({ valid: true });
  });

  it('knows an off-chain envelope, and refuses one that is malformed', async () => {
    expect((await signTheMessage(offchain('hello'))).output.kind).toBe('offchain');
    expect(await refusal(signTheMessage(offchain('')))).toBe('OFFCHAIN_MESSAGE_INVALID');
    expect(await refusal(signTheMessage(offchain('hello').subarray(0, 20)))).toBe('OFFCHAIN_MESSAGE_INVALID');
    expect(device.asked).toHaveLength(1);
  });

  it('signs no off-chain envelope that does not list the key', async () => {
    expect(await refusal(signTheMessage(offchain('hello'), 'key-2'))).toBe('KEY_NOT_A_SIGNER');
    expect(device.asked).toEqual([]);
  });

  it('refuses whatever reads as a transaction message, and the device never hears of it', async () => {
    for (const parts of [plain, plainV0, plainV1]) {
      expect(await refusal(signTheMessage(messageBytes(parts)))).toBe('MESSAGE_IS_TRANSACTION');
    }
    await fc.assert(
      fc.asyncProperty(compiledMessages, async parts => {
        expect(await refusal(signTheMessage(messageBytes(parts)))).toBe('MESSAGE_IS_TRANSACTION');
      }),
      { numRuns: 100 },
    );
    expect(device.asked).toEqual([]);
  });

  it('refuses an empty message and one that is too long', async () => {
    expect(await refusal(signTheMessage(new Uint8Array()))).toBe('MESSAGE_EMPTY');
    expect(await refusal(lab.ask('signer', 'sign-message', { key: 'key-1' }))).toBe('MESSAGE_EMPTY');
    expect(await refusal(signTheMessage(new Uint8Array(16_001).fill(120)))).toBe('MESSAGE_TOO_LARGE');
    expect(await refusal(signTheMessage(new Uint8Array(16_000).fill(120)))).toBe('none');
  });

  it('stops for a request that is not wanted any more', async () => {
    const signal = AbortSignal.abort();
    const asking = lab.ask('signer', 'sign-message', { key: 'key-1' }, { bytes: [text('late')], signal });
    expect(await refusal(asking)).toBe('REQUEST_ABORTED');
  });

  it('refuses a key that does not exist, and an id that cannot', async () => {
    expect(await refusal(signTheMessage(text('x'), 'nobody'))).toBe('KEY_UNKNOWN');
    for (const id of ['', '../etc', 'A', 'a'.repeat(64), 'a\u0000', '__proto__', 'ключ']) {
      expect(await refusal(signTheMessage(text('x'), id))).toBe('KEY_ID_INVALID');
    }
  });
});

describe('verifying a signature', () => {
  const verify = async (message: Uint8Array, signed: Uint8Array) =>
    (await lab.ask('signer', 'verify', { key: 'key-1' }, { bytes: [message, signed] })).output.valid;

  it('says yes to the signature of these bytes and no to everything else, whatever its length', async () => {
    const message = text('a message');
    const right = await signMessage(privateKeyFromSeed(seedOf(1)), message);
    expect(await verify(message, right)).toBe(true);
    expect(await verify(text('another message'), right)).toBe(false);
    expect(await verify(message, await signMessage(privateKeyFromSeed(seedOf(2)), message))).toBe(false);
    expect((await lab.ask('signer', 'verify', { key: 'key-1' })).output.valid).toBe(false);
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 130 }), async noise => {
        expect(await verify(message, noise)).toBe(false);
        expect(await verify(message, Buffer.concat([right, noise, Uint8Array.of(0)]))).toBe(false);
      }),
    );
  });

  it('needs no open slot', async () => {
    const message = text('a message');
    const right = await signMessage(privateKeyFromSeed(seedOf(1)), message);
    await lab.ask('operator', 'lock-slot', { slot: 'main' });
    expect(await verify(message, right)).toBe(true);
    await lab.ask('operator', 'open-slot', { slot: 'main' });
  });
});

describe('signing a transaction', () => {
  it.each([
    ['legacy', plain],
    ['v0', plainV0],
    ['v1', plainV1],
  ] as const)(
    'puts the signature of the second signer of a %s transaction in its place and changes nothing else',
    async (name, parts) => {
      const wire = wireBytes(parts);
      const { output, bytes } = await signTheTransaction(wire, 'key-2');
      expect(output).toMatchObject({ version: name, publicKey: encodeBase58(publicKey(2)) });
      const [signed = new Uint8Array(), whole = new Uint8Array()] = bytes ?? [];
      expect(await createVerifier(publicKey(2)).verify(messageBytes(parts), signed)).toBe(true);
      const expected = Buffer.from(wire);
      expected.set(signed, parseTransaction(wire).signaturesOffset + 64);
      expect(Buffer.from(whole)).toEqual(expected);
    },
  );

  it('refuses a key that is an account of the transaction and not a signer', async () => {
    expect(await refusal(signTheTransaction(wireBytes(plain), 'key-3'))).toBe('KEY_NOT_A_SIGNER');
  });

  it('refuses what is no transaction', async () => {
    const wire = wireBytes(plain);
    expect(await refusal(signTheTransaction(new Uint8Array()))).toBe('TRANSACTION_TRUNCATED');
    expect(await refusal(signTheTransaction(wire.subarray(0, -1)))).toBe('TRANSACTION_TRUNCATED');
    expect(await refusal(signTheTransaction(Buffer.concat([wire, Uint8Array.of(0)])))).toBe(
      'TRANSACTION_TRAILING_BYTES',
    );
    expect(await refusal(signTheTransaction(new Uint8Array(1_233).fill(1)))).toBe('TRANSACTION_TOO_LARGE');
    expect(device.asked).toEqual([]);
  });

  it('answers random bytes with a code of the caller, never with INTERNAL', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 400 }), async wire => {
        expect(await refusal(signTheTransaction(wire))).toMatch(
          /^(TRANSACTION_|COMPACT_U16_|KEY_NOT_A_SIGNER)/,
        );
      }),
      { numRuns: 300 },
    );
  });
});

describe('signing a batch', () => {
  const signTheBatch = (items: ('message' | 'transaction')[], bytes: Uint8Array[], key = 'key-2') =>
    lab.ask('signer', 'sign-batch', { key, items }, { bytes });

  it('answers in the order of its items, errors among them, and gives out only what was signed', async () => {
    const messages = [text('first'), text('sixth')];
    const { output, bytes = [] } = await signTheBatch(
      ['message', 'message', 'transaction', 'transaction', 'message', 'message'],
      [
        messages[0] as Uint8Array,
        messageBytes(plain),
        wireBytes(plain),
        wireBytes({ ...plain, required: 1, readonlySigned: 0 }),
        new Uint8Array(),
        messages[1] as Uint8Array,
      ],
    );
    expect(output.results).toMatchObject([
      { kind: 'bytes' },
      { code: 'MESSAGE_IS_TRANSACTION' },
      { version: 'legacy' },
      { code: 'KEY_NOT_A_SIGNER' },
      { code: 'MESSAGE_EMPTY' },
      { kind: 'bytes' },
    ]);
    expect(bytes.map(part => part.length)).toEqual([64, 64, wireBytes(plain).length, 64]);
    const verifier = createVerifier(publicKey(2));
    expect(await verifier.verify(messages[0] as Uint8Array, bytes[0] as Uint8Array)).toBe(true);
    expect(await verifier.verify(messageBytes(plain), bytes[1] as Uint8Array)).toBe(true);
    expect(await verifier.verify(messages[1] as Uint8Array, bytes[3] as Uint8Array)).toBe(true);
  });

  it('keeps the order however the device finishes', async () => {
    let left = 100;
    device.onSign = async ({ honest }) => {
      left -= 1;
      for (let turn = left % 7; turn > 0; turn -= 1) await nextTurn();
      return honest();
    };
    const messages = Array.from({ length: 100 }, (_, at) => text(`message ${at}`));
    const { bytes = [] } = await signTheBatch(
      messages.map(() => 'message'),
      messages,
    );
    const verifier = createVerifier(publicKey(2));
    const valid = await Promise.all(messages.map((one, at) => verifier.verify(one, bytes[at] as Uint8Array)));
    expect(valid.every(Boolean)).toBe(true);
    expect(bytes).toHaveLength(100);
  });

  it('takes at most a hundred items, and as many byte strings as items', async () => {
    const many = Array.from({ length: 101 }, () => text('x'));
    expect(
      await refusal(
        signTheBatch(
          many.map(() => 'message'),
          many,
        ),
      ),
    ).toBe('BATCH_TOO_LARGE');
    expect(await refusal(signTheBatch(['message', 'message'], [text('x')]))).toBe('BATCH_TOO_LARGE');
  });

  it('lets a single request finish before a batch of a hundred is through', async () => {
    // A device that does one thing at a time, in the order in which it was asked.
    let line: Promise<unknown> = Promise.resolve();
    device.onSign = ({ honest }) => {
      const mine = line.then(() => nextTurn()).then(honest);
      line = mine.catch(() => undefined);
      return mine;
    };
    const finished: string[] = [];
    const items = Array.from({ length: 100 }, (_, at) => text(`item ${at}`));
    const batch = signTheBatch(
      items.map(() => 'message'),
      items,
    ).then(() => finished.push('batch'));
    await nextTurn();
    const single = signTheMessage(text('single')).then(() => finished.push('single'));
    await Promise.all([batch, single]);
    expect(finished).toEqual(['single', 'batch']);
  });
});

describe('a faulty device', () => {
  const bitFlipped: Fault = async ({ honest }) => {
    const bytes = Buffer.from(await honest());
    bytes[11] = (bytes[11] ?? 0) ^ 0x10;
    return signature(bytes);
  };
  const otherKey: Fault = async ({ message }) =>
    signature(await signMessage(privateKeyFromSeed(seedOf(9)), message));
  const otherMessage: Fault = async () =>
    signature(await signMessage(privateKeyFromSeed(seedOf(2)), text('something else')));
  const zeros: Fault = async () => signature(new Uint8Array(64));
  const faults = { bitFlipped, otherKey, otherMessage, zeros };

  it.each(Object.entries(faults))(
    'whose signatures are wrong (%s) has them withheld',
    async (_name, fault) => {
      const given: Signature[] = [];
      device.onSign = async request => {
        const wrong = await fault(request);
        given.push(wrong);
        return wrong;
      };
      for (const attempt of [
        () => signTheMessage(text('x'), 'key-2'),
        () => signTheTransaction(wireBytes(plain), 'key-2'),
      ]) {
        const error = await attempt().then(
          () => undefined,
          thrown => thrown,
        );
        expect(isKeyslotError(error) && error.code).toBe('SIGNATURE_WITHHELD');
        for (const wrong of given) expect(String(error.stack)).not.toContain(encodeBase58(wrong));
      }
      expect(given).toHaveLength(2);
    },
  );

  it('loses only the items of a batch that it got wrong', async () => {
    device.onSign = request => (request.message[0] === 0x77 ? bitFlipped(request) : request.honest());
    const bytes = [text('right'), text('wrong'), text('right too')];
    const reply = await lab.ask(
      'signer',
      'sign-batch',
      { key: 'key-2', items: ['message', 'message', 'message'] },
      { bytes },
    );
    expect(reply.output.results).toMatchObject([
      { kind: 'bytes' },
      { code: 'SIGNATURE_WITHHELD' },
      { kind: 'bytes' },
    ]);
    expect(reply.bytes).toHaveLength(2);
    const verifier = createVerifier(publicKey(2));
    for (const [at, message] of [text('right'), text('right too')].entries()) {
      expect(await verifier.verify(message, reply.bytes?.[at] as Uint8Array)).toBe(true);
    }
  });

  it('that answers with something unheard of ends in INTERNAL, without its text', async () => {
    device.onSign = async () => {
      throw new TypeError('vendor secret 4711');
    };
    const error = await signTheMessage(text('x')).then(
      () => undefined,
      thrown => thrown,
    );
    expect(isKeyslotError(error) && error.code).toBe('INTERNAL');
    expect(error.message).not.toContain('4711');
  });
});

describe('a device that goes away', () => {
  it('takes its slot out of service until an operator opens it again', async () => {
    await using own = await Device.make();
    await using lab = await Lab.open({ slot: own.slot });
    const sign = () => lab.ask('signer', 'sign-message', { key: 'wallet' }, { bytes: [text('x')] });
    await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
    own.onSign = async () => {
      throw new KeyslotError('TOKEN_UNAVAILABLE', 'The device is gone.');
    };
    expect(await refusal(sign())).toBe('TOKEN_UNAVAILABLE');
    own.onSign = ({ honest }) => honest();
    expect(await lab.state()).toBe('failed');
    expect(await refusal(sign())).toBe('SLOT_FAILED');
    const { output } = await lab.ask('operator', 'show-slot', { slot: 'main' });
    expect(output.reason?.code).toBe('TOKEN_UNAVAILABLE');
    expect((await lab.ask('nobody', 'health', {})).output).toMatchObject({ ready: false });
    await lab.ask('operator', 'open-slot', { slot: 'main' });
    expect(await refusal(sign())).toBe('none');
    expect((await lab.ask('nobody', 'health', {})).output).toMatchObject({ ready: true });
  });

  it('is noticed in a batch as well', async () => {
    await using own = await Device.make();
    await using lab = await Lab.open({ slot: own.slot });
    await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
    own.onSign = async () => {
      throw new KeyslotError('TOKEN_UNAVAILABLE', 'The device is gone.');
    };
    const { output, bytes } = await lab.ask(
      'signer',
      'sign-batch',
      { key: 'wallet', items: ['message', 'message'] },
      { bytes: [text('a'), text('b')] },
    );
    expect(output.results).toMatchObject([{ code: 'TOKEN_UNAVAILABLE' }, { code: 'TOKEN_UNAVAILABLE' }]);
    expect(bytes).toEqual([]);
    expect(await lab.state()).toBe('failed');
  });

  it('is noticed when it is first asked for a key', async () => {
    await using own = await Device.make();
    await using lab = await Lab.open({ slot: own.slot });
    await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
    own.onSigner = async () => {
      throw new KeyslotError('TOKEN_UNAVAILABLE', 'The device is gone.');
    };
    const asking = lab.ask('signer', 'sign-message', { key: 'wallet' }, { bytes: [text('x')] });
    expect(await refusal(asking)).toBe('TOKEN_UNAVAILABLE');
    expect(await lab.state()).toBe('failed');
  });

  it('does not fail the slot when only a single request was refused', async () => {
    device.onSign = async () => {
      throw new KeyslotError('TOKEN_ERROR', 'CKR_FUNCTION_FAILED');
    };
    expect(await refusal(signTheMessage(text('x')))).toBe('TOKEN_ERROR');
    expect(await lab.state()).toBe('open');
  });
});

describe('locking while signatures are made', () => {
  it('lets them finish, and refuses new ones at once', async () => {
    await using own = await Device.make();
    await using lab = await Lab.open({ slot: own.slot });
    await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
    const sign = () => lab.ask('signer', 'sign-message', { key: 'wallet' }, { bytes: [text('x')] });
    const gate = new Gate();
    own.onSign = async ({ honest }) => {
      const signed = await honest();
      await gate.pass();
      return signed;
    };
    const running = sign();
    await gate.reached;
    const locking = lab.ask('operator', 'lock-slot', { slot: 'main' });
    while ((await lab.state()) !== 'locked') await nextTurn(); // it locks once that is written down
    expect(await refusal(sign())).toBe('SLOT_LOCKED');
    gate.open();
    expect((await running).bytes).toHaveLength(1);
    expect((await locking).output.state).toBe('locked');
  });

  it('refuses those that came in and were not handed to the device yet', async () => {
    await using own = await Device.make();
    await using lab = await Lab.open({ slot: own.slot });
    await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
    const gate = new Gate();
    own.onSigner = async honest => {
      await gate.pass();
      return honest;
    };
    const deciding = lab.ask('signer', 'sign-message', { key: 'wallet' }, { bytes: [text('x')] });
    await gate.reached;
    await lab.ask('operator', 'lock-slot', { slot: 'main' });
    gate.open();
    expect(await refusal(deciding)).toBe('SLOT_LOCKED');
    const { lines } = (await lab.ask('auditor', 'read-audit', { from: 0, limit: 100 })).output;
    expect(JSON.parse(lines.at(-1) ?? '')).toMatchObject({
      type: 'result',
      operation: 'sign-message',
      outcome: 'failed',
      code: 'SLOT_LOCKED',
    });
  });
});

type Fault = (request: SignRequest) => Promise<Signature>;

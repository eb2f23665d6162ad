import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  createVerifier,
  privateKeyFromSeed,
  publicKeyFromSeed,
  signMessage,
} from '../../src/foundation/ed25519.ts';
import rfc8032 from '../vectors/rfc8032.json' with { type: 'json' };

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const bytesOf = (text: string) => Buffer.from(text, 'hex');
const flipped = (bytes: Uint8Array, bit: number) => {
  const copy = Uint8Array.from(bytes);
  copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7));
  return copy;
};

/** A key with one signature, and what checks it. */
async function example(message: Uint8Array = randomBytes(60)) {
  const seed = randomBytes(32);
  const signature = await signMessage(privateKeyFromSeed(seed), message);
  const publicKey = publicKeyFromSeed(seed);
  return { message, publicKey, signature, verifier: createVerifier(publicKey) };
}

describe('Ed25519', () => {
  it.each(rfc8032.vectors)('agrees with RFC 8032 §7.1 $name', async vector => {
    const seed = bytesOf(vector.seed);
    const message = bytesOf(vector.message);
    expect(hex(publicKeyFromSeed(seed))).toBe(vector.publicKey);
    expect(hex(await signMessage(privateKeyFromSeed(seed), message))).toBe(vector.signature);
    const verifier = createVerifier(bytesOf(vector.publicKey));
    expect(await verifier.verify(message, bytesOf(vector.signature))).toBe(true);
  });

  it('has the vector of RFC 8032 whose message has 1,023 bytes', () => {
    expect(rfc8032.vectors.map(vector => vector.message.length / 2)).toEqual([0, 1, 2, 1_023, 64]);
  });

  it('verifies what it signed, and no other message', async () => {
    const message = fc.uint8Array({ maxLength: 500 });
    await fc.assert(
      fc.asyncProperty(message, message, async (signed, other) => {
        const { signature, verifier } = await example(signed);
        expect(await verifier.verify(signed, signature)).toBe(true);
        expect(await verifier.verify(other, signature)).toBe(Buffer.compare(signed, other) === 0);
      }),
    );
  });

  it.each([0, 31, 33, 64])('takes no seed and no public key of %i bytes', length => {
    expect(() => privateKeyFromSeed(new Uint8Array(length))).toThrow(RangeError);
    expect(() => publicKeyFromSeed(new Uint8Array(length))).toThrow(RangeError);
    expect(() => createVerifier(new Uint8Array(length))).toThrow(RangeError);
  });

  it('leaves the seed as it was', () => {
    const seed = randomBytes(32);
    const kept = hex(seed);
    privateKeyFromSeed(seed);
    publicKeyFromSeed(seed);
    expect(hex(seed)).toBe(kept);
  });

  it('signs what the message held when the call was made', async () => {
    const seed = randomBytes(32);
    const key = privateKeyFromSeed(seed);
    const verifier = createVerifier(publicKeyFromSeed(seed));
    const original = randomBytes(1_000);
    const signing = Array.from({ length: 50 }, () => {
      const lent = Buffer.from(original);
      const signed = signMessage(key, lent);
      lent.fill(0);
      return signed;
    });
    for (const signature of await Promise.all(signing)) {
      expect(await verifier.verify(original, signature)).toBe(true);
    }
  });
});

describe('the verifier', () => {
  it('refuses a signature with any one bit flipped', async () => {
    const { message, signature, verifier } = await example();
    const answers = Array.from({ length: 512 }, (_, bit) =>
      verifier.verify(message, flipped(signature, bit)),
    );
    expect((await Promise.all(answers)).filter(valid => valid)).toEqual([]);
  });

  it('refuses a message with any one bit flipped', async () => {
    const { message, signature, verifier } = await example();
    const answers = Array.from({ length: message.length * 8 }, (_, bit) =>
      verifier.verify(flipped(message, bit), signature),
    );
    expect((await Promise.all(answers)).filter(valid => valid)).toEqual([]);
  });

  it('refuses under a public key with any one bit flipped', async () => {
    const { message, publicKey, signature } = await example();
    const answers = Array.from({ length: 256 }, (_, bit) =>
      createVerifier(flipped(publicKey, bit)).verify(message, signature),
    );
    expect((await Promise.all(answers)).filter(valid => valid)).toEqual([]);
  });

  it.each([0, 1, 32, 63, 65, 128])('answers false for a signature of %i bytes', async length => {
    const { message, signature, verifier } = await example();
    const wrong = new Uint8Array(length);
    wrong.set(signature.subarray(0, Math.min(length, 64)));
    expect(await verifier.verify(message, wrong)).toBe(false);
  });

  // RFC 8032 §5.1.7: S must be below the order of the group, or one signature would have many spellings.
  it('refuses the signature with the order of the group added to S', async () => {
    const order = 2n ** 252n + 27742317777372353535851937790883648493n;
    const { message, signature, verifier } = await example();
    const s = BigInt(`0x${hex(signature.slice(32).reverse())}`);
    const second = bytesOf((s + order).toString(16).padStart(64, '0')).reverse();
    const respelt = Buffer.concat([signature.subarray(0, 32), second]);
    expect(respelt).toHaveLength(64);
    expect(await verifier.verify(message, respelt)).toBe(false);
  });

  it('answers false under 32 bytes that are no point of the curve', async () => {
    const { message, signature } = await example();
    for (const publicKey of [new Uint8Array(32).fill(0xff), Uint8Array.of(2, ...new Uint8Array(31))]) {
      expect(await createVerifier(publicKey).verify(message, signature)).toBe(false);
    }
  });
});

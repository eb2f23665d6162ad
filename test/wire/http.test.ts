import { Keypair } from '@solana/web3.js';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { base64Field, bodies, parseBody, seedOf, signatureField } from '../../src/wire/http.ts';

/** The code and the text of a refusal. */
function refusal(work: () => unknown): { code: string; message: string } {
  try {
    work();
  } catch (thrown) {
    if (isKeyslotError(thrown)) return thrown;
    throw thrown;
  }
  return { code: 'none', message: '' };
}

const code = (work: () => unknown): string => refusal(work).code;

describe('a body', () => {
  it('is taken as it is when it has its shape', () => {
    expect(parseBody(bodies.signMessage, { message: 'AA==' })).toEqual({ message: 'AA==' });
    expect(parseBody(bodies.openSlot, {})).toEqual({});
    const items = [{ message: 'AA==' }, { transaction: 'AA==' }];
    expect(parseBody(bodies.signBatch, { items })).toEqual({ items });
  });

  it.each<[unknown]>([[null], [undefined], [1], ['text'], [[]], [{}], [{ message: 1 }], [{ message: null }]])(
    'of another shape is BODY_INVALID: %j',
    body => {
      expect(code(() => parseBody(bodies.signMessage, body))).toBe('BODY_INVALID');
    },
  );

  it('with an unknown field is FIELD_UNKNOWN, and the text names the field', () => {
    const extra = refusal(() => parseBody(bodies.signMessage, { message: 'AA==', massage: 1 }));
    expect(extra.code).toBe('FIELD_UNKNOWN');
    expect(extra.message).toContain('massage');
    expect(code(() => parseBody(bodies.nothing, { pin: '1' }))).toBe('FIELD_UNKNOWN');
  });

  it('with an unknown field in an item of a batch says so, and where', () => {
    for (const item of [
      { message: 'AA==', extra: 1 },
      { transaction: 'AA==', extra: 1 },
      { message: 'AA==', transaction: 'AA==' },
    ]) {
      const found = refusal(() => parseBody(bodies.signBatch, { items: [{ message: 'AA==' }, item] }));
      expect(found.code).toBe('FIELD_UNKNOWN');
      expect(found.message).toContain('items.1');
    }
  });

  it('with an item of no known kind is refused', () => {
    expect(code(() => parseBody(bodies.signBatch, { items: [{}] }))).toBe('BODY_INVALID');
    expect(code(() => parseBody(bodies.signBatch, { items: [1] }))).toBe('BODY_INVALID');
    expect(code(() => parseBody(bodies.signBatch, { items: {} }))).toBe('BODY_INVALID');
  });

  it('cannot pass a field in by its prototype', () => {
    const body = JSON.parse('{"message":"AA==","__proto__":{"admin":true}}');
    expect(code(() => parseBody(bodies.signMessage, body))).toBe('FIELD_UNKNOWN');
    expect(code(() => parseBody(bodies.signMessage, Object.create({ message: 'AA==' })))).not.toBe(
      'INTERNAL',
    );
    expect(Reflect.get({}, 'admin')).toBeUndefined();
  });

  it('is answered with one of two codes, whatever JSON it is', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.constantFrom(...Object.values(bodies)), (body, schema) => {
        expect(['none', 'BODY_INVALID', 'FIELD_UNKNOWN']).toContain(code(() => parseBody(schema, body)));
      }),
      { numRuns: 500 },
    );
  });

  it('is refused without repeating the value of its PIN', () => {
    fc.assert(
      fc.property(fc.string({ minLength: 256, maxLength: 300 }), pin => {
        for (const schema of [bodies.openSession, bodies.openSlot]) {
          const { code: found, message } = refusal(() => parseBody(schema, { pin }));
          expect(found).toBe('BODY_INVALID');
          expect(message).not.toContain(pin.slice(0, 20).trim() || '\0');
        }
      }),
      { numRuns: 50 },
    );
  });

  it('repeats a foreign field name only shortened', () => {
    const name = 'x'.repeat(10_000);
    expect(refusal(() => parseBody(bodies.nothing, { [name]: 1 })).message.length).toBeLessThan(200);
  });
});

describe('a base64 field', () => {
  it('gives its bytes back', () => {
    fc.assert(
      fc.property(fc.uint8Array(), bytes => {
        expect(base64Field('message', Buffer.from(bytes).toString('base64'))).toEqual(Buffer.from(bytes));
      }),
    );
  });

  it.each(['A', 'AA', 'AAA', 'AA=', 'AA==\n', ' AA==', 'AB==', '-_==', 'AA==AA==', '====', 'é==='])(
    'refuses %j, and names the field',
    text => {
      const found = refusal(() => base64Field('items.3.message', text));
      expect(found.code).toBe('BASE64_INVALID');
      expect(found.message).toContain('items.3.message');
    },
  );
});

describe('a signature field', () => {
  const signature = fc.uint8Array({ minLength: 64, maxLength: 64 });

  it('takes 64 bytes in base58 and in base64', () => {
    fc.assert(
      fc.property(signature, bytes => {
        expect(Buffer.from(signatureField(encodeBase58(bytes)))).toEqual(Buffer.from(bytes));
        expect(Buffer.from(signatureField(Buffer.from(bytes).toString('base64')))).toEqual(
          Buffer.from(bytes),
        );
      }),
    );
    for (const byte of [0, 255]) {
      const bytes = new Uint8Array(64).fill(byte);
      expect(Buffer.from(signatureField(encodeBase58(bytes)))).toEqual(Buffer.from(bytes));
    }
  });

  it('refuses every other length and every other text', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 130 }), bytes => {
        fc.pre(bytes.length !== 64);
        expect(code(() => signatureField(encodeBase58(bytes)))).toBe('SIGNATURE_ENCODING_INVALID');
        const base64 = Buffer.from(bytes).toString('base64');
        expect(code(() => signatureField(base64))).toBe('SIGNATURE_ENCODING_INVALID');
      }),
    );
    fc.assert(
      fc.property(fc.string(), text => {
        expect(code(() => signatureField(text))).toBe('SIGNATURE_ENCODING_INVALID');
      }),
    );
    expect(code(() => signatureField('1'.repeat(100_000)))).toBe('SIGNATURE_ENCODING_INVALID');
  });
});

describe('the material of an import', () => {
  const seeds = fc.uint8Array({ minLength: 32, maxLength: 32 });
  const secretKeyOf = (seed: Uint8Array): Uint8Array => Keypair.fromSeed(seed).secretKey;
  const body = (fields: object) => parseBody(bodies.importKey, { slot: 'main', ...fields });
  const seedIn = (fields: object): string => {
    using seed = seedOf(body(fields));
    return seed.use(bytes => Buffer.from(bytes).toString('hex'));
  };
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

  it('may be a seed in base64, or a Solana secret key as numbers or in base58', () => {
    fc.assert(
      fc.property(seeds, seed => {
        const secretKey = secretKeyOf(seed);
        expect(seedIn({ seed: Buffer.from(seed).toString('base64') })).toBe(hex(seed));
        expect(seedIn({ secretKey: [...secretKey] })).toBe(hex(seed));
        expect(seedIn({ secretKey: encodeBase58(secretKey) })).toBe(hex(seed));
      }),
    );
  });

  it('is asked for exactly once', () => {
    const seed = new Uint8Array(32).fill(1);
    const both = { seed: Buffer.from(seed).toString('base64'), secretKey: [...secretKeyOf(seed)] };
    expect(code(() => seedOf(body({})))).toBe('BODY_INVALID');
    expect(code(() => seedOf(body(both)))).toBe('BODY_INVALID');
  });

  it('is refused when its public half belongs to another seed', () => {
    fc.assert(
      fc.property(
        seeds,
        fc.integer({ min: 32, max: 63 }),
        fc.integer({ min: 1, max: 255 }),
        (seed, at, flip) => {
          const secretKey = secretKeyOf(seed);
          secretKey[at] = (secretKey[at] ?? 0) ^ flip;
          expect(code(() => seedOf(body({ secretKey: [...secretKey] })))).toBe('KEY_MATERIAL_INVALID');
          expect(code(() => seedOf(body({ secretKey: encodeBase58(secretKey) })))).toBe(
            'KEY_MATERIAL_INVALID',
          );
        },
      ),
    );
  });

  it('is refused when it has another length or is no text of bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 130 }), bytes => {
        fc.pre(bytes.length !== 32 && bytes.length !== 64);
        const base64 = Buffer.from(bytes).toString('base64');
        expect(code(() => seedOf(body({ seed: base64 })))).toBe('KEY_MATERIAL_INVALID');
        expect(code(() => seedOf(body({ secretKey: [...bytes] })))).toBe('KEY_MATERIAL_INVALID');
        expect(code(() => seedOf(body({ secretKey: encodeBase58(bytes) })))).toBe('KEY_MATERIAL_INVALID');
      }),
    );
    expect(code(() => seedOf(body({ seed: '' })))).toBe('KEY_MATERIAL_INVALID');
    expect(code(() => seedOf(body({ secretKey: '' })))).toBe('KEY_MATERIAL_INVALID');
    expect(code(() => body({ secretKey: [256] }))).toBe('BODY_INVALID');
    expect(code(() => body({ secretKey: [1.5] }))).toBe('BODY_INVALID');
    expect(code(() => body({ secretKey: { 0: 1 } }))).toBe('BODY_INVALID');
  });

  it('is never repeated in a refusal, whatever is wrong with it', () => {
    const damages: ((seed: Uint8Array) => object)[] = [
      seed => ({ seed: hex(seed) }),
      seed => ({ seed: `${Buffer.from(seed).toString('base64')}\n` }),
      seed => ({ seed: encodeBase58(seed) }),
      seed => ({ seed: Buffer.from(seed).toString('base64'), secretKey: encodeBase58(seed) }),
      seed => ({ secretKey: hex(seed) }),
      seed => ({ secretKey: `${encodeBase58(secretKeyOf(seed))}0` }),
      seed => ({ secretKey: [...seed] }),
      seed => ({ secretKey: [...secretKeyOf(seed), 1000] }),
      seed => ({ secretKey: [...seed, ...seed] }),
      seed => ({ seed: { value: hex(seed) } }),
      seed => ({ seed: [hex(seed)] }),
    ];
    fc.assert(
      fc.property(seeds, fc.constantFrom(...damages), (seed, damage) => {
        const fields = damage(seed);
        const thrown = refusal(() => seedOf(body(fields)));
        expect(['BODY_INVALID', 'KEY_MATERIAL_INVALID']).toContain(thrown.code);
        const told = `${thrown.message} ${thrown instanceof Error ? thrown.stack : ''}`;
        for (const form of [
          hex(seed).slice(0, 16),
          Buffer.from(seed).toString('base64').slice(0, 12),
          encodeBase58(seed).slice(0, 12),
          [...seed.slice(0, 6)].join(','),
        ]) {
          expect(told).not.toContain(form);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('comes as a Secret, which shows nothing of it', () => {
    using seed = seedOf(body({ seed: Buffer.alloc(32, 7).toString('base64') }));
    expect(seed).toBeInstanceOf(Secret);
    expect(`${seed} ${JSON.stringify(seed)}`).toBe('[secret] "[secret]"');
  });
});

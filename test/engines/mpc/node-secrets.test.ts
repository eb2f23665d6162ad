import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  joinNodeSecrets,
  type NodeSecrets,
  splitNodeSecrets,
} from '../../../src/engines/mpc/node-secrets.ts';
import { Secret } from '../../../src/foundation/secret.ts';
import { hex, refusal } from '../../sealing/folder-lab.ts';

type Words = readonly (Uint8Array | undefined)[];

const split = (pin: string | Uint8Array): (string | undefined)[] => {
  using secret = Secret.fromBytes(Buffer.from(pin));
  return splitNodeSecrets(secret).map(each => each?.use(hex));
};

const secretsOf = ([first, second, third]: Words): NodeSecrets => {
  const secret = (bytes: Uint8Array | undefined) => bytes && Secret.fromBytes(bytes);
  return [secret(first), secret(second), secret(third)];
};

const asHex = (words: Words) => words.map(each => each && hex(each));
const text = (words: string | undefined) => (words === undefined ? undefined : hex(Buffer.from(words)));
const codeOf = (pin: string) => refusal((async () => split(pin))());

const withoutZero = fc.uint8Array({ minLength: 1, maxLength: 40 }).filter(bytes => !bytes.includes(0));
const nodes = fc
  .tuple(withoutZero, withoutZero, withoutZero, fc.constantFrom(undefined, 0, 1, 2))
  .map(([first, second, third, missing]) =>
    [first, second, third].map((bytes, at) => (at === missing ? undefined : bytes)),
  );

describe('node secrets as one PIN', () => {
  it('come apart as they were put together, whatever bytes but NUL they are of', () => {
    fc.assert(
      fc.property(nodes, words => {
        using joined = joinNodeSecrets(secretsOf(words));
        expect(joined.use(bytes => split(bytes))).toEqual(asHex(words));
      }),
    );
  });

  it('stay the caller’s when they are put together and when they come apart', () => {
    const secrets = secretsOf([Buffer.from('one'), Buffer.from('two'), Buffer.from('three')]);
    using joined = joinNodeSecrets(secrets);
    expect(secrets.map(secret => secret?.useText(each => each))).toEqual(['one', 'two', 'three']);
    const parts = splitNodeSecrets(joined);
    joined[Symbol.dispose]();
    expect(parts.map(secret => secret?.useText(each => each))).toEqual(['one', 'two', 'three']);
  });

  it.each([
    ['one,two,three', ['one', 'two', 'three']],
    ['one,,three', ['one', undefined, 'three']],
    [',two,three', [undefined, 'two', 'three']],
    ['one,two,', ['one', 'two', undefined]],
    ['one,two', ['one', 'two', undefined]],
    [' one , two words ,three ', ['one', 'two words', 'three']],
    ['one,  ,three', ['one', undefined, 'three']],
    ['one\0,\0three', ['one', ',', 'three']],
    [' one \0two\0', [' one ', 'two', undefined]],
    ['a,b\0c,d\0e,f', ['a,b', 'c,d', 'e,f']],
  ])('read %j', (pin, words) => {
    expect(split(pin)).toEqual(words.map(text));
  });

  it.each([
    '',
    ',',
    ',,',
    'one',
    'one,,',
    ',two,',
    ' , , ',
    'one,two,three,four',
    'one,two,three,',
    '\0\0',
    'one\0\0',
  ])('are refused as %j: fewer than two or more than three', async pin => {
    expect(await codeOf(pin)).toBe('SLOT_PIN_REQUIRED');
  });

  it('come apart or are refused, whatever the PIN', async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ maxLength: 60 }), async pin => {
        expect(['none', 'SLOT_PIN_REQUIRED']).toContain(await codeOf(pin));
      }),
    );
  });
});

import { scryptSync } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { Secret } from '../../src/foundation/secret.ts';
import { type ScryptCost, scryptKey } from '../../src/sealing/kdf.ts';
import { hex, refusal } from './folder-lab.ts';

const quick: ScryptCost = { N: 2 ** 4, r: 8, p: 1 };
const slow: ScryptCost = { N: 2 ** 15, r: 8, p: 1 };
const salt = Buffer.from('salt');

async function keyOf(words: string, cost = quick, signal?: AbortSignal): Promise<string> {
  using secret = Secret.fromText(words);
  using key = await scryptKey(secret, salt, cost, signal);
  return key.use(hex);
}

/** Takes both places, so that everything after it waits; the places end when `ended` does. */
function bothPlaces() {
  const held = [keyOf('one', slow), keyOf('two', slow)];
  return { ended: Promise.all(held) };
}

describe('a key derivation', () => {
  it('is scrypt, as RFC 7914 §12 has it', async () => {
    using secret = Secret.fromText('password');
    using key = await scryptKey(secret, Buffer.from('NaCl'), { N: 1_024, r: 8, p: 16 });
    const expected = 'fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162';
    expect(key.use(hex)).toBe(expected);
  });

  it('needs its secret no longer once it was called', async () => {
    const secret = Secret.fromText('wiped');
    const { ended } = bothPlaces();
    const waiting = scryptKey(secret, salt, quick);
    secret[Symbol.dispose]();
    using key = await waiting;
    expect(key.use(hex)).toBe(hex(scryptSync('wiped', salt, 32, quick)));
    await ended;
  });

  it('runs beside one other at most: of nine, the same two places are handed on', async () => {
    // What runs is what an abort can no longer stop.
    const controllers = Array.from({ length: 9 }, () => new AbortController());
    const codes = controllers.map(({ signal }, at) => refusal(keyOf(`word ${at}`, slow, signal)));
    for (const controller of controllers) controller.abort();
    expect(await Promise.all(codes)).toEqual(['none', 'none', ...Array(7).fill('REQUEST_ABORTED')]);
  });

  it('lets the next two in when two have ended, and gives the places back at the end', async () => {
    const probe = async () => {
      const controllers = Array.from({ length: 4 }, () => new AbortController());
      const codes = controllers.map(({ signal }) => refusal(keyOf('probe', slow, signal)));
      for (const controller of controllers) controller.abort();
      return (await Promise.all(codes)).filter(code => code === 'none').length;
    };
    expect(await probe()).toBe(2);
    await Promise.all(Array.from({ length: 6 }, () => keyOf('between')));
    expect(await probe()).toBe(2);
  });

  it('waits in order', async () => {
    const long = keyOf('keeps one place', { N: 2 ** 18, r: 8, p: 1 }); // so that one is handed on
    const numbers = Array.from({ length: 10 }, (_, number) => number);
    const order: number[] = [];
    await Promise.all(numbers.map(async number => order.push(await keyOf(`${number}`).then(() => number))));
    expect(order).toEqual(numbers);
    await long;
  });

  it('leaves the queue when it is aborted, and the others keep their order', async () => {
    const { ended } = bothPlaces();
    const controller = new AbortController();
    const [left, stays] = [refusal(keyOf('leaves', quick, controller.signal)), keyOf('stays')];
    controller.abort();
    expect(await left).toBe('REQUEST_ABORTED');
    expect(await stays).toBe(hex(scryptSync('stays', salt, 32, quick)));
    await ended;
  });

  it('does not begin for a caller who has left already', async () => {
    expect(await refusal(keyOf('left', quick, AbortSignal.abort()))).toBe('REQUEST_ABORTED');
    expect(await keyOf('next')).toBe(hex(scryptSync('next', salt, 32, quick)));
  });

  it('is refused when a thousand wait, and all who wait are served', async () => {
    const { ended } = bothPlaces();
    const waiting = Array.from({ length: 1_024 }, () => refusal(keyOf('waits')));
    expect(await refusal(keyOf('one too many'))).toBe('SLOT_BUSY');
    expect(new Set(await Promise.all(waiting))).toEqual(new Set(['none']));
    expect(await refusal(keyOf('later'))).toBe('none');
    await ended;
  });

  it('gives its place on when it fails', async () => {
    const impossible = { N: 3, r: 8, p: 1 }; // no power of two
    for (let round = 0; round < 3; round += 1) {
      await expect(keyOf('fails', impossible)).rejects.toThrow();
    }
    expect(await refusal(keyOf('works'))).toBe('none');
  });

  it('leaves the event loop free', async () => {
    let turns = 0;
    let deriving = true;
    const derived = Promise.all([keyOf('one', slow), keyOf('two', slow)]).finally(() => (deriving = false));
    while (deriving) {
      turns += 1;
      await nextTurn();
    }
    await derived;
    expect(turns).toBeGreaterThan(10); // on the spot there would be one
  });
});

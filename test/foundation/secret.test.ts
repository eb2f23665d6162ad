import { Console } from 'node:console';
import { randomBytes } from 'node:crypto';
import { PassThrough } from 'node:stream';
import { format, inspect } from 'node:util';
import { serialize } from 'node:v8';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Secret } from '../../src/foundation/secret.ts';

const text = 'tr0ub4dor&3';
// As it would show in text, in hex, in base64, or as the numbers of a printed buffer.
const traces = [
  text,
  Buffer.from(text).toString('hex'),
  Buffer.from(text).toString('base64'),
  [...Buffer.from(text)].map(byte => byte.toString(16)).join(' '),
  [...Buffer.from(text)].join(', '),
  [...Buffer.from(text)].join(','),
];

/** What console.log, console.dir and console.table would print. */
function printed(print: (to: Console) => void): string {
  const stream = new PassThrough();
  print(new Console(stream, stream));
  return String(stream.read());
}

const deep = (secret: Secret) => ({ a: { b: [{ c: new Map([['pin', secret]]) }] } });
const everything = { showHidden: true, depth: Number.POSITIVE_INFINITY, getters: true } as const;

describe('a secret that is turned into text', () => {
  const ways: [string, (secret: Secret) => string][] = [
    ['in a template', secret => `${secret}`],
    ['by String()', secret => String(secret)],
    ['by concatenation', secret => `${['pin: ', secret].join('')}`],
    ['by toString()', secret => secret.toString()],
    ['as JSON', secret => JSON.stringify(secret)],
    ['as JSON inside an object', secret => JSON.stringify({ settings: { pin: secret } })],
    ['by inspect', secret => inspect(secret)],
    ['by inspect with everything shown', secret => inspect(secret, everything)],
    ['by inspect deep inside', secret => inspect(deep(secret), everything)],
    ['by format with %s', secret => format('%s', secret)],
    ['by format with %o', secret => format('%o', secret)],
    ['by format with %O', secret => format('%O', secret)],
    ['by format with %j', secret => format('%j', secret)],
    ['by console.log', secret => printed(to => to.log('pin', secret))],
    ['by console.log inside an object', secret => printed(to => to.log({ pin: secret }))],
    ['in a message of an error', secret => inspect(new Error(`refused ${secret}`))],
    ['as the cause of an error', secret => inspect(new Error('refused', { cause: secret }), everything)],
    [
      'as a property of a nested cause',
      secret => inspect(new Error('a', { cause: new Error('b', { cause: { pin: secret } }) }), everything),
    ],
    [
      'inside an aggregate error',
      secret => inspect(new AggregateError([Object.assign(new Error('a'), { secret })]), everything),
    ],
  ];

  it.each(ways)('says [secret] and nothing else of itself %s', (_, print) => {
    using secret = Secret.fromText(text);
    const shown = print(secret);
    expect(shown).toContain('[secret]');
    for (const trace of traces) expect(shown).not.toContain(trace);
  });

  const silent: [string, (secret: Secret) => string][] = [
    [
      'to inspect without custom inspection',
      secret => inspect(secret, { ...everything, customInspect: false }),
    ],
    // console.dir switches custom inspection off, whatever it is asked.
    ['to console.dir', secret => printed(to => to.dir({ pin: secret }, everything))],
    ['to console.table', secret => printed(to => to.table([{ pin: secret }]))],
    ['to a structured clone', secret => inspect(structuredClone(secret), everything)],
    ['to serialisation', secret => serialize(secret).toString('latin1')],
    ['to a spread', secret => inspect({ ...secret }, everything)],
    ['to its own property names', secret => inspect(Reflect.ownKeys(secret))],
    ['to a number', secret => String(Number(secret))],
  ];

  it.each(silent)('shows nothing %s', (_, print) => {
    using secret = Secret.fromText(text);
    const shown = print(secret);
    for (const trace of traces) expect(shown).not.toContain(trace);
  });

  it('still says [secret] when it was disposed', () => {
    const secret = Secret.fromText(text);
    secret[Symbol.dispose]();
    expect([`${secret}`, JSON.stringify(secret), inspect(secret)]).toEqual([
      '[secret]',
      '"[secret]"',
      '[secret]',
    ]);
  });
});

describe('the bytes of a secret', () => {
  it('are the ones it was made from, and are lent as bytes and as text', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), bytes => {
        using secret = Secret.fromBytes(bytes);
        expect(secret.length).toBe(bytes.length);
        expect(secret.use(lent => Uint8Array.from(lent))).toEqual(bytes);
      }),
    );
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), word => {
        using secret = Secret.fromText(word);
        expect(secret.useText(lent => lent)).toBe(word);
        expect(secret.length).toBe(Buffer.byteLength(word));
      }),
    );
  });

  it('are a copy: overwriting the source changes nothing', () => {
    const source = randomBytes(32);
    const kept = Uint8Array.from(source);
    using secret = Secret.fromBytes(source);
    source.fill(0);
    expect(secret.use(lent => Uint8Array.from(lent))).toEqual(kept);
  });

  it('lie outside the pool that other buffers share', () => {
    using secret = Secret.fromText(text);
    expect(secret.use(lent => lent.buffer.byteLength)).toBe(Buffer.byteLength(text));
  });

  it('leave the source as it was, unless wiping is asked for', () => {
    const left = Uint8Array.of(1, 2, 3);
    using _left = Secret.fromBytes(left);
    expect(left).toEqual(Uint8Array.of(1, 2, 3));
    const around = Uint8Array.of(9, 1, 2, 3, 9);
    using wiped = Secret.fromBytes(around.subarray(1, 4), { wipe: true });
    expect(around).toEqual(Uint8Array.of(9, 0, 0, 0, 9));
    expect(wiped.use(lent => [...lent])).toEqual([1, 2, 3]);
  });

  it('are zero-filled when it is disposed', () => {
    const secret = Secret.fromText(text);
    const seen = secret.use(lent => lent); // what the callback must not do, to look at the memory afterwards
    secret[Symbol.dispose]();
    expect([...seen]).toEqual(Array(text.length).fill(0));
  });

  it('are zero-filled at the end of a using block, also when it throws', () => {
    let seen = new Uint8Array();
    expect(() => {
      using secret = Secret.fromText(text);
      seen = secret.use(lent => lent) as Uint8Array<ArrayBuffer>;
      throw new Error('on the way');
    }).toThrow('on the way');
    expect(seen).toHaveLength(text.length);
    expect(seen.every(byte => byte === 0)).toBe(true);
  });

  it('cannot be had after disposal, which may be repeated', () => {
    const secret = Secret.fromText(text);
    using other = Secret.fromText(text);
    secret[Symbol.dispose]();
    secret[Symbol.dispose]();
    expect(() => secret.use(lent => lent)).toThrow();
    expect(() => secret.useText(lent => lent)).toThrow();
    expect(() => secret.length).toThrow();
    expect(() => secret.copy()).toThrow();
    expect(() => secret.equals(other)).toThrow();
    expect(() => other.equals(secret)).toThrow();
  });

  it('pass through use(), which returns what the callback returns and lets its errors out', async () => {
    using secret = Secret.fromText(text);
    expect(secret.use(lent => lent.length)).toBe(text.length);
    expect(() =>
      secret.use(() => {
        throw new RangeError('mine');
      }),
    ).toThrow(RangeError);
  });
});

describe('two secrets', () => {
  it('are equal exactly when their bytes are', () => {
    const bytes = fc.uint8Array({ maxLength: 40 });
    fc.assert(
      fc.property(bytes, bytes, (left, right) => {
        using a = Secret.fromBytes(left);
        using b = Secret.fromBytes(right);
        using same = Secret.fromBytes(left);
        expect(a.equals(b)).toBe(Buffer.compare(left, right) === 0);
        expect(a.equals(same)).toBe(true);
      }),
    );
  });

  it('of one beginning and different lengths are not equal, and neither is an empty one to a zero', () => {
    using a = Secret.fromText('1234');
    using b = Secret.fromText('12345');
    using empty = Secret.fromText('');
    using zero = Secret.fromBytes(Uint8Array.of(0));
    expect([a.equals(b), b.equals(a), empty.equals(zero), empty.equals(empty)]).toEqual([
      false,
      false,
      false,
      true,
    ]);
  });

  it('live apart when one is a copy of the other', () => {
    const original = Secret.fromText(text);
    using copy = original.copy();
    original[Symbol.dispose]();
    expect(copy.useText(lent => lent)).toBe(text);
  });
});

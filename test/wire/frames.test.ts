import { setImmediate as nextTurn } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { limits } from '../../src/foundation/limits.ts';
import { encodeFrame, type Frame, FrameError, FrameReader, FrameWriter } from '../../src/wire/frames.ts';

const frames: fc.Arbitrary<Frame> = fc.record({
  id: fc.nat(0xffff_ffff),
  kind: fc.constantFrom('hello', 'call', 'reply', 'failure', 'cancel'),
  head: fc.jsonValue(),
  bytes: fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 5 }),
});

/** As JSON and bytes come back: -0 is 0 in JSON, and a byte string is read as a Buffer. */
const plain = ({ id, kind, head, bytes }: Frame) => ({
  id,
  kind,
  head: JSON.stringify(head),
  bytes: bytes.map(part => Buffer.from(part).toString('hex')),
});

const read = (...chunks: readonly Uint8Array[]): Frame[] => {
  const reader = new FrameReader();
  return chunks.flatMap(chunk => [...reader.read(Buffer.from(chunk))]);
};

const sample: Frame = { id: 7, kind: 'call', head: { a: 'ä', b: [1] }, bytes: [Uint8Array.of(1, 2, 3)] };

describe('frames', () => {
  it('come back as they were sent, several in one chunk', () => {
    fc.assert(
      fc.property(fc.array(frames, { maxLength: 6 }), sent => {
        expect(read(Buffer.concat(sent.map(encodeFrame))).map(plain)).toEqual(sent.map(plain));
      }),
    );
  });

  it('come back as they were sent, whatever the chunks are', () => {
    fc.assert(
      fc.property(fc.array(frames, { minLength: 1, maxLength: 4 }), fc.array(fc.nat()), (sent, cuts) => {
        const whole = Buffer.concat(sent.map(encodeFrame));
        const at = [0, ...cuts.map(cut => cut % whole.length).toSorted((a, b) => a - b), whole.length];
        const chunks = at.slice(1).map((end, before) => whole.subarray(at[before], end));
        expect(read(...chunks).map(plain)).toEqual(sent.map(plain));
      }),
    );
  });

  it('come back when they are split at any one byte, and byte by byte', () => {
    const sent = [sample, { ...sample, id: 8, bytes: [] }];
    const whole = Buffer.concat(sent.map(encodeFrame));
    for (let cut = 0; cut <= whole.length; cut += 1) {
      expect(read(whole.subarray(0, cut), whole.subarray(cut)).map(plain)).toEqual(sent.map(plain));
    }
    expect(read(...[...whole].map(byte => Uint8Array.of(byte))).map(plain)).toEqual(sent.map(plain));
  });

  it('are given out as soon as they are whole, and not before', () => {
    const reader = new FrameReader();
    const whole = encodeFrame(sample);
    expect([...reader.read(whole.subarray(0, -1))]).toEqual([]);
    expect([...reader.read(whole.subarray(-1))].map(plain)).toEqual([plain(sample)]);
  });

  it('may be as long as the limit and no longer', () => {
    const empty = encodeFrame({ ...sample, bytes: [new Uint8Array()] }).length - 4;
    const longest = { ...sample, bytes: [new Uint8Array(limits.frame_bytes_max - empty)] };
    expect(read(encodeFrame(longest))).toHaveLength(1);
    const longer = { ...sample, bytes: [new Uint8Array(limits.frame_bytes_max - empty + 1)] };
    expect(() => read(encodeFrame(longer))).toThrow(FrameError);
  });
});

describe('the reader', () => {
  const damaged = (change: (frame: Buffer) => void): Buffer => {
    const frame = encodeFrame(sample);
    change(frame);
    return frame;
  };
  const head_bytes = Buffer.byteLength(JSON.stringify(sample.head));

  it.each<[string, Buffer]>([
    ['a length beyond the limit, before its bytes have come', Buffer.of(0xff, 0xff, 0xff, 0xff)],
    ['a length that is one too much', u32(limits.frame_bytes_max + 1)],
    ['a frame of nothing', u32(0)],
    ['a frame shorter than its prefix', Buffer.concat([u32(8), Buffer.alloc(8)])],
    ['an unknown kind', damaged(frame => frame.writeUInt8(5, 8))],
    ['the kind 255', damaged(frame => frame.writeUInt8(255, 8))],
    ['a head longer than the frame', damaged(frame => frame.writeUInt32LE(frame.length, 9))],
    ['a head of four gigabytes', damaged(frame => frame.writeUInt32LE(0xffff_ffff, 9))],
    ['a head that is no JSON', damaged(frame => frame.write('?', 13))],
    ['an empty head', Buffer.concat([u32(9), u32(1), Buffer.of(1), u32(0)])],
    ['a head that ends too early', damaged(frame => frame.writeUInt32LE(head_bytes - 1, 9))],
    ['a byte string longer than the frame', damaged(frame => frame.writeUInt32LE(4, 13 + head_bytes))],
    ['a byte string of four gigabytes', damaged(frame => frame.writeUInt32LE(0xffff_ffff, 13 + head_bytes))],
    ['a frame that ends inside a length', damaged(frame => frame.writeUInt32LE(2, 13 + head_bytes))],
  ])('refuses %s', (_what, bytes) => {
    expect(() => read(bytes)).toThrow(FrameError);
  });

  it('answers any bytes with frames or a FrameError and nothing else', () => {
    const outcome = (bytes: Uint8Array): string => {
      try {
        return `${read(bytes).length} frames`;
      } catch (thrown) {
        return thrown instanceof FrameError ? 'refused' : `broke: ${thrown}`;
      }
    };
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), bytes => {
        expect(outcome(bytes)).not.toContain('broke');
        // The same bytes as the body of a frame whose length is right, so that they are looked at.
        expect(outcome(Buffer.concat([u32(bytes.length), bytes]))).not.toContain('broke');
      }),
      { numRuns: 2_000 },
    );
  });

  it('answers a frame with one changed byte with frames or a FrameError', () => {
    fc.assert(
      fc.property(frames, fc.nat(), fc.nat(255), (frame, place, value) => {
        const bytes = encodeFrame(frame);
        bytes[place % bytes.length] = value;
        try {
          read(bytes);
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(FrameError);
        }
      }),
      { numRuns: 1_000 },
    );
  });

  it('leaves the prototype of a head alone', () => {
    const body = Buffer.from('{"__proto__":{"polluted":true}}');
    const frame = Buffer.concat([u32(9 + body.length), u32(1), Buffer.of(1), u32(body.length), body]);
    const [found] = read(frame);
    expect(Object.getPrototypeOf(found?.head)).toBe(Object.prototype);
    expect(Reflect.get({}, 'polluted')).toBeUndefined();
  });
});

describe('the writer', () => {
  it('sends all frames of one turn in one write, in their order', async () => {
    const writes: Buffer[] = [];
    const writer = new FrameWriter(bytes => writes.push(bytes));
    for (let id = 0; id < 50; id += 1) writer.send({ ...sample, id });
    await Promise.resolve();
    writer.send({ ...sample, id: 50 });
    expect(writes).toEqual([]);
    await nextTurn();
    expect(writes).toHaveLength(1);
    expect(read(...writes).map(frame => frame.id)).toEqual(Array.from({ length: 51 }, (_, id) => id));
    writer.send({ ...sample, id: 51 });
    await nextTurn();
    await nextTurn();
    expect(writes).toHaveLength(2);
  });

  it('takes the bytes at once, so that they may be wiped behind the call', async () => {
    const writes: Buffer[] = [];
    const writer = new FrameWriter(bytes => writes.push(bytes));
    const pin = Uint8Array.of(1, 2, 3);
    writer.send({ ...sample, bytes: [pin] });
    pin.fill(0);
    await nextTurn();
    expect(read(...writes)[0]?.bytes[0]).toEqual(Buffer.of(1, 2, 3));
  });
});

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

import { statSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CustodianServer } from '../../src/custodian/server.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import type { Custodian } from '../../src/wire/custodian.ts';
import { encodeFrame, type Frame } from '../../src/wire/frames.ts';
import { Device, Gate } from './device.ts';
import { Lab, people, text } from './lab.ts';
import { callFrame, hello, Peer } from './peer.ts';

const secret = new Uint8Array(32).fill(5);
let device: Device;
let lab: Lab;
let server: CustodianServer;
let path: string;
/** The operations that the custodian was asked for. */
let served: string[];

beforeEach(async () => {
  device = await Device.make();
  lab = await Lab.open({ slot: device.slot });
  await lab.ask('operator', 'generate-key', { key: 'wallet', slot: 'main' });
  path = join(lab.folder, 'custodian.sock');
  served = [];
  const custodian: Custodian = {
    call: (name, request, call) => {
      served.push(name);
      return lab.custodian.call(name, request, call);
    },
  };
  server = await CustodianServer.listen({
    path,
    bootSecret: Secret.fromBytes(secret),
    custodian,
    log: silentLog,
  });
});

afterEach(async () => {
  await server[Symbol.asyncDispose]();
  await lab[Symbol.asyncDispose]();
  await device[Symbol.asyncDispose]();
});

const healthCall = (id: number): Frame => callFrame(id, { operation: 'health', input: {}, requestId: 'r' });
const signCall = (id: number, message = 'x', more: object = {}): Frame =>
  callFrame(
    id,
    {
      operation: 'sign-message',
      input: { key: 'wallet' },
      requestId: 'r',
      credential: people.signer.credential,
      ...more,
    },
    [text(message)],
  );

describe('the socket of the custodian', () => {
  it('can be opened by its owner alone', () => {
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(statSync(path).isSocket()).toBe(true);
  });

  it('serves a peer that knows the secret of this boot', async () => {
    using peer = await Peer.greeted(path, secret);
    expect(await peer.answerTo(healthCall(7))).toMatchObject({ id: 7, kind: 'reply', head: { ready: true } });
    const signed = await peer.answerTo(signCall(8));
    expect(signed).toMatchObject({ id: 8, kind: 'reply', head: { kind: 'bytes' } });
    expect(signed?.bytes[0]).toHaveLength(64);
  });

  it.each<[string, Frame]>([
    ['another secret', hello(new Uint8Array(32).fill(6))],
    ['a shorter secret', hello(secret.subarray(0, 31))],
    ['a longer secret', hello(new Uint8Array(33).fill(5))],
    ['an empty secret', hello(new Uint8Array())],
    ['no secret', { id: 0, kind: 'hello', head: {}, bytes: [] }],
    ['the secret in a call', callFrame(0, {}, [secret])],
    ['the secret in a cancel', { id: 0, kind: 'cancel', head: {}, bytes: [secret] }],
    ['a call at once', healthCall(1)],
  ])('cuts a peer off that greets with %s, and serves none of its calls', async (_what, greeting) => {
    using peer = await Peer.at(path);
    peer.send(greeting, healthCall(1), signCall(2), hello(secret), healthCall(3));
    expect(await peer.next()).toBeUndefined();
    expect(served).toEqual([]);
  });

  it.each<[string, Uint8Array]>([
    ['noise', Uint8Array.from({ length: 200 }, (_, at) => (at * 89) & 0xff)],
    ['a frame that is too long', Uint8Array.of(0xff, 0xff, 0xff, 0x7f)],
    ['an unknown kind of frame', withKind(encodeFrame(healthCall(3)), 9)],
    ['a head that is no JSON', withHead(encodeFrame(healthCall(3)))],
    ['a second greeting', encodeFrame(hello(secret))],
    ['a reply', encodeFrame({ ...healthCall(3), kind: 'reply' })],
    ['a failure', encodeFrame({ ...healthCall(3), kind: 'failure' })],
    ['a call without a request id', encodeFrame(callFrame(3, { operation: 'health', input: {} }))],
    ['an operation that does not exist', operationFrame('destroy-everything')],
    ['an operation of the prototype', operationFrame('constructor')],
    ['a call with more than its fields', encodeFrame(signCall(3, 'x', { identity: 'operator' }))],
    ['a credential of another shape', encodeFrame(signCall(3, 'x', { credential: { token: 'operator' } }))],
  ])('cuts a peer off that sends %s, and no other', async (_what, bytes) => {
    using honest = await Peer.greeted(path, secret);
    using hostile = await Peer.greeted(path, secret);
    expect(await hostile.answerTo(healthCall(1))).toMatchObject({ id: 1 });
    hostile.write(bytes);
    expect(await hostile.next()).toBeUndefined();
    expect(await honest.answerTo(healthCall(2))).toMatchObject({ id: 2, kind: 'reply' });
    expect(served).toEqual(['health', 'health']);
  });

  it('cuts a peer off that uses an id twice at a time, and no other', async () => {
    const gate = new Gate();
    device.onSign = async ({ honest }) => {
      await gate.pass();
      return honest();
    };
    using honest = await Peer.greeted(path, secret);
    using hostile = await Peer.greeted(path, secret);
    honest.send(signCall(4));
    hostile.send(signCall(4));
    await gate.reached;
    hostile.send(signCall(4));
    expect(await hostile.next()).toBeUndefined();
    gate.open();
    expect(await honest.next()).toMatchObject({ id: 4, kind: 'reply' });
    expect(await honest.answerTo(signCall(4))).toMatchObject({ id: 4, kind: 'reply' });
  });

  it('survives whatever bytes come, before the greeting and behind it', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ minLength: 1, maxLength: 300 }),
        fc.boolean(),
        async (bytes, greets) => {
          using peer = greets ? await Peer.greeted(path, secret) : await Peer.at(path);
          peer.write(bytes);
          await nextTurn();
        },
      ),
      { numRuns: 100 },
    );
    using honest = await Peer.greeted(path, secret);
    expect(await honest.answerTo(healthCall(2))).toMatchObject({ id: 2, kind: 'reply' });
  });

  it('answers a wrong input with its code, and goes on', async () => {
    using peer = await Peer.greeted(path, secret);
    const inputs = [null, 'wallet', {}, { key: 1 }, { key: 'wallet', slot: 'main' }];
    for (const [at, input] of inputs.entries()) {
      expect(await peer.answerTo(signCall(at + 1, 'x', { input }))).toMatchObject({
        id: at + 1,
        kind: 'failure',
        head: { code: 'BODY_INVALID' },
      });
    }
    expect(served).toEqual([]);
    expect(await peer.answerTo(signCall(9))).toMatchObject({ kind: 'reply' });
  });

  it('passes failures on with their code and their Retry-After, and never the text from below', async () => {
    using peer = await Peer.greeted(path, secret);
    device.onSign = async () => {
      throw new TypeError('vendor secret 4711');
    };
    const broken = await peer.answerTo(signCall(1));
    expect(broken).toMatchObject({ kind: 'failure', head: { code: 'INTERNAL' } });
    expect(JSON.stringify(broken?.head)).not.toContain('4711');
    const open = (id: number) =>
      callFrame(
        id,
        {
          operation: 'open-session',
          input: { slot: 'main' },
          requestId: 'r',
          credential: people.signer.credential,
        },
        [text('wrong')],
      );
    expect(await peer.answerTo(open(2))).toMatchObject({ head: { code: 'PIN_INCORRECT' } });
    expect(await peer.answerTo(open(3))).toMatchObject({
      head: { code: 'PIN_RATE_LIMITED', retryAfter_s: 1 },
    });
  });

  it('answers calls as they finish, not as they came', async () => {
    const gate = new Gate();
    device.onSign = async ({ message, honest }) => {
      if (message[0] === 's'.charCodeAt(0)) await gate.pass();
      return honest();
    };
    using peer = await Peer.greeted(path, secret);
    peer.send(signCall(1, 'slow'), signCall(2, 'fast'));
    expect(await peer.next()).toMatchObject({ id: 2, kind: 'reply' });
    gate.open();
    expect(await peer.next()).toMatchObject({ id: 1, kind: 'reply' });
  });

  it('takes a frame in pieces of any size', async () => {
    using peer = await Peer.greeted(path, secret);
    for (const byte of encodeFrame(healthCall(1))) {
      peer.write(Uint8Array.of(byte));
      await nextTurn();
    }
    expect(await peer.next()).toMatchObject({ id: 1, kind: 'reply' });
  });
});

describe('a call that nobody waits for', () => {
  /** Resolves when the signal of the running signature aborts. */
  function watchAbort(): { started: Promise<void>; aborted: Promise<void> } {
    const started = Promise.withResolvers<void>();
    const aborted = Promise.withResolvers<void>();
    device.onSign = async ({ signal, honest }) => {
      started.resolve();
      await new Promise(resolve => signal?.addEventListener('abort', resolve, { once: true }));
      aborted.resolve();
      return honest();
    };
    return { started: started.promise, aborted: aborted.promise };
  }

  it('is aborted by a cancel frame, and by none for another id', async () => {
    const { started, aborted } = watchAbort();
    using peer = await Peer.greeted(path, secret);
    peer.send(signCall(1));
    await started;
    peer.send({ id: 2, kind: 'cancel', head: {}, bytes: [] });
    expect(await peer.answerTo(healthCall(3))).toMatchObject({ id: 3 });
    peer.send({ id: 1, kind: 'cancel', head: {}, bytes: [] });
    await aborted;
    expect(await peer.next()).toMatchObject({ id: 1, kind: 'failure', head: { code: 'REQUEST_ABORTED' } });
  });

  it('is aborted when its gateway is gone', async () => {
    const { started, aborted } = watchAbort();
    const peer = await Peer.greeted(path, secret);
    peer.send(signCall(1));
    await started;
    peer[Symbol.dispose]();
    await aborted;
  });
});

describe('a server that finishes', () => {
  it('answers what is in flight, takes nothing new, and then closes', async () => {
    const gate = new Gate();
    device.onSign = async ({ honest }) => {
      await gate.pass();
      return honest();
    };
    using peer = await Peer.greeted(path, secret);
    peer.send(signCall(1));
    await gate.reached;
    const finished = server[Symbol.asyncDispose]();
    expect(await peer.answerTo(signCall(2))).toMatchObject({
      id: 2,
      kind: 'failure',
      head: { code: 'SHUTTING_DOWN' },
    });
    gate.open();
    expect(await peer.next()).toMatchObject({ id: 1, kind: 'reply' });
    expect(await peer.next()).toBeUndefined();
    await finished;
    expect(served.filter(name => name === 'sign-message')).toHaveLength(1);
  });

  it('leaves the place to a successor at once', async () => {
    await server[Symbol.asyncDispose]();
    server = await CustodianServer.listen({
      path,
      bootSecret: Secret.fromBytes(secret),
      custodian: lab.custodian,
      log: silentLog,
    });
    using peer = await Peer.greeted(path, secret);
    expect(await peer.answerTo(healthCall(1))).toMatchObject({ id: 1, kind: 'reply' });
  });
});

function withKind(frame: Buffer, kind: number): Buffer {
  frame.writeUInt8(kind, 8);
  return frame;
}

function withHead(frame: Buffer): Buffer {
  frame.write('!', 13);
  return frame;
}

function operationFrame(operation: string): Buffer {
  return encodeFrame(callFrame(3, { operation, input: {}, requestId: 'r' }));
}

import type { RequestListener } from 'node:http';
import { connect as connectTcp, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type Authority, createAuthority, type Issued } from '../../src/appliance/certificates.ts';
import { limits } from '../../src/foundation/limits.ts';
import { Listener, type ListenerBounds } from '../../src/gateway/listener.ts';
import { eventually } from '../e2e/appliance.ts';

/** A listener on its own, with real TLS, and what it makes of clients that are slow, many or hostile. */

let authority: Authority;
let server: Issued;
let named: Issued;
let stack: AsyncDisposableStack;

beforeAll(async () => {
  authority = await createAuthority('Keyslot listener CA');
  server = await authority.issueServer(['127.0.0.1']);
  named = await authority.issueClient('payouts');
});

afterEach(() => stack?.disposeAsync());

const patient: ListenerBounds = { ...limits, check_ms: 100 };
/** So short that a test need not wait. */
const hasty: ListenerBounds = {
  ...patient,
  handshake_ms: 300,
  head_ms: 300,
  request_ms: 600,
  idle_ms: 300,
  taking_ms: 300,
  check_ms: 50,
};

const wait = Promise.withResolvers<void>();
const large = Buffer.alloc(32 * 1024 * 1024, 'x');

/** Answers when the body has come: at once, late, or with more than any socket takes. */
const app: RequestListener = (request, response) => {
  const body = request.url === '/large' ? large : 'ok';
  request.on('error', () => undefined); // the connection may end inside it
  request.resume().on('end', async () => {
    if (request.url === '/wait') await wait.promise;
    response.setHeader('Content-Length', Buffer.byteLength(body));
    response.end(body);
  });
};

async function open(bounds: Partial<ListenerBounds>, of = patient): Promise<Listener> {
  stack = new AsyncDisposableStack();
  const { certificate: cert, key } = server;
  const tls = { cert, key, ca: authority.certificate, requestCert: true, rejectUnauthorized: false };
  const listener = await Listener.open(app, { host: '127.0.0.1', port: 0 }, tls, { ...of, ...bounds });
  stack.use(listener);
  return listener;
}

/** One connection, and everything that was heard on it. */
class Caller {
  readonly socket: Socket;
  heard = '';
  readonly closed: Promise<string>;

  private constructor(socket: Socket) {
    this.socket = socket;
    const { promise, resolve } = Promise.withResolvers<string>();
    this.closed = promise;
    socket.on('data', chunk => {
      this.heard += String(chunk);
    });
    socket.on('error', () => undefined); // a reset is an end as well
    socket.on('close', () => resolve(this.heard));
    stack.defer(() => void socket.destroy());
  }

  /** TCP alone. */
  static async tcp({ url }: Listener): Promise<Caller> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const socket = connectTcp(Number(new URL(url).port), '127.0.0.1', resolve);
    await promise;
    return new Caller(socket);
  }

  static async tls(listener: Listener, options: ConnectionOptions = {}): Promise<Caller> {
    const { promise, resolve, reject } = Promise.withResolvers<TLSSocket>();
    const port = Number(new URL(listener.url).port);
    const socket = connect({ host: '127.0.0.1', port, ca: authority.certificate, ...options });
    socket.once('secureConnect', () => resolve(socket));
    socket.once('error', reject);
    return new Caller(await promise);
  }

  static named(listener: Listener): Promise<Caller> {
    return Caller.tls(listener, { cert: named.certificate, key: named.key });
  }

  /** Asks, and waits for the answer. */
  async asks(path = '/'): Promise<this> {
    const before = this.heard.length;
    this.send(path);
    await eventually(`an answer to ${path}`, () => this.heard.indexOf('\r\n\r\nok', before) >= 0);
    return this;
  }

  send(path: string): this {
    this.socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
    return this;
  }

  get isOpen(): boolean {
    return !this.socket.destroyed;
  }
}

const gone = (listener: Listener, left = 0) =>
  eventually(`${left} connections`, async () => (await listener.connections()) === left);
const ended = (caller: Caller) => eventually('an end', () => !caller.isOpen);

describe('a connection that', () => {
  it('never begins a handshake, or ends in the middle of one, is closed', async () => {
    const listener = await open({}, hasty);
    const [silent, half] = [await Caller.tcp(listener), await Caller.tcp(listener)];
    half.socket.write(Buffer.from('160301020001000001fc0303', 'hex')); // a ClientHello without its end
    expect([await silent.closed, await half.closed]).toEqual(['', '']);
    await gone(listener);
  });

  it('asks for nothing, or for half of something, hears 408', async () => {
    const listener = await open({}, hasty);
    const callers = [await Caller.tls(listener), await Caller.tls(listener), await Caller.tls(listener)];
    callers[1]?.socket.write('GET / HTTP/1.1\r\nHost:');
    callers[2]?.socket.write('POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf');
    for (const caller of callers) expect(await caller.closed).toMatch(/^HTTP\/1\.1 408 /);
    await gone(listener);
  });

  it('has headers beyond the bound hears 431', async () => {
    const listener = await open({ head_bytes_max: 2_048 });
    const caller = await Caller.tls(listener);
    caller.socket.write(`GET / HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(4_096)}\r\n\r\n`);
    expect(await caller.closed).toMatch(/^HTTP\/1\.1 431 /);
  });

  it('is idle is closed, and one that asks now and then is not', async () => {
    const listener = await open({ idle_ms: 400, check_ms: 50 });
    const idle = await (await Caller.tls(listener)).asks();
    const busy = await Caller.tls(listener);
    const asked_ms = performance.now();
    while (idle.isOpen && performance.now() < asked_ms + 20_000) {
      await busy.asks();
      await new Promise(done => setTimeout(done, 100));
    }
    expect([idle.isOpen, busy.isOpen]).toEqual([false, true]);
  });

  it('does not take its answer is closed, also when it asked for several', async () => {
    const listener = await open({}, hasty);
    const callers = [await Caller.tls(listener), await Caller.tls(listener)];
    for (const { socket } of callers) socket.pause();
    callers[0]?.send('/large');
    callers[1]?.send('/large').send('/').send('/large');
    await gone(listener);
  });

  it('asks for more at once than it may is closed, and up to that all is answered in order', async () => {
    const listener = await open({ pipelined_max: 4 });
    const [some, many] = [await Caller.tls(listener), await Caller.tls(listener)];
    const request = 'GET / HTTP/1.1\r\nHost: x\r\n\r\n';
    some.socket.write(request.repeat(4));
    many.socket.write(request.replace('/', '/wait').repeat(5));
    await eventually('four answers', () => some.heard.match(/HTTP\/1\.1 200/g)?.length === 4);
    expect(await many.closed).toBe('');
    expect(await some.asks()).toHaveProperty('isOpen', true);
    expect(new Error('with a stack').stack).toContain('listener.test.ts');
  });

  it('asks for another handshake in the middle gets none', async () => {
    const listener = await open({}, hasty);
    const caller = await (await Caller.tls(listener, { maxVersion: 'TLSv1.2' })).asks();
    let shaken = false;
    (caller.socket as TLSSocket).renegotiate({}, error => {
      shaken = error === null;
    });
    await caller.closed;
    expect(shaken).toBe(false);
  });
});

it('stops without waiting for whoever has asked for nothing, in the middle of a handshake or behind it', async () => {
  const listener = await open({ handshake_ms: 120_000, head_ms: 120_000, request_ms: 120_000 });
  const callers = [await Caller.tcp(listener), await Caller.tls(listener)];
  await listener[Symbol.asyncDispose]();
  expect(await Promise.all(callers.map(({ closed }) => closed))).toEqual(['', '']);
});

describe('a house that is full', () => {
  it('of connections without a request has at most half of it for them, the latest ones', async () => {
    const listener = await open({ connections_max: 8 });
    const strangers: Caller[] = [];
    for (let at = 0; at < 12; at += 1) strangers.push(await Caller.tcp(listener));
    await gone(listener, 4);
    expect(await (await Caller.tls(listener)).asks()).toHaveProperty('isOpen', true);
    await eventually('three of them', () => strangers.filter(each => each.isOpen).length === 3);
    expect(strangers.slice(-3).every(each => each.isOpen)).toBe(true);
  });

  it('of slow bodies is no house full of requests', async () => {
    const listener = await open({ connections_max: 4 });
    for (let at = 0; at < 6; at += 1) {
      const caller = await Caller.tls(listener);
      caller.socket.write('POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf');
    }
    await gone(listener, 2);
    expect(await (await Caller.tls(listener)).asks()).toHaveProperty('isOpen', true);
  });

  it('of quiet connections lets go of the one that has been quiet longest, and of certificates last', async () => {
    const listener = await open({ connections_max: 4 });
    const known = await (await Caller.named(listener)).asks();
    const [first, second, third] = [
      await (await Caller.tls(listener)).asks(),
      await (await Caller.tls(listener)).asks(),
      await (await Caller.tls(listener)).asks(),
    ];
    await first?.asks(); // so that the second has been quiet longest
    const next = await (await Caller.tls(listener)).asks();
    await ended(second as Caller);
    expect([known, first, third, next].map(each => each?.isOpen)).toEqual([true, true, true, true]);
    for (let at = 0; at < 3; at += 1) await (await Caller.named(listener)).asks();
    await Promise.all([first, third, next].map(each => ended(each as Caller)));
    expect(known.isOpen).toBe(true);
    await (await Caller.named(listener)).asks();
    await ended(known);
  });

  it('of answers that nobody takes lets go of them before it asks anybody else to leave', async () => {
    const listener = await open({ connections_max: 3 });
    const quiet = [await (await Caller.tls(listener)).asks(), await (await Caller.tls(listener)).asks()];
    const stuck = await Caller.tls(listener);
    stuck.socket.pause();
    stuck.send('/large');
    await eventually('an answer on its way', () => stuck.socket.bytesRead > 0);
    await sleep(2 * patient.check_ms);
    const next = await (await Caller.tls(listener)).asks();
    stuck.socket.resume();
    expect((await stuck.closed).length).toBeLessThan(large.byteLength);
    expect([...quiet, next].map(each => each.isOpen)).toEqual([true, true, true]);
  });

  it('of answers that are on their way lets them be taken, and asks who is quiet to leave', async () => {
    const listener = await open({ connections_max: 3, check_ms: 60_000 });
    const [first, second] = [
      await (await Caller.tls(listener)).asks(),
      await (await Caller.tls(listener)).asks(),
    ];
    const taking = await Caller.tls(listener);
    taking.socket.pause();
    taking.send('/large');
    await eventually('an answer on its way', () => taking.socket.bytesRead > 0);
    const next = await (await Caller.tls(listener)).asks();
    await ended(first);
    taking.socket.resume();
    await eventually('the whole answer', () => taking.heard.length > large.byteLength);
    expect([second, taking, next].map(each => each.isOpen)).toEqual([true, true, true]);
  });

  it('of requests that are being answered answers them all, and whoever comes has to wait', async () => {
    const listener = await open({ connections_max: 3 });
    const callers: Caller[] = [];
    for (let at = 0; at < 3; at += 1) callers.push((await Caller.tls(listener)).send('/wait'));
    await eventually('three requests', () => callers.every(({ socket }) => socket.bytesWritten > 0));
    await expect(Caller.tls(listener)).rejects.toMatchObject({ code: 'ECONNRESET' });
    wait.resolve();
    await eventually('three answers', () => callers.every(({ heard }) => heard.endsWith('ok')));
    expect(await (await Caller.tls(listener)).asks()).toHaveProperty('isOpen', true);
  });
});

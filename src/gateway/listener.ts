import { constants } from 'node:crypto';
import type { RequestListener } from 'node:http';
import { createServer, type Server, type ServerOptions } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { SecureContextOptions } from 'node:tls';
import { KeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import { type GuestBounds, Guests } from './guests.ts';

/** A port on which TLS is spoken, with bounds on what a slow or hostile client may cost. */
export class Listener implements AsyncDisposable {
  readonly #server: Server;
  readonly #guests: Guests;

  private constructor(server: Server, guests: Guests) {
    this.#server = server;
    this.#guests = guests;
  }

  /** PORT_IN_USE names the one that is taken. */
  static async open(
    app: RequestListener,
    at: { readonly host: string; readonly port: number },
    tls: ServerOptions,
    bounds: ListenerBounds = ordinary,
  ): Promise<Listener> {
    const guests = new Guests(bounds);
    const server = createServer({ ...tls, ...boundsOfNode(bounds) }, (request, response) => {
      if (!server.listening) response.setHeader('Connection', 'close'); // stopping
      if (guests.begin(request, response)) app(request, response);
    });
    guests.watch(server);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once('error', reject);
    server.listen(at.port, at.host, resolve);
    try {
      await promise;
    } catch (cause) {
      guests[Symbol.dispose]();
      throw new KeyslotError('PORT_IN_USE', `Cannot listen on ${at.host}:${at.port}.`, { cause });
    }
    server.off('error', reject);
    return new Listener(server, guests);
  }

  /** Where it is reached; whoever listens on all addresses is spoken to on this machine's own. */
  get url(): string {
    const { address, port, family } = this.#server.address() as AddressInfo;
    const host = reachable[address] ?? address;
    return `https://${family === 'IPv6' ? `[${host}]` : host}:${port}`;
  }

  /** How many are open. */
  async connections(): Promise<number> {
    const { promise, resolve } = Promise.withResolvers<number>();
    this.#server.getConnections((error, count) => resolve(error ? 0 : count));
    return promise;
  }

  /**
   * Shakes hands as this from now on. Where clients are checked in another way than before, connections that were let
   * in by the old one end: at once, or with the answer that they wait for.
   */
  renew(tls: SecureContextOptions, clientsToo: boolean): void {
    this.#server.setSecureContext({ minVersion, secureOptions, ...tls });
    if (clientsToo) this.#guests.dismissAll();
  }

  /** Accepts nothing new, answers what is in flight, then closes the connections. */
  async [Symbol.asyncDispose](): Promise<void> {
    const server = this.#server;
    const { promise, resolve } = Promise.withResolvers<void>();
    // A connection whose request had begun before says nothing of closing: it is closed once it is idle.
    const sweep = setInterval(() => server.closeIdleConnections(), idleSweep_ms);
    server.close(() => resolve());
    this.#guests.dismissStrangers();
    // Whoever has not finished by then is cut off: a stop must not wait for a slow client.
    setTimeout(() => server.closeAllConnections(), limits.drain_ms).unref();
    await promise;
    clearInterval(sweep);
    this.#guests[Symbol.dispose]();
  }
}

/** What one client may cost, in time, bytes and connections. */
export interface ListenerBounds extends GuestBounds {
  /** From its first byte to the end of its headers. */
  readonly head_ms: number;
  readonly head_bytes_max: number;
}

const ordinary: ListenerBounds = { ...limits, check_ms: 2_000 };

const minVersion = 'TLSv1.2';
// Of TLS 1.2: a client could have handshakes made on a connection that it has, one after the other.
const secureOptions = constants.SSL_OP_NO_RENEGOTIATION;

const boundsOfNode = (bounds: ListenerBounds) =>
  ({
    minVersion,
    secureOptions,
    handshakeTimeout: bounds.handshake_ms,
    headersTimeout: bounds.head_ms,
    requestTimeout: bounds.request_ms,
    keepAliveTimeout: bounds.idle_ms,
    maxHeaderSize: bounds.head_bytes_max,
    connectionsCheckingInterval: bounds.check_ms,
    noDelay: true,
  }) as const;

const idleSweep_ms = 100;

/** Of all addresses, the ones for which this machine has a certificate. */
const reachable: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '::1' };

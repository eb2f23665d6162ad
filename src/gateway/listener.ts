import type { RequestListener } from 'node:http';
import { createServer, type Server, type ServerOptions } from 'node:https';
import type { AddressInfo } from 'node:net';
import { KeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';

/** A port on which TLS is spoken, with bounds on what a slow or hostile client may cost. */
export class Listener implements AsyncDisposable {
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** PORT_IN_USE names the one that is taken. */
  static async open(
    app: RequestListener,
    at: { readonly host: string; readonly port: number },
    tls: ServerOptions,
  ): Promise<Listener> {
    const server = createServer({ ...tls, ...bounds }, (request, response) => {
      if (!server.listening) response.setHeader('Connection', 'close'); // stopping
      app(request, response);
    });
    server.maxConnections = connections_max;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once('error', reject);
    server.listen(at.port, at.host, resolve);
    try {
      await promise;
    } catch (cause) {
      throw new KeyslotError('PORT_IN_USE', `Cannot listen on ${at.host}:${at.port}.`, { cause });
    }
    server.off('error', reject);
    return new Listener(server);
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

  /** Accepts nothing new, answers what is in flight, then closes the connections. */
  async [Symbol.asyncDispose](): Promise<void> {
    const server = this.#server;
    const { promise, resolve } = Promise.withResolvers<void>();
    // A connection whose request had begun before says nothing of closing: it is closed once it is idle.
    const sweep = setInterval(() => server.closeIdleConnections(), idleSweep_ms);
    server.close(() => resolve());
    // Whoever has not finished by then is cut off: a stop must not wait for a slow client.
    setTimeout(() => server.closeAllConnections(), limits.drain_ms).unref();
    await promise;
    clearInterval(sweep);
  }
}

const bounds = {
  minVersion: 'TLSv1.2',
  handshakeTimeout: 10_000,
  headersTimeout: 10_000,
  requestTimeout: limits.request_ms,
  keepAliveTimeout: 75_000,
  maxHeaderSize: 16 * 1024,
  connectionsCheckingInterval: 2_000,
  noDelay: true,
} as const;

const connections_max = 4_096;
const idleSweep_ms = 100;

/** Of all addresses, the ones for which this machine has a certificate. */
const reachable: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '::1' };

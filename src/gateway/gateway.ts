import type { RequestListener } from 'node:http';
import type { Server } from 'node:https';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { KeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { Log } from '../foundation/log.ts';
import type { Custodian } from '../wire/custodian.ts';
import { Drain, withDrain } from './drain.ts';
import { expiries, GatewayMetrics } from './metrics.ts';
import { type Beside, createOps, type OpsView, withHealth } from './ops.ts';
import { RequestLog, type RequestLogOptions } from './request-log.ts';
import { createApi } from './routes.ts';
import { withVaultTransit } from './vault-transit.ts';
import { withWallets } from './wallets.ts';

/**
 * The process that parses the network: TLS, HTTP, JSON. It holds no key and no PIN longer than a request, and
 * asks the custodian for everything.
 */
export class Gateway implements AsyncDisposable {
  readonly url: string;
  readonly opsUrl: string;
  readonly #servers: readonly Server[];
  readonly #gauges: GatewayMetrics;

  private constructor(api: Server, ops: Server, gauges: GatewayMetrics) {
    this.#gauges = gauges;
    this.url = urlOf(api);
    this.opsUrl = urlOf(ops);
    this.#servers = [api, ops];
  }

  /** Listens on both ports. PORT_IN_USE names the one that is taken. */
  static async start(options: GatewayOptions): Promise<Gateway> {
    const { tls, custodian, log, drain = new Drain() } = options;
    const gauges = new GatewayMetrics();
    const listeners = new Map<string, Server>();
    const seen: OpsView = {
      beside: options.beside,
      restarts: options.restarts,
      drain,
      gauges,
      expiries: expiries(tls),
      connections: () => connectionsOf(listeners),
    };
    const app = createApi(custodian, log, api => {
      if (options.wallets) withWallets(api, { custodian, log, ...options.wallets });
      if (options.vaultTransit) withVaultTransit(api, { custodian, log, ...options.vaultTransit });
      withDrain(api, custodian, drain, log);
      return withHealth(api, custodian, seen);
    });
    const watched = options.requests ? watchedBy(new RequestLog(options.requests)) : asItIs;
    const api = await listen(watched(counted(app, gauges, drain)), options.listen, {
      ...tls,
      requestCert: true,
      // Where tokens are allowed too, a connection without a certificate must get as far as its 401.
      rejectUnauthorized: options.requireCertificate,
    });
    try {
      const { ca: _clientsOnly, ...server } = tls;
      const ops = await listen(watched(createOps(custodian, log, seen)), options.ops, server);
      listeners.set('api', api).set('ops', ops);
      return new Gateway(api, ops, gauges);
    } catch (error) {
      api.close();
      throw error;
    }
  }

  /** Accepts nothing new, answers what is in flight, then closes the connections. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#servers.map(close));
    this.#gauges[Symbol.dispose]();
  }
}

export interface GatewayOptions {
  readonly listen: { readonly host: string; readonly port: number };
  readonly ops: { readonly host: string; readonly port: number };
  /** PEM texts; `ca` signs the certificates of clients. */
  readonly tls: { readonly cert: string; readonly key: string; readonly ca: string };
  readonly requireCertificate: boolean;
  /** The wallet routes, when they are switched on; `rpcUrl` is the Solana node that is asked for balances. */
  readonly wallets?: { readonly rpcUrl?: string | undefined } | undefined;
  /** The calls of Vault's transit engine, when they are switched on. */
  readonly vaultTransit?: { readonly mount: string; readonly namespace?: string | undefined } | undefined;
  /** What /readyz shows besides. */
  readonly beside?: Beside;
  readonly drain?: Drain | undefined;
  readonly restarts?: OpsView['restarts'];
  /** A line and a trace for every request, where they are wanted. */
  readonly requests?: RequestLogOptions | undefined;
  readonly custodian: Custodian;
  readonly log: Log;
}

const asItIs = (app: RequestListener): RequestListener => app;

const watchedBy =
  (log: RequestLog) =>
  (app: RequestListener): RequestListener =>
  (request, response) => {
    log.begin(request, response);
    app(request, response);
  };

/** Every request is counted; one that is not let in any more is answered before any route sees it. */
const counted =
  (app: RequestListener, gauges: GatewayMetrics, drain: Drain): RequestListener =>
  (request, response) => {
    gauges.begin(request, response);
    if (drain.admits(request, response)) app(request, response);
  };

async function connectionsOf(listeners: ReadonlyMap<string, Server>): Promise<Record<string, number>> {
  const counts = [...listeners].map(async ([name, server]) => {
    const { promise, resolve } = Promise.withResolvers<number>();
    server.getConnections((error, count) => resolve(error ? 0 : count));
    return [name, await promise] as const;
  });
  return Object.fromEntries(await Promise.all(counts));
}

async function listen(
  app: RequestListener,
  at: { host: string; port: number },
  tls: Parameters<typeof createServer>[0],
): Promise<Server> {
  const server = createServer({ ...tls, ...bounds }, (request, response) => {
    if (!server.listening) response.setHeader('Connection', 'close'); // draining
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
  return server;
}

/** What a slow or hostile client may cost. */
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

function close(server: Server): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  // A connection whose request had begun before says nothing of closing: it is closed once it is idle.
  const sweep = setInterval(() => server.closeIdleConnections(), idleSweep_ms);
  server.close(() => resolve());
  // Whoever has not finished by then is cut off: a stop must not wait for a slow client.
  setTimeout(() => server.closeAllConnections(), limits.drain_ms).unref();
  return promise.finally(() => clearInterval(sweep));
}

const idleSweep_ms = 100;

/** Whoever listens on all addresses is spoken to on this machine's own, for which it has a certificate. */
const reachable: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '::1' };

function urlOf(server: Server): string {
  const { address, port, family } = server.address() as AddressInfo;
  const host = reachable[address] ?? address;
  return `https://${family === 'IPv6' ? `[${host}]` : host}:${port}`;
}

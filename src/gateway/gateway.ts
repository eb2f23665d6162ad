import type { RequestListener } from 'node:http';
import type { Log } from '../foundation/log.ts';
import type { Custodian } from '../wire/custodian.ts';
import { Drain, withDrain } from './drain.ts';
import { Listener } from './listener.ts';
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
  readonly #listeners: readonly Listener[];
  readonly #gauges: GatewayMetrics;

  private constructor(api: Listener, ops: Listener, gauges: GatewayMetrics) {
    this.#gauges = gauges;
    this.url = api.url;
    this.opsUrl = ops.url;
    this.#listeners = [api, ops];
  }

  /** Listens on both ports. PORT_IN_USE names the one that is taken. */
  static async start(options: GatewayOptions): Promise<Gateway> {
    const { tls, custodian, log, drain = new Drain() } = options;
    const gauges = new GatewayMetrics();
    const listeners = new Map<string, Listener>();
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
    const api = await Listener.open(watched(counted(app, gauges, drain)), options.listen, {
      ...tls,
      requestCert: true,
      // Where tokens are allowed too, a connection without a certificate must get as far as its 401.
      rejectUnauthorized: options.requireCertificate,
    });
    try {
      const { ca: _clientsOnly, ...server } = tls;
      const ops = await Listener.open(watched(createOps(custodian, log, seen)), options.ops, server);
      listeners.set('api', api).set('ops', ops);
      return new Gateway(api, ops, gauges);
    } catch (error) {
      await api[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Accepts nothing new, answers what is in flight, then closes the connections. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#listeners.map(listener => listener[Symbol.asyncDispose]()));
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

async function connectionsOf(listeners: ReadonlyMap<string, Listener>): Promise<Record<string, number>> {
  const counts = [...listeners].map(async ([name, each]) => [name, await each.connections()] as const);
  return Object.fromEntries(await Promise.all(counts));
}

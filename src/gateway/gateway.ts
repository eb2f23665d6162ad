import type { RequestListener } from 'node:http';
import { isDeepStrictEqual } from 'node:util';
import type { Log } from '../foundation/log.ts';
import type { Custodian } from '../wire/custodian.ts';
import { Drain, withDrain } from './drain.ts';
import { Listener } from './listener.ts';
import { expiries, GatewayMetrics } from './metrics.ts';
import { type Beside, createOps, newHistory, type OpsView, withHealth } from './ops.ts';
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
  readonly #listeners: Readonly<Record<'api' | 'ops', Listener>>;
  readonly #apps: Apps;

  private constructor(apps: Apps, api: Listener, ops: Listener) {
    this.#apps = apps;
    this.url = api.url;
    this.opsUrl = ops.url;
    this.#listeners = { api, ops };
  }

  /** Listens on both ports. PORT_IN_USE names the one that is taken. */
  static async start(options: GatewayOptions): Promise<Gateway> {
    const { tls } = options;
    const listeners = new Map<string, Listener>();
    const apps = new Apps(options, () => connectionsOf(listeners));
    const api = await Listener.open((...exchange) => apps.api(...exchange), options.listen, {
      ...tls,
      requestCert: true,
      // Where tokens are allowed too, a connection without a certificate must get as far as its 401.
      rejectUnauthorized: options.requireCertificate,
    });
    try {
      const ops = await Listener.open((...exchange) => apps.ops(...exchange), options.ops, forServer(tls));
      listeners.set('api', api).set('ops', ops);
      return new Gateway(apps, api, ops);
    } catch (error) {
      await api[Symbol.asyncDispose]();
      throw error;
    }
  }

  /**
   * Goes on with other settings, from the next request on. Callers whose certificates another CA has to vouch for now
   * connect again.
   */
  reconfigure(setting: GatewaySetting): void {
    const { tls: before } = this.#apps.setting;
    this.#apps.make(setting);
    if (isDeepStrictEqual(before, setting.tls)) return;
    const { api, ops } = this.#listeners;
    api.renew(setting.tls, setting.tls.ca !== before.ca);
    ops.renew(forServer(setting.tls), false);
  }

  /** Accepts nothing new, answers what is in flight, then closes the connections. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(Object.values(this.#listeners).map(listener => listener[Symbol.asyncDispose]()));
    this.#apps[Symbol.dispose]();
  }
}

/** What answers on the two listeners, made anew when it is to answer otherwise. */
class Apps implements Disposable {
  api: RequestListener = notYet;
  ops: RequestListener = notYet;
  #setting: GatewaySetting;
  readonly #options: GatewayOptions;
  readonly #gauges = new GatewayMetrics();
  readonly #history = newHistory();
  readonly #drain: Drain;
  readonly #connections: () => Promise<Record<string, number>>;

  constructor(options: GatewayOptions, connections: () => Promise<Record<string, number>>) {
    this.#options = options;
    this.#drain = options.drain ?? new Drain();
    this.#connections = connections;
    this.#setting = options;
    this.make(options);
  }

  get setting(): GatewaySetting {
    return this.#setting;
  }

  make(setting: GatewaySetting): void {
    const { custodian, log, beside, restarts } = this.#options;
    const { tls, wallets, vaultTransit, requests } = setting;
    const [drain, gauges] = [this.#drain, this.#gauges];
    const seen: OpsView = {
      beside,
      restarts,
      drain,
      gauges,
      history: this.#history,
      expiries: expiries(tls),
      connections: this.#connections,
    };
    const app = createApi(custodian, log, api => {
      if (wallets) withWallets(api, { custodian, log, ...wallets });
      if (vaultTransit) withVaultTransit(api, { custodian, log, ...vaultTransit });
      withDrain(api, custodian, drain, log);
      return withHealth(api, custodian, seen);
    });
    const watched = requests ? watchedBy(new RequestLog(requests)) : asItIs;
    this.api = watched(counted(app, gauges, drain));
    this.ops = watched(createOps(custodian, log, seen));
    this.#setting = setting;
  }

  [Symbol.dispose](): void {
    this.#gauges[Symbol.dispose]();
  }
}

export interface GatewayOptions extends GatewaySetting {
  readonly listen: { readonly host: string; readonly port: number };
  readonly ops: { readonly host: string; readonly port: number };
  readonly requireCertificate: boolean;
  /** What /readyz shows besides. */
  readonly beside?: Beside;
  readonly drain?: Drain | undefined;
  readonly restarts?: OpsView['restarts'];
  readonly custodian: Custodian;
  readonly log: Log;
}

/** What can change while it listens. */
export interface GatewaySetting {
  /** PEM texts; `ca` signs the certificates of clients. */
  readonly tls: { readonly cert: string; readonly key: string; readonly ca: string };
  /** The wallet routes, when they are switched on; `rpcUrl` is the Solana node that is asked for balances. */
  readonly wallets?: { readonly rpcUrl?: string | undefined } | undefined;
  /** The calls of Vault's transit engine, when they are switched on. */
  readonly vaultTransit?: { readonly mount: string; readonly namespace?: string | undefined } | undefined;
  /** A line and a trace for every request, where they are wanted. */
  readonly requests?: RequestLogOptions | undefined;
}

const notYet: RequestListener = () => {
  throw new TypeError('A request came before there was anything to answer it.');
};

/** What a server that asks for no certificates shows of itself. */
const forServer = ({ cert, key }: GatewaySetting['tls']) => ({ cert, key });

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

import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import { KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import { Secret } from '../foundation/secret.ts';
import { warnOfEnds } from './certificate-dates.ts';
import { Child, entryOf } from './child.ts';
import {
  asksAws,
  type Config,
  moduleEnvironment,
  readConfig,
  secretVariables,
  signingThreads,
} from './config.ts';
import type { CustodianAsks, CustodianBoot, CustodianOrders } from './custodian-start.ts';
import { differences } from './differences.ts';
import { awsVariables, childEnvironment } from './environment.ts';
import type { GatewayBoot, GatewayNews, GatewayOrders, GatewayReady } from './gateway-process.ts';
import { Home } from './home.ts';
import { takesTokens } from './identities.ts';
import { type Proposal, readSnapshot, type Snapshot } from './snapshot.ts';
import { watch } from './watch.ts';

/**
 * The parent of both processes: starts the custodian, then the gateway, restarts whichever dies, kills whichever
 * does not respond, and stops them in the order that loses nothing: the gateway answers what is in flight before
 * the custodian goes. It reads the files of the configuration, and hands on what they say.
 */
export class Supervisor implements AsyncDisposable {
  readonly #log: Log;
  readonly #home: Home;
  readonly #options: SupervisorOptions;
  readonly #bootSecret: Secret;
  /** What is in force, and what the custodian was told last. */
  #snapshot: Snapshot;
  #proposed: Snapshot | undefined;
  readonly #plans: { readonly custodian: Plan; readonly gateway: Plan };
  #custodian: Child | undefined;
  #gateway: Child | undefined;
  #stopping = false;
  #listening: GatewayReady = { url: '', opsUrl: '' };
  #news: GatewayNews = { checks: [], restarts: {}, draining: false };
  #cluster: Disposable | undefined;
  #reminder: NodeJS.Timeout | undefined;

  private constructor(snapshot: Snapshot, home: Home, log: Log, options: SupervisorOptions) {
    this.#snapshot = snapshot;
    this.#home = home;
    this.#log = log;
    this.#options = options;
    this.#bootSecret = Secret.fromBytes(randomBytes(32), { wipe: true });
    this.#plans = { custodian: this.#custodianPlan(), gateway: this.#gatewayPlan() };
  }

  /** Resolves when both processes serve. Fails with the first wrong setting, and then leaves nothing running. */
  static async start(config: Config, log: Log, options: SupervisorOptions = {}): Promise<Supervisor> {
    const home = new Home(config.home);
    let supervisor: Supervisor | undefined;
    try {
      supervisor = new Supervisor(await readSnapshot(config), home, log, options);
      await supervisor.#startBoth();
      supervisor.#remind();
      return supervisor;
    } catch (error) {
      await supervisor?.[Symbol.asyncDispose]();
      if (!supervisor) home[Symbol.dispose]();
      throw error;
    }
  }

  get url(): string {
    return this.#listening.url;
  }

  get opsUrl(): string {
    return this.#listening.opsUrl;
  }

  get processes(): { readonly custodian: number | undefined; readonly gateway: number | undefined } {
    return { custodian: this.#custodian?.pid, gateway: this.#gateway?.pid };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    this.#cluster?.[Symbol.dispose]();
    clearInterval(this.#reminder);
    await this.#gateway?.stop(gatewayStop_ms);
    await this.#custodian?.stop(custodianStop_ms);
    this.#bootSecret[Symbol.dispose]();
    this.#home[Symbol.dispose]();
  }

  async #startBoth(): Promise<void> {
    this.#custodian = this.#spawn(this.#plans.custodian, true);
    await this.#custodian.ready();
    this.#gateway = this.#spawn(this.#plans.gateway, true);
    this.#listening = await this.#gateway.ready<GatewayReady>();
    this.#home.announce({ ...this.#listening, pid: process.pid });
    this.#keepAlive(this.#plans.custodian, this.#custodian);
    this.#keepAlive(this.#plans.gateway, this.#gateway);
    await this.#askOfCluster();
  }

  /** Has the gateway take leave of its callers; a gateway that is started anew goes on with it. */
  drain(): void {
    if (this.#news.draining) return;
    this.#log.warn({ draining: true }, 'draining begins or ends');
    this.#tell({ draining: true });
    this.#order({ drained: true });
  }

  /** Has the files of the configuration read again; the log and `keyslot reload --last` say what came of it. */
  reload(): void {
    this.#order({ reload: true });
  }

  /** By a signal, which nobody waits for. The custodian writes down what was done. */
  #order(orders: CustodianOrders): void {
    const done = this.#custodian?.ask(orders, reload_ms);
    done?.catch(thrown => this.#log.error({ err: toKeyslotError(thrown) }, 'a signal was not followed'));
  }

  /** The custodian decides on what is asked of it, and then asks here what there is. */
  async #answer(question: CustodianAsks): Promise<Proposal | undefined> {
    if (question === 'proposal') {
      const { reread = () => readConfig(this.#snapshot.config.home) } = this.#options;
      const next = await readSnapshot(reread());
      const diff = differences(this.#snapshot, next);
      this.#proposed = next;
      const { config, identities, policies } = next;
      return { config, identities, policies, diff };
    }
    if (!this.#proposed) throw new TypeError('A configuration is in force that was never proposed.');
    const before = this.#gatewayOrders();
    this.#snapshot = this.#proposed;
    this.#proposed = undefined;
    warnOfEnds(this.#snapshot.config, this.#log);
    if (!isDeepStrictEqual(before, this.#gatewayOrders())) await this.#renewGateway();
    return undefined;
  }

  /** One that does not take it is started anew with it: what was taken away must not be served any more. */
  async #renewGateway(): Promise<void> {
    const gateway = this.#gateway;
    await gateway?.ask(this.#gatewayOrders(), gatewayOrders_ms).catch(thrown => {
      const error = toKeyslotError(thrown);
      this.#log.error({ err: error }, 'the gateway did not take its configuration and is started anew');
      gateway.kill(error);
    });
  }

  /** Once a day, until somebody has put new ones in their places. */
  #remind(): void {
    const remind = () => warnOfEnds(this.#snapshot.config, this.#log);
    remind();
    this.#reminder = setInterval(remind, 86_400_000).unref();
  }

  get #config(): Config {
    return this.#snapshot.config;
  }

  #tell(news: Partial<GatewayNews>): void {
    this.#news = { ...this.#news, ...news };
    this.#gateway?.send(this.#news);
  }

  /** Here, because this process alone holds no keys, answers nobody, and may have credentials of AWS. */
  async #askOfCluster(): Promise<void> {
    if (!this.#config.cloudhsm) return;
    const { ClusterHealth } = await import('./cluster-health.ts'); // with the library of AWS, for those who use it
    this.#cluster = ClusterHealth.of(this.#config, this.#log, check => {
      this.#tell({ checks: [check] });
    });
  }

  /** Restarts a process that ended by itself: at once when it had run for a while, else ever more slowly. */
  async #keepAlive(plan: Plan, first: Child): Promise<void> {
    let child = first;
    let started_ms = performance.now();
    let wait_ms = restart_ms_min;
    for (;;) {
      const how = await child.exited;
      if (this.#stopping) return;
      if (performance.now() - started_ms > stable_ms) wait_ms = restart_ms_min;
      this.#log.error({ child: plan.name, how, restartIn_ms: wait_ms }, 'a process ended and is restarted');
      const { restarts } = this.#news;
      this.#tell({ restarts: { ...restarts, [plan.name]: (restarts[plan.name] ?? 0) + 1 } });
      await new Promise(resolve => setTimeout(resolve, wait_ms));
      if (this.#stopping) return;
      wait_ms = Math.min(wait_ms * 2, restart_ms_max);
      started_ms = performance.now();
      child = this.#spawn(plan, false);
      plan.keep(child);
      child.ready().then(
        () => this.#log.info({ child: plan.name }, 'a process is serving again'),
        error => this.#log.error({ child: plan.name, err: error }, 'a process could not start'),
      );
    }
  }

  #spawn(plan: Plan, firstStart: boolean): Child {
    const boot = this.#bootSecret.use(secret => plan.boot(Buffer.from(secret), firstStart));
    const { entry, flags, asked } = plan;
    const environment = plan.environment();
    // What an operator asks of the gateway; nobody else says such words.
    const told = (text: string) => {
      if (text === 'draining' || text === 'serving') {
        this.#news = { ...this.#news, draining: text === 'draining' };
      }
    };
    const child = new Child({ entry, flags, environment, boot, told, ...(asked ? { asked } : {}) });
    const { unresponsive_s } = this.#config.supervision;
    watch(child, unresponsive_s * 1000, () => {
      this.#log.error({ child: plan.name, unresponsive_s }, 'a process does not respond and is killed');
      child.kill(unresponsive(plan.name, unresponsive_s));
    });
    return child;
  }

  #custodianPlan(): Plan {
    const { storeFile, socketFile } = this.#home;
    return {
      name: 'custodian',
      entry: this.#options.entry ?? entryOf('custodian-process'),
      flags: hardened,
      environment: () => {
        const config = this.#config;
        return childEnvironment(
          { ...moduleEnvironment(config), UV_THREADPOOL_SIZE: String(signingThreads(config)) },
          [
            ...secretVariables(config),
            ...(asksAws(config) ? awsVariables() : []),
            ...runtimeVariables(config),
          ],
        );
      },
      boot: (bootSecret, firstStart): CustodianBoot => {
        const { config, identities, policies } = this.#snapshot;
        return { config, identities, policies, storeFile, socketFile, bootSecret, firstStart };
      },
      asked: question => this.#answer(question as CustodianAsks),
      keep: child => {
        this.#custodian = child;
      },
    };
  }

  #gatewayPlan(): Plan {
    const { socketFile } = this.#home;
    return {
      name: 'gateway',
      entry: entryOf('gateway-process'),
      flags: [...hardened, ...confined],
      environment: () => childEnvironment({}, runtimeVariables(this.#config)),
      boot: (bootSecret): GatewayBoot => {
        const { listen, ops, tracing } = this.#config;
        return {
          ...this.#gatewayOrders(),
          // After the first start the ports are known: whoever asked for "any port" keeps the one it was given.
          listen: { ...listen, port: portOf(this.#listening.url) ?? listen.port },
          ops: { ...ops, port: portOf(this.#listening.opsUrl) ?? ops.port },
          requireCertificate: !takesTokens(this.#config),
          socketFile,
          bootSecret,
          tracing,
          news: this.#news,
        };
      },
      keep: child => {
        this.#gateway = child;
      },
    };
  }

  #gatewayOrders(): GatewayOrders {
    const { config, tls } = this.#snapshot;
    const { logging, drain, facade, compat, solanaRpcUrl } = config;
    return {
      tls,
      ...(facade.vaultTransit ? { vaultTransit: facade } : {}),
      ...(compat.agenticWallet ? { wallets: { rpcUrl: solanaRpcUrl } } : {}),
      logging,
      drainGrace_ms: drain.grace_s * 1000,
    };
  }
}

export interface SupervisorOptions {
  /** The configuration as it is written now; default: that of the state folder. */
  readonly reread?: () => Config;
  /** The custodian's program. */
  readonly entry?: string;
}

interface Plan {
  readonly name: string;
  readonly entry: string;
  readonly flags: readonly string[];
  /** Both as the configuration is when the process starts. */
  environment(): Record<string, string>;
  boot(bootSecret: Uint8Array, firstStart: boolean): unknown;
  readonly asked?: (question: unknown) => Promise<unknown>;
  keep(child: Child): void;
}

const unresponsive = (name: string, bound_s: number) =>
  new KeyslotError(
    'CUSTODIAN_UNAVAILABLE',
    `The ${name} did not respond for ${bound_s} s while it started: most likely a call to a token does not return.`,
  );

// Together below the ten seconds that an init system usually grants.
const gatewayStop_ms = 4_500;
const custodianStop_ms = 4_500;
// Of all that it may have to open and to end.
const reload_ms = 120_000;
const gatewayOrders_ms = 5_000;
const restart_ms_min = 50;
const restart_ms_max = 5_000;
const stable_ms = 10_000;

/** For every process: no prototype tricks, no code from strings, no debugger that a signal opens. */
const hardened = ['--disable-proto=throw', '--disallow-code-generation-from-strings', '--disable-sigusr1'];

/** Node's permission model: reads its own code and nothing else, writes nothing, starts nothing, loads no addon. */
const confined = ['--permission', ...ownCode().map(path => `--allow-fs-read=${path}`)];

/** This package, and the packages beside or above it, wherever npm has put them. */
function ownCode(): readonly string[] {
  const code = fileURLToPath(new URL('../', import.meta.url));
  const found = [code, join(code, '..', 'package.json')];
  for (let folder = join(code, '..'); folder !== dirname(folder); folder = dirname(folder)) {
    if (existsSync(join(folder, 'node_modules'))) found.push(join(folder, 'node_modules'));
  }
  return found;
}

const portOf = (url: string): number | undefined => (url === '' ? undefined : Number(new URL(url).port));

/** Code that was compiled before, which is trusted as the sources are: nothing that production takes from a shell. */
const runtimeVariables = ({ profile }: Config): readonly string[] =>
  profile === 'development' ? ['NODE_COMPILE_CACHE'] : [];

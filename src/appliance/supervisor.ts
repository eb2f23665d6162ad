import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createSecureContext } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { KeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import { Secret } from '../foundation/secret.ts';
import { Child, entryOf } from './child.ts';
import {
  asksAws,
  type Config,
  inHome,
  moduleEnvironment,
  secretVariables,
  signingThreads,
} from './config.ts';
import type { CustodianBoot } from './custodian-start.ts';
import { awsVariables, childEnvironment } from './environment.ts';
import type { GatewayBoot, GatewayNews, GatewayReady } from './gateway-process.ts';
import { Home } from './home.ts';
import { identitiesOf, takesTokens } from './identities.ts';
import { policyDocuments } from './policy-files.ts';
import { watch } from './watch.ts';

/**
 * The parent of both processes: starts the custodian, then the gateway, restarts whichever dies, kills whichever
 * does not respond, and stops them in the order that loses nothing: the gateway answers what is in flight before
 * the custodian goes.
 */
export class Supervisor implements AsyncDisposable {
  readonly #config: Config;
  readonly #log: Log;
  readonly #home: Home;
  readonly #bootSecret: Secret;
  readonly #plans: { readonly custodian: Plan; readonly gateway: Plan };
  #custodian: Child | undefined;
  #gateway: Child | undefined;
  #stopping = false;
  #listening: GatewayReady = { url: '', opsUrl: '' };
  #news: GatewayNews = { checks: [], restarts: {}, draining: false };
  #cluster: Disposable | undefined;

  private constructor(config: Config, home: Home, log: Log, authorities: Authorities) {
    this.#config = config;
    this.#home = home;
    this.#log = log;
    this.#bootSecret = Secret.fromBytes(randomBytes(32), { wipe: true });
    this.#plans = { custodian: this.#custodianPlan(authorities), gateway: this.#gatewayPlan() };
  }

  /**
   * Resolves when both processes serve. Fails with the first wrong setting, and then leaves nothing running. `entry`
   * is the custodian's program.
   */
  static async start(config: Config, log: Log, entry = entryOf('custodian-process')): Promise<Supervisor> {
    const home = new Home(config.home);
    let supervisor: Supervisor | undefined;
    try {
      const policies = policyDocuments(config);
      supervisor = new Supervisor(config, home, log, {
        identities: await identitiesOf(config),
        policies,
        entry,
      });
      await supervisor.#startBoth();
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

  /** Has the gateway take leave of its callers, or end that; a gateway that is started anew goes on with it. */
  drain(draining = true): void {
    if (draining === this.#news.draining) return;
    this.#log.warn({ draining }, 'draining begins or ends');
    this.#tell({ draining });
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
    const { entry, flags, environment } = plan;
    // What an operator asks of the gateway; nobody else says such words.
    const told = (text: string) => {
      if (text === 'draining' || text === 'serving') {
        this.#news = { ...this.#news, draining: text === 'draining' };
      }
    };
    const child = new Child({ entry, flags, environment, boot, told });
    const { unresponsive_s } = this.#config.supervision;
    watch(child, unresponsive_s * 1000, () => {
      this.#log.error({ child: plan.name, unresponsive_s }, 'a process does not respond and is killed');
      child.kill(unresponsive(plan.name, unresponsive_s));
    });
    return child;
  }

  #custodianPlan({ entry, ...authorities }: Authorities): Plan {
    const config = this.#config;
    const { storeFile, socketFile } = this.#home;
    return {
      name: 'custodian',
      entry,
      flags: hardened,
      environment: childEnvironment(
        { ...moduleEnvironment(config), UV_THREADPOOL_SIZE: String(signingThreads(config)) },
        [...secretVariables(config), ...(asksAws(config) ? awsVariables() : []), ...runtimeVariables(config)],
      ),
      boot: (bootSecret, firstStart): CustodianBoot => ({
        config,
        ...authorities,
        storeFile,
        socketFile,
        bootSecret,
        firstStart,
      }),
      keep: child => {
        this.#custodian = child;
      },
    };
  }

  #gatewayPlan(): Plan {
    const { listen, ops, logging, tracing } = this.#config;
    const tls = tlsOf(this.#config);
    const { socketFile } = this.#home;
    return {
      name: 'gateway',
      entry: entryOf('gateway-process'),
      flags: [...hardened, ...confined],
      environment: childEnvironment({}, runtimeVariables(this.#config)),
      boot: (bootSecret): GatewayBoot => ({
        // After the first start the ports are known: whoever asked for "any port" keeps the one it was given.
        listen: { ...listen, port: portOf(this.#listening.url) ?? listen.port },
        ops: { ...ops, port: portOf(this.#listening.opsUrl) ?? ops.port },
        tls,
        requireCertificate: !takesTokens(this.#config),
        ...(this.#config.facade.vaultTransit ? { vaultTransit: this.#config.facade } : {}),
        ...(this.#config.compat.agenticWallet ? { wallets: { rpcUrl: this.#config.solanaRpcUrl } } : {}),
        socketFile,
        bootSecret,
        logging,
        tracing,
        drainGrace_ms: this.#config.drain.grace_s * 1000,
        news: this.#news,
      }),
      keep: child => {
        this.#gateway = child;
      },
    };
  }
}

/** Who may do what, and what may be signed. */
type Authorities = Pick<CustodianBoot, 'identities' | 'policies'> & { readonly entry: string };

interface Plan {
  readonly name: string;
  readonly entry: string;
  readonly flags: readonly string[];
  readonly environment: Record<string, string>;
  boot(bootSecret: Uint8Array, firstStart: boolean): unknown;
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

function tlsOf(config: Config): GatewayBoot['tls'] {
  const read = (setting: 'certificate' | 'key' | 'clientCa'): string => {
    const path = inHome(config, config.tls[setting]);
    try {
      return readFileSync(path, 'utf8');
    } catch (cause) {
      throw new KeyslotError('CONFIG_INVALID', `tls.${setting}: ${path} cannot be read.`, { cause });
    }
  };
  const tls = { cert: read('certificate'), key: read('key'), ca: read('clientCa') };
  try {
    createSecureContext(tls);
  } catch (cause) {
    const text = 'tls: not all three files are PEM, or the key is not the one of the certificate.';
    throw new KeyslotError('CONFIG_INVALID', text, { cause });
  }
  return tls;
}

/** Code that was compiled before, which is trusted as the sources are: nothing that production takes from a shell. */
const runtimeVariables = ({ profile }: Config): readonly string[] =>
  profile === 'development' ? ['NODE_COMPILE_CACHE'] : [];

import { Secret } from '../foundation/secret.ts';
import { CustodianLink } from '../gateway/custodian-link.ts';
import { Drain } from '../gateway/drain.ts';
import { Gateway, type GatewayOptions } from '../gateway/gateway.ts';
import type { HealthCheck } from '../wire/views.ts';
import { runAsChild, tell } from './child.ts';
import type { Config } from './config.ts';
import { GatewayLog } from './logger.ts';

/** The process that parses the network. It runs without addons, child processes, or files beyond its own code. */

export interface GatewayBoot
  extends GatewayOrders,
    Pick<GatewayOptions, 'listen' | 'ops' | 'requireCertificate'> {
  readonly socketFile: string;
  readonly bootSecret: Uint8Array;
  readonly tracing: Config['tracing'];
  readonly news: GatewayNews;
}

/** What can change while it runs. */
export interface GatewayOrders extends Pick<GatewayOptions, 'tls' | 'wallets' | 'vaultTransit'> {
  readonly logging: Config['logging'];
  /** How long requests are still answered once draining begins. */
  readonly drainGrace_ms: number;
}

/** What the supervisor knows and /readyz shows; it is told anew when it has changed. */
export interface GatewayNews {
  readonly checks: readonly HealthCheck[];
  /** How often each process has ended by itself and was started anew. */
  readonly restarts: Readonly<Record<string, number>>;
  readonly draining: boolean;
}

export interface GatewayReady {
  readonly url: string;
  readonly opsUrl: string;
}

runAsChild<GatewayBoot, GatewayReady>(async ({ news, tracing, ...boot }, parent) => {
  const lines = new GatewayLog('gateway');
  const { log } = lines;
  let told = news;
  const drain = new Drain(boot.drainGrace_ms);
  drain.set(news.draining);
  parent.hear(newer => {
    told = newer as GatewayNews;
    drain.set(told.draining);
  });
  // The supervisor remembers it for a successor of this process.
  drain.onChange(draining => tell(draining ? 'draining' : 'serving'));
  const bootSecret = Secret.fromBytes(boot.bootSecret, { wipe: true });
  const custodian = new CustodianLink({ path: boot.socketFile, bootSecret, log });
  // With its libraries, for those who use it.
  const tracer = tracing && new (await import('./tracing.ts')).OtlpTracer(tracing, log);
  const requestsOf = ({ logging }: GatewayOrders) => {
    const { requests: which, probes, clientAddress } = logging;
    const said = which !== 'off' || tracer !== undefined;
    return said ? { which, probes, clientAddress, tracer, write: lines.request } : undefined;
  };
  const gateway = await Gateway.start({
    ...boot,
    beside: () => told.checks,
    restarts: () => told.restarts,
    drain,
    requests: requestsOf(boot),
    custodian,
    log,
  });
  parent.answer(async question => {
    const orders = question as GatewayOrders;
    drain.grace_ms = orders.drainGrace_ms;
    gateway.reconfigure({ ...orders, requests: requestsOf(orders) });
  });
  return {
    ready: { url: gateway.url, opsUrl: gateway.opsUrl },
    stop: async () => {
      custodian.expectNoSuccessor();
      await gateway[Symbol.asyncDispose]();
      custodian[Symbol.dispose]();
      await tracer?.[Symbol.asyncDispose]();
      lines[Symbol.dispose]();
    },
  };
});

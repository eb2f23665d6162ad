import { Secret } from '../foundation/secret.ts';
import { CustodianLink } from '../gateway/custodian-link.ts';
import { Drain } from '../gateway/drain.ts';
import { Gateway, type GatewayOptions } from '../gateway/gateway.ts';
import type { HealthCheck } from '../wire/views.ts';
import { runAsChild, tell } from './child.ts';
import type { Config } from './config.ts';
import { GatewayLog } from './logger.ts';

/** The process that parses the network. It runs without addons, child processes, or files beyond its own code. */

export type GatewayBoot = Pick<
  GatewayOptions,
  'listen' | 'ops' | 'tls' | 'requireCertificate' | 'wallets' | 'vaultTransit'
> & {
  readonly socketFile: string;
  readonly bootSecret: Uint8Array;
  readonly logging: Config['logging'];
  readonly tracing: Config['tracing'];
  /** How long requests are still answered once draining begins. */
  readonly drainGrace_ms: number;
  readonly news: GatewayNews;
};

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

runAsChild<GatewayBoot, GatewayReady>(async ({ news, logging, tracing, ...boot }, parent) => {
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
  const { requests: which, probes, clientAddress } = logging;
  const said = which !== 'off' || tracer !== undefined;
  const requests = said ? { which, probes, clientAddress, tracer, write: lines.request } : undefined;
  const gateway = await Gateway.start({
    ...boot,
    beside: () => told.checks,
    restarts: () => told.restarts,
    drain,
    requests,
    custodian,
    log,
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

import { Secret } from '../foundation/secret.ts';
import { CustodianLink } from '../gateway/custodian-link.ts';
import { Gateway, type GatewayOptions } from '../gateway/gateway.ts';
import type { HealthCheck } from '../wire/views.ts';
import { runAsChild } from './child.ts';
import { createLog } from './logger.ts';

/** The process that parses the network. It runs without addons, child processes, or files beyond its own code. */

export type GatewayBoot = Pick<
  GatewayOptions,
  'listen' | 'ops' | 'tls' | 'requireCertificate' | 'wallets' | 'vaultTransit'
> & {
  readonly socketFile: string;
  readonly bootSecret: Uint8Array;
  readonly news: GatewayNews;
};

/** What the supervisor knows and /readyz shows; it is told anew when it has changed. */
export interface GatewayNews {
  readonly checks: readonly HealthCheck[];
}

export interface GatewayReady {
  readonly url: string;
  readonly opsUrl: string;
}

runAsChild<GatewayBoot, GatewayReady>(async ({ news, ...boot }, parent) => {
  const log = createLog('gateway');
  let { checks } = news;
  parent.hear(newer => {
    ({ checks } = newer as GatewayNews);
  });
  const bootSecret = Secret.fromBytes(boot.bootSecret, { wipe: true });
  const custodian = new CustodianLink({ path: boot.socketFile, bootSecret, log });
  const gateway = await Gateway.start({ ...boot, beside: () => checks, custodian, log });
  return {
    ready: { url: gateway.url, opsUrl: gateway.opsUrl },
    stop: async () => {
      custodian.expectNoSuccessor();
      await gateway[Symbol.asyncDispose]();
      custodian[Symbol.dispose]();
    },
  };
});

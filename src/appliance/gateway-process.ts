import { Secret } from '../foundation/secret.ts';
import { CustodianLink } from '../gateway/custodian-link.ts';
import { Gateway, type GatewayOptions } from '../gateway/gateway.ts';
import { runAsChild } from './child.ts';
import { createLog } from './logger.ts';

/** The process that parses the network. It runs without addons, child processes, or files beyond its own code. */

export type GatewayBoot = Pick<
  GatewayOptions,
  'listen' | 'ops' | 'tls' | 'requireCertificate' | 'wallets' | 'vaultTransit'
> & {
  readonly socketFile: string;
  readonly bootSecret: Uint8Array;
};

export interface GatewayReady {
  readonly url: string;
  readonly opsUrl: string;
}

runAsChild<GatewayBoot, GatewayReady>(async boot => {
  const log = createLog('gateway');
  const bootSecret = Secret.fromBytes(boot.bootSecret, { wipe: true });
  const custodian = new CustodianLink({ path: boot.socketFile, bootSecret, log });
  const gateway = await Gateway.start({ ...boot, custodian, log });
  return {
    ready: { url: gateway.url, opsUrl: gateway.opsUrl },
    stop: async () => {
      await gateway[Symbol.asyncDispose]();
      custodian[Symbol.dispose]();
    },
  };
});

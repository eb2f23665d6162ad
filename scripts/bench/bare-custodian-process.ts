import { runAsChild } from '../../src/appliance/child.ts';
import { type CustodianBoot, startCustodian } from '../../src/appliance/custodian-start.ts';
import type { Desk } from '../../src/custodian/signing-desk.ts';

/**
 * The custodian without policies and without a record of what it signs: the column that the others are held
 * against. Everything else is as it is, the verification of each signature included.
 */
const receipt = { node: 'bench', seq: 0, hash: '' };

const bareDesk: Desk = {
  refusing: (_asking, _decoded, work) => work(),
  once: (_decoded, _asking, work) => work(),
  decide: async () => ({
    verdict: { allowed: true, policies: [], violations: [], charges: [] },
    facts: { kind: 'message', form: 'bytes', bytes: new Uint8Array() },
    charges: [],
    at_ms: 0,
  }),
  intend: async () => ({ receipt, about: {}, charges: [], at_ms: 0, idempotency: undefined }),
  release: async (_intent, { signature }) => ({ signature, receipt }),
  giveUp: async (_intent, error) => error,
};

runAsChild((boot: CustodianBoot) => startCustodian(boot, { desk: bareDesk }));

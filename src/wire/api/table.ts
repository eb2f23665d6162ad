import { auditOperations } from './audit.ts';
import type { HttpOperation } from './http-operation.ts';
import { identityOperations } from './identities.ts';
import { keyOperations } from './keys.ts';
import { migrationOperations } from './migrations.ts';
import { policyOperations } from './policies.ts';
import { serviceOperations } from './service.ts';
import { signingOperations } from './signing.ts';
import { slotOperations } from './slots.ts';
import { vaultOperations } from './vault.ts';
import { walletOperations } from './wallets.ts';

/** The HTTP API: every call there is. A test holds the routes of the gateway to it, both ways. */
export const httpApi: readonly HttpOperation[] = [
  ...signingOperations,
  ...keyOperations,
  ...slotOperations,
  ...migrationOperations,
  ...policyOperations,
  ...auditOperations,
  ...identityOperations,
  ...serviceOperations,
  ...walletOperations,
  ...vaultOperations,
];

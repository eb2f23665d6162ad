import type { CustodyLabel } from './engine.ts';

/** Where a key lives in the words of the agentic-wallet page, whose clients know five backends. */
export interface KeyProvenance {
  readonly backend: 'encrypted-file' | 'memory' | 'kms' | 'hsm' | 'mpc';
  /** `local`: in this process or on this host, by design. */
  readonly custody: 'local' | 'external';
  /** No key is derived from another: each address stands alone. */
  readonly deterministicAddressing: false;
}

/** Says less than the label, and nothing else: whoever needs to know what protects a key reads the label. */
export function provenanceOf(custody: CustodyLabel): KeyProvenance {
  const backend = backends[custody];
  const local = backend === 'encrypted-file' || backend === 'memory';
  return { backend, custody: local ? 'local' : 'external', deterministicAddressing: false };
}

const backends: { readonly [C in CustodyLabel]: KeyProvenance['backend'] } = {
  'hsm-native': 'hsm',
  'hsm-wrapped': 'hsm',
  'simulated-hsm': 'hsm',
  'kms-native': 'kms',
  'kms-envelope': 'kms',
  'simulated-kms': 'kms',
  threshold: 'mpc',
  'shamir-envelope': 'mpc',
  'encrypted-file': 'encrypted-file',
  memory: 'memory',
};

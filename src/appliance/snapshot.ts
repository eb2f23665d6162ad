import { readFileSync } from 'node:fs';
import { createSecureContext } from 'node:tls';
import type { Identity } from '../custodian/identities.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { certificatesIn } from '../foundation/pem.ts';
import type { ReloadDiff } from '../wire/reload.ts';
import { refuseInvalidNow } from './certificate-dates.ts';
import { type Config, inHome } from './config.ts';
import { identitiesOf } from './identities.ts';
import { type PolicyDocumentShape, policyDocuments } from './policy-files.ts';

/** Everything that the files of the configuration say, read at one time and checked as a whole. */
export interface Snapshot {
  readonly config: Config;
  readonly identities: readonly Identity[];
  readonly policies: readonly PolicyDocumentShape[];
  readonly tls: Tls;
}

/** What the custodian is told of another one. */
export interface Proposal extends Pick<Snapshot, 'config' | 'identities' | 'policies'> {
  readonly diff: ReloadDiff;
}

/** PEM texts. */
export interface Tls {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
}

/** CONFIG_INVALID, SECRET_UNREADABLE, POLICY_INVALID, CERTIFICATE_EXPIRED. */
export async function readSnapshot(config: Config): Promise<Snapshot> {
  const policies = policyDocuments(config);
  const tls = tlsOf(config);
  return { config, identities: await identitiesOf(config), policies, tls };
}

function tlsOf(config: Config): Tls {
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
  // The chain of the server has to be valid as a whole; of several CAs, one is enough to be let in by.
  refuseInvalidNow('tls.certificate', certificatesIn(tls.cert), 'every');
  refuseInvalidNow('tls.clientCa', certificatesIn(tls.ca), 'some');
  return tls;
}

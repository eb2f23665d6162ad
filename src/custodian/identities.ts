import type { SlotId } from '../custody/ids.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Credential } from '../wire/custodian.ts';

/** Somebody whom the configuration names. */
export interface Identity {
  readonly name: string;
  readonly roles: readonly Role[];
  /** The slots whose keys this identity may use or manage without a PIN session. */
  readonly slots: readonly SlotId[] | '*';
  /** How it is recognised: SHA-256, in hexadecimal. Absent for one that logs in first. */
  readonly credential?: Credential;
  /** What it logs in with; of the secret id, SHA-256 in hexadecimal. */
  readonly appRole?: { readonly roleId: string; readonly secretId: string };
}

export type Role = 'operator' | 'signer';

/** Credential → identity. Deny by default: what is not listed is nobody. */
export class Identities {
  readonly #byCredential: ReadonlyMap<string, Identity>;
  readonly #loggedIn: (token: string) => Identity | undefined;

  /** `loggedIn` knows the tokens of those who logged in, by their digest. */
  constructor(identities: readonly Identity[], loggedIn: (token: string) => Identity | undefined) {
    this.#byCredential = new Map(
      identities.flatMap(identity =>
        identity.credential ? [[keyOf(identity.credential), identity] as const] : [],
      ),
    );
    this.#loggedIn = loggedIn;
  }

  /**
   * CREDENTIAL_MISSING, CREDENTIAL_UNKNOWN. A look-up by digest needs no constant-time comparison: whoever
   * could steer the digest bit by bit would have to invert SHA-256 first.
   */
  authenticate(credential: Credential | undefined): Identity {
    if (!credential) throw new KeyslotError('CREDENTIAL_MISSING', 'The request carries no credential.');
    const listed = this.#byCredential.get(keyOf(credential));
    const identity = listed ?? ('token' in credential ? this.#loggedIn(credential.token) : undefined);
    if (identity) return identity;
    throw new KeyslotError('CREDENTIAL_UNKNOWN', 'The credential that was presented belongs to no identity.');
  }
}

export const mayUseSlot = (identity: Identity, slot: SlotId): boolean =>
  identity.slots === '*' || identity.slots.includes(slot);

// A token can never pass for a certificate, nor the other way round, even with the same digest.
const keyOf = (credential: Credential): string =>
  'certificate' in credential ? `certificate:${credential.certificate}` : `token:${credential.token}`;

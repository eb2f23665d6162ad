import { isId } from '../custody/ids.ts';
import type { Clock } from '../foundation/clock.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { StoredIdentity } from '../store/identities.ts';
import { type IdentityView, identityShape, type identityOperations as table } from '../wire/identities.ts';
import type { ApiTokens } from './api-tokens.ts';
import type { Identities, Identity } from './identities.ts';
import type { Operations } from './operation.ts';

/** What identities and tokens are asked and told through the API; who may, `authority.ts` has said before. */
export function identityOperations(world: IdentityWorld): Operations<keyof typeof table> {
  const { identities, rows, tokens, clock } = world;
  return {
    'who-am-i': async (_request, _call, identity) => ({ output: viewOf(identity) }),
    'list-identities': async () => ({ output: { identities: identities.all().map(viewOf) } }),
    'create-identity': async ({ input }, _call, by) => {
      const { roles, grants, recognisedBy } = input.shape;
      const name = newName(input.identity);
      if (recognisedBy && 'jwt' in recognisedBy && !world.issuers().includes(recognisedBy.jwt)) {
        throw new KeyslotError(
          'IDENTITY_INVALID',
          `recognisedBy.jwt: no issuer ${said(recognisedBy.jwt)} is configured.`,
        );
      }
      const createdAt = clock.utc().toISOString();
      const common = {
        name,
        roles,
        grants,
        createdAt,
        createdBy: by.name,
        ...(recognisedBy ? { recognisedBy } : {}),
      };
      const identity: Identity = { ...common, source: 'api' };
      const powerless = { ...identity, roles: [], grants: [] };
      identities.add(powerless); // holds the name and the credential until it is written down
      try {
        await tokens.revokeAllOf(name); // of somebody who had the name before, should any be left
        await rows.put(common);
      } catch (error) {
        if (identities.get(name) === powerless) identities.remove(name);
        throw error;
      }
      if (identities.get(name) !== powerless) {
        await rows.remove(name); // the configuration has one of this name by now, and goes first
        throw new KeyslotError('IDENTITY_EXISTS', `There is an identity ${name} already.`);
      }
      identities.remove(name);
      identities.add(identity);
      return { output: viewOf(identity) };
    },
    'delete-identity': async ({ input }) => {
      const identity = known(identities, input.identity);
      if (identity.source === 'configuration') {
        throw new KeyslotError('IDENTITY_MANAGED', `${identity.name} is kept in the configuration.`);
      }
      // It is nobody from here on, whatever becomes of the writing; a repeat writes again.
      identities.remove(identity.name);
      world.ended(identity.name);
      try {
        await tokens.revokeAllOf(identity.name);
        await rows.remove(identity.name);
      } catch (error) {
        if (!identities.get(identity.name)) identities.add({ ...identity, roles: [], grants: [] });
        throw error;
      }
      return { output: viewOf(identity) };
    },
    'list-tokens': async ({ input }) => ({ output: { tokens: [...tokens.list(input.identity)] } }),
    'issue-token': async ({ input }, _call, by) => {
      const { identity, label, expires_s } = input;
      const { token, view } = await tokens.issue(known(identities, identity), {
        label,
        expires_s,
        by: by.name,
      });
      return { output: view, bytes: [token] };
    },
    'revoke-token': async ({ input }) => ({ output: await tokens.revoke(input.token) }),
  };
}

export interface IdentityWorld {
  readonly identities: Identities;
  readonly rows: IdentityRows;
  readonly tokens: ApiTokens;
  /** The names of the configured issuers of JWTs. */
  readonly issuers: () => readonly string[];
  /** Ends the PIN sessions of somebody who is gone. */
  readonly ended: (name: string) => void;
  readonly clock: Clock;
}

/** Where they are kept; `StoredIdentities` is one. */
export interface IdentityRows {
  all(): Promise<readonly StoredIdentity[]>;
  put(identity: StoredIdentity): Promise<void>;
  remove(name: string): Promise<void>;
}

/**
 * Takes in the identities that were made through the API. One that the configuration names by now, or that is
 * recognised as somebody there is, stays out: what the configuration says goes first.
 */
export async function loadIdentities(identities: Identities, rows: IdentityRows, log: Log): Promise<void> {
  for (const { name, createdAt, createdBy, ...row } of await rows.all()) {
    const shape = identityShape.safeParse(row);
    const failure = shape.success
      ? added(identities, { name, ...withoutUndefined(shape.data), source: 'api', createdAt, createdBy })
      : shape.error;
    if (failure) log.error({ identity: name, err: failure }, 'an identity of the store is not let in');
  }
}

function added(identities: Identities, identity: Identity): KeyslotError | undefined {
  try {
    identities.add(identity);
    return undefined;
  } catch (error) {
    if (error instanceof KeyslotError) return error;
    throw error;
  }
}

const withoutUndefined = ({ recognisedBy, ...shape }: ReturnType<typeof identityShape.parse>) =>
  recognisedBy ? { ...shape, recognisedBy } : shape;

export function viewOf(identity: Identity): IdentityView {
  const { name, roles, grants, source, createdAt, createdBy } = identity;
  return {
    name,
    roles: [...roles],
    grants: [...grants],
    recognisedBy: recognitionOf(identity),
    source,
    ...(createdAt === undefined ? {} : { createdAt }),
    ...(createdBy === undefined ? {} : { createdBy }),
  };
}

function recognitionOf({ recognisedBy: by, appRole }: Identity): string {
  if (appRole) return 'role id';
  if (!by) return 'API tokens';
  if ('spki' in by) return `certificate ${by.spki}`;
  if ('token' in by) return 'token';
  if ('san' in by) return `san ${by.san}${by.ca === undefined ? '' : ` of CA ${by.ca}`}`;
  const claims = Object.entries(by.claims ?? {}).map(([name, value]) => ` ${name}=${value}`);
  return `jwt ${by.jwt}/${by.subject}${claims.join('')}`;
}

/** IDENTITY_INVALID: names of the API are ids; those of the configuration may have capitals and "@" as well. */
function newName(name: string): string {
  if (isId(name)) return name;
  throw new KeyslotError('IDENTITY_INVALID', 'name: it must be 1 to 63 characters of a-z, 0-9 and "-".');
}

function known(identities: Identities, name: string): Identity {
  const identity = identities.get(name);
  if (identity) return identity;
  throw new KeyslotError('IDENTITY_UNKNOWN', `There is no identity ${said(name)}.`);
}

/** A caller's text made safe to repeat. */
const said = (text: string): string => text.slice(0, 63).replace(/[^\x20-\x7e]/g, '?');

import type { Clock } from '../foundation/clock.ts';
import type { Log } from '../foundation/log.ts';
import { Secret } from '../foundation/secret.ts';
import { StoredApiTokens } from '../store/api-tokens.ts';
import { StoredIdentities } from '../store/identities.ts';
import type { Store } from '../store/store.ts';
import { ApiTokens } from './api-tokens.ts';
import { AppRoles } from './app-roles.ts';
import { Identities, type Identity, type IdentityChanges } from './identities.ts';
import { loadIdentities } from './identity-operations.ts';
import type { JwtIssuer, Jwts } from './jwt.ts';

/** Everybody, and what tells who somebody is. */
export class People {
  readonly identities: Identities;
  readonly appRoles: AppRoles;
  readonly rows: StoredIdentities;
  readonly #world: PeopleWorld;
  #setting: PeopleSetting;
  #jwts: Jwts | undefined;
  #tokens: ApiTokens | undefined;

  private constructor(setting: PeopleSetting, world: PeopleWorld, jwts: Jwts | undefined) {
    this.#setting = setting;
    this.#world = world;
    this.#jwts = jwts;
    this.rows = new StoredIdentities(world.store);
    this.appRoles = new AppRoles(setting.identities, { clock: world.clock, lease_ms: leaseOf(setting) });
    this.identities = new Identities(setting.identities, {
      tokens: [digest => this.appRoles.identityOf(digest), digest => this.#tokens?.identityOf(digest)],
      jwt: jwt => this.#jwts?.check(jwt),
    });
  }

  /** Those of the configuration, and those that were made through the API. */
  static async open(setting: PeopleSetting, world: PeopleWorld): Promise<People> {
    const people = new People(setting, world, await jwtsOf(setting, world));
    const { identities, rows } = people;
    await loadIdentities(identities, rows, world.log);
    people.#tokens = await ApiTokens.load({
      ...tokenTerms(setting),
      rows: new StoredApiTokens(world.store),
      identityOf: name => identities.get(name),
      clock: world.clock,
    });
    return people;
  }

  /** Those of the configuration, as it is now. */
  get configured(): readonly Identity[] {
    return this.#setting.identities;
  }

  /** The names of the issuers of JWTs. */
  get issuers(): readonly string[] {
    return (this.#setting.jwtIssuers ?? []).map(({ name }) => name);
  }

  get tokens(): ApiTokens {
    if (this.#tokens) return this.#tokens;
    throw new TypeError('API tokens were asked for before they were read.');
  }

  /**
   * What it takes to go by another configuration: nothing happens before the returned function is called, nor before
   * what that one returns. Both in the turns in which they are given. IDENTITY_EXISTS.
   */
  async replacing(setting: PeopleSetting): Promise<() => () => IdentityChanges> {
    const jwts = await jwtsOf(setting, this.#world);
    return () => {
      const commit = this.identities.replacing(setting.identities);
      return () => {
        const changes = commit();
        this.#setting = { ...setting, identities: changes.configured };
        this.#jwts = jwts;
        this.appRoles.replace(changes.configured, leaseOf(setting));
        this.tokens.configure(tokenTerms(setting));
        return changes;
      };
    };
  }
}

export interface PeopleSetting {
  /** Of the configuration. */
  readonly identities: readonly Identity[];
  readonly jwtIssuers?: readonly JwtIssuer[] | undefined;
  /** `key`: what hashes are made with; without one there are no API tokens. */
  readonly apiTokens?: { readonly key: Secret; readonly max_s: number } | undefined;
  /** How long a token is good that an identity with a role id was given; default: an hour. */
  readonly lease_ms?: number | undefined;
}

export interface PeopleWorld {
  readonly store: Store;
  readonly clock: Clock;
  readonly log: Log;
}

/** Its library is loaded where there is something to check. */
async function jwtsOf(
  { jwtIssuers = [] }: PeopleSetting,
  { clock, log }: PeopleWorld,
): Promise<Jwts | undefined> {
  if (jwtIssuers.length === 0) return undefined;
  return new (await import('./jwt.ts')).Jwts(jwtIssuers, { clock, log });
}

const tokenTerms = ({ apiTokens }: PeopleSetting) => ({
  enabled: apiTokens !== undefined,
  max_s: apiTokens?.max_s ?? 0,
  key: apiTokens?.key ?? Secret.fromBytes(new Uint8Array(32)),
});

const leaseOf = ({ lease_ms = 3_600_000 }: PeopleSetting): number => lease_ms;

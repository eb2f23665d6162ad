import { isDeepStrictEqual } from 'node:util';
import { KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Credential } from '../wire/custodian.ts';
import type { Recognition } from '../wire/identities.ts';
import type { Grant, Role } from './grants.ts';

/** Somebody whom the configuration names, or an admin through the API. */
export interface Identity {
  readonly name: string;
  readonly roles: readonly Role[];
  /** The keys and slots that its roles are good for; nothing without one. */
  readonly grants: readonly Grant[];
  readonly source: 'configuration' | 'api';
  /** Absent for one that logs in first, or has API tokens alone. `token`: SHA-256, in hexadecimal. */
  readonly recognisedBy?: Recognition | { readonly token: string };
  /** What it logs in with; of the secret id, SHA-256 in hexadecimal. */
  readonly appRole?: { readonly roleId: string; readonly secretId: string };
  readonly createdAt?: string;
  readonly createdBy?: string;
}

/** What a JWT said of its bearer, after it was checked. */
export interface JwtClaims {
  /** The name of the configured issuer. */
  readonly issuer: string;
  readonly subject: string;
  readonly claims: Readonly<Record<string, unknown>>;
}

/** What can tell whose a credential is, besides the list itself. */
export interface Recognisers {
  /** The identity that was given a token, by the token's digest. */
  readonly tokens?: readonly ((digest: string) => Identity | undefined)[];
  /** CREDENTIAL_UNKNOWN, CREDENTIAL_EXPIRED, JWKS_UNAVAILABLE. A JWT that was checked before answers at once. */
  readonly jwt?: (jwt: string) => JwtClaims | Promise<JwtClaims> | undefined;
}

/** What a new list made of the identities there were: names. */
export interface IdentityChanges {
  readonly configured: readonly Identity[];
  readonly gone: readonly string[];
  /** Who is the same by name only. */
  readonly changed: readonly string[];
  /** Of these, who is known by something else now. */
  readonly rekeyed: readonly string[];
  readonly leftOut: readonly KeyslotError[];
}

/** Whether both are recognised by the same, and log in with the same. */
export const isKnownBySame = (one: Identity, other: Identity | undefined): boolean =>
  isDeepStrictEqual([one.recognisedBy, one.appRole], [other?.recognisedBy, other?.appRole]);

/** Credential → identity. Deny by default: what is not listed is nobody. */
export class Identities {
  readonly #recognisers: Recognisers;
  #byName = new Map<string, Identity>();
  #byCredential = new Map<string, Identity>();
  /** Several identities may share a subject and differ in the claims that they ask for. */
  #bySubject = new Map<string, Identity[]>();
  /** Of the API, that gave way to some of the configuration. */
  #gaveWay: readonly Identity[] = [];

  /** IDENTITY_EXISTS when two of them have one name, or are recognised by the same. */
  constructor(identities: readonly Identity[], recognisers: Recognisers = {}) {
    this.#recognisers = recognisers;
    for (const identity of identities) this.add(identity);
  }

  /**
   * CREDENTIAL_MISSING, CREDENTIAL_UNKNOWN, and what checking a JWT fails with. A promise only for a JWT that has
   * to be checked: nobody else waits. A look-up by digest needs no constant-time comparison: whoever could steer
   * the digest bit by bit would have to invert SHA-256 first.
   */
  authenticate(credential: Credential | undefined): Identity | Promise<Identity> {
    if (!credential) throw new KeyslotError('CREDENTIAL_MISSING', 'The request carries no credential.');
    if ('jwt' in credential) return this.#byJwt(credential.jwt);
    const found = 'token' in credential ? this.#byToken(credential.token) : this.#byCertificate(credential);
    return found ?? unknownCredential();
  }

  get(name: string): Identity | undefined {
    return this.#byName.get(name);
  }

  /** By name. */
  all(): readonly Identity[] {
    return [...this.#byName.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** IDENTITY_EXISTS when one of this name, or recognised by the same, is there already. */
  add(identity: Identity): void {
    this.#refuseDouble(identity);
    this.#byName.set(identity.name, identity);
    const { recognisedBy } = identity;
    if (!recognisedBy) return;
    if (!('jwt' in recognisedBy)) return void this.#byCredential.set(credentialKey(recognisedBy), identity);
    const subject = subjectKey(recognisedBy.jwt, recognisedBy.subject);
    this.#bySubject.set(subject, [...(this.#bySubject.get(subject) ?? []), identity]);
  }

  remove(name: string): void {
    this.#byName.delete(name);
    for (const [key, { name: other }] of this.#byCredential)
      if (other === name) this.#byCredential.delete(key);
    for (const [key, list] of this.#bySubject) {
      this.#bySubject.set(
        key,
        list.filter(other => other.name !== name),
      );
    }
  }

  /**
   * What it takes to have these in place of those of the configuration: nothing happens before the returned function
   * is called, which has to be in the same turn. One that is as it was stays the same object. What the configuration
   * says goes first: an identity of the API that is in its way is left out until it is not. IDENTITY_EXISTS.
   */
  replacing(configured: readonly Identity[]): () => IdentityChanges {
    const kept = configured.map(each => {
      const before = this.#byName.get(each.name);
      return before && isDeepStrictEqual(before, each) ? before : each;
    });
    const next = new Identities(kept);
    const leftOut: KeyslotError[] = [];
    const gaveWay: Identity[] = [];
    for (const identity of [...this.#byName.values(), ...this.#gaveWay]) {
      if (identity.source === 'configuration') continue;
      try {
        next.add(identity);
      } catch (thrown) {
        leftOut.push(toKeyslotError(thrown));
        gaveWay.push(identity);
      }
    }
    return () => {
      const before = [...this.#byName.values()].filter(each => next.get(each.name) !== each);
      this.#byName = next.#byName;
      this.#byCredential = next.#byCredential;
      this.#bySubject = next.#bySubject;
      this.#gaveWay = gaveWay;
      const isGone = ({ name }: Identity) => !this.#byName.has(name);
      return {
        configured: kept,
        gone: before.filter(isGone).map(({ name }) => name),
        changed: before.filter(each => !isGone(each)).map(({ name }) => name),
        rekeyed: before
          .filter(each => !isGone(each) && !isKnownBySame(each, next.get(each.name)))
          .map(({ name }) => name),
        leftOut,
      };
    };
  }

  #refuseDouble({ name, recognisedBy }: Identity): void {
    if (this.#byName.has(name)) {
      throw new KeyslotError('IDENTITY_EXISTS', `There is an identity ${name} already.`);
    }
    if (!recognisedBy) return;
    const same = this.all().find(other => other.recognisedBy && alike(other.recognisedBy, recognisedBy));
    if (same) throw new KeyslotError('IDENTITY_EXISTS', `${same.name} is recognised by the same already.`);
  }

  /** The public key itself comes before the names that a CA has given its holder. */
  #byCertificate({ certificate, issuer, names = [] }: Extract<Credential, { certificate: string }>) {
    const pinned = this.#byCredential.get(`spki ${certificate}`);
    if (pinned) return pinned;
    const found = new Set<Identity>();
    for (const name of names) {
      const named = [
        issuer === undefined ? undefined : this.#byCredential.get(sanKey(name, issuer)),
        this.#byCredential.get(sanKey(name, undefined)),
      ].find(each => each !== undefined);
      if (named) found.add(named);
    }
    return onlyOne(found, 'certificate');
  }

  #byToken(digest: string): Identity | undefined {
    const listed = this.#byCredential.get(`token ${digest}`);
    if (listed) return listed;
    for (const identityOf of this.#recognisers.tokens ?? []) {
      const identity = identityOf(digest);
      if (identity) return identity;
    }
    return undefined;
  }

  #byJwt(jwt: string): Identity | Promise<Identity> {
    const claims = this.#recognisers.jwt?.(jwt);
    if (claims === undefined) return unknownCredential();
    return claims instanceof Promise
      ? claims.then(each => this.#bySubjectOf(each))
      : this.#bySubjectOf(claims);
  }

  #bySubjectOf({ issuer, subject, claims }: JwtClaims): Identity {
    const named = this.#bySubject.get(subjectKey(issuer, subject)) ?? [];
    const found = named.filter(({ recognisedBy }) => {
      const wanted = recognisedBy && 'jwt' in recognisedBy ? recognisedBy.claims : undefined;
      return Object.entries(wanted ?? {}).every(([claim, value]) => hasClaim(claims, claim, value));
    });
    return onlyOne(new Set(found), 'JWT') ?? unknownCredential();
  }
}

/** The one that a credential is of. CREDENTIAL_UNKNOWN when it would fit several: nobody guesses between them. */
function onlyOne(found: ReadonlySet<Identity>, what: string): Identity | undefined {
  if (found.size <= 1) return found.values().next().value;
  throw new KeyslotError('CREDENTIAL_UNKNOWN', `The ${what} that was presented fits several identities.`);
}

function unknownCredential(): never {
  throw new KeyslotError('CREDENTIAL_UNKNOWN', 'The credential that was presented belongs to no identity.');
}

/** A claim has the value, or is a list that holds it; names from a foreign hand never reach a prototype. */
function hasClaim(claims: JwtClaims['claims'], name: string, value: string): boolean {
  if (!Object.hasOwn(claims, name)) return false;
  const claim = claims[name];
  return claim === value || (Array.isArray(claim) && claim.includes(value));
}

/** Whether nothing could tell the two apart. */
function alike(
  one: NonNullable<Identity['recognisedBy']>,
  other: NonNullable<Identity['recognisedBy']>,
): boolean {
  const isJwt = 'jwt' in one;
  if (!isJwt && !('jwt' in other)) return credentialKey(one) === credentialKey(other);
  if (!isJwt || !('jwt' in other)) return false;
  const claims = (of: typeof one) => JSON.stringify(Object.entries(of.claims ?? {}).toSorted());
  return one.jwt === other.jwt && one.subject === other.subject && claims(one) === claims(other);
}

// A token can never pass for a certificate, nor the other way round, even with the same digest.
function credentialKey(by: Exclude<NonNullable<Identity['recognisedBy']>, { jwt: string }>): string {
  if ('spki' in by) return `spki ${by.spki}`;
  return 'token' in by ? `token ${by.token}` : sanKey(by.san, by.ca);
}

/** Host names are compared without case; a CA that is not named is any. */
const sanKey = (name: string, ca: string | undefined): string =>
  `san ${ca ?? '*'} ${name.startsWith('dns:') ? name.toLowerCase() : name}`;

const subjectKey = (issuer: string, subject: string): string => JSON.stringify([issuer, subject]);

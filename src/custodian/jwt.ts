import { createHash } from 'node:crypto';
import { errors, type JWTPayload, jwtVerify } from 'jose';
import type { Clock } from '../foundation/clock.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { JwtAlgorithm } from '../wire/identities.ts';
import type { JwtClaims } from './identities.ts';
import { Jwks, type JwksSource } from './jwks.ts';

/** Somebody else who says who people are (OpenID Connect, or any issuer of JWTs, RFC 7519). */
export interface JwtIssuer {
  /** What the identities of the configuration call it. */
  readonly name: string;
  /** `iss`, letter by letter. */
  readonly issuer: string;
  /** `aud` must be or hold one of these. */
  readonly audience: readonly string[];
  readonly algorithms: readonly JwtAlgorithm[];
  readonly clockSkew_s: number;
  readonly keys: JwksSource;
}

/**
 * Checks JWTs: signature by a key of the issuer's own set, issuer, audience, times, type. What a token says of keys
 * (`jku`, `jwk`, `x5u`) is not looked at. A token that was checked is known by its digest until it expires or the
 * keys of its issuer change, so that the next request with it costs a look-up.
 *
 * Time is the highest that was seen: a clock that is set back brings no expired token back to life.
 */
export class Jwts {
  readonly #clock: Clock;
  readonly #issuers: ReadonlyMap<string, { readonly setting: JwtIssuer; readonly keys: Jwks }>;
  readonly #checked = new Map<string, Checked>();
  #now_ms = 0;

  constructor(issuers: readonly JwtIssuer[], world: { readonly clock: Clock; readonly log: Log }) {
    this.#clock = world.clock;
    this.#issuers = new Map(
      issuers.map(setting => [
        setting.issuer,
        { setting, keys: new Jwks(setting.name, setting.keys, world) },
      ]),
    );
  }

  /** CREDENTIAL_UNKNOWN, CREDENTIAL_EXPIRED, JWKS_UNAVAILABLE. Answers at once for one that was checked before. */
  check(jwt: string): JwtClaims | Promise<JwtClaims> {
    const digest = createHash('sha256').update(jwt).digest('base64');
    const known = this.#checked.get(digest);
    if (!known || known.generation !== known.keys.generation) return this.#verify(jwt, digest);
    if (this.#now() < known.until_ms) return known.claims;
    this.#checked.delete(digest);
    throw expired();
  }

  async #verify(jwt: string, digest: string): Promise<JwtClaims> {
    const { setting, keys } = this.#issuerOf(jwt);
    const clockTolerance = setting.clockSkew_s;
    try {
      const { done, generation } = await keys.with(find =>
        jwtVerify(jwt, find, {
          issuer: setting.issuer,
          audience: [...setting.audience],
          algorithms: [...setting.algorithms],
          requiredClaims: ['exp', 'sub'],
          clockTolerance,
          currentDate: new Date(this.#now()),
        }),
      );
      refuseOtherUse(done.protectedHeader.typ, done.payload);
      const claims = claimsOf(setting.name, done.payload);
      const until_ms = ((done.payload.exp ?? 0) + clockTolerance) * 1000;
      this.#keep(digest, { claims, until_ms, keys, generation });
      return claims;
    } catch (thrown) {
      throw refusalOf(thrown);
    }
  }

  /** By what the token says itself: the keys of that issuer then have to agree. */
  #issuerOf(jwt: string) {
    if (jwt.length > jwt_chars_max) throw unknown('it is too long');
    const [header, payload, , more] = jwt.split('.');
    if (header === undefined || payload === undefined || more !== undefined) throw unknown('it is not one');
    objectOf(header);
    const { iss } = objectOf(payload);
    const issuer = typeof iss === 'string' ? this.#issuers.get(iss) : undefined;
    if (issuer) return issuer;
    throw unknown('no issuer of this name is configured');
  }

  #keep(digest: string, checked: Checked): void {
    const [oldest] = this.#checked.size < checked_items_max ? [] : this.#checked.keys();
    if (oldest !== undefined) this.#checked.delete(oldest);
    this.#checked.delete(digest); // a renewed one counts as the youngest
    this.#checked.set(digest, checked);
  }

  #now(): number {
    this.#now_ms = Math.max(this.#now_ms, this.#clock.utc().getTime());
    return this.#now_ms;
  }
}

interface Checked {
  readonly claims: JwtClaims;
  readonly until_ms: number;
  readonly keys: Jwks;
  /** Of the keys that it was checked with. */
  readonly generation: number;
}

const checked_items_max = 4_000;
/** What the gateway passes on at most. */
const jwt_chars_max = 8_192;

/** RFC 8725 §3.11: a token that the same issuer made for something else is not one to log in with. */
function refuseOtherUse(typ: unknown, { cnf }: JWTPayload): void {
  const type =
    typ === undefined
      ? 'jwt'
      : String(typ)
          .toLowerCase()
          .replace(/^application\//, '');
  if (type !== 'jwt' && type !== 'at+jwt') throw unknown('it is of another type');
  // RFC 7800: it is good only together with a key, and nobody proved to hold that.
  if (cnf !== undefined) throw unknown('it is bound to a key');
}

function claimsOf(issuer: string, { sub = '', ...claims }: JWTPayload): JwtClaims {
  if (sub === '' || sub.length > 255) throw unknown('its subject is not one');
  return { issuer, subject: sub, claims };
}

function objectOf(part: string): Record<string, unknown> {
  const text = Buffer.from(part, 'base64url').toString('utf8');
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) throw unknown('it is not one');
    throw error;
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw unknown('it is not one');
  // RFC 7519 §4: of two claims with one name, this reader and the next could believe different ones.
  if (namesIn(text).some((name, at, names) => names.indexOf(name) !== at))
    throw unknown('a name stands there twice');
  return value as Record<string, unknown>;
}

/** The names of the outermost object of a JSON text that parses. */
function namesIn(text: string): readonly string[] {
  const names: string[] = [];
  let depth = 0;
  for (const [token, after] of text.matchAll(/"(?:[^"\\]|\\.)*"(?=\s*(:)?)|[{}[\]]/g)) {
    if (token === '{' || token === '[') depth += 1;
    else if (token === '}' || token === ']') depth -= 1;
    else if (depth === 1 && after !== undefined) names.push(JSON.parse(token) as string);
  }
  return names;
}

function refusalOf(thrown: unknown): unknown {
  if (thrown instanceof errors.JWTExpired) return expired();
  if (thrown instanceof errors.JOSEError) return unknown(reasons[thrown.code] ?? 'it is not valid', thrown);
  // The key of the set is none that its algorithm takes (too short, of another curve).
  if (thrown instanceof TypeError || thrown instanceof DOMException)
    return unknown('its key does not fit', thrown);
  return thrown;
}

const reasons: Readonly<Record<string, string>> = {
  ERR_JWT_CLAIM_VALIDATION_FAILED: 'a claim is missing, early, or for somebody else',
  ERR_JWS_SIGNATURE_VERIFICATION_FAILED: 'its signature is not one of the issuer',
  ERR_JOSE_ALG_NOT_ALLOWED: 'its algorithm is not allowed',
  ERR_JWKS_NO_MATCHING_KEY: 'the issuer has no such key',
  ERR_JWKS_MULTIPLE_MATCHING_KEYS: 'it does not say which key of the issuer it was made with',
};

const unknown = (why: string, cause?: unknown) =>
  new KeyslotError('CREDENTIAL_UNKNOWN', `The JWT is not accepted: ${why}.`, { cause });

const expired = () => new KeyslotError('CREDENTIAL_EXPIRED', 'The JWT has expired.');

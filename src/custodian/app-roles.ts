import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Clock } from '../foundation/clock.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Secret } from '../foundation/secret.ts';
import type { Identity } from './identities.ts';
import { PinGuard } from './pin-guard.ts';

/**
 * Identities that log in with a role id and a secret id, and are known by a token from then on: 32 random bytes,
 * kept by digest only and in memory only, so that a restart ends them all and everybody logs in again. A token
 * ends with its lease, which is measured on the monotonic clock and is never renewed.
 *
 * Wrong secret ids are answered as wrong PINs are: a second's wait, and after five in a row five minutes without
 * a login of this role. Tokens that were given out before stay good meanwhile.
 */
export class AppRoles {
  #roles: ReadonlyMap<string, Role>;
  readonly #clock: Clock;
  #lease_ms: number;
  readonly #guard: PinGuard;
  /** For role ids that do not exist: they are to answer like those that do, and to cost no memory. */
  #strangers: PinGuard;
  #strangerFailures = 0;
  readonly #tokens = new Map<string, Token>();

  constructor(identities: readonly Identity[], options: { clock: Clock; lease_ms: number }) {
    this.#roles = new Map(identities.flatMap(roleOf));
    this.#clock = options.clock;
    this.#lease_ms = options.lease_ms;
    this.#guard = new PinGuard(options.clock);
    this.#strangers = new PinGuard(options.clock);
  }

  /** From now on these are all. A token stays good while its role and its secret id do; a lease that runs, runs on. */
  replace(identities: readonly Identity[], lease_ms: number): void {
    const roles = new Map(identities.flatMap(roleOf));
    for (const [roleId, before] of this.#roles) {
      const now = roles.get(roleId);
      const same = now?.identity.name === before.identity.name && now.secretId.equals(before.secretId);
      for (const digest of before.tokens) {
        const token = this.#tokens.get(digest);
        if (!same || !token) this.#tokens.delete(digest);
        else this.#tokens.set(digest, { ...token, role: now });
      }
      if (same) for (const digest of before.tokens) now.tokens.add(digest);
    }
    this.#roles = roles;
    this.#lease_ms = lease_ms;
  }

  /** CREDENTIAL_UNKNOWN, PIN_RATE_LIMITED, IDENTITY_LOCKED_OUT. The token is handed out here, once, and not kept. */
  login(roleId: string, secretId: Secret): { identity: Identity; token: Buffer; lease_s: number } {
    const role = this.#roles.get(roleId);
    const guard = role ? this.#guard : this.#strangers;
    guard.admit(roleId);
    const right = timingSafeEqual(secretId.use(sha256), role?.secretId ?? nobodysSecret);
    if (!role || !right) {
      guard.failed(roleId);
      if (!role) this.#forgetStrangers();
      throw new KeyslotError('CREDENTIAL_UNKNOWN', 'The role id or the secret id is wrong.');
    }
    guard.succeeded(roleId);
    const token = Buffer.from(randomBytes(32).toString('base64url'));
    this.#keep(sha256(token).toString('hex'), role);
    return { identity: role.identity, token, lease_s: this.#lease_ms / 1000 };
  }

  /** Whose token has this digest; nobody's when it has expired. */
  identityOf(digest: string): Identity | undefined {
    const token = this.#tokens.get(digest);
    if (!token) return undefined;
    if (this.#alive(token)) return token.role.identity;
    this.#remove(digest, token);
    return undefined;
  }

  /** Who logs in without end pushes out its own oldest token, nobody else's. */
  #keep(digest: string, role: Role): void {
    for (const oldest of role.tokens) {
      const token = this.#tokens.get(oldest);
      if (token && this.#alive(token) && role.tokens.size < tokens_max) break;
      this.#tokens.delete(oldest);
      role.tokens.delete(oldest);
    }
    role.tokens.add(digest);
    this.#tokens.set(digest, { role, until_ms: this.#clock.monotonic_ms() + this.#lease_ms });
  }

  #remove(digest: string, { role }: Token): void {
    this.#tokens.delete(digest);
    role.tokens.delete(digest);
  }

  #alive({ until_ms }: Token): boolean {
    return this.#clock.monotonic_ms() < until_ms;
  }

  #forgetStrangers(): void {
    this.#strangerFailures += 1;
    if (this.#strangerFailures % strangers_max === 0) this.#strangers = new PinGuard(this.#clock);
  }
}

interface Role {
  readonly identity: Identity;
  readonly secretId: Buffer;
  /** Digests of the tokens that were given out, the oldest first. */
  readonly tokens: Set<string>;
}

interface Token {
  readonly role: Role;
  readonly until_ms: number;
}

const tokens_max = 1_000; // per role
const strangers_max = 1_000;

const roleOf = (identity: Identity): [string, Role][] =>
  identity.appRole
    ? [
        [
          identity.appRole.roleId,
          { identity, secretId: Buffer.from(identity.appRole.secretId, 'hex'), tokens: new Set() },
        ],
      ]
    : [];

const sha256 = (bytes: Uint8Array): Buffer => createHash('sha256').update(bytes).digest();

// Nobody knows what it would be the digest of.
const nobodysSecret = randomBytes(32);

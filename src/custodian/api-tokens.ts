import { createHash, createHmac, randomBytes } from 'node:crypto';
import type { Clock } from '../foundation/clock.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Secret } from '../foundation/secret.ts';
import type { StoredApiToken } from '../store/api-tokens.ts';
import type { ApiTokenView } from '../wire/identities.ts';
import type { Role } from './grants.ts';
import type { Identity } from './identities.ts';

/**
 * Bearer tokens that an admin issues: `kst_<id>_<32 random bytes>`. A token is shown once. What is kept is an HMAC
 * of its digest under a key that is not in the store, so that neither a copy of the store nor the right to write
 * into it is worth a token. Each ends by its own time, or at once when it is revoked.
 *
 * Whoever administers, operates or approves takes no token: what a program keeps in a variable is too easily
 * copied for that. Tokens are never prolonged, and none outlives its identity.
 */
export class ApiTokens {
  #world: ApiTokensWorld;
  readonly #byId = new Map<string, StoredApiToken>();
  readonly #byHash = new Map<string, StoredApiToken>();
  #now_ms = 0;

  private constructor(world: ApiTokensWorld) {
    this.#world = world;
  }

  /** Tokens of identities that are gone are revoked before anybody else can get their name. */
  static async load(world: ApiTokensWorld): Promise<ApiTokens> {
    const tokens = new ApiTokens(world);
    for (const stored of await world.rows.all()) tokens.#remember(stored);
    for (const { identity } of tokens.#active()) {
      if (!world.identityOf(identity)) await tokens.revokeAllOf(identity);
    }
    return tokens;
  }

  /** Whether there are any, how long new ones may live, and what all are hashed with, from now on. */
  configure(terms: Pick<ApiTokensWorld, 'enabled' | 'max_s' | 'key'>): void {
    this.#world = { ...this.#world, ...terms };
  }

  /**
   * Whose token has this SHA-256 digest. CREDENTIAL_EXPIRED for one that was good once. The look-up by a keyed digest
   * needs no constant-time comparison: nobody can steer what they cannot compute.
   */
  identityOf(digest: string): Identity | undefined {
    if (!this.#world.enabled) return undefined;
    const token = this.#byHash.get(this.#hash(digest).toString('base64'));
    if (!token) return undefined;
    const state = this.#stateOf(token);
    if (state !== 'active') {
      throw new KeyslotError('CREDENTIAL_EXPIRED', `The API token ${token.id} is ${state}.`);
    }
    const identity = this.#world.identityOf(token.identity);
    return identity && barred(identity) === undefined ? identity : undefined;
  }

  /** API_TOKENS_DISABLED, IDENTITY_INVALID for a time that is longer than allowed. The token's text is not kept. */
  async issue(
    identity: Identity,
    order: { label: string; expires_s: number; by: string },
  ): Promise<{ token: Buffer; view: ApiTokenView }> {
    const { enabled, max_s, rows } = this.#world;
    if (!enabled) throw new KeyslotError('API_TOKENS_DISABLED', 'The configuration does not switch them on.');
    const role = barred(identity);
    if (role !== undefined) {
      throw new KeyslotError(
        'API_TOKENS_DISABLED',
        `${identity.name} has the role ${role}, which takes no API token.`,
      );
    }
    if (order.expires_s > max_s) {
      throw new KeyslotError(
        'IDENTITY_INVALID',
        `expiresIn_s: an API token lives for ${max_s} seconds at most.`,
      );
    }
    const now_ms = this.#now();
    const id = randomBytes(8).toString('hex');
    const token = Buffer.from(`kst_${id}_${randomBytes(32).toString('base64url')}`);
    const row: StoredApiToken = {
      id,
      identity: identity.name,
      label: order.label,
      hash: this.#hash(createHash('sha256').update(token).digest('hex')),
      createdAt: new Date(now_ms).toISOString(),
      createdBy: order.by,
      expiresAt: new Date(now_ms + order.expires_s * 1000).toISOString(),
    };
    await rows.insert(row);
    this.#remember(row);
    return { token, view: this.#view(row) };
  }

  /** API_TOKEN_UNKNOWN. Good for nothing from the call on, also when writing it down fails then: repeat it. */
  async revoke(id: string): Promise<ApiTokenView> {
    const token = this.#byId.get(id);
    if (!token) throw new KeyslotError('API_TOKEN_UNKNOWN', `There is no API token ${id.slice(0, 63)}.`);
    if (token.revokedAt !== undefined) return this.#view(token);
    const at = new Date(this.#now());
    const revoked = { ...token, revokedAt: at.toISOString() };
    this.#remember(revoked);
    try {
      await this.#world.rows.revoke(id, at);
    } catch (error) {
      this.#byId.set(id, token); // so that a repeat writes; the hash stays revoked
      throw error;
    }
    return this.#view(revoked);
  }

  async revokeAllOf(identity: string): Promise<void> {
    for (const token of this.#active()) if (token.identity === identity) await this.revoke(token.id);
  }

  /** The oldest first; of one identity when it is named. */
  list(identity?: string): readonly ApiTokenView[] {
    const some = [...this.#byId.values()].filter(
      each => identity === undefined || each.identity === identity,
    );
    return some.map(each => this.#view(each));
  }

  #remember(token: StoredApiToken): void {
    this.#byId.set(token.id, token);
    this.#byHash.set(Buffer.from(token.hash).toString('base64'), token);
  }

  #active(): readonly StoredApiToken[] {
    return [...this.#byId.values()].filter(token => this.#stateOf(token) === 'active');
  }

  #stateOf({ revokedAt, expiresAt }: StoredApiToken): ApiTokenView['state'] {
    if (revokedAt !== undefined) return 'revoked';
    return Date.parse(expiresAt) > this.#now() ? 'active' : 'expired';
  }

  #view(token: StoredApiToken): ApiTokenView {
    const { id, identity, label, createdAt, createdBy, expiresAt } = token;
    return { id, identity, label, createdAt, createdBy, expiresAt, state: this.#stateOf(token) };
  }

  #hash(digest: string): Buffer {
    return this.#world.key.use(key => createHmac('sha256', key).update(digest).digest());
  }

  /** The highest time that was seen: a clock that is set back revives nothing. */
  #now(): number {
    this.#now_ms = Math.max(this.#now_ms, this.#world.clock.utc().getTime());
    return this.#now_ms;
  }
}

export interface ApiTokensWorld {
  readonly enabled: boolean;
  /** How long one may live. */
  readonly max_s: number;
  /** What the hashes are made with: 32 random bytes that the store does not hold. */
  readonly key: Secret;
  readonly rows: ApiTokenRows;
  readonly identityOf: (name: string) => Identity | undefined;
  readonly clock: Clock;
}

/** Where they are kept; `StoredApiTokens` is one. */
export interface ApiTokenRows {
  all(): Promise<readonly StoredApiToken[]>;
  insert(token: StoredApiToken): Promise<void>;
  revoke(id: string, at: Date): Promise<void>;
}

const tokenless: readonly Role[] = ['admin', 'operator', 'approver'];

const barred = ({ roles }: Identity): Role | undefined => roles.find(role => tokenless.includes(role));

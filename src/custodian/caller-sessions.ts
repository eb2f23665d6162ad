import { createHash, randomBytes } from 'node:crypto';
import type { SlotId } from '../custody/ids.ts';
import type { Clock } from '../foundation/clock.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { SessionView } from '../wire/views.ts';
import type { Identity } from './identities.ts';

/**
 * PIN sessions of callers: a bearer token bound to one identity and one slot. Known by digest only, in memory
 * only: a restart ends them all. Expiry is measured on the monotonic clock.
 */
export class CallerSessions {
  readonly #clock: Clock;
  #idle_ms: number;
  #absolute_ms: number;
  readonly #sessions = new Map<string, CallerSession>();

  constructor(options: { clock: Clock } & SessionLimits) {
    this.#clock = options.clock;
    this.#idle_ms = options.idle_ms;
    this.#absolute_ms = options.absolute_ms;
  }

  /** For those that are open too. */
  limit({ idle_ms, absolute_ms }: SessionLimits): void {
    this.#idle_ms = idle_ms;
    this.#absolute_ms = absolute_ms;
  }

  /** The token is handed out here, once, and not kept. */
  open(identity: Identity, slot: SlotId): { token: Buffer; view: SessionView } {
    this.#sweep();
    this.#makeRoom(identity.name);
    const token = Buffer.from(randomBytes(32).toString('base64url'));
    const now_ms = this.#clock.monotonic_ms();
    this.#sessions.set(tokenDigest(token), {
      identity: identity.name,
      slot,
      opened_ms: now_ms,
      used_ms: now_ms,
    });
    const expiresAt = new Date(this.#clock.utc().getTime() + this.#absolute_ms).toISOString();
    return { token, view: { slot, expiresAt, idle_s: this.#idle_ms / 1000 } };
  }

  /** SESSION_REQUIRED, SESSION_EXPIRED, SESSION_FOREIGN. Using a session postpones its idle expiry. */
  require(digest: string | undefined, identity: Identity, slot: SlotId): void {
    const session = this.#find(digest);
    if (session.identity !== identity.name || session.slot !== slot) {
      throw new KeyslotError(
        'SESSION_FOREIGN',
        `The session is not one of ${identity.name} on slot ${slot}.`,
      );
    }
    session.used_ms = this.#clock.monotonic_ms();
  }

  /** Whether the token is of a live session of this identity on this slot; asking does not count as use. */
  holds(digest: string | undefined, identity: Identity, slot: SlotId): boolean {
    const session = digest === undefined ? undefined : this.#sessions.get(digest);
    return session?.identity === identity.name && session.slot === slot && this.#alive(session);
  }

  /** SESSION_EXPIRED for a token that was presented and is of no live session, so that its holder opens another. */
  refuseExpired(digest: string | undefined): void {
    if (digest !== undefined) this.#find(digest);
  }

  /** Ends a session of this identity. The same failures as `require`. */
  close(digest: string | undefined, identity: Identity): void {
    const session = this.#find(digest);
    if (session.identity !== identity.name) {
      throw new KeyslotError('SESSION_FOREIGN', `The session is not one of ${identity.name}.`);
    }
    this.#sessions.delete(digest ?? '');
  }

  /** When a slot is locked, nobody stays inside. */
  closeAllOf(slot: SlotId): void {
    for (const [digest, session] of this.#sessions) {
      if (session.slot === slot) this.#sessions.delete(digest);
    }
  }

  /** Somebody who is no identity any more is nowhere inside. */
  closeAllBy(identity: string): void {
    for (const [digest, session] of this.#sessions) {
      if (session.identity === identity) this.#sessions.delete(digest);
    }
  }

  #find(digest: string | undefined): CallerSession {
    if (digest === undefined)
      throw new KeyslotError('SESSION_REQUIRED', 'The request carries no session token.');
    const session = this.#sessions.get(digest);
    if (session && this.#alive(session)) return session;
    this.#sessions.delete(digest);
    throw new KeyslotError('SESSION_EXPIRED', 'The session is not known any more.');
  }

  #alive(session: CallerSession): boolean {
    const now_ms = this.#clock.monotonic_ms();
    return now_ms - session.used_ms < this.#idle_ms && now_ms - session.opened_ms < this.#absolute_ms;
  }

  #sweep(): void {
    for (const [digest, session] of this.#sessions) if (!this.#alive(session)) this.#sessions.delete(digest);
  }

  /** A caller that opens without closing pushes out its own oldest session, nobody else's. */
  #makeRoom(identity: string): void {
    const own = [...this.#sessions].filter(([, session]) => session.identity === identity);
    if (own.length >= sessions_max) this.#sessions.delete(own[0]?.[0] ?? '');
  }
}

export interface SessionLimits {
  readonly idle_ms: number;
  readonly absolute_ms: number;
}

interface CallerSession {
  readonly identity: string;
  readonly slot: SlotId;
  readonly opened_ms: number;
  used_ms: number;
}

const sessions_max = 100; // per identity

const tokenDigest = (token: Buffer): string => createHash('sha256').update(token).digest('hex');

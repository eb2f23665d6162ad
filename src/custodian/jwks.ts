import { createLocalJWKSet, errors, type JSONWebKeySet, type JWK, type JWTVerifyGetKey } from 'jose';
import type { Clock } from '../foundation/clock.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';

/** Where an issuer says which keys are its own: a file or a URL. */
export interface JwksSource {
  /** Whatever it throws means: not now. */
  read(): Promise<string>;
  /** How old the keys may be before they are read again. */
  readonly refresh_ms: number;
  /** How old they may be at most, when they cannot be read again. */
  readonly max_ms: number;
  /** Between two readings that somebody's token gave rise to, and after one that failed. */
  readonly cooldown_ms: number;
}

/**
 * The public keys of an issuer (RFC 7517), read when they are needed and kept until `refresh_ms`. A token with a key
 * id that is not among them has them read again, with a pause between two such readings; keys that cannot be read
 * serve until `max_ms`. One reading at a time, whoever asks. A key that has gone is forgotten with the reading that
 * shows it: `generation` changes with the keys.
 */
export class Jwks {
  readonly #source: JwksSource;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #issuer: string;
  #keys: { readonly text: string; readonly find: JWTVerifyGetKey } | undefined;
  #generation = 0;
  #read_ms = Number.NEGATIVE_INFINITY;
  #tried_ms = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;

  constructor(issuer: string, source: JwksSource, { clock, log }: { clock: Clock; log: Log }) {
    this.#issuer = issuer;
    this.#source = source;
    this.#clock = clock;
    this.#log = log;
  }

  /** Which keys these are, while they are fresh: what was checked with them before needs no second look. */
  get generation(): number | undefined {
    return this.#age() < this.#source.refresh_ms ? this.#generation : undefined;
  }

  /** JWKS_UNAVAILABLE when there are none, or only such as are too old. Otherwise what `work` fails with. */
  async with<T>(work: (find: JWTVerifyGetKey) => Promise<T>): Promise<{ done: T; generation: number }> {
    if (this.#age() >= this.#source.refresh_ms && this.#mayTry()) await this.#refresh();
    try {
      return { done: await work(this.#current()), generation: this.#generation };
    } catch (thrown) {
      if (!(thrown instanceof errors.JWKSNoMatchingKey) || !this.#mayTry()) throw thrown;
    }
    await this.#refresh();
    return { done: await work(this.#current()), generation: this.#generation };
  }

  #current(): JWTVerifyGetKey {
    if (this.#keys && this.#age() < this.#source.max_ms) return this.#keys.find;
    throw new KeyslotError('JWKS_UNAVAILABLE', `The keys of the issuer ${this.#issuer} cannot be read.`, {
      retryAfter_s: Math.ceil(this.#source.cooldown_ms / 1000),
    });
  }

  /** Whoever comes while they are being read waits for that reading. */
  #mayTry(): boolean {
    return (
      this.#reading !== undefined || this.#clock.monotonic_ms() - this.#tried_ms >= this.#source.cooldown_ms
    );
  }

  async #refresh(): Promise<void> {
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
    });
    await this.#reading;
  }

  async #read(): Promise<void> {
    const began_ms = this.#clock.monotonic_ms();
    this.#tried_ms = began_ms;
    try {
      const text = await this.#source.read();
      if (text !== this.#keys?.text) {
        this.#keys = { text, find: createLocalJWKSet(publicKeys(text)) };
        this.#generation += 1;
      }
      this.#read_ms = began_ms;
    } catch (thrown) {
      // Unreachable, or not a set of keys: the ones from before serve on, as long as they may.
      this.#log.warn({ issuer: this.#issuer, err: thrown }, 'the keys of a token issuer cannot be read');
    }
  }

  #age(): number {
    return this.#clock.monotonic_ms() - this.#read_ms;
  }
}

/** Symmetric keys are left out: an issuer that publishes one has published what its tokens are made with. */
function publicKeys(text: string): JSONWebKeySet {
  const set: unknown = JSON.parse(text);
  if (typeof set === 'object' && set !== null && 'keys' in set && Array.isArray(set.keys)) {
    if (set.keys.length <= keys_items_max && set.keys.every(isKey)) {
      return { keys: set.keys.filter(({ kty }) => kty === 'EC' || kty === 'OKP' || kty === 'RSA') };
    }
  }
  throw new TypeError('What the issuer publishes is not a set of keys.');
}

const isKey = (key: unknown): key is JWK =>
  typeof key === 'object' && key !== null && 'kty' in key && typeof key.kty === 'string';

const keys_items_max = 100;

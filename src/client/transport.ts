import type { ErrorCode } from '../foundation/errors.ts';
import type { Check } from './checks.ts';
import { Deadline } from './deadline.ts';
import { isKeyslotClientError, KeyslotClientError } from './errors.ts';
import { type Problem, problem } from './replies.ts';

/** As much of `fetch` as is used: the runtime's own, undici's, or one with a client certificate. */
export type Fetch = (url: string, init: FetchInit) => Promise<FetchReply>;

interface FetchInit {
  readonly method: string;
  readonly headers: Record<string, string>;
  readonly body?: string;
  readonly signal: AbortSignal;
  readonly redirect: 'manual';
}

interface FetchReply {
  readonly status: number;
  readonly headers: { get(name: string): string | null };
  text(): Promise<string>;
}

/** Who calls. With a client certificate the fetch brings it, and there is no token. */
export interface Auth {
  /** Asked for before every request when it is a function, so a token may be renewed at any time. */
  readonly bearerToken?: string | (() => string | Promise<string>) | undefined;
  /**
   * For slots that ask for a PIN session: opened when a signature is first asked for, opened again when it has
   * expired, and closed with the client. A PIN that was refused is not sent a second time.
   */
  readonly session?: { readonly slot: string; readonly pin: () => string | Promise<string> } | undefined;
}

export interface TransportOptions {
  readonly url: string | URL;
  readonly auth?: Pick<Auth, 'bearerToken'> | undefined;
  readonly fetch?: Fetch | undefined;
  readonly timeout_ms: number;
  readonly retries: number;
}

/** One question to the appliance. */
export interface Question<T, R = T> {
  readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  readonly path: string;
  readonly body?: object;
  readonly repeats: Repeats;
  readonly check: Check<T>;
  /** Makes the answer of the reply; a failure that it throws counts like one that the appliance answered. */
  readonly read: (reply: T) => R;
  /** A status from 400 on that is an answer all the same. */
  readonly alsoAnswers?: number;
}

/**
 * Whether asking twice does what asking once does: `freely` for reads and signatures, `under-key` for changes, of
 * which the appliance makes one for each Idempotency-Key, `never` for what carries a PIN.
 */
export type Repeats = 'freely' | 'under-key' | 'never';

export interface AskOptions {
  readonly signal?: AbortSignal | undefined;
  readonly idempotencyKey?: string | undefined;
  readonly requestId?: string | undefined;
  /** The id of an approval. */
  readonly approval?: string | undefined;
  /** The token of a PIN session. */
  readonly session?: string | undefined;
}

/**
 * Sends questions and reads answers. A failure is repeated when the problem says `retryable`, or the connection
 * broke, and the question may be repeated, always under the same Idempotency-Key; any other question only when no
 * connection came about, so that nothing can have happened. Waits are at least Retry-After, jittered, and never beyond the time of the call.
 */
export class Transport {
  readonly #base: string;
  readonly #bearerToken: Auth['bearerToken'];
  readonly #fetch: Fetch;
  readonly #timeout_ms: number;
  readonly #retries: number;

  constructor(options: TransportOptions) {
    const { url, auth, fetch = globalThis.fetch, timeout_ms, retries } = options;
    this.#base = baseOf(new URL(url));
    this.#bearerToken = auth?.bearerToken;
    this.#fetch = fetch;
    this.#timeout_ms = timeout_ms;
    this.#retries = retries;
  }

  async ask<T, R>(question: Question<T, R>, options: AskOptions = {}): Promise<R> {
    const { signal, idempotencyKey = keyOf(question, options) } = options;
    const deadline = new Deadline(this.#timeout_ms, signal);
    try {
      for (let repeats = 0; ; repeats += 1) {
        try {
          const once = () => this.#once(question, { ...options, idempotencyKey }, deadline.signal);
          return await deadline.race(once);
        } catch (thrown) {
          const wait_ms = waitOf(thrown, repeats);
          if (repeats >= this.#retries || !mayRepeat(thrown, question) || wait_ms >= deadline.left_ms) {
            throw toKnown(thrown, question.repeats, options.idempotencyKey !== undefined);
          }
          await deadline.sleep(wait_ms);
        }
      }
    } finally {
      deadline.close();
    }
  }

  async #once<T, R>(question: Question<T, R>, options: AskOptions, signal: AbortSignal): Promise<R> {
    const { method, path, body, check, read, alsoAnswers } = question;
    const init: FetchInit = {
      method,
      headers: await this.#headers(question, options),
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal,
      redirect: 'manual', // a signature is asked for where the caller said, and nowhere else
    };
    const { status, retryAfter_s, content } = await this.#send(path, init);
    if (status >= 200 && (status < 300 || status === alsoAnswers)) {
      const reply = parsed(content);
      if (check(reply)) return read(reply);
      throw invalid('The reply does not have the shape that was expected.', status);
    }
    const failure = parsed(content);
    if (!problem(failure)) throw invalid(`The reply ${status} is not one of Keyslot.`, status);
    throw errorOf(failure, { status, retryAfter_s });
  }

  async #send(path: string, init: FetchInit) {
    const fetch = this.#fetch; // called as a function: a browser's fetch refuses to be a method
    try {
      const reply = await fetch(this.#base + path, init);
      const retryAfter = reply.headers.get('retry-after') ?? '';
      const retryAfter_s = /^\d{1,6}$/.test(retryAfter) ? Number(retryAfter) : undefined;
      return { status: reply.status, retryAfter_s, content: await reply.text() };
    } catch (thrown) {
      throw unreachable(this.#base, codesOf(thrown));
    }
  }

  async #headers({ method, body }: Pick<Question<unknown>, 'method' | 'body'>, options: AskOptions) {
    const { idempotencyKey, requestId, approval, session } = options;
    const token = typeof this.#bearerToken === 'function' ? await this.#bearerToken() : this.#bearerToken;
    if (token !== undefined && !/^[\x21-\x7e]+$/.test(token)) {
      throw new TypeError('The bearer token has characters that no header can carry, maybe a line break.');
    }
    if (requestId !== undefined && !/^[A-Za-z0-9._:-]{1,100}$/.test(requestId)) {
      throw new TypeError('A requestId has 1 to 100 of A-Z, a-z, 0-9, ".", "_", ":" and "-".');
    }
    return {
      Accept: 'application/json',
      ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
      ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }),
      ...(session === undefined ? {} : { 'Keyslot-Session': session }),
      ...(requestId === undefined ? {} : { 'Request-Id': requestId }),
      ...(method === 'GET' || idempotencyKey === undefined ? {} : { 'Idempotency-Key': idempotencyKey }),
      ...(approval === undefined ? {} : { 'Keyslot-Approval': approval }),
    };
  }
}

/** A signature that its caller gave a name is known by that name: a random key would make another request of it. */
const keyOf = (
  { repeats }: Pick<Question<unknown>, 'repeats'>,
  { requestId }: AskOptions,
): string | undefined => (repeats === 'freely' && requestId !== undefined ? undefined : crypto.randomUUID());

/** A problem as the error that it is. */
export const errorOf = (
  { code, detail, retryable, requestId, violations }: Problem,
  facts: { status?: number; retryAfter_s?: number | undefined; index?: number } = {},
) =>
  new KeyslotClientError(code as ErrorCode, detail.slice(0, 1_000), {
    retryable,
    requestId,
    violations,
    ...facts,
  });

export const invalid = (detail: string, status?: number) =>
  new KeyslotClientError('CLIENT_REPLY_INVALID', detail, { status });

/** A part of a path. What no id can be would make another path of it, so it goes nowhere. */
export function segment(
  id: string,
  code: 'KEY_ID_INVALID' | 'SLOT_ID_INVALID' | 'MIGRATION_UNKNOWN' | 'POLICY_UNKNOWN' | 'APPROVAL_UNKNOWN',
): string {
  if (/^[A-Za-z0-9_-]{1,200}$/.test(id)) return id;
  throw new KeyslotClientError(code, 'The id is not one that Keyslot gives.');
}

function baseOf({ protocol, hostname, username, password, origin, pathname }: URL): string {
  const loopback = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(hostname);
  if (protocol !== 'https:' && !(protocol === 'http:' && loopback)) {
    throw new TypeError('The url of an appliance begins with https:.');
  }
  if (username || password) throw new TypeError('The url of an appliance carries no user and no password.');
  return origin + pathname.replace(/\/+$/, '');
}

function parsed(content: string): unknown {
  try {
    return JSON.parse(content);
  } catch (thrown) {
    if (thrown instanceof SyntaxError) return undefined; // which no check accepts
    throw thrown;
  }
}

function mayRepeat(thrown: unknown, { repeats }: { readonly repeats: Repeats }): boolean {
  if (!isKeyslotClientError(thrown)) return false;
  if (thrown.code === 'CLIENT_TIMEOUT' || thrown.code === 'CLIENT_ABORTED') return false;
  return repeats === 'never' ? neverSent.has(thrown) : thrown.retryable;
}

/** Failures of which it is certain that the request did not leave. */
const neverSent = new WeakSet<KeyslotClientError>();
const neverSentCodes = ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'UND_ERR_CONNECT_TIMEOUT'];

/** The cause is not kept: a runtime may quote in it the header that it did not like. */
function unreachable(base: string, codes: readonly string[]): KeyslotClientError {
  const certificate = codes.some(code => /CERT|SSL|TLS|ISSUER|VERIFY/.test(code));
  const why = codes.length > 0 ? ` (${codes.join(', ')})` : '';
  const detail = certificate
    ? `The TLS connection to ${base} was refused${why}: either the certificate of the appliance is not of the CA ` +
      'or for the name that this client expects, or the appliance does not accept the certificate of this client.'
    : `No answer came from ${base}${why}.`;
  const error = new KeyslotClientError('CLIENT_NETWORK', detail, { retryable: !certificate });
  if (codes.some(code => neverSentCodes.includes(code))) neverSent.add(error);
  return error;
}

/** The codes of an error and of what caused it; runtimes without codes have none. */
function codesOf(thrown: unknown, depth = 0): string[] {
  if (!(thrown instanceof Error) || depth > 3) return [];
  const code = 'code' in thrown && typeof thrown.code === 'string' ? [thrown.code.slice(0, 64)] : [];
  return [...new Set([...code, ...codesOf(thrown.cause, depth + 1)])];
}

/**
 * What a call ends with. A change that may have happened is not called worth repeating: another call has another
 * key, unless its caller chose the key and can say the same one again.
 */
function toKnown(thrown: unknown, repeats: Repeats, keyGiven: boolean): unknown {
  if (!isKeyslotClientError(thrown) || !thrown.retryable || neverSent.has(thrown)) return thrown;
  if (repeats === 'freely' || (repeats === 'under-key' && keyGiven)) return thrown;
  if (thrown.code !== 'CLIENT_NETWORK' && thrown.code !== 'CLIENT_TIMEOUT') return thrown;
  const detail = `${thrown.detail} Look whether it happened before you ask again.`;
  return new KeyslotClientError(thrown.code, detail, { retryable: false });
}

/** Twice as long each time, at a random point of its second half, so that many clients do not come back as one. */
function waitOf(thrown: unknown, repeats: number): number {
  const [chance = 0] = crypto.getRandomValues(new Uint32Array(1));
  const backoff_ms = Math.min(firstWait_ms * 2 ** repeats, wait_ms_max) * (0.5 + chance / 2 ** 33);
  const asked_ms = isKeyslotClientError(thrown) ? (thrown.retryAfter_s ?? 0) * 1_000 : 0;
  return asked_ms + backoff_ms;
}

const firstWait_ms = 100;
const wait_ms_max = 5_000;

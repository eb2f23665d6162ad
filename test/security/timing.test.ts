import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ApiTokens } from '../../src/custodian/api-tokens.ts';
import { PinGuard } from '../../src/custodian/pin-guard.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { StoredApiTokens } from '../../src/store/api-tokens.ts';
import { Store } from '../../src/store/store.ts';
import { people } from '../custodian/lab.ts';

/**
 * In the manner of dudect: two kinds of wrong secrets, one that is wrong from its first byte on and one that is wrong
 * in its last, presented in random order; if a comparison took longer for the more they have in common, Welch's t
 * would tell. A comparison that does leak is found by the same detector, so that silence means something.
 */

type Kind = 'far' | 'near';

const t_max = 4.5;
const samples = 20_000;
const attempts = 5;

/** Welch's t of the times of both kinds, without the slow tail that interrupts and collections make. */
function tOf(present: (kind: Kind, at: number) => void): number {
  const order = randomBytes(samples);
  const times: Record<Kind, number[]> = { far: [], near: [] };
  for (let at = 0; at < samples; at += 1) {
    const kind: Kind = (order[at] ?? 0) & 1 ? 'near' : 'far';
    const start_ns = process.hrtime.bigint();
    present(kind, at);
    times[kind].push(Number(process.hrtime.bigint() - start_ns));
  }
  const all = [...times.far, ...times.near].toSorted((a, b) => a - b);
  const crop = all[Math.floor(all.length * 0.9)] ?? 0;
  const [far, near] = (['far', 'near'] as const).map(kind =>
    momentsOf(times[kind].filter(time => time <= crop)),
  );
  if (!far || !near) throw new TypeError('There are two kinds.');
  return (near.mean - far.mean) / Math.sqrt(far.variance / far.count + near.variance / near.count);
}

function momentsOf(times: readonly number[]) {
  const mean = times.reduce((sum, time) => sum + time, 0) / times.length;
  const variance = times.reduce((sum, time) => sum + (time - mean) ** 2, 0) / (times.length - 1);
  return { mean, variance, count: times.length };
}

/** The least that a noisy machine lets it look like. */
function leastT(present: (kind: Kind, at: number) => void): number {
  let least = Number.POSITIVE_INFINITY;
  for (let attempt = 0; attempt < attempts && least >= t_max; attempt += 1)
    least = Math.min(least, Math.abs(tOf(present)));
  return least;
}

/** As long a secret as may be, so that the difference would be as large as can be. */
const secret = randomBytes(2_048);
const wrong: Readonly<Record<Kind, Buffer>> = { far: Buffer.from(secret), near: Buffer.from(secret) };
wrong.far[0] = (secret[0] ?? 0) ^ 1;
wrong.near[secret.length - 1] = (secret.at(-1) ?? 0) ^ 1;

it('a comparison that ends at the first difference is found out', () => {
  const leaky = (presented: Uint8Array): boolean => {
    for (let at = 0; at < secret.length; at += 1) if (presented[at] !== secret[at]) return false;
    return true;
  };
  let equal = 0;
  const present = (kind: Kind): void => {
    if (leaky(wrong[kind])) equal += 1;
  };
  expect(leastT(present)).toBeGreaterThan(t_max);
  expect(equal).toBe(0);
});

it('how much of a PIN is right cannot be told from how long it takes to refuse it', () => {
  let now_ms = 0;
  // Each attempt comes so late that nobody is slowed down.
  const monotonic_ms = () => {
    now_ms += 600_000;
    return now_ms;
  };
  const guard = new PinGuard({ monotonic_ms, utc: () => new Date(0) });
  using right = Secret.fromBytes(secret);
  const expected = guard.digest(right);
  const pins = { far: Secret.fromBytes(wrong.far), near: Secret.fromBytes(wrong.near) };
  const present = (kind: Kind): void => {
    try {
      guard.compare('somebody', pins[kind], expected);
    } catch (thrown) {
      if (isKeyslotError(thrown) && thrown.code === 'PIN_INCORRECT') return;
      throw thrown;
    }
    throw new TypeError('A wrong PIN was taken.');
  };
  expect(leastT(present)).toBeLessThan(t_max);
});

it('nor how much of the secret that the processes of a boot know each other by', () => {
  // The comparison of secrets, and of the greeting of the custodian's socket.
  using right = Secret.fromBytes(secret);
  const presented = { far: Secret.fromBytes(wrong.far), near: Secret.fromBytes(wrong.near) };
  let equal = 0;
  const present = (kind: Kind): void => {
    if (right.equals(presented[kind])) equal += 1;
  };
  expect(leastT(present)).toBeLessThan(t_max);
  expect(equal).toBe(0);
});

let folder: string;
let store: Store;
let tokens: ApiTokens;
let digest: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'keyslot-timing-'));
  store = new Store(join(folder, 'keyslot.db'));
  tokens = await ApiTokens.load({
    enabled: true,
    max_s: 3_600,
    key: Secret.fromBytes(randomBytes(32)),
    rows: new StoredApiTokens(store),
    identityOf: () => people.signer,
    clock: { monotonic_ms: () => 0, utc: () => new Date(0) },
  });
  const { token } = await tokens.issue(people.signer, { label: '', expires_s: 600, by: 'admin' });
  digest = createHash('sha256').update(token).digest('hex');
});

afterAll(() => {
  store[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

it('nor how much of the digest of an API token', () => {
  // Strings that were made the same way: V8 looks longer at the ones that are put together.
  const other = (hex: string | undefined) => (hex === '0' ? '1' : '0');
  const digests = {
    far: Buffer.from(`${other(digest[0])}${digest.slice(1)}`).toString('latin1'),
    near: Buffer.from(`${digest.slice(0, -1)}${other(digest.at(-1))}`).toString('latin1'),
  };
  expect(tokens.identityOf(digest)?.name).toBe('signer');
  let found = 0;
  const present = (kind: Kind): void => {
    if (tokens.identityOf(digests[kind])) found += 1;
  };
  expect(leastT(present)).toBeLessThan(t_max);
  expect(found).toBe(0);
});

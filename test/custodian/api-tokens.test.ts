import { createHash, createHmac, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ApiTokens, type ApiTokensWorld } from '../../src/custodian/api-tokens.ts';
import type { Role } from '../../src/custodian/grants.ts';
import type { Identity } from '../../src/custodian/identities.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { StoredApiTokens } from '../../src/store/api-tokens.ts';
import { Store } from '../../src/store/store.ts';
import { HeldClock, refusal, sha256 } from './lab.ts';

const person = (name: string, ...roles: Role[]): Identity => ({
  name,
  roles,
  grants: [],
  source: 'configuration',
});

let folder: string;
let store: Store;
let clock: HeldClock;
let people: Map<string, Identity>;
let world: ApiTokensWorld;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keyslot-tokens-'));
  store = new Store(join(folder, 'keyslot.db'));
  clock = new HeldClock();
  people = new Map(
    [person('payments', 'signer'), person('chief', 'signer', 'admin')].map(each => [each.name, each]),
  );
  world = {
    enabled: true,
    max_s: 3_600,
    key: Secret.fromBytes(randomBytes(32)),
    rows: new StoredApiTokens(store),
    identityOf: name => people.get(name),
    clock,
  };
});

afterEach(() => {
  store[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

async function issued(tokens: ApiTokens, name = 'payments', expires_s = 600) {
  const { token, view } = await tokens.issue(people.get(name) ?? person(name), {
    label: 'a label',
    expires_s,
    by: 'chief',
  });
  return { digest: sha256(token), text: token.toString(), view };
}

const whose = async (tokens: ApiTokens, digest: string) => tokens.identityOf(digest)?.name ?? 'nobody';

describe('an API token', () => {
  it('is its identity, after a restart too', async () => {
    const { digest, text } = await issued(await ApiTokens.load(world));
    expect(text).toMatch(/^kst_[0-9a-f]{16}_[A-Za-z0-9_-]{43}$/);
    expect(await whose(await ApiTokens.load(world), digest)).toBe('payments');
  });

  it('is nobody with one character changed, or without its key', async () => {
    const tokens = await ApiTokens.load(world);
    const { digest, text } = await issued(tokens);
    expect(await whose(tokens, sha256(`${text.slice(0, -1)}${text.endsWith('A') ? 'B' : 'A'}`))).toBe(
      'nobody',
    );
    const elsewhere = await ApiTokens.load({ ...world, key: Secret.fromBytes(randomBytes(32)) });
    expect(await whose(elsewhere, digest)).toBe('nobody');
  });

  it('is not in the store, neither itself nor its plain digest', async () => {
    const { digest, text } = await issued(await ApiTokens.load(world));
    const [row] = await world.rows.all();
    const hash = Buffer.from(row?.hash ?? []).toString('hex');
    expect(hash).toHaveLength(64);
    expect([sha256(text), createHash('sha256').update(digest).digest('hex')]).not.toContain(hash);
    expect(hash).toBe(world.key.use(key => createHmac('sha256', key).update(digest).digest('hex')));
    expect(JSON.stringify(row)).not.toContain(text);
  });

  it('ends with its time, and a clock that is set back does not bring it back', async () => {
    const tokens = await ApiTokens.load(world);
    const { digest } = await issued(tokens);
    clock.advance(599_999);
    expect(await whose(tokens, digest)).toBe('payments');
    clock.advance(1);
    expect(await refusal(whose(tokens, digest))).toBe('CREDENTIAL_EXPIRED');
    clock.advance(-10_000);
    expect(await refusal(whose(tokens, digest))).toBe('CREDENTIAL_EXPIRED');
    expect(tokens.list()[0]?.state).toBe('expired');
  });

  it('ends at once when it is revoked, for good, and no other token with it', async () => {
    const tokens = await ApiTokens.load(world);
    const [one, other] = [await issued(tokens), await issued(tokens)];
    expect((await tokens.revoke(one.view.id)).state).toBe('revoked');
    expect((await tokens.revoke(one.view.id)).state).toBe('revoked');
    for (const some of [tokens, await ApiTokens.load(world)]) {
      expect(await refusal(whose(some, one.digest))).toBe('CREDENTIAL_EXPIRED');
      expect(await whose(some, other.digest)).toBe('payments');
    }
    expect(await refusal(tokens.revoke('unknown'))).toBe('API_TOKEN_UNKNOWN');
  });

  it('is good for nothing when writing its revocation fails, and a repeat writes it', async () => {
    let broken = true;
    const rows: ApiTokensWorld['rows'] = {
      all: () => world.rows.all(),
      insert: row => world.rows.insert(row),
      revoke: (id, at) => (broken ? Promise.reject(new TypeError('no room')) : world.rows.revoke(id, at)),
    };
    const tokens = await ApiTokens.load({ ...world, rows });
    const { digest, view } = await issued(tokens);
    await expect(tokens.revoke(view.id)).rejects.toThrow(TypeError);
    expect(await refusal(whose(tokens, digest))).toBe('CREDENTIAL_EXPIRED');
    broken = false;
    await tokens.revoke(view.id);
    expect((await world.rows.all())[0]?.revokedAt).toBeDefined();
  });

  it('is revoked when its identity is gone at a start, so that the name brings nothing with it', async () => {
    const tokens = await ApiTokens.load(world);
    const { digest } = await issued(tokens);
    people.delete('payments');
    expect(await whose(tokens, digest)).toBe('nobody');
    await ApiTokens.load(world);
    people.set('payments', person('payments', 'signer'));
    expect(await refusal(whose(await ApiTokens.load(world), digest))).toBe('CREDENTIAL_EXPIRED');
  });

  it('is not issued while they are off, nor is one that exists accepted: API_TOKENS_DISABLED', async () => {
    const { digest } = await issued(await ApiTokens.load(world));
    const off = await ApiTokens.load({ ...world, enabled: false });
    expect(await whose(off, digest)).toBe('nobody');
    expect(await refusal(issued(off))).toBe('API_TOKENS_DISABLED');
  });

  it('is not for whoever administers, operates or approves, also when the role came later', async () => {
    const tokens = await ApiTokens.load(world);
    expect(await refusal(issued(tokens, 'chief'))).toBe('API_TOKENS_DISABLED');
    const { digest } = await issued(tokens);
    for (const role of ['admin', 'operator', 'approver'] as const) {
      people.set('payments', person('payments', 'signer', role));
      expect(await whose(tokens, digest)).toBe('nobody');
    }
  });

  it('lives no longer than the configuration allows: IDENTITY_INVALID', async () => {
    const tokens = await ApiTokens.load(world);
    expect(await refusal(issued(tokens, 'payments', 3_600))).toBe('none');
    expect(await refusal(issued(tokens, 'payments', 3_601))).toBe('IDENTITY_INVALID');
  });
});

import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { limits } from '../../src/foundation/limits.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { CustodianLink } from '../../src/gateway/custodian-link.ts';
import { exampleMessage, exampleSeed, exampleTransaction } from '../../src/wire/api/examples.ts';
import type { HttpOperation } from '../../src/wire/api/http-operation.ts';
import { pinText } from '../custodian/device.ts';
import { Lab } from '../custodian/lab.ts';
import { type Documented, documented, undocumented } from './api-document.ts';
import { type Answered, OpenHouse, type Person, type Sent, send } from './open-house.ts';

/**
 * Every call of the API with every status that the document promises of it: a request that produces it, and an answer
 * that is as the document says. A status without a case is a failure, and so is an answer with anything more in it.
 */

let house: OpenHouse;
let empty: Lab;
let well: string;
/** The ops listener: of this custodian, of one without a key, and of one that is stopping. */
let ops: string;
let keyless: string;
let stoppingOps: string;
/** Behind other configurations: no Solana node, and a namespace. */
let elsewhere: string;
/** Before custodians that are not well: one that answers nonsense, one that never answers, one that is stopping. */
let broken: string;
let silent: string;
let stopping: string;
const links: CustodianLink[] = [];

beforeAll(async () => {
  house = await OpenHouse.open();
  well = await house.serve();
  elsewhere = await house.serve(house.lab.custodian, { namespace: 'prod' });
  broken = await house.serve(linkTo(await house.nonsense()));
  stopping = await house.serve(disposed(linkTo(join(house.folder, 'nobody.sock'))));
  ops = await house.serveOps();
  empty = await Lab.start();
  keyless = await house.serveOps(empty.custodian);
  stoppingOps = await house.serveOps(disposed(linkTo(join(house.folder, 'nobody.sock'))));
  await prepare();
});

afterAll(async () => {
  for (const link of links) link[Symbol.dispose]();
  await house[Symbol.asyncDispose]();
  await empty[Symbol.asyncDispose]();
});

function linkTo(path: string): CustodianLink {
  const link = new CustodianLink({ path, bootSecret: Secret.fromText('boot'), log: silentLog });
  links.push(link);
  return link;
}

function disposed(link: CustodianLink): CustodianLink {
  link[Symbol.dispose]();
  return link;
}

const alice = 'alice';
const asAlice = async (method: string, path: string, body?: unknown, headers = {}): Promise<Answered> => {
  const answered = await send(well, { method, path, who: alice, body, headers });
  if (answered.status >= 300) throw new Error(`${method} ${path}: ${answered.text}`);
  return answered;
};
const post = (path: string, body: unknown = {}, headers = {}) => asAlice('POST', path, body, headers);
const fieldOf = ({ json }: Answered, name: string): string => String((json as Record<string, unknown>)[name]);

/** The keys of the examples, and what stands in the way of some requests. */
async function prepare(): Promise<void> {
  await post('/v1/keys/treasury/import', { slot: 'main', seed: exampleSeed });
  await post(`/v1/keys/${walletId}/import`, { slot: 'main', seed: base64(Buffer.alloc(32, 9)) });
  for (const id of ['resting', 'worn-out', 'movable', 'tagged', 'stays'])
    await post('/v1/keys', { id, slot: 'main' });
  await post('/v1/keys/resting/disable');
  // Two requests under one key each: whatever else comes under it is another request.
  await asAlice('PUT', '/v1/keys/stays/tags', { tags: ['used'] }, { 'Idempotency-Key': usedKey });
  await post(
    '/v1/keys/treasury/sign-message',
    { message: exampleMessage },
    { 'Idempotency-Key': usedToSign },
  );
}

const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64');
const walletId = '3f0a9a4e-5d0c-4d4a-9d7c-0b7f5f1c2a11';
const usedKey = 'used for something else';
const usedToSign = 'used to sign something else';

/** A request as its example has it. */
function exampleOf({ operation }: Documented): Sent {
  const { method, example, body, parameters, door } = operation;
  const who = door === 'anybody' ? undefined : alice;
  const given = Object.fromEntries(
    parameters.flatMap(({ name, in: place, required, example: usual }) => {
      const value = example.parameters?.[name] ?? (place === 'path' || required ? usual : undefined);
      return value === undefined ? [] : [[name, value]];
    }),
  );
  return {
    method: method.toUpperCase(),
    path: pathOf(operation, given),
    who,
    ...(body ? { body: example.body } : {}),
  };
}

type Given = Readonly<Record<string, string | number>>;

function pathOf({ path, parameters }: HttpOperation, given: Given): string {
  const inPath = path.replaceAll(/\{(\w+)\}/g, (_, name: string) =>
    encodeURIComponent(String(given[name] ?? name)),
  );
  const inQuery = parameters.filter(each => each.in === 'query' && given[each.name] !== undefined);
  const query = new URLSearchParams(
    Object.fromEntries(inQuery.map(({ name }) => [name, String(given[name])])),
  );
  return query.size > 0 ? `${inPath}?${query}` : inPath;
}

interface Changed extends Partial<Omit<Sent, 'who'>> {
  readonly who?: Person | 'nobody';
  /** In place of those of the example. */
  readonly given?: Given;
  readonly base?: string;
  /** Afterwards, so that the next case finds everything as it was. */
  readonly restore?: () => Promise<unknown>;
}
type Case = () => Changed | Promise<Changed>;
type Cases = Readonly<Record<number, Case>>;

const locked = (slot: string, changed: Case = () => ({})): Case => {
  return async () => {
    const change = await changed();
    await post(`/v1/slots/${slot}/lock`);
    return { ...change, restore: () => post(`/v1/slots/${slot}/open`) };
  };
};

const approval = async (
  who: Person,
  input: object,
  operation = 'destroy-key',
): Promise<{ id: string; digest: string }> => {
  const body = { operation, input, reason: 'a test' };
  const asked = await send(well, { method: 'POST', path: '/v1/approvals', who, body });
  return { id: fieldOf(asked, 'id'), digest: fieldOf(asked, 'digest') };
};
const approved = async (operation: string, key: string): Promise<Record<string, string>> => {
  const { id, digest } = await approval(alice, { key }, operation);
  await send(well, { method: 'POST', path: `/v1/approvals/${id}/approve`, who: 'bob', body: { digest } });
  return { 'Keyslot-Approval': id };
};

const sessionOf = async (): Promise<Record<string, string>> => ({
  'Keyslot-Session': fieldOf(await post('/v1/slots/main/sessions', { pin: pinText }), 'token'),
});

/** A migration of one key, from main to spare. */
async function migration(...steps: string[]): Promise<Given> {
  moves += 1;
  const key = `moves-${moves}`;
  await post('/v1/keys', { id: key, slot: 'main' });
  const id = fieldOf(await post('/v1/migrations', { from: 'main', to: 'spare', keys: [key] }), 'id');
  for (const step of steps) await post(`/v1/migrations/${id}/${step}`);
  return { id };
}
let moves = 0;

/** A wrong PIN a moment ago. */
const afterWrongPin =
  (path: string, pin: object): Case =>
  async () => {
    const sent = { method: 'POST', path, who: 'clumsy', body: pin } as const;
    await send(well, sent);
    return { who: 'clumsy', body: pin, restore: async () => house.lab.clock.advance(60 * 60_000) };
  };

const vaultSign: Cases = { 503: locked('main') };
const vaultLogin: Cases = {
  400: () => ({ body: { role_id: 'role-of-robot', secret_id: 'another' }, restore: afterAnHour }),
  403: () => ({ base: elsewhere }),
  429: async () => {
    const body = { role_id: 'role-of-robot', secret_id: 'another' };
    await send(well, { method: 'POST', path: '/v1/auth/approle/login', body });
    return { restore: afterAnHour };
  },
};
const afterAnHour = async () => house.lab.clock.advance(60 * 60_000);

/** What only one operation is answered with, or in another way than others. */
const cases: Readonly<Record<string, Cases>> = {
  'sign-transaction': {
    409: () => ({ headers: { 'Idempotency-Key': usedToSign } }),
    422: () => ({ body: { transaction: 'AAAA' } }),
    423: locked('main'),
  },
  'sign-message': {
    409: () => ({ headers: { 'Idempotency-Key': usedToSign }, body: { message: 'b3RoZXI=' } }),
    422: () => ({ body: { message: base64(Buffer.from(exampleTransaction, 'base64').subarray(65)) } }),
    423: locked('main'),
  },
  'sign-batch': { 409: () => ({ given: { id: 'resting' } }), 423: locked('main') },
  'list-keys': { 404: () => ({ given: { slot: 'none' } }) },
  'generate-key': { 423: locked('main') },
  'import-key': { 423: locked('main') },
  'adopt-key': { 423: locked('main') },
  'tag-key': { 200: () => ({ given: { id: 'tagged' } }) },
  'export-key': {
    200: async () => ({ headers: await approved('export-key', 'treasury') }),
    423: locked('main', async () => ({ headers: await approved('export-key', 'treasury') })),
  },
  'destroy-key': {
    200: async () => ({ headers: await approved('destroy-key', 'worn-out') }),
    423: locked('main', async () => ({
      given: { id: 'stays' },
      headers: await approved('destroy-key', 'stays'),
    })),
  },
  'open-slot': {
    423: async () => {
      await post('/v1/slots/spare/lock');
      const restore = async () => {
        await post('/v1/slots/spare/clear-latch');
        await afterAnHour();
        await post('/v1/slots/spare/open');
      };
      return { given: { slot: 'spare' }, body: { pin: 'another' }, restore };
    },
    429: afterWrongPin('/v1/slots/main/open', { pin: 'another' }),
  },
  'lock-slot': { 200: () => ({ restore: () => post('/v1/slots/main/open') }) },
  'try-slot': { 409: () => ({ given: { slot: 'spare' } }), 423: locked('main') },
  'open-session': {
    423: locked('main'),
    429: afterWrongPin('/v1/slots/main/sessions', { pin: 'another' }),
  },
  'close-session': {
    200: async () => ({ headers: await sessionOf() }),
  },
  'show-migration': { 200: async () => ({ given: await migration() }) },
  'run-migration': { 200: async () => ({ given: await migration() }) },
  'verify-migration': { 200: async () => ({ given: await migration('run') }) },
  'rollback-migration': { 200: async () => ({ given: await migration('run') }) },
  'destroy-copies': { 200: async () => ({ given: await migration('run') }) },
  'evaluate-policy': { 422: () => ({ body: { key: 'treasury', message: exampleMessage, document: {} } }) },
  'show-policy': {
    200: async () => {
      const { body } = exampleOf(named('put-policy'));
      return asAlice('PUT', '/v1/policies/treasury-policy', body).then(() => ({ restore: withoutPolicy }));
    },
  },
  'put-policy': {
    422: () => ({ given: { name: 'another' } }),
  },
  thaw: { 423: () => ({ body: { freeze: 'key/iced', reason: 'a test' } }) },
  'show-approval': { 200: async () => ({ given: { id: (await approval(alice, { key: 'stays' })).id } }) },
  approve: { 200: () => decision() },
  reject: { 200: () => decision() },
  'read-audit': { 404: async () => ({ given: { from: (await pruned()) - 1 } }) },
  'audit-consistency': {
    200: async () => ({ given: { from: await pruned(), to: await checkpointed() } }),
    404: () => ({ given: { from: 1, to: 9_999_999 } }),
  },
  'prove-audit': {
    200: async () => {
      const seq = await pruned();
      await checkpointed();
      return { given: { seq } };
    },
    404: () => ({ given: { seq: 9_999_999 } }),
  },
  'prune-audit': {
    200: async () => {
      await checkpointed();
      return {};
    },
    409: () => ({ headers: { 'Idempotency-Key': usedKey } }),
  },
  'create-identity': { 422: () => ({ body: { name: 'NOT AN ID', roles: ['signer'] } }) },
  'issue-token': { 422: () => ({ body: { identity: 'payments', expiresIn_s: 31_536_000 } }) },
  'delete-identity': {
    200: async () => {
      await post('/v1/identities', { name: 'leaving', roles: ['signer'] });
      return { given: { name: 'leaving' } };
    },
  },
  'revoke-token': {
    200: async () => ({ given: { id: fieldOf(await post('/v1/tokens', { identity: 'payments' }), 'id') } }),
  },
  reload: {
    422: () => {
      house.brokenFiles = true;
      return {
        restore: async () => {
          house.brokenFiles = false;
        },
      };
    },
  },
  readyz: { 503: () => ({ base: stopping }) },
  'show-health': {
    200: () => ({ base: ops }),
    501: () => ({ base: keyless }),
    503: () => ({ base: stoppingOps }),
  },
  metrics: { 200: () => ({ base: ops }) },
  'vault-health': { 503: () => ({ base: stopping }) },
  'create-wallet': { 423: locked('main') },
  'list-wallets': { 400: () => ({ given: { cursor: 'none' } }) },
  'sign-with-wallet': {
    400: () => ({ body: {} }),
    409: () => ({ headers: { 'Idempotency-Key': usedToSign } }),
    422: () => ({ body: { transaction: 'AAAA' } }),
    423: locked('main'),
  },
  'wallet-balance': { 501: () => ({ base: elsewhere }) },
  'wallet-tokens': { 501: () => ({ base: elsewhere }) },
  'vault-sign': vaultSign,
  'vault-sign-put': vaultSign,
  'vault-sign-hash': vaultSign,
  'vault-sign-hash-put': vaultSign,
  'vault-list-keys': { 400: () => ({ given: { limit: 'x' } }), 404: () => ({ who: 'ungranted' }) },
  'vault-login': vaultLogin,
  'vault-login-put': vaultLogin,
};

const withoutPolicy = () => asAlice('DELETE', '/v1/policies/treasury-policy');

function named(id: string): Documented {
  const found = documented.find(({ operation }) => operation.id === id);
  if (found) return found;
  throw new TypeError(`No operation is called ${id}.`);
}

const decision = async (): Promise<Changed> => {
  const { id, digest } = await approval('bob', { key: 'stays' });
  return { given: { id }, body: { digest } };
};

/** The size of a checkpoint that is signed and witnessed. */
async function checkpointed(): Promise<number> {
  await house.lab.custodian.audit.checkpoint();
  const { checkpointed: size } = house.lab.custodian.audit.status();
  await vi.waitFor(() => expect(house.lab.custodian.audit.status().witnessed).toBe(size), {
    timeout: 20_000,
  });
  return size;
}

/** The first record that is left after a segment went. */
async function pruned(): Promise<number> {
  const { first } = house.lab.custodian.audit.status();
  if (first > 0) return first;
  await post('/v1/audit/prune', { below: await checkpointed() });
  return house.lab.custodian.audit.status().first;
}

const inPath = ({ parameters }: HttpOperation) => parameters.filter(each => each.in === 'path');
const isId = /^(KeyId|SlotId|WalletId)$/;

/** What many operations are answered with for the same reason. */
const usual: Readonly<Record<number, (documented: Documented) => Changed | undefined>> = {
  200: () => ({}),
  201: () => ({}),
  400: ({ operation }) => {
    if (operation.method !== 'get') return { headers: { 'Idempotency-Key': '' } };
    const [id] = inPath(operation).filter(({ component }) => isId.test(component));
    return id
      ? { given: { [id.name]: 'NOT AN ID' } }
      : { path: `${exampleOf({ operation } as Documented).path.split('?')[0]}?unknown=1` };
  },
  401: () => ({ who: 'nobody' }),
  403: ({ operation }) => ({ who: operation.failure === 'vault' ? 'nobody' : 'roleless' }),
  404: ({ operation }) => {
    if (operation.method !== 'get') return { headers: { 'Keyslot-Approval': 'none of these' } };
    const [id] = inPath(operation);
    return id && { given: { [id.name]: id.component === 'WalletId' ? walletId.replace('3', '4') : 'none' } };
  },
  409: () => ({ headers: { 'Idempotency-Key': usedKey } }),
  413: () => ({ body: '{}', headers: { 'Content-Length': String(limits.batchBody_bytes_max + 1) } }),
  415: () => ({ headers: { 'Content-Type': 'text/plain' } }),
  500: () => ({ base: broken }),
  503: () => ({ base: stopping }),
};

async function produced(each: Documented, status: number): Promise<Answered> {
  const { operation } = each;
  const made = cases[operation.id]?.[status] ?? (() => usual[status]?.(each));
  const changed = await made();
  if (!changed) throw new Error(`${operation.id} has no case that is answered ${status}.`);
  const { base = well, given, restore, who, ...more } = changed;
  const example = exampleOf(each);
  const parameters = { ...operation.example.parameters, ...given };
  const usualOnes = Object.fromEntries(inPath(operation).map(({ name, example: value }) => [name, value]));
  const path = given ? pathOf(operation, { ...usualOnes, ...parameters }) : example.path;
  const asker = who === 'nobody' ? undefined : (who ?? example.who);
  try {
    return await send(base, { ...example, path, ...more, who: asker });
  } finally {
    await restore?.();
  }
}

describe('every call is answered as the document says', () => {
  for (const each of documented) {
    it(`${each.operation.id}: ${each.statuses.filter(status => status !== 504).join(', ')}`, async () => {
      for (const status of each.statuses.filter(other => other !== 504)) {
        const answered = await produced(each, status);
        expect(
          { status: answered.status, undocumented: undocumented(each, answered) },
          answered.text,
        ).toEqual({
          status,
          undocumented: [],
        });
        if (status < 300) expectExample(each, answered);
      }
    });
  }

  it('and with 504 when the custodian does not answer within its time', async () => {
    vi.useFakeTimers({ toFake: ['performance', 'setInterval', 'clearInterval'] });
    try {
      silent = await house.serve(linkTo(join(house.folder, 'nobody.sock')));
      const late = documented.filter(({ statuses }) => statuses.includes(504));
      expect(late.length).toBeGreaterThan(50);
      const asked = late.map(async each => ({ each, answered: await send(silent, exampleOf(each)) }));
      const all = Promise.all(asked);
      while (vi.getTimerCount() > 0 && !(await Promise.race([all.then(() => true), turn()]))) {
        vi.advanceTimersByTime(1_000);
      }
      for (const { each, answered } of await all) {
        expect(
          { status: answered.status, undocumented: undocumented(each, answered) },
          each.operation.id,
        ).toEqual({
          status: 504,
          undocumented: [],
        });
      }
    } finally {
      vi.useRealTimers();
    }
  });
});

/** The answer of the example is the one that was given, but for what is another each time. */
function expectExample({ operation }: Documented, { json }: Answered): void {
  const { reply } = operation.example;
  if (reply !== undefined) expect(json).toMatchObject(lasting(reply) as object);
}

function lasting(example: unknown): unknown {
  if (Array.isArray(example)) return example.map(lasting);
  if (typeof example !== 'object' || example === null) return example;
  const fields = Object.entries(example).filter(([name]) => !/^(receipt|requestId|createdAt)$/.test(name));
  return Object.fromEntries(fields.map(([name, value]) => [name, lasting(value)]));
}

const turn = (): Promise<false> => new Promise(done => setImmediate(() => setImmediate(() => done(false))));

import { publicKeyFromSeed } from '../foundation/ed25519.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Custodian } from '../wire/custodian.ts';
import { bodies, seedOf } from '../wire/http.ts';
import { plain, type Routes } from './exchange.ts';
import { pageOf } from './query.ts';

/** Keys: where they come from, what is said of them, and where they end. */
export function keyRoutes(custodian: Custodian): Routes {
  const ask = custodian.call.bind(custodian);
  return {
    '/v1/keys/:id/import': {
      post: async ({ call, params, body }) => {
        const material = await body(bodies.importKey);
        using seed = seedOf(material);
        const input = { key: params.id ?? '', slot: material.slot, tags: material.tags };
        return await plain(ask('import-key', { input, bytes: [seed.use(lent)] }, call), 201);
      },
    },
    '/v1/keys/:id/adopt': {
      post: async ({ call, params, body }) => {
        const input = { key: params.id ?? '', ...(await body(bodies.adoptKey)) };
        return plain(ask('adopt-key', { input }, call), 201);
      },
    },
    '/v1/keys/:id/tags': {
      put: async ({ call, params, body }) => {
        const { tags } = await body(bodies.tagKey);
        return plain(ask('tag-key', { input: { key: params.id ?? '', tags } }, call));
      },
    },
    '/v1/keys/:id/disable': {
      post: async ({ call, params, body }) => {
        await body(bodies.nothing);
        return plain(ask('disable-key', { input: { key: params.id ?? '' } }, call));
      },
    },
    '/v1/keys/:id/enable': {
      post: async ({ call, params, body }) => {
        await body(bodies.nothing);
        return plain(ask('enable-key', { input: { key: params.id ?? '' } }, call));
      },
    },
    '/v1/keys/:id/destroy': {
      post: async ({ call, params, body }) => {
        await body(bodies.nothing);
        return plain(ask('destroy-key', { input: { key: params.id ?? '' } }, call));
      },
    },
    '/v1/keys/:id/export': {
      post: async ({ call, params, body }) => {
        await body(bodies.nothing);
        const reply = await ask('export-key', { input: { key: params.id ?? '' } }, call);
        return { body: { secretKey: keyFileOf(reply.bytes?.[0]), ...reply.output } };
      },
    },
    '/v1/keys/:id': {
      get: async ({ call, params }) => plain(ask('show-key', { input: { key: params.id ?? '' } }, call)),
    },
    '/v1/keys': {
      get: async ({ call, query }) => plain(ask('list-keys', { input: listing(query) }, call)),
      post: async ({ call, body }) => {
        const { id, ...where } = await body(bodies.generateKey);
        return plain(ask('generate-key', { input: { key: id, ...where } }, call), 201);
      },
    },
  };
}

const listing = (query: URLSearchParams) => ({
  ...pageOf(query, ['slot']),
  slot: query.get('slot') ?? undefined,
});

/** The 64 numbers of a Solana key file. The seed is wiped; of the answer's text a copy lives until it is collected. */
function keyFileOf(seed: Uint8Array | undefined): number[] {
  if (!seed) throw new KeyslotError('INTERNAL', 'The custodian answered without the bytes of the key.');
  const numbers = [...seed, ...publicKeyFromSeed(seed)];
  seed.fill(0);
  return numbers;
}

// The bytes stay valid until the Secret is disposed, which is after the call has been answered.
const lent = (bytes: Uint8Array): Uint8Array => bytes;

import type { Custodian, OperationName, Reply } from '../wire/custodian.ts';
import { identityBodies } from '../wire/identities.ts';
import type { Answer, Routes } from './exchange.ts';

/** Who the caller is, who else there is, and the tokens of programs. */
export function identityRoutes(custodian: Custodian): Routes {
  const ask = custodian.call.bind(custodian);
  const plain = async <N extends OperationName>(reply: Promise<Reply<N>>, status = 200): Promise<Answer> => ({
    status,
    body: (await reply).output,
  });
  return {
    '/v1/whoami': {
      get: async ({ call }) => plain(ask('who-am-i', { input: {} }, call)),
    },
    '/v1/identities': {
      get: async ({ call }) => plain(ask('list-identities', { input: {} }, call)),
      post: async ({ call, body }) => {
        const { name, ...shape } = await body(identityBodies.createIdentity);
        return plain(ask('create-identity', { input: { identity: name, shape } }, call), 201);
      },
    },
    '/v1/identities/:name': {
      delete: async ({ call, params }) =>
        plain(ask('delete-identity', { input: { identity: params.name ?? '' } }, call)),
    },
    '/v1/tokens': {
      get: async ({ call, query }) => {
        const identity = query.get('identity');
        return plain(ask('list-tokens', { input: identity === null ? {} : { identity } }, call));
      },
      post: async ({ call, body }) => {
        const { expiresIn_s, ...order } = await body(identityBodies.issueToken);
        const reply = await ask('issue-token', { input: { ...order, expires_s: expiresIn_s } }, call);
        const token = Buffer.from(reply.bytes?.[0] ?? []).toString('latin1');
        return { status: 201, body: { token, ...reply.output } };
      },
    },
    '/v1/tokens/:id': {
      delete: async ({ call, params }) =>
        plain(ask('revoke-token', { input: { token: params.id ?? '' } }, call)),
    },
  };
}

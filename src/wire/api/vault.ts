import { vaultBodies } from '../vault-transit.ts';
import { exampleMessage, exampleSignatureBase64 } from './examples.ts';
import { groups, type HttpOperation, type Native, native } from './http-operation.ts';
import { parameters } from './parameters.ts';
import { vaultReplies } from './replies.ts';

type Described = Omit<Native, 'tag' | 'failure' | 'door'> & Partial<Pick<Native, 'door'>>;

const vault = (described: Described): HttpOperation =>
  native({ door: 'vault', ...described, tag: 'vault', failure: 'vault' });

/** Vault makes no difference between POST and PUT, and takes the hash in the path. */
function posted(described: Omit<Described, 'method'>, withHash: boolean): readonly HttpOperation[] {
  const { id, path, parameters: own = [] } = described;
  const both = [
    vault({ ...described, method: 'post' }),
    vault({ ...described, id: `${id}-put`, method: 'put', description: 'The same as POST.' }),
  ];
  if (!withHash) return both;
  const hashed = {
    ...described,
    id: `${id}-hash`,
    path: `${path}/{hash}`,
    parameters: [...own, parameters.vaultHash],
  };
  return [...both, ...posted(hashed, false)];
}

const keyed = { parameters: [parameters.vaultKey] } as const;
const named = ['KEY_ID_INVALID', 'KEY_UNKNOWN'] as const;
const mounted = '/v1/transit';

/** The calls of Vault's transit engine, at its usual place; the configuration may name another. */
export const vaultOperations: readonly HttpOperation[] = [
  ...posted(
    {
      id: 'vault-sign',
      path: `${mounted}/sign/{key}`,
      ...keyed,
      summary: 'Signs as Vault does',
      description: 'Exactly one of `input` and `batch_input` is given.',
      effect: 'sign',
      session: true,
      body: vaultBodies.sign,
      reply: vaultReplies.signed,
      codes: [
        ...named,
        'QUERY_INVALID',
        'BASE64_INVALID',
        'BATCH_TOO_LARGE',
        'KEY_DISABLED',
        ...groups.pinSession,
        ...groups.openSlot,
        ...groups.custody,
        ...groups.login,
        ...groups.message,
        ...groups.transaction,
        'FROZEN',
        'POLICY_DENIED',
      ],
      example: { body: { input: exampleMessage } },
    },
    true,
  ),
  ...posted(
    {
      id: 'vault-verify',
      path: `${mounted}/verify/{key}`,
      ...keyed,
      summary: 'Checks a signature as Vault does',
      effect: 'read',
      session: true,
      body: vaultBodies.verify,
      reply: vaultReplies.verified,
      codes: [...named, 'QUERY_INVALID', 'BASE64_INVALID', 'BATCH_TOO_LARGE', 'SIGNATURE_ENCODING_INVALID'],
      example: { body: { input: exampleMessage, signature: `vault:v1:${exampleSignatureBase64}` } },
    },
    true,
  ),
  vault({
    id: 'vault-list-keys',
    method: 'get',
    path: `${mounted}/keys`,
    summary: 'Lists the names of keys',
    parameters: [parameters.vaultAfter, parameters.vaultLimit],
    session: true,
    reply: vaultReplies.keys,
    codes: ['QUERY_INVALID', 'KEY_UNKNOWN'],
  }),
  vault({
    id: 'vault-show-key',
    method: 'get',
    path: `${mounted}/keys/{key}`,
    ...keyed,
    session: true,
    summary: 'Shows a key as Vault does',
    reply: vaultReplies.key,
    codes: named,
  }),
  ...posted(
    {
      id: 'vault-login',
      path: '/v1/auth/approle/login',
      door: 'anybody',
      summary: 'Gives a token for a role id and a secret id',
      effect: 'event',
      body: vaultBodies.login,
      reply: vaultReplies.login,
      codes: ['PERMISSION_DENIED', 'PIN_RATE_LIMITED', 'IDENTITY_LOCKED_OUT'],
      example: { body: { role_id: 'role-of-robot', secret_id: 'secret-id-of-robot' } },
    },
    false,
  ),
  {
    ...vault({
      id: 'vault-health',
      method: 'get',
      path: '/v1/sys/health',
      door: 'anybody',
      summary: 'Says whether any slot is open; without one, Vault would be sealed',
      reply: vaultReplies.health,
    }),
    codes: [],
    otherStatuses: { 503: 'Not ready.' },
  },
];

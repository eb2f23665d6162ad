import { walletBodies } from '../wallets.ts';
import { exampleMessage } from './examples.ts';
import { groups, type HttpOperation, type Native, native } from './http-operation.ts';
import { parameters } from './parameters.ts';
import { walletReplies } from './replies.ts';

const wallet = (described: Omit<Native, 'tag' | 'failure'>): HttpOperation => {
  const { codes, ...whole } = native({ ...described, tag: 'wallets', failure: 'wallet' });
  // There unknown fields are passed over.
  return { ...whole, codes: codes.filter(code => code !== 'FIELD_UNKNOWN') };
};
const one = ['WALLET_ID_INVALID', 'KEY_UNKNOWN'] as const;

/** The routes of the agentic-wallet program's wallet engine. */
export const walletOperations: readonly HttpOperation[] = [
  wallet({
    id: 'create-wallet',
    method: 'post',
    path: '/api/v1/wallets',
    summary: 'Makes a wallet',
    body: walletBodies.create,
    bodyOptional: true,
    status: 201,
    reply: walletReplies.one,
    codes: [
      'AUTOFUND_UNSUPPORTED',
      'SLOT_UNKNOWN',
      'POWER_MISSING',
      'KEY_UNVERIFIED',
      ...groups.openSlot,
      ...groups.custody,
      ...groups.login,
    ],
    example: { body: { label: 'savings' } },
  }),
  wallet({
    id: 'list-wallets',
    method: 'get',
    path: '/api/v1/wallets',
    summary: 'Lists wallets, the oldest first',
    session: true,
    parameters: [parameters.publicKey, parameters.walletCursor],
    reply: walletReplies.list,
    codes: ['QUERY_INVALID'],
  }),
  wallet({
    id: 'show-wallet',
    method: 'get',
    path: '/api/v1/wallets/{id}',
    summary: 'Shows a wallet',
    session: true,
    parameters: [parameters.wallet],
    reply: walletReplies.one,
    codes: one,
  }),
  wallet({
    id: 'sign-with-wallet',
    method: 'post',
    path: '/api/v1/wallets/{id}/sign',
    summary: 'Signs a transaction or a message',
    description: 'Exactly one of `transaction` and `message` is given.',
    effect: 'sign',
    session: true,
    parameters: [parameters.wallet],
    body: walletBodies.sign,
    reply: walletReplies.signed,
    codes: [
      ...one,
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
    example: { body: { message: exampleMessage } },
  }),
  wallet({
    id: 'wallet-balance',
    method: 'get',
    path: '/api/v1/wallets/{id}/balance',
    summary: 'Asks the Solana node for the balance',
    session: true,
    parameters: [parameters.wallet],
    reply: walletReplies.balance,
    codes: [...one, 'RPC_NOT_CONFIGURED', 'RPC_FAILED'],
  }),
  wallet({
    id: 'wallet-tokens',
    method: 'get',
    path: '/api/v1/wallets/{id}/tokens',
    summary: 'Asks the Solana node for the token accounts',
    session: true,
    parameters: [parameters.wallet],
    reply: walletReplies.tokens,
    codes: [...one, 'RPC_NOT_CONFIGURED', 'RPC_FAILED'],
  }),
  {
    ...wallet({
      id: 'wallet-engine-health',
      method: 'get',
      path: '/health',
      summary: 'Says that the process answers, as the wallet engine does',
      door: 'anybody',
      reply: walletReplies.alive,
      example: { reply: { status: 'ok', service: 'wallet-engine' } },
    }),
    codes: [],
  },
];

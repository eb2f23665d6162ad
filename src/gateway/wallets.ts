import type { ServerResponse } from 'node:http';
import type { Express } from 'express';
import { encodeBase58 } from '../foundation/base58.ts';
import { decodeBase64, encodeBase64 } from '../foundation/base64.ts';
import { type ErrorCode, KeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import type { Custodian, Reply } from '../wire/custodian.ts';
import type { WalletView } from '../wire/views.ts';
import { type FlatIssues, readWalletBody, walletBodies } from '../wire/wallets.ts';
import { type Answer, type Exchange, failures, mount, type Routes } from './exchange.ts';
import { getOnly } from './ops.ts';
import { answer, problemOf } from './problem.ts';
import { SolanaRpc } from './wallets-rpc.ts';

/**
 * The routes of the agentic-wallet program's wallet engine, so that its clients need only another URL and a
 * credential. The same operations, checks and refusals as the native routes stand behind them; only shapes
 * differ: answers are `{data}`, failures `{error}` with `code` and `requestId` beside it.
 */
export function withWallets(app: Express, options: WalletOptions): void {
  getOnly(app, '/health', (_request, response) =>
    answer(response, 200, { status: 'ok', service: 'wallet-engine' }),
  );
  mount(app, routes(options));
  app.use('/api/v1/wallets', failures(options.log, answerError));
}

export interface WalletOptions {
  readonly custodian: Custodian;
  readonly log: Log;
  /** The Solana node that is asked for balances. */
  readonly rpcUrl?: string | undefined;
}

function routes({ custodian, log, rpcUrl }: WalletOptions): Routes {
  const ask = custodian.call.bind(custodian);
  const rpc = rpcUrl === undefined ? undefined : new SolanaRpc(rpcUrl, log);
  const show = async ({ call, params }: Exchange): Promise<WalletView> =>
    (await ask('show-wallet', { input: { key: walletId(params) } }, call)).output;

  return {
    '/api/v1/wallets/:id/sign': {
      post: async exchange => {
        const key = walletId(exchange.params);
        const read = readWalletBody(walletBodies.sign, await exchange.json());
        if ('issues' in read) return invalid(read.issues, exchange);
        const { transaction, message = '' } = read.body;
        const bytes = decodeBase64(transaction ?? message);
        if (!bytes)
          return invalid(notBase64(transaction === undefined ? 'message' : 'transaction'), exchange);
        const request = { input: { key }, bytes: [bytes] };
        if (transaction === undefined) {
          return { body: { data: signedMessage(await ask('sign-message', request, exchange.call)) } };
        }
        return { body: { data: signedTransaction(await ask('sign-transaction', request, exchange.call)) } };
      },
    },
    '/api/v1/wallets/:id/balance': {
      get: async exchange => {
        const { id, publicKey } = await show(exchange);
        if (!rpc) return notConfigured(exchange);
        const lamports = await rpc.balance(publicKey, exchange.gone());
        return { body: { data: { walletId: id, publicKey, lamports, sol: lamports / lamportsPerSol } } };
      },
    },
    '/api/v1/wallets/:id/tokens': {
      get: async exchange => {
        const { id, publicKey } = await show(exchange);
        if (!rpc) return notConfigured(exchange);
        return { body: { data: { walletId: id, tokens: await rpc.tokens(publicKey, exchange.gone()) } } };
      },
    },
    '/api/v1/wallets/:id': {
      get: async exchange => ({ body: { data: metadata(await show(exchange)) } }),
    },
    '/api/v1/wallets': {
      get: async ({ call, query }) => {
        const input = {
          // A longer text is no address, and finds nothing.
          publicKey: query.get('publicKey')?.slice(0, 64),
          cursor: query.get('cursor')?.slice(0, 63),
        };
        const { wallets, next } = (await ask('list-wallets', { input }, call)).output;
        return { body: { data: wallets.map(metadata), ...(next === undefined ? {} : { next }) } };
      },
      post: async exchange => {
        const read = readWalletBody(walletBodies.create, await exchange.json());
        if ('issues' in read) return invalid(read.issues, exchange);
        const { label, autoFund = false } = read.body;
        if (autoFund) throw new KeyslotError('AUTOFUND_UNSUPPORTED', 'autoFund is not supported.');
        const { output } = await ask('create-wallet', { input: { label } }, exchange.call);
        return { status: 201, body: { data: metadata(output) } };
      },
    },
  };
}

const lamportsPerSol = 1_000_000_000;

/** WALLET_ID_INVALID. Only what has this form is asked for, so a path never reaches further than this. */
function walletId({ id = '' }: Exchange['params']): string {
  if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(id)) return id.toLowerCase();
  throw new KeyslotError('WALLET_ID_INVALID', 'Invalid walletId');
}

/** The receipt is not of the other program's contract; it stands beside what is. */
function signedMessage({ output, bytes: [signature] = [] }: Reply<'sign-message'>) {
  const bytes = signature ?? missing();
  const { receipt } = output;
  return { signatureBase64: encodeBase64(bytes), signatureBase58: encodeBase58(bytes), receipt };
}

function signedTransaction(reply: Reply<'sign-transaction'>) {
  const [signature, transaction] = reply.bytes ?? [];
  return {
    signedTransaction: encodeBase64(transaction ?? missing()),
    signature: encodeBase58(signature ?? missing()),
    txVersion: reply.output.version,
    receipt: reply.output.receipt,
  };
}

function missing(): never {
  throw new KeyslotError('INTERNAL', 'The custodian answered without the bytes of a signature.');
}

/** Where the key is now. Keyslot's own label stands beside the words that the clients know. */
function metadata({ custody, ...wallet }: WalletView) {
  return { ...wallet, provider: providers[wallet.keyProvenance.backend], custodyLabel: custody };
}

const providers: { readonly [B in WalletView['keyProvenance']['backend']]: string } = {
  'encrypted-file': 'local-dev',
  memory: 'local-memory',
  kms: 'kms',
  hsm: 'hsm',
  mpc: 'mpc',
};

const notBase64 = (field: string): FlatIssues => ({
  formErrors: [],
  fieldErrors: { [field]: ['Not standard base64 with padding'] },
});

const invalid = (error: FlatIssues, { call }: Exchange): Answer => ({
  status: 400,
  body: { error, code: 'BODY_INVALID' satisfies ErrorCode, requestId: call.requestId },
});

/** A problem and not only a text, so that whoever asks for it learns what to configure. */
function notConfigured({ call }: Exchange): Answer {
  const error = 'This appliance has no Solana RPC node configured.';
  const problem = problemOf('RPC_NOT_CONFIGURED', error, call.requestId);
  return { status: problem.status, body: { ...problem, error }, contentType: 'application/problem+json' };
}

function answerError(response: ServerResponse, error: KeyslotError, requestId: string): void {
  const { status } = error.entry;
  if (error.retryAfter_s !== undefined) response.setHeader('Retry-After', String(error.retryAfter_s));
  if (status === 401) response.setHeader('WWW-Authenticate', 'Bearer');
  const text = error.code === 'KEY_UNKNOWN' ? 'Wallet not found' : error.message;
  const { code, violations } = error;
  answer(response, status, { error: text, code, requestId, ...(violations ? { violations } : {}) });
}

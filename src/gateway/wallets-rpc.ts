import { KeyslotError } from '../foundation/errors.ts';
import type { Log } from '../foundation/log.ts';
import { rpcReplies, tokenAccount } from '../wire/wallets.ts';

/**
 * The two questions that wallets have for a Solana node. Every question ends within `rpc_ms`, reads a bounded
 * answer and follows no redirect. Whatever the node does wrong is RPC_FAILED; neither its texts nor its URL,
 * which may hold an access key, reach a caller or the log.
 */
export class SolanaRpc {
  readonly #url: string;
  readonly #log: Log;
  #asking = 0;

  constructor(url: string, log: Log) {
    this.#url = url;
    this.#log = log;
  }

  /** Lamports. */
  async balance(publicKey: string, signal: AbortSignal): Promise<number> {
    const params = [publicKey, { commitment }];
    const reply = rpcReplies.getBalance.safeParse(await this.#ask('getBalance', params, signal));
    if (!reply.success) throw this.#failed('It answered getBalance in another shape.');
    if ('error' in reply.data) throw this.#refused('getBalance', reply.data.error.code);
    return reply.data.result.value;
  }

  /** The accounts of both token programs. */
  async tokens(publicKey: string, signal: AbortSignal): Promise<readonly Token[]> {
    const lists = await Promise.all(
      tokenPrograms.map(programId => this.#tokensOf(publicKey, programId, signal)),
    );
    return lists.flat();
  }

  async #tokensOf(publicKey: string, programId: string, signal: AbortSignal): Promise<readonly Token[]> {
    const params = [publicKey, { programId }, { encoding: 'jsonParsed', commitment }];
    const reply = rpcReplies.getTokenAccountsByOwner.safeParse(
      await this.#ask('getTokenAccountsByOwner', params, signal),
    );
    if (!reply.success) throw this.#failed('It answered getTokenAccountsByOwner in another shape.');
    if ('error' in reply.data) throw this.#refused('getTokenAccountsByOwner', reply.data.error.code);
    return reply.data.result.value.flatMap(({ account }) => tokenOf(account.data));
  }

  async #ask(method: string, params: readonly unknown[], signal: AbortSignal): Promise<unknown> {
    if (this.#asking >= asking_max) throw this.#failed('Too many questions are waiting for it.');
    this.#asking += 1;
    try {
      const response = await fetch(this.#url, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }),
        redirect: 'error',
        signal: AbortSignal.any([signal, AbortSignal.timeout(rpc_ms)]),
      });
      if (!response.ok) {
        await response.body?.cancel();
        throw this.#failed(`It answered ${method} with HTTP status ${response.status}.`);
      }
      return JSON.parse(await textOf(response));
    } catch (thrown) {
      if (thrown instanceof KeyslotError) throw thrown;
      if (signal.aborted) throw new KeyslotError('REQUEST_ABORTED', 'The client has gone.');
      throw this.#failed(`It did not answer ${method} (${reasonOf(thrown)}).`);
    } finally {
      this.#asking -= 1;
    }
  }

  #refused(method: string, code: number): KeyslotError {
    return this.#failed(`It refused ${method} with the JSON-RPC code ${code}.`);
  }

  #failed(what: string): KeyslotError {
    this.#log.warn({ what }, 'the Solana RPC node failed');
    return new KeyslotError('RPC_FAILED', `The Solana RPC node failed. ${what}`, { retryAfter_s: 1 });
  }
}

export interface Token {
  readonly mint: string;
  readonly amount: string;
  readonly decimals: number;
  readonly uiAmount: number | null;
}

const commitment = 'confirmed';
/** The SPL Token program and Token-2022. */
const tokenPrograms = [
  'TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA',
  'TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb',
] as const;
const rpc_ms = 10_000;
const answer_bytes_max = 8 * 1024 * 1024;
const asking_max = 64;

function tokenOf(data: unknown): readonly Token[] {
  const account = tokenAccount.safeParse(data);
  if (!account.success) return [];
  const { mint, tokenAmount } = account.data.parsed.info;
  return [{ mint, ...tokenAmount }];
}

async function textOf(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of response.body ?? []) {
    length += chunk.length;
    if (length > answer_bytes_max) throw new RangeError('too long');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** A word of ours for what fetch, its stream or the parser threw: their texts may quote the URL or the answer. */
function reasonOf(thrown: unknown): string {
  if (thrown instanceof SyntaxError) return 'not JSON';
  if (thrown instanceof RangeError) return 'too long';
  if (thrown instanceof DOMException && thrown.name === 'TimeoutError') return 'timeout';
  return 'no connection';
}

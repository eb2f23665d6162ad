import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** A Solana RPC node as far as a wallet asks it, on 127.0.0.1, with whatever is wrong with it that a test wants. */
export class RpcNode implements AsyncDisposable {
  /** Lamports by address. */
  readonly balances = new Map<string, number>();
  /** Token accounts by address and token program, as `jsonParsed` gives their `data`. */
  readonly accounts = new Map<string, unknown[]>();
  /** Every question: its method and its parameters. */
  readonly asked: { readonly method: string; readonly params: readonly unknown[] }[] = [];
  /** Answers in place of the honest one. */
  instead: ((response: ServerResponse) => void) | undefined;
  readonly #server: Server;

  private constructor() {
    this.#server = createServer((request, response) => this.#answer(request, response));
  }

  static async start(): Promise<RpcNode> {
    const node = new RpcNode();
    await new Promise<void>(done => node.#server.listen(0, '127.0.0.1', done));
    return node;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/?key=access-key-of-the-node`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise(done => this.#server.close(done));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let text = '';
    for await (const chunk of request) text += String(chunk);
    const { id, method, params } = JSON.parse(text) as {
      id: number;
      method: string;
      params: [string, never];
    };
    this.asked.push({ method, params });
    if (this.instead) return this.instead(response);
    const context = { slot: 1 };
    const value = method === 'getBalance' ? (this.balances.get(params[0]) ?? 0) : this.#tokens(...params);
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify({ jsonrpc: '2.0', id, result: { context, value } }));
  }

  #tokens(owner: string, { programId }: { programId: string }) {
    const accounts = this.accounts.get(`${owner} ${programId}`) ?? [];
    return accounts.map((data, at) => ({ pubkey: `account ${at}`, account: { data, lamports: 2_039_280 } }));
  }
}

export const tokenProgram = 'TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA';
export const token2022Program = 'TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb';

export const tokenAccount = (
  program: string,
  mint: string,
  amount: string,
  uiAmount: number | null = null,
) => ({
  program,
  parsed: { type: 'account', info: { mint, owner: 'x', tokenAmount: { amount, decimals: 6, uiAmount } } },
  space: 165,
});

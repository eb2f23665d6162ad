import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type ClientOptions, createKeyslotClient, type KeyslotClient } from '../../src/client/index.ts';
import { type MtlsFetch, mtlsFetch } from '../../src/client/node.ts';
import { type Appliance, type Credential, type Home, tlsOf } from '../e2e/appliance.ts';

/** The client over a real connection to a real appliance, as whom a test wants. */
export function clientOf(
  home: Pick<Home, 'path'>,
  appliance: Pick<Appliance, 'url'>,
  who: Credential = 'developer',
  options: Partial<ClientOptions> = {},
): KeyslotClient & { readonly fetch: MtlsFetch } {
  const { ca, cert, key } = tlsOf(home, who) as { ca: Buffer; cert?: Buffer; key?: Buffer };
  const fetch = mtlsFetch({ ca, certificate: cert, key });
  const token = typeof who === 'object' && 'token' in who ? { bearerToken: who.token } : {};
  const auth = { ...token, ...options.auth };
  const client = createKeyslotClient({ url: appliance.url, fetch, ...options, auth });
  return { ...client, fetch };
}

/** The code that a call fails with, or what it answered. */
export async function codeOf(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    value => value,
    (error: { code?: string }) => error.code ?? error,
  );
}

export interface Asked {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

/** Something on 127.0.0.1 that speaks HTTP and answers as a test wants, request by request. */
export class FalseAppliance implements AsyncDisposable {
  readonly asked: Asked[] = [];
  readonly #server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    const asked = { method: request.method ?? '', path: request.url ?? '', headers: request.headers, body };
    this.asked.push(asked);
    this.#answer(response, asked, this.asked.length);
  });
  readonly #answer: (response: ServerResponse, asked: Asked, count: number) => void;

  private constructor(answer: (response: ServerResponse, asked: Asked, count: number) => void) {
    this.#answer = answer;
  }

  static async start(
    answer: (response: ServerResponse, asked: Asked, count: number) => void,
  ): Promise<FalseAppliance> {
    const server = new FalseAppliance(answer);
    await new Promise<void>(done => server.#server.listen(0, '127.0.0.1', done));
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise(done => this.#server.close(done));
  }
}

export function tell(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'Content-Type': 'application/json', ...headers });
  response.end(typeof body === 'string' ? body : JSON.stringify(body));
}

export const problem = (code: string, retryable: boolean) => ({
  type: `urn:keyslot:error:${code}`,
  title: code,
  status: 503,
  detail: `it was ${code}`,
  code,
  remedy: 'none',
  retryable,
  requestId: 'r-1',
});

/** A port on which nobody listens. */
export async function closedPort(): Promise<number> {
  const server = createServer();
  await new Promise<void>(done => server.listen(0, '127.0.0.1', done));
  const { port } = server.address() as AddressInfo;
  await new Promise(done => server.close(done));
  return port;
}

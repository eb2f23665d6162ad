import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type Credentials, signatureProblem } from './sigv4.ts';

/**
 * The part of the AWS CloudHSM API that describes: AWS JSON 1.1 over HTTP on 127.0.0.1, with checked signatures.
 * What it answers is `clusters` and `backups` as they are at that moment.
 */
export class CloudHsmServer implements AsyncDisposable {
  readonly region = 'eu-central-1';
  readonly credentials: Credentials = {
    accessKeyId: 'AKIAKEYSLOTTESTS0001',
    secretAccessKey: `canary-${randomUUID()}`,
  };
  clusters: readonly ClusterAnswer[] = [];
  backups: readonly BackupAnswer[] = [];
  /** What the next requests get instead: no answer, a cut connection, or an error by its name. */
  fault: 'silence' | 'reset' | 'nonsense' | { readonly error: string; readonly status: number } | undefined;
  requests = 0;
  readonly #server: Server;

  private constructor() {
    this.#server = createServer((request, response) => {
      this.#answer(request, response).catch(error => response.destroy(error));
    });
  }

  static async start(): Promise<CloudHsmServer> {
    const server = new CloudHsmServer();
    server.#server.listen(0, '127.0.0.1');
    await once(server.#server, 'listening');
    return server;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** What the AWS SDK reads to be let in. */
  get environment(): Readonly<Record<string, string>> {
    return {
      AWS_REGION: this.region,
      AWS_ACCESS_KEY_ID: this.credentials.accessKeyId,
      AWS_SECRET_ACCESS_KEY: this.credentials.secretAccessKey,
      AWS_EC2_METADATA_DISABLED: 'true',
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    this.requests += 1;
    const { fault } = this;
    if (fault === 'silence') return;
    if (fault === 'reset') {
      request.socket.resetAndDestroy();
      return;
    }
    if (fault === 'nonsense') return send(response, 200, '<html>');
    const problem =
      typeof fault === 'object' ? fault.error : signatureProblem(request, body, this.credentials, service);
    if (problem) {
      const status = typeof fault === 'object' ? fault.status : 400;
      return send(response, status, JSON.stringify({ __type: problem, message: 'refused' }));
    }
    const operation = String(request.headers['x-amz-target']).replace(/^BaldrApiService\./, '');
    const input = JSON.parse(body.toString()) as Input;
    const reply = this.#reply(operation, input);
    send(
      response,
      reply ? 200 : 400,
      JSON.stringify(reply ?? { __type: 'UnknownOperationException', message: operation }),
    );
  }

  #reply(operation: string, { Filters = {}, NextToken }: Input): unknown {
    const ids = Filters.clusterIds;
    if (operation === 'DescribeClusters') {
      return { Clusters: this.clusters.filter(({ ClusterId }) => !ids || ids.includes(ClusterId)) };
    }
    if (operation !== 'DescribeBackups') return undefined;
    // One a page, so that paging is met; the filter by state is left to whoever asks.
    const all = this.backups.filter(({ ClusterId }) => !ids || ids.includes(ClusterId));
    const at = Number(NextToken ?? 0);
    return { Backups: all.slice(at, at + 1), ...(at + 1 < all.length ? { NextToken: String(at + 1) } : {}) };
  }
}

const service = 'cloudhsm';

export interface ClusterAnswer {
  readonly ClusterId: string;
  readonly State: string;
  readonly HsmType?: string;
  readonly Mode?: string;
  readonly Hsms: readonly HsmAnswer[];
}

export interface HsmAnswer {
  readonly HsmId: string;
  readonly State: string;
  readonly AvailabilityZone: string;
  readonly EniIp: string;
}

export interface BackupAnswer {
  readonly BackupId: string;
  readonly BackupState: string;
  readonly ClusterId: string;
  /** Seconds since 1970, as AWS writes times. */
  readonly CreateTimestamp: number;
}

interface Input {
  readonly Filters?: { readonly clusterIds?: readonly string[] };
  readonly NextToken?: string;
}

function send(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, {
    'content-type': 'application/x-amz-json-1.1',
    'x-amzn-requestid': randomUUID(),
    'content-length': Buffer.byteLength(text),
  });
  response.end(text);
}

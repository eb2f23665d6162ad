import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type KeyState, KmsKeys, KmsRefusal, type Reply } from './kms-keys.ts';
import { type Credentials, signatureProblem } from './sigv4.ts';

/**
 * AWS KMS as far as Keyslot uses it: AWS JSON 1.1 over HTTP on 127.0.0.1, with checked signatures, real
 * cryptography and faults on demand. What it knows lives as long as the object, so engines may come and go.
 */
export class KmsServer implements AsyncDisposable {
  readonly region = 'eu-central-1';
  readonly credentials: Credentials = {
    accessKeyId: 'AKIAKEYSLOTTESTS0000',
    secretAccessKey: `canary-${randomUUID()}`,
  };
  readonly keys = new KmsKeys(this.region, '111122223333');
  readonly #server: Server;
  readonly #faults = new Map<string, Fault[]>();
  readonly #counts = new Map<string, number>();
  readonly #last = new Map<string, Seen>();

  private constructor() {
    this.#server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
      this.#answer(request, response).catch(error => response.destroy(error));
    });
  }

  static async start(): Promise<KmsServer> {
    const kms = new KmsServer();
    kms.#server.listen(0, '127.0.0.1');
    await once(kms.#server, 'listening');
    return kms;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** What the AWS SDK reads to find this server and to be let in. */
  get environment(): Readonly<Record<string, string>> {
    return {
      AWS_REGION: this.region,
      AWS_ENDPOINT_URL_KMS: this.endpoint,
      AWS_ACCESS_KEY_ID: this.credentials.accessKeyId,
      AWS_SECRET_ACCESS_KEY: this.credentials.secretAccessKey,
      AWS_EC2_METADATA_DISABLED: 'true',
    };
  }

  /** The next `times` requests of the operation meet the fault, after those that wait already. */
  fault(operation: string, fault: Fault, times = 1): void {
    const waiting = this.#faults.get(operation) ?? [];
    this.#faults.set(operation, [...waiting, ...Array<Fault>(times).fill(fault)]);
  }

  /** Forgets the faults that nobody has met. */
  heal(): void {
    this.#faults.clear();
  }

  /** How many requests of the operation came, faults included. */
  count(operation: string): number {
    return this.#counts.get(operation) ?? 0;
  }

  last(operation: string): Seen | undefined {
    return this.#last.get(operation);
  }

  /** A key that somebody else made. Its ARN. */
  createKey(spec: string, usage: 'SIGN_VERIFY' | 'ENCRYPT_DECRYPT'): string {
    const before = new Set(this.keys.all());
    this.keys.operation('CreateKey')?.({ KeySpec: spec, KeyUsage: usage });
    const made = this.keys.all().find(key => !before.has(key));
    if (made === undefined) throw new RangeError('The key was not made.');
    return made.arn;
  }

  createAlias(name: `alias/${string}`, key: string): void {
    this.keys.operation('CreateAlias')?.({ AliasName: name, TargetKeyId: key });
  }

  setState(key: string, state: KeyState): void {
    this.keys.get(key).state = state;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections(); // also those whose answer never comes
    await closed;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    const target = String(request.headers['x-amz-target']);
    const operation = target.replace(/^TrentService\./, '');
    const input = JSON.parse(body.toString()) as Record<string, unknown>;
    this.#counts.set(operation, this.count(operation) + 1);
    this.#last.set(operation, { input, headers: request.headers });
    const fault = this.#faults.get(operation)?.shift();
    if (fault === 'silence') return;
    if (fault === 'reset') {
      request.socket.resetAndDestroy();
      return;
    }
    const { status, reply } = this.#outcome(request, body, operation, input, fault);
    const text = JSON.stringify(reply);
    send(response, status, fault === 'truncated' ? text.slice(0, text.length / 2) : text);
  }

  #outcome(
    request: IncomingMessage,
    body: Buffer,
    operation: string,
    input: Record<string, unknown>,
    fault: Fault | undefined,
  ): { status: number; reply: Reply } {
    try {
      const problem = signatureProblem(request, body, this.credentials);
      if (problem) throw new KmsRefusal(problem, 'The security token included in the request is invalid.');
      if (typeof fault === 'object' && 'error' in fault)
        throw new KmsRefusal(fault.error, fault.message ?? '');
      const work = this.keys.operation(operation);
      if (work === undefined) throw new KmsRefusal('UnknownOperationException', operation);
      const reply = work(input);
      return { status: 200, reply: typeof fault === 'object' ? fault.alter(reply) : reply };
    } catch (error) {
      if (!(error instanceof KmsRefusal)) throw error;
      const status = typeof fault === 'object' && 'error' in fault ? fault.status : 400;
      return { status: status ?? 400, reply: { __type: error.name, message: error.message } };
    }
  }
}

export interface Seen {
  readonly input: Readonly<Record<string, unknown>>;
  readonly headers: IncomingMessage['headers'];
}

/** An error of KMS, a reply that was tampered with, or no whole reply at all. */
export type Fault =
  | { readonly error: string; readonly status?: number; readonly message?: string }
  | { readonly alter: (reply: Reply) => Reply }
  | 'silence'
  | 'reset'
  | 'truncated';

export const faults = {
  throttled: { error: 'ThrottlingException', message: 'Rate exceeded' },
  internal: { error: 'KMSInternalException', status: 500 },
  dependency: { error: 'DependencyTimeoutException', status: 503 },
  unavailable: { error: 'KeyUnavailableException', status: 500 },
  disabled: { error: 'DisabledException' },
  pendingDeletion: { error: 'KMSInvalidStateException' },
  denied: { error: 'AccessDeniedException', message: 'User is not authorized to perform this action' },
  expired: { error: 'ExpiredTokenException' },
  unknownKey: { error: 'NotFoundException' },
  wrongContext: { error: 'InvalidCiphertextException' },
  incorrectKey: { error: 'IncorrectKeyException' },
  corruptedSignature: {
    alter: reply => {
      const signature = Buffer.from(String(reply.Signature), 'base64');
      signature[7] = (signature[7] ?? 0) ^ 1;
      return { ...reply, Signature: signature.toString('base64') };
    },
  },
  otherKey: {
    alter: reply => ({ ...reply, KeyId: `arn:aws:kms:eu-central-1:111122223333:key/${randomUUID()}` }),
  },
} as const satisfies Record<string, Fault>;

function send(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, {
    'content-type': 'application/x-amz-json-1.1',
    'x-amzn-requestid': randomUUID(),
    'content-length': Buffer.byteLength(text),
  });
  response.end(text);
}

import { Readable } from 'node:stream';
import {
  CloudHSMV2Client,
  type CloudHSMV2ClientConfig,
  DescribeBackupsCommand,
  type DescribeBackupsResponse,
  DescribeClustersCommand,
} from '@aws-sdk/client-cloudhsm-v2';
import { KeyslotError } from '../../foundation/errors.ts';

/** A cluster as AWS describes it, as far as it is looked at. */
export interface CloudHsmCluster {
  readonly id: string;
  readonly state: string;
  readonly hsmType: string | undefined;
  /** FIPS or NON_FIPS; the client drops it, so it is read from what AWS sent. */
  readonly mode: string | undefined;
  readonly hsms: readonly CloudHsm[];
}

export interface CloudHsm {
  readonly id: string;
  readonly state: string;
  readonly zone: string | undefined;
  readonly address: string | undefined;
}

export interface CloudHsmPlace {
  readonly region?: string | undefined;
  readonly endpoint?: string | undefined;
  /** For one question, all its attempts together. */
  readonly timeout_ms: number;
}

/**
 * The seam at the AWS SDK for what AWS knows of a CloudHSM cluster. It only asks, and no signature waits for it.
 * Whatever keeps AWS from answering is TOKEN_UNAVAILABLE with its cause; an answer without the cluster is
 * TOKEN_NOT_FOUND.
 */
export class CloudHsmDirectory implements Disposable {
  readonly #client: CloudHSMV2Client;
  readonly #timeout_ms: number;
  #raw: unknown;

  constructor({ region, endpoint, timeout_ms }: CloudHsmPlace) {
    this.#timeout_ms = timeout_ms;
    const config: CloudHSMV2ClientConfig = {
      maxAttempts: 2,
      ...(region === undefined ? {} : { region }),
      ...(endpoint === undefined ? {} : { endpoint }),
    };
    this.#client = new CloudHSMV2Client(config);
    this.#keepRawAnswers();
  }

  async cluster(id: string): Promise<CloudHsmCluster> {
    const [answer, raw] = await this.#ask('DescribeClusters', async signal => {
      const described = await this.#client.send(
        new DescribeClustersCommand({ Filters: { clusterIds: [id] } }),
        { abortSignal: signal },
      );
      return [described, this.#raw] as const;
    });
    const cluster = answer.Clusters?.find(({ ClusterId }) => ClusterId === id);
    if (!cluster) throw new KeyslotError('TOKEN_NOT_FOUND', `AWS knows no cluster ${shown(id)} there.`);
    return {
      id,
      state: cluster.State ?? 'unknown',
      hsmType: cluster.HsmType,
      mode: modeIn(raw, id),
      hsms: (cluster.Hsms ?? []).map(hsm => ({
        id: hsm.HsmId ?? 'unknown',
        state: hsm.State ?? 'unknown',
        zone: hsm.AvailabilityZone,
        address: hsm.EniIp,
      })),
    };
  }

  /** When the newest backup was made that is READY; nothing when there is none. */
  async newestBackup(cluster: string): Promise<Date | undefined> {
    const times: Date[] = [];
    let next: string | undefined;
    for (let page = 0; page < pages_max; page += 1) {
      const answer: DescribeBackupsResponse = await this.#ask('DescribeBackups', signal =>
        this.#client.send(
          new DescribeBackupsCommand({
            Filters: { clusterIds: [cluster], states: ['READY'] },
            SortAscending: false,
            ...(next === undefined ? {} : { NextToken: next }),
          }),
          { abortSignal: signal },
        ),
      );
      for (const { BackupState, CreateTimestamp } of answer.Backups ?? []) {
        if (BackupState === 'READY' && CreateTimestamp) times.push(CreateTimestamp);
      }
      next = answer.NextToken;
      if (!next) break;
    }
    return times.toSorted((one, other) => other.getTime() - one.getTime())[0];
  }

  [Symbol.dispose](): void {
    this.#client.destroy();
  }

  /** One question at a time, which is all that is asked of it: the raw answer is that of the last one. */
  #keepRawAnswers(): void {
    this.#client.middlewareStack.add(
      next => async args => {
        const result = await next(args);
        const { response } = result;
        if (isResponse(response)) {
          const bytes = await bytesOf(response.body);
          this.#raw = jsonOf(bytes);
          response.body = Readable.from([bytes]);
        }
        return result;
      },
      { step: 'deserialize', priority: 'low', name: 'keepRawAnswers' },
    );
  }

  async #ask<T>(what: string, send: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const ended = Promise.withResolvers<never>();
    const controller = new AbortController();
    const timer = setTimeout(() => {
      ended.reject(new Error(`no answer within ${this.#timeout_ms} ms`));
      controller.abort();
    }, this.#timeout_ms);
    try {
      return await Promise.race([ended.promise, send(controller.signal)]);
    } catch (cause) {
      const name = cause instanceof Error ? shown(cause.name) : 'unknown';
      throw new KeyslotError('TOKEN_UNAVAILABLE', `AWS did not answer ${what} of CloudHSM (${name}).`, {
        cause,
      });
    } finally {
      clearTimeout(timer);
    }
  }
}

const pages_max = 20;
const answer_bytes_max = 4 * 1024 * 1024;

/** The stream of the body can be read once: it is read here, and handed on as another. */
async function bytesOf(body: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of body) {
    length += chunk.length;
    if (length > answer_bytes_max) throw new Error('The answer is too large.');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function isResponse(response: unknown): response is { body: AsyncIterable<Uint8Array> } {
  if (typeof response !== 'object' || response === null || !('body' in response)) return false;
  const { body } = response;
  return typeof body === 'object' && body !== null && Symbol.asyncIterator in body;
}

function jsonOf(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    if (error instanceof SyntaxError) return undefined; // the SDK says what it makes of it
    throw error;
  }
}

function modeIn(raw: unknown, id: string): string | undefined {
  const clusters = fieldOf(raw, 'Clusters');
  if (!Array.isArray(clusters)) return undefined;
  const mode = fieldOf(
    clusters.find(each => fieldOf(each, 'ClusterId') === id),
    'Mode',
  );
  return typeof mode === 'string' ? mode : undefined;
}

const fieldOf = (value: unknown, name: string): unknown =>
  typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;

/** Short and of visible ASCII only. */
const shown = (text: string): string => text.slice(0, 64).replace(/[^\x21-\x7e]/g, '?');

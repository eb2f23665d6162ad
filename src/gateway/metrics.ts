import type { IncomingMessage, ServerResponse } from 'node:http';
import { certificatesIn } from '../foundation/pem.ts';
import { type Counter, Meters, reading } from '../wire/meters.ts';
import { type Labels, type MetricInfo, type MetricName, metrics, type Series } from '../wire/metrics.ts';
import { ProcessReadings } from '../wire/process-readings.ts';

/** What the gateway counts: requests by method and class of status, and how long they took. */
export class GatewayMetrics implements Disposable {
  readonly #meters = new Meters();
  readonly #process = new ProcessReadings('gateway');
  readonly #requests = new Map<string, Counter>();
  readonly #duration = this.#meters.histogram('keyslot_http_request_duration_seconds', {});
  #inFlight = 0;

  /** Follows a request to its end, however it ends. */
  begin({ method = '' }: IncomingMessage, response: ServerResponse): void {
    const began_ms = performance.now();
    this.#inFlight += 1;
    response.once('close', () => {
      this.#inFlight -= 1;
      this.#duration.observe((performance.now() - began_ms) / 1_000);
      const status = response.headersSent ? `${Math.floor(response.statusCode / 100)}xx` : 'none';
      this.#requestsOf(methods.has(method) ? method : 'other', status).add();
    });
  }

  read(): Series[] {
    return [
      ...this.#meters.read(),
      ...this.#process.read(),
      reading('keyslot_http_requests_in_flight', this.#inFlight, {}),
    ];
  }

  [Symbol.dispose](): void {
    this.#process[Symbol.dispose]();
  }

  #requestsOf(method: string, status: string): Counter {
    const id = `${method} ${status}`;
    const known = this.#requests.get(id);
    if (known) return known;
    const counter = this.#meters.counter('keyslot_http_requests_total', { method, status });
    this.#requests.set(id, counter);
    return counter;
  }
}

/** What a stranger sends as its method is no label. */
const methods: ReadonlySet<string> = new Set(['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH']);

/** When the certificates of a listener end: of several in one file, the first that does. */
export function expiries(tls: { readonly cert: string; readonly ca: string }): readonly Expiry[] {
  const ends = (certificate: Expiry['certificate'], pem: string) => ({
    certificate,
    at: new Date(Math.min(...certificatesIn(pem).map(each => each.validToDate.getTime()))),
  });
  return [ends('server', tls.cert), ends('client-ca', tls.ca)];
}

export interface Expiry {
  readonly certificate: 'server' | 'client-ca';
  readonly at: Date;
}

export const expiryReadings = (all: readonly Expiry[]): Series[] =>
  all
    .filter(({ at }) => !Number.isNaN(at.getTime()))
    .map(({ certificate, at }) =>
      reading('keyslot_certificate_expiry_timestamp_seconds', at.getTime() / 1_000, { certificate }),
    );

/**
 * The text format of Prometheus, version 0.0.4: each name once with its help and type, and behind it all its lines, as
 * the format asks for.
 */
export function exposition(all: readonly Series[]): string {
  const byName = Map.groupBy(all, ({ name }) => name);
  return (Object.keys(metrics) as MetricName[])
    .flatMap(name => {
      const found = byName.get(name);
      if (!found) return [];
      const info: MetricInfo = metrics[name];
      const lines = found.flatMap(each => linesOf(each, info));
      return [`# HELP ${name} ${info.help}`, `# TYPE ${name} ${info.type}`, ...lines];
    })
    .map(line => `${line}\n`)
    .join('');
}

function linesOf({ name, labels, value, buckets, sum = 0 }: Series, { bounds = [] }: MetricInfo): string[] {
  if (!buckets) return [`${name}${labelText(labels)} ${value ?? 0}`];
  let count = 0;
  const below = buckets.map((in_bucket, at) => {
    count += in_bucket;
    return `${name}_bucket${labelText({ ...labels, le: String(bounds[at] ?? '+Inf') })} ${count}`;
  });
  return [...below, `${name}_sum${labelText(labels)} ${sum}`, `${name}_count${labelText(labels)} ${count}`];
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([label, value]) => `${label}="${escaped(value)}"`);
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}

const escaped = (value: string): string =>
  value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');

import {
  type Attributes,
  type Context,
  type Span as OtelSpan,
  type Tracer as OtelTracer,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  trace,
} from '@opentelemetry/api';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import {
  BatchSpanProcessor,
  ParentBasedSampler,
  type SpanExporter,
  TraceIdRatioBasedSampler,
  TracerProvider,
} from '@opentelemetry/sdk-trace';
import type { Log } from '../foundation/log.ts';
import type { Span, SpanAttributes, SpanEnd, SpanPart, TraceParent, Tracer } from '../foundation/tracing.ts';

/**
 * OpenTelemetry, for those who have configured where traces go; nobody else loads this file. Spans are gathered and
 * sent by OTLP over HTTP. A collector that is slow or away costs spans, and no request anything.
 */
export class OtlpTracer implements Tracer, AsyncDisposable {
  readonly #provider: TracerProvider;
  readonly #tracer: OtelTracer;

  constructor({ endpoint, ratio, service }: OtlpSetting, log: Log) {
    const otlp = new OTLPTraceExporter({ url: endpoint, timeoutMillis: export_ms, headers: {} });
    this.#provider = new TracerProvider({
      resource: resourceFromAttributes({ 'service.name': service }),
      sampler: new ParentBasedSampler({ root: new TraceIdRatioBasedSampler(ratio) }),
      spanLimits: { attributeValueLengthLimit: 256, attributeCountLimit: 32 },
      spanProcessors: [
        new BatchSpanProcessor({
          exporter: saidOnce(otlp, log),
          maxQueueSize: queue_items_max,
          maxExportBatchSize: 512,
          scheduledDelayMillis: gathered_ms,
          exportTimeoutMillis: export_ms,
        }),
      ],
    });
    this.#tracer = this.#provider.getTracer('keyslot');
  }

  begin(name: string, began_ms: number, caller: TraceParent | undefined): Span {
    const clock = new WallClock();
    const context = caller ? trace.setSpanContext(ROOT_CONTEXT, remote(caller)) : ROOT_CONTEXT;
    const options = { kind: SpanKind.SERVER, startTime: clock.at(began_ms) };
    return new OpenSpan(this.#tracer, this.#tracer.startSpan(name, options, context), context, clock);
  }

  /** Sends what is gathered, for as long as a stop may take. */
  async [Symbol.asyncDispose](): Promise<void> {
    const bound = Promise.withResolvers<void>();
    const timer = setTimeout(bound.resolve, shutdown_ms);
    await Promise.race([this.#provider.shutdown(), bound.promise]);
    clearTimeout(timer);
  }
}

export interface OtlpSetting {
  readonly endpoint: string;
  /** Of the traces that begin here, this part is recorded. */
  readonly ratio: number;
  readonly service: string;
}

/** That spans are not taken is said once, and once more when they are taken again. */
function saidOnce(exporter: SpanExporter, log: Log): SpanExporter {
  let away = false;
  return {
    export: (spans, done) =>
      exporter.export(spans, result => {
        const failed = result.code !== exported;
        if (failed && !away)
          log.warn({ spans: spans.length, reason: result.error?.name }, 'traces are not taken');
        if (!failed && away) log.info({}, 'traces are taken again');
        away = failed;
        done(result);
      }),
    shutdown: () => exporter.shutdown(),
    forceFlush: async () => exporter.forceFlush?.(),
  };
}

// ExportResultCode.SUCCESS
const exported = 0;

class OpenSpan implements Span {
  readonly #tracer: OtelTracer;
  readonly #span: OtelSpan;
  readonly #context: Context;
  readonly #clock: WallClock;

  constructor(tracer: OtelTracer, span: OtelSpan, parent: Context, clock: WallClock) {
    this.#tracer = tracer;
    this.#span = span;
    this.#context = trace.setSpan(parent, span);
    this.#clock = clock;
  }

  get traceId(): string {
    return this.#span.spanContext().traceId;
  }

  get recorded(): boolean {
    return this.#span.isRecording();
  }

  part(name: string, part: SpanPart): Span {
    const kind = part.outbound ? SpanKind.CLIENT : SpanKind.INTERNAL;
    const options = { kind, startTime: this.#clock.at(part.began_ms) };
    const span = this.#tracer.startSpan(name, options, this.#context);
    const open = new OpenSpan(this.#tracer, span, this.#context, this.#clock);
    open.end(part);
    return open;
  }

  end({ name, ended_ms, attributes, failure }: SpanEnd): void {
    if (name !== undefined) this.#span.updateName(name);
    this.#span.setAttributes(defined(attributes));
    if (failure !== undefined) this.#span.setStatus({ code: SpanStatusCode.ERROR, message: failure });
    this.#span.end(this.#clock.at(ended_ms));
  }
}

/** Monotonic times of this process as times of the day; one look at the day a request, so that its spans fit. */
class WallClock {
  readonly #offset_ms = Date.now() - performance.now();

  at(time_ms: number): number {
    return this.#offset_ms + time_ms;
  }
}

const remote = ({ traceId, spanId, sampled }: TraceParent) => ({
  traceId,
  spanId,
  traceFlags: sampled ? TraceFlags.SAMPLED : TraceFlags.NONE,
  isRemote: true,
});

const defined = (attributes: SpanAttributes): Attributes =>
  Object.fromEntries(Object.entries(attributes).filter(([, value]) => value !== undefined));

const queue_items_max = 8_192;
const gathered_ms = 1_000;
const export_ms = 5_000;
const shutdown_ms = 1_500;

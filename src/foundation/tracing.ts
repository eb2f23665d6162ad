/**
 * What a request did when, for a tracing system. The appliance hands in the real tracer where one is configured. All
 * times are those of `performance.now()` in this process.
 */
export interface Tracer {
  /** A request has come in. `caller`: the span of the caller that it belongs to. */
  begin(name: string, began_ms: number, caller: TraceParent | undefined): Span;
}

/** A span that is still open; only what is recorded needs attributes and children. */
export interface Span {
  readonly traceId: string;
  readonly recorded: boolean;
  /** Something that has ended already, as a part of this span. */
  part(name: string, part: SpanPart): Span;
  end(end: SpanEnd): void;
}

export interface SpanEnd {
  readonly name?: string;
  readonly ended_ms: number;
  readonly attributes: SpanAttributes;
  /** What went wrong; absent when nothing did. */
  readonly failure?: string | undefined;
}

export interface SpanPart extends SpanEnd {
  readonly began_ms: number;
  /** Whether it is a call to something else, such as a token. */
  readonly outbound?: boolean;
}

export type SpanAttributes = Readonly<Record<string, string | number | boolean | undefined>>;

/** The span of a caller, as the W3C header `traceparent` names it. */
export interface TraceParent {
  readonly traceId: string;
  readonly spanId: string;
  readonly sampled: boolean;
}

/**
 * https://www.w3.org/TR/trace-context/#traceparent-header. Undefined for what is not one: the trace then begins here.
 * What a later version writes behind the flags is passed over, as the standard has it.
 */
export function parseTraceParent(header: unknown): TraceParent | undefined {
  if (typeof header !== 'string' || header.length > header_chars_max) return undefined;
  const found = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/.exec(header);
  if (!found) return undefined;
  const [, version = '', traceId = '', spanId = '', flags = '', rest] = found;
  if (version === 'ff' || (version === '00' && rest !== undefined)) return undefined;
  if (/^0+$/.test(traceId) || /^0+$/.test(spanId)) return undefined;
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

const header_chars_max = 512;

import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { OtlpTracer } from '../../src/appliance/tracing.ts';
import { type Log, silentLog } from '../../src/foundation/log.ts';
import { stageNames } from '../../src/wire/account.ts';
import {
  type Appliance,
  base64,
  type Client,
  eventually,
  type Home,
  prepareHome,
  serve,
} from '../e2e/appliance.ts';
import { type CollectedSpan, Collector } from './collector.ts';

/** Spans of real requests to a real appliance, as they reach a collector. */

const caller = { traceId: '4bf92f3577b34da6a3ce929d0e0e4736', spanId: '00f067aa0ba902b7' };
const traceparent = (flags: string) => `00-${caller.traceId}-${caller.spanId}-${flags}`;
const server = 2;
const client = 3;
const failed = 2;

let home: Home;
let collector: Collector;
let appliance: Appliance;
let developer: Client;
let spans: readonly CollectedSpan[];

beforeAll(async () => {
  collector = await Collector.start();
  home = await prepareHome();
  home.configure(config => {
    Object.assign(config, { tracing: { endpoint: collector.endpoint } });
  });
  appliance = await serve(home);
  developer = appliance.client();
  await developer.post('/v1/keys', { id: 'wallet', slot: 'main' });
  const message = { message: base64('hello') };
  const traced = (id: string, flags: string) => ({ 'Request-Id': id, traceparent: traceparent(flags) });
  const path = '/v1/keys/wallet/sign-message';
  expect((await developer.post(path, message, traced('recorded', '01'))).status).toBe(200);
  await developer.post(path, message, traced('not-recorded', '00'));
  await developer.post('/v1/keys/none/sign-message', message, traced('refused', '01'));
  const items = [{ message: base64('one') }, { message: base64('two') }];
  await developer.post('/v1/keys/wallet/sign-batch', { items }, { 'Request-Id': 'batch' });
  await developer.get('/readyz');
  developer.close();
  await appliance.stop(); // which sends what is gathered
  ({ spans } = collector);
});

afterAll(async () => {
  await appliance?.stop();
  await collector?.[Symbol.asyncDispose]();
  home?.remove();
});

const ofRequest = (id: string): CollectedSpan | undefined =>
  spans.find(span => span.attributes['keyslot.request_id'] === id);
const childrenOf = (span: CollectedSpan | undefined): readonly CollectedSpan[] =>
  spans.filter(each => span !== undefined && each.parentSpanId === span.spanId);

describe('a signature that its caller traces', () => {
  it('is a part of the trace of the caller', () => {
    expect(ofRequest('recorded')).toMatchObject({
      name: 'POST /v1/keys/:id/sign-message',
      kind: server,
      traceId: caller.traceId,
      parentSpanId: caller.spanId,
      attributes: {
        'http.request.method': 'POST',
        'http.route': '/v1/keys/:id/sign-message',
        'http.response.status_code': 200,
      },
    });
  });

  it('has the custodian below the gateway, and the module below the custodian', () => {
    const gateway = ofRequest('recorded');
    const [custodian, ...others] = childrenOf(gateway);
    expect(others).toEqual([]);
    expect(custodian).toMatchObject({
      name: 'custodian sign-message',
      traceId: caller.traceId,
      attributes: {
        'keyslot.identity': 'developer',
        'keyslot.key': 'wallet',
        'keyslot.slot': 'main',
        'keyslot.verdict': 'allow',
      },
    });
    const stages = childrenOf(custodian);
    expect(stages.map(({ name }) => name)).toEqual(
      stageNames.map(stage => (stage === 'sign' ? 'module sign' : stage)),
    );
    const module = stages.find(({ name }) => name === 'module sign');
    expect(module).toMatchObject({ kind: client, attributes: { 'keyslot.slot': 'main' } });
  });

  it('has every span inside the one above it', () => {
    for (const span of spans) {
      for (const child of childrenOf(span)) {
        expect(child.began_ns).toBeGreaterThanOrEqual(span.began_ns - rounding_ns);
        expect(child.ended_ns).toBeLessThanOrEqual(span.ended_ns + rounding_ns);
      }
    }
    expect(spans.some(span => childrenOf(span).length > 0)).toBe(true);
  });
});

// Times travel in microseconds.
const rounding_ns = 5_000n;

describe('other requests', () => {
  it('are not recorded when the caller does not record them, and named in the log with the trace all the same', () => {
    expect(ofRequest('not-recorded')).toBeUndefined();
    const lines = readFileSync(home.log, 'utf8').trim().split('\n');
    const line = lines.find(each => each.includes('"not-recorded"'));
    expect(JSON.parse(line ?? '{}')).toMatchObject({
      traceId: caller.traceId,
      route: '/v1/keys/:id/sign-message',
    });
  });

  it('say with which code they were refused, which is no failure of the appliance', () => {
    const refused = ofRequest('refused');
    expect(refused?.attributes['keyslot.code']).toBe('KEY_UNKNOWN');
    expect(refused?.status).toBe(0);
    const [custodian] = childrenOf(refused);
    expect(custodian?.attributes).toEqual({
      'keyslot.operation': 'sign-message',
      'keyslot.identity': 'developer',
    });
  });

  it('begin a trace of their own; a batch has a call to the module for every item', () => {
    const batch = ofRequest('batch');
    expect(batch?.parentSpanId).toBe('');
    expect(batch?.traceId).not.toBe(caller.traceId);
    const [custodian] = childrenOf(batch);
    expect(custodian?.attributes['keyslot.items']).toBe(2);
    expect(childrenOf(custodian).filter(({ name }) => name === 'module sign')).toHaveLength(2);
  });

  it('that look how the appliance is are left out', () => {
    expect(spans.filter(({ attributes }) => attributes['http.route'] === '/readyz')).toEqual([]);
  });
});

describe('a collector that does not take spans', () => {
  it('is said once, and costs spans and nothing else', async () => {
    await using refusing = await Collector.start();
    refusing.taking = false;
    const said: string[] = [];
    const say = (_fields: unknown, text: string) => void said.push(text);
    const log: Log = { info: say, warn: say, error: say };
    const tracer = new OtlpTracer({ endpoint: refusing.endpoint, ratio: 1, service: 'keyslot' }, log);
    const one = () => {
      const now_ms = performance.now();
      const span = tracer.begin('request', now_ms, undefined);
      span.end({ name: 'GET /v1/keys', ended_ms: now_ms + 1, attributes: {}, failure: 'TOKEN_UNAVAILABLE' });
    };
    one();
    await eventually('that it is said', () => said.length > 0);
    refusing.taking = true;
    one();
    await tracer[Symbol.asyncDispose]();
    expect(said).toEqual(['traces are not taken', 'traces are taken again']);
    expect(refusing.spans).toMatchObject([{ name: 'GET /v1/keys', status: failed, attributes: {} }]);
  });

  it('records the part of the traces that is asked for, of those that begin here', async () => {
    await using all = await Collector.start();
    const tracer = new OtlpTracer({ endpoint: all.endpoint, ratio: 0, service: 'keyslot' }, silentLog);
    expect(tracer.begin('request', performance.now(), undefined).recorded).toBe(false);
    expect(tracer.begin('request', performance.now(), { ...caller, sampled: true }).recorded).toBe(true);
    await tracer[Symbol.asyncDispose]();
  });
});

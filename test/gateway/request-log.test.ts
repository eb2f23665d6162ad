import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GatewayLog } from '../../src/appliance/logger.ts';
import { parseTraceParent } from '../../src/foundation/tracing.ts';
import type { RequestLogOptions } from '../../src/gateway/request-log.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import { stageNames } from '../../src/wire/account.ts';
import { base64, Client, eventually, run } from '../e2e/appliance.ts';
import { House } from './house.ts';

/** The lines of requests, as they are written into a file by the log of the real process. */

const folder = mkdtempSync(join(tmpdir(), 'keyslot-lines-'));
const file = join(folder, 'log');
let log: GatewayLog;
let house: House;
let alice: Client;
let options: { -readonly [Name in keyof RequestLogOptions]: RequestLogOptions[Name] };

beforeAll(async () => {
  log = new GatewayLog('gateway', openSync(file, 'a'));
  options = { which: 'all', probes: 'changes', clientAddress: false, write: log.request };
  house = await House.open(
    { alice: ['signer', 'operator'] },
    { policies: { documents: [everythingAllowed('wallets', { keys: ['wallet'] })] } },
    { requests: options },
  );
  alice = house.as('alice');
  for (const id of ['wallet', 'unlisted']) await alice.post('/v1/keys', { id, slot: 'main' });
});

afterAll(async () => {
  await house[Symbol.asyncDispose]();
  log[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

interface Line extends Readonly<Record<string, unknown>> {
  readonly requestId?: string;
}

function lines(): readonly Line[] {
  log.flush();
  const text = readFileSync(file, 'utf8').trim();
  return text === '' ? [] : text.split('\n').map(line => JSON.parse(line) as Line);
}

/** The line is written when the answer has left, which its reader may see first. */
const lineOf = (requestId: string): Promise<Line> =>
  eventually(`the line of ${requestId}`, () => lines().find(line => line.requestId === requestId));

const sign = (key: string, headers: Record<string, string>) =>
  alice.post(`/v1/keys/${key}/sign-message`, { message: base64('hello') }, headers);

describe('the line of a request', () => {
  it('says who signed with which key, what the policies said, and how long every stage took', async () => {
    await sign('wallet', { 'Request-Id': 'signed-1' });
    expect(await lineOf('signed-1')).toEqual({
      level: 30,
      time: expect.any(Number),
      process: 'gateway',
      msg: 'request',
      requestId: 'signed-1',
      method: 'POST',
      route: '/v1/keys/:id/sign-message',
      status: 200,
      operation: 'sign-message',
      identity: 'alice',
      key: 'wallet',
      slot: 'main',
      verdict: 'allow',
      duration_ms: expect.any(Number),
      custodian_ms: expect.any(Number),
      stages_ms: Object.fromEntries(stageNames.map(stage => [stage, expect.any(Number)])),
    });
    expect(lines().filter(({ requestId }) => requestId === 'signed-1')).toHaveLength(1);
  });

  it('names the rules that refused, and no text of the error', async () => {
    const { status } = await sign('unlisted', { 'Request-Id': 'denied-1' });
    const line = await lineOf('denied-1');
    expect(line).toMatchObject({ status, code: 'POLICY_DENIED', verdict: 'deny', key: 'unlisted' });
    expect(line.rules).toEqual(expect.arrayContaining([expect.any(String)]));
    expect(Object.keys(line)).not.toContain('detail');
  });

  it('names neither the path nor the query of a request, nor a key that there is not', async () => {
    const secret = 'word-in-the-wrong-place';
    await alice.get(`/v1/keys/${secret}?pin=${secret}`, { 'Request-Id': 'lost-1' });
    await alice.get(`/v1/${secret}/${secret}`, { 'Request-Id': 'lost-2' });
    expect(await lineOf('lost-1')).toMatchObject({ route: '/v1/keys/:id', code: 'KEY_UNKNOWN' });
    expect(await lineOf('lost-2')).toMatchObject({ status: 404, code: 'ROUTE_UNKNOWN' });
    expect((await lineOf('lost-2')).route).toBeUndefined();
    expect(readFileSync(file, 'utf8')).not.toContain(secret);
  });

  it('is one line of bounded size, whatever a caller sends', async () => {
    const before = lines().length;
    const text = fc.string({ maxLength: 300, unit: 'binary' });
    await fc.assert(
      fc.asyncProperty(text, text, async (one, other) => {
        const header = Buffer.from(one)
          .toString('latin1')
          .replace(/[^\x20-\x7e\x80-\xff]/g, '');
        const path = `/v1/keys/${encodeURIComponent(other.toWellFormed())}`;
        await alice.post(path, { [one]: other }, { 'Request-Id': header, traceparent: header });
      }),
      { numRuns: 40 },
    );
    const added = await eventually('all lines', () => {
      const now = lines().slice(before);
      return now.length >= 40 ? now : undefined;
    });
    expect(added).toHaveLength(40);
    for (const line of added) expect(JSON.stringify(line).length).toBeLessThan(1_500);
  });

  it('has the address of the client only when that is wanted', async () => {
    options.clientAddress = true;
    await alice.get('/v1/keys', { 'Request-Id': 'address-1' });
    expect((await lineOf('address-1')).client).toBe('127.0.0.1');
    options.clientAddress = false;
    await alice.get('/v1/keys', { 'Request-Id': 'address-2' });
    expect((await lineOf('address-2')).client).toBeUndefined();
  });

  it('belongs to the trace of the caller, when there is one', async () => {
    const traceId = '4bf92f3577b34da6a3ce929d0e0e4736';
    const traceparent = `00-${traceId}-00f067aa0ba902b7-01`;
    await alice.get('/v1/keys', { 'Request-Id': 'traced-1', traceparent });
    expect((await lineOf('traced-1')).traceId).toBe(traceId);
  });

  it('says that a client had gone before it was answered', async () => {
    const socket = await alice.raw();
    const head = [
      'POST /v1/keys HTTP/1.1',
      'Host: here',
      'Request-Id: gone-1',
      'Content-Type: application/json',
    ];
    socket.write([...head, 'Content-Length: 100', '', '{"id":'].join('\r\n'));
    await new Promise(done => setTimeout(done, 50));
    socket.destroy();
    expect(await lineOf('gone-1')).toMatchObject({ aborted: true, method: 'POST' });
  });

  it('is left out for requests that went well, where only others are wanted', async () => {
    options.which = 'errors';
    await alice.get('/v1/keys', { 'Request-Id': 'well-1' });
    await alice.get('/v1/keys/none', { 'Request-Id': 'ill-1' });
    options.which = 'all';
    await lineOf('ill-1');
    expect(lines().filter(({ requestId }) => requestId === 'well-1')).toEqual([]);
  });
});

describe('those who look how the appliance is', () => {
  it('get a line when the answer is another one than before', async () => {
    const ops = new Client(house.opsUrl, alice.tls);
    const probes = () => lines().filter(({ route }) => route === '/readyz');
    for (let time = 0; time < 3; time += 1) await ops.get('/readyz');
    await house.lab.ask('operator', 'lock-slot', { slot: 'main' }).catch(() => undefined);
    await alice.post('/v1/slots/main/lock', {});
    for (let time = 0; time < 3; time += 1) await ops.get('/readyz');
    await eventually('a line of the second state', () => probes().length === 2);
    expect(probes().map(({ status }) => status)).toEqual([200, 503]);
    ops.close();
  });
});

describe('lines that are gathered', () => {
  it('are written when the process ends, also by an error that nobody caught', async () => {
    const path = join(folder, 'of-a-child');
    const module = pathToFileURL(join(import.meta.dirname, '../../src/appliance/logger.ts')).href;
    const program = `
      import { openSync } from 'node:fs';
      import { GatewayLog } from ${JSON.stringify(module)};
      const log = new GatewayLog('gateway', openSync(${JSON.stringify(path)}, 'a'));
      log.request({ requestId: 'one' }, false);
      log.log.error({ code: 'INTERNAL' }, 'said at once');
      log.request({ requestId: 'two' }, true);
      throw new Error('nobody catches this');
    `;
    const { status } = await run(process.execPath, ['--input-type=module', '--eval', program]);
    expect(status).toBe(1);
    const written = readFileSync(path, 'utf8').trim().split('\n');
    expect(written.map(line => JSON.parse(line) as Line)).toMatchObject([
      { requestId: 'one', level: 30 },
      { code: 'INTERNAL', level: 50 },
      { requestId: 'two', level: 40 },
    ]);
  });
});

describe('lines that cannot be written', () => {
  it('are counted, and stop nobody', () => {
    const full = openSync('/dev/full', 'w');
    using unwritten = new GatewayLog('gateway', full);
    for (let line = 0; line < 100; line += 1) unwritten.request({ requestId: `lost-${line}` }, false);
    unwritten.log.error({ code: 'INTERNAL' }, 'said at once');
    expect(unwritten.lost).toBe(101);
    closeSync(full);
  });

  it('wait for a reader that is slow, and none stands inside another', async () => {
    const module = pathToFileURL(join(import.meta.dirname, '../../src/appliance/logger.ts')).href;
    const program = `
      import { GatewayLog } from ${JSON.stringify(module)};
      const log = new GatewayLog('gateway', 1);
      for (let line = 0; line < 1000; line += 1) log.request({ line, text: 'x'.repeat(line) }, false);
      setTimeout(() => undefined, 300);
    `;
    const { stdout } = await run(process.execPath, ['--input-type=module', '--eval', program]);
    const numbers = stdout
      .trim()
      .split('\n')
      .map(line => (JSON.parse(line) as { line: number }).line);
    expect(numbers).toEqual(Array.from({ length: 1_000 }, (_none, line) => line));
  });
});

describe('a traceparent', () => {
  const good = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';

  it('names a trace, a span, and whether the caller records', () => {
    const named = { traceId: '4bf92f3577b34da6a3ce929d0e0e4736', spanId: '00f067aa0ba902b7' };
    expect(parseTraceParent(good)).toEqual({ ...named, sampled: true });
    expect(parseTraceParent(`${good.slice(0, -2)}00`)).toEqual({ ...named, sampled: false });
    expect(parseTraceParent(`cc${good.slice(2)}-later`)).toEqual({ ...named, sampled: true });
  });

  it.each([
    ['is missing', undefined],
    ['is empty', ''],
    ['is sent twice', [good]],
    ['has capitals', good.toUpperCase()],
    ['begins with a space', ` ${good}`],
    ['has more than its version has', `${good}-more`],
    ['has a version that there never is', `ff${good.slice(2)}`],
    ['has a trace of zeros', good.replace('4bf92f3577b34da6a3ce929d0e0e4736', '0'.repeat(32))],
    ['has a span of zeros', good.replace('00f067aa0ba902b7', '0'.repeat(16))],
    ['is long', `cc${good.slice(2)}-${'x'.repeat(1_000)}`],
  ])('is none when it %s', (_what, header) => {
    expect(parseTraceParent(header)).toBeUndefined();
  });
});

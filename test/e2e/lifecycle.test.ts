import { randomInt } from 'node:crypto';
import { renameSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { lineValue, parseExposition } from '../gateway/exposition.ts';
import {
  type Appliance,
  base64,
  Client,
  childrenOf,
  eventually,
  expectProblem,
  type Home,
  isRunning,
  prepareHome,
  processesOf,
  type Reply,
  refusal,
  serve,
} from './appliance.ts';
import { isSignature, readWire, transfers } from './transactions.ts';

let home: Home;
let appliance: Appliance;
let developer: Client;
let address: string;

beforeAll(async () => {
  home = await prepareHome();
  await using first = await serve(home);
  const client = first.client();
  address = (await client.post('/v1/keys', { id: 'k', slot: 'main' })).json.publicKey ?? '';
  client.close();
  return () => home.remove();
});

beforeEach(async () => {
  appliance = await serve(home, { args: await fixedPorts() });
  developer = appliance.client();
});

// Whatever a test did to the appliance: nothing of it is left.
afterEach(async () => {
  developer.close();
  await appliance.stop();
  expect(await eventually('the end of every process', () => processesOf(home.path).length === 0)).toBe(true);
});

/**
 * Ports that no outgoing connection is given: one that a killed process had, and that somebody else takes as
 * the source of a connection before its successor listens, would be gone.
 */
async function fixedPorts(): Promise<string[]> {
  const ports: number[] = [];
  while (ports.length < 2) {
    const port = randomInt(20_000, 32_000);
    const probe = createServer();
    const free = await new Promise(done => {
      probe.once('error', () => done(false)).listen(port, '127.0.0.1', () => probe.close(() => done(true)));
    });
    if (free) ports.push(port);
  }
  return ['--home', home.path, '--port', String(ports[0]), '--ops-port', String(ports[1]), '--json'];
}

/** A request that signs, and whether what came back is right. */
interface Signing {
  readonly message: Uint8Array;
  send(client: Client): Promise<Reply>;
}

let count = 0;

function signing(): Signing {
  count += 1;
  if (count % 2 === 0) {
    const message = Buffer.from(`message ${count}`);
    return { message, send: client => client.post('/v1/keys/k/sign-message', { message: base64(message) }) };
  }
  const wire = transfers(count % 4 === 1 ? 'legacy' : 'v0', [address]);
  const { message } = readWire(wire);
  return {
    message,
    send: client => client.post('/v1/keys/k/sign-transaction', { transaction: base64(wire) }),
  };
}

async function expectSigns(client = developer): Promise<void> {
  const { message, send } = signing();
  const { status, json } = await send(client);
  expect({ status, code: json.code }).toEqual({ status: 200, code: undefined });
  expect(json.publicKey).toBe(address);
  expect(await isSignature(address, message, json.signature)).toBe(true);
}

/** What 64 connections saw that went on signing until they were told to stop, or could not connect any more. */
interface Seen {
  signed: number;
  wrong: number;
  /** Answers that are no signatures, by code, and connections that ended without one, by errno. */
  readonly others: Record<string, number>;
}

function load(client: Client, connections = 64): { seen: Seen; stop(): Promise<Seen> } {
  const seen: Seen = { signed: 0, wrong: 0, others: {} };
  let stopped = false;
  const note = (what: string) => {
    seen.others[what] = (seen.others[what] ?? 0) + 1;
  };
  const lane = async () => {
    while (!stopped) {
      const { message, send } = signing();
      try {
        const { status, json } = await send(client);
        if (status !== 200) note(`${status} ${json.code}`);
        else if (await isSignature(address, message, json.signature)) seen.signed += 1;
        else seen.wrong += 1;
      } catch (thrown) {
        note((thrown as NodeJS.ErrnoException).code ?? String(thrown));
        await new Promise(done => setTimeout(done, 5));
      }
    }
  };
  const lanes = Array.from({ length: connections }, lane);
  const stop = async () => {
    stopped = true;
    await Promise.all(lanes);
    return seen;
  };
  return { seen, stop };
}

const signedMore = (seen: Seen, more: number): Promise<boolean> => {
  const goal = seen.signed + more;
  return eventually(`${more} more signatures`, () => seen.signed >= goal);
};

describe('SIGTERM', () => {
  it('under load answers rightly or not at all, hangs nobody and ends with status 0', async () => {
    const running = load(developer);
    await signedMore(running.seen, 200);
    const exit = await appliance.stop();
    const seen = await running.stop();
    expect(exit).toEqual({ status: 0, signal: null });
    expect(seen.wrong).toBe(0);
    expect(Object.keys(seen.others).filter(what => /^\d/.test(what) && what !== '503 SHUTTING_DOWN')).toEqual(
      [],
    );
  });

  it('SIGINT does the same', async () => {
    await expectSigns();
    process.kill(appliance.pid, 'SIGINT');
    expect(await appliance.exited).toEqual({ status: 0, signal: null });
  });

  it('answers what had begun, and does not wait for somebody who never ends a request', async () => {
    const body = JSON.stringify({ message: base64('begun') });
    const head = `POST /v1/keys/k/sign-message HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\nContent-Type: application/json\r\n\r\n`;
    const [begun, endless] = [await developer.raw(), await developer.raw()];
    let answer = '';
    begun.on('data', chunk => {
      answer += String(chunk);
    });
    endless.on('error', () => undefined);
    for (const socket of [begun, endless]) socket.write(`${head}${body.slice(0, 10)}`);
    await expectSigns(); // by then the gateway has seen both
    const stopped = appliance.stop();
    await eventually('a closed port', () =>
      developer.raw().then(
        socket => socket.destroy() && undefined,
        () => true,
      ),
    );
    begun.write(body.slice(10));
    await eventually('an answer', () => answer.includes('"signature"'));
    expect(answer).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
    await eventually('a closed connection', () => begun.closed);
    expect(await stopped).toEqual({ status: 0, signal: null });
    endless.destroy();
  });

  it('sent to the whole process group, as a terminal and systemd do, still drains', async () => {
    const running = load(developer, 16);
    await signedMore(running.seen, 50);
    for (const pid of childrenOf(appliance.pid)) process.kill(pid, 'SIGTERM');
    const exit = await appliance.stop();
    const seen = await running.stop();
    expect(exit).toEqual({ status: 0, signal: null });
    expect(seen.wrong).toBe(0);
    expect(Object.keys(seen.others).filter(what => /^\d/.test(what) && what !== '503 SHUTTING_DOWN')).toEqual(
      [],
    );
  });
});

describe('kill -9', () => {
  it('of the custodian under load costs no signature: what was in flight is answered by its successor', async () => {
    const running = load(developer);
    let custodian = await appliance.child('custodian');
    for (let round = 0; round < 2; round += 1) {
      await signedMore(running.seen, 100);
      process.kill(custodian, 'SIGKILL');
      custodian = await appliance.child('custodian', custodian);
      await signedMore(running.seen, 100);
    }
    const seen = await running.stop();
    expect(seen).toMatchObject({ wrong: 0, others: {} });
    expect((await developer.get('/v1/keys/k')).json.publicKey).toBe(address);
    expect((await developer.get('/v1/slots/main')).json.state).toBe('open');
  });

  it('of the custodian while keys are made leaves each key whole, or not there at all', async () => {
    const made: string[] = [];
    const unsure: string[] = [];
    const make = async (id: string) => {
      const { status, json } = await developer.post('/v1/keys', { id, slot: 'main' });
      if (status === 201) made.push(id);
      else unsure.push(`${status} ${json.code}`);
    };
    const making = Array.from({ length: 40 }, (_, at) => make(`made-${at}`));
    const custodian = await appliance.child('custodian');
    await eventually('a first key', () => made.length > 0);
    process.kill(custodian, 'SIGKILL');
    await Promise.all(making);
    await appliance.child('custodian', custodian);
    await expectSigns();
    for (const what of unsure) expect(what).toBe('503 CUSTODIAN_UNAVAILABLE');
    const { json } = await developer.get('/v1/keys?limit=500');
    const there = (json.keys ?? []).map(({ id }) => id);
    for (const id of made) expect(there).toContain(id);
    for (const id of there) {
      const signed = await developer.post(`/v1/keys/${id}/sign-message`, { message: base64('whole') });
      expect(
        await isSignature(signed.json.publicKey ?? '', Buffer.from('whole'), signed.json.signature),
      ).toBe(true);
    }
    expect((await developer.get('/v1/slots/main')).json.findings).toEqual([]);
  });

  it('of the gateway brings it back on the same ports, counted, and draining as it was', async () => {
    const gateway = await appliance.child('gateway');
    await expectSigns();
    expect((await developer.post('/v1/drain', {})).status).toBe(200);
    process.kill(gateway, 'SIGKILL');
    await appliance.child('gateway', gateway);
    const back = await eventually('an answer on the same port', () =>
      developer.get('/healthz').catch(() => undefined),
    );
    expect(back.status).toBe(200);
    const ops = new Client(appliance.opsUrl, developer.tls);
    const { json } = await eventually('an answer of the ops listener', () =>
      ops.get('/readyz').catch(() => undefined),
    );
    expect(json.checks).toContainEqual({ id: 'drain', ok: false, state: 'draining' });
    const numbers = parseExposition((await ops.get('/metrics')).text);
    expect(lineValue(numbers, 'keyslot_draining')).toBe(1);
    expect(lineValue(numbers, 'keyslot_process_restarts_total', { process: 'gateway' })).toBe(1);
    expect((await developer.post('/v1/drain', { drain: false })).status).toBe(200);
    expect((await ops.get('/readyz')).json.ready).toBe(true);
    await expectSigns();
    ops.close();
  });

  it('of the gateway under load makes no wrong signature', async () => {
    const running = load(developer, 32);
    await signedMore(running.seen, 100);
    process.kill(await appliance.child('gateway'), 'SIGKILL');
    await signedMore(running.seen, 100);
    const seen = await running.stop();
    expect(seen.wrong).toBe(0);
    expect(Object.keys(seen.others).filter(what => /^\d/.test(what))).toEqual([]);
  });

  it('of the supervisor ends both children, and the home can be served again at once', async () => {
    const running = load(developer, 8);
    await signedMore(running.seen, 50);
    const children = childrenOf(appliance.pid);
    expect(children).toHaveLength(2);
    process.kill(appliance.pid, 'SIGKILL');
    await appliance.exited;
    const { port } = new URL(appliance.url);
    const next = await eventually('a next appliance', () =>
      serve(home, { args: ['--home', home.path, '--port', port, '--ops-port', '0', '--json'] }).catch(
        thrown => {
          if (thrown.code !== 'PORT_IN_USE') throw thrown; // the old gateway is still closing
          return undefined;
        },
      ),
    );
    const seen = await running.stop();
    expect(seen.wrong).toBe(0);
    await eventually('the end of both children', () => !children.some(isRunning));
    const client = next.client();
    await expectSigns(client);
    client.close();
    expect((await next.stop()).status).toBe(0);
  });
});

describe('one home', () => {
  it('is served once', async () => {
    expect(await refusal(serve(home))).toBe('HOME_IN_USE');
    await expectSigns();
  });

  it('keeps its keys over a restart', async () => {
    const before = (await developer.get('/v1/keys?limit=500')).json.keys;
    await appliance.stop();
    appliance = await serve(home);
    developer.close();
    developer = appliance.client();
    expect((await developer.get('/v1/keys?limit=500')).json.keys).toEqual(before);
    await expectSigns();
  });

  it('may be so deep that a socket path does not fit', async () => {
    const deep = await prepareHome({ path: `${'d'.repeat(100)}/home` });
    const there = await serve(deep);
    const client = there.client();
    expect((await client.post('/v1/keys', { id: 'deep', slot: 'main' })).status).toBe(201);
    client.close();
    expect((await there.stop()).status).toBe(0);
    deep.remove();
  });
});

describe('a port', () => {
  it('that is taken is named, for callers and for health', async () => {
    const taken = createServer().listen(0, '127.0.0.1');
    await new Promise(done => taken.once('listening', done));
    const { port } = taken.address() as { port: number };
    await appliance.stop();
    const args = ['--home', home.path, '--json'];
    for (const ports of [
      ['--port', String(port), '--ops-port', '0'],
      ['--port', '0', '--ops-port', String(port)],
    ]) {
      expect(await refusal(serve(home, { args: [...args, ...ports] }))).toBe('PORT_IN_USE');
      expect(processesOf(home.path)).toEqual([]);
    }
    taken.close();
  });
});

describe('the token directory', () => {
  it('taken away while serving stops signatures with a problem, and put back the slot opens again', async () => {
    await expectSigns();
    renameSync(tokens(), `${tokens()}.away`);
    for (let round = 0; round < 5; round += 1) expectRefused(await signing().send(developer));
    expectRefused(await developer.post('/v1/keys', { id: 'nowhere', slot: 'main' }));
    expectRefused(await developer.post('/v1/slots/main/open', {}));
    expect((await developer.get('/v1/slots/main')).json.state).toBe('failed');
    expectProblem(await signing().send(developer), 503, 'TOKEN_UNAVAILABLE');
    expect((await developer.get('/readyz')).status).toBe(503);
    renameSync(`${tokens()}.away`, tokens());
    expect((await developer.post('/v1/slots/main/open', {})).json.state).toBe('open');
    await expectSigns();
    expectProblem(await developer.get('/v1/keys/nowhere'), 404, 'KEY_UNKNOWN');
  });

  it('missing when a custodian comes back leaves the appliance up, and the slot opens once it is there', async () => {
    renameSync(tokens(), `${tokens()}.away`);
    process.kill(await appliance.child('custodian'), 'SIGKILL');
    await eventually(
      'an answer',
      async () => (await developer.get('/v1/slots/main')).json.state === 'failed',
    );
    expectProblem(await signing().send(developer), 503, 'SLOT_FAILED');
    renameSync(`${tokens()}.away`, tokens());
    expect((await developer.post('/v1/slots/main/open', {})).json.state).toBe('open');
    await expectSigns();
  });

  const tokens = () => join(home.path, 'softhsm', 'tokens');

  function expectRefused({ status, headers, json }: Reply): void {
    expect(headers['content-type']).toBe('application/problem+json');
    expect([404, 503]).toContain(status);
    expect(json.code).not.toBe('INTERNAL');
  }
});

import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Attack, attacks } from '../../scripts/hostile/attacks.ts';
import { Crowd, type Target } from '../../scripts/hostile/crowd.ts';
import {
  type Appliance,
  base64,
  Client,
  eventually,
  type Home,
  prepareHome,
  serve,
  tlsOf,
} from './appliance.ts';
import { isSignature } from './transactions.ts';

/**
 * What `npm run hostile` measures, without the times: all at once, everybody gets what is documented, and whoever means
 * well gets signatures.
 */

let home: Home;
let appliance: Appliance;
let developer: Client;
let ops: Client;
let target: Target;

beforeAll(async () => {
  home = await prepareHome();
  appliance = await serve(home);
  developer = appliance.client();
  ops = new Client(appliance.opsUrl, tlsOf(home, 'nobody'));
  target = { url: appliance.url, ca: readFileSync(join(home.path, 'tls', 'ca.crt'), 'utf8') };
});

afterAll(async () => {
  developer?.close();
  ops?.close();
  const exit = await appliance?.stop();
  home?.remove();
  expect(exit?.status).toBe(0);
});

/** So many of an attack, each once. */
function crowd(name: string, connections: number): Crowd {
  const attack = attacks.find(each => each.name === name);
  const once: Partial<Attack> = { connections, opensPerSecond: 250, again: false };
  return new Crowd({ ...(attack as Attack), ...once }, target);
}

async function connections(): Promise<number> {
  const { text } = await ops.get('/metrics');
  return Number(/^keyslot_http_connections\{listener="api"\} (\d+)$/m.exec(text)?.[1]);
}

test('a thousand slow and half-open connections and floods of all sorts get what they are promised, and everybody else signatures', async () => {
  const { json } = await developer.post('/v1/keys', { id: 'bench', slot: 'main' });
  const address = json.publicKey ?? '';
  const sign = async (client: Client) => {
    const message = randomBytes(32);
    const signed = await client.post('/v1/keys/bench/sign-message', { message: base64(message) });
    expect(await isSignature(address, message, signed.json.signature)).toBe(true);
  };

  const slowBodies = crowd('slow-bodies', 50);
  const crowds = {
    slowHeads: crowd('slow-heads', 500),
    halfOpen: crowd('half-open', 500),
    silent: crowd('silent', 50),
    largeBodies: crowd('large-bodies', 40),
    largeHeads: crowd('large-heads', 40),
    pipelines: crowd('pipelines', 10),
  };
  using stack = new DisposableStack();
  for (const each of [slowBodies, ...Object.values(crowds)]) stack.use(each);
  const attacking = Promise.all(
    [slowBodies, ...Object.values(crowds)].map(each => each.during(opening_s)),
  ).then(() => Promise.all(Object.values(crowds).map(each => each.settled(patience_s))));

  let over = false;
  const ended = attacking.finally(() => {
    over = true;
  });
  let signed = 0;
  for (; !over; signed += 1) {
    await sign(developer);
    const newcomer = appliance.client();
    await sign(newcomer);
    newcomer.close();
    await sleep(250);
  }
  await ended;

  expect(signed).toBeGreaterThan(10);
  const ends = Object.entries(crowds).map(([name, each]) => [name, each.tally().ends]);
  expect(Object.fromEntries(ends)).toEqual({
    slowHeads: { 408: 500 },
    halfOpen: { closed: 500 },
    silent: { 408: 50 },
    largeBodies: { 413: 40 },
    largeHeads: { 431: 40 },
    pipelines: { closed: 10 },
  });
  // The bodies have more time, and their senders lose patience first.
  expect(slowBodies.tally()).toMatchObject({ opened: 50, ends: {}, left: 50 });
  slowBodies[Symbol.dispose]();
  await eventually('nobody but the developer', async () => (await connections()) === 1);
  await sign(developer);
});

/** Until the largest crowd is there. */
const opening_s = 3;
/** More than any of their bounds. */
const patience_s = 30;

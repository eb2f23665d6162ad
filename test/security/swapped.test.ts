import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { createVerifier, publicKeyFromSeed } from '../../src/foundation/ed25519.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import { parseTransaction } from '../../src/solana/transaction.ts';
import { Gate } from '../custodian/device.ts';
import { refusal, sha256 } from '../custodian/lab.ts';
import { address, transfer, wireOf } from '../policy/lab.ts';
import { plainV0, wireBytes } from '../solana/compiled.ts';
import { seed, World } from './lab.ts';

/** A caller shows the policy one transaction and means another, or changes the policy under the desk. */

const wallet = publicKeyFromSeed(seed());
const wireTo = (who: string) => wireOf([transfer(address(who), 1n, wallet)], { payer: wallet });
const good = wireTo('alice');
const evil = wireTo('mallory');
const messageOf = (wire: Uint8Array) => parseTransaction(wire).message;
const verifier = createVerifier(wallet);

const onlyTo = (...names: readonly string[]) => ({
  name: 'destinations',
  appliesTo: 'all',
  transactions: {
    programs: [{ program: 'system' }],
    destinations: names.map(name => encodeBase58(address(name))),
    fees: 'any',
  },
});

let world: World;
/** The SHA-256 of every message that the device was given. */
let signed: string[];

beforeAll(async () => {
  world = await World.open({ policies: {} });
  await world.lab.ask('admin', 'put-policy', { policy: 'destinations', document: onlyTo('alice') });
  world.device.onSign = ({ message, honest }) => {
    signed.push(sha256(message));
    return honest();
  };
  signed = [];
});

afterAll(() => world[Symbol.asyncDispose]());

const tries = 200;
/** Turns of the queue of promises, which is what a caller in the same process can slip in between. */
async function turns(count: number): Promise<void> {
  for (let at = 0; at < count; at += 1) await undefined;
}

it('a buffer that is changed at any moment behind the call never gets another transaction signed', async () => {
  const outcomes = new Map<string, number>();
  for (let time = 0; time < tries; time += 1) {
    const buffer = Buffer.from(good);
    const asking = refusal(world.signTransaction(buffer));
    if (time < 100) await turns(time);
    else for (let at = 100; at < time; at += 10) await nextTurn();
    buffer.set(evil);
    const code = await asking;
    outcomes.set(code, (outcomes.get(code) ?? 0) + 1);
  }
  expect(signed).not.toContain(sha256(messageOf(evil)));
  expect(new Set(signed)).toEqual(new Set([sha256(messageOf(good))]));
  // Both happened: seen before it was taken over, and too late to matter.
  expect(outcomes.get('none')).toBe(signed.length);
  expect([...outcomes.keys()].filter(code => code !== 'none' && code !== 'POLICY_DENIED')).toEqual([]);
  expect(signed.length).toBeGreaterThan(tries / 2);
});

it('what stands in the log is what was signed, although the buffer says something else by then', async () => {
  for (let time = 0; time < 20; time += 1) {
    const buffer = Buffer.from(good);
    const asking = world.signTransaction(buffer);
    await turns(20 + time);
    buffer.set(evil);
    const { output, bytes } = await asking;
    expect(await verifier.verify(messageOf(good), bytes?.[0] ?? new Uint8Array())).toBe(true);
    expect(Buffer.from(bytes?.[1] ?? []).includes(Buffer.from(messageOf(good)))).toBe(true);
    const result = (await world.records())[output.receipt.seq];
    expect(result?.message).toBe(sha256(messageOf(good)));
  }
});

it('a policy that flips under the desk lets nothing through that it forbids once it is in force', async () => {
  let version = (await world.lab.ask('auditor', 'show-policy', { policy: 'destinations' })).output.version;
  const put = async (...names: string[]) => {
    const document = onlyTo(...names);
    version = (await world.lab.ask('admin', 'put-policy', { policy: 'destinations', document })).output
      .version;
  };
  const allowing = new Set<string>();
  for (let time = 0; time < 50; time += 1) {
    await put('alice', 'mallory');
    allowing.add(`destinations@${version}`);
    const racing = refusal(world.signTransaction(wireTo('mallory')));
    await turns(time);
    await put('alice');
    expect(await refusal(world.signTransaction(wireTo('mallory')))).toBe('POLICY_DENIED');
    expect(await racing).toMatch(/^(none|POLICY_DENIED)$/);
  }
  const digest = sha256(messageOf(wireTo('mallory')));
  const intents = (await world.records()).filter(
    ({ type, message }) => type === 'intent' && message === digest,
  );
  for (const { policies = [] } of intents) expect(allowing).toContain(policies[0]);
  expect(signed.filter(each => each === digest)).toHaveLength(intents.length);
});

describe('while a node is asked for a lookup table', () => {
  let asked: Gate;
  let node: Server;
  let waiting: World;

  beforeEach(async () => {
    asked = new Gate();
    node = createServer(async (_request, response) => {
      await asked.pass();
      response.end(JSON.stringify({ jsonrpc: '2.0', id: 1, result: { value: null } }));
    });
    await new Promise<void>(done => node.listen(0, '127.0.0.1', done));
    const rpcUrl = `http://127.0.0.1:${(node.address() as AddressInfo).port}`;
    waiting = await World.open({ policies: { rpcUrl } });
    const document = everythingAllowed('lent', 'all');
    await waiting.lab.ask('admin', 'put-policy', { policy: 'lent', document });
  });

  afterEach(async () => {
    await waiting[Symbol.asyncDispose]();
    node.closeAllConnections();
    await new Promise(done => node.close(done));
  });

  const meanwhile = {
    POLICY_DENIED: () =>
      waiting.lab.ask('admin', 'put-policy', {
        policy: 'lent',
        document: { name: 'lent', appliesTo: 'all' },
      }),
    FROZEN: () => waiting.lab.ask('operator', 'freeze', { scope: 'appliance', reason: 'an alarm' }),
  };

  it.each(Object.entries(meanwhile))('%s comes in time for the request that waits', async (code, change) => {
    const asking = refusal(waiting.signTransaction(wireBytes(plainV0)));
    await asked.reached;
    await change();
    asked.open();
    expect(await asking).toBe(code);
    expect(waiting.signerCalls).toBe(0);
  });

  it('and nothing happens meanwhile, it is signed', async () => {
    const asking = refusal(waiting.signTransaction(wireBytes(plainV0)));
    await asked.reached;
    asked.open();
    expect(await asking).toBe('none');
    expect(waiting.signerCalls).toBe(1);
  });
});

import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Rest } from '../custodian/lab.ts';
import { refusal, text } from '../custodian/lab.ts';
import { plain, wireBytes } from '../solana/compiled.ts';
import { atMost, World } from './lab.ts';

let world: World;

beforeEach(async () => {
  // Exactly one signature fits, so that whatever is charged twice is refused.
  world = await World.open({ policies: { documents: [atMost(1)] } });
});

afterEach(() => world[Symbol.asyncDispose]());

const times = 1_000;
const ways: Readonly<Record<string, Rest>> = {
  'one Idempotency-Key': { idempotencyKey: 'payment-1' },
  'one request id': { requestId: 'payment-1', named: true },
};

/** What an answer is made of, to the byte. */
const whole = ({ output, bytes = [] }: { output: unknown; bytes?: readonly Uint8Array[] }): string =>
  JSON.stringify([output, bytes.map(each => Buffer.from(each).toString('hex'))]);

async function expectSignedOnce(): Promise<void> {
  expect(world.signerCalls).toBe(1);
  const signing = (await world.records()).filter(({ operation }) => operation?.startsWith('sign-'));
  expect(signing.map(({ type, outcome }) => `${type} ${outcome ?? ''}`)).toEqual(['intent ', 'result ok']);
  expect(signing[0]?.charges).toHaveLength(1);
}

describe.each(Object.entries(ways))('a request that was captured and is replayed under %s', (_name, rest) => {
  const captured = wireBytes(plain);
  const replay = () => world.signTransaction(captured, rest);

  it('a thousand times is signed, recorded and charged once, and answered with the same bytes', async () => {
    const first = whole(await replay());
    for (let time = 1; time < times; time += 1) expect(whole(await replay())).toBe(first);
    await expectSignedOnce();
  });

  it('a hundred times at once is signed once', async () => {
    const answers = await Promise.all(Array.from({ length: 100 }, replay));
    expect(new Set(answers.map(whole)).size).toBe(1);
    await expectSignedOnce();
  });

  it('by whoever waited for a restart gets the bytes of before', async () => {
    const first = whole(await replay());
    for (let start = 0; start < 3; start += 1) {
      await world.restart();
      for (let time = 0; time < 10; time += 1) expect(whole(await replay())).toBe(first);
      expect(world.signerCalls).toBe(1);
    }
    await expectSignedOnce();
    expect(await refusal(world.signMessage(text('one more')))).toBe('POLICY_DENIED'); // one charge, and it stays
  });
});

describe('an Idempotency-Key', () => {
  const rest = { idempotencyKey: 'payment-1' };

  it('is good for one request: another body, key or operation is IDEMPOTENCY_CONFLICT, after a restart too', async () => {
    await world.signMessage(text('pay alice'), rest);
    for (let start = 0; start < 2; start += 1) {
      expect(await refusal(world.signMessage(text('pay mallory'), rest))).toBe('IDEMPOTENCY_CONFLICT');
      expect(await refusal(world.signTransaction(wireBytes(plain), rest))).toBe('IDEMPOTENCY_CONFLICT');
      await world.restart();
    }
    expect(world.signerCalls).toBe(1);
  });

  it('is its identity’s own: another one asks for a signature of its own', async () => {
    await world.signMessage(text('pay alice'), rest);
    const others = world.signMessage(text('pay alice'), rest, 'both');
    expect(await refusal(others)).toBe('POLICY_DENIED'); // judged anew, and nothing of it is given away
    world.lab.settings = { policies: { documents: [atMost(2)] } };
    await world.restart();
    expect(await refusal(world.signMessage(text('pay alice'), rest, 'both'))).toBe('none');
    expect(world.signerCalls).toBe(2);
  });
});

it('a request id says nothing of another body: it is judged and counted by itself', async () => {
  const rest = { requestId: 'payment-1', named: true };
  await world.signMessage(text('pay alice'), rest);
  expect(await refusal(world.signMessage(text('pay mallory'), rest))).toBe('POLICY_DENIED');
  expect(world.signerCalls).toBe(1);
});

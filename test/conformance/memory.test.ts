import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { keyId, slotId } from '../../src/custody/ids.ts';
import { createMemoryEngine, memorySettings } from '../../src/engines/memory/index.ts';
import { KeyTable } from '../../src/engines/memory/key-table.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { describeEngine, type EngineUnderTest } from './engine-suite.ts';

describeEngine('memory', {
  engineName: 'memory',
  custody: 'memory',
  powers: { generate: true, import: true, export: true, destroy: true },
  persistent: false,
  start: async () => start(),
});

describe('the memory engine', () => {
  it('takes no setting', () => {
    expect(memorySettings.safeParse({}).success).toBe(true);
    expect(memorySettings.safeParse({ path: '/tmp' }).success).toBe(false);
  });

  it('takes the PIN of the first opening, whatever it is, and no other as long as it lives', async () => {
    await using under = start();
    const [slot] = await under.engine.slots();
    using first = Secret.fromText('0');
    using other = Secret.fromText('00');
    await (await slot?.open(first))?.[Symbol.asyncDispose]();
    await expect(slot?.open(other)).rejects.toMatchObject({ code: 'PIN_REFUSED' });
    await (await slot?.open(first))?.[Symbol.asyncDispose]();
  });

  it('opens no slot for an aborted signal, and learns no PIN from it', async () => {
    await using under = start();
    const [slot] = await under.engine.slots();
    using never = Secret.fromText('never');
    using pin = Secret.fromText('pin');
    await expect(slot?.open(never, AbortSignal.abort())).rejects.toMatchObject({ code: 'REQUEST_ABORTED' });
    await (await slot?.open(pin))?.[Symbol.asyncDispose]();
  });

  it('wipes a seed when its key is destroyed or refused, and every seed at the end', () => {
    const [taken, refused, destroyed] = [newSeed(), newSeed(), newSeed()];
    const table = new KeyTable();
    table.add(keyId('taken'), taken);
    table.add(keyId('destroyed'), destroyed);
    expect(() => table.add(keyId('taken'), refused)).toThrow();
    table.remove(keyId('destroyed'));
    expect([taken, refused, destroyed].map(isWiped)).toEqual([false, true, true]);
    table[Symbol.dispose]();
    expect(isWiped(taken)).toBe(true);
    expect(table.all()).toEqual([]);
  });

  it('cannot be opened once its engine has ended', async () => {
    const under = start();
    await under[Symbol.asyncDispose]();
    const [slot] = await under.engine.slots();
    using pin = under.pin();
    await expect(slot?.open(pin)).rejects.toMatchObject({ code: 'TOKEN_UNAVAILABLE' });
  });
});

function start(): EngineUnderTest {
  const slot = slotId('scratch');
  const engine = createMemoryEngine(slot);
  return {
    engine,
    slot,
    pin: () => Secret.fromText('correct horse'),
    wrongPin: () => Secret.fromText('correct house'),
    restart: async () => {
      await engine[Symbol.asyncDispose]();
      return start();
    },
    [Symbol.asyncDispose]: () => engine[Symbol.asyncDispose](),
  };
}

const newSeed = () => Secret.fromBytes(randomBytes(32), { wipe: true });

function isWiped(secret: Secret): boolean {
  try {
    return secret.length < 0;
  } catch {
    return true; // what a disposed secret answers to everything
  }
}

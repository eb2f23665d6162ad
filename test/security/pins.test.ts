import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { pinText } from '../custodian/device.ts';
import { refusal, text, type Who } from '../custodian/lab.ts';
import { World } from './lab.ts';

let world: World;

beforeEach(async () => {
  world = await World.open({}, 'session');
});

afterEach(() => world[Symbol.asyncDispose]());

const guesses = 100;
const guessers: readonly Who[] = ['both', 'neighbour', 'operator'];
const guess = (who: Who, operation: 'open-slot' | 'open-session', pin: string) =>
  refusal(world.lab.ask(who, operation, { slot: 'main' }, { bytes: [text(pin)] }));

/** Wrong PINs that the token heard: each of them is an attempt that it may lock itself after. */
const attemptsSpent = () => world.device.pinsHeard.filter(pin => pin !== pinText).length;

describe('a hundred wrong PINs', () => {
  it('for an open slot cost the token no attempt, however slowly they come', async () => {
    for (let time = 0; time < guesses; time += 1) {
      const operation = time % 2 === 0 ? 'open-session' : 'open-slot';
      expect(await guess('both', operation, `guess ${time}`)).toBe('PIN_INCORRECT');
      world.lab.clock.advance(300_000);
    }
    expect(attemptsSpent()).toBe(0);
    expect(await guess('both', 'open-session', pinText)).toBe('none');
  });

  it('in a row are answered once, then slowed down: the right one among them does not get in', async () => {
    const codes: string[] = [];
    for (let time = 0; time < guesses; time += 1) {
      const pin = time === guesses / 2 ? pinText : `guess ${time}`;
      codes.push(await guess('both', time % 2 === 0 ? 'open-session' : 'open-slot', pin));
    }
    expect(codes[0]).toBe('PIN_INCORRECT');
    expect(new Set(codes.slice(1))).toEqual(new Set(['PIN_RATE_LIMITED']));
    expect(attemptsSpent()).toBe(0);
  });

  it.each(['one after another', 'all at once'])(
    'for a locked slot, by several people, %s, cost the token one attempt at the most',
    async how => {
      await world.lab.ask('operator', 'lock-slot', { slot: 'main' });
      const attempts = Array.from({ length: guesses }, (_, time) => () => {
        const who = guessers[time % guessers.length] ?? 'both';
        if (how === 'one after another') world.lab.clock.advance(300_000);
        return guess(who, 'open-slot', `guess ${time}`);
      });
      if (how === 'all at once') await Promise.all(attempts.map(attempt => attempt()));
      else for (const attempt of attempts) await attempt();
      expect(attemptsSpent()).toBe(1);
      expect(await world.lab.state()).toBe('latched');
    },
  );

  it('over ten starts cost the token one attempt at the most', async () => {
    const slot = { slot: world.device.slot, source: () => 'a wrong PIN' };
    await world.lab.restart(slot);
    for (let start = 0; start < 10; start += 1) {
      await world.lab.custodian.openUnattended();
      await world.lab.restart();
    }
    expect(attemptsSpent()).toBe(1);
  });

  it('for sessions of a locked slot are no attempts at all', async () => {
    await world.lab.ask('operator', 'lock-slot', { slot: 'main' });
    for (let time = 0; time < guesses; time += 1) {
      expect(await guess('both', 'open-session', `guess ${time}`)).toBe('SLOT_LOCKED');
      world.lab.clock.advance(300_000);
    }
    expect(attemptsSpent()).toBe(0);
  });
});

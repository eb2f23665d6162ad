import { afterEach, describe, expect, it } from 'vitest';
import { watch } from '../../src/appliance/watch.ts';

/** A process that says something whenever the test lets it. */
class Speaker {
  heard = 0;
  readonly #end = Promise.withResolvers<string>();
  readonly exited = this.#end.promise;
  silences = 0;
  #timer: NodeJS.Timeout | undefined;

  watchedFor(bound_ms: number, start_ms: number): this {
    watch(this, bound_ms, () => this.#fall(), start_ms);
    return this;
  }

  speak(): this {
    this.heard += 1;
    this.#timer = setInterval(() => {
      this.heard += 1;
    }, 5);
    return this;
  }

  fallSilent(): this {
    clearInterval(this.#timer);
    return this;
  }

  end(): void {
    clearInterval(this.#timer);
    this.#end.resolve('exit status 0');
  }

  #fall(): void {
    this.silences += 1;
  }
}

const speakers: Speaker[] = [];
const speaker = (bound_ms: number, start_ms = bound_ms): Speaker => {
  const made = new Speaker().watchedFor(bound_ms, start_ms);
  speakers.push(made);
  return made;
};

afterEach(() => {
  for (const each of speakers.splice(0)) each.end();
});

const pass = (time_ms: number) => new Promise(done => setTimeout(done, time_ms));
const standStill = (time_ms: number) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, time_ms);

async function silenced(who: Speaker): Promise<void> {
  while (who.silences === 0) await pass(5);
}

describe('a process that is watched', () => {
  it('is found silent once, when it has spoken before and when it has not', async () => {
    const [never, before, talkative] = [speaker(80), speaker(80).speak().fallSilent(), speaker(80).speak()];
    await Promise.all([silenced(never), silenced(before)]);
    await pass(200);
    expect([never.silences, before.silences, talkative.silences]).toEqual([1, 1, 0]);
  });

  it('has longer for its first word, and not for the next one', async () => {
    const [loading, spoken] = [speaker(40, 60_000), speaker(40, 60_000).speak().fallSilent()];
    await silenced(spoken);
    await pass(100);
    expect(loading.silences).toBe(0);
  });

  it('has ended and is not watched any more', async () => {
    const [ended, other] = [speaker(80), speaker(80)];
    ended.end();
    await silenced(other);
    expect(ended.silences).toBe(0);
  });

  it('is given the whole time again when the watching process itself stood still', async () => {
    const asleep = speaker(160).speak();
    await pass(20);
    for (let nap = 0; nap < 3; nap += 1) {
      standStill(400); // nothing is heard meanwhile: it speaks in this process
      await pass(1);
      expect(asleep.silences).toBe(0);
      await pass(30);
    }
    expect(asleep.silences).toBe(0);
  });
});

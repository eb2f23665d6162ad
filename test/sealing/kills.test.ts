import { execFileSync, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { rolldown } from 'rolldown';
import { describe, expect, it } from 'vitest';
import { hex, id, listed, quickForm, sessionOver, TemporaryFolder } from './folder-lab.ts';

const kills = 1_000;
const folders = 4;

/** The child as one file, and as compiled code: to find and to compile its modules is most of what starting it costs. */
class Compiled extends TemporaryFolder {
  readonly env = { ...process.env, NODE_COMPILE_CACHE: join(this.root, 'compiled') };
  readonly child = join(this.root, 'save-child.mjs');

  async make(): Promise<this> {
    await using bundle = await rolldown({
      input: join(import.meta.dirname, 'save-child.ts'),
      platform: 'node',
    });
    await bundle.write({ file: this.child, codeSplitting: false });
    execFileSync(process.execPath, [this.child, this.keys, 'first'], { env: this.env }); // who is killed leaves nothing there
    return this;
  }
}

/** What was acknowledged in a folder: the public key of each id. */
type Acknowledged = Map<string, string>;

interface Killed {
  readonly acknowledged: Acknowledged;
  readonly signal: NodeJS.Signals | null;
}

/** Has a process make keys, one after the other, and kills it at some moment; before its first key at times. */
async function killedSaving(at: TemporaryFolder, { child, env }: Compiled): Promise<Killed> {
  const saving = spawn(process.execPath, [child, at.keys], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  let printed = '';
  saving.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    printed += chunk;
  });
  const ended = once(saving, 'close');
  // One in ten at any time from its start; the others once it saves.
  if (randomInt(10) === 0) await delay(randomInt(60));
  else {
    await Promise.race([once(saving.stdout, 'data'), ended]);
    await delay(randomInt(8));
  }
  saving.kill('SIGKILL');
  const [, signal] = (await ended) as [number | null, NodeJS.Signals | null];
  const whole = printed.split('\n').slice(0, -1); // a line that was cut off acknowledges nothing
  return { acknowledged: new Map(whole.map(line => line.split(' ', 2) as [string, string])), signal };
}

/** What there is after the kill: whether every file opens, to the key that was acknowledged. */
async function survivors(at: TemporaryFolder): Promise<Acknowledged> {
  using form = quickForm();
  await using session = await sessionOver(at.keys, { writes: form });
  const found: Acknowledged = new Map();
  for (const name of await listed(session)) {
    found.set(name, hex((await session.signer(id(name))).key.publicKey));
  }
  return found;
}

describe('a process that is killed while it saves keys', () => {
  it(`leaves no torn file and loses no key that it acknowledged: ${kills} times`, async () => {
    using compiled = await new Compiled().make();
    let leftovers = 0;
    let keys = 0;
    const rounds = async (count: number) => {
      using at = new TemporaryFolder();
      const acknowledged: Acknowledged = new Map();
      for (let round = 0; round < count; round += 1) {
        const killed = await killedSaving(at, compiled);
        expect(killed.signal).toBe('SIGKILL');
        for (const [key, publicKey] of killed.acknowledged) acknowledged.set(key, publicKey);
        leftovers += at.hidden(); // the next opening sweeps them
      }
      const found = await survivors(at);
      for (const [key, publicKey] of acknowledged) expect(found.get(key), key).toBe(publicKey);
      // Every file under the name of a key opened, and nothing else is left.
      expect(at.names()).toEqual([...found.keys()].map(key => `${key}.json`).toSorted());
      keys += found.size;
    };
    await Promise.all(Array.from({ length: folders }, () => rounds(kills / folders)));
    expect(keys).toBeGreaterThan(kills / 2); // the kills did come while keys were being saved
    expect(leftovers).toBeGreaterThan(0); // and some in the middle of a write
  }, 300_000);
});

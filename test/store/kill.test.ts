import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { keyId } from '../../src/custody/ids.ts';
import { KeyRegistry } from '../../src/store/key-registry.ts';
import { Store } from '../../src/store/store.ts';

const entry = fileURLToPath(new URL('./writer-child.ts', import.meta.url));

/** Kills a process that writes keys once it has acknowledged some; what it had acknowledged by then. */
async function acknowledgedBeforeKill(file: string, prefix: string, atLeast: number): Promise<string[]> {
  const child = spawn(process.execPath, [entry, file, prefix], { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  for await (const chunk of child.stdout) {
    said += chunk;
    if (said.split('\n').length > atLeast) child.kill('SIGKILL');
  }
  // Whatever stands before the last line break was said in full.
  return said.split('\n').slice(0, -1);
}

describe('a process that is killed while it makes keys', () => {
  it('has lost no key that it acknowledged, fifty times', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'keyslot-kill-'));
    const lane = async (name: string) => {
      const file = join(folder, `${name}.db`);
      const acknowledged: string[] = [];
      for (let round = 0; round < 25; round += 1) {
        acknowledged.push(
          ...(await acknowledgedBeforeKill(file, `${name}-${round}`, 1 + ((round * 7) % 20))),
        );
        using store = new Store(file);
        const registry = new KeyRegistry(store);
        const lost = acknowledged.filter(id => registry.get(keyId(id))?.state !== 'active');
        expect(lost).toEqual([]);
        for (const id of acknowledged) {
          const byte = Number(id.split('-').at(-1)) & 0xff;
          expect(Buffer.from(registry.get(keyId(id))?.publicKey ?? [])).toEqual(Buffer.alloc(32, byte));
        }
        expect(store.all('PRAGMA integrity_check')).toEqual([{ integrity_check: 'ok' }]);
      }
      expect(acknowledged.length).toBeGreaterThan(25);
    };
    await Promise.all([lane('a'), lane('b')]);
    rmSync(folder, { recursive: true, force: true });
  });
});

import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';

/** A process that opens a slot, signs and locks it again, and what somebody finds who reads its memory. */

let home: string;
let child: ChildProcess;
const pin = randomBytes(16).toString('hex');
// No byte of it ends a line, because it is read as a secret of a file is.
const seed = Buffer.from(randomBytes(32).map(byte => byte | 0x80));

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), 'keyslot-memory-'));
  for (const [name, content] of Object.entries({ pin, seed }))
    writeFileSync(join(home, name), content, { mode: 0o600 });
  const entry = fileURLToPath(new URL('./memory-child.ts', import.meta.url));
  child = spawn(process.execPath, ['--expose-gc', entry, home], { stdio: ['pipe', 'pipe', 'inherit'] });
});

afterAll(() => {
  child.kill('SIGKILL');
  rmSync(home, { recursive: true, force: true });
});

/** Which of the needles lie in what the process can write to, but for the code that V8 compiles. */
function found(...needles: readonly Buffer[]): readonly boolean[] {
  const seen = needles.map(() => false);
  for (const piece of memoryOf(child.pid ?? 0))
    for (const [at, needle] of needles.entries()) seen[at] ||= piece.includes(needle);
  return seen;
}

/** In pieces, each of which is gone when the next one is there. */
function* memoryOf(pid: number): Generator<Buffer> {
  const regions = readFileSync(`/proc/${pid}/smaps`, 'latin1').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const memory = openSync(`/proc/${pid}/mem`, 'r');
  // A little more than a piece, so that what lies across two is found.
  const piece = Buffer.alloc(piece_bytes + 64);
  for (const region of regions) {
    const [, begin = '', end = ''] = /^([0-9a-f]+)-([0-9a-f]+) rw-/.exec(region) ?? [];
    if (begin === '' || /^Rss: +0 kB$/m.test(region)) continue;
    const last = Number.parseInt(end, 16);
    for (let at = Number.parseInt(begin, 16); at < last; at += piece_bytes)
      yield piece.subarray(0, readSync(memory, piece, 0, Math.min(piece.length, last - at), at));
  }
  closeSync(memory);
}

const piece_bytes = 4 * 1024 * 1024;

const stage = async (): Promise<string> => {
  const [said] = (await once(child.stdout ?? child, 'data')) as [Buffer];
  return said.toString();
};

it('a slot that is locked leaves neither its PIN nor a seed in the memory of its process', async () => {
  expect(await stage()).toBe('open');
  const needles = [Buffer.from(pin), seed, Buffer.from(pin, 'utf16le')];
  expect(found(...needles)).toEqual([true, true, false]);
  child.stdin?.write('on');
  expect(await stage()).toBe('locked');
  expect(found(...needles)).toEqual([false, false, false]);
});

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { expect, it } from 'vitest';
import { keepMemoryOutOfCores } from '../../src/appliance/core-dumps.ts';

const root = resolve(import.meta.dirname, '..', '..');

it('keeps memory out of core files, of this process and of those that start from it', () => {
  expect(keepMemoryOutOfCores()).toBe(true);
  expect(readFileSync('/proc/self/coredump_filter', 'utf8').trim()).toBe('00000000');
  const child = execFileSync('cat', ['/proc/self/coredump_filter'], { encoding: 'utf8' });
  expect(child.trim()).toBe('00000000');
});

it('runs the command with no room for a core file and with the filter set, whatever its shell allows', () => {
  const look = `
    import { readFileSync } from 'node:fs';
    process.on('exit', () => console.error(
      /^Max core file size +.*$/m.exec(readFileSync('/proc/self/limits', 'utf8'))[0],
      readFileSync('/proc/self/coredump_filter', 'utf8')));`;
  const said = execFileSync('sh', ['-c', '"$0" --version 2>&1', join(root, 'bin', 'keyslot')], {
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(look)}` },
  });
  expect(said).toMatch(/^Max core file size +0 +0 +bytes +00000000$/m);
});

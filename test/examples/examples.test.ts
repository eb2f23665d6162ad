import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { decodeBase58 } from '../../src/foundation/base58.ts';
import { eventually, processesOf, root } from '../e2e/appliance.ts';

/** The examples as processes, in a temporary folder of their own that they have to leave empty. */

const examples = ['kit', 'keychain', 'web3js', 'vault-keychain', 'curl'];

let folder: string;
const live = new Set<ChildProcess>();

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keyslot-examples-test-'));
});

afterEach(() => {
  for (const child of live) if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
  live.clear();
  for (const pid of processesOf(folder)) process.kill(pid, 'SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

function start(args: readonly string[], environment: Record<string, string> = {}) {
  const child = spawn(process.execPath, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: folder,
    env: { ...process.env, TMPDIR: folder, ...environment },
    timeout: 45_000,
  });
  live.add(child);
  const closed = new Promise<number | null>(done => child.on('close', done));
  const ended = Promise.all([closed, text(child.stdout), text(child.stderr)]).then(
    ([status, stdout, stderr]) => ({ status, stdout, stderr }),
  );
  return { child, ended };
}

const main = (...parts: string[]) => join(root, 'examples', ...parts, 'main.ts');
const example = (name: string) => start(['--conditions=keyslot-source', main(name)]);

function expectNothingLeft(): void {
  expect(readdirSync(folder)).toEqual([]);
  expect(processesOf(folder)).toEqual([]);
}

describe('the example', () => {
  it.each(examples)('%s has a transfer signed, executes it, and leaves nothing', async name => {
    const { status, stdout, stderr } = await example(name).ended;
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const [, signature = '', sol] =
      /^executed ([1-9A-HJ-NP-Za-km-z]+), recipient ([\d.]+) SOL\n$/.exec(stdout) ?? [];
    expect(decodeBase58(signature)).toHaveLength(64);
    expect(Number(sol)).toBe(name === 'web3js' ? 0.03 : 0.01);
    expectNothingLeft();
  });

  it('that is interrupted while its appliance runs stops it and leaves nothing', async () => {
    const { child, ended } = example('kit');
    await eventually('a custodian listens', () =>
      readdirSync(folder).some(name => existsSync(join(folder, name, 'home', 'run', 'custodian.sock'))),
    );
    child.kill('SIGINT');
    child.kill('SIGTERM'); // as a terminal and the program that started it do
    expect([130, 143]).toContain((await ended).status);
    expectNothingLeft();
  });
});

describe('npm run examples', () => {
  it('runs those that are named, with a line each', async () => {
    const { status, stdout } = await start([main(), 'curl', 'kit']).ended;
    expect(status).toBe(0);
    expect(stdout.trim().split('\n')).toEqual([
      expect.stringMatching(/^curl {2,}executed /),
      expect.stringMatching(/^kit {2,}executed /),
    ]);
    expectNothingLeft();
  });

  it('goes on after one that failed, and says in the end that it did', async () => {
    const nowhere = { TMPDIR: join(folder, 'missing') };
    const { status, stdout } = await start([main()], nowhere).ended;
    expect(status).toBe(1);
    const lines = stdout.trim().split('\n');
    expect(lines.map(line => line.split(' ')[0])).toEqual(examples);
    for (const line of lines) expect(line).toContain('failed with status 1');
    expectNothingLeft();
  });

  it('refuses a name that no example has', async () => {
    const { status, stderr } = await start([main(), 'kit', 'rust']).ended;
    expect(status).toBe(2);
    expect(stderr).toContain('rust');
  });

  it('that is interrupted ends the example that runs and begins no other', async () => {
    const { child, ended } = start([main()]);
    await eventually('the first has begun', () => readdirSync(folder).length > 0);
    child.kill('SIGTERM');
    const { status, stdout } = await ended;
    expect(status).toBe(130);
    expect(stdout.trim().split('\n')).toHaveLength(1);
    expectNothingLeft();
  });
});

import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { type Answer, eventually, isRunning, processesOf, type Ran, root, run } from './appliance.ts';
import { isSignature } from './transactions.ts';

const start = join(root, 'scripts', 'start');
let folder: string;
let home: string;
let first: Ran;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'keyslot-start-'));
  home = join(folder, "somebody's home", 'var');
  first = await run(start, ['--once', '--home', home, '--port', await freePort()]);
});

afterAll(async () => {
  for (const pid of processesOf(folder)) process.kill(pid, 'SIGTERM'); // of a test that failed
  await eventually('the end of every process', () => processesOf(folder).length === 0);
  rmSync(folder, { recursive: true, force: true });
});

/** One that is free, and whose ops port, 1,000 above, is free too. */
async function freePort(): Promise<string> {
  for (;;) {
    const port = await listening(0);
    if (port < 64_000 && (await listening(port + 1_000))) return String(port);
  }
}

function listening(port: number): Promise<number> {
  const probe = createServer();
  return new Promise(done => {
    probe.once('error', () => done(0));
    probe.listen(port, '127.0.0.1', () => {
      const { port: given } = probe.address() as { port: number };
      probe.close(() => done(given));
    });
  });
}

const lastLine = (text: string): string => text.trim().split('\n').at(-1) ?? '';

describe('scripts/start --once', () => {
  it('proves a signature made inside the token, and says so in one JSON line at the end', () => {
    expect(first).toMatchObject({ status: 0, stderr: '' });
    const proof = JSON.parse(lastLine(first.stdout)) as Record<string, unknown>;
    expect(Object.keys(proof).sort()).toEqual(
      ['address', 'custody', 'executed', 'module', 'signature', 'tokenLabel', 'verified'].sort(),
    );
    expect(proof).toMatchObject({
      custody: 'hsm-native',
      module: expect.stringMatching(/libsofthsm2\.so$/),
      tokenLabel: 'keyslot',
      verified: true,
      executed: true,
      address: expect.stringMatching(/^[1-9A-HJ-NP-Za-km-z]{32,44}$/),
      signature: expect.stringMatching(/^[1-9A-HJ-NP-Za-km-z]{64,88}$/),
    });
  });

  it('keeps what is there: a second run has the same address and another transaction', async () => {
    const second = await run(start, ['--once', '--home', home, '--port', await freePort()]);
    expect(second.status).toBe(0);
    const proofs = [first, second].map(
      ({ stdout }) => JSON.parse(lastLine(stdout)) as Record<string, unknown>,
    );
    expect(proofs[1]?.address).toBe(proofs[0]?.address);
    expect(proofs[1]?.signature).not.toBe(proofs[0]?.signature);
    expect(proofs[1]).toMatchObject({ verified: true, executed: true });
  });

  it('leaves every secret readable for its owner alone', () => {
    const entries = readdirSync(home, { recursive: true, withFileTypes: true });
    expect(entries.length).toBeGreaterThan(15);
    expect(statSync(home).mode & 0o777).toBe(0o700);
    for (const entry of entries) {
      const path = join(entry.parentPath, entry.name);
      const mode = statSync(path).mode & 0o777;
      if (entry.isDirectory()) expect([path, mode]).toEqual([path, 0o700]);
      else if (!/\.crt$|\/complete$|\.lock$/.test(path)) expect([path, mode]).toEqual([path, 0o600]);
    }
  });

  it.each([['--port', 'abc'], ['--port', '0'], ['--port', '65000'], ['--prot', '8443'], ['once']])(
    'is misused with %s %s',
    async (...args) => {
      const { status, stdout, stderr } = await run(start, args);
      expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
      expect(stderr).toMatch(/^keyslot: /);
      expect(stderr).toMatch(/usage: /);
    },
  );
});

describe('scripts/start', () => {
  it('prints a line to paste that works, serves on, and ends with status 0 on SIGTERM', async () => {
    const child = spawn(start, ['--home', home, '--port', await freePort()], {
      stdio: ['ignore', 'pipe', 'ignore'],
      cwd: tmpdir(),
    });
    onTestFinished(() => void child.kill('SIGTERM'));
    const ended = new Promise<number | null>(done => child.on('exit', done));
    let output = '';
    child.stdout.on('data', chunk => {
      output += String(chunk);
    });
    await eventually('the greeting', () => output.includes('Ctrl-C'));
    const lines = output.replaceAll('\\\n', ' ').split('\n');
    const commands = lines.filter(line => line.trim().startsWith('curl '));
    expect(commands).toHaveLength(2);
    const [signed, listed] = await Promise.all(commands.map(line => run('bash', ['-c', line])));
    const answer = JSON.parse(signed?.stdout ?? '') as Answer;
    const address = /address +(\w+)/.exec(output)?.[1] ?? '';
    expect(answer.publicKey).toBe(address);
    expect(await isSignature(address, Buffer.from('hello from keyslot'), answer.signature)).toBe(true);
    expect((JSON.parse(listed?.stdout ?? '') as Answer).slots?.[0]?.state).toBe('open');
    expect(isRunning(child.pid ?? 0)).toBe(true);
    child.kill('SIGTERM');
    expect(await ended).toBe(0);
    const log = readFileSync(join(home, 'keyslot.log'), 'utf8');
    const secret = (name: string) => readFileSync(join(home, 'secrets', name), 'utf8').trim();
    for (const name of ['user.pin', 'so.pin'])
      expect(`${log}${output}${first.stdout}`).not.toContain(secret(name));
    // The development token is shown to whoever started it, and goes nowhere else.
    expect(output).toContain(`Bearer ${secret('developer.token')}`);
    expect(`${log}${first.stdout}`).not.toContain(secret('developer.token'));
  });
});

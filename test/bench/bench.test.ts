import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { childrenOf } from '../../scripts/bench/processes.ts';
import { unsignedTransfers } from '../../scripts/bench/transfers.ts';
import { batch_items, workOf } from '../../scripts/bench/work.ts';
import { runningAppliance } from '../../src/appliance/home.ts';
import { encodeBase58 } from '../../src/foundation/base58.ts';

const root = resolve(import.meta.dirname, '..', '..');
const positive = z.number().positive();
const row = z.object({
  mode: z.enum(['single', 'message', 'batch']),
  connections: z.int(),
  perSecond: positive,
  ratio: positive,
  ratioByCpu: positive,
  p50_ms: positive,
  p99_ms: positive,
  refused: z.literal(0),
  verified: z.int().positive(),
  elsewhere: z.number().min(0),
  cpu_us: z.object({ gateway: z.number(), custodian: z.number(), load: z.number() }),
});
const report = z.object({
  rawLimit: positive,
  ceiling: z.object({ perSecond: positive, ratio: positive, ratioByCpu: positive }),
  results: z.array(row),
  memory: z.object({
    signatures: z.int().min(500),
    bytesPerSignature: z.number(),
    gateway: z.number(),
    custodian: z.number(),
  }),
});

/** Runs the real thing. Each has a temporary folder of its own, so that what is left behind shows. */
function bench(folder: string, ...flags: string[]) {
  const child = spawn(process.execPath, [join(root, 'scripts', 'bench', 'main.ts'), ...flags], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: folder },
  });
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', chunk => {
    output.stdout += String(chunk);
  });
  child.stderr.on('data', chunk => {
    output.stderr += String(chunk);
  });
  const ended = once(child, 'close').then(([status]) => ({ status: status as number | null, ...output }));
  return { child, ended };
}

describe('npm run bench', () => {
  test('measures every mode and prints the table, and one line of JSON last', async () => {
    using folder = temporaryFolder();
    const tiny = ['--quick', '--json', '--seconds', '0.2', '--connections', '1,4', '--signatures', '500'];
    const { status, stdout, stderr } = await bench(folder.path, ...tiny, '--only', 'single,batch,memory')
      .ended;
    expect(stderr).toBe('');
    expect(status).toBe(0);
    const lines = stdout.trimEnd().split('\n');
    const { results } = report.parse(JSON.parse(lines.at(-1) ?? ''));
    expect(results.map(({ mode, connections }) => `${mode} ${connections}`)).toEqual([
      'single 1',
      'single 4',
      'batch 1',
      'batch 4',
    ]);
    expect(lines[0]).toMatch(/^MODE +CONNECTIONS +SIGNATURES\/S +RATIO/);
    expect(stdout).toMatch(/^raw limit .*\nceiling /m);
    expect(readdirSync(folder.path)).toEqual([]);
  });

  test('leaves nothing behind when it is interrupted', async () => {
    using folder = temporaryFolder();
    const { child, ended } = bench(folder.path, '--quick', '--seconds', '60');
    const home = await waitFor(() => readdirSync(folder.path)[0]);
    const serve = await waitFor(() => runningAppliance(join(folder.path, home))?.pid);
    const { gateway, custodian } = childrenOf(serve);
    child.kill('SIGINT');
    const { status, stderr } = await ended;
    expect(status).toBe(1);
    expect(stderr).toContain('SIGINT');
    expect(readdirSync(folder.path)).toEqual([]);
    expect([serve, gateway, custodian].filter(pid => existsSync(`/proc/${pid}`))).toEqual([]);
  });

  test('says which flag is wrong', async () => {
    using folder = temporaryFolder();
    const { status, stderr } = await bench(folder.path, '--connections', '1,none').ended;
    expect(status).toBe(2);
    expect(stderr).toContain('--connections takes numbers');
  });
});

describe('the load accepts an answer only', () => {
  const publicKey = encodeBase58(new Uint8Array(32).fill(7));
  const transfers = unsignedTransfers(publicKey, batch_items);
  const [transfer = Buffer.of()] = transfers;
  const [work] = workOf(
    'single',
    'https://127.0.0.1:1',
    'bench',
    transfers.map(each => each.toString('base64')),
  );
  const signature = new Uint8Array(64).fill(9);
  const signed = Buffer.concat([transfer.subarray(0, 1), signature, transfer.subarray(65)]);
  const answer = {
    publicKey,
    signature: encodeBase58(signature),
    signedTransaction: signed.toString('base64'),
  };

  test('when it carries the transaction that was sent, with the signature in its place', () => {
    expect(work?.signaturesIn(answer, publicKey)).toEqual([signature]);
    expect(() =>
      work?.signaturesIn({ ...answer, signedTransaction: transfer.toString('base64') }, publicKey),
    ).toThrow('another transaction');
  });

  test('when it names the key that was asked for', () => {
    expect(() => work?.signaturesIn({ ...answer, publicKey: 'other' }, publicKey)).toThrow('names the key');
  });
});

function temporaryFolder(): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), 'keyslot-bench-test-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

async function waitFor<T>(look: () => T | undefined): Promise<T> {
  for (const until_ms = performance.now() + 10_000; performance.now() < until_ms; ) {
    const found = look();
    if (found !== undefined) return found;
    await new Promise(done => setTimeout(done, 20));
  }
  throw new Error('It did not happen in time.');
}

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { childrenOf } from '../../scripts/bench/processes.ts';
import { runningAppliance } from '../../src/appliance/home.ts';

const root = resolve(import.meta.dirname, '..', '..');

/** What has to hold on every machine; times and shares of a machine that does other work are nobody's promise. */
const sound = z.looseObject({
  faults_wrong: z.literal(0),
  faults_lost: z.literal(0),
  faults_log_findings: z.literal(0),
  faults_classes: z.literal(6),
  faults_signatures: z.literal(2_500),
  kills_wrong: z.literal(0),
  kills_duplicates: z.literal(0),
  kills_repeats_differing: z.literal(0),
  kills_lost: z.literal(0),
  kills_log_findings: z.literal(0),
  kills_count: z.literal(6),
  corrupted_injected: z.literal(40),
  corrupted_withheld: z.literal(40),
  corrupted_released: z.literal(0),
  corrupted_recorded: z.literal(40),
  corrupted_works_after: z.literal(50),
  corrupted_log_findings: z.literal(0),
  pin_attempts: z.literal(1),
  pin_wrong: z.literal(1),
  pin_latched: z.literal(2),
  pin_refused: z.literal(2),
  groups_wrong: z.literal(0),
  groups_requests_lost: z.literal(0),
  groups_lost: z.literal(0),
  groups_losses: z.literal(1),
  overload_other_answers: z.literal(0),
  overload_p99_ratio: z.number().positive(),
  latency_engine_share: z.number().positive(),
  latency_single_share: z.number().positive(),
  sound: z.literal(true),
  met: z.boolean(),
});
const exact = z.object({
  aims: z.array(z.object({ figure: z.string(), exact: z.boolean(), met: z.boolean() })),
});

/** Runs the real thing. Each has a temporary folder of its own, so that what is left behind shows. */
function chaos(folder: string, ...flags: string[]) {
  const result = join(folder, 'result.json');
  const child = spawn(
    process.execPath,
    [join(root, 'scripts', 'chaos', 'main.ts'), '--short', '--result', result, ...flags],
    { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, TMPDIR: folder } },
  );
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].on('data', chunk => {
      output[name] += String(chunk);
    });
  }
  const ended = once(child, 'close').then(([status]) => ({ status: status as number | null, ...output }));
  return { child, ended, result };
}

describe('npm run chaos', () => {
  test('in its short form finds nothing wrong, lost, made twice, released or tried twice', async () => {
    using folder = temporaryFolder();
    const { ended, result } = chaos(folder.path, '--json');
    const { status, stdout, stderr } = await ended;
    const json: unknown = JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '');
    expect(json).not.toHaveProperty('broken');
    expect(exact.parse(json).aims.filter(aim => aim.exact && !aim.met)).toEqual([]);
    expect(sound.safeParse(json).error?.issues ?? []).toEqual([]);
    expect(stderr).toBe('');
    expect(status).toBe(0);
    expect(JSON.parse(readFileSync(result, 'utf8'))).toMatchObject(json as object);
    expect(readdirSync(folder.path)).toEqual(['result.json']);
  }, 600_000);

  test('tells what it has when it is interrupted, and leaves nothing behind', async () => {
    using folder = temporaryFolder();
    const { child, ended, result } = chaos(folder.path, '--json', '--only', 'kills,pin');
    const homes = () => readdirSync(folder.path).filter(name => name.startsWith('keyslot-bench-'));
    const serve = await waitFor(() =>
      homes()
        .map(name => runningAppliance(join(folder.path, name))?.pid)
        .find(pid => pid !== undefined),
    );
    const { gateway, custodian } = childrenOf(serve);
    child.kill('SIGINT');
    const { status, stdout } = await ended;
    expect(status).toBe(1);
    expect(JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '')).toMatchObject({
      sound: false,
      broken: { kills: 'Interrupted by SIGINT.', pin: 'Interrupted by SIGINT.' },
    });
    expect(JSON.parse(readFileSync(result, 'utf8'))).toMatchObject({ sound: false });
    expect(readdirSync(folder.path)).toEqual(['result.json']);
    expect([serve, gateway, custodian].filter(pid => existsSync(`/proc/${pid}`))).toEqual([]);
  });

  test('says which flag is wrong', async () => {
    using folder = temporaryFolder();
    const { status, stderr } = await chaos(folder.path, '--only', 'faults,floods').ended;
    expect(status).toBe(2);
    expect(stderr).toContain('--only has no scenario floods');
  });
});

function temporaryFolder(): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), 'keyslot-chaos-test-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

async function waitFor<T>(look: () => T | undefined): Promise<T> {
  for (const until_ms = performance.now() + 30_000; performance.now() < until_ms; ) {
    const found = look();
    if (found !== undefined) return found;
    await new Promise(done => setTimeout(done, 20));
  }
  throw new Error('It did not happen in time.');
}
